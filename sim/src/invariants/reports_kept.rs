//! The log keeps the newest report of every site, however old: all reports of a site have one key, and no other site's
//! have it.
//!
//! Catches keys that have compaction take another site's reports, or keep what was overtaken for ever.

use std::collections::BTreeMap;

use refrain_core::names::SiteId;

use super::broken;
use crate::observed::{Event, Invariant, Observed, Violation};

const NAME: &str = "reports-kept";

/// See the module.
#[derive(Debug, Default)]
pub(super) struct ReportsKept {
    keys: BTreeMap<String, SiteId>,
    sites: BTreeMap<SiteId, String>,
}

impl Invariant for ReportsKept {
    fn name(&self) -> &'static str {
        NAME
    }

    fn promise(&self) -> &'static str {
        "all reports of a site have one key, which no other site's have, so that compaction keeps the newest of each"
    }

    fn presumes_durability(&self) -> bool {
        false
    }

    fn check(&mut self, seen: &Observed, event: &Event) -> Vec<Violation> {
        let Event::Reported { site, .. } = event else { return Vec::new() };
        let Some(key) = seen.report_keys.get(site) else { return Vec::new() };
        if self.keys.get(key) == Some(site) {
            return Vec::new();
        }
        let before = self.sites.insert(site.clone(), key.clone());
        let other = self.keys.insert(key.clone(), site.clone());
        let what = match (other, before) {
            (Some(other), _) => format!("{site} reports under the key {key:?}, which is that of {other}"),
            (None, Some(before)) => format!("{site} reports under the key {key:?}, and before that under {before:?}"),
            (None, None) => return Vec::new(),
        };
        vec![broken(NAME, what)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::testing::{World, run};

    #[test]
    fn a_key_for_two_sites_and_two_keys_of_a_site_are_found() {
        for (keys, found) in [(["ams", "sfo", "ams"], 0), (["", "", ""], 2), (["ams", "sfo", "ams-2"], 1)] {
            let mut world = World::opened(&["ams", "sfo"]);
            let mut check = ReportsKept::default();
            let mut count = 0;
            for (name, key) in ["ams", "sfo", "ams"].into_iter().zip(keys) {
                let event = world.report(name, 3, &[]);
                world.seen.report_keys.insert(SiteId::parse(name).expect("valid"), key.to_string());
                count += run(&mut check, &world, &[event]).len();
            }
            assert_eq!(count, found, "{keys:?}");
        }
    }
}
