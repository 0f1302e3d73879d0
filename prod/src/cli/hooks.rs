//! `refrain hooks`: the hook in repositories that are there. Never touches a hook that refrain did not write.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use serde::Serialize;

use super::NotFound;
use super::link::Link;
use super::out::{Out, note};
use crate::config::SiteConfig;
use crate::driver::managed;
use crate::git::hooks::{self, State};

#[derive(Subcommand)]
pub(super) enum Hooks {
    /// Install the hook and the settings that go with it
    Install(Which),
    /// Say how each repository's hook is
    Status(Which),
    /// Say what would let pushes pass refrain by; 1 if anything does
    Verify(Which),
    /// Remove the hook, so that the repository is plain Git again
    Uninstall(Which),
}

#[derive(Args)]
pub(super) struct Which {
    /// Repositories; all of all sites of the file if none is named
    #[arg(value_name = "PATH")]
    paths: Vec<PathBuf>,
}

/// One repository, and what was found or done.
#[derive(Serialize)]
struct Row {
    path: PathBuf,
    site: String,
    hook: &'static str,
    problems: Vec<String>,
}

pub(super) fn run(config: Option<&Path>, json: bool, what: &Hooks) -> Result<u8> {
    let link = Link::open(config)?;
    let (Hooks::Install(which) | Hooks::Status(which) | Hooks::Verify(which) | Hooks::Uninstall(which)) = what;
    let exe = std::env::current_exe().context("cannot find this program's own path, which the hooks call")?;
    crate::git::require_git()?;
    let mut rows = Vec::new();
    for (site, path) in chosen(&link, &which.paths)? {
        rows.push(one(what, site, path, &exe, &site.socket()));
    }
    print(json, what, &rows)?;
    let failed = rows.iter().any(|row| !row.problems.is_empty());
    Ok(u8::from(failed && !matches!(what, Hooks::Status(_))))
}

/// Repositories with the site that each belongs to.
fn chosen<'a>(link: &'a Link, paths: &[PathBuf]) -> Result<Vec<(&'a SiteConfig, PathBuf)>> {
    let mut all = Vec::new();
    let sites = || link.file.site.iter();
    if paths.is_empty() {
        for site in sites().filter(|site| site.repos.exists()) {
            let repos = site.repos.canonicalize().with_context(|| format!("cannot find {}", site.repos.display()))?;
            all.extend(managed(&repos)?.into_iter().map(|path| (site, path)));
        }
    }
    for path in paths {
        let nothing = || NotFound(format!("there is no bare repository at {}", path.display()));
        let real = path.canonicalize().with_context(nothing)?;
        if !real.join("HEAD").exists() || !real.join("objects").is_dir() {
            return Err(nothing().into());
        }
        let site = sites().find(|site| site.repos.canonicalize().is_ok_and(|repos| real.starts_with(repos)));
        let none = || NotFound(format!("{} is below the `repos` of no configured site", path.display()));
        all.push((site.with_context(none)?, real));
    }
    Ok(all)
}

fn one(what: &Hooks, site: &SiteConfig, path: PathBuf, exe: &Path, socket: &Path) -> Row {
    let verified = || hooks::verify(&path, exe, socket).unwrap_or_else(|why| vec![format!("{why:#}")]);
    let problems = match what {
        Hooks::Install(_) => match hooks::install(&path, exe, socket) {
            Ok(()) => verified(),
            Err(why) => vec![format!("{why:#}")],
        },
        Hooks::Status(_) | Hooks::Verify(_) => verified(),
        Hooks::Uninstall(_) => match hooks::uninstall(&path) {
            Ok(_) if UnixStream::connect(socket).is_ok() => {
                vec![format!(
                    "{}: the daemon of site {} runs and will install the hook again; stop it first",
                    path.display(),
                    site.name
                )]
            }
            Ok(_) => Vec::new(),
            Err(why) => vec![format!("{why:#}")],
        },
    };
    let hook = match hooks::state(&path, exe, socket) {
        Ok(State::Installed) => "installed",
        Ok(State::Chained) => "chained",
        Ok(State::Outdated) => "outdated",
        Ok(State::Foreign) => "foreign",
        Ok(State::Missing) => "missing",
        Err(_) => "unreadable",
    };
    Row { site: site.name.clone(), hook, problems, path }
}

fn print(json: bool, what: &Hooks, rows: &[Row]) -> Result<()> {
    let mut out = Out::new();
    if json {
        out.json(&rows)?;
    }
    for row in rows {
        if !json {
            out.line(format_args!("{} {} {}", row.hook, row.site, row.path.display()))?;
        }
        for problem in &row.problems {
            match what {
                // Here they are what was asked for.
                Hooks::Verify(_) | Hooks::Status(_) if !json => out.line(format_args!("  {problem}"))?,
                Hooks::Verify(_) | Hooks::Status(_) => {}
                Hooks::Install(_) | Hooks::Uninstall(_) => note(problem),
            }
        }
    }
    out.flush()
}
