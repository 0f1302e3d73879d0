//! Bodies that pass through in pieces: out of a child, and into one, unpacked on the way.

use std::io::Write;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use flate2::write::GzDecoder;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

/// How much of a gzip body is unpacked at once: at deflate's best, 1,032 to 1, that makes 4 MiB.
const GZIP_STEP: usize = 4 << 10;

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

/// Hands a request's body on, piece by piece. An error is the client's: it broke off, or its gzip is none.
pub(super) async fn hand_on(mut from: Incoming, gzip: bool, mut to: impl AsyncWrite + Unpin) -> std::io::Result<()> {
    let mut decoder = gzip.then(|| GzDecoder::new(Vec::new()));
    while let Some(frame) = from.frame().await {
        let frame = frame.map_err(std::io::Error::other)?;
        let Ok(data) = frame.into_data() else { continue };
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
