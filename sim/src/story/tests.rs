//! Tests of the story.

use super::*;
use crate::run::{Outcome, Report, Seed, Wanted, run};
use crate::scenario::Scenario;

/// Two sites and a script: `sfo` hears nothing of the log while `ams` moves a ref, then takes a push on the old value.
const SCRIPT: &str = r#"
site_names = ["ams", "sfo"]
repos = 1
partitions = [1, 1]
seconds = 60
clients = 0
every_seconds = 10
replicated_percent = 0
ack = "log"
without = ["configure", "recreate", "member", "large"]
faults = []
fault = [
    { at = 20, kind = "one-way", site = "sfo", lasts = 15, dice = 1 },
    { at = 40, kind = "crash", site = "ams" },
]
push = [
    { at = 10, site = "ams", ref = "refs/heads/main", new = "W0", answer = "ok" },
    { at = 21, site = "ams", ref = "refs/heads/main", old = "W0", new = "W1", answer = "ok" },
    { at = 30, site = "sfo", ref = "refs/heads/main", old = "W0", new = "W2" },
]
"#;

fn told(text: &str, seed: u64) -> Report {
    let scenario = Scenario::parse(text).expect("a scenario");
    run(&scenario, &Seed::number(seed), None, Wanted { trace: false, story: true })
}

#[test]
fn a_story_changes_no_run() {
    let scenario = Scenario { seconds: 200, clients: 4, every_seconds: 10, ..Scenario::default() };
    for seed in 0..3 {
        let seed = Seed::number(seed);
        let without = run(&scenario, &seed, None, false);
        let with = run(&scenario, &seed, None, Wanted { trace: false, story: true });
        assert_eq!((without.hash, &without.outcome), (with.hash, &with.outcome));
        assert_eq!((without.handles, without.pushes), (with.handles, with.pushes));
        assert!(without.story.appends.is_empty() && without.story.daemons.is_empty(), "nobody wanted it");
        assert_eq!(with.story.pushes.len() as u64, with.pushes);
    }
}

#[test]
fn a_push_is_followed_to_its_record_and_to_the_sites_that_show_it() {
    let report = told(SCRIPT, 1);
    assert_eq!(report.outcome, Outcome::Clean);
    let story = &report.story;
    let records = |push: usize| story.appends.iter().filter(move |it| it.push == Some(push)).collect::<Vec<_>>();
    let [first] = records(0)[..] else { panic!("one record") };
    let sent = first.sent.expect("by a daemon");
    assert_eq!((first.what.kind, first.landed.len()), ("push", 1));
    assert!(first.landed[0].says("accepted") && !first.landed[0].is_disputed());
    let push = &story.pushes[0];
    assert!(push.sent == 10_000_000 && push.sent < sent && sent < first.landed[0].at);
    assert!(first.landed[0].at < push.told.expect("answered ok"));
    let place = Some((Partition(0), first.landed[0].offset));
    let shown: Vec<usize> = story.shown.iter().filter(|it| it.record == place).map(|it| it.lane).collect();
    assert_eq!(shown.len(), 2, "both sites show it: {:?}", story.shown);
    // The second one reaches sfo only when it hears of the log again.
    let second = Some((Partition(0), records(1)[0].landed[0].offset));
    let late = story.shown.iter().find(|it| it.record == second && it.lane == 1).expect("shown at sfo");
    assert!(late.at > 35_000_000, "{late:?}");
}

#[test]
fn faults_and_lives_have_their_times_and_places() {
    let story = told(SCRIPT, 1).story;
    let strikes: Vec<_> = story.strikes.iter().map(|it| (it.strike.kind.name(), it.strike.host, it.at)).collect();
    assert_eq!(strikes, [("one-way", 1, 20_000_000), ("crash", 0, 40_000_000)]);
    assert_eq!(story.strikes[0].until, Some(35_000_000));
    assert_eq!(story.calm, Some(60_000_000));
    assert_eq!(story.machines, ["ams", "sfo"]);
    let ends: Vec<_> = story.daemons.iter().map(|life| (life.lane, life.to.as_ref().map(|it| it.1.as_str()))).collect();
    let killed = story.daemons.iter().position(|life| life.to.is_some()).expect("one is killed");
    assert_eq!((ends.len(), ends[killed]), (3, (0, Some("killed"))));
    assert!(story.daemons[killed].to.as_ref().is_some_and(|(at, _)| *at >= 40_000_000));
    assert_eq!(story.daemons[2].lane, 0, "its supervisor starts another one");
}

#[test]
fn appends_of_which_nobody_knows_are_told_from_others() {
    let text =
        SCRIPT.replace("fault = [\n", "fault = [\n    { at = 9, kind = \"log-down\", site = \"ams\", lasts = 8 },\n");
    let story = told(&text.replace(", answer = \"ok\"", ""), 2).story;
    let down = |it: &&Sending| it.sent.is_some_and(|at| (9_000_000..17_000_000).contains(&at));
    let during: Vec<&Sending> = story.appends.iter().filter(down).collect();
    assert!(!during.is_empty());
    for sending in during {
        let durable = matches!(sending.told, Some((_, Told::Durable)));
        assert!(!durable, "the log answers nobody: {sending:?}");
        assert!(sending.landed.iter().all(|landing| landing.at >= 17_000_000), "{sending:?}");
    }
}

#[test]
fn a_copied_machine_has_a_lane_and_membership_its_marks() {
    let fault = "fault = [\n    { at = 12, kind = \"second-daemon\", site = \"sfo\", lasts = 20, dice = 1 },\n";
    let story = told(&SCRIPT.replace("fault = [\n", fault).replace(", answer = \"ok\"", ""), 1).story;
    assert_eq!(story.machines, ["ams", "sfo", "sfo'"]);
    assert!(story.daemons.iter().any(|life| life.lane == 2));
    let file = include_str!("../../../scenarios/mixed/membership.toml").replace("seconds = 1800", "seconds = 600");
    let story = told(&file, 0).story;
    let member: Vec<&Noted> = story.notes.iter().filter(|note| note.kind == "member").collect();
    assert!(member.iter().any(|note| note.text.contains("draining") || note.text.contains("evicted")), "{member:?}");
    assert!(member.iter().all(|note| note.lane.is_some()));
}
