//! Spools: files of the state directory, each with one pack on its way to or from the log.
//!
//! Promises that none outlives its daemon, and that a spool that begins anew is another file: a repository may have
//! come to share the old one's bytes. Makes nothing durable.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result, ensure};
use refrain_core::port::Spool;

use crate::git::Progress;

/// One site's spools.
#[derive(Clone)]
pub(super) struct Spools {
    dir: PathBuf,
    /// Packs that are being cut into a spool.
    cutting: Arc<Mutex<BTreeMap<Spool, Arc<Progress>>>>,
    number: Arc<AtomicU64>,
}

/// A file of our own, gone when dropped.
pub(super) struct Scratch(PathBuf);

impl Scratch {
    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What stays is swept at the next start.
        let _ = fs::remove_file(&self.0);
    }
}

impl Spools {
    /// Below a state directory.
    pub(super) fn new(state: &Path) -> Self {
        Self { dir: state.join("spool"), cutting: Arc::default(), number: Arc::default() }
    }

    /// Removes what a former daemon left.
    pub(super) fn sweep(&self) -> Result<()> {
        let shown = self.dir.display();
        if self.dir.exists() {
            fs::remove_dir_all(&self.dir).with_context(|| format!("cannot empty {shown}"))?;
        }
        fs::create_dir_all(&self.dir).with_context(|| format!("cannot create the directory {shown}"))
    }

    /// Where it is.
    pub(super) fn path(&self, spool: Spool) -> PathBuf {
        self.dir.join(match spool {
            Spool::Push(id) => format!("push-{id}.pack"),
            Spool::Record(partition, offset) => format!("record-{partition}-{offset}.pack"),
        })
    }

    /// A new file that no order names.
    pub(super) fn scratch(&self, what: &str) -> Result<(Scratch, File)> {
        let path = self.dir.join(format!("{what}-{}.pack", self.number.fetch_add(1, Ordering::Relaxed)));
        let file = File::create_new(&path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok((Scratch(path), file))
    }

    /// A pack is going to be cut into it.
    pub(super) fn begin(&self, spool: Spool) -> Arc<Progress> {
        let progress = Arc::<Progress>::default();
        self.cutting.lock().expect("no thread panics while it holds the map").insert(spool, progress.clone());
        progress
    }

    /// It was cut, or not.
    pub(super) fn end(&self, spool: Spool) {
        self.cutting.lock().expect("no thread panics while it holds the map").remove(&spool);
    }

    pub(super) fn read(&self, spool: Spool, at: u64, length: usize) -> Result<Arc<[u8]>> {
        let path = self.path(spool);
        let what = || format!("{} cannot be read", path.display());
        let mut bytes = vec![0; length];
        File::open(&path).with_context(what)?.read_exact_at(&mut bytes, at).with_context(what)?;
        Ok(Arc::from(bytes))
    }

    pub(super) fn write(&self, spool: Spool, at: u64, pieces: &[Arc<[u8]>]) -> Result<()> {
        let path = self.path(spool);
        let what = || format!("{} cannot be written; check free space", path.display());
        if at == 0 {
            remove(&path)?;
        }
        let file = File::options().write(true).create_new(at == 0).open(&path).with_context(what)?;
        let length = file.metadata().with_context(what)?.len();
        ensure!(length == at, "{} has {length} bytes where {at} should be", path.display());
        let mut at = at;
        for piece in pieces {
            file.write_all_at(piece, at).with_context(what)?;
            at += piece.len() as u64;
        }
        Ok(())
    }

    /// Takes it away at once, so that an order that follows finds none, and has its cutting given up. To unlink a large
    /// file takes a while, which the caller's second part does.
    pub(super) fn take_away(&self, spool: Spool) -> impl FnOnce() + Send + use<> {
        if let Some(progress) = self.cutting.lock().expect("no thread panics while it holds the map").get(&spool) {
            progress.stop();
        }
        let (path, number) = (self.path(spool), self.number.fetch_add(1, Ordering::Relaxed));
        let gone = self.dir.join(format!("dropped-{number}"));
        let renamed = fs::rename(&path, &gone);
        move || {
            if let Err(why) = renamed.and_then(|()| fs::remove_file(&gone))
                && why.kind() != std::io::ErrorKind::NotFound
            {
                tracing::warn!("{} cannot be removed: {why}", path.display());
            }
        }
    }
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(why) if why.kind() != std::io::ErrorKind::NotFound => {
            Err(why).with_context(|| format!("{} cannot be removed", path.display()))
        }
        _ => Ok(()),
    }
}
