//! `refrain repo`: repositories, at every site. Orders go through the log; what is shown comes from a site's tables.

use std::ffi::OsStr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::builder::{StringValueParser, TypedValueParser};
use clap::error::ErrorKind;
use clap::{Arg, ArgGroup, Command, Subcommand};
use refrain_core::names::{RefName, RepoName};
use refrain_core::record::{MemberState, RepoConfigured, Visibility};
use refrain_core::settings;

use super::link::{self, LOOK_EVERY, Link};
use super::out::{Out, note};
use super::{NOT_FOUND, NotFound, TRY_LATER, seconds};
use crate::driver::{LIFE, RepoRow, Request, Response, overlong};
use crate::status;

#[derive(Subcommand)]
pub(super) enum Repo {
    /// Create a repository at every site; returns when every active site has it
    Create {
        name: RepoName,
        /// What HEAD points to
        #[arg(long, default_value = "refs/heads/main")]
        head: RefName,
        /// When a site shows what was pushed: as soon as it can, or when all active sites have its objects
        #[arg(long, value_enum, default_value = "applied")]
        visibility: Shown,
        /// How long the sites may take, in seconds
        #[arg(long, value_name = "S", default_value = "30", value_parser = seconds)]
        timeout: Duration,
    },
    /// List all repositories
    List,
    /// Show a repository's configuration
    Show { name: RepoName },
    /// Change a repository's configuration, in order with its pushes
    #[command(group(ArgGroup::new("change").required(true).multiple(true)))]
    Set {
        name: RepoName,
        /// What HEAD points to
        #[arg(long, group = "change")]
        head: Option<RefName>,
        /// Refuse every push, with this reason
        #[arg(long, value_name = "REASON", conflicts_with = "read_write", group = "change")]
        #[arg(value_parser = Quietly(reason))]
        read_only: Option<String>,
        /// Take pushes again
        #[arg(long, group = "change")]
        read_write: bool,
        /// Refuse deletions
        #[arg(long, value_enum, group = "change")]
        deny_deletes: Option<Switch>,
        /// Refuse updates that are no fast-forward
        #[arg(long, value_enum, group = "change")]
        deny_non_fast_forwards: Option<Switch>,
        /// When a site shows what was pushed
        #[arg(long, value_enum, group = "change")]
        visibility: Option<Shown>,
        /// One line about it, for people
        #[arg(long, value_name = "TEXT", group = "change", value_parser = Quietly(line))]
        description: Option<String>,
        /// A Git setting that every site shows; nothing behind the `=` takes it away
        #[arg(long, value_name = "KEY=VALUE", group = "change", value_parser = Quietly(setting))]
        git: Vec<(String, String)>,
    },
}

/// A Git setting that the log carries.
fn setting(text: &str) -> Result<(String, String), String> {
    let known = || settings::keys().collect::<Vec<_>>().join(", ");
    let (key, value) = text.split_once('=').ok_or_else(|| format!("not KEY=VALUE; keys are {}", known()))?;
    let spelled = settings::keys().find(|known| known.eq_ignore_ascii_case(key));
    let key = spelled.ok_or_else(|| format!("this key is not carried; keys are {}", known()))?;
    settings::check(key, value).map_err(ToString::to_string)?;
    Ok((key.to_string(), value.to_string()))
}

/// A text of one line, as `repo show` prints it; an empty one takes it away.
fn line(text: &str) -> Result<String, String> {
    match overlong(text) {
        Some(why) => Err(why),
        None if text.chars().any(char::is_control) => Err("it has more than one line".into()),
        None => Ok(text.to_string()),
    }
}

/// What goes into a record. What is wrong is said here, and without the text: clap would repeat all of it.
#[derive(Clone)]
struct Quietly<F>(F);

impl<T, F> TypedValueParser for Quietly<F>
where
    T: Send + Sync + Clone + 'static,
    F: Fn(&str) -> Result<T, String> + Send + Sync + Clone + 'static,
{
    type Value = T;

    fn parse_ref(&self, cmd: &Command, arg: Option<&Arg>, value: &OsStr) -> Result<T, clap::Error> {
        let text = StringValueParser::new().parse_ref(cmd, arg, value)?;
        let what = || arg.map_or_else(|| "a text".into(), ToString::to_string);
        (self.0)(&text)
            .map_err(|why| clap::Error::raw(ErrorKind::ValueValidation, format!("{}: {why}\n", what())).with_cmd(cmd))
    }
}

/// The reason for something.
fn reason(text: &str) -> Result<String, String> {
    match overlong(text) {
        Some(why) => Err(why),
        None if text.is_empty() => Err("a value is required".into()),
        None => Ok(text.to_string()),
    }
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

#[derive(Clone, Copy, clap::ValueEnum)]
pub(super) enum Shown {
    Applied,
    Replicated,
}

impl From<Shown> for Visibility {
    fn from(shown: Shown) -> Visibility {
        match shown {
            Shown::Applied => Visibility::Applied,
            Shown::Replicated => Visibility::Replicated,
        }
    }
}

pub(super) fn run(config: Option<&Path>, json: bool, what: Repo) -> Result<u8> {
    let link = Link::open(config)?;
    match what {
        Repo::List => list(&link, json),
        Repo::Show { name } => show(&link, json, &name),
        Repo::Create { name, head, visibility, timeout } => {
            let request = Request::CreateRepo { create_repo: name.clone(), head, visibility: visibility.into() };
            let (partition, offset) = match order(&link, &name, &request)? {
                Ok(place) => place,
                Err(code) => return Ok(code),
            };
            wait_for(&link, &name, (partition, offset), timeout)?;
            done(json, &name, partition, offset)
        }
        Repo::Set {
            name,
            head,
            read_only,
            read_write,
            deny_deletes,
            deny_non_fast_forwards,
            visibility,
            description,
            git,
        } => {
            if let Some((key, _)) = git.iter().enumerate().find_map(|(at, it)| git[..at].iter().find(|of| of.0 == it.0))
            {
                note(format_args!("--git names {key} twice; each of a record's settings has one value"));
                return Ok(2);
            }
            let wish = RepoConfigured {
                head,
                description,
                deny_deletes: deny_deletes.map(Switch::on),
                deny_non_fast_forwards: deny_non_fast_forwards.map(Switch::on),
                read_only: if read_write { Some(String::new()) } else { read_only },
                visibility: visibility.map(Visibility::from),
                git: git.into_iter().collect(),
            };
            match order(&link, &name, &Request::SetRepo { set_repo: name.clone(), wish })? {
                Ok((partition, offset)) => done(json, &name, partition, offset),
                Err(1) if link::table(link.fresh_site()?, &name)?.0.repo.is_none() => Ok(NOT_FOUND),
                Err(code) => Ok(code),
            }
        }
    }
}

/// Where an order counted, or the exit code if it was refused, which is said.
fn order(link: &Link, name: &RepoName, request: &Request) -> Result<Result<(u32, u64), u8>> {
    match link.ask(request)? {
        Response::Done { partition, offset } => Ok(Ok((partition, offset))),
        Response::Refused(why) => {
            note(format_args!("{name}: {why}"));
            Ok(Err(if why.starts_with("unavailable:") { TRY_LATER } else { 1 }))
        }
        _ => anyhow::bail!("the daemon answered another question"),
    }
}

fn done(json: bool, name: &RepoName, partition: u32, offset: u64) -> Result<u8> {
    let mut out = Out::new();
    if json {
        out.json(&serde_json::json!({ "repo": name, "partition": partition, "offset": offset }))?;
    } else {
        out.line(format_args!("{name}: done at partition {partition}, offset {offset}"))?;
    }
    out.flush()?;
    Ok(0)
}

/// Returns when every active site has the repository made at that place of the log, with hooks.
pub(super) fn wait_for(link: &Link, name: &RepoName, made: (u32, u64), within: Duration) -> Result<()> {
    let until = Instant::now() + within;
    loop {
        let lacking = lacking(link, name, made);
        if lacking.as_ref().is_some_and(Vec::is_empty) {
            return Ok(());
        }
        if Instant::now() >= until {
            let who = lacking.map_or_else(|| "any site".into(), |names| names.join(", "));
            anyhow::bail!(
                "{name} was created at partition {}, offset {}, and is not yet at {who} after {} s; `refrain wait` \
                 waits on, the daemon's messages say what is wrong",
                made.0,
                made.1,
                within.as_secs_f64()
            );
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// Active sites without the repository; none if it is not known who is active.
fn lacking(link: &Link, name: &RepoName, (partition, offset): (u32, u64)) -> Option<Vec<String>> {
    // Written last when a repository is made, after its hooks.
    let is_made = |repos: &Path| {
        let mark = repos.join(format!("{name}.git")).join(LIFE);
        std::fs::read_to_string(mark).ok().and_then(|text| text.trim().parse().ok()) == Some(offset)
    };
    let has_it = |site: &status::SiteStatus| match link.file.site.iter().find(|it| it.name == site.name) {
        Some(here) => is_made(&here.repos),
        // Of a site elsewhere there is only its word.
        None => {
            let mut marks = site.partitions.iter().filter(|it| it.partition == partition);
            marks.any(|it| it.applied.is_some_and(|at| at > offset))
        }
    };
    let status = status::document(&link.statuses(), None);
    let active = status.sites.into_iter().filter(|site| site.state == Some(MemberState::Active));
    let active: Vec<_> = active.collect();
    (!active.is_empty()).then(|| active.iter().filter(|it| !has_it(it)).map(|site| site.name.clone()).collect())
}

fn list(link: &Link, json: bool) -> Result<u8> {
    let repos = link::repos(link.fresh_site()?)?;
    let mut out = Out::new();
    if json {
        out.json(&repos)?;
    } else if !repos.is_empty() {
        let mut table = comfy_table::Table::new();
        table.load_style(comfy_table::presets::NOTHING);
        table.set_header(["repository", "refs", "head", "visibility", "partition", "state"]);
        for repo in &repos {
            let cells = [repo.name.to_string(), repo.refs.to_string(), repo.head.to_string(), shown(repo.visibility)];
            let state = repo.read_only.as_ref().map_or_else(|| "read-write".into(), |why| format!("read-only: {why}"));
            table.add_row(cells.into_iter().chain([repo.partition.to_string(), state]));
        }
        out.line(table)?;
    }
    out.flush()?;
    Ok(0)
}

fn shown(visibility: Visibility) -> String {
    match visibility {
        Visibility::Applied => "applied".into(),
        Visibility::Replicated => "replicated".into(),
    }
}

fn show(link: &Link, json: bool, name: &RepoName) -> Result<u8> {
    let (head, _) = link::table(link.fresh_site()?, name)?;
    let Some(repo) = head.repo else { return Err(NotFound(format!("there is no repository {name}")).into()) };
    let mut out = Out::new();
    if json {
        out.json(&repo)?;
    } else {
        let RepoRow { name, partition, incarnation, head, visibility, read_only, refs, .. } = &repo;
        let on = |on: bool| if on { "on" } else { "off" };
        out.line(format_args!("name                    {name}"))?;
        out.line(format_args!("created                 partition {partition}, offset {incarnation}"))?;
        out.line(format_args!("head                    {head}"))?;
        out.line(format_args!("refs                    {refs}"))?;
        out.line(format_args!("visibility              {}", shown(*visibility)))?;
        out.line(format_args!("read-only               {}", read_only.as_deref().unwrap_or("no")))?;
        out.line(format_args!("deny-deletes            {}", on(repo.deny_deletes)))?;
        out.line(format_args!("deny-non-fast-forwards  {}", on(repo.deny_non_fast_forwards)))?;
        if !repo.description.is_empty() {
            out.line(format_args!("description             {}", repo.description))?;
        }
        for (key, value) in &repo.git {
            out.line(format_args!("git                     {key} = {value}"))?;
        }
        for site in &link.file.site {
            let path = site.repos.join(format!("{name}.git"));
            let state = if path.join(LIFE).exists() { "" } else { " (not there)" };
            out.line(format_args!("at {:<20} {}{state}", site.name, path.display()))?;
        }
    }
    out.flush()?;
    Ok(0)
}
