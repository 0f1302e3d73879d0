//! A story's facts as things to draw: each with its time, a sentence, and what it is about. Decides which of them are
//! worth a place in the picture; knows nothing of HTML.

use refrain_core::ids::{Offset, Oid, Partition};

use crate::fault::Kind;
use crate::story::{About, Life, Noted, Place, Pushed, Sending, Shown, Story, Struck, Told};
use crate::swarm::SECOND;

/// An append that is not durable within so many microseconds is late.
const LATE: u64 = 5 * SECOND;

/// One thing to draw.
#[derive(Debug)]
pub(super) struct Item<'a> {
    /// When it began.
    pub at: u64,
    /// When it was over.
    pub until: u64,
    /// How it is drawn.
    pub shape: Shape,
    /// What came of it, as a word of the style sheet.
    pub class: &'static str,
    /// The whole of it in a sentence.
    pub text: String,
    /// Repository and refs.
    pub about: Option<&'a About>,
    /// The push that it belongs to.
    pub push: Option<u64>,
    /// The records that it belongs to.
    pub records: Vec<(Partition, Offset)>,
}

/// How a thing is drawn.
#[derive(Debug)]
pub(super) enum Shape {
    /// A daemon's life, on its machine's lane.
    Life(usize),
    /// A push from handing over to answer, beside it.
    Push(usize),
    /// An arrow from a machine (or from nowhere) to each place where the append became durable, or a stub.
    Append { from: Option<usize>, place: Place, ends: Vec<(u64, &'static str)> },
    /// An arrow from a record to the machine that shows it.
    Shown { from: Option<(Place, u64)>, to: usize },
    /// A mark at a machine, or at the log.
    Mark(Option<usize>),
}

/// All of a story, and how many heartbeats and barriers are left out because nothing was the matter with them.
pub(super) fn items(story: &Story) -> (Vec<Item<'_>>, usize) {
    let mut items: Vec<Item<'_>> = Vec::new();
    items.extend(story.daemons.iter().enumerate().map(|(number, life)| lived(story, number, life)));
    items.extend(story.pushes.iter().map(|push| pushed(story, push)));
    let dull = |sending: &&Sending| !is_dull(sending);
    items.extend(story.appends.iter().filter(dull).map(|sending| appended(story, sending)));
    items.extend(story.shown.iter().map(|shown| showed(story, shown)));
    items.extend(story.notes.iter().map(|note| noted(story, note)));
    items.sort_by_key(|item| item.until);
    let left_out = story.appends.iter().filter(|sending| is_dull(sending)).count();
    (items, left_out)
}

/// A machine's name.
pub(super) fn machine(story: &Story, lane: usize) -> &str {
    story.machines.get(lane).map_or("?", String::as_str)
}

/// Seconds as the trace writes them, to the millisecond.
pub(super) fn seconds(us: u64) -> String {
    format!("{}.{:03}", us / SECOND, us % SECOND / 1000)
}

/// Repository and refs in words.
pub(super) fn named(about: &About) -> String {
    let mut words: Vec<&str> = about.repo.as_deref().into_iter().collect();
    words.extend(about.names.iter().map(String::as_str));
    let more = if about.more > 0 { format!(" and {} refs more", about.more) } else { String::new() };
    format!("{}{more}", words.join(" "))
}

/// A value for people: seven digits, or that there is none.
pub(super) fn short(value: Option<Oid>) -> String {
    value.map_or_else(|| "absent".to_string(), |oid| oid.short())
}

fn lived<'a>(story: &Story, number: usize, life: &Life) -> Item<'a> {
    let until = life.to.as_ref().map_or(story.end, |(at, _)| *at);
    let whose = machine(story, life.lane);
    let how = if life.take_over { ", taking the site over" } else { "" };
    let ready = life.ready.map_or("never ready".to_string(), |at| format!("ready at {} s", seconds(at)));
    let end = match &life.to {
        Some((at, how)) => format!("{how} at {} s", seconds(*at)),
        None => "ran to the end".to_string(),
    };
    let text = format!("daemon {number} of {whose} starts at {} s{how}; {ready}; {end}", seconds(life.from));
    let class = if life.to.is_some() { "dies" } else { "lives" };
    Item { at: life.from, until, shape: Shape::Life(life.lane), class, text, about: None, push: None, records: vec![] }
}

fn pushed<'a>(story: &'a Story, push: &'a Pushed) -> Item<'a> {
    let died = story.daemons.get(push.daemon as usize).and_then(|life| life.to.as_ref()).map(|(at, _)| *at);
    let until = push.told.or(died).unwrap_or(story.end).max(push.sent);
    let atomic = if push.atomic { "atomic " } else { "" };
    let text = format!(
        "{atomic}push {} at {} (daemon {}): {}; handed over at {} s; {}",
        push.id,
        machine(story, push.lane),
        push.daemon,
        named(&push.about),
        seconds(push.sent),
        answer(push)
    );
    let (shape, about) = (Shape::Push(push.lane), Some(&push.about));
    Item { at: push.sent, until, shape, class: outcome(push), text, about, push: Some(push.id), records: vec![] }
}

/// What a push's client was told, in words.
pub(super) fn answer(push: &Pushed) -> String {
    let Some(answers) = &push.answers else { return "never answered".to_string() };
    let words: Vec<String> = answers
        .iter()
        .map(|(text, count)| if *count > 1 { format!("{text} ({count} refs)") } else { text.clone() })
        .collect();
    let after = push.told.map(|at| format!(" after {} s", seconds(at.saturating_sub(push.sent)))).unwrap_or_default();
    format!("{}{after}", words.join("; "))
}

/// The same as a word of the style sheet.
pub(super) fn outcome(push: &Pushed) -> &'static str {
    let Some(answers) = &push.answers else { return "none" };
    let begins = |word: &str| answers.keys().any(|text| text.starts_with(word));
    match () {
        () if answers.keys().all(|text| text == "ok") => "ok",
        () if begins("undecided") => "undecided",
        () => "no",
    }
}

/// What became of an append, as a word of the style sheet.
pub(super) fn fate(story: &Story, sending: &Sending) -> &'static str {
    let sent = sending.sent.unwrap_or_default();
    let doubted = |at: u64| matches!(sending.told, Some((told, Told::Unknown)) if told < at);
    match (sending.landed.first(), sending.told) {
        (Some(_), _) if sending.lane.is_none() => "alien",
        (Some(first), _) if first.at > sent + LATE || doubted(first.at) => "late",
        (Some(_), _) => "prompt",
        (None, Some((_, Told::Refused))) => "refused",
        (None, None) if sent + LATE > story.end => "open",
        (None, _) => "lost",
    }
}

/// Heartbeats and barriers that did what they should.
fn is_dull(sending: &Sending) -> bool {
    let [landing] = sending.landed.as_slice() else { return false };
    let sent = sending.sent.unwrap_or_default();
    let asked = !matches!(sending.told, Some((_, Told::Unknown | Told::Refused)));
    let prompt = landing.at < sent + SECOND && asked && sending.lane.is_some();
    matches!(sending.what.kind, "heartbeat" | "barrier") && prompt && !landing.gone && !landing.says("void")
}

fn appended<'a>(story: &'a Story, sending: &'a Sending) -> Item<'a> {
    let first = sending.landed.first().map(|landing| landing.at);
    let at = sending.sent.or(first).unwrap_or_default();
    let last = sending.landed.last().map(|landing| landing.at);
    let until = last.or(sending.told.map(|(at, _)| at)).unwrap_or(at).max(at);
    let class = fate(story, sending);
    let ends = sending.landed.iter().map(|landing| {
        let judged = match () {
            () if landing.gone => "gone",
            () if sending.place == Place::Replicated => "counts",
            () if landing.words.is_empty() && landing.reference.is_empty() => "unread",
            () if landing.says("void") => "void",
            () if ["accepted", "counted", "unchanged"].iter().any(|word| landing.says(word)) => "counts",
            () => "rejected",
        };
        (landing.at, judged)
    });
    let shape = Shape::Append { from: sending.lane, place: sending.place, ends: ends.collect() };
    let records = match sending.place {
        Place::Partition(partition) => sending.landed.iter().map(|it| (partition, it.offset)).collect(),
        Place::Replicated => vec![],
    };
    let push = sending.push.and_then(|at| story.pushes.get(at)).map(|push| push.id);
    Item { at, until, shape, class, text: history(story, sending), about: Some(&sending.what.about), push, records }
}

/// An append in words.
fn history(story: &Story, sending: &Sending) -> String {
    let (what, place) = (&sending.what, lane_of_log(sending.place));
    let about = if what.about.repo.is_some() { format!(" for {}", named(&what.about)) } else { String::new() };
    let by = match (sending.lane, sending.sent) {
        (Some(lane), Some(sent)) => {
            format!("sent to {place} by {} (daemon {}) at {} s", machine(story, lane), sending.daemon, seconds(sent))
        }
        _ => format!("in {place}, by a stranger"),
    };
    let mut text = format!("{} ({}){about}: {by}", what.kind, what.whose);
    for landing in &sending.landed {
        let words = match sending.place {
            Place::Partition(_) => format!(": {}", verdict(landing)),
            Place::Replicated => String::new(),
        };
        let gone = if landing.gone { ", and gone later" } else { "" };
        text += &format!("; durable at {} s as offset {}{words}{gone}", seconds(landing.at), landing.offset);
    }
    if sending.landed.is_empty() {
        text += match fate(story, sending) {
            "refused" => "; never durable",
            "open" => "; on its way when the run ended",
            _ => "; lost: it never became durable",
        };
    }
    let told = match sending.told {
        Some((at, told)) => format!("; told {} at {} s", format!("{told:?}").to_lowercase(), seconds(at)),
        None if sending.lane.is_some() => "; its sender was never told".to_string(),
        None => String::new(),
    };
    text + &told
}

/// What a landed record came to, in words.
pub(super) fn verdict(landing: &crate::story::Landing) -> String {
    let word = |(word, count): &(&str, usize)| if *count > 1 { format!("{word} ×{count}") } else { word.to_string() };
    let all = |words: &[(&str, usize)]| words.iter().map(word).collect::<Vec<_>>().join(" ");
    let (said, reference) = (all(&landing.words), all(&landing.reference));
    match () {
        () if said.is_empty() && reference.is_empty() => "nobody folded it".to_string(),
        () if said.is_empty() => format!("{reference} (by the reference; no daemon had folded it yet)"),
        () if landing.is_disputed() => format!("{said}, but the reference says {reference}"),
        () => said,
    }
}

/// A lane of the log, in words.
pub(super) fn lane_of_log(place: Place) -> String {
    match place {
        Place::Partition(partition) => format!("partition {partition}"),
        Place::Replicated => "replicatedpushdata".to_string(),
    }
}

fn showed<'a>(story: &Story, shown: &'a Shown) -> Item<'a> {
    let landed = shown.record.and_then(|(partition, offset)| story.landing(partition, offset));
    let from = shown.record.zip(landed).map(|((partition, _), landing)| (Place::Partition(partition), landing.at));
    let by = match shown.record {
        Some((partition, offset)) => format!("partition {partition} offset {offset}"),
        None => "no record that is known".to_string(),
    };
    let after = from.map(|(_, at)| format!(", {} s after it was durable", seconds(shown.at.saturating_sub(at))));
    let text = format!(
        "{} shows {} at {} from {} s on, by {by}{}",
        machine(story, shown.lane),
        named(&shown.about),
        short(shown.to),
        seconds(shown.at),
        after.unwrap_or_default()
    );
    let (shape, records) = (Shape::Shown { from, to: shown.lane }, shown.record.into_iter().collect());
    let class = if from.is_some() { "set" } else { "unexplained" };
    Item { at: shown.at, until: shown.at, shape, class, text, about: Some(&shown.about), push: None, records }
}

fn noted<'a>(story: &Story, note: &'a Noted) -> Item<'a> {
    let whose = note.lane.map_or("the log", |lane| machine(story, lane));
    let text = format!("{whose}: {} at {} s", note.text, seconds(note.at));
    let (shape, about) = (Shape::Mark(note.lane), Some(&note.about));
    Item { at: note.at, until: note.at, shape, class: note.kind, text, about, push: None, records: vec![] }
}

/// Where a fault strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// One machine.
    Machine(usize),
    /// All of the sites'.
    Sites,
    /// The log.
    Log,
}

/// Where a fault strikes.
pub(super) fn scope(struck: &Struck) -> Scope {
    match struck.strike.kind {
        Kind::AppendUnknown
        | Kind::LogDown
        | Kind::LogLost
        | Kind::OffsetGaps
        | Kind::Garbage
        | Kind::PackdataExpired => Scope::Log,
        Kind::Crash | Kind::Power if struck.strike.dice % 6 == 5 => Scope::Sites,
        _ => Scope::Machine(struck.strike.host),
    }
}

/// How long a fault is in force; `None`: it strikes, and is over.
pub(super) fn lasts(story: &Story, struck: &Struck) -> Option<u64> {
    let until = struck.until.unwrap_or(story.end).min(story.calm.unwrap_or(u64::MAX)).max(struck.at);
    match struck.strike.kind {
        Kind::Crash
        | Kind::Power
        | Kind::Garbage
        | Kind::RottenRow
        | Kind::DiskLost
        | Kind::ForeignRefs
        | Kind::ForeignShape
        | Kind::Gc
        | Kind::PackdataExpired
        | Kind::ClockStep => None,
        _ => Some(until).filter(|until| *until > struck.at),
    }
}

/// A fault in words.
pub(super) fn fault(story: &Story, struck: &Struck) -> String {
    let place = match scope(struck) {
        Scope::Machine(lane) => machine(story, lane).to_string(),
        Scope::Sites => "all sites".to_string(),
        Scope::Log => "the log".to_string(),
    };
    let time = match lasts(story, struck) {
        Some(until) => format!("from {} to {} s", seconds(struck.at), seconds(until)),
        None => format!("at {} s", seconds(struck.at)),
    };
    let way = match (struck.strike.kind, struck.strike.dice % 4) {
        (Kind::OneWay, 0) => " (nothing goes to the log)",
        (Kind::OneWay, 1) => " (nothing comes from the log)",
        (Kind::OneWay, 2) => " (nothing goes to other sites)",
        (Kind::OneWay, _) => " (nothing comes from other sites)",
        _ => "",
    };
    format!("{}{way} at {place} {time}: {}", struck.strike.kind.name(), struck.strike.kind.story())
}
