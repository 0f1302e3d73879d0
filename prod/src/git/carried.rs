//! The Git settings that the log carries: in a file of their own, which a repository's `config` includes.
//!
//! Owns that file, whole. Promises that it is what the log says or what it was before, never a part; leaves what
//! administrators write into `config` alone: it is read in its order, and what comes later counts.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write as _};
use std::path::Path;

use anyhow::{Context, Result, bail};
use refrain_core::settings::Settings;

use super::command::{Reads, command};
use super::sweep;

/// Beside `config`, which names it.
const FILE: &str = "refrain.config";

/// The file's text. Keys have one dot, values one line.
fn text(settings: &Settings) -> String {
    let mut text = String::from("# Written by refrain from its log; `refrain repo set --git KEY=VALUE` changes it.\n");
    for (key, value) in settings {
        let (section, name) = key.split_once('.').unwrap_or(("", key));
        let value = value.replace('\\', "\\\\").replace('"', "\\\"");
        writeln!(text, "[{section}]\n\t{name} = \"{value}\"").expect("a string takes it");
    }
    text
}

/// Whether the file says `settings`. One that is not there says none.
pub(crate) fn is(repo: &Path, settings: &Settings) -> Result<bool> {
    let file = repo.join(FILE);
    match fs::read(&file) {
        Ok(found) => Ok(found == text(settings).as_bytes()),
        Err(why) if why.kind() == io::ErrorKind::NotFound => Ok(settings.is_empty()),
        Err(why) => Err(why).with_context(|| format!("{} cannot be read", file.display())),
    }
}

/// Has Git see `settings`, and no others of those that were carried before. A later flush of the file system makes it
/// durable.
pub(crate) fn carry(repo: &Path, settings: &Settings) -> Result<()> {
    if is(repo, settings)? {
        // It may be there because a daemon died before the next step.
        return if settings.is_empty() { Ok(()) } else { include(repo) };
    }
    let (file, new) = (repo.join(FILE), repo.join(format!("{FILE}.new")));
    let write = || {
        let mut out = fs::File::create(&new)?;
        out.write_all(text(settings).as_bytes())?;
        // A rename that outlives its content would leave a file that no Git command gets past.
        out.sync_all()?;
        fs::rename(&new, &file)
    };
    write().with_context(|| format!("{} could not be written; check free space", file.display()))?;
    include(repo)
}

fn include(repo: &Path) -> Result<()> {
    let file = repo.join("config");
    let config = gix::config::File::from_path_no_includes(file.clone(), gix::config::Source::Local)
        .map_err(|e| anyhow::anyhow!("{} cannot be read: {e}", file.display()))?;
    if config.strings("include.path").unwrap_or_default().iter().any(|path| path == FILE) {
        return Ok(());
    }
    sweep::release(repo, &["config"]);
    let mut git = command(&Reads::Nothing);
    let output = git.args(["config", "--file"]).arg(&file).args(["--add", "include.path", FILE]).output();
    let output = output.context("git could not be started; is it installed?")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("git could not include {FILE} in {}: {}", file.display(), said.trim());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::command::command_in;
    use super::*;

    #[test]
    fn git_sees_what_the_log_carries_and_no_longer_what_it_took_away() {
        let dir = tempfile::tempdir().expect("a directory");
        let repo = dir.path().join("r.git");
        let disks = super::super::Disks::flushed_by(dir.path(), |_| Ok(())).expect("opened");
        super::super::Store::create(&repo, "refs/heads/main", &disks).expect("created");
        let seen = |key: &str| {
            let output = command_in(&repo, &Reads::Nothing).args(["config", key]).output().expect("git runs");
            String::from_utf8(output.stdout).expect("text").trim_end().to_string()
        };
        let settings = |pairs: &[(&str, &str)]| -> Settings {
            pairs.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect()
        };
        carry(&repo, &settings(&[])).expect("nothing to do");
        assert!(!repo.join(FILE).exists());
        let odd = r#"  Ada "the" Lovelace \ # ; é "#;
        let both = settings(&[("gitweb.owner", odd), ("uploadpack.allowFilter", "true")]);
        for _ in 0..2 {
            carry(&repo, &both).expect("written");
            assert_eq!(
                (seen("gitweb.owner").as_str(), seen("uploadpack.allowFilter").as_str()),
                (odd.trim_end(), "true")
            );
            assert!(is(&repo, &both).expect("read") && !is(&repo, &settings(&[])).expect("read"));
        }
        assert_eq!(fs::read_to_string(repo.join("config")).expect("read").matches(FILE).count(), 1);
        // An administrator's later word counts, and stays.
        let own = command_in(&repo, &Reads::Nothing).args(["config", "gitweb.owner", "here"]).status();
        assert!(own.expect("git runs").success());
        carry(&repo, &settings(&[("gitweb.owner", "bob")])).expect("written");
        assert_eq!((seen("gitweb.owner").as_str(), seen("uploadpack.allowFilter").as_str()), ("here", ""));
    }

    #[test]
    fn a_daemon_that_died_between_the_two_steps_does_the_second_when_it_comes_again() {
        let dir = tempfile::tempdir().expect("a directory");
        let repo = dir.path().join("r.git");
        let disks = super::super::Disks::flushed_by(dir.path(), |_| Ok(())).expect("opened");
        super::super::Store::create(&repo, "refs/heads/main", &disks).expect("created");
        let settings: Settings = [("gitweb.url".to_string(), "https://git.example".to_string())].into();
        fs::write(repo.join(FILE), text(&settings)).expect("written");
        carry(&repo, &settings).expect("included");
        let output = command_in(&repo, &Reads::Nothing).args(["config", "gitweb.url"]).output().expect("git runs");
        assert_eq!(output.stdout, b"https://git.example\n");
    }
}
