//! What a running site holds: the locks of its directories, as long as any thread of it is at work there.
//!
//! Promises that no other daemon takes the directories over while an order of this one still writes to them, and that
//! an order which panics ends its site: the core would wait for its answer for ever.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::sync::mpsc;

use super::{Fact, Places};

/// How long a lock is waited for. A daemon that was killed while it started a program leaves a child that holds its
/// locks until it becomes that program: milliseconds, or more on a busy machine.
pub(crate) const LOCK_WAIT: Duration = Duration::from_secs(3);

/// The state directory is locked by another process: exit code 75.
#[derive(Debug)]
pub struct Locked(pub String);

impl std::fmt::Display for Locked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Locked {}

/// The locks, and where a panic is told. They are given back with the last copy and the last [`UnderWay`].
#[derive(Clone)]
pub(super) struct Held {
    facts: mpsc::UnboundedSender<Fact>,
    locks: Arc<[File; 2]>,
}

impl Held {
    /// Makes the directories, proves that they take files, and locks them.
    pub(super) fn take(places: &Places, facts: mpsc::UnboundedSender<Fact>) -> Result<Held> {
        for dir in [&places.repos, &places.state] {
            writable(dir)?;
        }
        let locks = Arc::new([lock(&places.state, "lock")?, lock(&places.repos, ".refrain.lock")?]);
        Ok(Held { facts, locks })
    }

    /// For an order that works in the directories: the thread that carries it out keeps the answer to its end.
    pub(super) fn order(&self, what: &'static str) -> UnderWay {
        UnderWay { what, facts: self.facts.clone(), _locks: Some(self.locks.clone()) }
    }

    /// For an order that works elsewhere, and may wait there after the site has ended.
    pub(super) fn order_elsewhere(&self, what: &'static str) -> UnderWay {
        UnderWay { what, facts: self.facts.clone(), _locks: None }
    }
}

/// An order that is being carried out.
pub(super) struct UnderWay {
    what: &'static str,
    facts: mpsc::UnboundedSender<Fact>,
    _locks: Option<Arc<[File; 2]>>,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let why = format!(
                "{} panicked, so this site stops; nothing acknowledged is lost. Start it again, and report the panic's \
                 message above: it is a fault of refrain",
                self.what
            );
            // A daemon that has ended cannot stop once more.
            let _ = self.facts.send(Fact::Broken(why));
        }
    }
}

/// A directory that is there and takes files; otherwise the first push would find out.
fn writable(dir: &Path) -> Result<()> {
    std::fs::create_dir_all(dir).with_context(|| format!("cannot create the directory {}", dir.display()))?;
    let probe = tempfile::Builder::new().prefix(".refrain-probe-").tempfile_in(dir);
    probe.with_context(|| format!("the directory {} is not writable for this user", dir.display())).map(drop)
}

fn lock(dir: &Path, name: &str) -> Result<File> {
    let path = dir.join(name);
    let file = File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
    let until = Instant::now() + LOCK_WAIT;
    while rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_err() {
        if Instant::now() > until {
            let why = format!("{} is locked: another refrain runs a site there; stop it first", dir.display());
            return Err(Locked(why).into());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(dir: &Path) -> Result<(Held, mpsc::UnboundedReceiver<Fact>)> {
        let (facts, inbox) = mpsc::unbounded_channel();
        let at = |name: &str| dir.join(name);
        let places = Places { repos: at("repos"), state: at("state"), socket: at("socket"), exe: at("exe") };
        Ok((Held::take(&places, facts)?, inbox))
    }

    #[test]
    fn an_order_that_panics_is_told_and_one_that_ends_is_not() {
        let dir = tempfile::tempdir().expect("a directory");
        let (held, mut inbox) = held(dir.path()).expect("free");
        let orders = [held.order("one that ends"), held.order("one that panics"), held.order_elsewhere("another")];
        for (at, order) in orders.into_iter().enumerate() {
            let thread = std::thread::spawn(move || {
                let _order = order;
                assert!(at == 0, "by the test's order");
            });
            assert_eq!(thread.join().is_err(), at > 0);
        }
        for what in ["one that panics panicked", "another panicked"] {
            let told = inbox.try_recv();
            assert!(matches!(&told, Ok(Fact::Broken(why)) if why.starts_with(what)), "{what}");
        }
        assert!(inbox.try_recv().is_err());
    }

    #[test]
    fn the_directories_stay_locked_until_the_last_order_in_them_ends() {
        let dir = tempfile::tempdir().expect("a directory");
        let (first, _inbox) = held(dir.path()).expect("free");
        let (order, elsewhere) = (first.order("an order"), first.order_elsewhere("a wait"));
        drop(first);
        let refused = held(dir.path()).err().expect("locked");
        assert!(refused.is::<Locked>(), "{refused:#}");
        drop(order);
        held(dir.path()).expect("free again");
        drop(elsewhere);
    }
}
