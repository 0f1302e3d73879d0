//! Bodies that pass through in pieces: out of a child, and into one, unpacked on the way.

use std::io::{ErrorKind, Write};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use flate2::write::GzDecoder;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

/// How much of a gzip body is unpacked at once: at deflate's best, 1,032 to 1, that makes 4 MiB.
const GZIP_STEP: usize = 4 << 10;
/// How gzip begins (RFC 1952).
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// What is answered: a text, or the pieces that a child writes.
pub(super) enum Reply {
    Text(Option<Bytes>),
    Pieces(mpsc::Receiver<std::io::Result<Bytes>>),
}

impl Reply {
    pub(super) fn text(text: String) -> Reply {
        Reply::Text(Some(text.into()))
    }
}

impl Body for Reply {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<std::io::Result<Frame<Bytes>>>> {
        match self.get_mut() {
            Reply::Text(text) => Poll::Ready(text.take().map(|text| Ok(Frame::data(text)))),
            Reply::Pieces(pieces) => pieces.poll_recv(cx).map(|piece| piece.map(|piece| piece.map(Frame::data))),
        }
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        match self {
            Reply::Text(text) => hyper::body::SizeHint::with_exact(text.as_ref().map_or(0, Bytes::len) as u64),
            Reply::Pieces(_) => hyper::body::SizeHint::default(),
        }
    }
}

/// A request's body, of which the beginning may have been looked at.
pub(super) struct Request<B> {
    begun: Option<Bytes>,
    rest: B,
    silent_max: Duration,
}

impl<B: Body<Data = Bytes, Error: std::error::Error + Send + Sync + 'static> + Unpin> Request<B> {
    pub(super) fn new(rest: B, silent_max: Duration) -> Self {
        Self { begun: None, rest, silent_max }
    }

    /// Whether it begins as gzip does.
    pub(super) async fn is_gzip(&mut self) -> std::io::Result<bool> {
        let mut begun = Vec::new();
        while begun.len() < GZIP_MAGIC.len()
            && let Some(piece) = self.piece().await?
        {
            begun.extend_from_slice(&piece);
        }
        let is_gzip = begun.starts_with(&GZIP_MAGIC);
        self.begun = Some(begun.into());
        Ok(is_gzip)
    }

    /// The next piece; none at the end. A client that is silent for too long is given up.
    async fn piece(&mut self) -> std::io::Result<Option<Bytes>> {
        if let Some(begun) = self.begun.take() {
            return Ok(Some(begun));
        }
        loop {
            let frame = tokio::time::timeout(self.silent_max, self.rest.frame()).await;
            let Some(frame) = frame.map_err(|_| ErrorKind::TimedOut)? else { return Ok(None) };
            // What is no data are trailers.
            if let Ok(data) = frame.map_err(std::io::Error::other)?.into_data() {
                return Ok(Some(data));
            }
        }
    }
}

/// Hands a request's body on, piece by piece. An error is the client's: it broke off, was silent, or its gzip is
/// damaged.
pub(super) async fn hand_on<B>(mut from: Request<B>, gzip: bool, mut to: impl AsyncWrite + Unpin) -> std::io::Result<()>
where
    B: Body<Data = Bytes, Error: std::error::Error + Send + Sync + 'static> + Unpin,
{
    let mut decoder = gzip.then(|| GzDecoder::new(Vec::new()));
    while let Some(data) = from.piece().await? {
        match &mut decoder {
            None => to.write_all(&data).await?,
            Some(decoder) => {
                for step in data.chunks(GZIP_STEP) {
                    decoder.write_all(step)?;
                    decoder.flush()?;
                    to.write_all(&std::mem::take(decoder.get_mut())).await?;
                }
            }
        }
    }
    if let Some(decoder) = decoder {
        // A body that ends too early is an error here.
        to.write_all(&decoder.finish()?).await?;
    }
    to.shutdown().await
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_millis(400);

    /// What reaches the child of a body whose pieces come half as often as they must; with `silence` the end does not.
    fn handed_on(pieces: &[&[u8]], gzip: bool, silence: bool) -> (std::io::Result<()>, Vec<u8>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let (send, receive) = mpsc::channel(1);
            let mut out = Vec::new();
            let feed = async {
                for piece in pieces {
                    tokio::time::sleep(LIMIT / 2).await;
                    // Whoever gave up takes none.
                    let _ = send.send(Ok(Bytes::copy_from_slice(piece))).await;
                }
                let kept = silence.then(|| send.clone());
                drop(send);
                kept
            };
            let mut body = Request::new(Reply::Pieces(receive), LIMIT);
            let take = async {
                if gzip && !body.is_gzip().await? {
                    return Err(std::io::Error::other("no gzip"));
                }
                hand_on(body, gzip, &mut out).await
            };
            let (done, _kept) = tokio::join!(take, feed);
            (done, out)
        })
    }

    #[test]
    fn a_slow_body_arrives_whole_and_a_silent_one_is_given_up() {
        let pieces: [&[u8]; 4] = [b"one", b"two", b"three", b"four"];
        let (done, out) = handed_on(&pieces, false, false);
        done.expect("whole");
        assert_eq!(out, b"onetwothreefour");
        let (done, out) = handed_on(&pieces, false, true);
        assert_eq!((done.expect_err("no end").kind(), out), (ErrorKind::TimedOut, b"onetwothreefour".to_vec()));
    }

    #[test]
    fn gzip_is_known_by_its_beginning_however_it_is_cut_and_unpacked_whole() {
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        packed.write_all(b"what was packed").expect("packed");
        let packed = packed.finish().expect("packed");
        let (done, out) = handed_on(&[&packed[..1], &packed[1..]], true, false);
        done.expect("whole");
        assert_eq!(out, b"what was packed");
        for other in [&b"no gzip at all"[..], b"\x1f", b""] {
            assert!(handed_on(&[other], true, false).0.is_err(), "{other:?}");
        }
    }
}
