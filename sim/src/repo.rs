//! A simulated Git repository: what is there, what of it is durable, and what a crash really leaves.
//!
//! Objects, refs, keep refs and locks are separate states, each lost for itself in a power failure. A process crash
//! loses nothing that was written.

use std::collections::{BTreeMap, BTreeSet};

use refrain_core::ids::{Digest, Offset, Oid};
use refrain_core::names::RefName;
use refrain_core::port::{Edit, Hide, Prepared, Received, RefSet, RepoShape};
use refrain_core::record::Have;
use refrain_core::rng::Rng;
use refrain_core::table::TableKey;

use crate::dice::Dice;
use crate::observed::RepoView;
use crate::oids::{OidMap, OidSet};
use crate::walk::Universe;

/// What of a repository nobody outside sees.
#[derive(Clone, Debug)]
pub struct Extra {
    /// Which life, and HEAD.
    pub shape: RepoShape,
    /// The directory itself was flushed.
    pub durable: bool,
    /// The shape after a power failure that takes its last change.
    pub durable_shape: RepoShape,
    /// When each object was last written.
    pub written: OidMap<u64>,
    /// Objects that a power failure may take.
    pub unflushed: BTreeSet<Oid>,
    /// Refs whose last change a power failure may take.
    pub unflushed_refs: BTreeSet<RefName>,
    /// Hidden refs on staged objects; true once flushed.
    pub keeps: BTreeMap<Offset, (Vec<Oid>, bool)>,
    /// Values found that nobody knew.
    pub found: BTreeSet<Oid>,
    /// Locks that nobody holds any more, and until when they stay.
    pub stale_locks: BTreeMap<RefName, u64>,
    /// Somebody else holds all locks until then.
    pub locked_until: u64,
    /// Its HEAD and its settings cannot be written before.
    pub unwritable_until: u64,
    /// The sum of the refs' hashes under a key, and their number, for as long as no ref changes.
    summed: Option<(Digest, (Digest, u64))>,
}

/// A repository at hand.
#[derive(Debug)]
pub struct Repo<'a> {
    /// What readers see.
    pub view: &'a mut RepoView,
    /// The rest.
    pub extra: &'a mut Extra,
}

/// What a flush has begun to make durable.
#[derive(Clone, Debug, Default)]
pub struct Flushing {
    objects: Vec<Oid>,
    refs: Vec<(RefName, Option<Oid>)>,
    keeps: Vec<Offset>,
    shape: Option<RepoShape>,
}

impl Extra {
    /// An empty repository, not flushed.
    pub fn new(shape: RepoShape) -> Self {
        Self {
            durable_shape: shape.clone(),
            shape,
            durable: false,
            written: OidMap::default(),
            unflushed: BTreeSet::new(),
            unflushed_refs: BTreeSet::new(),
            keeps: BTreeMap::new(),
            found: BTreeSet::new(),
            stale_locks: BTreeMap::new(),
            locked_until: 0,
            unwritable_until: 0,
            summed: None,
        }
    }
}

/// A pack in this world: the ids, one after the other.
pub fn pack(objects: &[Oid]) -> Vec<u8> {
    objects.iter().flat_map(|oid| oid.0).collect()
}

fn sum_of(refs: &BTreeMap<RefName, Oid>, key: Digest) -> (Digest, u64) {
    let mut digest = Digest(0);
    refs.iter().for_each(|(name, value)| digest.add(TableKey::hash_ref(key, name, value)));
    (digest, refs.len() as u64)
}

/// And back.
pub fn unpack(pack: &[u8]) -> Vec<Oid> {
    pack.chunks_exact(20).map(|chunk| Oid(chunk.try_into().expect("chunks have 20 bytes"))).collect()
}

/// What a pack ends with, in place of a checksum: its last id, turned round by its length.
pub fn sum(pack: &[u8]) -> Oid {
    let mut sum = unpack(pack).last().map_or([1; 20], |oid| oid.0);
    sum.rotate_left(pack.len() / 20 % 20);
    Oid(sum)
}

impl Repo<'_> {
    /// Writes objects; they are young again if they were there.
    pub fn write(&mut self, now: u64, objects: &[Oid]) {
        for oid in objects {
            if self.view.objects.insert(*oid) {
                self.extra.unflushed.insert(*oid);
            }
            self.extra.written.insert(*oid, now);
        }
    }

    /// What receive-pack stores of a push: everything below `tips` that no shown ref reaches. `source` is the client's
    /// own store, which has all.
    pub fn receive_push(&mut self, universe: &Universe<'_>, source: &OidSet, now: u64, tips: &[Oid]) {
        let shown: Vec<Oid> = self.view.refs.values().copied().filter(|oid| self.view.objects.contains(oid)).collect();
        let walked = universe.walk(source, tips, &shown);
        self.write(now, &walked.found);
    }

    /// Cuts a pack; one that goes to the spool comes beside the answer.
    pub fn prepare(
        &self,
        universe: &Universe<'_>,
        updates: &[(Option<Oid>, Option<Oid>)],
        offered: &[Have],
        (inline_max, pack_max): (u64, u64),
    ) -> (Prepared, Vec<u8>) {
        let present = &self.view.objects;
        let tips: Vec<Oid> = updates.iter().filter_map(|(_, new)| *new).collect();
        let hide: Vec<Oid> = offered.iter().map(|have| have.value).collect();
        let walked = universe.walk(present, &tips, &hide);
        if let Some(missing) = walked.missing {
            return (Prepared::Missing(missing), Vec::new());
        }
        let pack = pack(&walked.found);
        let bytes = pack.len() as u64;
        if bytes > pack_max {
            return (Prepared::TooLarge { bytes }, Vec::new());
        }
        let forced = updates.iter().map(|(old, new)| match (old, new) {
            (Some(old), Some(new)) => !universe.descends(present, *new, *old),
            _ => false,
        });
        let forced = forced.collect();
        let used = walked.stopped_at.iter().map(|place| offered[*place].clone()).collect();
        if bytes > inline_max {
            return (Prepared::Spooled { bytes, sum: sum(&pack), used, forced }, pack);
        }
        (Prepared::Pack { pack: pack.into(), used, forced }, Vec::new())
    }

    /// Writes a pack's objects and proves the tips.
    pub fn receive(
        &mut self,
        universe: &Universe<'_>,
        now: u64,
        pack: Option<&[u8]>,
        tips: &[Oid],
        hide: &[Hide],
    ) -> Received {
        if let Some(pack) = pack {
            self.write(now, &unpack(pack));
        }
        let hide: Vec<Oid> = hide
            .iter()
            .filter_map(|hide| match hide {
                Hide::Shown(name) => self.view.refs.get(name).copied(),
                Hide::Proved(oid) => Some(*oid),
            })
            .collect();
        match universe.walk(&self.view.objects, tips, &hide).missing {
            Some(missing) => Received::Missing(missing),
            None => Received::Complete,
        }
    }

    /// Whether every edit of a transaction can take its lock and its name. Gives a result for those that cannot.
    pub fn check(&self, now: u64, edits: &[Edit]) -> Vec<Option<RefSet>> {
        let refused: Vec<Option<RefSet>> = edits
            .iter()
            .map(|edit| {
                let actual = self.view.refs.get(&edit.name).copied();
                (actual != edit.old).then_some(RefSet::Refused { actual })
            })
            .collect();
        let made: BTreeSet<&str> =
            edits.iter().filter(|edit| edit.new.is_some()).map(|edit| edit.name.as_str()).collect();
        let collides = |name: &RefName| name.directories().any(|dir| made.contains(dir));
        let gone: BTreeSet<&RefName> = edits.iter().filter(|edit| edit.new.is_none()).map(|edit| &edit.name).collect();
        let blocked = |edit: &Edit| {
            self.is_locked(now, std::slice::from_ref(edit))
                || (edit.new.is_some() && collides(&edit.name))
                || (edit.new.is_some() && edit.old.is_none() && self.is_in_the_way(&edit.name, &gone))
        };
        // Git takes all locks of a transaction or none.
        let any = edits.iter().zip(&refused).any(|(edit, refused)| refused.is_none() && blocked(edit));
        refused.into_iter().map(|refused| refused.or(any.then_some(RefSet::Failed))).collect()
    }

    /// Somebody holds a lock that one of the edits takes, or a crash left it.
    pub fn is_locked(&self, now: u64, edits: &[Edit]) -> bool {
        let stale = |edit: &Edit| self.extra.stale_locks.get(&edit.name).is_some_and(|until| *until > now);
        !edits.is_empty() && (self.extra.locked_until > now || edits.iter().any(stale))
    }

    /// A ref that stays is a directory of `name`, or lies below it.
    fn is_in_the_way(&self, name: &RefName, gone: &BTreeSet<&RefName>) -> bool {
        let below = |other: &RefName| other.as_str().strip_prefix(name.as_str()).is_some_and(|it| it.starts_with('/'));
        let above = |other: &RefName| name.directories().any(|dir| dir == other.as_str());
        self.view.refs.keys().any(|other| (below(other) || above(other)) && !gone.contains(other))
    }

    /// One rename of a ref transaction.
    pub fn set(&mut self, edit: &Edit) {
        if edit.found {
            self.extra.found.extend(edit.old);
        }
        match edit.new {
            Some(new) => self.view.refs.insert(edit.name.clone(), new),
            None => self.view.refs.remove(&edit.name),
        };
        self.extra.unflushed_refs.insert(edit.name.clone());
        self.extra.summed = None;
    }

    /// The sum of the refs' hashes, and their number.
    pub fn refs_sum(&mut self, key: Digest) -> (Digest, u64) {
        match self.extra.summed {
            Some((under, sum)) if under == key => {
                debug_assert_eq!(sum, sum_of(&self.view.refs, key), "whoever changes a ref forgets the sum");
                sum
            }
            _ => {
                let sum = sum_of(&self.view.refs, key);
                self.extra.summed = Some((key, sum));
                sum
            }
        }
    }

    /// A flush begins: what is written later is not in it.
    pub fn begin_flush(&self) -> Flushing {
        Flushing {
            objects: self.extra.unflushed.iter().copied().collect(),
            refs: self
                .extra
                .unflushed_refs
                .iter()
                .map(|name| (name.clone(), self.view.refs.get(name).copied()))
                .collect(),
            keeps: self.extra.keeps.iter().filter(|(_, (_, durable))| !durable).map(|(offset, _)| *offset).collect(),
            shape: Some(self.extra.shape.clone()),
        }
    }

    /// And ends.
    pub fn end_flush(&mut self, flushing: Flushing) {
        self.extra.durable = true;
        if let Some(shape) = flushing.shape {
            self.extra.durable_shape = shape;
        }
        for oid in flushing.objects {
            if self.view.objects.contains(&oid) {
                self.view.durable_objects.insert(oid);
                self.extra.unflushed.remove(&oid);
            }
        }
        for (name, value) in flushing.refs {
            if self.view.refs.get(&name).copied() == value {
                self.extra.unflushed_refs.remove(&name);
            }
            match value {
                Some(value) => self.view.durable_refs.insert(name, value),
                None => self.view.durable_refs.remove(&name),
            };
        }
        for offset in flushing.keeps {
            if let Some(keep) = self.extra.keeps.get_mut(&offset) {
                keep.1 = true;
            }
        }
    }

    /// No power failure changes the ref any more.
    pub fn make_durable(&mut self, name: &RefName) {
        self.extra.unflushed_refs.remove(name);
        match self.view.refs.get(name) {
            Some(value) => self.view.durable_refs.insert(name.clone(), *value),
            None => self.view.durable_refs.remove(name),
        };
    }

    /// The power fails: what is not flushed is lost, each for itself. Gives marks for what was lost.
    pub fn lose_unflushed(&mut self, rng: &mut Rng) -> BTreeSet<&'static str> {
        let mut lost = BTreeSet::new();
        self.extra.summed = None;
        for oid in std::mem::take(&mut self.extra.unflushed) {
            if rng.percent(50) {
                lost.insert("lost-object");
                self.view.swept += 1;
                self.view.objects.remove(&oid);
                self.extra.written.remove(&oid);
            } else {
                self.view.durable_objects.insert(oid);
            }
        }
        for name in std::mem::take(&mut self.extra.unflushed_refs) {
            if rng.percent(50) {
                lost.insert("lost-ref");
                match self.view.durable_refs.get(&name) {
                    Some(value) => self.view.refs.insert(name, *value),
                    None => self.view.refs.remove(&name),
                };
            } else {
                self.make_durable(&name);
            }
        }
        let durable = &self.extra.durable_shape;
        if *durable != self.extra.shape && rng.percent(50) {
            lost.insert("lost-shape");
            self.view.head = Some(durable.head.clone());
            self.view.git = durable.git.clone();
            self.extra.shape = durable.clone();
        }
        self.extra.durable_shape = self.extra.shape.clone();
        let keeps = self.extra.keeps.len();
        self.extra.keeps.retain(|_, (_, durable)| *durable || rng.percent(50));
        if self.extra.keeps.len() < keeps {
            lost.insert("lost-keep");
        }
        // What a crash left is a file like any other.
        let locks = self.extra.stale_locks.len();
        self.extra.stale_locks.retain(|_, until| *until != u64::MAX || rng.percent(50));
        if self.extra.stale_locks.len() < locks {
            lost.insert("lost-lock");
        }
        self.drop_conflicts();
        lost
    }

    /// Two survivors of which one is the other's directory cannot both be on disk: the directory won.
    fn drop_conflicts(&mut self) {
        let names: Vec<RefName> = self.view.refs.keys().cloned().collect();
        for name in names {
            if self.is_in_the_way(&name, &BTreeSet::new())
                && name.directories().all(|dir| !RefName::parse(dir).is_ok_and(|dir| self.view.refs.contains_key(&dir)))
            {
                self.view.refs.remove(&name);
                self.view.durable_refs.remove(&name);
            }
        }
    }

    /// Removes what nothing reaches and nobody wrote for `age` microseconds. Gives how many.
    pub fn collect(&mut self, universe: &Universe<'_>, now: u64, age: u64, busy: &OidSet) -> usize {
        let kept = self.extra.keeps.values().flat_map(|(tips, _)| tips.iter().copied());
        let shown = self.view.refs.values().copied();
        let tips: Vec<Oid> = shown.chain(kept).chain(self.extra.found.iter().copied()).collect();
        let reachable = universe.reachable(&self.view.objects, tips);
        let young = |oid: &Oid| self.extra.written.get(oid).is_some_and(|at| at + age > now);
        let dead: Vec<Oid> = self
            .view
            .objects
            .iter()
            .copied()
            .filter(|oid| !reachable.contains(oid) && !busy.contains(oid) && !young(oid))
            .collect();
        self.view.swept += u64::from(!dead.is_empty());
        for oid in &dead {
            self.view.objects.remove(oid);
            self.view.durable_objects.remove(oid);
            self.extra.unflushed.remove(oid);
            self.extra.written.remove(oid);
        }
        dead.len()
    }
}

#[cfg(test)]
mod tests {
    use refrain_core::ids::Incarnation;

    use super::*;

    fn name(text: &str) -> RefName {
        RefName::parse(text).expect("a good name")
    }

    fn shape() -> RepoShape {
        RepoShape { incarnation: Incarnation(1), head: name("refs/heads/main"), git: Default::default() }
    }

    #[test]
    fn a_power_failure_loses_unflushed_things_each_for_itself_and_nothing_else() {
        let (mut outcomes, mut heads) = (BTreeSet::new(), BTreeSet::new());
        for seed in 0..40 {
            let (mut view, mut extra) = (RepoView::default(), Extra::new(shape()));
            let mut repo = Repo { view: &mut view, extra: &mut extra };
            repo.write(0, &[Oid([1; 20])]);
            let flushing = repo.begin_flush();
            repo.write(0, &[Oid([2; 20])]);
            repo.end_flush(flushing);
            repo.set(&Edit {
                name: name("refs/heads/main"),
                old: None,
                new: Some(Oid([2; 20])),
                found: false,
                together: None,
            });
            repo.extra.shape.head = name("refs/heads/new");
            repo.lose_unflushed(&mut Rng::new(seed));
            assert_eq!(repo.extra.shape, repo.extra.durable_shape);
            heads.insert(repo.extra.shape.head.clone());
            assert!(view.objects.contains(&Oid([1; 20])));
            assert_eq!(view.objects, view.durable_objects);
            assert_eq!(view.refs, view.durable_refs);
            outcomes.insert((view.objects.len(), view.refs.len()));
        }
        assert_eq!(outcomes, BTreeSet::from([(1, 0), (1, 1), (2, 0), (2, 1)]));
        assert_eq!(heads.len(), 2, "HEAD is lost or not");
    }

    #[test]
    fn a_lock_fails_the_whole_transaction_and_a_moved_ref_only_itself() {
        let (mut view, mut extra) = (RepoView::default(), Extra::new(shape()));
        let mut repo = Repo { view: &mut view, extra: &mut extra };
        let edit = |text: &str, old: Option<u8>| Edit {
            name: name(text),
            old: old.map(|n| Oid([n; 20])),
            new: Some(Oid([9; 20])),
            found: false,
            together: None,
        };
        let edits = [edit("refs/heads/a", None), edit("refs/heads/b", Some(1))];
        assert_eq!(repo.check(0, &edits), [None, Some(RefSet::Refused { actual: None })]);
        repo.set(&edits[0]);
        assert_eq!(repo.check(0, &[edit("refs/heads/a/b", None)]), [Some(RefSet::Failed)]);
        repo.extra.stale_locks.insert(name("refs/heads/c"), u64::MAX);
        let edits = [edit("refs/heads/c", None), edit("refs/heads/d", None)];
        assert_eq!(repo.check(0, &edits), [Some(RefSet::Failed), Some(RefSet::Failed)]);
    }
}
