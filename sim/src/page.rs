//! A run's story as one HTML page for people: what came of it, what led to that, a picture of who did what when, and
//! tables of its faults and pushes.
//!
//! Owns the page's order and how much of a long story it takes in: the last [`DRAWN_MAX`] events and [`ROWS_MAX`]
//! pushes, and it says what it leaves out. Promises: everything that a run names is escaped, nothing is loaded from
//! anywhere, and the same story gives the same bytes. Never: runs anything, or judges.

mod clues;
mod items;
mod picture;
mod tables;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt::Write as _;

use clues::{Clues, LISTED_MAX};
use items::{Item, items, seconds};
use picture::Picture;

use crate::run::{Outcome, Report};
use crate::scenario::Scenario;
use crate::story::Story;

/// At most so many events are drawn, the last ones; beside them every fault.
pub const DRAWN_MAX: usize = 8_000;

/// At most so many pushes have a row in the table, the last ones.
pub const ROWS_MAX: usize = 2_000;

/// Writes a run's page.
pub fn write(path: &str, scenario: &Scenario, report: &Report, repeat: &str) -> Result<(), String> {
    std::fs::write(path, page(scenario, report, repeat)).map_err(|why| format!("cannot write {path}: {why}"))
}

/// A run's page. `repeat`: the command that repeats the run.
pub fn page(scenario: &Scenario, report: &Report, repeat: &str) -> String {
    bounded(scenario, report, repeat, DRAWN_MAX, ROWS_MAX)
}

/// As [`page`], with other bounds.
fn bounded(scenario: &Scenario, report: &Report, repeat: &str, drawn_max: usize, rows_max: usize) -> String {
    let story = &report.story;
    let (mut all, dull) = items(story);
    let cut = all.len().saturating_sub(drawn_max);
    let drawn = all.split_off(cut);
    let from = if cut == 0 { 0 } else { drawn.first().map_or(0, |item| item.until) };
    let mut out = String::new();
    head(&mut out, scenario, report, repeat);
    let led = what_led(&mut out, report, &drawn);
    let picture = Picture::new(story, from);
    controls(&mut out, story);
    let _ = writeln!(out, "<div id=\"box\">\n{}\n{}\n</div>", picture.heads(), picture.svg(&drawn, &led));
    out += "<p id=\"info\">&nbsp;</p>\n";
    left_out(&mut out, story, (cut, drawn.len()), from, dull);
    out += LEGEND;
    tables::faults(&mut out, story);
    tables::pushes(&mut out, story, rows_max);
    let _ = write!(out, "<script>\n{}</script>\n</body></html>\n", include_str!("page/page.js"));
    out
}

/// Text as HTML shows it, in elements and in quoted attributes. What cannot be seen, or turns the order of what can, is
/// spelled out.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for it in text.chars() {
        match it {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '"' => out += "&quot;",
            '\'' => out += "&#39;",
            '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}' => {
                out.extend(it.escape_unicode());
            }
            it if it.is_control() => out.extend(it.escape_default()),
            it => out.push(it),
        }
    }
    out
}

/// Title, command and outcome.
fn head(out: &mut String, scenario: &Scenario, report: &Report, repeat: &str) {
    let story = &report.story;
    let (name, seed, word) = (escape(&scenario.name), escape(&report.seed.text), escape(report.outcome.word()));
    let _ = write!(
        out,
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <title>{name}, seed {seed}: {word}</title>\n<style>\n{}</style></head>\n<body>\n",
        include_str!("page/page.css")
    );
    let class = if report.outcome.code() == 0 { "fine" } else { "bad" };
    let _ = writeln!(
        out,
        "<h1>{name}, seed {seed}: <span class=\"{class}\">{word}</span></h1>\n<pre>{}</pre>\n\
         <p>{} pushes · {} faults · {} virtual seconds · exit code {} · trace {:016x}</p>",
        escape(repeat),
        report.pushes,
        story.strikes.len(),
        seconds(story.end),
        report.outcome.code(),
        report.hash
    );
    if !scenario.path.is_empty() {
        let _ = writeln!(out, "<p>Scenario: <code>{}</code></p>", escape(&scenario.path));
    }
    for line in &endings(report) {
        let at = seconds(story.end);
        let _ = writeln!(
            out,
            "<p class=\"broken\"><a class=\"go\" data-t=\"{at}\" href=\"#box\">{at} s</a> {}</p>",
            escape(line)
        );
    }
    if report.outcome == Outcome::Clean && !story.violations.is_empty() {
        *out += "<p>The scenario is about this violation: it expects it.</p>\n";
    }
}

/// What ended the run, as sentences.
fn endings(report: &Report) -> Vec<String> {
    let broken = report.story.violations.iter().map(|it| format!("{}: {}", it.invariant, it.what));
    let mut lines: Vec<String> = broken.collect();
    lines.extend(report.outcome.lines().into_iter().filter(|_| report.story.violations.is_empty()));
    lines
}

/// The events that led to a bad end, in order, each with a way into the picture. Answers with their numbers, by their
/// places among what is drawn.
fn what_led(out: &mut String, report: &Report, drawn: &[Item<'_>]) -> BTreeMap<usize, usize> {
    let (story, lines) = (&report.story, endings(report));
    if lines.is_empty() {
        return BTreeMap::new();
    }
    let mut clues = Clues::of(story, &lines);
    let (found, named) = clues::led(story, drawn, &mut clues);
    let listed = &found[found.len().saturating_sub(LISTED_MAX)..];
    let led: BTreeMap<usize, usize> = listed.iter().enumerate().map(|(number, at)| (*at, number)).collect();
    let what = if named { "what it names, and what happened around it" } else { "it names no push, record or ref" };
    let _ = writeln!(
        out,
        "<h2>What led to it</h2>\n<p>The last {} of {} drawn events that belong to it ({what}), and the faults of the \
         last {} seconds. They are outlined in the picture.</p>\n<ol class=\"led\">",
        listed.len(),
        found.len(),
        clues::AROUND / crate::swarm::SECOND
    );
    let mut rows: Vec<(u64, String)> = Vec::new();
    for (number, place) in listed.iter().enumerate() {
        let (item, t) = (&drawn[*place], seconds(drawn[*place].at));
        let link = format!("<a class=\"go\" data-t=\"{t}\" href=\"#e{number}\">{t}</a>");
        rows.push((item.at, format!("<li class=\"{}\">{link} {}</li>", item.class, escape(&item.text))));
    }
    for struck in &story.strikes {
        let until = items::lasts(story, struck).unwrap_or(struck.at);
        let machine = if let items::Scope::Machine(lane) = items::scope(struck) { Some(lane) } else { None };
        if clues.concern(machine, until, story.end) {
            let (t, text) = (seconds(struck.at), escape(&items::fault(story, struck)));
            let link = format!("<a class=\"go\" data-t=\"{t}\" href=\"#box\">{t}</a>");
            rows.push((struck.at, format!("<li class=\"struck\">{link} {text}</li>")));
        }
    }
    rows.sort_by_key(|(at, _)| *at);
    rows.iter().for_each(|(_, row)| *out += &format!("{row}\n"));
    *out += "</ol>\n";
    led
}

fn controls(out: &mut String, story: &Story) {
    *out += "<h2>The run</h2>\n<form id=\"controls\">\
             <label>time <input id=\"zoom\" type=\"range\" min=\"-2\" max=\"6\" step=\"0.5\" value=\"0\"></label> \
             <label>only <input id=\"only\" placeholder=\"repository, ref\" list=\"repos\"></label>\
             <datalist id=\"repos\">";
    let repos: std::collections::BTreeSet<&str> =
        story.pushes.iter().filter_map(|push| push.about.repo.as_deref()).collect();
    for repo in repos {
        let _ = write!(out, "<option value=\"{}\">", escape(repo));
    }
    *out += "</datalist> <label>go to <select id=\"jump\">";
    let mut jump = |at: u64, text: &str| {
        let t = seconds(at);
        let _ = write!(out, "<option value=\"{t}\">{t} {}</option>", escape(text));
    };
    jump(0, "the beginning");
    for struck in &story.strikes {
        jump(struck.at, struck.strike.kind.name());
    }
    story.calm.into_iter().for_each(|calm| jump(calm, "faults stop"));
    jump(story.end, "the end");
    *out += "</select></label>";
    for layer in ["life", "push", "append", "shown", "mark", "fault"] {
        let _ = write!(out, " <label><input type=\"checkbox\" checked value=\"{layer}\">{layer}</label>");
    }
    *out += "</form>\n";
}

/// What is not in the picture.
fn left_out(out: &mut String, story: &Story, (cut, drawn): (usize, usize), from: u64, dull: usize) {
    let _ = write!(
        out,
        "<p>Drawn: {drawn} events and {} faults. Not drawn: {dull} heartbeats and barriers with which nothing was \
         wrong, {} reports of progress and chunks of packs, what copied machines show, reads, and work of disks.",
        story.strikes.len(),
        story.reports_and_chunks
    );
    if cut > 0 {
        let _ = write!(
            out,
            " <b>The picture begins at {} s: {cut} events that were over by then are left out, since more than {drawn} \
             would make it too large.</b>",
            seconds(from)
        );
    }
    *out += "</p>\n";
}

const LEGEND: &str = "<details open><summary>How to read it</summary>\n<p>Time goes down. A grey bar is a daemon \
that runs: a triangle where it starts, a cross where it stops. The bar left of it is a push from handing over to \
answer: <b class=\"k-ok\">ok</b>, <b class=\"k-no\">refused</b>, <b class=\"k-undecided\">undecided</b>, <b \
class=\"k-none\">never answered</b>. An arrow to the right is an append from its sending to its place in the log: <b \
class=\"k-prompt\">prompt</b>, <b class=\"k-late\">late or unknown to its sender</b>; one that ends on the way was \
<b class=\"k-no\">refused (cross)</b> or <b class=\"k-none\">lost (ring)</b>. In the log a dot is a record that \
counts, a cross a push of which nothing was accepted, a ring one that is void, was lost again or was read by nobody; \
a record without an arrow is a stranger's. An arrow to the left is a site that shows a record's refs, and a green \
ring beside a bar a site that shows what no known record holds, as after a loss of the log. Dashes lead to what is \
void or gone. Diamonds are membership, disks and what people did behind a daemon. Coloured bands are faults, bolts \
are strikes. Point at anything for the whole of it; a push leads to its row below.</p></details>\n";
