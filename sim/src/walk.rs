//! Walks over commits and what they need, as Git does them: newest generation first, painting what is hidden.

use std::collections::{BTreeMap, BTreeSet};

use refrain_core::ids::Oid;

use crate::observed::Object;
use crate::oids::{OidMap, OidSet};

/// Every object there ever was, and how far each commit is from a root. Content has no generation of its own.
#[derive(Clone, Copy, Debug)]
pub struct Universe<'a> {
    /// By id.
    pub objects: &'a OidMap<Object>,
    /// Commits only.
    pub generations: &'a OidMap<u32>,
}

/// What a walk found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Walked {
    /// Reached from the tips and not hidden, commits and content.
    pub found: Vec<Oid>,
    /// Places in the list of hidden values at which it stopped.
    pub stopped_at: BTreeSet<usize>,
    /// The first object that was not there.
    pub missing: Option<Oid>,
}

#[derive(Clone, Copy, Default)]
struct Paint {
    wanted: bool,
    hidden: Option<usize>,
}

impl Universe<'_> {
    fn generation(&self, oid: &Oid) -> u32 {
        self.generations.get(oid).copied().unwrap_or(0)
    }

    /// Walks from `tips`, stopping at everything reachable from those of `hide` that are present. That a hidden value
    /// is present says nothing about what lies below it: like Git, the walk believes it.
    pub fn walk(&self, present: &OidSet, tips: &[Oid], hide: &[Oid]) -> Walked {
        let mut walked = Walked::default();
        let mut frontier: BTreeMap<(u32, Oid), Paint> = BTreeMap::new();
        for tip in tips {
            frontier.entry((self.generation(tip), *tip)).or_default().wanted = true;
        }
        for (place, oid) in hide.iter().enumerate().filter(|(_, oid)| present.contains(*oid)) {
            frontier.entry((self.generation(oid), *oid)).or_default().hidden.get_or_insert(place);
        }
        let mut open = frontier.values().filter(|paint| paint.wanted && paint.hidden.is_none()).count();
        while open > 0 {
            let Some(((_, oid), paint)) = frontier.pop_last() else { break };
            match (paint.wanted, paint.hidden) {
                (true, None) => {
                    open -= 1;
                    if let Some(missing) = self.visit(present, oid, &mut walked) {
                        walked.missing = Some(missing);
                        return walked;
                    }
                }
                (true, Some(place)) => {
                    walked.stopped_at.insert(place);
                }
                (false, _) => {}
            }
            let Some(object) = self.objects.get(&oid).filter(|_| present.contains(&oid)) else { continue };
            for parent in &object.parents {
                let slot = frontier.entry((self.generation(parent), *parent)).or_default();
                let was_open = slot.wanted && slot.hidden.is_none();
                slot.wanted |= paint.wanted && paint.hidden.is_none();
                slot.hidden = slot.hidden.or(paint.hidden);
                let is_open = slot.wanted && slot.hidden.is_none();
                open = open + usize::from(is_open) - usize::from(was_open);
            }
        }
        walked.stopped_at.extend(frontier.values().filter(|paint| paint.wanted).filter_map(|paint| paint.hidden));
        walked
    }

    /// A wanted commit and its content; gives what of them is missing.
    fn visit(&self, present: &OidSet, oid: Oid, walked: &mut Walked) -> Option<Oid> {
        let Some(object) = self.objects.get(&oid).filter(|_| present.contains(&oid)) else { return Some(oid) };
        walked.found.push(oid);
        for content in object.needs.iter().filter(|need| !object.parents.contains(need)) {
            if !present.contains(content) {
                return Some(*content);
            }
            walked.found.push(*content);
        }
        None
    }

    /// Whether `new` descends from `old` (or is it), as far as the store knows.
    pub fn descends(&self, present: &OidSet, new: Oid, old: Oid) -> bool {
        let floor = self.generation(&old);
        let mut frontier = BTreeSet::from([(self.generation(&new), new)]);
        while let Some((generation, oid)) = frontier.pop_last() {
            if oid == old {
                return true;
            }
            if generation <= floor || !present.contains(&oid) {
                continue;
            }
            let parents = self.objects.get(&oid).map(|object| object.parents.as_slice()).unwrap_or_default();
            frontier.extend(parents.iter().map(|parent| (self.generation(parent), *parent)));
        }
        false
    }

    /// Everything reachable from `tips` in a store, for gc.
    pub fn reachable(&self, present: &OidSet, tips: impl IntoIterator<Item = Oid>) -> OidSet {
        let mut seen = OidSet::default();
        let mut open: Vec<Oid> = tips.into_iter().collect();
        while let Some(oid) = open.pop() {
            if present.contains(&oid) && seen.insert(oid) {
                let needs = self.objects.get(&oid).map(|object| object.needs.as_slice()).unwrap_or_default();
                open.extend(needs.iter().copied());
            }
        }
        seen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn oid(n: u8) -> Oid {
        Oid([n; 20])
    }

    /// 1 - 2 - 3 - 4 and 2 - 5; commit n has content n + 100.
    fn history() -> (OidMap<Object>, OidMap<u32>) {
        let mut objects = OidMap::default();
        let mut generations = OidMap::default();
        for (n, parent, generation) in [(1, 0, 1), (2, 1, 2), (3, 2, 3), (4, 3, 4), (5, 2, 3)] {
            let parents: Vec<Oid> = (parent > 0).then(|| oid(parent)).into_iter().collect();
            let needs = parents.iter().copied().chain([oid(n + 100)]).collect();
            objects.insert(oid(n), Object { needs, parents });
            objects.insert(oid(n + 100), Object { needs: vec![], parents: vec![] });
            generations.insert(oid(n), generation);
        }
        (objects, generations)
    }

    #[test]
    fn a_walk_hides_all_that_a_hidden_value_reaches() {
        let (objects, generations) = history();
        let universe = Universe { objects: &objects, generations: &generations };
        let all: OidSet = objects.keys().copied().collect();
        let walked = universe.walk(&all, &[oid(5)], &[oid(4)]);
        assert_eq!(walked.found, [oid(5), oid(105)]);
        assert_eq!(walked.stopped_at, BTreeSet::from([0]));
        assert_eq!(universe.walk(&all, &[oid(4)], &[]).found.len(), 8);
        assert_eq!(universe.walk(&all, &[oid(2)], &[oid(4)]).found, []);
    }

    #[test]
    fn a_walk_stops_at_an_absent_object_and_believes_a_present_boundary() {
        let (objects, generations) = history();
        let universe = Universe { objects: &objects, generations: &generations };
        let mut present: OidSet = objects.keys().copied().collect();
        present.remove(&oid(101));
        assert_eq!(universe.walk(&present, &[oid(3)], &[]).missing, Some(oid(101)));
        assert_eq!(universe.walk(&present, &[oid(3)], &[oid(2)]).missing, None);
        present.remove(&oid(2));
        assert_eq!(universe.walk(&present, &[oid(3)], &[oid(2)]).missing, Some(oid(2)));
    }

    #[test]
    fn descent_follows_parents_only() {
        let (objects, generations) = history();
        let universe = Universe { objects: &objects, generations: &generations };
        let all: OidSet = objects.keys().copied().collect();
        assert!(universe.descends(&all, oid(4), oid(2)));
        assert!(!universe.descends(&all, oid(5), oid(3)));
        assert!(!universe.descends(&all, oid(2), oid(4)));
    }
}
