//! Objects from a peer: one request of Git's protocol version 2 over HTTP, `want … have … done`, and its answer.
//!
//! Needs no listing of refs and no negotiation: what is wanted is known by its id, whether a ref shows it or not. The
//! pack goes to a file as it comes. Believes nothing of it; who takes it in has it checked. Gives up when the peer is
//! silent, never because much is sent.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use gix_packetline::decode::{Stream, streaming};
use gix_packetline::{BandRef, PacketLineRef};
use http_body_util::{BodyExt, Full};
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use refrain_core::ids::Oid;
use refrain_core::names::{RepoName, SiteId};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// A peer that sends nothing for so long is given up; upload-pack speaks every 5 s while it searches.
const SILENT_MAX: Duration = Duration::from_secs(30);
/// How long after the start the sites' addresses are known; sites begin to work a moment before.
const TOLD_WITHIN: Duration = Duration::from_secs(5);
/// Most bytes of one answer: no push is as large, and a peer that never ends must not fill the disk.
const BYTES_MAX: u64 = 64 << 30;
/// How much of a refusal is repeated in a message.
const WORDS_MAX: usize = 200;

/// Where each site's HTTP is. Known once all have bound their addresses.
#[derive(Clone, Default)]
pub struct Peers(Arc<OnceLock<BTreeMap<SiteId, String>>>);

impl Peers {
    /// Tells the addresses, once.
    pub fn tell(&self, urls: BTreeMap<SiteId, String>) {
        self.0.get_or_init(|| urls);
    }

    /// Waits a moment for a start that is under way.
    pub(super) fn url(&self, site: &SiteId) -> Option<&str> {
        let begun = std::time::Instant::now();
        while self.0.get().is_none() && begun.elapsed() < TOLD_WITHIN {
            std::thread::sleep(Duration::from_millis(20));
        }
        self.0.get()?.get(site).map(String::as_str)
    }
}

/// What is asked of whom.
pub(super) struct Ask<'a> {
    pub url: &'a str,
    pub repo: &'a RepoName,
    pub wants: &'a [Oid],
    /// Values that are here with all that they need.
    pub haves: &'a [Oid],
}

/// Writes the pack that `ask` brings to `pack`; gives its length.
pub(super) async fn fetch(ask: &Ask<'_>, pack: &mut (impl Write + Send)) -> Result<u64> {
    let url = format!("{}/{}.git/git-upload-pack", ask.url.trim_end_matches('/'), ask.repo);
    let uri: Uri = url.parse().with_context(|| format!("{url} is no address"))?;
    let host = uri.host().with_context(|| format!("{url} names no host"))?.trim_matches(['[', ']']);
    let connect = TcpStream::connect((host, uri.port_u16().unwrap_or(80)));
    let stream = in_time(connect, "did not accept a connection").await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    // Ends when the sender and the answer's body are gone.
    let connection = tokio::spawn(connection);
    let request = Request::post(uri.path())
        .header(HOST, uri.authority().map_or(host, |authority| authority.as_str()))
        .header(CONTENT_TYPE, "application/x-git-upload-pack-request")
        .header("Git-Protocol", "version=2")
        .body(Full::new(Bytes::from(request(ask.wants, ask.haves))))?;
    let mut response = in_time(sender.send_request(request), "did not answer").await?;
    if response.status() != StatusCode::OK {
        let body = timeout(SILENT_MAX, response.body_mut().frame()).await;
        let words = body.ok().flatten().and_then(Result::ok).and_then(|frame| frame.into_data().ok());
        bail!("it answered {}: {}", response.status(), words_of(&words.unwrap_or_default()));
    }
    let mut wire = Wire::new(BYTES_MAX);
    while let Ok(frame) = timeout(SILENT_MAX, response.body_mut().frame()).await {
        let Some(frame) = frame else {
            connection.abort();
            return wire.finish();
        };
        if let Ok(data) = frame.context("the answer broke off")?.into_data() {
            wire.feed(&data, pack)?;
        }
    }
    connection.abort();
    bail!("it sent nothing for {SILENT_MAX:?}")
}

async fn in_time<T, E: Into<anyhow::Error>>(
    work: impl Future<Output = std::result::Result<T, E>>,
    late: &str,
) -> Result<T> {
    let done = timeout(SILENT_MAX, work).await.with_context(|| format!("it {late} within {SILENT_MAX:?}"))?;
    done.map_err(Into::into)
}

fn words_of(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(WORDS_MAX)]).into_owned();
    text.trim().replace(|c: char| c.is_control(), " ")
}

/// `ofs-delta` because every Git has it; no `thin-pack`, so that the pack is whole by itself.
fn request(wants: &[Oid], haves: &[Oid]) -> String {
    let line = |text: String| format!("{:04x}{text}\n", text.len() + 5);
    let agent = format!("agent=refrain/{}", env!("CARGO_PKG_VERSION"));
    let mut out = line("command=fetch".into()) + &line(agent) + &line("object-format=sha1".into());
    out += "0001";
    out += &line("ofs-delta".into());
    out.extend(wants.iter().map(|want| line(format!("want {want}"))));
    out.extend(haves.iter().map(|have| line(format!("have {have}"))));
    out += &line("done".into());
    out += "0000";
    out
}

/// The answer as it comes in, in pieces of any size.
struct Wire {
    /// The start of a line whose end is not here yet: at most 65,520 bytes, and one piece.
    rest: Vec<u8>,
    part: Part,
    bytes: u64,
    bytes_max: u64,
}

#[derive(PartialEq, Eq)]
enum Part {
    Head,
    Pack,
    End,
}

impl Wire {
    fn new(bytes_max: u64) -> Self {
        Self { rest: Vec::new(), part: Part::Head, bytes: 0, bytes_max }
    }

    fn feed(&mut self, piece: &[u8], pack: &mut impl Write) -> Result<()> {
        self.rest.extend_from_slice(piece);
        let mut at = 0;
        loop {
            match streaming(&self.rest[at..]).map_err(|why| anyhow::anyhow!("its answer is no packet line: {why}"))? {
                Stream::Incomplete { .. } => break,
                Stream::Complete { line, bytes_consumed } => {
                    at += bytes_consumed;
                    match line_of(&self.part, line)? {
                        Line::Begin => self.part = Part::Pack,
                        Line::End => self.part = Part::End,
                        Line::Skip => {}
                        Line::Data(data) => {
                            self.bytes += data.len() as u64;
                            ensure!(self.bytes <= self.bytes_max, "it sent more than {} bytes", self.bytes_max);
                            pack.write_all(data).context("the pack cannot be written; check free space")?;
                        }
                    }
                }
            }
        }
        self.rest.drain(..at);
        Ok(())
    }

    /// The length of the pack.
    fn finish(self) -> Result<u64> {
        ensure!(self.part == Part::End && self.rest.is_empty(), "its answer ends too early");
        Ok(self.bytes)
    }
}

enum Line<'a> {
    Begin,
    Skip,
    Data(&'a [u8]),
    End,
}

fn line_of<'a>(part: &Part, line: PacketLineRef<'a>) -> Result<Line<'a>> {
    Ok(match (part, line) {
        (Part::Head, PacketLineRef::Data(data)) => match data.strip_prefix(b"ERR ") {
            Some(words) => bail!("{}", words_of(words)),
            None if data.trim_ascii_end() == b"packfile" => Line::Begin,
            None => Line::Skip,
        },
        (Part::Head, PacketLineRef::Delimiter) => Line::Skip,
        (Part::Pack, PacketLineRef::Flush) => Line::End,
        (Part::Pack, line @ PacketLineRef::Data(_)) => {
            match line.decode_band().map_err(|why| anyhow::anyhow!("its answer has a line of no band: {why}"))? {
                BandRef::Data(data) => Line::Data(data),
                BandRef::Progress(_) => Line::Skip,
                BandRef::Error(words) => bail!("{}", words_of(words)),
            }
        }
        _ => bail!("its answer is not in order"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn oid(digit: &str) -> Oid {
        Oid::parse(&digit.repeat(40)).expect("an id")
    }

    #[test]
    fn a_request_is_what_gits_protocol_says() {
        let text = request(&[oid("1")], &[oid("2")]);
        let lines =
            ["0012command=fetch\n", "0017object-format=sha1\n", "0001", "000eofs-delta\n", "0032want 1", "0000"];
        assert!(lines.iter().all(|line| text.contains(line)), "{text}");
        assert!(text.ends_with("0009done\n0000") && !text.contains("thin-pack"));
    }

    fn parse(answer: &[u8], step: usize) -> Result<Vec<u8>> {
        parse_at_most(answer, step, 7)
    }

    fn parse_at_most(answer: &[u8], step: usize, bytes_max: u64) -> Result<Vec<u8>> {
        let (mut wire, mut pack) = (Wire::new(bytes_max), Vec::new());
        for piece in answer.chunks(step) {
            wire.feed(piece, &mut pack)?;
        }
        assert_eq!(wire.finish()?, pack.len() as u64);
        Ok(pack)
    }

    #[test]
    fn a_pack_is_taken_out_of_its_lines_however_they_are_cut() {
        let answer = b"0010shallow-info0001000dpackfile\n0008\x02one0009\x01PACK0005\x010008\x01two0000";
        for step in 1..answer.len() {
            assert_eq!(parse(answer, step).expect("an answer"), b"PACKtwo", "{step}");
        }
    }

    #[test]
    fn a_peer_that_sends_more_than_the_limit_is_given_up() {
        let answer = b"000dpackfile\n0009\x01PACK0008\x01two0000";
        assert_eq!(parse_at_most(answer, 7, 7).expect("as much as may be"), b"PACKtwo");
        let given_up = parse_at_most(answer, 7, 6).expect_err("one more");
        assert!(given_up.to_string().contains("more than 6 bytes"), "{given_up}");
    }

    #[test]
    fn whatever_is_no_whole_answer_is_an_error() {
        for answer in [
            &b""[..],
            b"0000",
            b"000dpackfile\n",
            b"000dpackfile\n0009\x01pac",
            b"000dpackfile\n0009\x01pack",
            b"000dpackfile\n0009\x03what0000",
            b"000dpackfile\n0009\x09what0000",
            b"000dpackfile\n00000009\x01more",
            b"0032ERR upload-pack: not our ref 0123456789abcdef\n",
            b"<html>",
            b"0003",
            b"zzzz",
        ] {
            assert!(parse(answer, 7).is_err(), "{}", String::from_utf8_lossy(answer));
        }
        let refused = parse(b"0032ERR upload-pack: not our ref 0123456789abcdef\n", 7).expect_err("refused");
        assert!(refused.to_string().contains("not our ref 0123456789abcdef"), "{refused}");
    }
}
