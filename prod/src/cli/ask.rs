//! Commands that ask a running daemon over its socket.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Subcommand;
use refrain_core::names::{RefName, RepoName};
use refrain_core::record::{RepoConfigured, Visibility};

use super::{BadConfig, Unreachable};
use crate::config;
use crate::driver::{Request, Response};

#[derive(Subcommand)]
pub(super) enum Repo {
    /// Create a repository at every site
    Create {
        name: String,
        /// What HEAD points to
        #[arg(long, default_value = "refs/heads/main")]
        head: String,
    },
    /// Change a repository's configuration, in order with its pushes
    Set {
        name: String,
        /// What HEAD points to
        #[arg(long)]
        head: Option<String>,
        /// Refuse every push, with this reason
        #[arg(long, value_name = "REASON", conflicts_with = "read_write")]
        read_only: Option<String>,
        /// Take pushes again
        #[arg(long)]
        read_write: bool,
        /// Refuse deletions
        #[arg(long, value_enum)]
        deny_deletes: Option<Switch>,
        /// Refuse updates that are no fast-forward
        #[arg(long, value_enum)]
        deny_non_fast_forwards: Option<Switch>,
    },
}

#[derive(Clone, Copy, clap::ValueEnum)]
pub(super) enum Switch {
    On,
    Off,
}

impl Switch {
    fn on(self) -> bool {
        matches!(self, Switch::On)
    }
}

pub(super) fn repo(config: Option<&Path>, json: bool, what: Repo) -> Result<u8> {
    let file = config::load(&config::locate(config)).context(BadConfig)?;
    let socket = file.site[0].socket();
    let (name, request) = match what {
        Repo::Create { name, head } => {
            let create_repo = parse(&name)?;
            (name, Request::CreateRepo { create_repo, head: RefName::parse(&head)?, visibility: Visibility::Applied })
        }
        Repo::Set { name, head, read_only, read_write, deny_deletes, deny_non_fast_forwards } => {
            let wish = RepoConfigured {
                head: head.map(|head| RefName::parse(&head)).transpose()?,
                description: None,
                deny_deletes: deny_deletes.map(Switch::on),
                deny_non_fast_forwards: deny_non_fast_forwards.map(Switch::on),
                read_only: if read_write { Some(String::new()) } else { read_only },
                visibility: None,
            };
            let set_repo = parse(&name)?;
            (name, Request::SetRepo { set_repo, wish })
        }
    };
    match talk(&socket, &request)? {
        Response::Done { partition, offset } => {
            let created = matches!(request, Request::CreateRepo { .. });
            if created {
                let places: Vec<PathBuf> = file.site.iter().map(|site| site.repos.clone()).collect();
                wait_for(&places, &name, offset)?;
            }
            if json {
                println!("{}", serde_json::json!({ "repo": name, "partition": partition, "offset": offset }));
            } else {
                println!("{name}: done at partition {partition}, offset {offset}");
            }
            Ok(0)
        }
        Response::Refused(why) => {
            eprintln!("refrain: {name}: {why}");
            Ok(1)
        }
        Response::Status(_) => anyhow::bail!("the daemon answered another question"),
    }
}

fn parse(name: &str) -> Result<RepoName> {
    RepoName::parse(name).with_context(|| format!("{name:?} is no repository name"))
}

/// Returns when every site of the file has the repository of that incarnation, with hooks.
pub(super) fn wait_for(repos: &[PathBuf], name: &str, incarnation: u64) -> Result<()> {
    let until = std::time::Instant::now() + std::time::Duration::from_secs(30);
    for dir in repos {
        let mark = dir.join(format!("{name}.git")).join("refrain-incarnation");
        while std::fs::read_to_string(&mark).ok().and_then(|text| text.trim().parse().ok()) != Some(incarnation) {
            if std::time::Instant::now() > until {
                anyhow::bail!("{} was not made within 30 s; see the daemon's messages", mark.display());
            }
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
    }
    Ok(())
}

/// One question, one answer.
pub(super) fn talk(socket: &Path, request: &Request) -> Result<Response> {
    let unreachable = || Unreachable(format!("no daemon answers at {}; is `refrain serve` running?", socket.display()));
    let mut stream = UnixStream::connect(socket).with_context(unreachable)?;
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    stream.write_all(&line).with_context(unreachable)?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).with_context(unreachable)?;
    serde_json::from_str(&answer).with_context(|| format!("the daemon's answer cannot be read: {answer:?}"))
}
