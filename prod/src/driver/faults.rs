//! A log that misbehaves on a test's order, between a site and the embedded log. A release build has none of it.
//!
//! The environment's `REFRAIN_TEST_FAULTS` names a file of lines `<fault> <what> <site>`, in force while they are
//! there. What: `reads` of pushes, `reports` of progress, `pushes` and `chunks` to be appended, `publications`. Faults:
//! `stall` waits; `refuse` does nothing and says so; `lose` does nothing, `unsure` does it, `late` does it once the
//! line is gone, and all three say that nobody knows; `twice` does it twice; `fence` has another instance of the site
//! start before it. Reads can only stall. Kafka can do all of these, and the embedded log next to none.

use std::sync::Arc;
use std::time::Duration;

use refrain_core::ids::{Epoch, Instance, Offset, Seq};
use refrain_core::port::{LogEffect, LogInput, Topic};
use refrain_core::record::{self, Body, Header, Record, SiteStarted};

use super::LogPort;
use crate::log::{AppendOutcome, EmbeddedLog};

const LOOK_EVERY: Duration = Duration::from_millis(5);

/// What the effect is to a fault, if it is anything.
pub(super) fn what(effect: &LogEffect) -> Option<&'static str> {
    match effect {
        LogEffect::Read { topic: Topic::PushData(_), .. } => Some("reads"),
        LogEffect::Append { topic: Topic::Progress, .. } => Some("reports"),
        LogEffect::Append { topic: Topic::Replicated, .. } => Some("publications"),
        LogEffect::Append { topic: Topic::PackData(_), .. } => Some("chunks"),
        LogEffect::Append { topic: Topic::PushData(_), value, .. } => {
            super::test_points::is_push(value).then_some("pushes")
        }
        LogEffect::Read { .. } => None,
    }
}

fn orders() -> String {
    let file = std::env::var_os("REFRAIN_TEST_FAULTS");
    file.and_then(|file| std::fs::read_to_string(file).ok()).unwrap_or_default()
}

fn in_force(what: &str, site: &str) -> Option<String> {
    let line = format!(" {what} {site}");
    orders().lines().find_map(|order| order.strip_suffix(&line)).map(str::to_string)
}

/// Waits while `what` is to stall at `site`.
pub(super) async fn stall(what: &str, site: &str) {
    let mut begun = false;
    while in_force(what, site).as_deref() == Some("stall") {
        if !std::mem::replace(&mut begun, true) {
            tracing::warn!("by the test's order {what} of {site} stall");
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// What an append comes to instead, if a fault strikes it; otherwise it may go on.
pub(super) async fn strike(port: &LogPort, effect: &LogEffect) -> Option<LogInput> {
    let LogEffect::Append { op, value, .. } = effect else { return None };
    let (what, site) = (what(effect)?, &*port.site);
    stall(what, site).await;
    match in_force(what, site)?.as_str() {
        "refuse" => return Some(LogInput::AppendRefused { op: *op }),
        "fence" => {
            another_starts(&port.log, value).await;
            return None;
        }
        "twice" => {
            port.answer(effect.clone()).await;
            return None;
        }
        "lose" => {}
        "unsure" => drop(port.answer(effect.clone()).await),
        "late" => drop(tokio::spawn(answer_later(port.clone(), what, effect.clone()))),
        other => tracing::error!("the test's fault {other:?} is not known"),
    }
    Some(LogInput::AppendUnknown { op: *op })
}

async fn answer_later(port: LogPort, what: &'static str, effect: LogEffect) {
    while in_force(what, &port.site).is_some() {
        tokio::time::sleep(LOOK_EVERY).await;
    }
    let done = port.answer(effect).await;
    tracing::warn!("by the test's order an append of {} came late: {done:?}", port.site);
}

/// Another instance of the site that wrote `value` starts, in every partition.
async fn another_starts(log: &EmbeddedLog, value: &[u8]) {
    let Ok(ours) = record::decode(value).record else { return };
    let Header { site, epoch, instance, time_ms, .. } = ours.header;
    for partition in 0..log.partitions() {
        let header = Header {
            repo: None,
            incarnation: None,
            site: site.clone(),
            instance: Instance(instance.0 ^ 1),
            epoch: Epoch(epoch.0 + 1),
            seq: Seq(1),
            time_ms,
        };
        let body = Body::SiteStarted(SiteStarted { rules: record::RULES });
        let record = Record { header, body, pack: Arc::from([]) };
        let value = record.encode().expect("a start is short");
        let done = log.append("pushdata", partition, b"", Arc::from(value)).await;
        let AppendOutcome::Done { offset } = done else { return tracing::error!("{done:?}") };
        tracing::warn!("by the test's order another instance of {site} starts at {}", Offset(offset));
    }
}
