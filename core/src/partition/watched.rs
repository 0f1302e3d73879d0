//! What watchers ask of a partition: the audit what happens while it compares Git with the tables, and to put back what
//! differs; others to stop.
//!
//! Promises that nothing is put back once the partition has stopped, or in a life of the repository that is over.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use super::Part;
use crate::audit::Watch;
use crate::consumer::Strayed;
use crate::ids::{Incarnation, Offset};
use crate::names::{RefName, RepoName, SiteId};
use crate::port::{Now, Out, RepoShape};
use crate::record::Have;

impl Part {
    /// From here on it is remembered what happens, beginning with what is under way.
    pub(crate) fn watch(&mut self) {
        let lives = self.cache.unsaved_lives();
        let repos = lives.keys().chain(self.consumer.busy_repos()).cloned().collect();
        self.watch = Some(Watch::new(repos, lives, self.config.limits));
    }

    /// And what happens to a repository's refs. False if nothing can be said of it now.
    pub(crate) fn look_at(&mut self, repo: &RepoName, life: Incarnation) -> bool {
        let mut refs = self.cache.unsaved_refs(life);
        refs.extend(self.consumer.busy_refs(repo).cloned());
        let Some(watch) = &mut self.watch else { return false };
        watch.look_at(repo, refs);
        !watch.is_over(repo, life) && !self.consumer.is_reshaped(repo)
    }

    pub(crate) fn unwatch(&mut self) {
        self.watch = None;
    }

    pub(crate) fn touched(&self, repo: &RepoName) -> bool {
        self.watch.as_ref().is_none_or(|watch| watch.touched(repo))
    }

    pub(crate) fn touched_ref(&self, name: &RefName) -> bool {
        self.watch.as_ref().is_none_or(|watch| watch.touched_ref(name))
    }

    /// Refs that somebody changed go back to what the table says.
    pub(crate) fn put_back(
        &mut self,
        now: Now,
        out: &mut Out,
        repo: &RepoName,
        life: Incarnation,
        look: (Vec<Strayed>, Vec<Have>),
    ) {
        if self.may_put_back(repo, life) {
            self.consumer.put_back(now, out, (repo, life), look, self.fold.control().next);
        }
    }

    /// A repository that nothing happens to gets the HEAD and the Git settings that the table says.
    pub(crate) fn put_shape_back(&mut self, now: Now, out: &mut Out, repo: &RepoName, shape: &RepoShape) {
        if self.may_put_back(repo, shape.incarnation) {
            self.consumer.put_shape_back(now, out, (repo, shape), self.fold.control().next);
        }
    }

    fn may_put_back(&self, repo: &RepoName, life: Incarnation) -> bool {
        self.stopped.is_none() && self.watch.as_ref().is_some_and(|watch| !watch.is_over(repo, life))
    }
}

/// What stops a partition from outside, until an operator decides.
impl Part {
    /// Two sites' folds differ at the same position: whoever notices stops.
    pub(crate) fn differs(&mut self, out: &mut Out, site: &SiteId, at: Offset) {
        self.stop(out, format!("the fold differs from that of {site} at offset {at}"));
    }

    /// Partition 0 says which log this is. Somebody else opened this partition first: nothing that we say counts here.
    pub(crate) fn is_strange(&mut self, out: &mut Out) {
        self.stop(out, String::from("it was opened as a part of another log"));
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use alloc::sync::Arc;
    use alloc::vec;

    use super::*;
    use crate::config::{Config, RefDb};
    use crate::ids::{Offset, Oid, Partition};
    use crate::mutant::Mutants;
    use crate::names::SiteId;
    use crate::partition::Batch;
    use crate::port::{Effect, LogEffect, Read, Value};
    use crate::producer::Voice;
    use crate::refdb::Fold;
    use crate::table::{RefEntry, TableEntry, TableKey};
    use crate::time::Instant;

    const LIFE: Incarnation = Incarnation(5);

    /// A partition whose journal had folded up to offset 10,000.
    pub(crate) fn part() -> Part {
        let ams = SiteId::parse("ams").expect("valid");
        let config = Arc::new(Config::new(ams.clone(), vec![ams], 1));
        let mut control = Fold::new(Partition(0), RefDb::Log, Mutants::none()).control().clone();
        control.next = Offset(10_000);
        Part::new(Instant::default(), Partition(0), config, Some(control), vec![])
    }

    fn names() -> (RepoName, RefName) {
        (RepoName::parse("demo").expect("valid"), RefName::parse("refs/heads/a").expect("valid"))
    }

    #[test]
    fn a_ref_that_the_journal_may_not_hold_yet_is_not_judged() {
        let (repo, name) = names();
        let mut part = part();
        let (value, site) = (Oid([1; 20]), SiteId::parse("ams").expect("valid"));
        let entry = RefEntry { value, since: Offset(7), time_ms: 0, site };
        part.cache.set(TableKey::Ref(LIFE, name.clone()), Some(TableEntry::Ref(entry)));
        part.watch();
        assert!(part.look_at(&repo, LIFE));
        assert!(part.touched_ref(&name));
    }

    #[test]
    fn a_ref_that_is_pushed_to_meanwhile_is_not_judged() {
        let (repo, name) = names();
        let mut part = part();
        part.watch();
        assert!(part.look_at(&repo, LIFE) && !part.touched_ref(&name));
        part.watch.as_mut().expect("it watches").pushed(&repo, [&name].into_iter());
        assert!(part.touched_ref(&name));
    }

    #[test]
    fn nothing_is_said_of_a_life_that_is_over_and_not_saved() {
        let (repo, _) = names();
        let mut part = part();
        part.cache.set(TableKey::Repo(repo.clone()), None);
        part.watch();
        assert!(!part.look_at(&repo, LIFE));
    }

    #[test]
    fn nothing_is_put_back_in_a_life_that_ended_meanwhile_or_when_the_partition_stopped() {
        let (repo, name) = names();
        let strayed = || vec![Strayed { name: name.clone(), actual: Some(Oid([2; 20])), entry: None }];
        for (ended, stopped, told) in [(false, false, 1), (true, false, 0), (false, true, 0)] {
            let (mut part, mut out) = (part(), Out::default());
            part.watch();
            assert!(part.look_at(&repo, LIFE));
            if ended {
                part.watch.as_mut().expect("it watches").reshaped(&repo, None);
            }
            part.stopped = stopped.then(|| "the log was lost".into());
            part.put_back(Now::default(), &mut out, &repo, LIFE, (strayed(), vec![]));
            assert_eq!(out.take().len(), told, "{ended} {stopped}");
        }
    }

    /// A part that has read up to `at` under leader 1, with `record` as the last one folded, at 9,990.
    fn read_up_to(at: u64) -> (Part, Arc<crate::record::Decoded>, Voice, Out) {
        let (mut part, mut out, decoded) = (part(), Out::default(), Arc::new(crate::record::decode(b"no record")));
        let mut control = part.fold.control().clone();
        (control.next, control.last) = (Offset(9_991), Some((Offset(9_990), decoded.line_hash)));
        part = Part::new(Instant::default(), Partition(0), part.config.clone(), Some(control), vec![]);
        let mut voice = voice();
        part.start(Now::default(), &mut out);
        let batch =
            |records, end: u64| Batch { records, next: Offset(end), end: Offset(end), start: Offset(0), epoch: 1 };
        let last = Read { offset: Offset(9_990), time_ms: 0, value: Value::Record(decoded.clone()) };
        part.recognised(&mut out, &batch(vec![last], at));
        part.records(Now::default(), &mut out, &mut voice, batch(vec![], at));
        (part, decoded, voice, out)
    }

    fn voice() -> Voice {
        Voice { epoch: crate::ids::Epoch(1), instance: crate::ids::Instance(1), seq: crate::ids::Seq(0) }
    }

    #[test]
    fn under_another_leader_the_log_is_read_on_from_the_last_record_folded() {
        let (mut part, decoded, mut voice, mut out) = read_up_to(10_000);
        assert!(part.at_end() && part.folded_to() == Offset(10_000));
        // The gap at the end was nothing but markers; the next leader has a shorter one.
        let batch =
            |records, end: u64| Batch { records, next: Offset(end), end: Offset(end), start: Offset(0), epoch: 2 };
        part.records(Now::default(), &mut out, &mut voice, batch(vec![], 9_995));
        let last = Read { offset: Offset(9_990), time_ms: 0, value: Value::Record(decoded) };
        out.take();
        part.recognised(&mut out, &batch(vec![last], 9_995));
        assert_eq!((&part.stopped, part.end), (&None, Offset(9_995)));
        let from = out.take().into_iter().find_map(|effect| match effect {
            Effect::Log(LogEffect::Read { from, .. }) => Some(from),
            _ => None,
        });
        assert_eq!(from, Some(Offset(9_991)));
        part.records(Now::default(), &mut out, &mut voice, batch(vec![], 9_995));
        assert!(part.stopped.is_none() && part.at_end());
    }

    #[test]
    fn a_record_from_before_the_position_is_not_judged_again() {
        let (mut part, decoded, mut voice, mut out) = read_up_to(10_000);
        let before = Read { offset: Offset(9_990), time_ms: 0, value: Value::Record(decoded) };
        let (next, end) = (Offset(10_000), Offset(10_000));
        let batch = Batch { records: vec![before], next, end, start: Offset(0), epoch: 1 };
        part.records(Now::default(), &mut out, &mut voice, batch);
        assert!(part.verdicts.is_empty());
    }

    #[test]
    fn an_older_answer_does_not_bring_the_logs_end_back() {
        let (mut part, _, mut voice, mut out) = read_up_to(10_000);
        part.end = Offset(10_005);
        let (next, end) = (Offset(10_000), Offset(10_000));
        part.records(
            Now::default(),
            &mut out,
            &mut voice,
            Batch { records: vec![], next, end, start: Offset(0), epoch: 1 },
        );
        assert!(!part.at_end() && part.end == Offset(10_005));
    }

    #[test]
    fn what_is_not_judged_yet_is_not_at_the_end() {
        let (mut part, decoded, _, _) = read_up_to(10_000);
        assert!(part.at_end());
        part.queue.push_back(super::super::Unjudged { offset: Offset(9_999), time_ms: 0, decoded });
        assert!(!part.at_end());
        assert_eq!(part.folded_to(), Offset(9_999));
    }

    #[test]
    fn a_repository_that_ends_while_it_is_looked_at_is_over() {
        let (repo, _) = names();
        let (mut part, mut out, voice) = (part(), Out::default(), voice());
        part.watch();
        assert!(part.look_at(&repo, LIFE));
        part.cache.set(TableKey::Repo(repo.clone()), None);
        let header = crate::record::Header {
            repo: Some(repo.clone()),
            incarnation: Some(LIFE),
            site: SiteId::parse("sfo").expect("valid"),
            instance: crate::ids::Instance(2),
            epoch: crate::ids::Epoch(1),
            seq: crate::ids::Seq(1),
            time_ms: 0,
        };
        let body = crate::record::Body::RepoDeleted(crate::record::RepoDeleted {});
        let record = crate::record::Record { header, body, pack: Arc::from([]) };
        let verdict = crate::refdb::Verdict::Counted;
        let decoded = Arc::new(crate::record::decode(&record.encode().expect("short")));
        let judged = super::super::Unjudged { offset: Offset(10_000), time_ms: 0, decoded };
        part.follow(Now::default(), &mut out, &voice, &judged, &record, &verdict);
        assert!(part.watch.as_ref().is_some_and(|watch| watch.is_over(&repo, LIFE) && watch.touched(&repo)));
    }
}
