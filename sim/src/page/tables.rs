//! The tables below the picture: faults, and pushes with what became of them.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use refrain_core::ids::{Offset, Partition};

use super::escape;
use super::items::{self, Scope, seconds};
use crate::story::{About, NAMES_MAX, Place, Pushed, Sending, Story};

/// Every fault that struck.
pub(super) fn faults(out: &mut String, story: &Story) {
    let _ = writeln!(
        out,
        "<h2>{} faults</h2>\n<table id=\"faults\">\
         <tr><th>from</th><th>to</th><th>kind</th><th>where</th><th>what</th></tr>",
        story.strikes.len()
    );
    for struck in &story.strikes {
        let from = seconds(struck.at);
        let to = items::lasts(story, struck).map_or("at once".to_string(), seconds);
        let place = match items::scope(struck) {
            Scope::Machine(lane) => escape(items::machine(story, lane)),
            Scope::Sites => "all sites".to_string(),
            Scope::Log => "the log".to_string(),
        };
        let (kind, what) = (struck.strike.kind.name(), escape(&items::fault(story, struck)));
        let link = format!("<a class=\"go\" data-t=\"{from}\" href=\"#box\">{from}</a>");
        let _ = writeln!(out, "<tr><td>{link}</td><td>{to}</td><td>{kind}</td><td>{place}</td><td>{what}</td></tr>");
    }
    *out += "</table>\n";
}

/// The last pushes, at most `most`.
pub(super) fn pushes(out: &mut String, story: &Story, most: usize) {
    let cut = story.pushes.len().saturating_sub(most);
    let mut records: BTreeMap<u64, Vec<&Sending>> = BTreeMap::new();
    for sending in &story.appends {
        if let Some(push) = sending.push.and_then(|at| story.pushes.get(at)) {
            records.entry(push.id).or_default().push(sending);
        }
    }
    let mut shown: BTreeMap<(Partition, Offset), BTreeMap<usize, u64>> = BTreeMap::new();
    for it in &story.shown {
        if let Some(record) = it.record {
            shown.entry(record).or_default().entry(it.lane).or_insert(it.at);
        }
    }
    let _ = writeln!(out, "<h2>{} pushes</h2>", story.pushes.len());
    if cut > 0 {
        let _ = writeln!(out, "<p><b>The first {cut} are left out.</b></p>");
    }
    *out += "<table id=\"pushes\"><tr><th>push</th><th>at</th><th>site</th><th>ack</th><th>repository and refs</th>\
             <th>answer</th><th>records</th><th>shown, seconds after the hand-over</th></tr>\n";
    for push in &story.pushes[cut..] {
        let of_it = records.get(&push.id).map(Vec::as_slice).unwrap_or_default();
        row(out, story, push, of_it, &shown);
    }
    *out += "</table>\n";
}

fn row(
    out: &mut String,
    story: &Story,
    push: &Pushed,
    records: &[&Sending],
    shown: &BTreeMap<(Partition, Offset), BTreeMap<usize, u64>>,
) {
    let (id, t) = (push.id, seconds(push.sent));
    let mut answer = escape(&items::answer(push));
    push.remote.iter().for_each(|line| answer += &format!("<br>remote: {}", escape(line)));
    let atomic = if push.atomic { "atomic<br>" } else { "" };
    let mut showed: BTreeMap<usize, u64> = BTreeMap::new();
    let (mut became, mut separator) = (String::new(), "");
    for sending in records {
        became += separator;
        became += &fate(story, sending);
        separator = "<br>";
        let Place::Partition(partition) = sending.place else { continue };
        for (lane, at) in sending.landed.iter().filter_map(|it| shown.get(&(partition, it.offset))).flatten() {
            showed.entry(*lane).or_insert(*at);
        }
    }
    let sites: Vec<String> = showed
        .into_iter()
        .map(|(lane, at)| format!("{} {}", escape(items::machine(story, lane)), seconds(at.saturating_sub(push.sent))))
        .collect();
    let _ = writeln!(
        out,
        "<tr id=\"p{id}\" class=\"{}\" data-k=\"{}\"><td>{id}</td>\
         <td><a class=\"go\" data-t=\"{t}\" href=\"#box\">{t}</a>\
         </td><td>{}</td><td>{}</td><td>{atomic}{}</td><td>{answer}</td><td>{became}</td><td>{}</td></tr>",
        items::outcome(push),
        escape(&items::named(&push.about)),
        escape(items::machine(story, push.lane)),
        escape(&push.ack),
        changes(&push.about, push),
        sites.join(" · ")
    );
}

/// Each ref with its old and new value.
fn changes(about: &About, push: &Pushed) -> String {
    let repo = escape(about.repo.as_deref().unwrap_or_default());
    let refs =
        about.names.iter().zip(&push.values).map(|(name, (old, new))| {
            format!("{repo} {} {} → {}", escape(name), items::short(*old), items::short(*new))
        });
    let mut text = refs.collect::<Vec<_>>().join("<br>");
    if about.more > 0 {
        text += &format!("<br>and {} refs more than {NAMES_MAX}", about.more);
    }
    text
}

/// What became of one append of a push.
fn fate(story: &Story, sending: &Sending) -> String {
    let fate = items::fate(story, sending);
    let mut text = String::new();
    for landing in &sending.landed {
        let place = match sending.place {
            Place::Partition(partition) => format!("{partition}:{}", landing.offset),
            Place::Replicated => landing.offset.to_string(),
        };
        text += &format!("{place} {} ", items::verdict(landing));
    }
    if fate != "prompt" {
        text += &format!("({fate})");
    }
    text
}
