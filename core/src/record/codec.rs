//! Bytes to records and back.

use alloc::borrow::Cow;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::hash::Hasher;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use siphasher::sip128::{Hasher128, SipHasher24};

use super::{
    Body, CHUNK_BYTES_MAX, CHUNKS_MAX, Decoded, ENVELOPE, EPOCH_MAX, HAVES_MAX, HEADER_BYTES_MAX, Header, MEMBERS_MAX,
    Malformed, PACK_BYTES_MAX, PARTITIONS_MAX, Record, RepoConfigured, TEXT_MAX, UPDATES_MAX,
};
use crate::ids::{Digest, Epoch, Incarnation, Instance, Seq};
use crate::names::{RepoName, SiteId};

/// The frozen envelope. Unknown members are ignored here and nowhere else: a later version may say more beside it.
#[derive(Serialize, Deserialize)]
struct Envelope<'a> {
    v: u32,
    #[serde(borrow)]
    kind: Cow<'a, str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    repo: Option<RepoName>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    inc: Option<Incarnation>,
    site: SiteId,
    instance: Instance,
    epoch: Epoch,
    seq: Seq,
    time: u64,
    pack: u64,
    #[serde(borrow)]
    body: Cow<'a, RawValue>,
}

impl Record {
    /// The value to append. Fails if the body or the header line would be longer than the rules allow: it would be void
    /// for everybody, so the caller splits it or refuses it by name.
    pub fn encode(&self) -> Result<Vec<u8>, Malformed> {
        within_limits(&self.body).and_then(|()| epoch_exists(self.header.epoch)).map_err(bad)?;
        let body = match &self.body {
            Body::LogOpened(body) => raw(body),
            Body::SiteStarted(body) => raw(body),
            Body::SiteChanged(body) => raw(body),
            Body::RepoCreated(body) => raw(body),
            Body::RepoConfigured(body) => raw(body),
            Body::RepoDeleted(body) => raw(body),
            Body::Push(body) => raw(body),
            Body::Barrier(body) | Body::Heartbeat(body) => raw(body),
            Body::RulesRaised(body) => raw(body),
        }?;
        let envelope = Envelope {
            v: ENVELOPE,
            kind: Cow::Borrowed(self.body.kind()),
            repo: self.header.repo.clone(),
            inc: self.header.incarnation,
            site: self.header.site.clone(),
            instance: self.header.instance,
            epoch: self.header.epoch,
            seq: self.header.seq,
            time: self.header.time_ms,
            pack: self.pack.len() as u64,
            body: Cow::Owned(body),
        };
        let mut bytes = serde_json::to_vec(&envelope).map_err(bad)?;
        if bytes.len() > HEADER_BYTES_MAX {
            return Err(Malformed(format!("the header has {} bytes, {HEADER_BYTES_MAX} are allowed", bytes.len())));
        }
        bytes.push(b'\n');
        bytes.extend_from_slice(&self.pack);
        Ok(bytes)
    }
}

/// Reads a value back. Total: whatever the bytes are, the answer is a record or why it is none.
pub fn decode(value: &[u8]) -> Decoded {
    let line_end = value.iter().take(HEADER_BYTES_MAX + 1).position(|&b| b == b'\n');
    // Without a line the whole value is hashed, so that the chain tells such records apart too.
    let line = &value[..line_end.unwrap_or(value.len())];
    let line_hash = hash(line);
    let record = match line_end {
        None => Err(Malformed(format!("no newline in the first {HEADER_BYTES_MAX} bytes"))),
        Some(end) => parse(line, &value[end + 1..]),
    };
    Decoded { line_hash, record }
}

/// What [`decode`] will say of the header line of a value that [`Record::encode`] made.
pub(crate) fn line_hash(value: &[u8]) -> Digest {
    hash(value.split(|byte| *byte == b'\n').next().unwrap_or_default())
}

fn hash(line: &[u8]) -> Digest {
    let mut hasher = SipHasher24::new_with_key(&[0; 16]);
    hasher.write(line);
    Digest(hasher.finish128().as_u128())
}

fn parse(line: &[u8], pack: &[u8]) -> Result<Record, Malformed> {
    let text = core::str::from_utf8(line).map_err(bad)?;
    let envelope: Envelope<'_> = serde_json::from_str(text).map_err(bad)?;
    if envelope.v != ENVELOPE {
        return Err(Malformed(format!("envelope version {} is not {ENVELOPE}", envelope.v)));
    }
    if envelope.pack != pack.len() as u64 || pack.len() > PACK_BYTES_MAX {
        return Err(Malformed(format!(
            "the header promises {} pack bytes, {} follow, {PACK_BYTES_MAX} are allowed",
            envelope.pack,
            pack.len()
        )));
    }
    epoch_exists(envelope.epoch).map_err(bad)?;
    let body = parse_body(&envelope.kind, envelope.body.get())?;
    let scoped_to_repo =
        matches!(body, Body::RepoCreated(_) | Body::RepoConfigured(_) | Body::RepoDeleted(_) | Body::Push(_));
    if scoped_to_repo != envelope.repo.is_some() {
        return Err(Malformed(format!("a {} record and its scope do not fit", envelope.kind)));
    }
    if !pack.is_empty() && !matches!(&body, Body::Push(push) if push.pack.is_none()) {
        return Err(Malformed(format!("this {} record carries no pack", envelope.kind)));
    }
    let header = Header {
        repo: envelope.repo,
        incarnation: envelope.inc,
        site: envelope.site,
        instance: envelope.instance,
        epoch: envelope.epoch,
        seq: envelope.seq,
        time_ms: envelope.time,
    };
    Ok(Record { header, body, pack: Arc::from(pack) })
}

fn parse_body(kind: &str, text: &str) -> Result<Body, Malformed> {
    let body = match kind {
        "log-opened" => Body::LogOpened(from(text)?),
        "site-started" => Body::SiteStarted(from(text)?),
        "site-changed" => Body::SiteChanged(from(text)?),
        "repo-created" => Body::RepoCreated(from(text)?),
        "repo-configured" => Body::RepoConfigured(from(text)?),
        "repo-deleted" => Body::RepoDeleted(from(text)?),
        "push" => Body::Push(from(text)?),
        "barrier" => Body::Barrier(from(text)?),
        "heartbeat" => Body::Heartbeat(from(text)?),
        "rules-raised" => Body::RulesRaised(from(text)?),
        other => return Err(Malformed(format!("the rules know no kind {other:?}"))),
    };
    within_limits(&body).and_then(|()| names_each_ref_once(&body)).map_err(bad)?;
    Ok(body)
}

/// What a person typed is named, for the person to shorten it.
fn within_limits(body: &Body) -> Result<(), &'static str> {
    match body {
        Body::LogOpened(opened) => {
            ensure(opened.members.len() <= MEMBERS_MAX, "too many members")?;
            ensure((1..=PARTITIONS_MAX).contains(&opened.partitions), "partitions outside 1 to 1,024")?;
            ensure(opened.hash == crate::placement::HASH, "an unknown hash")?;
            opened.map.fits(opened.partitions).map_err(|bad| bad.why)
        }
        Body::SiteChanged(changed) => {
            ensure(changed.members.len() <= MEMBERS_MAX, "too many members, 256 are allowed with those put out")?;
            ensure(changed.ended.len() <= MEMBERS_MAX, "more ended epochs than there may be members")?;
            changed.ended.values().try_for_each(|epoch| epoch_exists(*epoch))?;
            ensure(changed.author.len() <= TEXT_MAX, "the author has more than 1,024 bytes")?;
            ensure(changed.reason.len() <= TEXT_MAX, "the reason has more than 1,024 bytes")
        }
        Body::RepoConfigured(RepoConfigured { description, read_only, git, .. }) => {
            let short = |text: &Option<String>| text.as_ref().is_none_or(|text| text.len() <= TEXT_MAX);
            ensure(short(description), "the description has more than 1,024 bytes")?;
            ensure(short(read_only), "the reason for read-only has more than 1,024 bytes")?;
            git.iter().try_for_each(|(key, value)| crate::settings::check(key, value))
        }
        Body::Push(push) => {
            ensure((1..=UPDATES_MAX).contains(&push.updates.len()), "no updates, or too many")?;
            ensure(push.haves.len() <= HAVES_MAX, "too many boundary values")?;
            if let Some(pack) = &push.pack {
                let longest = pack.chunks.len() as u64 * CHUNK_BYTES_MAX as u64;
                ensure((1..=CHUNKS_MAX).contains(&pack.chunks.len()), "no chunks, or too many")?;
                ensure(pack.bytes > 0 && pack.bytes <= longest, "a pack longer than its chunks")?;
            }
            Ok(())
        }
        Body::SiteStarted(_)
        | Body::RepoCreated(_)
        | Body::RepoDeleted(_)
        | Body::Barrier(_)
        | Body::Heartbeat(_)
        | Body::RulesRaised(_) => Ok(()),
    }
}

fn epoch_exists(epoch: Epoch) -> Result<(), &'static str> {
    ensure(epoch <= EPOCH_MAX, "an epoch above 2^53")
}

fn names_each_ref_once(body: &Body) -> Result<(), &'static str> {
    let Body::Push(push) = body else { return Ok(()) };
    let mut names: Vec<&str> = push.updates.iter().map(|update| update.name.as_str()).collect();
    names.sort_unstable();
    ensure(names.windows(2).all(|pair| pair[0] != pair[1]), "a ref is named twice")
}

fn ensure(holds: bool, what: &'static str) -> Result<(), &'static str> {
    if holds { Ok(()) } else { Err(what) }
}

fn raw(body: &impl Serialize) -> Result<alloc::boxed::Box<RawValue>, Malformed> {
    let text = serde_json::to_string(body).map_err(bad)?;
    RawValue::from_string(text).map_err(bad)
}

fn from<T: DeserializeOwned>(text: &str) -> Result<T, Malformed> {
    serde_json::from_str(text).map_err(bad)
}

fn bad(error: impl core::fmt::Display) -> Malformed {
    Malformed(error.to_string())
}

const _: () = assert!(HAVES_MAX >= crate::config::RECENT_REFS_MAX);
// The words of `within_limits` say these.
const _: () = assert!(MEMBERS_MAX == 256 && PARTITIONS_MAX == 1_024 && TEXT_MAX == 1_024);
