//! What TOML cannot say: ranges, clashes between sites, and keys that nothing is built for yet.
//!
//! Judges a file whose paths are absolute. Every refusal names the key, what it says, and what would be good.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, bail};
use refrain_core::names::SiteId;

use super::{File, Seconds, SiteConfig, ack};
use crate::hook_wire::UPDATES_MAX;

/// 2,048 chunks of 512 KiB.
const PACKDATA_MAX: u64 = refrain_core::record::CHUNKS_MAX as u64 * refrain_core::record::CHUNK_BYTES_MAX as u64;
/// Below it no append to a disk comes back in time; above it nobody waits any more.
const WAIT_MIN: Duration = Duration::from_millis(10);
const WAIT_MAX: Duration = Duration::from_secs(60 * 60);

/// Keys that this version accepts and does nothing with, each with what that means.
pub fn not_built(file: &File) -> Vec<&'static str> {
    let mut words = Vec::new();
    if file.push.copies.is_some() {
        words.push("push.copies is not built yet: packs above push.packdata_max are refused");
    }
    words
}

pub(super) fn judge(file: &File) -> Result<()> {
    if file.site.is_empty() {
        bail!("no [[site]] is configured");
    }
    if file.site.len() > refrain_core::record::MEMBERS_MAX {
        bail!("{} [[site]] are configured, the log has room for 256", file.site.len());
    }
    for site in &file.site {
        SiteId::parse(&site.name).map_err(|why| anyhow::anyhow!("site {:?}: {why}", site.name))?;
        reachable(site)?;
    }
    for (at, site) in file.site.iter().enumerate() {
        file.site[..at].iter().try_for_each(|other| apart(site, other))?;
    }
    directories(file)?;
    ranges(file)?;
    ack(&file.push.ack, file.site.len())?;
    Ok(())
}

fn ranges(file: &File) -> Result<()> {
    if !(1..=refrain_core::record::PARTITIONS_MAX).contains(&file.log.partitions) {
        bail!("log.partitions = {} is not within 1 to 1,024", file.log.partitions);
    }
    file.log.map.fits(file.log.partitions).map_err(|why| anyhow::anyhow!("log.{why}"))?;
    let push = &file.push;
    if push.inline_max.0 > refrain_core::record::PACK_BYTES_MAX as u64 {
        bail!("push.inline_max is above 256 KiB, the most that a record holds");
    }
    if push.packdata_max.0 > PACKDATA_MAX {
        bail!("push.packdata_max is above 1 GiB, the most that a record's chunks hold");
    }
    if !(1..=UPDATES_MAX).contains(&push.updates_max) {
        bail!("push.updates_max = {} is not within 1 and 10,000, the most that the hook hands over", push.updates_max);
    }
    for (key, wait) in [("timeout", push.timeout), ("flip_timeout", push.flip_timeout)] {
        if !(WAIT_MIN..=WAIT_MAX).contains(&wait.0) {
            bail!("push.{key} = {:?} is not within \"10ms\" and \"3600s\"", String::from(Seconds(wait.0)));
        }
    }
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

/// Two sites share nothing. Directories are compared as they are written: links are found out by the locks.
fn apart(one: &SiteConfig, other: &SiteConfig) -> Result<()> {
    let (name, its) = (&one.name, &other.name);
    if name == its {
        bail!("site {name:?} is configured twice");
    }
    if one.repos.starts_with(&other.repos) || other.repos.starts_with(&one.repos) {
        bail!("sites {its:?} and {name:?} share repos = {:?}; give each a directory of its own", one.repos);
    }
    if one.socket() == other.socket() {
        bail!("sites {its:?} and {name:?} share socket = {:?}; give each a path of its own", one.socket());
    }
    if let (Some(addr), Some(same)) = (one.http, other.http)
        && addr == same
        && addr.port() != 0
    {
        bail!("sites {its:?} and {name:?} share http = \"{addr}\"; give each a port of its own, or port 0");
    }
    Ok(())
}

/// Each directory has one use: the files and locks of two would be taken for each other's.
fn directories(file: &File) -> Result<()> {
    let mut known: Vec<(String, &Path)> = vec![("log.dir".into(), &file.log.dir)];
    for site in &file.site {
        for (key, dir) in [("repos", &site.repos), ("state", &site.state)] {
            let key = format!("{key} of site {:?}", site.name);
            if let Some((other, _)) = known.iter().find(|(_, path)| path == dir) {
                bail!("{other} and {key} are the same directory {}; give each one of its own", dir.display());
            }
            known.push((key, dir));
        }
    }
    Ok(())
}
