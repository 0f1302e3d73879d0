//! What somebody with a shell does to a site's repositories behind its daemon.

use refrain_core::names::{RefName, RepoName};
use refrain_core::port::Edit;
use refrain_core::settings::Settings;

use super::World;
use crate::dice::Dice;
use crate::observed::Event;
use crate::operator::OWNER;
use crate::swarm::SECOND;

impl World {
    /// Somebody with a shell runs `git update-ref`: a ref goes, comes, or moves to what another one shows. And now and
    /// then `git gc`, so that what went is not there to be shown again.
    pub(super) fn change_refs_behind(&mut self, host: usize) {
        let names: Vec<RepoName> = self.hosts[host].disk.extras.keys().cloned().collect();
        if names.is_empty() {
            return;
        }
        for _ in 0..self.disk_rng.range(1, 4) {
            let repo = self.disk_rng.pick(&names).clone();
            let Some(shown) = self.shown(host, &repo).cloned().filter(|shown| !shown.is_empty()) else { continue };
            let (refs, values): (Vec<_>, Vec<_>) = shown.iter().map(|(name, value)| (name.clone(), *value)).unzip();
            let stranger = RefName::parse("refs/heads/stranger").expect("a good name");
            let dice = self.disk_rng.below(10);
            let any = *self.disk_rng.pick(&crate::workload::NAMES[..]);
            let any = RefName::parse(any).expect("a good name");
            // Any of the names that people use may be in the way of another one.
            let name = match dice {
                0 => stranger,
                1 | 2 => any,
                _ => self.disk_rng.pick(&refs).clone(),
            };
            let new = (!(3..=5).contains(&dice)).then(|| *self.disk_rng.pick(&values));
            let edit = Edit { old: shown.get(&name).copied(), name, new, found: false, together: None };
            let now = self.now();
            let Some((mut at_hand, _)) = self.repo(host, &repo) else { continue };
            if edit.old == edit.new || at_hand.check(now, std::slice::from_ref(&edit)) != [None] {
                continue;
            }
            at_hand.set(&edit);
            // A file system keeps the order in which names go: no power failure brings a ref back whose objects were
            // collected after it went.
            at_hand.make_durable(&edit.name);
            self.coverage.mark("world", "foreign-ref");
            let (name, from, to) = (edit.name, edit.old, edit.new);
            self.note(host, [304, 0, 0], || format!("somebody sets {repo} {name} from {from:?} to {to:?}"));
            let site = self.hosts[host].site.clone();
            self.emit(&Event::RefSet { site, repo, name, from, to, foreign: true });
        }
        if self.disk_rng.percent(25) {
            self.collect_garbage(host);
        }
    }

    /// Or `git symbolic-ref HEAD`, or an editor on a file of ours, which sometimes leaves it so that nobody else can
    /// write it for a while.
    pub(super) fn change_shape_behind(&mut self, host: usize) {
        let (now, calm) = (self.now(), self.is_calm());
        let mut rng = self.disk_rng.fork(&format!("shape-{now}"));
        let names: Vec<RepoName> = self.hosts[host].disk.extras.keys().cloned().collect();
        for name in names {
            let Some((repo, _)) = self.repo(host, &name).filter(|_| rng.percent(50)) else { continue };
            if rng.percent(50) {
                let head = *rng.pick(&crate::workload::NAMES[..]);
                repo.extra.shape.head = RefName::parse(head).expect("a good name");
                repo.view.head = Some(repo.extra.shape.head.clone());
            } else {
                let settings = [(OWNER.to_string(), "stranger".to_string())].into();
                repo.extra.shape.git = if rng.percent(50) { settings } else { Settings::new() };
                repo.view.git = repo.extra.shape.git.clone();
            }
            if rng.percent(30) && !calm {
                repo.extra.unwritable_until = now + rng.range(5, 60) * SECOND;
                self.coverage.mark("world", "shape-unwritable");
            }
            self.note(host, [309, 0, 0], || format!("somebody changes HEAD or settings of {name}"));
            let site = self.hosts[host].site.clone();
            self.emit(&Event::Misshaped { site, repo: name });
        }
    }
}
