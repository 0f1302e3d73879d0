//! The Git settings of a repository that we serve: written, compared with what Git sees, put right.
//!
//! Promises that a repository's own file is changed only where it differs.

use std::path::Path;

use anyhow::{Context, Result, bail};

use super::command::{Reads, command, command_in};
use super::sweep;

/// One setting.
pub(super) struct Setting {
    pub key: &'static str,
    pub value: &'static str,
    /// There may be other values beside it.
    many: bool,
    /// What else happens, for a sentence that says that it differs.
    otherwise: &'static str,
}

const fn one(key: &'static str, value: &'static str, otherwise: &'static str) -> Setting {
    Setting { key, value, many: false, otherwise }
}

const GC: &str = "so Git may prune what a push needs that is not decided yet";

/// gc is ours to start; all refs but ours go through the hook; nobody sees `refs/refrain/`; what the fold judges, Git
/// does not.
pub(super) const SETTINGS: [Setting; 9] = [
    one("gc.auto", "0", GC),
    one("maintenance.auto", "false", GC),
    one("receive.autogc", "false", GC),
    Setting { many: true, ..one("receive.procReceiveRefs", "refs", "so pushes pass refrain by") },
    Setting {
        many: true,
        ..one("transfer.hideRefs", "refs/refrain", "so clients see refrain's own refs, and may push to them")
    },
    one("core.logAllRefUpdates", "false", "so strangers' reflogs hold what nobody needs"),
    one("http.receivepack", "true", "so pushes over HTTP are refused"),
    Setting {
        many: true,
        ..one("include.path", super::carried::FILE, "so Git does not see the settings that the log carries")
    },
    one("receive.denyDeleteCurrent", "ignore", "so Git refuses deletions that are the log's to judge"),
];

impl Setting {
    /// Whether Git's view of `values`, the last of which counts, comes to this setting.
    fn is_met(&self, values: &[String]) -> bool {
        if self.many {
            // A later `!refs/refrain` shows again what was hidden.
            let shown = |value: &String| value.strip_prefix('!').is_some_and(|value| value.starts_with(self.value));
            values.iter().any(|value| value.trim_end_matches('/') == self.value) && !values.iter().any(shown)
        } else {
            values.last().is_some_and(|value| meaning(value) == meaning(self.value))
        }
    }
}

/// Git has several words for yes and no.
fn meaning(value: &str) -> String {
    match value.to_ascii_lowercase().as_str() {
        "yes" | "on" | "true" | "1" => "true".into(),
        "no" | "off" | "false" | "0" => "false".into(),
        other => other.into(),
    }
}

/// Gives an existing repository the settings that a created one has; changes nothing that is right already.
pub(super) fn configure(path: &Path) -> Result<()> {
    let file = path.join("config");
    let config = gix::config::File::from_path_no_includes(file.clone(), gix::config::Source::Local)
        .map_err(|e| anyhow::anyhow!("{} cannot be read: {e}", file.display()))?;
    for Setting { key, value, many, .. } in &SETTINGS {
        let set = config.strings(key).unwrap_or_default();
        let right = if *many { set.iter().any(|v| v == value) } else { set.last().is_some_and(|v| v == value) };
        if right {
            continue;
        }
        // Git would wait for nobody; what is older than a moment is a corpse's.
        sweep::release(path, &["config"]);
        let action = if *many { "--add" } else { "--replace-all" };
        let mut git = command(&Reads::Nothing);
        let output = git.args(["config", "--file"]).arg(&file).args([action, key, value]).output();
        let output = output.context("git could not be started; is it installed?")?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("git could not set {key} in {}: {}", file.display(), said.trim());
        }
    }
    Ok(())
}

/// Where what Git sees, system and user files included, is not as it should be, a sentence each.
pub(super) fn verify(repo: &Path) -> Result<Vec<String>> {
    let seen = seen(repo)?;
    let values = |key: &str| {
        let of = seen.iter().filter(|(known, _)| known.eq_ignore_ascii_case(key));
        of.map(|(_, value)| value.clone()).collect::<Vec<_>>()
    };
    let shown = repo.display();
    let wrong = SETTINGS.iter().filter(|setting| !setting.is_met(&values(setting.key)));
    let mut problems: Vec<String> = wrong
        .map(|Setting { key, value, otherwise, .. }| {
            format!("{shown}: {key} is not `{value}`, {otherwise}; run `refrain hooks install`")
        })
        .collect();
    if let Some(path) = values("core.hooksPath").last() {
        let own = std::fs::canonicalize(repo.join("hooks")).ok();
        if own.is_none() || std::fs::canonicalize(repo.join(path)).ok() != own {
            problems.push(format!(
                "{shown}: core.hooksPath is {path}, so Git does not run refrain's hook; unset it for this repository"
            ));
        }
    }
    Ok(problems)
}

/// All keys and values, in the order in which Git reads them.
fn seen(repo: &Path) -> Result<Vec<(String, String)>> {
    let home = std::env::var_os("HOME").unwrap_or_default();
    let mut git = command_in(repo, &Reads::Machines { home: &home });
    let output = git.args(["config", "--null", "--list"]).output();
    let output = output.context("git could not be started; is it installed?")?;
    if !output.status.success() {
        bail!("{}: git config failed: {}", repo.display(), String::from_utf8_lossy(&output.stderr).trim());
    }
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    // A key without a value is a yes.
    let pairs = text.split_terminator('\0').map(|entry| entry.split_once('\n').unwrap_or((entry, "true")));
    Ok(pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect())
}

/// Takes away the setting that has Git call the hook.
pub(super) fn uncover(repo: &Path) -> Result<()> {
    let mut git = command_in(repo, &Reads::Nothing);
    let output = git.args(["config", "--unset-all", "receive.procReceiveRefs"]).output();
    let output = output.context("git could not be started; is it installed?")?;
    // 5 is Git's answer for "not set".
    if !output.status.success() && output.status.code() != Some(5) {
        bail!("{}: {}", repo.display(), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_that_differs_is_named_once_and_put_right() {
        let dir = tempfile::tempdir().expect("a directory");
        let repo = dir.path().join("r.git");
        let disks = super::super::Disks::flushed_by(dir.path(), |_| Ok(())).expect("opened");
        super::super::Store::create(&repo, "refs/heads/main", &disks).expect("created");
        assert_eq!(verify(&repo).expect("read"), [""; 0]);
        let set = |args: &[&str]| {
            let mut git = command_in(&repo, &Reads::Nothing);
            assert!(git.arg("config").args(args).status().expect("git runs").success());
        };
        for Setting { key, many, .. } in &SETTINGS {
            set(&[if *many { "--unset-all" } else { "--replace-all" }, key]
                .into_iter()
                .chain((!many).then_some("other"))
                .collect::<Vec<_>>());
            let problems = verify(&repo).expect("read");
            assert!(problems.len() == 1 && problems[0].contains(key), "{key}: {problems:?}");
            configure(&repo).expect("put right");
            assert_eq!(verify(&repo).expect("read"), [""; 0], "{key}");
        }
        set(&["--replace-all", "core.logAllRefUpdates", "no"]);
        assert_eq!(verify(&repo).expect("read"), [""; 0], "another word for it");
        set(&["--add", "transfer.hideRefs", "!refs/refrain/keep"]);
        assert!(verify(&repo).expect("read")[0].contains("transfer.hideRefs"));
    }
}
