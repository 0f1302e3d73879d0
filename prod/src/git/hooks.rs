//! The hook that hands every push to the daemon: install, verify, uninstall.
//!
//! Promises never to touch a hook that it did not write, and to leave either the old or the new one at any crash.

use std::fs;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::ingest::unique;

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

fn is_ours(script: &str) -> bool {
    script.lines().any(|line| line == MARKER)
}

/// Writes the hook and the settings that go with it, unless they are there already. A foreign hook is refused.
pub fn install(repo: &Path, refrain_exe: &Path, socket: &Path) -> Result<()> {
    let path = hook_path(repo);
    let wanted = script(refrain_exe, socket)?;
    let found = read(&path)?;
    if found.as_ref().is_some_and(|found| !is_ours(found)) {
        bail!(
            "{} is not refrain's, and was left alone; move it away, or let it hand over with `exec {} hook \
             proc-receive --socket {}` as its last command and add the line `{MARKER}`",
            path.display(),
            refrain_exe.display(),
            socket.display()
        );
    }
    if found.as_ref() != Some(&wanted) || !is_executable(&path) {
        write(repo, &path, &wanted)?;
    }
    // The hook first: with the setting and without a hook, Git would refuse every push.
    super::store::configure(repo)
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
    match read(&path)? {
        None => problems.push(format!("{shown} is missing, so pushes are refused; run `refrain hooks install`")),
        Some(found) if !is_ours(&found) => {
            problems.push(format!("{shown} is not refrain's; see `refrain hooks install`"))
        }
        Some(found) if found != script(refrain_exe, socket)? => {
            problems.push(format!("{shown} names another program or socket; run `refrain hooks install`"));
        }
        Some(_) if !is_executable(&path) => {
            problems.push(format!("{shown} is not executable, so Git passes it by; run `refrain hooks install`"));
        }
        Some(_) => {}
    }
    problems.extend(verify_config(repo)?);
    Ok(problems)
}

fn verify_config(repo: &Path) -> Result<Vec<String>> {
    let mut problems = Vec::new();
    let covering = git_config(repo, "receive.procReceiveRefs")?;
    if !covering.iter().any(|v| v.trim_end_matches('/') == "refs") {
        problems.push(format!(
            "{}: receive.procReceiveRefs is not `refs`, so pushes pass refrain by; run `refrain hooks install`",
            repo.display()
        ));
    }
    if let Some(path) = git_config(repo, "core.hooksPath")?.last() {
        let own = fs::canonicalize(repo.join("hooks")).ok();
        if own.is_none() || fs::canonicalize(repo.join(path)).ok() != own {
            problems.push(format!(
                "{}: core.hooksPath is {path}, so Git does not run refrain's hook; unset it for this repository",
                repo.display()
            ));
        }
    }
    Ok(problems)
}

/// All values that Git itself would see, system and user files included.
fn git_config(repo: &Path, key: &str) -> Result<Vec<String>> {
    let mut git = std::process::Command::new("git");
    git.arg("--git-dir").arg(repo).args(["config", "--null", "--get-all", key]);
    let output = git.output().context("git could not be started; is it installed?")?;
    // 1 is Git's answer for "not set".
    if !output.status.success() && output.status.code() != Some(1) {
        bail!("git config {key} failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(text.split_terminator('\0').map(str::to_owned).collect())
}

/// Removes the hook if it is ours; says whether there was one.
pub fn uninstall(repo: &Path) -> Result<bool> {
    let path = hook_path(repo);
    match read(&path)? {
        None => Ok(false),
        Some(found) if !is_ours(&found) => bail!("{} is not refrain's, and was left alone", path.display()),
        Some(_) => {
            fs::remove_file(&path).with_context(|| format!("{} could not be removed", path.display()))?;
            Ok(true)
        }
    }
}
