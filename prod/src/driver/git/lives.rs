//! The lives of a repository: made, given another HEAD, and moved away when they are over.
//!
//! Promises that no life is ever deleted, and that one which is answered for as gone stays so after a power failure.

use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;

use anyhow::{Context, Result};
use refrain_core::names::RepoName;
use refrain_core::port::{Ensured, RepoShape};

use super::GitPort;
use crate::git::{Store, carried, hooks, repositories};

/// Where lives that are over lie, in the directory of the repository: a rename never leaves the file system then. No
/// name of a repository has a dot there, so nothing below is found, served, swept or repacked.
pub(super) const REMOVED: &str = ".refrain-removed";

impl GitPort {
    pub(super) fn ensured(&self, repo: &RepoName, shape: Option<&RepoShape>, if_absent: bool) -> Ensured {
        self.ensure(repo, shape, if_absent).unwrap_or_else(|why| {
            tracing::error!("repository {repo}: {why:#}");
            Ensured::Failed
        })
    }

    /// Whether this life of a repository was removed here before, and where to it goes now.
    fn removed(&self, repo: &RepoName, life: Option<u64>) -> (bool, PathBuf) {
        let life = life.unwrap_or(0);
        let (group, own) = repo.as_str().rsplit_once('/').unwrap_or(("", repo.as_str()));
        let of = |at: u32| self.places.repos.join(group).join(REMOVED).join(format!("{own}-{life}.git.{at}"));
        let free = (0..).find(|at| !of(*at).exists()).expect("some number is free");
        // Of a refrain that moved them into the state directory. They stay there, and count.
        let former = format!("{}-{life}.git.0", repo.as_str().replace('/', "+"));
        (free > 0 || self.places.state.join("removed").join(former).exists(), of(free))
    }

    /// A repository of another life is moved beside its place, never deleted. Before the log's end (`if_absent`)
    /// nothing is moved, and no life is made that was moved before: the journal may be an old copy.
    pub(super) fn ensure(&self, repo: &RepoName, shape: Option<&RepoShape>, if_absent: bool) -> Result<Ensured> {
        let path = self.path(repo);
        self.stores.forget(&path);
        let life = repositories::life(&path);
        let wanted = shape.map(|shape| shape.incarnation.0);
        // Without the mark it is one whose making was cut short: nothing was ever pushed to it.
        let other_life = path.exists() && (wanted.is_none() || life.is_some_and(|life| Some(life) != wanted));
        let over = if_absent && (other_life || !path.exists() && self.removed(repo, wanted).0);
        anyhow::ensure!(!over, "a later record may have ended this life; it stays until the log is read to its end");
        if other_life {
            self.move_away(repo, life)?;
        }
        let Some(shape) = shape else {
            // Whoever moved it: a power failure must not bring back what the journal calls done, and a daemon that was
            // killed between the rename and this finds nothing to move. Where another life comes, making it flushes.
            self.disks.flush(path.parent())?;
            return Ok(Ensured::Done);
        };
        let store = Store::create(&path, shape.head.as_str(), &self.disks)?;
        if life.is_none() && !other_life && !store.refs()?.is_empty() {
            anyhow::bail!("{} has refs and was not made by refrain; move it away", path.display());
        }
        let newer = if_absent && life == wanted && store.head()? != shape.head.as_str();
        anyhow::ensure!(!newer, "a later record may have set another HEAD; it stays until the log is read to its end");
        let newer = if_absent && life == wanted && !carried::is(&path, &shape.git)?;
        anyhow::ensure!(
            !newer,
            "a later record may have set other settings; they stay until the log is read to its end"
        );
        store.set_head(shape.head.as_str()).inspect_err(|_| store.release_locks(&["HEAD"]))?;
        carried::carry(&path, &shape.git)?;
        hooks::install(&path, &self.places.exe, &self.places.socket)?;
        if life == wanted {
            return Ok(Ensured::Done);
        }
        repositories::write_life(&path, shape.incarnation.0)?;
        Ok(Ensured::Made)
    }

    /// HEAD and the carried settings are what they should be. What cannot be read is not: making it right says why.
    pub(super) fn is_in_shape(&self, repo: &RepoName, shape: &RepoShape) -> bool {
        let path = self.path(repo);
        let head = self.store(repo).and_then(|store| store.head());
        head.is_ok_and(|head| head == shape.head.as_str()) && carried::is(&path, &shape.git).is_ok_and(|is| is)
    }

    fn move_away(&self, repo: &RepoName, life: Option<u64>) -> Result<()> {
        let (from, (_, to)) = (self.path(repo), self.removed(repo, life));
        let dir = to.parent().expect("it is in a directory");
        // For us only: the other users who may read here may read what is served, and this is served no more.
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
        made.with_context(|| format!("the directory {} cannot be made", dir.display()))?;
        std::fs::rename(&from, &to).with_context(|| format!("cannot move {} to {}", from.display(), to.display()))?;
        tracing::info!("repository {repo}: what was at {} is over, and lies at {}", from.display(), to.display());
        Ok(())
    }
}
