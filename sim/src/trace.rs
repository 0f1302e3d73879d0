//! The trace: one line an event with virtual time, place, what, and ids; nothing of the real world. A running hash
//! covers every event even when no line is written.

use std::fmt::Write as _;

use refrain_core::ids::Op;
use refrain_core::port::{
    ClientEffect, ClientInput, Effect, Ensured, GitEffect, GitInput, Input, JournalEffect, JournalInput, LogEffect,
    LogInput, PackSource,
};

/// Lines, if wanted, and the hash.
#[derive(Clone, Debug)]
pub struct Trace {
    hash: u64,
    lines: Option<String>,
}

impl Trace {
    /// With or without lines.
    pub fn new(wanted: bool) -> Self {
        Self { hash: 0xcbf2_9ce4_8422_2325, lines: wanted.then(String::new) }
    }

    /// The hash so far.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// The lines so far.
    pub fn lines(&self) -> &str {
        self.lines.as_deref().unwrap_or_default()
    }

    fn mix(&mut self, value: u64) {
        self.hash = (self.hash ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.hash ^= self.hash >> 29;
    }

    /// Something happened at `place`.
    pub fn note(&mut self, now: u64, place: &str, numbers: [u64; 3], text: impl FnOnce() -> String) {
        self.mix(now);
        for number in numbers {
            self.mix(number);
        }
        if let Some(lines) = &mut self.lines {
            let text = text();
            // Writing to a string cannot fail.
            let _ = writeln!(lines, "{}.{:06} {place} {text}", now / 1_000_000, now % 1_000_000);
        }
    }
}

/// The kinds of effects by their small numbers.
pub const ORDERS: [&str; 22] = [
    "",
    "log-read",
    "append",
    "prepare",
    "receive",
    "fetch",
    "set-refs",
    "ensure-repo",
    "flush",
    "read-table",
    "commit",
    "read-verdicts",
    "reply",
    "ordered",
    "notice",
    "exit",
    "digest-refs",
    "read-refs",
    "read-rows",
    "read-spool",
    "write-spool",
    "drop-spool",
];

/// The question that an effect asks, and a small number for its kind, in the lowest eight bits.
pub fn effect_ids(effect: &Effect) -> (u64, u64) {
    let of = |op: &Op| op.0;
    match effect {
        Effect::Log(LogEffect::Read { op, from, .. }) => (1 + (from.0 << 8), of(op)),
        Effect::Log(LogEffect::Append { op, value, .. }) => (2 + ((value.len() as u64) << 8), of(op)),
        Effect::Git(GitEffect::Prepare { op, .. }) => (3, of(op)),
        Effect::Git(GitEffect::Receive { op, .. }) => (4, of(op)),
        Effect::Git(GitEffect::Fetch { op, .. }) => (5, of(op)),
        Effect::Git(GitEffect::SetRefs { op, edits, .. }) => (6 + ((edits.len() as u64) << 8), of(op)),
        Effect::Git(GitEffect::EnsureRepo { op, .. }) => (7, of(op)),
        Effect::Git(GitEffect::Flush { op, .. }) => (8, of(op)),
        Effect::Journal(JournalEffect::ReadTable { op, keys, .. }) => (9 + ((keys.len() as u64) << 8), of(op)),
        Effect::Journal(JournalEffect::Commit { op, commit }) => (10 + ((commit.tables.len() as u64) << 8), of(op)),
        Effect::Journal(JournalEffect::ReadVerdicts { op, .. }) => (11, of(op)),
        Effect::Git(GitEffect::DigestRefs { op, .. }) => (16, of(op)),
        Effect::Git(GitEffect::ReadRefs { op, .. }) => (17, of(op)),
        Effect::Journal(JournalEffect::ReadRows { op, .. }) => (18, of(op)),
        Effect::Git(GitEffect::ReadSpool { op, at, .. }) => (19 + (at << 8), of(op)),
        Effect::Git(GitEffect::WriteSpool { op, at, .. }) => (20 + (at << 8), of(op)),
        Effect::Git(GitEffect::DropSpool { .. }) => (21, 0),
        Effect::Client(ClientEffect::Reply { id, .. }) => (12, id.0),
        Effect::Client(ClientEffect::Ordered { id, .. }) => (13, id.0),
        Effect::Client(ClientEffect::Notice(_)) => (14, 0),
        Effect::Client(ClientEffect::Exit { code, .. }) => (15, u64::from(*code)),
    }
}

/// An effect as a line.
pub fn effect(effect: &Effect) -> String {
    match effect {
        Effect::Log(LogEffect::Append { op, topic, value, expect, .. }) => {
            format!("-> append op={op} {topic:?} expect={expect:?} {}", record_line(value))
        }
        Effect::Git(GitEffect::Receive { op, repo, pack, tips, hide, keep }) => {
            let pack = pack.as_ref().map(|pack| match pack {
                PackSource::Inline(pack) => format!("{}", pack.len() / 20),
                PackSource::Spool(spool, sum) => format!("{spool:?} {sum}"),
            });
            format!("-> receive op={op} {repo} pack={pack:?} tips={tips:?} hide={hide:?} keep={keep:?}")
        }
        Effect::Journal(JournalEffect::Commit { op, commit }) => {
            let at: Vec<String> =
                commit.controls.iter().map(|control| format!("{}:{}", control.partition, control.next)).collect();
            let work: Vec<String> = commit
                .work
                .iter()
                .map(|(partition, offset, work)| {
                    format!("{partition}:{offset}{}", if work.is_some() { "+" } else { "-" })
                })
                .collect();
            let session = commit.session.is_some();
            format!("-> commit op={op} session={session} at={at:?} work={work:?} tables={}", commit.tables.len())
        }
        Effect::Git(GitEffect::WriteSpool { op, spool, at, pieces }) => {
            let lengths: Vec<usize> = pieces.iter().map(|piece| piece.len()).collect();
            format!("-> write-spool op={op} {spool:?} at={at} pieces={lengths:?}")
        }
        other => format!("-> {other:?}"),
    }
}

/// A record's header line, without the pack.
fn record_line(value: &[u8]) -> String {
    let line = value.split(|byte| *byte == b'\n').next().unwrap_or_default();
    String::from_utf8_lossy(line).into_owned()
}

/// The question that an input answers, and a small number for its kind.
pub fn input_ids(input: &Input) -> (u64, u64) {
    match input {
        Input::Log(LogInput::Read { op, records, next, .. }) => {
            (1 + ((records.len() as u64) << 8) + (next.0 << 24), op.0)
        }
        Input::Log(LogInput::ReadFailed { op }) => (2, op.0),
        Input::Log(LogInput::Appended { op, offset }) => (3 + (offset.0 << 8), op.0),
        Input::Log(LogInput::AppendRefused { op }) => (4, op.0),
        Input::Log(LogInput::AppendUnknown { op }) => (5, op.0),
        Input::Git(GitInput::Prepared { op, .. }) => (6, op.0),
        Input::Git(GitInput::Received { op, .. }) => (7, op.0),
        Input::Git(GitInput::RefsSet { op, results, .. }) => (8 + ((results.len() as u64) << 8), op.0),
        Input::Git(GitInput::RepoEnsured { op, outcome }) => (9 + (u64::from(*outcome != Ensured::Failed) << 8), op.0),
        Input::Git(GitInput::Done { op, ok }) => (9 + (u64::from(*ok) << 8), op.0),
        Input::Journal(JournalInput::TableRead { op, .. }) => (10, op.0),
        Input::Journal(JournalInput::Committed { op }) => (11, op.0),
        Input::Journal(JournalInput::VerdictsRead { op, verdicts }) => (12 + ((verdicts.len() as u64) << 8), op.0),
        Input::Git(GitInput::Preparing { op }) => (18, op.0),
        Input::Git(GitInput::SpoolRead { op, bytes }) => {
            (19 + ((bytes.as_ref().map_or(0, |it| it.len()) as u64) << 8), op.0)
        }
        Input::Git(GitInput::RefsDigested { op, .. }) => (15, op.0),
        Input::Git(GitInput::RefsRead { op, refs }) => (16 + ((refs.as_ref().map_or(0, Vec::len) as u64) << 8), op.0),
        Input::Journal(JournalInput::RowsRead { op, rows }) => (17 + ((rows.len() as u64) << 8), op.0),
        Input::Client(ClientInput::Push { id, updates, .. }) => (13 + ((updates.len() as u64) << 8), id.0),
        Input::Client(ClientInput::Order { id, .. }) => (14, id.0),
    }
}

/// An input as a line.
pub fn input(input: &Input) -> String {
    match input {
        Input::Log(LogInput::Read { op, records, next, end, start, epoch: _ }) => {
            let offsets: Vec<u64> = records.iter().map(|read| read.offset.0).collect();
            format!("<- read op={op} offsets={offsets:?} next={next} end={end} start={start}")
        }
        Input::Git(GitInput::Prepared { op, outcome: refrain_core::port::Prepared::Pack { pack, used, forced } }) => {
            format!("<- prepared op={op} pack={} used={used:?} forced={forced:?}", pack.len() / 20)
        }
        Input::Git(GitInput::SpoolRead { op, bytes }) => {
            format!("<- spool op={op} bytes={:?}", bytes.as_ref().map(|bytes| bytes.len()))
        }
        Input::Journal(JournalInput::TableRead { op, entries }) => {
            format!("<- table op={op} entries={}", entries.len())
        }
        other => format!("<- {other:?}"),
    }
}

/// Who an input is for.
pub fn machine_of_input(input: &Input) -> &'static str {
    match input {
        Input::Log(_) => "log",
        Input::Git(_) => "git",
        Input::Journal(_) => "journal",
        Input::Client(_) => "client",
    }
}

/// Who an effect is for.
pub fn machine_of_effect(effect: &Effect) -> &'static str {
    match effect {
        Effect::Log(_) => "log",
        Effect::Git(_) => "git",
        Effect::Journal(_) => "journal",
        Effect::Client(_) => "client",
    }
}
