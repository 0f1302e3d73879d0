//! The adapter against real git, in temporary directories.

mod boundary;
mod long;
mod objects;
mod refs;
mod repack;
mod site;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use refrain_core::ids::Oid;

use super::*;

/// A bare repository with a Store, and plain git beside it, cut off from this machine's configuration.
struct World {
    dir: tempfile::TempDir,
    disks: Disks,
    /// Seconds since 1970 of the next commit.
    clock: i64,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("temp dir");
        let disks = Disks::new(dir.path()).expect("opened");
        World { dir, disks, clock: 1_700_000_000 }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A repository of ours.
    fn store(&self, name: &str) -> Store {
        self.create(name, "refs/heads/main")
    }

    /// One whose HEAD names `head`.
    fn create(&self, name: &str, head: &str) -> Store {
        Store::create(&self.path(name), head, &self.disks).expect("created")
    }

    fn command(&self, repo: &Path, args: &[&str]) -> Command {
        let mut git = Command::new("git");
        let date = format!("@{} +0000", self.clock);
        git.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("HOME", self.dir.path());
        git.env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_AUTHOR_DATE", &date).env("GIT_COMMITTER_DATE", &date);
        for who in ["AUTHOR", "COMMITTER"] {
            git.env(format!("GIT_{who}_NAME"), "T").env(format!("GIT_{who}_EMAIL"), "t@example.org");
        }
        git.arg("-C").arg(repo).args(args);
        git
    }

    fn git_in(&self, repo: &Path, args: &[&str], input: &[u8]) -> (bool, Vec<u8>, String) {
        let mut command = self.command(repo, args);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("git starts");
        let mut stdin = child.stdin.take().expect("piped");
        let input = input.to_vec();
        let feed = std::thread::spawn(move || drop(std::io::Write::write_all(&mut stdin, &input)));
        let output = child.wait_with_output().expect("git ends");
        feed.join().expect("fed");
        (output.status.success(), output.stdout, String::from_utf8_lossy(&output.stderr).into_owned())
    }

    fn bytes(&self, repo: &Path, args: &[&str], input: &[u8]) -> Vec<u8> {
        let (ok, out, err) = self.git_in(repo, args, input);
        assert!(ok, "git {args:?}: {err}");
        out
    }

    fn git(&self, repo: &Path, args: &[&str]) -> String {
        String::from_utf8(self.bytes(repo, args, b"")).expect("text").trim().to_owned()
    }

    fn oid(&self, repo: &Path, args: &[&str]) -> Oid {
        oid(&self.git(repo, args))
    }

    /// Writes a tree from (path, content) pairs and commits it; no working tree needed.
    fn commit(&mut self, repo: &Path, parents: &[Oid], files: &[(&str, &str)]) -> Oid {
        let index = self.path("index");
        let _ = std::fs::remove_file(&index);
        let mut info = Vec::new();
        for (path, content) in files {
            let blob = self.bytes(repo, &["hash-object", "-w", "--stdin"], content.as_bytes());
            let blob = String::from_utf8_lossy(&blob).trim().to_owned();
            info.extend_from_slice(format!("100644 {blob}\t{path}\n").as_bytes());
        }
        let with_index = |args: &[&str], input: &[u8]| {
            let mut git = self.command(repo, args);
            git.env("GIT_INDEX_FILE", &index).stdin(Stdio::piped()).stdout(Stdio::piped());
            let mut child = git.spawn().expect("git starts");
            std::io::Write::write_all(&mut child.stdin.take().expect("piped"), input).expect("fed");
            String::from_utf8(child.wait_with_output().expect("git ends").stdout).expect("text").trim().to_owned()
        };
        with_index(&["update-index", "--add", "--index-info"], &info);
        let tree = with_index(&["write-tree"], b"");
        self.commit_tree(repo, &tree, parents)
    }

    fn commit_tree(&mut self, repo: &Path, tree: &str, parents: &[Oid]) -> Oid {
        self.clock += 1;
        let message = format!("commit at {}", self.clock);
        let mut args = vec!["commit-tree".to_owned(), tree.to_owned(), "-m".into(), message];
        for parent in parents {
            args.extend(["-p".into(), parent.to_string()]);
        }
        self.oid(repo, &args.iter().map(String::as_str).collect::<Vec<_>>())
    }

    fn fsck(&self, repo: &Path) {
        let (ok, out, err) = self.git_in(repo, &["fsck", "--strict", "--no-dangling"], b"");
        assert!(ok && out.is_empty(), "{}{err}", String::from_utf8_lossy(&out));
    }
}

fn oid(hex: &str) -> Oid {
    Oid::parse(hex.trim()).expect("an object id")
}

fn edit(name: &str, old: Option<Oid>, new: Option<Oid>) -> RefEdit {
    RefEdit { name: name.into(), old, new }
}

fn pack_of(cut: Cut) -> Vec<u8> {
    match cut {
        Cut::Pack { bytes, .. } => bytes,
        other => panic!("{other:?}"),
    }
}

/// As if everything below `dir` of the repository had been written 20 days ago.
fn age(repo: &Path, dir: &str) {
    let then = std::time::SystemTime::now() - std::time::Duration::from_secs(20 * 24 * 60 * 60);
    let mut open = vec![repo.join(dir)];
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(dir).expect("a directory").flatten() {
            if entry.path().is_dir() {
                open.push(entry.path());
            } else {
                std::fs::File::open(entry.path()).and_then(|file| file.set_modified(then)).expect("aged");
            }
        }
    }
}
