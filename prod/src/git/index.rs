//! Taking in packs that are too big for memory: `git index-pack` checks and indexes them where they lie.
//!
//! Promises that such a pack appears in the repository whole or not at all, and only if every object in it could be
//! rebuilt and its checksum fits. Judges no object's content, as everywhere here: a decided record must not hang on one
//! site's opinion.

use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result};
use refrain_core::ids::Oid;

use super::ingest::{WORK_DIR, unique};
use super::pack::ends;
use super::{Ingested, Progress, child};

/// A directory for building packs, gone when dropped. Below the repository, so that a rename is enough.
pub(super) struct Work(PathBuf);

impl Work {
    pub fn new(git_dir: &Path) -> Result<Work> {
        let dir = git_dir.join(WORK_DIR).join(unique("ingest-"));
        fs::create_dir_all(&dir).with_context(|| format!("{} could not be created", dir.display()))?;
        Ok(Work(dir))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        // What stays is swept at the next start.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Indexes a pack that is in memory but whose objects should not be.
pub(super) fn index_bytes(git_dir: &Path, pack: &[u8]) -> Result<Ingested> {
    let work = Work::new(git_dir)?;
    let path = work.path().join("received");
    File::create_new(&path)
        .and_then(|mut file| file.write_all(pack))
        .with_context(|| format!("{} could not be written; check free space", path.display()))?;
    index(git_dir, &work, &path)
}

/// Indexes a pack in a file outside.
pub(super) fn index_file(git_dir: &Path, pack: &Path) -> Result<Ingested> {
    index(git_dir, &Work::new(git_dir)?, pack)
}

fn index(git_dir: &Path, work: &Work, pack: &Path) -> Result<Ingested> {
    let (objects, sum) = ends(&File::open(pack)?)?;
    let (data, index) = (work.path().join("new.pack"), work.path().join("new.idx"));
    let mut git = child::git(git_dir);
    git.args(["index-pack", "-v", "--threads=1", "-o"]).arg(&index);
    // On one file system the bytes are shared, elsewhere they are copied on the way.
    let input = if fs::hard_link(pack, &data).is_ok() {
        Stdio::null()
    } else {
        git.arg("--stdin");
        File::open(pack).with_context(|| format!("{} cannot be opened", pack.display()))?.into()
    };
    git.arg(&data);
    let child::Ended::Exited(status, said) = child::watch(git, input, None, &Progress::default())? else {
        unreachable!("its output has no limit")
    };
    if !status.success() {
        return Ok(Ingested::Corrupt(format!("git index-pack: {said}")));
    }
    let name = git_dir.join("objects/pack").join(format!("pack-{sum}"));
    // The index last: a pack without one is invisible, so no reader sees half of it.
    move_in(&data, &name.with_extension("pack"))?;
    move_in(&index, &name.with_extension("idx"))?;
    Ok(Ingested::Done { objects })
}

/// Whether the file ends as it should; the rest is for whoever reads all of it.
pub(super) fn fits(pack: &Path, sum: Option<&Oid>) -> Result<Result<u32, String>> {
    let file = File::open(pack).with_context(|| format!("{} cannot be opened", pack.display()))?;
    Ok(match ends(&file) {
        Err(why) => Err(format!("{why:#}")),
        Ok((_, found)) if sum.is_some_and(|sum| *sum != found) => {
            Err(format!("it ends with the checksum {found}, not with the one that the record names"))
        }
        Ok((objects, _)) => Ok(objects),
    })
}

/// Gives a finished file its place in the repository.
pub(super) fn move_in(file: &Path, to: &Path) -> Result<()> {
    fs::set_permissions(file, Permissions::from_mode(0o444))
        .and_then(|()| fs::rename(file, to))
        .with_context(|| format!("the pack could not be moved to {}", to.display()))
}
