//! The picture: time goes down, a lane for each machine and each partition. Owns coordinates and SVG; where a thing
//! stands in time is in `y`, `y1` and `y2` alone, so that the script can stretch time by them.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::escape;
use super::items::{self, Item, Scope, Shape, lasts, scope, seconds};
use crate::fault::Kind;
use crate::story::{Place, Story, Struck};
use crate::swarm::SECOND;

const GUTTER: f64 = 64.0;
const LANE: f64 = 112.0;
const GAP: f64 = 28.0;
const LOG_LANE: f64 = 64.0;
/// So that there is room for a sentence.
const WIDTH_MIN: f64 = 600.0;
/// Above the first moment, for what must not touch the heads of the lanes.
const TOP: f64 = 20.0;
/// Below the last one, for what broke then.
const BOTTOM: f64 = 40.0;

/// Where everything stands.
#[derive(Debug)]
pub(super) struct Picture<'a> {
    story: &'a Story,
    /// The first moment.
    from: u64,
    /// Pixels a second.
    scale: f64,
}

impl<'a> Picture<'a> {
    /// An hour is some 16,000 pixels high at first; what is short is drawn larger.
    pub(super) fn new(story: &'a Story, from: u64) -> Self {
        let span = (story.end.saturating_sub(from) / SECOND).max(1);
        Self { story, from, scale: (16_000 / span).clamp(2, 100) as f64 }
    }

    fn y(&self, at: u64) -> String {
        let us = at as f64 - self.from as f64;
        format!("{:.2}", TOP + us / SECOND as f64 * self.scale)
    }

    fn machine(&self, lane: usize) -> f64 {
        GUTTER + LANE * (lane as f64 + 0.5)
    }

    fn log(&self) -> f64 {
        GUTTER + LANE * self.story.machines.len() as f64 + GAP
    }

    fn place(&self, place: Place) -> f64 {
        let nth = match place {
            Place::Partition(partition) => partition.0,
            Place::Replicated => self.story.partitions,
        };
        self.log() + LOG_LANE * (f64::from(nth) + 0.5)
    }

    fn width(&self) -> f64 {
        (self.log() + LOG_LANE * f64::from(self.story.partitions + 1) + 8.0).max(WIDTH_MIN)
    }

    /// The names of the lanes, to stay above the picture while it scrolls.
    pub(super) fn heads(&self) -> String {
        let mut out = format!("<div id=\"heads\" style=\"width:{}px\">", self.width());
        let mut head = |x: f64, wide: f64, name: &str, what: &str| {
            let (left, name) = (x - wide / 2.0, escape(name));
            // Writing to a string cannot fail.
            let _ = write!(out, "<span style=\"left:{left}px;width:{wide}px\" title=\"{what}\">{name}</span>");
        };
        head(GUTTER / 2.0, GUTTER, "seconds", "virtual time");
        for (lane, name) in self.story.machines.iter().enumerate() {
            let copy = name.ends_with('\'');
            let what = if copy { "a copy of this site's machine" } else { "this site's machine" };
            head(self.machine(lane), LANE, name, what);
        }
        for partition in (0..self.story.partitions).map(refrain_core::ids::Partition) {
            head(self.place(Place::Partition(partition)), LOG_LANE, &format!("log {partition}"), "a log partition");
        }
        head(self.place(Place::Replicated), LOG_LANE, "published", "replicatedpushdata");
        out + "</div>"
    }

    /// The whole picture. `led`: places in `items` that led to the end, each with its number
    /// there: they get the ids `e0`, `e1` and so on.
    pub(super) fn svg(&self, items: &[Item<'_>], led: &BTreeMap<usize, usize>) -> String {
        let (story, width) = (self.story, self.width());
        let height: f64 = self.y(story.end).parse::<f64>().unwrap_or(TOP) + BOTTOM;
        let mut out = format!(
            "<svg id=\"pic\" xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
             data-k=\"{}\" data-from=\"{}\" data-to=\"{}\">\n{DEFS}\n<g id=\"ticks\">",
            self.scale,
            seconds(self.from),
            seconds(story.end)
        );
        self.ticks(&mut out);
        out += "</g>\n";
        self.lanes(&mut out);
        let mut bands: Vec<&Struck> = story.strikes.iter().collect();
        bands.sort_by_key(|struck| struck.at);
        let mut taken: Vec<(usize, usize, u64)> = Vec::new();
        let mut labels = String::new();
        for struck in bands.iter().filter(|it| lasts(story, it).unwrap_or(it.at) >= self.from) {
            self.fault(&mut out, &mut labels, struck, &mut taken);
        }
        // What is large lies below what is small.
        for layer in 0..4 {
            for (at, item) in items.iter().enumerate().filter(|(_, item)| layer_of(&item.shape) == layer) {
                self.item(&mut out, item, led.get(&at).copied());
            }
        }
        out += &labels;
        self.lines(&mut out);
        out + "</svg>"
    }

    fn ticks(&self, out: &mut String) {
        let step = if self.scale < 10.0 { 10 } else { 2 };
        for second in (self.from.div_ceil(SECOND)..=self.story.end / SECOND).filter(|it| it.is_multiple_of(step)) {
            let (y, width) = (self.y(second * SECOND), self.width());
            let _ = write!(out, "<line x1=\"{GUTTER}\" y1=\"{y}\" x2=\"{width}\" y2=\"{y}\"/>");
            let _ = write!(out, "<text x=\"4\" y=\"{y}\" dy=\"3\">{second}</text>");
        }
    }

    fn lanes(&self, out: &mut String) {
        let (top, end) = (self.y(self.from), self.y(self.story.end));
        let machines = (0..self.story.machines.len()).map(|lane| self.machine(lane));
        let partitions =
            (0..self.story.partitions).map(|it| self.place(Place::Partition(refrain_core::ids::Partition(it))));
        for x in machines.chain(partitions).chain([self.place(Place::Replicated)]) {
            let _ = write!(out, "<line class=\"lane\" x1=\"{x}\" y1=\"{top}\" x2=\"{x}\" y2=\"{end}\"/>");
        }
        out.push('\n');
    }

    /// A band as wide as what the fault is about, with a label; a strike has a mark instead of a band. Labels of bands
    /// that overlap on one lane stand below each other.
    fn fault(&self, out: &mut String, labels: &mut String, struck: &Struck, taken: &mut Vec<(usize, usize, u64)>) {
        let (left, wide) = match scope(struck) {
            Scope::Machine(lane) => (self.machine(lane) - LANE / 2.0, LANE - 4.0),
            Scope::Sites => (GUTTER, LANE * self.story.machines.len() as f64),
            Scope::Log => (self.log(), LOG_LANE * f64::from(self.story.partitions + 1)),
        };
        let column = left as usize;
        let until = lasts(self.story, struck);
        let reach = until.unwrap_or(struck.at) + (14.0 / self.scale * SECOND as f64) as u64;
        let busy = |slot: &usize| taken.iter().any(|it| it.0 == column && it.1 == *slot && it.2 > struck.at);
        let slot = (0..8).find(|slot| !busy(slot)).unwrap_or(0);
        taken.push((column, slot, reach));
        let (y1, y2) = (self.y(struck.at.max(self.from)), self.y(until.unwrap_or(struck.at)));
        let text = escape(&items::fault(self.story, struck));
        let (kind, name) = (class_of(struck.strike.kind), struck.strike.kind.name());
        let (middle, strip) = (left + wide / 2.0, left + 3.0 + 6.0 * slot as f64);
        let _ = write!(out, "<g class=\"fault {kind}\"><title>{text}</title>");
        if until.is_some() {
            let _ = write!(
                out,
                "<line class=\"band\" x1=\"{middle}\" y1=\"{y1}\" x2=\"{middle}\" y2=\"{y2}\" stroke-width=\"{wide}\"/>\
                 <line class=\"strip\" x1=\"{strip}\" y1=\"{y1}\" x2=\"{strip}\" y2=\"{y2}\"/>"
            );
        } else {
            let _ = write!(out, "<use href=\"#bolt\" x=\"{strip}\" y=\"{y1}\"/>");
        }
        *out += "</g>\n";
        let (x, dy) = (strip + 5.0, 9 + 10 * slot);
        let _ = writeln!(
            labels,
            "<g class=\"fault {kind}\"><title>{text}</title><text x=\"{x}\" y=\"{y1}\" dy=\"{dy}\">{name}</text></g>"
        );
    }

    fn item(&self, out: &mut String, item: &Item<'_>, led: Option<usize>) {
        let kind = match &item.shape {
            Shape::Life(_) => "life",
            Shape::Push(_) => "push",
            Shape::Append { .. } => "append",
            Shape::Shown { .. } => "shown",
            Shape::Mark(_) => "mark",
        };
        let (class, text) = (item.class, escape(&item.text));
        let _ = match led {
            Some(number) => write!(out, "<g id=\"e{number}\" class=\"{kind} {class} led\""),
            None => write!(out, "<g class=\"{kind} {class}\""),
        };
        if let Some(about) = item.about.filter(|about| about.repo.is_some()) {
            let _ = write!(out, " data-k=\"{}\"", escape(&items::named(about)));
        }
        let _ = write!(out, "><title>{text}</title>");
        match &item.shape {
            Shape::Life(lane) => {
                let x = self.machine(*lane);
                self.line(out, "", (x, item.at.max(self.from)), (x, item.until));
                if item.at >= self.from {
                    self.mark(out, "start", x, item.at);
                }
                if item.class == "dies" {
                    self.mark(out, "cross", x, item.until);
                }
            }
            Shape::Push(lane) => {
                let x = self.machine(*lane) - 9.0;
                let _ = write!(out, "<a href=\"#p{}\">", item.push.unwrap_or_default());
                self.line(out, "", (x, item.at), (x, item.until));
                *out += "</a>";
            }
            Shape::Append { from, place, ends } => self.append(out, item, *from, *place, ends),
            Shape::Shown { from, to } => {
                let x = self.machine(*to) + 6.0;
                match from {
                    Some((place, at)) => self.line(out, "", (self.place(*place), *at), (x, item.at)),
                    None => self.mark(out, "ring", x, item.at),
                }
            }
            Shape::Mark(lane) => {
                let x = lane.map_or(self.log() - 10.0, |lane| self.machine(lane) + 14.0);
                self.mark(out, "diamond", x, item.at);
            }
        }
        *out += "</g>\n";
    }

    fn append(&self, out: &mut String, item: &Item<'_>, from: Option<usize>, place: Place, ends: &[(u64, &str)]) {
        let to = self.place(place);
        let start = from.map(|lane| (self.machine(lane) + 3.0, item.at));
        for (at, judged) in ends {
            if let Some(start) = start {
                self.line(out, judged, start, (to - 5.0, *at));
            }
            let y = self.y(*at);
            let glyph = match *judged {
                "counts" => "dot",
                "rejected" => "cross",
                _ => "ring",
            };
            let _ = write!(out, "<use class=\"{judged}\" href=\"#{glyph}\" x=\"{to}\" y=\"{y}\"/>");
        }
        if let (Some(start), []) = (start, ends) {
            // Nothing came of it: it ends on the way.
            let x = start.0 + (to - start.0) * 0.4;
            self.line(out, "", start, (x, item.until));
            self.mark(out, if item.class == "refused" { "cross" } else { "ring" }, x, item.until);
        }
    }

    fn line(&self, out: &mut String, class: &str, from: (f64, u64), to: (f64, u64)) {
        let class = if class.is_empty() { String::new() } else { format!(" class=\"{class}\"") };
        let (x1, y1, x2, y2) = (from.0, self.y(from.1), to.0, self.y(to.1));
        let _ = write!(out, "<line{class} x1=\"{x1:.0}\" y1=\"{y1}\" x2=\"{x2:.0}\" y2=\"{y2}\"/>");
    }

    fn mark(&self, out: &mut String, glyph: &str, x: f64, at: u64) {
        let _ = write!(out, "<use href=\"#{glyph}\" x=\"{x:.0}\" y=\"{}\"/>", self.y(at));
    }

    /// Where faults stop, and where the run ends.
    fn lines(&self, out: &mut String) {
        let (story, width) = (self.story, self.width());
        let mut line = |class: &str, at: u64, text: &str, dy: i32| {
            let (y, text) = (self.y(at), escape(text));
            let _ = write!(
                out,
                "<g class=\"{class}\"><line x1=\"0\" y1=\"{y}\" x2=\"{width}\" y2=\"{y}\"/>\
                 <text x=\"{GUTTER}\" y=\"{y}\" dy=\"{dy}\">{text}</text></g>"
            );
        };
        if let Some(calm) = story.calm.filter(|calm| *calm >= self.from) {
            line("calm", calm, &format!("faults stop at {} s", seconds(calm)), -4);
        }
        let names: Vec<&str> = story.violations.iter().map(|it| it.invariant).collect();
        let end = match names.as_slice() {
            [] => ("end", format!("the run ends at {} s", seconds(story.end))),
            [name] => ("end broken", format!("{name} violated at {} s", seconds(story.end))),
            [name, more @ ..] => {
                ("end broken", format!("{name} and {} more violated at {} s", more.len(), seconds(story.end)))
            }
        };
        line(end.0, story.end, &end.1, 14);
    }
}

fn layer_of(shape: &Shape) -> usize {
    match shape {
        Shape::Life(_) => 0,
        Shape::Shown { .. } => 1,
        Shape::Append { .. } => 2,
        Shape::Push(_) | Shape::Mark(_) => 3,
    }
}

/// What kind of thing a fault is about, for its colour.
fn class_of(kind: Kind) -> &'static str {
    match kind {
        Kind::Crash | Kind::Power | Kind::Pause | Kind::SecondDaemon => "f-machine",
        Kind::AppendUnknown
        | Kind::LogDown
        | Kind::LogLost
        | Kind::OffsetGaps
        | Kind::Garbage
        | Kind::PackdataExpired => "f-log",
        Kind::Loss | Kind::Duplicate | Kind::Delay | Kind::Partition | Kind::OneWay => "f-net",
        Kind::OldJournal
        | Kind::OldBackup
        | Kind::RottenRow
        | Kind::DiskLost
        | Kind::SlowDisk
        | Kind::DiskFull
        | Kind::TornRefs
        | Kind::ForeignLock
        | Kind::ForeignRefs
        | Kind::ForeignShape
        | Kind::Gc => "f-disk",
        Kind::ClockStep | Kind::ClockDrift => "f-clock",
    }
}

const DEFS: &str = r##"<defs><circle id="dot" r="3.5"/><circle id="ring" r="3.5"/>
<path id="cross" d="M-4-4 4 4M-4 4 4-4"/><path id="diamond" d="M0-6 6 0 0 6-6 0z"/>
<path id="start" d="M-5-4h10l-5 8z"/><path id="bolt" d="M1-7-4 1h4l-1 6 5-8h-4z"/>
<marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" markerUnits="userSpaceOnUse"
 orient="auto"><path d="M0 0 8 4 0 8z" fill="context-stroke"/></marker></defs>"##;
