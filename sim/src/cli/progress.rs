//! How far long work is, on standard error, while somebody watches: one line without colours that leaves no mark.
//! Nothing at all for programs and logs, where standard error is no terminal or JSON was asked for.

use std::fmt::{Display, Write};
use std::sync::atomic::{AtomicU64, Ordering};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

pub(super) struct Progress {
    bar: ProgressBar,
    bad: AtomicU64,
    word: &'static str,
}

impl Progress {
    /// `word` is what is wrong with those that [`Self::bad`] counts.
    pub(super) fn new(json: bool, word: &'static str) -> Self {
        // This target shows nothing where standard error is no terminal.
        Self::on(if json { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() }, word)
    }

    fn on(target: ProgressDrawTarget, word: &'static str) -> Self {
        let of = |state: &ProgressState, to: &mut dyn Write| {
            let _ = state.len().map_or(Ok(()), |len| write!(to, "/{len}"));
        };
        let rate = |state: &ProgressState, to: &mut dyn Write| {
            let _ = write!(to, "{:.1}", state.per_sec());
        };
        let style = ProgressStyle::with_template("{prefix}: {pos}{of} seeds · {msg} · {rate} seeds a second");
        let style = style.expect("the template is fixed").with_key("of", of).with_key("rate", rate);
        let bar = ProgressBar::with_draw_target(None, target).with_style(style);
        Self { bar: bar.with_message(format!("0 {word}")), bad: AtomicU64::new(0), word }
    }

    /// From here on it is about `what`, and so many seeds, if somebody knows how many.
    pub(super) fn begin(&self, what: impl Display, seeds: Option<u64>) {
        self.bar.set_prefix(what.to_string());
        match seeds {
            Some(seeds) => self.bar.set_length(seeds),
            None => self.bar.unset_length(),
        }
        self.bar.reset();
    }

    /// A seed is done with.
    pub(super) fn ran(&self) {
        self.bar.inc(1);
    }

    /// One more is as it should not be.
    pub(super) fn bad(&self) {
        let bad = self.bad.fetch_add(1, Ordering::Relaxed) + 1;
        self.bar.set_message(format!("{bad} {}", self.word));
    }

    /// Prints while the line is out of the way.
    pub(super) fn aside(&self, print: impl FnOnce()) {
        self.bar.suspend(print);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use indicatif::TermLike;

    use super::*;

    /// The line that is shown now.
    #[derive(Clone, Debug, Default)]
    struct Screen(Arc<Mutex<String>>);

    impl Screen {
        fn shown(&self) -> String {
            self.0.lock().expect("nobody panics").trim().to_string()
        }
    }

    impl TermLike for Screen {
        fn width(&self) -> u16 {
            200
        }
        fn move_cursor_up(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_down(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_right(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_left(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn write_line(&self, text: &str) -> io::Result<()> {
            self.write_str(text)
        }
        fn write_str(&self, text: &str) -> io::Result<()> {
            self.0.lock().expect("nobody panics").push_str(text);
            Ok(())
        }
        fn clear_line(&self) -> io::Result<()> {
            self.0.lock().expect("nobody panics").clear();
            Ok(())
        }
        fn flush(&self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn people_see_seeds_failures_and_rate_and_nothing_of_it_stays() {
        let screen = Screen::default();
        let progress = Progress::on(ProgressDrawTarget::term_like_with_hz(Box::new(screen.clone()), 255), "failed");
        progress.begin("default", Some(10));
        progress.ran();
        progress.ran();
        progress.bad();
        progress.aside(|| assert_eq!(screen.shown(), "", "a line that is printed must not run into it"));
        let shown = screen.shown();
        assert!(shown.starts_with("default: 2/10 seeds · 1 failed · "), "{shown}");
        assert!(shown.ends_with(" seeds a second") && !shown.contains('\u{1b}'), "{shown}");
        progress.begin("dense", None);
        progress.aside(|| ());
        assert!(screen.shown().starts_with("dense: 0 seeds · 1 failed · "), "{}", screen.shown());
        drop(progress);
        assert_eq!(screen.shown(), "");
    }
}
