//! How far a site must be before readers come.
//!
//! Owns the log's end that was read at the start, and at a site that became active while it ran the end that was read
//! after that. Promises that a partition serves only when Git shows all that the log held there, but for what cannot be
//! had.

use super::Part;
use crate::config::RETRY_AFTER;
use crate::ids::Offset;
use crate::port::{LogEffect, Now, Out, Owner, Topic};
use crate::time::Instant;

/// Where a partition is to be.
#[derive(Debug, Default)]
pub(super) struct Goal {
    /// Everything below is to be shown.
    pub end: Offset,
    look: Look,
}

/// Whether the end is being asked for once more.
#[derive(Debug, Default)]
enum Look {
    #[default]
    None,
    Asked,
    /// It could not be read; asked for again then.
    Due(Instant),
}

impl Goal {
    pub(super) fn due(&self) -> Option<Instant> {
        match self.look {
            Look::Due(at) => Some(at),
            Look::None | Look::Asked => None,
        }
    }
}

impl Part {
    /// What the log holds by now is to be shown, too, before readers come.
    pub(crate) fn look_at_end(&mut self, out: &mut Out) {
        self.goal.look = Look::Asked;
        let op = out.ask(Owner::ReadEnd(self.partition));
        let (topic, from) = (Topic::PushData(self.partition), self.position);
        out.log(LogEffect::Read { op, topic, from, max: 1, wait: false });
    }

    /// The answer to [`Part::look_at_end`]; `None`: it could not be read.
    pub(crate) fn end_read(&mut self, now: Now, end: Option<Offset>) {
        self.goal.look = match end {
            Some(_) => Look::None,
            None => Look::Due(now.at + RETRY_AFTER),
        };
        if let Some(end) = end {
            self.end = self.end.max(end);
            self.goal.end = self.goal.end.max(end);
        }
    }

    pub(super) fn look_again(&mut self, now: Now, out: &mut Out) {
        if self.goal.due().is_some_and(|at| at <= now.at) {
            self.look_at_end(out);
        }
    }

    /// Git shows all that the log held when this daemon started, or later became active, but for what cannot be had.
    pub(crate) fn serves(&self) -> bool {
        let read = matches!(self.goal.look, Look::None) && self.queue.is_empty() && self.position >= self.goal.end;
        self.caught_up && read && !self.consumer.has_open_before(self.goal.end)
    }

    #[cfg(test)]
    pub(crate) fn goal_end(&self) -> Offset {
        self.goal.end
    }
}
