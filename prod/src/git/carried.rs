//! The Git settings that the log carries: in a file of their own, which a repository's `config` includes, as
//! `settings.rs` has it.
//!
//! Owns that file, whole. Promises that it is what the log says or what it was before, never a part; leaves what
//! administrators write into `config` behind the inclusion alone: what comes later counts.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write as _};
use std::path::Path;

use anyhow::{Context, Result};
use refrain_core::settings::Settings;

/// Beside `config`, which names it; while it is not there Git passes over that.
pub(super) const FILE: &str = "refrain.config";

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
        Ok(found) => Ok(said(&found) == said(text(settings).as_bytes())),
        Err(why) if why.kind() == io::ErrorKind::NotFound => Ok(settings.is_empty()),
        Err(why) => Err(why).with_context(|| format!("{} cannot be read", file.display())),
    }
}

/// All but the comments, which another version may word otherwise.
fn said(text: &[u8]) -> Vec<&[u8]> {
    text.split(|byte| *byte == b'\n').filter(|line| !line.starts_with(b"#")).collect()
}

/// Has Git see `settings`, and no others of those that were carried before. A later flush of the file system makes it
/// durable.
pub(crate) fn carry(repo: &Path, settings: &Settings) -> Result<()> {
    if is(repo, settings)? {
        return Ok(());
    }
    let (file, new) = (repo.join(FILE), repo.join(format!("{FILE}.new")));
    let write = || {
        let mut out = fs::File::create(&new)?;
        out.write_all(text(settings).as_bytes())?;
        // A rename that outlives its content would leave a file that no Git command gets past.
        out.sync_all()?;
        fs::rename(&new, &file)
    };
    write().with_context(|| format!("{} could not be written; check free space", file.display()))
}

#[cfg(test)]
mod tests {
    use super::super::command::{Reads, command_in};
    use super::*;

    #[test]
    fn git_sees_what_the_log_carries_and_no_longer_what_it_took_away() {
        let dir = tempfile::tempdir().expect("a directory");
        let repo = dir.path().join("r.git");
        let disks = super::super::Disks::flushed_by(dir.path(), |_| Ok(())).expect("opened");
        super::super::Store::create(&repo, "refs/heads/main", &disks).expect("created");
        let seen = |key: &str| {
            let output = command_in(&repo, &Reads::Nothing).args(["config", key]).output().expect("git runs");
            String::from_utf8(output.stdout).expect("text").trim_end_matches('\n').to_string()
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
            assert_eq!((seen("gitweb.owner").as_str(), seen("uploadpack.allowFilter").as_str()), (odd, "true"));
            assert!(is(&repo, &both).expect("read") && !is(&repo, &settings(&[])).expect("read"));
        }
        let other_words = text(&both).replace("Written", "Made");
        fs::write(repo.join(FILE), other_words).expect("written");
        assert!(is(&repo, &both).expect("read"), "as another version wrote it");
        // An administrator's later word counts, and stays.
        let own = command_in(&repo, &Reads::Nothing).args(["config", "gitweb.owner", "here"]).status();
        assert!(own.expect("git runs").success());
        carry(&repo, &settings(&[("gitweb.owner", "bob")])).expect("written");
        assert_eq!((seen("gitweb.owner").as_str(), seen("uploadpack.allowFilter").as_str()), ("here", ""));
    }
}
