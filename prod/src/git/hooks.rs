//! The hook that hands every push to the daemon: install, verify, uninstall.
//!
//! Promises never to touch a hook that it did not write, and to leave either the old or the new one at any crash.

use std::fs;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::ingest::unique;
use super::settings;

/// The line by which a hook is known as ours.
pub const MARKER: &str = "# refrain: managed hook";

fn hook_path(repo: &Path) -> PathBuf {
    repo.join("hooks/proc-receive")
}

fn script(refrain_exe: &Path, socket: &Path) -> Result<String> {
    let quote = |path: &Path| {
        let text = path.to_str().with_context(|| format!("{} is not UTF-8", path.display()))?;
        Ok::<_, anyhow::Error>(format!("'{}'", text.replace('\'', r"'\''")))
    };
    let (exe, socket) = (quote(refrain_exe)?, quote(socket)?);
    Ok(format!("#!/bin/sh\n{MARKER}\nexec {exe} hook proc-receive --socket {socket}\n"))
}

fn read(path: &Path) -> Result<Option<String>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e).with_context(|| format!("hook {} cannot be read", path.display())),
    }
}

/// How a repository's hook is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// There is none.
    Missing,
    /// Refrain's own, and right.
    Installed,
    /// Refrain's own, and it names another program or socket or cannot be run.
    Outdated,
    /// Somebody else's, which says that it hands over to ours, and does.
    Chained,
    /// Somebody else's.
    Foreign,
}

/// The line by which somebody else's hook says that it hands over to refrain's.
pub const CHAIN: &str = "# refrain: chained hook";

/// What is at the hook's place.
pub fn state(repo: &Path, refrain_exe: &Path, socket: &Path) -> Result<State> {
    let path = hook_path(repo);
    let wanted = script(refrain_exe, socket)?;
    let Some(found) = read(&path)? else { return Ok(State::Missing) };
    let hands_over = wanted.lines().last().unwrap_or_default();
    let is_chained =
        found.lines().any(|line| line == CHAIN) && found.lines().any(|line| line.trim_start() == hands_over);
    Ok(match is_ours(&found) {
        true if found == wanted && is_executable(&path) => State::Installed,
        true => State::Outdated,
        false if is_chained && is_executable(&path) => State::Chained,
        false => State::Foreign,
    })
}

/// Three lines of ours and nothing besides: a script that was made longer by hand is not ours to replace.
fn is_ours(script: &str) -> bool {
    let lines: Vec<&str> = script.lines().collect();
    let calls_us = |last: &str| last.starts_with("exec ") && last.contains(" hook proc-receive ");
    matches!(lines[..], ["#!/bin/sh", MARKER, last] if calls_us(last))
}

/// Writes the hook and the settings that go with it, unless they are there already. A foreign hook is refused.
pub fn install(repo: &Path, refrain_exe: &Path, socket: &Path) -> Result<()> {
    let path = hook_path(repo);
    let wanted = script(refrain_exe, socket)?;
    match state(repo, refrain_exe, socket)? {
        State::Foreign => bail!(
            "{} is not refrain's, and was left alone; move it away, or let it hand over: give it the line \
             `{CHAIN}`, and as its last command `{}` (it must be executable)",
            path.display(),
            wanted.lines().last().unwrap_or_default()
        ),
        State::Missing | State::Outdated => write(repo, &path, &wanted)?,
        State::Installed | State::Chained => {}
    }
    // The hook first: with the setting and without a hook, Git would refuse every push.
    settings::configure(repo)
}

fn write(repo: &Path, path: &Path, wanted: &str) -> Result<()> {
    let dir = repo.join("hooks");
    fs::create_dir_all(&dir).with_context(|| format!("{} could not be created", dir.display()))?;
    let tmp = dir.join(unique(".proc-receive-"));
    let write = || -> std::io::Result<()> {
        let mut file = fs::File::create(&tmp)?;
        file.write_all(wanted.as_bytes())?;
        file.set_permissions(fs::Permissions::from_mode(0o755))?;
        // A hook that a power cut emptied would run as an empty script and accept nothing, with no reason given.
        file.sync_all()?;
        drop(file);
        fs::rename(&tmp, path)
    };
    write().inspect_err(|_| drop(fs::remove_file(&tmp))).with_context(|| format!("{} not written", path.display()))
}

fn is_executable(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|m| m.permissions().mode() & 0o111 != 0)
}

/// What keeps pushes to `repo` from reaching the daemon, a sentence each; empty when all is well.
pub fn verify(repo: &Path, refrain_exe: &Path, socket: &Path) -> Result<Vec<String>> {
    let path = hook_path(repo);
    let shown = path.display();
    let mut problems = Vec::new();
    match state(repo, refrain_exe, socket)? {
        State::Missing => {
            problems.push(format!("{shown} is missing, so pushes are refused; run `refrain hooks install`"));
        }
        State::Foreign => problems.push(format!(
            "{shown} is not refrain's and does not hand over to it; `refrain hooks install` says how to chain it"
        )),
        State::Outdated if !is_executable(&path) => {
            problems.push(format!("{shown} is not executable, so Git passes it by; run `refrain hooks install`"));
        }
        State::Outdated => {
            problems.push(format!("{shown} names another program or socket; run `refrain hooks install`"));
        }
        State::Installed | State::Chained => {}
    }
    problems.extend(settings::verify(repo)?);
    Ok(problems)
}

/// Removes the hook if it is ours, with the setting that makes Git call it: without the hook, Git would refuse every
/// push. Says whether there was one.
pub fn uninstall(repo: &Path) -> Result<bool> {
    let path = hook_path(repo);
    let found = read(&path)?;
    if found.as_ref().is_some_and(|found| !is_ours(found)) {
        bail!("{} is not refrain's, and was left alone", path.display());
    }
    settings::uncover(repo)?;
    if found.is_none() {
        return Ok(false);
    }
    fs::remove_file(&path).with_context(|| format!("{} could not be removed", path.display()))?;
    Ok(true)
}
