//! Tests of the page.

use refrain_core::mutant::Mutant;

use super::*;
use crate::observed::Violation;
use crate::run::{Seed, Wanted, run};
use crate::story::{About, Pushed};

const WANTED: Wanted = Wanted { trace: false, story: true };

/// A cut link, a crash of all, and a log that is down; and pushes enough to see them.
const FAULTS: &str = r#"
site_names = ["ams", "sfo", "syd"]
repos = 2
partitions = [2, 2]
seconds = 90
clients = 3
every_seconds = 4
faults = []
fault = [
    { at = 20.5, kind = "partition", site = "sfo", lasts = 12 },
    { at = 40, kind = "crash", site = "ams", dice = 5 },
    { at = 50, kind = "log-down", site = "ams", lasts = 6.25 },
    { at = 60, kind = "second-daemon", site = "syd", lasts = 15, dice = 1 },
    { at = 80, kind = "slow-disk", site = "syd", lasts = 500 },
]
"#;

fn scripted(seed: u64) -> (Scenario, Report) {
    let scenario = Scenario { name: "faults".to_string(), ..Scenario::parse(FAULTS).expect("a scenario") };
    let report = run(&scenario, &Seed::number(seed), None, WANTED);
    (scenario, report)
}

/// The attribute of the first element behind `mark`.
fn attribute<'a>(text: &'a str, mark: &str, name: &str) -> &'a str {
    let from = text.find(mark).unwrap_or_else(|| panic!("no {mark}"));
    let rest = &text[from..];
    let at = rest.find(&format!(" {name}=\"")).expect("the attribute") + name.len() + 3;
    rest[at..].split('"').next().expect("closed")
}

#[test]
fn what_is_hostile_is_escaped() {
    assert_eq!(escape("<a href='x'>&\"</a>"), "&lt;a href=&#39;x&#39;&gt;&amp;&quot;&lt;/a&gt;");
    assert_eq!(escape("a\u{202e}b\u{0}c\n"), "a\\u{202e}b\\u{0}c\\n");
    assert_eq!(escape("größe → 1"), "größe → 1");

    let evil = "refs/heads/</title></svg><script>alert(1)</script>\"' onload='x";
    let (mut scenario, mut report) = scripted(1);
    scenario.name = format!("s{evil}");
    scenario.path = format!("p{evil}");
    report.story.machines[1] = format!("m{evil}");
    report.story.violations.push(Violation { invariant: "at-rest", what: format!("push 0: v{evil} refs/heads/x") });
    let about = About { repo: Some(format!("r{evil}")), names: vec![evil.to_string()], more: 0 };
    let answers = Some([(format!("stale: {evil}"), 1)].into());
    for push in &mut report.story.pushes {
        let remote = vec![evil.to_string()];
        *push = Pushed { about: about.clone(), answers: answers.clone(), remote, ack: evil.into(), ..push.clone() };
    }
    report.story.appends.iter_mut().for_each(|sending| sending.what.about = about.clone());
    report.story.shown.iter_mut().for_each(|shown| shown.about = about.clone());
    let text = page(&scenario, &report, &format!("refrain-sim run {evil}"));
    assert_eq!(text.matches("<script").count(), 1, "the page's own");
    assert!(!text.contains("alert(1)</script>") && !text.contains("' onload='") && !text.contains("\"' "));
    assert!(text.matches("&lt;/title&gt;&lt;/svg&gt;&lt;script&gt;").count() > 20, "it is there, as text");
}

#[test]
fn the_same_seed_gives_the_same_bytes_and_nothing_is_loaded() {
    let ((scenario, first), (_, second)) = (scripted(3), scripted(3));
    let pages = [first, second].map(|report| page(&scenario, &report, "refrain-sim run faults.toml --seed 3"));
    assert_eq!(pages[0], pages[1]);
    assert!(pages[0].contains("<pre>refrain-sim run faults.toml --seed 3</pre>"));
    for loads in ["src=", "<link", "url(h", "@import", "fetch(", "import("] {
        assert!(!pages[0].contains(loads), "{loads}");
    }
    assert_eq!(pages[0].matches("://").count(), 1, "the name of SVG alone");
    assert_ne!(page(&scenario, &scripted(4).1, "refrain-sim run faults.toml --seed 3"), pages[0]);
}

#[test]
fn a_violation_is_named_with_the_seed_and_what_led_to_it() {
    let scenario = Scenario { seconds: 120, ..Scenario::built_in() };
    let mutant = Some(Mutant::ExpectedOldIgnored);
    let report = run(&scenario, &Seed::number(3), mutant, WANTED);
    let Outcome::Violated(violations) = &report.outcome else { panic!("it is caught: {:?}", report.outcome) };
    let text = page(&scenario, &report, "refrain-sim run --seed 3 --mutant expected-old-ignored");
    let name = violations[0].invariant;
    assert!(text.contains(&format!("<h1>default, seed 3: <span class=\"bad\">{name}</span></h1>")));
    assert!(text.contains("exit code 100"));
    assert!(text.contains("<pre>refrain-sim run --seed 3 --mutant expected-old-ignored</pre>"));
    assert!(text.contains(&escape(&format!("{name}: {}", violations[0].what))));
    // Others may be violated by the same event.
    let (_, line) = text.split_once(&format!(">{name} ")).expect("it is in the picture");
    let (line, _) = line.split_once("</text>").expect("its end");
    assert!(line.ends_with(&format!("violated at {} s", seconds(report.story.end))), "{line}");
    let (_, list) = text.split_once("<h2>What led to it</h2>").expect("a list");
    let list = list.split("</ol>").next().expect("its end");
    assert!(list.contains("but the reference says stale"), "the record that should not count: {list}");
    assert!(list.contains("what it names") && list.contains("href=\"#e0\""));
    assert!(text.contains("<g id=\"e0\""), "and it is in the picture");
}

#[test]
fn a_sentence_leads_to_its_push_its_record_and_whoever_showed_it() {
    let (_, report) = scripted(1);
    let story = &report.story;
    let (all, _) = items(story);
    let shown = story.shown.iter().find(|it| it.record.is_some()).expect("something was shown");
    let (partition, offset) = shown.record.expect("found above");
    let line = format!("sfo: partition {partition} offset {offset}: whatever");
    let mut clues = Clues::of(story, &[line]);
    let (led, named) = clues::led(story, &all, &mut clues);
    assert!(named && led.windows(2).all(|pair| all[pair[0]].at <= all[pair[1]].at), "in order");
    let kinds = |of: fn(&items::Shape) -> bool| led.iter().filter(|at| of(&all[**at].shape)).count();
    assert!(kinds(|it| matches!(it, items::Shape::Push(_))) > 0);
    assert!(kinds(|it| matches!(it, items::Shape::Append { .. })) > 0);
    assert!(kinds(|it| matches!(it, items::Shape::Shown { .. })) > 0);
    assert!(led.len() < all.len() / 2, "not everything: {} of {}", led.len(), all.len());
    let mut nothing = Clues::of(story, &["time stands still".to_string()]);
    let (last, named) = clues::led(story, &all, &mut nothing);
    assert!(!named && last.contains(&(all.len() - 1)));
}

#[test]
fn faults_are_bands_on_the_right_lanes_at_the_right_times() {
    let (scenario, report) = scripted(2);
    let text = page(&scenario, &report, "");
    assert!(text.contains("partition at sfo from 20.500 to 32.500 s"));
    assert!(text.contains("crash at all sites at 40.000 s"));
    assert!(text.contains("log-down at the log from 50.000 to 56.250 s"));
    assert!(text.contains("slow-disk at syd from 80.000 to 90.000 s"), "calm heals it");
    let lane = |name: &str| -> f64 {
        let head = text.split("<span style=\"left:").find(|head| head.contains(&format!(">{name}</span>")));
        let (left, rest) = head.expect("a lane").split_once("px;width:").expect("two numbers");
        let wide = rest.split("px").next().expect("a number");
        left.parse::<f64>().expect("a number") + wide.parse::<f64>().expect("a number") / 2.0
    };
    let scale: f64 = attribute(&text, "<svg id=\"pic\"", "data-k").parse().expect("a number");
    let band = |title: &str, name: &str| -> f64 { attribute(&text, title, name).parse().expect("a number") };
    let cut = "<title>partition at sfo";
    assert!((band(cut, "x1") - lane("sfo")).abs() < 4.0);
    assert!((band(cut, "y1") - 20.0 - 20.5 * scale).abs() < 0.1);
    assert!((band(cut, "y2") - 20.0 - 32.5 * scale).abs() < 0.1);
    let down = band("<title>log-down", "x1");
    assert!(lane("log 0") < down && down < lane("published"));
    assert!(lane("syd") < lane("syd&#39;") && lane("syd&#39;") < lane("log 0"), "a copied machine has its lane");
    assert!(text.contains("faults stop at 90.000 s"));
    assert!((band("<g class=\"calm\"", "y1") - 20.0 - 90.0 * scale).abs() < 0.1);
}

#[test]
fn a_long_story_is_cut_at_its_beginning_and_says_so() {
    let (scenario, report) = scripted(2);
    let whole = page(&scenario, &report, "");
    let (all, dull) = items(&report.story);
    let drawn = |text: &str| -> usize {
        ["life", "push", "append", "shown", "mark"]
            .map(|it| text.matches(&format!("<g class=\"{it} ")).count())
            .iter()
            .sum()
    };
    assert!(all.len() > 100 && !whole.contains("left out"));
    assert_eq!(drawn(&whole), all.len());
    assert!(dull > 0 && whole.contains(&format!("Not drawn: {dull} heartbeats")));

    let text = bounded(&scenario, &report, "", 50, 7);
    assert_eq!(drawn(&text), 50);
    let (cut, from) = (all.len() - 50, seconds(all[all.len() - 50].until));
    assert!(
        text.contains(&format!("The picture begins at {from} s: {cut} events that were over by then are left out"))
    );
    assert_eq!(attribute(&text, "<svg id=\"pic\"", "data-from"), from);
    assert_eq!(text.matches("<tr id=\"p").count(), 7);
    assert!(text.contains(&format!("The first {} are left out", report.story.pushes.len() - 7)));
    assert!(text.len() < whole.len());
    assert!(text.contains("log-down at the log from 50.000"), "faults stay in their table");
}

#[test]
fn a_page_that_cannot_be_written_is_said() {
    let (scenario, report) = scripted(1);
    let why = write("/nowhere/at/all.html", &scenario, &report, "").expect_err("there is no such folder");
    assert!(why.starts_with("cannot write /nowhere/at/all.html: "), "{why}");
}
