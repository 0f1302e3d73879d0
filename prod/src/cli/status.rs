//! `refrain status` and `refrain wait`: how far every site is, and a wait until they are all there.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Args;
use refrain_core::record::{Body, MemberState, decode};
use serde::Serialize;

use super::link::{LOOK_EVERY, Link, ends_of};
use super::out::{Out, note, progress};
use super::{UNREACHABLE, Unreachable, seconds};
use crate::driver::StatusReply;
use crate::log::OfflineLog;
use crate::status::{self, Document, PartitionStatus};

/// How long a partition with parked updates must stand still before `wait` gives up: a parked update may have its
/// objects a moment later.
const PARKED_FOR: Duration = Duration::from_secs(1);

/// Prints how every site is; 13 if no site of the file answers.
pub(super) fn status(config: Option<&Path>, json: bool) -> Result<u8> {
    let link = Link::open(config)?;
    let statuses = link.statuses();
    let nobody = statuses.iter().all(|(_, status)| status.is_none());
    let answering = statuses.iter().zip(&link.file.site).find(|((_, status), _)| status.is_some());
    let count = answering.and_then(|(_, site)| crate::driver::count_repositories(&site.repos).ok());
    let document = status::document(&statuses, count.map(|count| count as u64));
    let mut out = Out::new();
    if json {
        out.json(&document)?;
    } else {
        print(&mut out, &document, &statuses)?;
    }
    out.flush()?;
    if nobody {
        note(Unreachable::nobody(&link.file));
    }
    Ok(if nobody { UNREACHABLE } else { 0 })
}

fn print(out: &mut Out, document: &Document, statuses: &[(String, Option<StatusReply>)]) -> Result<()> {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_header(["site", "state", "reachable", "partition", "applied", "end", "behind", "seconds", "parked"]);
    let or_dash = |value: Option<String>| value.unwrap_or_else(|| "-".into());
    for site in &document.sites {
        let state = or_dash(site.state.map(word));
        let reachable = or_dash(site.reachable.map(|yes| if yes { "yes" } else { "no" }.into()));
        let first = [site.name.clone(), state, reachable];
        if site.partitions.is_empty() {
            table.add_row(first.iter().cloned().chain(std::iter::repeat_n("-".to_string(), 6)));
        }
        for it in &site.partitions {
            let numbers = [it.applied, it.end, it.lag_messages].map(|it| or_dash(it.map(|it| it.to_string())));
            let lag = or_dash(it.lag_seconds.map(|it| format!("{it:.1}")));
            let parked = or_dash(it.parked.map(|it| it.to_string()));
            let rest = [it.partition.to_string()].into_iter().chain(numbers).chain([lag, parked]);
            table.add_row(first.iter().cloned().chain(rest));
        }
    }
    out.line(table)?;
    if let Some(count) = document.repositories {
        out.line(format_args!("repositories: {count}"))?;
    }
    stopped(statuses).try_for_each(|line| out.line(line))?;
    for (name, status) in statuses {
        let Some(status) = status else { continue };
        if !status.ready && status.partitions.iter().all(|it| it.stopped.is_none()) {
            out.line(format_args!("{name}: not ready, it is still applying earlier pushes"))?;
        }
    }
    Ok(())
}

/// A line for each partition where nothing goes on.
fn stopped(statuses: &[(String, Option<StatusReply>)]) -> impl Iterator<Item = String> + '_ {
    let all = statuses
        .iter()
        .flat_map(|(name, it)| it.iter().flat_map(move |it| it.partitions.iter().map(move |p| (name, p))));
    all.filter_map(|(name, it)| {
        Some(format!("{name}: partition {} has stopped: {}", it.partition, it.stopped.as_ref()?))
    })
}

fn word(state: MemberState) -> String {
    match state {
        MemberState::Joining => "joining",
        MemberState::Active => "active",
        MemberState::Draining => "draining",
        MemberState::Evicted => "evicted",
    }
    .into()
}

#[derive(Args)]
pub(super) struct Wait {
    /// How long to wait, in seconds
    #[arg(long, value_name = "S", default_value = "60", value_parser = seconds)]
    timeout: Duration,
}

/// A partition that an active site has not applied as far as was asked.
#[derive(Clone, PartialEq, Eq, Serialize)]
struct Lack {
    site: String,
    partition: u32,
    applied: Option<u64>,
    wanted: u64,
    parked: Option<u32>,
    /// The first record that is missing, in words.
    first: Option<String>,
}

impl Wait {
    /// 0 once every active site has applied what the log held at the start; 1 on time-out or while something is parked.
    pub(super) fn run(&self, config: Option<&Path>, json: bool) -> Result<u8> {
        let link = Link::open(config)?;
        let until = Instant::now() + self.timeout;
        let mut wanted: Option<Vec<u64>> = None;
        let mut still = BTreeMap::new();
        let bar = progress(0).with_message("partitions that lack something:");
        loop {
            let statuses = link.statuses();
            if statuses.iter().all(|(_, status)| status.is_none()) {
                return Err(Unreachable::nobody(&link.file).into());
            }
            let wanted = wanted.get_or_insert_with(|| ends_of(statuses.iter().filter_map(|(_, it)| it.as_ref())));
            let document = status::document(&statuses, None);
            let known = document.sites.iter().any(|site| site.state == Some(MemberState::Active));
            let lacking = lacking(&document, wanted);
            bar.set_length((wanted.len() * document.sites.len()) as u64);
            bar.set_position(lacking.len() as u64);
            if known && lacking.is_empty() {
                return report(json, &lacking, &link, &statuses);
            }
            let parked: Vec<Lack> = lacking.iter().filter(|lack| stands_still(&mut still, lack)).cloned().collect();
            if !parked.is_empty() {
                return report(json, &parked, &link, &statuses);
            }
            if Instant::now() >= until {
                if !known {
                    anyhow::bail!("no site knows yet who belongs: the log was not opened within the time");
                }
                return report(json, &lacking, &link, &statuses);
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }
}

fn lacking(document: &Document, wanted: &[u64]) -> Vec<Lack> {
    let mut all = Vec::new();
    for site in document.sites.iter().filter(|site| site.state == Some(MemberState::Active)) {
        for (at, wanted) in wanted.iter().enumerate().filter(|(_, wanted)| **wanted > 0) {
            let mark = site.partitions.iter().find(|it| it.partition as usize == at);
            let PartitionStatus { applied, parked, .. } = mark.map_or(
                PartitionStatus {
                    partition: at as u32,
                    applied: None,
                    end: None,
                    lag_messages: None,
                    lag_seconds: None,
                    parked: None,
                },
                Clone::clone,
            );
            if applied.is_none_or(|applied| applied < *wanted) {
                let site = site.name.clone();
                all.push(Lack { site, partition: at as u32, applied, wanted: *wanted, parked, first: None });
            }
        }
    }
    all
}

/// Whether a partition has had parked updates and not moved for a while.
fn stands_still(seen: &mut BTreeMap<(String, u32), (Option<u64>, Instant)>, lack: &Lack) -> bool {
    let key = (lack.site.clone(), lack.partition);
    if lack.parked.unwrap_or(0) == 0 {
        seen.remove(&key);
        return false;
    }
    let (applied, since) = *seen.entry(key.clone()).or_insert((lack.applied, Instant::now()));
    if applied != lack.applied {
        seen.insert(key, (lack.applied, Instant::now()));
    }
    applied == lack.applied && since.elapsed() >= PARKED_FOR
}

fn report(json: bool, lacking: &[Lack], link: &Link, statuses: &[(String, Option<StatusReply>)]) -> Result<u8> {
    let log = OfflineLog::open(&link.file.log.dir).ok();
    let with_words = lacking.iter().map(|lack| {
        let at = lack.applied.unwrap_or(0);
        let first = log.as_ref().and_then(|log| describe(log, lack.partition, at));
        Lack { first, ..lack.clone() }
    });
    let lacking: Vec<Lack> = with_words.collect();
    if json {
        let mut out = Out::new();
        out.json(&serde_json::json!({ "done": lacking.is_empty(), "lacking": lacking }))?;
        out.flush()?;
    }
    for lack in &lacking {
        let Lack { site, partition, wanted, .. } = lack;
        let applied = lack.applied.map_or_else(|| "an unknown part".into(), |at| at.to_string());
        let parked = lack.parked.filter(|parked| *parked > 0);
        let parked = parked.map_or_else(String::new, |parked| format!(", {parked} parked for want of objects"));
        let first = lack.first.as_ref().map_or_else(String::new, |first| format!("; first missing: {first}"));
        note(format_args!(
            "{site} lacks records of partition {partition}: applied {applied} of {wanted}{parked}{first}"
        ));
    }
    if !lacking.is_empty() {
        stopped(statuses).for_each(note);
    }
    Ok(u8::from(!lacking.is_empty()))
}

/// What the record at an offset is, where the log is at hand.
fn describe(log: &OfflineLog, partition: u32, offset: u64) -> Option<String> {
    let first = log.scan("pushdata", partition, offset).ok()?.next()?.ok()?;
    let record = decode(&first.value).record.ok()?;
    let (kind, site) = (record.body.kind(), &record.header.site);
    let repo = record.header.repo.as_ref().map_or_else(String::new, |repo| format!(" to {repo}"));
    let refs = match &record.body {
        Body::Push(push) => match &push.updates[..] {
            [] => String::new(),
            [only] => format!(" of {}", only.name),
            [first, rest @ ..] => format!(" of {} and {} more", first.name, rest.len()),
        },
        _ => String::new(),
    };
    Some(format!("offset {offset}, a {kind}{refs}{repo} made at {site}"))
}
