//! The configuration file: parsed once, every mistake named with its key and file.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use refrain_core::config::Ack;
use refrain_core::names::SiteId;
use serde::Deserialize;

/// The whole file.
#[derive(Debug, Clone, Deserialize)]
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
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Log {
    /// Which kind; only `embedded` is built so far.
    pub kind: LogKind,
    /// The directory of the embedded log's segment files.
    pub dir: PathBuf,
    /// Frozen when the log is created.
    #[serde(default = "default_partitions")]
    pub partitions: u32,
}

/// Kinds of logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogKind {
    /// Segment files, owned by one process.
    Embedded,
}

fn default_partitions() -> u32 {
    8
}

/// How pushes are treated.
#[derive(Debug, Clone, Deserialize)]
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
#[derive(Debug, Clone, Deserialize)]
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
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

/// A time: a number of seconds with `s`, fractions allowed, or of milliseconds with `ms`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
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

/// Where the file is: `--config`, else `REFRAIN_CONFIG`, else `./refrain.toml`, else `/etc/refrain/refrain.toml`.
pub fn locate(given: Option<&Path>) -> PathBuf {
    if let Some(path) = given {
        return path.to_path_buf();
    }
    if let Some(path) = std::env::var_os("REFRAIN_CONFIG") {
        return path.into();
    }
    let here = PathBuf::from("refrain.toml");
    if here.exists() { here } else { PathBuf::from("/etc/refrain/refrain.toml") }
}

/// Reads and judges a file.
pub fn load(path: &Path) -> Result<File> {
    let text =
        std::fs::read_to_string(path).with_context(|| format!("cannot read the configuration {}", path.display()))?;
    let file: File = toml::from_str(&text).map_err(|why| anyhow::anyhow!("{}: {why}", path.display()))?;
    judge(&file).with_context(|| format!("in {}", path.display()))?;
    Ok(file)
}

/// Keys that this version accepts and does nothing with, each with what that means.
pub fn not_built(file: &File) -> Vec<&'static str> {
    let mut words = Vec::new();
    if file.push.copies.is_some() {
        words.push("push.copies is not built yet: packs above push.packdata_max are refused");
    }
    words
}

/// 4,096 chunks of 512 KiB.
const PACKDATA_MAX: u64 = refrain_core::record::CHUNKS_MAX as u64 * refrain_core::record::CHUNK_BYTES_MAX as u64;

/// What TOML cannot say.
fn judge(file: &File) -> Result<()> {
    if file.site.is_empty() {
        bail!("no [[site]] is configured");
    }
    let mut names: Vec<&str> = file.site.iter().map(|site| site.name.as_str()).collect();
    for name in &names {
        SiteId::parse(name).map_err(|why| anyhow::anyhow!("site {name:?}: {why}"))?;
    }
    for site in &file.site {
        reachable(site)?;
    }
    names.sort_unstable();
    if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
        bail!("site {:?} is configured twice", pair[0]);
    }
    if !(1..=refrain_core::record::PARTITIONS_MAX).contains(&file.log.partitions) {
        bail!("log.partitions = {} is not within 1 to 1,024", file.log.partitions);
    }
    if file.push.inline_max.0 > refrain_core::record::PACK_BYTES_MAX as u64 {
        bail!("push.inline_max is above 256 KiB, the most that a record holds");
    }
    if file.push.packdata_max.0 > PACKDATA_MAX {
        bail!("push.packdata_max is above 2 GiB, the most that a record's chunks hold");
    }
    ack(&file.push.ack, file.site.len())?;
    Ok(())
}

/// Without authentication between machines nobody but this one may be answered.
fn reachable(site: &SiteConfig) -> Result<()> {
    if let Some(addr) = site.http.filter(|addr| !addr.ip().is_loopback()) {
        bail!(
            "site {:?}: http = \"{addr}\" is no loopback address; only 127.0.0.0/8 and [::1] are served yet",
            site.name
        );
    }
    if let Some(url) = site.url.as_ref().filter(|url| !url.starts_with("http://")) {
        bail!("site {:?}: url = {url:?} does not start with http://", site.name);
    }
    Ok(())
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
mod tests {
    use super::*;

    const GOOD: &str = r#"
        [log]
        kind = "embedded"
        dir = "/l"
        [push]
        timeout = "1.5s"
        inline_max = "128KiB"
        [[site]]
        name = "ams"
        repos = "/r"
        state = "/s"
    "#;

    fn parse(text: &str) -> Result<File> {
        let file: File = toml::from_str(text)?;
        judge(&file)?;
        Ok(file)
    }

    #[test]
    fn the_file_of_the_interface_parses() {
        let file = parse(GOOD).expect("good");
        assert_eq!(file.push.timeout.0, Duration::from_millis(1_500));
        assert_eq!(file.push.inline_max, Size(128 << 10));
        assert_eq!(file.log.partitions, 8);
        assert_eq!(file.site[0].socket(), PathBuf::from("/s/refrain.sock"));
    }

    #[test]
    fn every_mistake_names_its_key() {
        for (from, to, word) in [
            ("timeout", "timout", "timout"),
            ("\"ams\"", "\"AMS\"", "AMS"),
            ("\"1.5s\"", "\"soon\"", "soon"),
            ("\"128KiB\"", "\"1MiB\"", "inline_max"),
            ("timeout = \"1.5s\"", "packdata_max = \"3GiB\"", "packdata_max"),
            ("timeout = \"1.5s\"", "ack = \"sites:1\"", "sites:1"),
            ("state =", "http = \"0.0.0.0:80\"\nstate =", "loopback"),
            ("state =", "http = \"[::]:80\"\nstate =", "loopback"),
            ("state =", "http = \"here\"\nstate =", "http"),
            ("state =", "url = \"ftp://a\"\nstate =", "url"),
        ] {
            let error = parse(&GOOD.replace(from, to)).expect_err(to);
            assert!(format!("{error:#}").contains(word), "{error:#}");
        }
    }
}
