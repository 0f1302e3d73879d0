//! What the log answers: each answer goes to whoever asked, and one that nobody waits for changes nothing.

use super::Site;
use crate::config::SESSION_AFTER;
use crate::consumer::PackRead;
use crate::ids::{Offset, Op};
use crate::partition::Batch;
use crate::port::{LogInput, Now, Owner, Read, Value};
use crate::record::Record;

impl Site {
    pub(super) fn log(&mut self, now: Now, input: LogInput) {
        match input {
            LogInput::Read { op, records, next, end, start, epoch } => match self.out.owner(op) {
                Some(Owner::ReadRecords(partition)) => {
                    let batch = Batch { records, next, end, start, epoch };
                    self.with(partition, |part, out, voice| part.records(now, out, voice, batch));
                }
                Some(Owner::Recognise(partition)) => {
                    let batch = Batch { records, next, end, start, epoch };
                    self.with(partition, |part, out, _| part.recognised(out, &batch));
                }
                Some(Owner::ReadPack(partition, repo, offset)) => {
                    let found = match record_at(&records, offset) {
                        Some(record) => PackRead::Found(record),
                        None if next > offset => PackRead::Gone,
                        None => PackRead::Failed,
                    };
                    self.with(partition, |part, out, _| part.consumer.pack_read(now, out, &repo, offset, found));
                }
                Some(Owner::ReadChunks(partition, repo, offset)) => {
                    self.with(partition, |part, out, _| {
                        part.consumer.chunks_read(now, out, &repo, offset, Some(&records));
                    });
                }
                Some(Owner::ReadTime(partition, offset)) => {
                    self.times_asked.remove(&partition);
                    if let Some(read) = records.first() {
                        self.monitor.learned(partition, offset, read.time_ms);
                    }
                }
                Some(Owner::ReadProgress) => self.heard(records, next, end),
                Some(Owner::Silence) => self.session.reports_end(now, Some(end)),
                Some(Owner::ReadPublished) => self.aggregator.published(op, records, next, end),
                Some(Owner::ReadEnd(partition)) => self.with(partition, |part, _, _| part.end_read(now, Some(end))),
                Some(Owner::Probe(partition)) => {
                    self.with(partition, |part, _, _| part.end = part.end.max(end));
                    self.aggregator.probed();
                }
                _ => {}
            },
            LogInput::ReadFailed { op } => self.read_failed(now, op),
            LogInput::Appended { op, offset } => match self.out.owner(op) {
                Some(Owner::AppendChunk(partition, id, index)) => self.with(partition, |part, out, _| {
                    part.producer.chunk_appended(now, out, id, index, offset);
                }),
                Some(Owner::Append(partition, seq)) => self.with(partition, |part, _, _| part.producer.appended(seq)),
                Some(Owner::Publish) => self.aggregator.appended(),
                Some(Owner::Report) => self.reporting = false,
                _ => {}
            },
            LogInput::AppendRefused { op } => self.not_appended(now, op, false),
            LogInput::AppendUnknown { op } => self.not_appended(now, op, true),
        }
    }

    fn read_failed(&mut self, now: Now, op: Op) {
        match self.out.owner(op) {
            Some(Owner::ReadRecords(partition)) => self.with(partition, |part, _, _| part.read_failed(now)),
            Some(Owner::Recognise(partition)) => {
                self.with(partition, |part, _, _| part.read_failed(now));
            }
            Some(Owner::ReadPack(partition, repo, offset)) => {
                self.with(partition, |part, out, _| part.consumer.pack_read(now, out, &repo, offset, PackRead::Failed));
            }
            Some(Owner::ReadChunks(partition, repo, offset)) => {
                self.with(partition, |part, out, _| part.consumer.chunks_read(now, out, &repo, offset, None));
            }
            Some(Owner::ReadTime(partition, _)) => {
                self.times_asked.remove(&partition);
            }
            Some(Owner::ReadProgress) => {
                self.progress_reading = false;
                self.progress_retry = Some(now.at + crate::config::RETRY_AFTER);
            }
            Some(Owner::ReadPublished) => self.aggregator.again(now, false),
            Some(Owner::Silence) => self.session.reports_end(now, None),
            Some(Owner::ReadEnd(partition)) => self.with(partition, |part, _, _| part.end_read(now, None)),
            Some(Owner::Probe(_)) => self.aggregator.probe_failed(now),
            _ => {}
        }
    }

    fn not_appended(&mut self, now: Now, op: Op, unknown: bool) {
        match self.out.owner(op) {
            Some(Owner::Append(partition, seq)) => self.with(partition, |part, out, voice| {
                if unknown {
                    part.producer.append_unknown(now, out, voice, seq);
                } else {
                    part.producer.append_refused(now, out, seq);
                }
            }),
            Some(Owner::AppendChunk(partition, id, index)) => self.with(partition, |part, out, _| {
                part.producer.chunk_not_appended(now, out, id, index, unknown);
            }),
            Some(Owner::Publish) => self.aggregator.again(now, true),
            Some(Owner::Report) => {
                self.reporting = false;
                self.last_report = None;
                self.report_due = now.at + SESSION_AFTER;
            }
            _ => {}
        }
    }
}

fn record_at(records: &[Read], offset: Offset) -> Option<&Record> {
    let read = records.first().filter(|read| read.offset == offset)?;
    match &read.value {
        Value::Record(decoded) => decoded.record.as_ref().ok(),
        Value::Chunk(_) | Value::Progress(_) | Value::Published(_) => None,
    }
}
