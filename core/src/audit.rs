//! Anti-entropy between this site's Git and the tables: what somebody changed behind the daemon is found and put back.
//!
//! Goes round all repositories, a batch at a time: one digest a repository while all is well, pages of names where it
//! differs. Owns where the round is and what it waits for. Promises to judge only refs that nothing was happening to
//! between its questions and the answers, so that it never takes a push in flight for a stranger's change; sets nothing
//! itself, the projection does.

mod watch;

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use crate::config::{AUDIT_EVERY, AUDIT_REST, Config, Limits, RECENT_REFS_MAX};
use crate::consumer::{Strayed, shape_of};
use crate::ids::{Digest, Incarnation, Offset, Oid, Partition};
use crate::mutant::{Mutant, Mutants};
use crate::names::{RefName, RepoName};
use crate::partition::Part;
use crate::port::{GitEffect, JournalEffect, Now, Out, Owner, RepoShape, Rows, Summed};
use crate::record::Have;
use crate::table::{RefEntry, TableEntry, TableKey};
use crate::time::Instant;

pub(crate) use watch::Watch;

/// A repository that is looked at.
#[derive(Clone, Debug)]
struct Subject {
    partition: Partition,
    repo: RepoName,
    shape: RepoShape,
    refs: (Digest, u64),
    /// HEAD or settings are to be put back, once the refs are.
    reshape: bool,
}

impl Subject {
    fn life(&self) -> Incarnation {
        self.shape.incarnation
    }
}

/// What is waited for.
#[derive(Debug)]
enum Step {
    /// The next round.
    Rest,
    /// The journal lists repositories.
    Listing,
    /// Git sums up refs.
    Digesting(Vec<Subject>),
    /// Git tells a page of refs.
    Reading(Subject, Option<RefName>),
    /// The journal tells the same page of the table.
    Comparing(Subject, Option<RefName>, Vec<(RefName, Oid)>),
}

/// The state machine.
#[derive(Debug)]
pub(crate) struct Audit {
    limits: Limits,
    mutants: Mutants,
    step: Step,
    due: Instant,
    begun: Instant,
    /// The last repository listed.
    after: Option<(Partition, RepoName)>,
    /// The round ends with this batch.
    last_batch: bool,
    /// Repositories of this batch that need a closer look.
    suspects: Vec<Subject>,
}

impl Audit {
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            limits: config.limits,
            mutants: config.mutants,
            step: Step::Rest,
            due: Instant::default(),
            begun: Instant::default(),
            after: None,
            last_batch: false,
            suspects: Vec::new(),
        }
    }

    /// Begins a round when one is due.
    pub(crate) fn step(&mut self, now: Now, out: &mut Out, parts: &mut [Part]) {
        if matches!(self.step, Step::Rest) && now.at >= self.due && !self.mutants.on(Mutant::ForeignKept) {
            self.begun = now.at;
            self.after = None;
            self.list(out, parts);
        }
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        (matches!(self.step, Step::Rest) && !self.mutants.on(Mutant::ForeignKept)).then_some(self.due)
    }

    fn list(&mut self, out: &mut Out, parts: &mut [Part]) {
        // Before the journal is asked: what changes from here on may be missing in its answer.
        parts.iter_mut().for_each(Part::watch);
        self.step = Step::Listing;
        let op = out.ask(Owner::AuditRows);
        let rows = Rows::Repos { after: self.after.clone() };
        out.journal(JournalEffect::ReadRows { op, rows, max: self.limits.audit_batch });
    }

    /// The journal's answer.
    pub(crate) fn rows(
        &mut self,
        now: Now,
        out: &mut Out,
        parts: &mut [Part],
        rows: Vec<(Partition, TableKey, TableEntry)>,
    ) {
        match core::mem::replace(&mut self.step, Step::Rest) {
            Step::Listing => self.listed(now, out, parts, rows),
            Step::Comparing(subject, after, git) => {
                let whole = rows.len() < self.limits.audit_page;
                let table = rows.into_iter().filter_map(|(_, key, entry)| match (key, entry) {
                    (TableKey::Ref(_, name), TableEntry::Ref(entry)) => Some((name, entry)),
                    _ => None,
                });
                self.compare(now, out, parts, (subject, after), git, (table.collect(), whole));
            }
            other => self.step = other,
        }
    }

    fn listed(&mut self, now: Now, out: &mut Out, parts: &mut [Part], rows: Vec<(Partition, TableKey, TableEntry)>) {
        self.last_batch = rows.len() < self.limits.audit_batch;
        let mut subjects = Vec::new();
        for (partition, key, entry) in rows {
            let (TableKey::Repo(repo), TableEntry::Repo(entry)) = (key, entry) else { continue };
            self.after = Some((partition, repo.clone()));
            let (shape, refs) = (shape_of(&entry), (entry.refs_digest, entry.refs));
            subjects.push(Subject { partition, repo, shape, refs, reshape: false });
        }
        let key = parts[0].fold.control().opened.as_ref().map(|opened| opened.digest_key);
        let Some(key) = key.filter(|_| !subjects.is_empty()) else { return self.next(now, out, parts) };
        let repos = subjects.iter().map(|subject| (subject.repo.clone(), subject.shape.clone())).collect();
        self.step = Step::Digesting(subjects);
        let op = out.ask(Owner::AuditDigests);
        out.git(GitEffect::DigestRefs { op, repos, key });
    }

    /// Git's sums, `None` where a repository could not be read.
    pub(crate) fn digests(&mut self, now: Now, out: &mut Out, parts: &mut [Part], digests: Vec<Option<Summed>>) {
        let Step::Digesting(subjects) = core::mem::replace(&mut self.step, Step::Rest) else { return };
        self.suspects.clear();
        for (subject, summed) in subjects.into_iter().zip(digests) {
            let (Some(summed), Some(part)) = (summed, parts.get_mut(subject.partition.0 as usize)) else { continue };
            let touched = part.touched(&subject.repo);
            let reshape = !touched && !summed.in_shape && !self.mutants.on(Mutant::ShapeKept);
            if touched || summed.refs != subject.refs {
                self.suspects.push(Subject { reshape, ..subject });
            } else if reshape {
                part.put_shape_back(now, out, &subject.repo, &subject.shape);
            }
        }
        self.next(now, out, parts);
    }

    /// On to the next suspect, batch or round.
    fn next(&mut self, now: Now, out: &mut Out, parts: &mut [Part]) {
        match self.suspects.pop() {
            Some(subject) => self.look(now, out, parts, subject, None),
            None if self.last_batch => {
                parts.iter_mut().for_each(Part::unwatch);
                self.step = Step::Rest;
                self.due = (self.begun + AUDIT_EVERY).max(now.at + AUDIT_REST);
            }
            None => self.list(out, parts),
        }
    }

    fn look(&mut self, now: Now, out: &mut Out, parts: &mut [Part], subject: Subject, after: Option<RefName>) {
        let Some(part) = parts.get_mut(subject.partition.0 as usize) else { return self.next(now, out, parts) };
        if !part.look_at(&subject.repo, subject.life()) {
            return self.next(now, out, parts);
        }
        let op = out.ask(Owner::AuditRefs);
        out.git(GitEffect::ReadRefs {
            op,
            repo: subject.repo.clone(),
            after: after.clone(),
            max: self.limits.audit_page,
        });
        self.step = Step::Reading(subject, after);
    }

    /// A page of Git's refs in the order of their names, `None` if it could not be read.
    pub(crate) fn refs(&mut self, now: Now, out: &mut Out, parts: &mut [Part], refs: Option<Vec<(RefName, Oid)>>) {
        let Step::Reading(subject, after) = core::mem::replace(&mut self.step, Step::Rest) else { return };
        let Some(refs) = refs else { return self.next(now, out, parts) };
        let op = out.ask(Owner::AuditRows);
        let rows = Rows::Refs { partition: subject.partition, life: subject.life(), after: after.clone() };
        out.journal(JournalEffect::ReadRows { op, rows, max: self.limits.audit_page });
        self.step = Step::Comparing(subject, after, refs);
    }

    fn compare(
        &mut self,
        now: Now,
        out: &mut Out,
        parts: &mut [Part],
        (subject, _): (Subject, Option<RefName>),
        git: Vec<(RefName, Oid)>,
        (table, table_whole): (Vec<(RefName, RefEntry)>, bool),
    ) {
        let Some(part) = parts.get_mut(subject.partition.0 as usize) else { return self.next(now, out, parts) };
        // Only what both pages cover can be compared; the rest is for the next page.
        let git_end = git.last().filter(|_| git.len() >= self.limits.audit_page).map(|(name, _)| name.clone());
        let table_end = table.last().filter(|_| !table_whole).map(|(name, _)| name.clone());
        let end = match (git_end, table_end) {
            (Some(git), Some(table)) => Some(git.min(table)),
            (git, table) => git.or(table),
        };
        let covered = |name: &RefName| end.as_ref().is_none_or(|end| name <= end);
        let mut table: BTreeMap<RefName, RefEntry> = table.into_iter().filter(|(name, _)| covered(name)).collect();
        let (mut strayed, mut right) = (Vec::new(), Vec::new());
        for (name, actual) in git.into_iter().filter(|(name, _)| covered(name)) {
            let entry = table.remove(&name);
            match entry.as_ref().filter(|entry| entry.value == actual) {
                Some(entry) if !part.touched_ref(&name) => right.push((entry.since, name, actual)),
                Some(_) => {}
                None => strayed.push(Strayed { name, actual: Some(actual), entry }),
            }
        }
        strayed.extend(table.into_iter().map(|(name, entry)| Strayed { name, actual: None, entry: Some(entry) }));
        strayed.retain(|it| self.mutants.on(Mutant::AuditRaces) || !part.touched_ref(&it.name));
        if !strayed.is_empty() {
            part.put_back(now, out, &subject.repo, subject.life(), (strayed, newest(right)));
        }
        if let Some(end) = end {
            return self.look(now, out, parts, subject, Some(end));
        }
        // After the refs: they are not taken while the shape is, and nobody knows whether that succeeds.
        if subject.reshape {
            part.put_shape_back(now, out, &subject.repo, &subject.shape);
        }
        self.next(now, out, parts);
    }
}

/// Where proofs of what is put back may stop: at the refs set last among those that are where they belong. Without them
/// a single stray ref would cost a walk over the whole history.
fn newest(mut right: Vec<(Offset, RefName, Oid)>) -> Vec<Have> {
    right.sort_unstable_by(|one, other| other.cmp(one));
    right.truncate(RECENT_REFS_MAX);
    // What these are at needs no base from the log, so no record is named.
    right.into_iter().map(|(_, name, value)| Have { name, value, since: None }).collect()
}

#[cfg(test)]
mod tests {
    use alloc::collections::BTreeSet;
    use alloc::format;
    use alloc::vec;

    use super::*;
    use crate::ids::Offset;
    use crate::names::SiteId;
    use crate::partition::watched::tests::part;
    use crate::port::{ClientEffect, Effect, Notice};
    use crate::table::RepoEntry;

    const PAGE: usize = 5;
    const BATCH: usize = 3;

    fn config() -> Config {
        let ams = SiteId::parse("ams").expect("valid");
        let limits = Limits { audit_page: PAGE, audit_batch: BATCH, ..Limits::PRODUCTION };
        Config { limits, ..Config::new(ams.clone(), vec![ams], 1) }
    }

    fn repo(name: &str) -> RepoName {
        RepoName::parse(name).expect("valid")
    }

    fn name(at: usize) -> RefName {
        RefName::parse(&format!("refs/heads/b{at:05}")).expect("valid")
    }

    fn entry(value: Oid) -> RefEntry {
        RefEntry { value, since: Offset(7), time_ms: 0, site: SiteId::parse("ams").expect("valid") }
    }

    fn repo_entry(incarnation: Incarnation) -> RepoEntry {
        let head = RefName::parse("refs/heads/main").expect("valid");
        RepoEntry {
            incarnation,
            head,
            description: Default::default(),
            deny_deletes: false,
            deny_non_fast_forwards: false,
            read_only: None,
            visibility: crate::record::Visibility::Applied,
            git: Default::default(),
            refs_digest: Digest(0),
            refs: 0,
            recent: vec![],
        }
    }

    /// Who is said to have been changed, and from where Git is asked to go on.
    fn compared(git: Vec<(RefName, Oid)>, table: Vec<RefName>) -> (Vec<RefName>, Option<RefName>) {
        let (mut out, mut parts, life) = (Out::default(), [part()], Incarnation(5));
        let mut audit = Audit::new(&config());
        parts[0].watch();
        assert!(parts[0].look_at(&repo("demo"), life));
        let shape = shape_of(&repo_entry(life));
        let subject =
            Subject { partition: Partition(0), repo: repo("demo"), shape, refs: (Digest(0), 0), reshape: false };
        audit.step = Step::Comparing(subject, None, git);
        audit.last_batch = true;
        let row = |name| (Partition(0), TableKey::Ref(life, name), TableEntry::Ref(entry(Oid([1; 20]))));
        audit.rows(Now::default(), &mut out, &mut parts, table.into_iter().map(row).collect());
        let (mut told, mut on) = (vec![], None);
        for effect in out.take() {
            match effect {
                Effect::Client(ClientEffect::Notice(Notice::ForeignRef { name, .. })) => told.push(name),
                Effect::Git(GitEffect::ReadRefs { after, .. }) => on = after,
                _ => {}
            }
        }
        (told, on)
    }

    #[test]
    fn the_last_ref_of_a_page_is_compared_too() {
        let mut git: Vec<_> = (0..PAGE).map(|at| (name(at), Oid([1; 20]))).collect();
        git[PAGE - 1].1 = Oid([2; 20]);
        let last = name(PAGE - 1);
        let (told, on) = compared(git, (0..PAGE).map(name).collect());
        assert_eq!((told, on), (vec![last.clone()], Some(last)));
    }

    #[test]
    fn what_only_one_of_two_pages_covers_is_left_for_the_next() {
        // Somebody removed the first ref, so Git's page ends one name later than the table's.
        let git = (1..=PAGE).map(|at| (name(at), Oid([1; 20]))).collect();
        let (told, on) = compared(git, (0..PAGE).map(name).collect());
        assert_eq!((told, on), (vec![name(0)], Some(name(PAGE - 1))));
        // And somebody made one: the table's page ends later.
        let git: Vec<_> = (0..PAGE).map(|at| (name(at), Oid([1; 20]))).collect();
        let (told, on) = compared(git, (1..=PAGE).map(name).collect());
        assert_eq!((told, on), (vec![name(0)], Some(name(PAGE - 1))));
    }

    #[test]
    fn a_round_goes_on_behind_a_full_batch() {
        let (mut out, mut parts) = (Out::default(), [part()]);
        let mut audit = Audit::new(&config());
        audit.step(Now::default(), &mut out, &mut parts);
        let all: Vec<RepoName> = (0..BATCH).map(|at| repo(&format!("r{at:03}"))).collect();
        let row = |name: &RepoName| {
            (Partition(0), TableKey::Repo(name.clone()), TableEntry::Repo(repo_entry(Incarnation(1))))
        };
        out.take();
        audit.rows(Now::default(), &mut out, &mut parts, all.iter().map(row).collect());
        audit.digests(Now::default(), &mut out, &mut parts, vec![None; BATCH]);
        let asked = out.take().into_iter().find_map(|effect| match effect {
            Effect::Journal(JournalEffect::ReadRows { rows: Rows::Repos { after }, .. }) => Some(after),
            _ => None,
        });
        assert_eq!(asked, Some(Some((Partition(0), all[BATCH - 1].clone()))));
    }

    #[test]
    fn a_look_that_takes_long_remembers_only_so_much() {
        let limits = config().limits;
        let mut watch = Watch::new(BTreeSet::new(), BTreeMap::new(), limits);
        watch.look_at(&repo("demo"), BTreeSet::new());
        for at in 0..1_000 {
            watch.pushed(&repo("demo"), [name(at), name(1_000 + at)].iter());
            watch.reshaped(&repo(&format!("r{at}")), None);
        }
        assert!(watch.len() <= 4 * limits.audit_page + 3, "{}", watch.len());
        assert!(watch.touched(&repo("another")) && watch.touched_ref(&name(5_000)), "it may be any of them");
        assert!(watch.is_over(&repo("another"), Incarnation(1)));
    }

    #[test]
    fn nothing_is_said_of_what_was_overtaken_before_the_start() {
        let mark = part().consumer.mark(Offset(10_000));
        assert!(mark.applied(Offset(5)) && !mark.flushed(Offset(5)));
    }

    #[test]
    fn a_repository_with_work_under_way_is_looked_at_ref_by_ref() {
        let (mut out, mut parts) = (Out::default(), [part()]);
        let life = Incarnation(5);
        parts[0].cache.set(TableKey::Ref(life, name(0)), None);
        parts[0].cache.set(TableKey::Repo(repo("demo")), Some(TableEntry::Repo(repo_entry(life))));
        parts[0].watch();
        let shape = shape_of(&repo_entry(life));
        let subject =
            Subject { partition: Partition(0), repo: repo("demo"), shape, refs: (Digest(0), 0), reshape: false };
        let mut audit = Audit::new(&config());
        audit.last_batch = true;
        audit.step = Step::Digesting(vec![subject]);
        audit.digests(
            Now::default(),
            &mut out,
            &mut parts,
            vec![Some(Summed { refs: (Digest(1), 1), in_shape: true })],
        );
        assert!(out.take().iter().any(|effect| matches!(effect, Effect::Git(GitEffect::ReadRefs { .. }))));
    }

    #[test]
    fn refs_are_put_back_before_a_shape_that_may_not_be() {
        let (mut out, mut parts) = (Out::default(), [part()]);
        let (now, entry) = (Now::default(), repo_entry(Incarnation(5)));
        parts[0].consumer.open(now, &mut out);
        parts[0].watch();
        let (shape, refs) = (shape_of(&entry), (Digest(0), 0));
        let subject = Subject { partition: Partition(0), repo: repo("demo"), shape, refs, reshape: false };
        let mut audit = Audit::new(&config());
        audit.last_batch = true;
        audit.step = Step::Digesting(vec![subject]);
        out.take();
        audit.digests(now, &mut out, &mut parts, vec![Some(Summed { refs: (Digest(1), 1), in_shape: false })]);
        audit.refs(now, &mut out, &mut parts, Some(vec![(name(0), Oid([1; 20]))]));
        audit.rows(now, &mut out, &mut parts, vec![]);
        let orders = out.take().into_iter().filter_map(|effect| match effect {
            Effect::Git(GitEffect::EnsureRepo { .. }) => Some("shape"),
            Effect::Git(GitEffect::SetRefs { .. }) => Some("refs"),
            _ => None,
        });
        assert_eq!(orders.collect::<Vec<_>>(), ["refs"], "the shape waits until that is done");
        parts[0].consumer.refs_set(now, &mut out, &repo("demo"), vec![crate::port::RefSet::Done], &[]);
        let shapes = out.take().into_iter().filter(|it| matches!(it, Effect::Git(GitEffect::EnsureRepo { .. })));
        assert_eq!(shapes.count(), 1);
    }

    #[test]
    fn a_repository_that_is_out_of_shape_is_made_right_unless_something_happens_to_it() {
        for (in_shape, is_touched, made) in [(false, false, true), (false, true, false), (true, false, false)] {
            let (mut out, mut parts) = (Out::default(), [part()]);
            let (now, entry) = (Now::default(), repo_entry(Incarnation(5)));
            parts[0].consumer.open(now, &mut out);
            if is_touched {
                parts[0].cache.set(TableKey::Repo(repo("demo")), Some(TableEntry::Repo(entry.clone())));
            }
            parts[0].watch();
            let shape = shape_of(&entry);
            let subject = Subject {
                partition: Partition(0),
                repo: repo("demo"),
                shape: shape.clone(),
                refs: (Digest(0), 0),
                reshape: false,
            };
            let mut audit = Audit::new(&config());
            audit.last_batch = true;
            audit.step = Step::Digesting(vec![subject]);
            out.take();
            audit.digests(now, &mut out, &mut parts, vec![Some(Summed { refs: (Digest(0), 0), in_shape })]);
            let is_made = |effect: &Effect| {
                let Effect::Git(GitEffect::EnsureRepo { shape: wanted, if_absent, .. }) = effect else { return false };
                wanted.as_ref() == Some(&shape) && !if_absent
            };
            let effects = out.take();
            assert_eq!(effects.iter().any(is_made), made, "{effects:?}");
            if made {
                let told = |effect: &Effect| {
                    matches!(effect, Effect::Client(ClientEffect::Notice(Notice::ForeignShape { .. })))
                };
                assert!(effects.iter().any(told));
                assert_eq!(parts[0].consumer.mark(Offset(10_000)).except, [], "what records say is applied");
                assert_eq!(parts[0].consumer.busy_repos().count(), 1);
                assert_eq!(parts[0].consumer.commit(), [], "and not journalled");
                parts[0].consumer.ensured(now, &mut out, &repo("demo"), crate::port::Ensured::Done);
                assert_eq!(parts[0].consumer.busy_repos().count(), 0);
            }
        }
    }
}
