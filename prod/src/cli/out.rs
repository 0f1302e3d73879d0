//! Data on standard output. A reader that goes away, as `head` does, is no failure: what follows is dropped.

use std::io::{BufWriter, ErrorKind, Stdout, Write};

use anyhow::{Context, Result};

/// A line for people, on standard error; if nobody reads that either, nobody is told.
pub(super) fn note(text: impl std::fmt::Display) {
    let _ = writeln!(std::io::stderr(), "refrain: {text}");
}

/// Progress of long work, where standard error is a terminal.
pub(super) fn progress(length: u64) -> indicatif::ProgressBar {
    let style = indicatif::ProgressStyle::with_template("{msg} {pos}/{len}").expect("the template is fixed");
    indicatif::ProgressBar::new(length).with_style(style)
}

/// Standard output, flushed when dropped.
pub(super) struct Out {
    to: BufWriter<Stdout>,
    closed: bool,
}

impl Out {
    pub(super) fn new() -> Self {
        Self { to: BufWriter::new(std::io::stdout()), closed: false }
    }

    /// One line.
    pub(super) fn line(&mut self, text: impl std::fmt::Display) -> Result<()> {
        let written = writeln!(self.to, "{text}");
        self.took(written)
    }

    /// One JSON document in a line.
    pub(super) fn json(&mut self, value: &impl serde::Serialize) -> Result<()> {
        let text = serde_json::to_string(value).context("cannot write JSON")?;
        self.line(text)
    }

    /// What was printed so far is shown.
    pub(super) fn flush(&mut self) -> Result<()> {
        let flushed = self.to.flush();
        self.took(flushed)
    }

    /// Nobody reads any more.
    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }

    fn took(&mut self, written: std::io::Result<()>) -> Result<()> {
        match written {
            Err(why) if why.kind() == ErrorKind::BrokenPipe => {
                self.closed = true;
                Ok(())
            }
            other => other.context("cannot write to standard output"),
        }
    }
}
