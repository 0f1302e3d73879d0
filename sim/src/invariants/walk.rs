//! Walks over objects: is everything there that a value needs?

use std::collections::BTreeMap;

use refrain_core::ids::Oid;
use refrain_core::names::{RepoName, SiteId};

use crate::observed::{Object, Observed, RepoView};
use crate::oids::{OidMap, OidSet};

/// The first object that `tips` need and that `has` denies. Does not go below what is in `closed`, and adds there what
/// it found to be complete.
pub(super) fn missing(
    objects: &OidMap<Object>,
    tips: impl IntoIterator<Item = Oid>,
    closed: &mut OidSet,
    has: impl Fn(&Oid) -> bool,
) -> Option<Oid> {
    let mut open: Vec<Oid> = tips.into_iter().collect();
    let mut met = OidSet::default();
    while let Some(oid) = open.pop() {
        if closed.contains(&oid) || !met.insert(oid) {
            continue;
        }
        if !has(&oid) {
            return Some(oid);
        }
        open.extend(objects.get(&oid).into_iter().flat_map(|object| &object.needs).copied());
    }
    closed.extend(met);
    None
}

/// Whether `from` is `to` or needs it, however far below.
pub(super) fn reaches(objects: &OidMap<Object>, from: Oid, to: Oid) -> bool {
    missing(objects, [from], &mut OidSet::default(), |oid| *oid != to).is_some()
}

/// Which stores a proof is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Of {
    /// What is in the store now.
    Now,
    /// What a power failure would leave.
    Durable,
}

/// What was proved complete in each repository, for as long as nothing left its store.
#[derive(Debug, Default)]
pub(super) struct Proofs(BTreeMap<(SiteId, RepoName), (u64, OidSet)>);

impl Proofs {
    /// The first object that `tip` needs and the repository lacks.
    pub(super) fn missing(&mut self, seen: &Observed, of: Of, at: (&SiteId, &RepoName), tip: Oid) -> Option<Oid> {
        let (site, repo) = at;
        let view: Option<&RepoView> = seen.sites.get(site).and_then(|site| site.repos.get(repo));
        let Some(view) = view else { return Some(tip) };
        let (swept, closed) = self.0.entry((site.clone(), repo.clone())).or_default();
        if *swept != view.swept {
            *swept = view.swept;
            closed.clear();
        }
        let store = match of {
            Of::Now => &view.objects,
            Of::Durable => &view.durable_objects,
        };
        missing(&seen.objects, [tip], closed, |oid| store.contains(oid))
    }

    /// Forgets what was proved at a site: its disk went through something.
    pub(super) fn forget(&mut self, site: &SiteId) {
        self.0.retain(|(at, _), _| at != site);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::testing::oid;

    #[test]
    fn a_walk_names_what_is_missing_and_remembers_what_is_complete() {
        let object = |needs: &[u8]| Object { needs: needs.iter().map(|n| oid(*n)).collect(), parents: Vec::new() };
        let objects = OidMap::from_iter([(oid(1), object(&[])), (oid(2), object(&[1])), (oid(3), object(&[2]))]);
        let mut closed = OidSet::default();
        assert_eq!(missing(&objects, [oid(3)], &mut closed, |it| *it != oid(1)), Some(oid(1)));
        assert!(closed.is_empty());
        assert_eq!(missing(&objects, [oid(2)], &mut closed, |_| true), None);
        assert_eq!(missing(&objects, [oid(3)], &mut closed, |it| *it == oid(3)), None, "2 was proved before");
        assert!(reaches(&objects, oid(3), oid(1)) && !reaches(&objects, oid(1), oid(3)));
    }
}
