//! What a daemon appends to `pushdata` is a record that every site can read. Rubbish comes from strangers only. And no
//! update that the table takes names a ref that some site's Git, or its file system, would refuse.
//!
//! A record that does not parse is void for everybody, and its own daemon cannot tell it from rubbish: the client would
//! wait for a verdict that nobody gives. A name that is decided and cannot be set hangs at every site for ever. Catches
//! pushes that no record can hold, and are not refused before the append, and rules of names that let too much through:
//! they stand here once more, by hand.

use refrain_core::ids::{Offset, Partition};

use super::broken;
use super::pushes::{FINE, judged_updates};
use crate::observed::{Event, Invariant, Observed, Violation};

const NAME: &str = "records-parse";

/// See the module.
#[derive(Debug)]
pub(super) struct RecordsParse;

impl Invariant for RecordsParse {
    fn name(&self) -> &'static str {
        NAME
    }

    fn promise(&self) -> &'static str {
        "every record that a daemon appends parses, and no ref that is taken has a name that Git would refuse"
    }

    fn check(&mut self, seen: &Observed, event: &Event) -> Vec<Violation> {
        let Event::Appended { partition, offset } = event else { return Vec::new() };
        let unread = unread(seen, *partition, *offset);
        let Some(decision) = seen.naive.decision(*partition, *offset) else { return unread.into_iter().collect() };
        let taken = judged_updates(decision).filter(|(_, word)| FINE.contains(word));
        let unsound = taken.filter_map(|(update, _)| {
            let why = flaw(update.name.as_str())?;
            let what = format!("partition {partition} offset {offset}: {:?} was taken, which {why}", update.name);
            Some(broken(NAME, what))
        });
        unread.into_iter().chain(unsound).collect()
    }
}

fn unread(seen: &Observed, partition: Partition, offset: Offset) -> Option<Violation> {
    let entry = seen.log.get(&partition).and_then(|log| log.last()).filter(|entry| entry.offset == offset);
    let daemon = entry.and_then(|entry| entry.by)?;
    let parsed = seen.naive.decision(partition, offset).is_none_or(|it| it.record.is_some());
    let what = format!("daemon {daemon} appended at partition {partition} offset {offset} what nobody can read");
    (!parsed).then(|| broken(NAME, what))
}

/// What `git help check-ref-format` says against a name, or the limits that are frozen beside it (DESIGN section 4).
fn flaw(name: &str) -> Option<&'static str> {
    let components: Vec<&str> = name.split('/').collect();
    let any = |is_bad: fn(&str) -> bool| components.iter().any(|component| is_bad(component));
    let no_name_has = |byte: u8| byte <= b' ' || byte == 0x7f || b"~^:?*[\\".contains(&byte);
    let flaws = [
        (components[0] != "refs" || components.len() < 3, "is not below a directory of refs/"),
        (any(str::is_empty), "has an empty component, or a slash at its end"),
        (any(|it| it.starts_with('.')), "has a component that begins with '.'"),
        (any(|it| it.ends_with(".lock")), "has a component that ends with .lock"),
        (name.ends_with('.'), "ends with '.'"),
        (name.contains(".."), "has '..' in it"),
        (name.contains("@{"), "has '@{' in it"),
        (name.bytes().any(no_name_has), "has a byte in it that no name has"),
        (any(|it| it.len() > 200), "has a component of more than 200 bytes"),
        (name.len() > 1_000, "has more than 1,000 bytes"),
        (components.len() > 32, "has more than 32 components"),
        (components.get(1) == Some(&"refrain"), "is reserved"),
    ];
    flaws.into_iter().find(|(is_so, _)| *is_so).map(|(_, why)| why)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::testing::{World, absent, run, update, value};

    #[test]
    fn what_a_daemon_writes_and_nobody_can_read_is_found() {
        for (twice, by, found) in [(false, Some(1), 0), (true, Some(1), 1), (true, None, 0)] {
            let mut world = World::opened(&["ams"]);
            let refs = [update("a", absent(), value(1)), update("a", absent(), value(1))];
            let appended = world.push("ams", false, if twice { &refs } else { &refs[..1] });
            world.seen.log.values_mut().flatten().for_each(|entry| entry.by = by);
            assert_eq!(run(&mut RecordsParse, &world, &[appended]).len(), found, "{twice} {by:?}");
        }
    }

    #[test]
    fn a_good_name_has_no_flaw() {
        for name in ["refs/heads/main", "refs/tags/v1.0", "refs/x/y", "refs/heads/@", "refs/heads/-a", "refs/heads/ü"]
        {
            assert_eq!(flaw(name), None, "{name}");
        }
        let components = format!("refs/heads{}", "/a".repeat(30));
        let longest = format!("refs{}/{}", format!("/{}", "x".repeat(200)).repeat(4), "x".repeat(191));
        assert_eq!((flaw(&components), longest.len(), flaw(&longest)), (None, 1_000, None));
    }

    #[test]
    fn what_git_or_a_limit_refuses_is_a_flaw() {
        let git = [
            "HEAD",
            "heads/main",
            "refs",
            "refs/",
            "refs/heads",
            "refs/heads/",
            "refs//a",
            "refs/heads//a",
            "refs/heads/.a",
            "refs/.heads/a",
            "refs/heads/a.lock",
            "refs/heads/a.lock/b",
            "refs/heads/a.",
            "refs/heads/a..b",
            "refs/heads/a@{1",
            "refs/heads/a b",
            "refs/heads/a\n",
            "refs/heads/a\u{7f}",
            "refs/heads/a~",
            "refs/heads/a^",
            "refs/heads/a:b",
            "refs/heads/a?",
            "refs/heads/a*",
            "refs/heads/a[",
            "refs/heads/a\\b",
            "refs/refrain/keep/1",
            "/refs/heads/a",
        ];
        let component = format!("refs/heads/{}", "x".repeat(201));
        let bytes = format!("refs{}/{}", format!("/{}", "x".repeat(200)).repeat(4), "x".repeat(192));
        let components = format!("refs/heads{}", "/a".repeat(31));
        for name in git.into_iter().chain([&component[..], &bytes, &components]) {
            assert!(flaw(name).is_some(), "{name}");
        }
    }
}
