//! The configuration file: parsed once, every mistake named with its key and file.
//!
//! Promises that every path of a file that was read is absolute: hooks run in their repository's directory, so a path
//! that depends on where one stands would lead each of them elsewhere.

mod judge;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use refrain_core::config::Ack;
use refrain_core::placement::Map;
use serde::{Deserialize, Serialize};

use judge::judge;
pub use judge::not_built;

/// A commented example. Lines that begin with `#= ` are keys that may be left out.
pub const TEMPLATE: &str = include_str!("config/template.toml");

/// The whole file.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// Where the log is.
    pub log: Log,
    /// How pushes are treated.
    #[serde(default)]
    pub push: Push,
    /// The sites that this process runs.
    pub site: Vec<SiteConfig>,
}

/// The log.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Log {
    /// Which kind; only `embedded` is built so far.
    pub kind: LogKind,
    /// The directory of the embedded log's segment files.
    pub dir: PathBuf,
    /// Frozen when the log is created.
    #[serde(default = "default_partitions")]
    pub partitions: u32,
    /// Which repositories go to which of them; frozen, too.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub map: Map,
}

/// Kinds of logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogKind {
    /// Segment files, owned by one process.
    Embedded,
}

fn default_partitions() -> u32 {
    8
}

/// How pushes are treated.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Push {
    /// `log`, `sites:N` or `all`.
    pub ack: String,
    /// Packs up to here travel in the record.
    pub inline_max: Size,
    /// Ref updates in one push.
    pub updates_max: usize,
    /// How long a pusher waits for a decision.
    pub timeout: Seconds,
    /// Replicated visibility: shown at the latest then.
    pub flip_timeout: Seconds,
    /// Packs up to here travel in `packdata`; longer ones are refused.
    pub packdata_max: Size,
    /// Not built yet: goes with packs that are staged at other sites.
    pub copies: Option<u32>,
}

impl Default for Push {
    fn default() -> Self {
        Self {
            ack: "log".into(),
            inline_max: Size(256 << 10),
            updates_max: 10_000,
            timeout: Seconds(Duration::from_secs(10)),
            flip_timeout: Seconds(Duration::from_secs(30)),
            packdata_max: Size(1 << 30),
            copies: None,
        }
    }
}

/// One site.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SiteConfig {
    /// Its name in the log.
    pub name: String,
    /// Bare repositories: `<repos>/<name>.git`.
    pub repos: PathBuf,
    /// Journal and working files.
    pub state: PathBuf,
    /// Where the hook and the command line talk; default `<state>/refrain.sock`.
    pub socket: Option<PathBuf>,
    /// Where Git's smart HTTP and the pages for machines are; port 0 picks one. Loopback only so far.
    pub http: Option<SocketAddr>,
    /// What peers use; default from `http`.
    pub url: Option<String>,
}

impl SiteConfig {
    /// The socket's path.
    pub fn socket(&self) -> PathBuf {
        self.socket.clone().unwrap_or_else(|| self.state.join("refrain.sock"))
    }
}

/// Bytes: a number, or one with `KiB`, `MiB` or `GiB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Size(pub u64);

impl TryFrom<String> for Size {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let number: u64 = digits.trim().parse().map_err(|_| format!("{text:?} is no size, as in \"256KiB\""))?;
        let unit = match &text[digits.len()..] {
            "" | "B" => 1,
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            "GiB" => 1 << 30,
            other => return Err(format!("{other:?} is no unit; use B, KiB, MiB or GiB")),
        };
        number.checked_mul(unit).map(Size).ok_or_else(|| format!("{text:?} is too large"))
    }
}

impl From<Size> for String {
    fn from(size: Size) -> String {
        let units = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
        match units.iter().find(|(unit, _)| size.0 >= *unit && size.0.is_multiple_of(*unit)) {
            Some((unit, name)) => format!("{}{name}", size.0 / unit),
            None => format!("{}B", size.0),
        }
    }
}

/// A time: a number of seconds with `s`, fractions allowed, or of milliseconds with `ms`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Seconds(pub Duration);

impl TryFrom<String> for Seconds {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        let (number, scale) = match (text.strip_suffix("ms"), text.strip_suffix('s')) {
            (Some(number), _) => (number, 0.001),
            (None, Some(number)) => (number, 1.0),
            (None, None) => return Err(format!("{text:?} is no time, as in \"10s\"")),
        };
        let number: f64 = number.trim().parse().map_err(|_| format!("{text:?} is no time, as in \"10s\""))?;
        Duration::try_from_secs_f64(number * scale).map(Seconds).map_err(|why| format!("{text:?}: {why}"))
    }
}

impl From<Seconds> for String {
    fn from(seconds: Seconds) -> String {
        format!("{}s", seconds.0.as_secs_f64())
    }
}

/// Where the file is: `--config`, else `REFRAIN_CONFIG`, else `./refrain.toml`, else `/etc/refrain/refrain.toml`.
pub fn locate(given: Option<&Path>) -> PathBuf {
    find(given).0
}

/// And why that one.
pub fn find(given: Option<&Path>) -> (PathBuf, &'static str) {
    if let Some(path) = given {
        return (path.to_path_buf(), "--config");
    }
    if let Some(path) = std::env::var_os("REFRAIN_CONFIG") {
        return (path.into(), "env REFRAIN_CONFIG");
    }
    let here = PathBuf::from("refrain.toml");
    if here.exists() { (here, "default") } else { (PathBuf::from("/etc/refrain/refrain.toml"), "default") }
}

/// Reads and judges a file.
pub fn load(path: &Path) -> Result<File> {
    Ok(read(path)?.file)
}

/// A configuration in force, and where each value comes from.
#[derive(Debug)]
pub struct Loaded {
    /// What holds.
    pub file: File,
    /// What the file itself says.
    pub written: toml::Table,
    /// What the environment says instead, by key.
    pub env: BTreeMap<String, String>,
}

/// Reads and judges a file and what the environment puts over it: `REFRAIN_PUSH__TIMEOUT` is `push.timeout`, and so on
/// for every key of `[log]` and `[push]`. Relative paths are taken from the file's own directory, wherever they are
/// said.
pub fn read(path: &Path) -> Result<Loaded> {
    let text = std::fs::read_to_string(path).with_context(|| {
        format!(
            "cannot read the configuration {}; name one with --config, `refrain config template` shows how it looks",
            path.display()
        )
    })?;
    let mut loaded = parse(&text, ours(std::env::vars_os())?, path)?;
    let whole = std::path::absolute(path).with_context(|| format!("no such path: {}", path.display()))?;
    settle(&mut loaded.file, whole.parent().unwrap_or(Path::new("/")));
    judge(&loaded.file).with_context(|| format!("in {}", path.display()))?;
    Ok(loaded)
}

/// Makes every path absolute, from `dir` on.
fn settle(file: &mut File, dir: &Path) {
    let sites = file.site.iter_mut();
    let of_sites = sites.flat_map(|site| [Some(&mut site.repos), Some(&mut site.state), site.socket.as_mut()]);
    for path in of_sites.flatten().chain([&mut file.log.dir]) {
        // Its components once more, so that `./a/` and `a` are the same.
        *path = dir.join(&*path).components().collect();
    }
}

/// The variables that are keys of a section. Others may be anything, even no text.
fn ours(env: impl Iterator<Item = (OsString, OsString)>) -> Result<Vec<(String, String)>> {
    let mut found = Vec::new();
    for (variable, value) in env {
        let Some(variable) = variable.to_str().filter(|it| of_environment(it).is_some()) else { continue };
        let value = value.into_string().map_err(|_| anyhow::anyhow!("environment: {variable} is not UTF-8"))?;
        found.push((variable.to_string(), value));
    }
    Ok(found)
}

fn parse(text: &str, env: Vec<(String, String)>, path: &Path) -> Result<Loaded> {
    // From the text as it is, so that a mistake has its line.
    let file: File = toml::from_str(text).map_err(|why| explain(&why, text, path))?;
    let written: toml::Table = toml::from_str(text).map_err(|why| explain(&why, text, path))?;
    let mut all = written.clone();
    let mut said = BTreeMap::new();
    for (variable, value) in env {
        let Some((section, key)) = of_environment(&variable) else { continue };
        let parsed = toml::from_str::<toml::Table>(&format!("v = {value}")).ok().and_then(|mut it| it.remove("v"));
        let table = all.entry(section.clone()).or_insert_with(|| toml::Value::Table(toml::Table::new()));
        if let Some(table) = table.as_table_mut() {
            table.insert(key.clone(), parsed.unwrap_or_else(|| value.clone().into()));
        }
        said.insert(format!("{section}.{key}"), variable.clone());
        // One by one, so that a mistake is known by its variable.
        all.clone().try_into::<File>().map_err(|why| nearest(why.message(), &format!("environment: {variable}")))?;
    }
    let file = if said.is_empty() { file } else { all.try_into()? };
    Ok(Loaded { file, written, env: said })
}

fn of_environment(variable: &str) -> Option<(String, String)> {
    let (section, key) = variable.strip_prefix("REFRAIN_")?.split_once("__")?;
    matches!(section, "LOG" | "PUSH").then(|| (section.to_lowercase(), key.to_lowercase()))
}

/// The parser's error with file and line; the line itself names the key of a bad value.
fn explain(why: &toml::de::Error, text: &str, path: &Path) -> anyhow::Error {
    let Some(span) = why.span() else { return nearest(why.message(), &path.display().to_string()) };
    let number = text.bytes().take(span.start).filter(|byte| *byte == b'\n').count();
    let place = format!("{} line {}", path.display(), number + 1);
    let error = nearest(why.message(), &place);
    let line = text.lines().nth(number).unwrap_or_default().trim();
    if why.message().starts_with("unknown field") { error } else { anyhow::anyhow!("{error}, in `{line}`") }
}

/// Of an unknown key the parser says which are known: the nearest one is most likely meant.
fn nearest(message: &str, place: &str) -> anyhow::Error {
    let mut quoted = message.split('`').skip(1).step_by(2);
    match quoted.next().filter(|_| message.starts_with("unknown field")) {
        None => anyhow::anyhow!("{place}: {message}"),
        Some(unknown) => {
            let known = quoted.max_by(|a, b| {
                let like = |known: &str| strsim::jaro_winkler(unknown, known);
                like(a).total_cmp(&like(b))
            });
            let hint = known.map_or_else(String::new, |known| format!("; the nearest known one is `{known}`"));
            anyhow::anyhow!("{place}: unknown key `{unknown}`{hint}")
        }
    }
}

/// The acknowledgement of `text`, among `members` sites.
pub fn ack(text: &str, members: usize) -> Result<Ack> {
    match text {
        "log" => Ok(Ack::Log),
        "all" => Ok(Ack::All),
        other => {
            let wanted: u32 = other
                .strip_prefix("sites:")
                .and_then(|number| number.parse().ok())
                .with_context(|| format!("push.ack = {other:?} is neither log, sites:N nor all"))?;
            if wanted as usize >= members {
                bail!("push.ack = {other:?} waits for more other sites than the {members} members have");
            }
            Ok(Ack::Sites(wanted))
        }
    }
}

#[cfg(test)]
mod tests;
