//! Repositories to push to, and Git cut off from the user's own configuration.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// A `git` that reads nobody's configuration.
pub fn git(dir: &Path) -> Command {
    let mut git = Command::new("git");
    git.current_dir(dir)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", dir)
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .args(["-c", "user.name=bench", "-c", "user.email=bench@example.com", "-c", "init.defaultBranch=main"])
        .args(["-c", "gc.auto=0", "-c", "maintenance.auto=false", "-c", "safe.directory=*"]);
    git
}

pub fn run(dir: &Path, args: &[&str]) -> Result<Output> {
    let output = git(dir).args(args).output().context("git cannot be run")?;
    if !output.status.success() {
        bail!("git {} failed: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(output)
}

/// Branches under one directory, so that one pattern names them: a push is pushed whole or refused, and one of more
/// than 10,000 refs is refused.
pub const GROUP: usize = 5_000;

/// A bare repository with `refs` branches, each at a commit of its own, packed.
pub fn seed(dir: &Path, refs: usize) -> Result<PathBuf> {
    let path = dir.join("seed.git");
    run(dir, &["init", "-q", "--bare", "seed.git"])?;
    let mut import = git(&path).args(["fast-import", "--quiet"]).stdin(Stdio::piped()).spawn()?;
    let mut stdin = import.stdin.take().context("it is piped")?;
    let who = "committer bench <bench@example.com> 1700000000 +0000\n";
    let mut text = format!("commit refs/heads/main\n{who}data 5\nfirst\nM 644 inline file.txt\ndata 5\nhello\n");
    for number in 1..refs {
        let name = format!("refs/heads/g{}/b{number}", number / GROUP);
        text += &format!("reset {name}\nfrom refs/heads/main\n\n");
        text += &format!("commit {name}\n{who}data 1\nx\nM 644 inline b.txt\ndata <<E\n{number}\nE\n\n");
    }
    stdin.write_all(text.as_bytes())?;
    drop(stdin);
    anyhow::ensure!(import.wait()?.success(), "git fast-import failed");
    run(&path, &["repack", "-qad"])?;
    run(&path, &["pack-refs", "--all"])?;
    Ok(path)
}

/// A copy of a bare repository.
pub fn copy(from: &Path, to: &Path) -> Result<()> {
    let status = Command::new("cp").arg("-r").arg(from).arg(to).status().context("cp cannot be run")?;
    anyhow::ensure!(status.success(), "{} could not be copied", from.display());
    Ok(())
}

/// A client that knows one branch only.
pub fn client(dir: &Path, name: &str, url: &Path) -> Result<PathBuf> {
    let url = url.display().to_string();
    run(dir, &["clone", "-q", "--single-branch", "--branch", "main", "--no-tags", &url, name])?;
    Ok(dir.join(name))
}

/// What one append of a few kilobytes costs that must be durable, on the file system of everything else.
pub fn fsync(dir: &Path) -> Result<Duration> {
    let path = dir.join("fsync");
    let mut file = std::fs::File::options().append(true).create(true).open(path)?;
    let begun = Instant::now();
    file.write_all(&[7; 3_000])?;
    file.sync_data()?;
    Ok(begun.elapsed())
}
