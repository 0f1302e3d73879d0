//! Taking in packs that are too big for memory: `git index-pack` checks and indexes them where they lie.
//!
//! Promises that such a pack appears in the repository whole or not at all, and only if every object in it could be
//! rebuilt and its checksum fits. Judges no object's content, as everywhere here: a decided record must not hang on one
//! site's opinion.

use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};

use anyhow::{Context, Result, ensure};
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
        return judge(status, &said).map(Ingested::Corrupt);
    }
    let name = git_dir.join("objects/pack").join(format!("pack-{sum}"));
    // The index last: a pack without one is invisible, so no reader sees half of it.
    move_in(&data, &name.with_extension("pack"))?;
    move_in(&index, &name.with_extension("idx"))?;
    Ok(Ingested::Done { objects })
}

/// What Git says of a pack that is not one. Whatever else ends it, as a full disk or a signal, says nothing about the
/// pack. From `builtin/index-pack.c` of 2.39; newer ones have the same.
const DAMAGE: [&str; 15] = [
    "pack signature mismatch",
    "pack version",
    "pack has bad object",
    "pack has junk at the end",
    "pack is corrupted",
    "pack too large",
    "premature end of pack file",
    "early EOF",
    "used more bytes than were available",
    "serious inflate inconsistency",
    "inflate returned",
    "failed to apply delta",
    "unresolved delta",
    "confusion beyond insanity",
    "SHA1 COLLISION",
];

/// Why the pack is damaged, if that is what the failure means; anything else is this site's own trouble.
fn judge(status: ExitStatus, said: &str) -> Result<String> {
    let is_damage = status.code().is_some() && DAMAGE.iter().any(|words| said.contains(words));
    ensure!(is_damage, "git index-pack ended with {status}: {said}; check free space and rights");
    Ok(format!("git index-pack: {said}"))
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

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// Has real Git index `pack` behind `first`, a line for the shell.
    fn judged(dir: &Path, first: &str, pack: &[u8]) -> Result<String> {
        let file = dir.join("received");
        let _ = fs::remove_file(&file);
        fs::write(&file, pack).expect("written");
        let git = child::git(dir);
        let args: Vec<String> = git.get_args().map(|arg| format!("'{}'", arg.to_string_lossy())).collect();
        let index = "index-pack -v --threads=1 --stdin -o new.idx new.pack";
        let line = format!("{first}; rm -f new.*; exec git {} {index} < received", args.join(" "));
        let output = Command::new("sh").args(["-c", &line]).current_dir(dir).output().expect("a shell");
        assert!(!output.status.success());
        // As `child::watch` hands it over, but for the lines' ends.
        judge(output.status, &String::from_utf8_lossy(&output.stderr))
    }

    #[test]
    fn only_damage_to_the_pack_is_called_so_and_a_full_disk_or_a_signal_is_not() {
        let dir = tempfile::tempdir().expect("a directory");
        let dir = dir.path();
        let mut git = child::git(dir);
        assert!(git.args(["init", "-q", "--bare"]).arg(dir).status().expect("git runs").success());
        let mut state = 1u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        };
        let noise: Vec<u8> = (0..200_000).map(|_| next()).collect();
        let mut encoder = super::super::pack::Encoder::new();
        encoder.add(gix::objs::Kind::Blob, &noise).expect("added");
        let pack = encoder.finish().expect("finished");
        let mut flipped = pack.clone();
        flipped[150_000] ^= 1;
        let mut headless = pack.clone();
        headless[0] = b'X';
        let junk = [&pack[..], b"more"].concat();
        for damaged in [&flipped, &headless, &junk, &pack[..1_000].to_vec(), &pack[..4].to_vec()] {
            judged(dir, ":", damaged).expect("it is damaged");
        }
        // 4 KiB at most in a file: a signal, or an error like that of a full disk.
        for first in ["ulimit -f 4", "trap '' XFSZ; ulimit -f 4", "kill -9 $$"] {
            let why = judged(dir, first, &pack).expect_err("the pack is sound").to_string();
            assert!(why.contains("check free space"), "{why}");
        }
        // Nor is a damaged pack called so by a Git that was killed while it said it.
        assert!(judged(dir, "kill -9 $$", &flipped).is_err());
    }
}
