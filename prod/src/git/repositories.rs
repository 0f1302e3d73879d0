//! Which directories of a site are repositories, and which of those are ours.
//!
//! Owns the mark that a repository of ours carries. Promises to descend only where a repository's name can lead, never
//! through a link, and to name what could not be listed instead of giving up on the rest. Changes nothing but the mark.

use std::fs::{self, ReadDir};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use refrain_core::names::RepoName;

/// Names the life of a repository, beside Git's own files. Written last when a repository is made.
pub(crate) const LIFE: &str = "refrain-incarnation";

/// What is below a directory.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// The repositories that carry the mark, in order.
    pub ours: Vec<PathBuf>,
    /// Directories that could not be listed, a sentence each: what is below them is unknown.
    pub unlisted: Vec<String>,
}

/// The repositories of ours below `root`. Fails only if `root` itself cannot be listed.
pub(crate) fn find(root: &Path) -> Result<Found> {
    find_with(root, &|dir| fs::read_dir(dir))
}

fn find_with(root: &Path, list: &dyn Fn(&Path) -> io::Result<ReadDir>) -> Result<Found> {
    let mut found = Found::default();
    let mut open = vec![(root.to_path_buf(), String::new())];
    while let Some((dir, prefix)) = open.pop() {
        let entries = list(&dir).and_then(|entries| entries.collect::<io::Result<Vec<_>>>());
        let entries = match entries {
            Ok(entries) => entries,
            Err(why) if prefix.is_empty() => return Err(why).with_context(|| format!("cannot list {}", dir.display())),
            // Removed since its name was read.
            Err(why) if why.kind() == io::ErrorKind::NotFound => continue,
            Err(why) => {
                found.unlisted.push(format!("{} cannot be listed, and is left out: {why}", dir.display()));
                continue;
            }
        };
        for entry in entries {
            let Some(file) = entry.file_name().to_str().map(str::to_owned) else { continue };
            // Of the entry itself: a link to a directory is none.
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            let name = format!("{prefix}{}", file.strip_suffix(".git").unwrap_or(&file));
            if RepoName::parse(&name).is_err() {
                continue;
            }
            if !file.ends_with(".git") {
                open.push((entry.path(), format!("{name}/")));
            } else if entry.path().join(LIFE).exists() {
                found.ours.push(entry.path());
            }
        }
    }
    found.ours.sort();
    Ok(found)
}

/// The repositories below `dir` that are ours; what cannot be listed is left to the daemon's log.
pub(crate) fn managed(dir: &Path) -> Result<Vec<PathBuf>> {
    Ok(find(dir)?.ours)
}

/// How many repositories below `dir` are ours.
pub fn count(dir: &Path) -> Result<usize> {
    Ok(managed(dir)?.len())
}

/// The life that a repository's mark names, if it has a mark that can be read.
pub(crate) fn life(repo: &Path) -> Option<u64> {
    fs::read_to_string(repo.join(LIFE)).ok()?.trim().parse().ok()
}

/// Marks a repository, in one step: one with refs and without the mark would be taken for somebody else's.
pub(crate) fn write_life(repo: &Path, life: u64) -> Result<()> {
    let new = repo.join(format!("{LIFE}.new"));
    let write = || {
        let mut file = fs::File::create(&new)?;
        writeln!(file, "{life}")?;
        file.sync_all()?;
        fs::rename(&new, repo.join(LIFE))
    };
    write().with_context(|| format!("{} could not be marked as refrain's; check free space", repo.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn make(root: &Path, name: &str) -> PathBuf {
        let path = root.join(name);
        fs::create_dir_all(&path).expect("made");
        write_life(&path, 7).expect("marked");
        path
    }

    #[test]
    fn repositories_are_found_by_their_names_and_their_mark_and_never_through_a_link() {
        let dir = tempfile::tempdir().expect("a directory");
        let (root, away) = (dir.path().join("repos"), dir.path().join("away"));
        let ours = [make(&root, "a.git"), make(&root, "d/e.git")];
        make(&away, "linked.git");
        make(&root, "lost+found/x.git");
        make(&root, ".hidden/x.git");
        make(&root, "a.git/modules/inner.git");
        make(&root, "1/2/3/4/5/6/7/8/too-deep.git");
        fs::create_dir_all(root.join("foreign.git")).expect("made");
        fs::write(root.join("file.git"), "").expect("written");
        std::os::unix::fs::symlink(&away, root.join("link")).expect("linked");
        std::os::unix::fs::symlink(away.join("linked.git"), root.join("link.git")).expect("linked");
        // Round and round, for who follows it.
        std::os::unix::fs::symlink(&root, root.join("d/round")).expect("linked");
        let found = find(&root).expect("listed");
        assert_eq!(found.ours, ours);
        assert_eq!(found.unlisted, [""; 0]);
        assert_eq!((count(&root).expect("listed"), life(&ours[0])), (2, Some(7)));
    }

    #[test]
    fn a_directory_that_cannot_be_listed_is_named_and_the_others_are_found() {
        let dir = tempfile::tempdir().expect("a directory");
        let ours = [make(dir.path(), "a.git"), make(dir.path(), "z/b.git")];
        make(dir.path(), "locked/c.git");
        // By hand: the superuser may list every directory.
        let refuse = |dir: &Path| {
            if dir.ends_with("locked") { Err(io::ErrorKind::PermissionDenied.into()) } else { fs::read_dir(dir) }
        };
        let found = find_with(dir.path(), &refuse).expect("the rest is listed");
        assert_eq!(found.ours, ours);
        assert!(found.unlisted.len() == 1 && found.unlisted[0].contains("locked cannot be listed"), "{found:?}");
        assert!(find(&dir.path().join("absent")).is_err());
    }
}
