//! The pages that machines ask: readiness, status, metrics. What is not known is null, or left out.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::Serving;
use crate::driver::{Asker, StatusReply};

pub(super) const METRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Whether a push to the site would succeed now, or why not.
pub(super) async fn readiness(site: &Asker) -> Result<(), String> {
    let Some(status) = site.status().await else { return Err("the site has stopped".into()) };
    if let Some((at, why)) = status.partitions.iter().find_map(|it| Some((it.partition, it.stopped.as_ref()?))) {
        return Err(format!("partition {at} has stopped: {why}"));
    }
    if status.ready { Ok(()) } else { Err("this site is still applying earlier pushes".into()) }
}

/// `status --json` of the interface.
pub(super) async fn status(serving: &Serving) -> Result<String, String> {
    let mut own = Vec::new();
    for site in &serving.all {
        own.push((site.site().to_string(), site.status().await));
    }
    let repos = serving.repos.clone();
    let count = tokio::task::spawn_blocking(move || crate::driver::count_repositories(&repos)).await;
    let count = count.ok().and_then(Result::ok).map(|count| count as u64);
    serde_json::to_string(&crate::status::document(&own, count)).map_err(|why| why.to_string())
}

fn seconds(ms: u64) -> f64 {
    ms as f64 / 1e3
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Lane {
    site: String,
    partition: u32,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Outcome {
    site: String,
    result: String,
}

/// The site's numbers, in the text form of OpenMetrics.
pub(super) async fn metrics(site: &Asker) -> String {
    let mut registry = Registry::default();
    let pushes = Family::<Outcome, Counter>::default();
    let tally = site.tally();
    for (result, count) in tally.pushes {
        let labels = Outcome { site: site.site().to_string(), result };
        pushes.get_or_create(&labels).inc_by(count);
    }
    registry.register("refrain_pushes", "Pushes answered, by ok or the first reason", pushes);
    let late: Counter = Counter::default();
    late.inc_by(tally.shown_late);
    registry.register("refrain_shown_late", "Pushes shown by flip_timeout although a site had not staged them", late);
    let status = site.status().await.unwrap_or_default();
    gauges(&mut registry, site, &status);
    let mut text = String::new();
    match prometheus_client::encoding::text::encode(&mut text, &registry) {
        Ok(()) => text,
        Err(_) => "# EOF\n".into(),
    }
}

fn gauges(registry: &mut Registry, site: &Asker, status: &StatusReply) {
    let seconds_behind = Family::<Lane, Gauge<f64, AtomicU64>>::default();
    let messages = Family::<Lane, Gauge>::default();
    let parked = Family::<Lane, Gauge>::default();
    let ready: Gauge = Gauge::default();
    ready.set(i64::from(status.ready));
    for it in &status.partitions {
        let lane = Lane { site: site.site().to_string(), partition: it.partition };
        if let Some(ms) = it.lag_ms {
            seconds_behind.get_or_create(&lane).set(seconds(ms));
        }
        if let Some(count) = it.lag_messages {
            messages.get_or_create(&lane).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        if let Some(count) = it.parked {
            parked.get_or_create(&lane).set(i64::from(count));
        }
    }
    if let Some(ms) = status.clock_ahead_ms {
        let ahead = Gauge::<f64, AtomicU64>::default();
        ahead.set(ms as f64 / 1e3);
        registry.register("refrain_clock_ahead_seconds", "The site's clock less the log's", ahead);
    }
    registry.register("refrain_ready", "1 when a push to this site would succeed now", ready);
    registry.register("refrain_lag_seconds", "Age of the first record that is not applied", seconds_behind);
    registry.register("refrain_lag_messages", "Records that are not applied", messages);
    registry.register("refrain_parked", "Updates whose objects cannot be had for now", parked);
}
