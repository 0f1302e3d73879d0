//! `refrain config`: judges the file, prints what holds with where it comes from, or prints an example.

use std::path::Path;

use anyhow::{Context, Result};
use clap::Subcommand;
use serde::Serialize;
use toml::Value;

use super::out::{Out, note};
use super::{BAD_CONFIG, BadConfig};
use crate::config::{self, Loaded, TEMPLATE};
use crate::driver::SOCKET_PATH_MAX;

#[derive(Subcommand)]
pub(super) enum Config {
    /// Judge the file: 0 if it is good, 78 if not
    Check,
    /// Print every value in force and where it comes from
    Show,
    /// Print a commented example
    Template,
}

/// A value in force.
#[derive(Serialize)]
struct Shown {
    key: String,
    value: Value,
    /// `file`, `default`, or `env` with the variable's name.
    origin: String,
}

pub(super) fn run(config: Option<&Path>, json: bool, what: &Config) -> Result<u8> {
    match what {
        Config::Template => {
            let mut out = Out::new();
            out.line(TEMPLATE.trim_end())?;
            out.flush()?;
            Ok(0)
        }
        Config::Check => check(config, json),
        Config::Show => show(config, json),
    }
}

fn check(config: Option<&Path>, json: bool) -> Result<u8> {
    let path = config::locate(config);
    let judged = config::read(&path).and_then(|loaded| sockets(&loaded, &path).map(|()| loaded));
    let mut out = Out::new();
    let code = match &judged {
        Ok(loaded) => {
            let notes = config::not_built(&loaded.file);
            if json {
                out.json(&serde_json::json!({"file": path, "good": true, "error": null, "notes": notes}))?;
            } else {
                let sites: Vec<&str> = loaded.file.site.iter().map(|site| site.name.as_str()).collect();
                out.line(format_args!("{}: good, sites {}", path.display(), sites.join(", ")))?;
            }
            notes.iter().for_each(note);
            0
        }
        Err(why) => {
            if json {
                let error = format!("{why:#}");
                out.json(&serde_json::json!({"file": path, "good": false, "error": error, "notes": []}))?;
            }
            note(format_args!("{why:#}"));
            BAD_CONFIG
        }
    };
    out.flush()?;
    Ok(code)
}

/// What `serve` would find out later.
fn sockets(loaded: &Loaded, path: &Path) -> Result<()> {
    for site in &loaded.file.site {
        let socket = site.socket();
        let bytes = socket.as_os_str().len();
        anyhow::ensure!(
            bytes <= SOCKET_PATH_MAX,
            "in {}: the socket path {} of site {} has {bytes} bytes, the system allows {SOCKET_PATH_MAX}; set `socket` \
             to a shorter one",
            path.display(),
            socket.display(),
            site.name
        );
    }
    Ok(())
}

fn show(config: Option<&Path>, json: bool) -> Result<u8> {
    let (path, why_this) = config::find(config);
    let loaded = config::read(&path).context(BadConfig)?;
    let sections = sections(loaded)?;
    let mut out = Out::new();
    if json {
        let values: Vec<&Shown> = sections.iter().flat_map(|(_, values)| values).collect();
        out.json(&serde_json::json!({"file": path, "origin": why_this, "values": values}))?;
    } else {
        out.line(format_args!("# {} ({why_this})", path.display()))?;
        for (head, values) in &sections {
            out.line(format_args!("\n{head}"))?;
            for Shown { key, value, origin } in values {
                let key = key.rsplit('.').next().unwrap_or(key);
                let assigned = format!("{key} = {value}");
                out.line(format_args!("{assigned:<50} # {origin}"))?;
            }
        }
    }
    out.flush()?;
    Ok(0)
}

/// All tables of the file in its order, each with its values.
fn sections(loaded: Loaded) -> Result<Vec<(String, Vec<Shown>)>> {
    let Loaded { mut file, written, env } = loaded;
    for site in &mut file.site {
        site.socket = Some(site.socket());
        site.url = site.url.take().or_else(|| site.http.map(|addr| format!("http://{addr}")));
    }
    let all = toml::Table::try_from(&file).context("the configuration cannot be printed")?;
    let mut sections = Vec::new();
    for section in ["log", "push"] {
        let said = written.get(section).and_then(Value::as_table);
        let values = all.get(section).and_then(Value::as_table).into_iter().flatten();
        let shown = values.map(|(key, value)| {
            let key_path = format!("{section}.{key}");
            let origin = match env.get(&key_path) {
                Some(variable) => format!("env {variable}"),
                None => origin(said, key),
            };
            Shown { key: key_path, value: value.clone(), origin }
        });
        sections.push((format!("[{section}]"), shown.collect()));
    }
    let said = written.get("site").and_then(Value::as_array);
    for (at, site) in all.get("site").and_then(Value::as_array).into_iter().flatten().enumerate() {
        let said = said.and_then(|sites| sites.get(at)?.as_table());
        let values = site.as_table().into_iter().flatten();
        let shown = values.map(|(key, value)| Shown {
            key: format!("site.{}.{key}", file.site[at].name),
            value: value.clone(),
            origin: origin(said, key),
        });
        sections.push(("[[site]]".into(), shown.collect()));
    }
    Ok(sections)
}

fn origin(said: Option<&toml::Table>, key: &str) -> String {
    if said.is_some_and(|said| said.contains_key(key)) { "file".into() } else { "default".into() }
}
