//! The log port on the embedded log: the only thing that sites of one process share.

use std::sync::Arc;

use refrain_core::aggregator::Published;
use refrain_core::ids::{Offset, Partition};
use refrain_core::names::SiteId;
use refrain_core::port::{Input, LogEffect, LogInput, Read, Topic, Value};
use refrain_core::progress::Report;
use refrain_core::record;
use tokio::sync::{Mutex, mpsc};

#[cfg(debug_assertions)]
use super::faults;
use super::held::Held;
use super::{Fact, test_points};
use crate::log::{AppendOutcome, EmbeddedLog, LogRecord, ReadBatch};

/// Most bytes of one read: a few of the longest records.
const READ_BYTES_MAX: usize = 4 << 20;

/// The log as sites see it.
#[derive(Clone)]
pub struct LogPort {
    pub(super) log: EmbeddedLog,
    /// Held over look and append of a compare-and-append. This process owns the log, so nobody else appends.
    compare: Arc<Mutex<()>>,
    /// Whose orders these are; only tests care.
    #[cfg_attr(not(debug_assertions), expect(dead_code, reason = "only debug builds have faults"))]
    pub(super) site: Arc<str>,
}

fn place(topic: Topic) -> (&'static str, u32) {
    match topic {
        Topic::PushData(partition) => ("pushdata", partition.0),
        Topic::PackData(partition) => ("packdata", partition.0),
        Topic::Progress => ("progress", 0),
        Topic::Replicated => ("replicatedpushdata", 0),
    }
}

impl LogPort {
    /// For all sites of this process.
    pub fn new(log: EmbeddedLog) -> Self {
        Self { log, compare: Arc::default(), site: Arc::from("") }
    }

    /// For the orders of `site`.
    pub(super) fn of(self, site: &SiteId) -> Self {
        Self { site: Arc::from(site.as_str()), ..self }
    }

    /// How many partitions the log was created with.
    pub fn partitions(&self) -> u32 {
        self.log.partitions()
    }

    /// The durable end of a partition of `pushdata`; none if it cannot be told.
    pub(super) fn end(&self, partition: Partition) -> Option<u64> {
        self.log.read("pushdata", partition.0, u64::MAX, 0, 0).ok().map(|batch| batch.end)
    }

    pub(super) fn execute(&self, effect: LogEffect, held: &Held, facts: &mpsc::UnboundedSender<Fact>) {
        let (port, facts) = (self.clone(), facts.clone());
        let order = held.order_elsewhere("an order to the log");
        tokio::spawn(async move {
            let _order = order;
            let place = test_points::place_of(&effect);
            test_points::pass_log(false, place);
            let input = port.carry_out(effect).await;
            test_points::pass_log(true, place);
            // A daemon that has ended waits for no answer.
            let _ = facts.send(Fact::Input(Input::Log(input)));
        });
    }

    #[cfg(debug_assertions)]
    async fn carry_out(&self, effect: LogEffect) -> LogInput {
        let what = faults::what(&effect);
        let input = match faults::strike(self, &effect).await {
            Some(input) => input,
            None => self.answer(effect).await,
        };
        if what == Some("reads") {
            faults::stall("reads", &self.site).await;
        }
        input
    }

    #[cfg(not(debug_assertions))]
    async fn carry_out(&self, effect: LogEffect) -> LogInput {
        self.answer(effect).await
    }

    pub(super) async fn answer(&self, effect: LogEffect) -> LogInput {
        match effect {
            LogEffect::Read { op, topic, from, max, wait } => {
                let (name, partition) = place(topic);
                if wait {
                    self.log.wait(name, partition, from.0).await;
                }
                match self.log.read(name, partition, from.0, max, READ_BYTES_MAX) {
                    Ok(ReadBatch { records, next, end, start }) => LogInput::Read {
                        op,
                        records: records.into_iter().map(|record| read(topic, record)).collect(),
                        next: Offset(next),
                        end: Offset(end),
                        start: Offset(start),
                        // It is open, alone, for as long as this process is there, and loses nothing meanwhile.
                        epoch: 0,
                    },
                    Err(why) => {
                        tracing::error!("the log could not be read: {why}");
                        LogInput::ReadFailed { op }
                    }
                }
            }
            LogEffect::Append { op, topic, key, value, expect } => {
                let (name, partition) = place(topic);
                let _one_at_a_time = match expect {
                    Some(_) => Some(self.compare.lock().await),
                    None => None,
                };
                if let Some(expect) = expect {
                    match self.log.read(name, partition, expect.0, 1, 0) {
                        Ok(batch) if batch.end == expect.0 => {}
                        Ok(_) | Err(_) => return LogInput::AppendRefused { op },
                    }
                }
                let outcome = self.log.append(name, partition, key.as_bytes(), value).await;
                match outcome {
                    AppendOutcome::Done { offset } => LogInput::Appended { op, offset: Offset(offset) },
                    AppendOutcome::Refused(why) => {
                        tracing::warn!("an append was refused: {why}");
                        LogInput::AppendRefused { op }
                    }
                    AppendOutcome::Unknown(why) => {
                        tracing::warn!("an append's outcome is not known: {why}");
                        LogInput::AppendUnknown { op }
                    }
                }
            }
        }
    }
}

fn read(topic: Topic, record: LogRecord) -> Read {
    let value = match topic {
        Topic::PushData(_) => Value::Record(Arc::new(record::decode(&record.value))),
        Topic::PackData(_) => Value::Chunk(record::Chunk::decode(&record.value).map(Arc::new)),
        Topic::Progress => Value::Progress(Report::decode(&record.value).map(Arc::new)),
        Topic::Replicated => Value::Published(Published::decode(&record.value).map(Arc::new)),
    };
    Read { offset: Offset(record.offset), time_ms: record.time_ms, value }
}
