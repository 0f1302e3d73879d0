//! `refrain log show`: the records of a log, one JSON object a line, without a daemon or beside one.

use std::path::Path;

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use refrain_core::ids::Oid;
use refrain_core::names::{RefName, RepoName};
use refrain_core::placement::Map;
use refrain_core::record::{Body, Chunk, Decoded, Have, Push, Record, decode};
use refrain_core::refdb::{Judgement, Verdict};
use serde::Serialize;
use serde_json::Value;

use super::out::Out;
use super::refold::{Refold, reason};
use super::{BadConfig, NotFound};
use crate::config;
use crate::log::{LogError, LogRecord, OfflineLog, TOPICS};

#[derive(Subcommand)]
pub(super) enum Log {
    /// Show records, one JSON object a line, packs left out
    Show(Show),
}

#[derive(Args)]
pub(super) struct Show {
    /// Which topic
    #[arg(long, default_value = "pushdata", value_parser = TOPICS.map(|(name, _)| name))]
    topic: String,
    /// Only this partition
    #[arg(long, value_name = "P")]
    partition: Option<u32>,
    /// From this offset on
    #[arg(long, value_name = "O", default_value_t = 0)]
    from: u64,
    /// Only records of this repository
    #[arg(long, value_name = "NAME")]
    repo: Option<RepoName>,
}

/// One record; what does not apply or is not known is null.
#[derive(Serialize, Default)]
struct Line {
    topic: String,
    partition: u32,
    offset: u64,
    /// When it was appended, in seconds since 1970 by the log's clock.
    time: f64,
    kind: Option<&'static str>,
    rules: Option<u32>,
    repo: Option<RepoName>,
    incarnation: Option<u64>,
    push: Option<String>,
    site: Option<String>,
    instance: Option<String>,
    epoch: Option<u64>,
    seq: Option<u64>,
    atomic: Option<bool>,
    updates: Option<Vec<UpdateLine>>,
    haves: Option<Vec<Have>>,
    pack_bytes: Option<u64>,
    verdict: Option<&'static str>,
    /// Why a record does not count.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// What other kinds and topics say, as it lies in the log.
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<Value>,
}

#[derive(Serialize)]
struct UpdateLine {
    #[serde(rename = "ref")]
    name: RefName,
    old: Option<Oid>,
    new: Option<Oid>,
    verdict: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

impl Log {
    pub(super) fn run(&self, config: Option<&Path>) -> Result<u8> {
        let Log::Show(show) = self;
        show.run(config)
    }
}

/// What the log was opened with, whatever the configuration says now.
fn map(log: &OfflineLog) -> Result<Map> {
    for record in log.scan("pushdata", 0, 0)? {
        if let Ok(Record { body: Body::LogOpened(opened), .. }) = decode(&record?.value).record {
            return Ok(opened.map);
        }
    }
    Ok(Map::default())
}

impl Show {
    fn run(&self, config: Option<&Path>) -> Result<u8> {
        let file = config::load(&config::locate(config)).context(BadConfig)?;
        let wanted = self.repo.as_ref();
        let log = OfflineLog::open(&file.log.dir).map_err(|why| match why {
            LogError::NoSuch(why) => anyhow::Error::new(NotFound(why)),
            other => other.into(),
        })?;
        let many = TOPICS.iter().any(|(name, many)| *name == self.topic && *many);
        let count = if many { log.partitions() } else { 1 };
        let home = match wanted.filter(|_| many) {
            Some(name) => Some(map(&log)?.partition_of(name, log.partitions()).0),
            None => None,
        };
        if let Some(partition) = self.partition.filter(|partition| *partition >= count) {
            let why = format!("topic {} has {count} partitions, from 0; there is no partition {partition}", self.topic);
            return Err(NotFound(why).into());
        }
        let mut out = Out::new();
        let mut shown = 0u64;
        let chosen = |it: &u32| self.partition.is_none_or(|only| only == *it) && home.is_none_or(|home| home == *it);
        for partition in (0..count).filter(chosen) {
            shown += self.partition(&mut out, &log, partition, wanted)?;
        }
        out.flush()?;
        if let Some(name) = wanted.filter(|_| shown == 0) {
            return Err(NotFound(format!("the log has no record of repository {name} there")).into());
        }
        Ok(0)
    }

    /// Shows one partition; gives how many records were shown.
    fn partition(&self, out: &mut Out, log: &OfflineLog, partition: u32, repo: Option<&RepoName>) -> Result<u64> {
        let is_push = self.topic == "pushdata";
        let mut refold = Refold::new(partition);
        let mut shown = 0;
        // The fold needs all records before the first one that is shown.
        let begin = if is_push { 0 } else { self.from };
        for record in log.scan(&self.topic, partition, begin)? {
            let record = record?;
            let line = if is_push { push_line(&record, &mut refold) } else { other_line(&self.topic, &record) };
            let line = Line { topic: self.topic.clone(), partition, ..line };
            if record.offset >= self.from && repo.is_none_or(|repo| line.repo.as_ref() == Some(repo)) {
                out.json(&line)?;
                shown += 1;
            }
            if out.is_closed() {
                break;
            }
        }
        Ok(shown)
    }
}

fn at(record: &LogRecord) -> Line {
    Line { offset: record.offset, time: record.time_ms as f64 / 1e3, ..Line::default() }
}

fn push_line(record: &LogRecord, refold: &mut Refold) -> Line {
    let decoded = decode(&record.value);
    let judged = refold.judge(record.offset, record.time_ms, &decoded);
    let (verdict, rules) = judged.map_or((None, None), |(verdict, rules)| (Some(verdict), Some(rules)));
    let mut line = Line { rules: rules.filter(|rules| *rules > 0), ..at(record) };
    line.verdict = verdict.as_ref().map(word);
    if let Some(Verdict::Void(why)) = &verdict {
        line.reason = Some(why.to_string());
    }
    let Decoded { record: Ok(record), .. } = decoded else { return line };
    fill(&mut line, &record, verdict.as_ref());
    line
}

fn fill(line: &mut Line, record: &Record, verdict: Option<&Verdict>) {
    let header = &record.header;
    line.kind = Some(record.body.kind());
    line.repo = header.repo.clone();
    line.incarnation = header.incarnation.map(|it| it.0);
    line.site = Some(header.site.to_string());
    line.instance = Some(header.instance.to_string());
    line.epoch = Some(header.epoch.0);
    line.seq = Some(header.seq.0);
    match &record.body {
        Body::Push(push) => {
            line.push = Some(format!("{}-{}-{}", header.site, header.epoch, header.seq));
            line.atomic = Some(push.atomic);
            line.updates = Some(updates(push, verdict));
            line.haves = Some(push.haves.clone());
            let staged = push.pack.as_ref().map(|pack| pack.bytes);
            line.pack_bytes = Some(staged.unwrap_or(record.pack.len() as u64));
        }
        Body::LogOpened(body) => line.body = serde_json::to_value(body).ok(),
        Body::SiteStarted(body) => line.body = serde_json::to_value(body).ok(),
        Body::SiteChanged(body) => line.body = serde_json::to_value(body).ok(),
        Body::RepoCreated(body) => line.body = serde_json::to_value(body).ok(),
        Body::RepoConfigured(body) => line.body = serde_json::to_value(body).ok(),
        Body::RulesRaised(body) => line.body = serde_json::to_value(body).ok(),
        Body::RepoDeleted(_) | Body::Barrier(_) | Body::Heartbeat(_) => {}
    }
}

fn updates(push: &Push, verdict: Option<&Verdict>) -> Vec<UpdateLine> {
    let judgements = match verdict {
        Some(Verdict::Push(judgements)) => &judgements[..],
        Some(Verdict::Void(_) | Verdict::Counted) | None => &[],
    };
    let line = |(at, update): (usize, &refrain_core::record::Update)| {
        let judgement = judgements.get(at);
        let verdict = judgement.map(|it| match it {
            Judgement::Accepted { .. } => "accepted",
            Judgement::Unchanged => "unchanged",
            Judgement::Rejected(_) => "rejected",
        });
        let reason = match judgement {
            Some(Judgement::Rejected(why)) => Some(reason(&update.name, why)),
            _ => None,
        };
        UpdateLine { name: update.name.clone(), old: update.old, new: update.new, verdict, reason }
    };
    push.updates.iter().enumerate().map(line).collect()
}

/// A push is `accepted` if every update is as wished after it, `rejected` if none is, else `partial`.
fn word(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Void(_) => "void",
        Verdict::Counted => "counted",
        Verdict::Push(judgements) => {
            let rejected = judgements.iter().filter(|it| matches!(it, Judgement::Rejected(_))).count();
            match rejected {
                0 => "accepted",
                all if all == judgements.len() => "rejected",
                _ => "partial",
            }
        }
    }
}

/// A record of another topic.
fn other_line(topic: &str, record: &LogRecord) -> Line {
    if topic == "packdata" {
        let Some(chunk) = Chunk::decode(&record.value) else { return at(record) };
        return Line {
            kind: Some("chunk"),
            push: Some(Chunk::key(&chunk.site, chunk.instance, chunk.push)),
            site: Some(chunk.site.to_string()),
            instance: Some(chunk.instance.to_string()),
            pack_bytes: Some(chunk.bytes.len() as u64),
            body: Some(serde_json::json!({ "index": chunk.index })),
            ..at(record)
        };
    }
    let body: Option<Value> = serde_json::from_slice(&record.value).ok();
    let text = |key: &str| body.as_ref()?.get(key)?.as_str();
    let data = |key: &str| body.as_ref()?.get("data")?.get(key)?.as_str();
    Line {
        kind: body.as_ref().map(|_| if topic == "progress" { "report" } else { "published" }),
        repo: data("repo").and_then(|name| RepoName::parse(name).ok()),
        push: data("push").map(str::to_owned),
        site: text("site").or(data("site")).map(str::to_owned),
        instance: text("instance").map(str::to_owned),
        epoch: body.as_ref().and_then(|body| body.get("epoch")?.as_u64()),
        body,
        ..at(record)
    }
}
