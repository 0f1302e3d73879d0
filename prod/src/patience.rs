//! Reads and writes that wait only as long as something moves.
//!
//! Owns the time that a silent client may hold a place. Each byte that goes through sets it back, so that a slow one is
//! served to its end.

use std::io::{Error, ErrorKind, Result};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::{Instant, Sleep, timeout};

/// A client that neither sends what is awaited nor takes what is sent for so long is given up. Twice what web servers
/// usually allow (nginx: 60 s): between a push's request and its pack, a client may be compressing.
pub const SILENT_MAX: Duration = Duration::from_secs(120);

fn silent(limit: Duration) -> Error {
    Error::new(ErrorKind::TimedOut, format!("nothing moved for {limit:?}"))
}

/// A line with its newline, or what there is before the end or the first `max` bytes.
pub async fn read_line(from: &mut (impl AsyncBufRead + Unpin), max: u64, limit: Duration) -> Result<Vec<u8>> {
    let mut line = Vec::new();
    while (line.len() as u64) < max {
        let piece = timeout(limit, from.fill_buf()).await.map_err(|_| silent(limit))??;
        let end = piece.iter().position(|byte| *byte == b'\n');
        let taken = end.map_or(piece.len(), |at| at + 1).min((max - line.len() as u64) as usize);
        line.extend_from_slice(&piece[..taken]);
        from.consume(taken);
        if taken == 0 || line.last() == Some(&b'\n') {
            break;
        }
    }
    Ok(line)
}

/// All of `bytes`.
pub async fn write_all(to: &mut (impl AsyncWrite + Unpin), mut bytes: &[u8], limit: Duration) -> Result<()> {
    while !bytes.is_empty() {
        let written = timeout(limit, to.write(bytes)).await.map_err(|_| silent(limit))??;
        if written == 0 {
            return Err(ErrorKind::WriteZero.into());
        }
        bytes = &bytes[written..];
    }
    Ok(())
}

/// A stream whose writes are given up once the other side takes nothing for `limit`. Reads are whose business it is to
/// wait for one.
pub struct Patient<S> {
    stream: S,
    limit: Duration,
    /// Set while a write waits.
    until: Option<Pin<Box<Sleep>>>,
}

impl<S> Patient<S> {
    pub fn new(stream: S, limit: Duration) -> Self {
        Self { stream, limit, until: None }
    }

    fn judge<T>(&mut self, cx: &mut Context<'_>, moved: Poll<Result<T>>) -> Poll<Result<T>> {
        if moved.is_ready() {
            self.until = None;
            return moved;
        }
        let limit = self.limit;
        let until = self.until.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(Instant::now() + limit)));
        ready!(until.as_mut().poll(cx));
        Poll::Ready(Err(silent(limit)))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize>> {
        let moved = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.judge(cx, moved)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[std::io::IoSlice<'_>],
    ) -> Poll<Result<usize>> {
        let moved = Pin::new(&mut self.stream).poll_write_vectored(cx, pieces);
        self.judge(cx, moved)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        let moved = Pin::new(&mut self.stream).poll_flush(cx);
        self.judge(cx, moved)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        let moved = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.judge(cx, moved)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use tokio::io::{AsyncReadExt, BufReader, duplex};

    use super::*;

    const LIMIT: Duration = Duration::from_millis(400);

    fn run<T>(work: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(work)
    }

    #[test]
    fn a_slow_line_is_read_to_its_end_and_a_silent_one_is_given_up() {
        run(async {
            let (mut client, server) = duplex(64);
            let mut server = BufReader::new(server);
            let begun = Instant::now();
            let sending = async {
                for piece in ["one", "two", "three", "four\nfive"] {
                    tokio::time::sleep(LIMIT / 2).await;
                    client.write_all(piece.as_bytes()).await.expect("sent");
                }
            };
            let (line, ()) = tokio::join!(read_line(&mut server, 100, LIMIT), sending);
            assert_eq!(line.expect("a line"), b"onetwothreefour\n");
            assert!(begun.elapsed() > LIMIT, "it took longer than silence may");
            let given_up = read_line(&mut server, 100, LIMIT).await.expect_err("nothing follows five");
            assert_eq!(given_up.kind(), ErrorKind::TimedOut);
        });
    }

    #[test]
    fn a_line_ends_at_its_limit_and_at_the_end() {
        run(async {
            let mut text = &b"0123456789\nrest"[..];
            assert_eq!(read_line(&mut text, 4, LIMIT).await.expect("bytes"), b"0123");
            assert_eq!(read_line(&mut text, 100, LIMIT).await.expect("bytes"), b"456789\n");
            assert_eq!(read_line(&mut text, 100, LIMIT).await.expect("bytes"), b"rest");
        });
    }

    #[test]
    fn a_slow_reader_gets_everything_and_one_that_takes_nothing_is_given_up() {
        run(async {
            let (mut client, mut server) = duplex(4);
            let bytes: Vec<u8> = (0..20).collect();
            let reading = async {
                let mut all = Vec::new();
                while all.len() < 20 {
                    tokio::time::sleep(LIMIT / 4).await;
                    let mut some = [0; 4];
                    let count = client.read(&mut some).await.expect("read");
                    all.extend_from_slice(&some[..count]);
                }
                all
            };
            let (written, all) = tokio::join!(write_all(&mut server, &bytes, LIMIT), reading);
            written.expect("written");
            assert_eq!(all, bytes);
            let given_up = write_all(&mut server, &bytes, LIMIT).await.expect_err("nobody reads");
            assert_eq!(given_up.kind(), ErrorKind::TimedOut);
            let given_up = Patient::new(server, LIMIT).write_all(&bytes).await.expect_err("nobody reads");
            assert_eq!(given_up.kind(), ErrorKind::TimedOut);
        });
    }
}
