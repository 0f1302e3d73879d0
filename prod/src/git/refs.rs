//! Refs of the files backend: read, compare and set.
//!
//! Follows Git's own locking (`<ref>.lock` by exclusive creation, `packed-refs.lock` around every deletion), so it may
//! run beside `git` in the same repository. Promises that a ref moves only from the value named. Runs no hooks, writes
//! no reflog, flushes nothing. Symbolic refs other than HEAD count as absent and are never written through.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use refrain_core::ids::Oid;

use super::ingest::unique;
use super::{RefEdit, SetOutcome, packed};

/// How long a ref's lock is waited for, and that of packed-refs: Git's own defaults.
const REF_LOCK_WAIT: Duration = Duration::from_millis(100);
const PACKED_LOCK_WAIT: Duration = Duration::from_secs(1);
/// How often a lock's directory may be taken away again before it is made.
const VANISHED_MAX: u32 = 64;

/// How a lock of ours begins, and the name under which it is made.
const MARK: &str = "refrain ";
pub(super) const MARKED_LOCK: &str = "refrain-lock-";

/// What a ref's own file says.
enum Loose {
    Absent,
    Direct(Oid),
    Symbolic(String),
}

/// A ref lock that is ours; dropping it gives it back.
struct Lock {
    path: PathBuf,
    committed: bool,
}

impl Lock {
    /// Puts what was written under the lock in the place of the ref. From that moment the lock's name is free, and a
    /// file of that name is somebody else's lock: it must not be given back.
    fn commit(mut self, place: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<()> {
        place(&self.path)?;
        self.committed = true;
        Ok(())
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        if !self.committed {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// An edit that holds its lock and found the value it expects.
struct Held<'a> {
    edit: &'a RefEdit,
    lock: Lock,
}

pub(super) struct Refs<'a> {
    pub git_dir: &'a Path,
}

impl Refs<'_> {
    pub fn read(&self, name: &str) -> Result<Option<Oid>> {
        check_name(name).map_err(anyhow::Error::msg)?;
        match self.loose(name)? {
            Loose::Direct(oid) => Ok(Some(oid)),
            Loose::Symbolic(_) => Ok(None),
            // The order matters: `git pack-refs` writes the packed value before it removes the loose one.
            Loose::Absent => self.packed(name),
        }
    }

    fn packed(&self, name: &str) -> Result<Option<Oid>> {
        let found = packed::first_from(self.git_dir, name)
            .with_context(|| format!("packed-refs of {} cannot be read", self.git_dir.display()))?;
        Ok(found.filter(|(found, _)| found == name).map(|(_, oid)| oid))
    }

    fn loose(&self, name: &str) -> Result<Loose> {
        let path = self.git_dir.join(name);
        match fs::read(&path) {
            Ok(bytes) => Ok(parse_loose(&bytes)),
            Err(e) => match e.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::IsADirectory => {
                    Ok(Loose::Absent)
                }
                _ => Err(e).with_context(|| format!("ref {name} cannot be read at {}", path.display())),
            },
        }
    }

    /// All refs but HEAD and ours. A ref that changes while this runs may show either value.
    pub fn all(&self) -> Result<BTreeMap<String, Oid>> {
        let mut loose = BTreeMap::new();
        self.scan("refs", &mut loose)?;
        let mut refs = packed::all(self.git_dir)
            .with_context(|| format!("packed-refs of {} cannot be read", self.git_dir.display()))?;
        for (name, value) in loose {
            match value {
                Some(oid) => refs.insert(name, oid),
                None => refs.remove(&name),
            };
        }
        refs.retain(|name, _| name.starts_with("refs/") && !name.starts_with("refs/refrain/"));
        Ok(refs)
    }

    /// All refs below `dir`, ours included.
    pub fn below(&self, dir: &str) -> Result<BTreeMap<String, Oid>> {
        let mut loose = BTreeMap::new();
        self.scan(dir, &mut loose)?;
        let mut refs = packed::all(self.git_dir)
            .with_context(|| format!("packed-refs of {} cannot be read", self.git_dir.display()))?;
        let prefix = format!("{dir}/");
        refs.retain(|name, _| name.starts_with(&prefix));
        refs.extend(loose.into_iter().filter_map(|(name, value)| value.map(|oid| (name, oid))));
        Ok(refs)
    }

    fn scan(&self, dir: &str, into: &mut BTreeMap<String, Option<Oid>>) -> Result<()> {
        let path = self.git_dir.join(dir);
        let entries = match fs::read_dir(&path) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(e).with_context(|| format!("{} cannot be listed", path.display())),
        };
        for entry in entries {
            let entry = entry.with_context(|| format!("{} cannot be listed", path.display()))?;
            let Ok(file) = entry.file_name().into_string() else { continue };
            let name = format!("{dir}/{file}");
            if name == "refs/refrain" || file.ends_with(".lock") {
                continue;
            }
            if entry.file_type().is_ok_and(|t| t.is_dir()) {
                self.scan(&name, into)?;
                continue;
            }
            match self.loose(&name)? {
                Loose::Direct(oid) => into.insert(name, Some(oid)),
                Loose::Symbolic(_) => into.insert(name, None),
                Loose::Absent => None,
            };
        }
        Ok(())
    }

    /// Compares and sets. Deletions go first, so that `a` can make way for `a/b`: in a transaction of their own, or, if
    /// the set is atomic, with all that they need not make way for.
    pub fn set(&self, edits: &[RefEdit], atomic: bool) -> Vec<SetOutcome> {
        let mut outcomes: Vec<Option<SetOutcome>> = vec![None; edits.len()];
        if atomic {
            // Before anything is locked: a refusal found here costs nothing, and covers both transactions.
            for (outcome, edit) in outcomes.iter_mut().zip(edits) {
                *outcome = self.precheck(edit).err();
            }
        }
        // What is made where something goes cannot be locked before that is gone.
        let later = |edit: &RefEdit| edit.new.is_some() && (!atomic || is_made_way_for(edit, edits));
        let (first, last): (Vec<usize>, Vec<usize>) = (0..edits.len()).partition(|index| !later(&edits[*index]));
        for chosen in [first, last] {
            if !(atomic && outcomes.iter().any(is_spoilt)) {
                self.transact(edits, &chosen, atomic, &mut outcomes);
            }
        }
        outcomes.into_iter().map(|outcome| outcome.unwrap_or(SetOutcome::Withheld)).collect()
    }

    fn transact(&self, edits: &[RefEdit], chosen: &[usize], atomic: bool, outcomes: &mut [Option<SetOutcome>]) {
        let (mut gone, mut made, mut done) = (Vec::new(), Vec::new(), Vec::new());
        // One wait for all: a predecessor may have died with hundreds of locks.
        let deadline = Instant::now() + REF_LOCK_WAIT;
        for index in chosen {
            match self.lock_and_check(&edits[*index], deadline) {
                Ok(Some(ready)) if ready.edit.new.is_none() => gone.push((*index, ready)),
                Ok(Some(ready)) => made.push((*index, ready)),
                Ok(None) => done.push(*index),
                Err(outcome) => {
                    outcomes[*index] = Some(outcome);
                    if atomic {
                        return;
                    }
                }
            }
        }
        done.into_iter().for_each(|index| outcomes[index] = Some(SetOutcome::Done));
        if !gone.is_empty() {
            let result = self.remove(gone.iter().map(|(_, h)| h.edit.name.as_str()).collect());
            for (index, ready) in gone {
                outcomes[index] = Some(result.clone().map_or_else(SetOutcome::Failed, |()| SetOutcome::Done));
                drop(ready.lock);
                remove_empty_parents(self.git_dir, &self.git_dir.join(&ready.edit.name));
            }
            if atomic && result.is_err() {
                return;
            }
        }
        for (index, ready) in made {
            let name = &ready.edit.name;
            let result = ready.lock.commit(|lock| self.rename_into_place(lock, &self.git_dir.join(name)));
            let failed = |e| SetOutcome::Failed(format!("{name} could not be put in place: {e}"));
            outcomes[index] = Some(result.map_or_else(failed, |()| SetOutcome::Done));
        }
    }

    /// The value under the lock or before it. `Err`: neither old nor new.
    fn compare(&self, edit: &RefEdit) -> Result<bool, SetOutcome> {
        let failed = |e: anyhow::Error| SetOutcome::Failed(format!("{e:#}"));
        let actual = match self.loose(&edit.name).map_err(failed)? {
            Loose::Direct(oid) => Some(oid),
            Loose::Absent => self.packed(&edit.name).map_err(failed)?,
            // Not replicated, so no value of a ref; a decided one takes its place, and its target stays as it is.
            Loose::Symbolic(_) => None,
        };
        if actual == edit.new {
            Ok(false)
        } else if actual == edit.old {
            Ok(true)
        } else {
            Err(SetOutcome::Refused { actual })
        }
    }

    fn precheck(&self, edit: &RefEdit) -> Result<(), SetOutcome> {
        check_name(&edit.name).map_err(SetOutcome::Failed)?;
        self.compare(edit).map(|_| ())
    }

    /// `Ok(None)`: the ref has its new value already.
    fn lock_and_check<'a>(&self, edit: &'a RefEdit, deadline: Instant) -> Result<Option<Held<'a>>, SetOutcome> {
        check_name(&edit.name).map_err(SetOutcome::Failed)?;
        let mut content = edit.new.map(|oid| oid.to_string()).unwrap_or_default();
        content.push('\n');
        if !self.compare(edit)? {
            return Ok(None);
        }
        let path = self.git_dir.join(format!("{}.lock", edit.name));
        let lock = take_lock(path, content.as_bytes(), deadline, &edit.name).map_err(SetOutcome::Failed)?;
        if !self.compare(edit)? {
            return Ok(None);
        }
        if edit.old.is_none() {
            self.check_neighbours(&edit.name).map_err(SetOutcome::Failed)?;
        }
        if edit.new.is_some() {
            self.clear_directory(&edit.name).map_err(SetOutcome::Failed)?;
        }
        Ok(Some(Held { edit, lock }))
    }

    /// No ref beside one of which it is a directory. Loose ones collide in the file system; packed ones are looked up.
    fn check_neighbours(&self, name: &str) -> Result<(), String> {
        let unreadable = |e: anyhow::Error| format!("{e:#}");
        for (at, _) in name.match_indices('/').skip(1) {
            if self.read(&name[..at]).map_err(unreadable)?.is_some() {
                return Err(format!("{name} cannot exist beside {}", &name[..at]));
            }
        }
        let below = format!("{name}/");
        let packed = packed::first_from(self.git_dir, &below).map_err(|e| format!("packed-refs: {e}"))?;
        // A packed name below may be shadowed by nothing: deletions take it out of the file at once.
        match packed.filter(|(found, _)| found.starts_with(&below)) {
            Some((found, _)) => Err(format!("{name} cannot exist beside {found}")),
            None => Ok(()),
        }
    }

    /// Directories of deleted refs stay behind and may be empty all the way down. One that is not is found before any
    /// ref of the transaction moves.
    fn clear_directory(&self, name: &str) -> Result<(), String> {
        let path = self.git_dir.join(name);
        if path.is_dir() {
            remove_empty_below(&path);
        }
        if path.is_dir() { Err(format!("{name} cannot exist beside what is in {}/", path.display())) } else { Ok(()) }
    }

    /// Removes refs whose locks are held. The packed-refs lock is taken even when none of them is packed: a `git
    /// pack-refs` that read a loose ref before we removed it would bring it back.
    fn remove(&self, names: Vec<&str>) -> Result<(), String> {
        let _lock = self.take_packed_lock()?;
        let names: std::collections::BTreeSet<&str> = names.into_iter().collect();
        let packed = names.iter().any(|name| !matches!(self.packed(name), Ok(None)));
        // Packed first: in between, a crash leaves the loose value, which is the current one.
        if packed {
            packed::leave_out(self.git_dir, &|name| names.contains(name))
                .map_err(|e| format!("packed-refs could not be rewritten: {e}"))?;
        }
        for name in names {
            let path = self.git_dir.join(name);
            match fs::remove_file(&path) {
                Err(e) if !is_absent(&e) => return Err(format!("{name} could not be removed: {e}")),
                _ => {}
            }
        }
        Ok(())
    }

    /// Git leaves this lock empty; ours says whose it is, so that a successor need not wait for what is a corpse's.
    fn take_packed_lock(&self) -> Result<Lock, String> {
        let path = self.git_dir.join("packed-refs.lock");
        let marked = self.git_dir.join(unique(MARKED_LOCK));
        let failed = |e: io::Error| format!("packed-refs cannot be locked at {}: {e}", path.display());
        fs::write(&marked, mark()).map_err(failed)?;
        let marked = Lock { path: marked, committed: false };
        let deadline = Instant::now() + PACKED_LOCK_WAIT;
        loop {
            // Appears with its mark, or not at all.
            match fs::hard_link(&marked.path, &path) {
                Ok(()) => return Ok(Lock { path, committed: false }),
                Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(failed(e)),
                Err(_) if self.bury_packed_lock() => {}
                Err(_) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(2)),
                Err(_) => return Err(locked("packed-refs", &path)),
            }
        }
    }

    /// Takes away the lock of packed-refs if a refrain that is dead took it. Whoever runs holds the repositories' lock,
    /// so another one's mark is a corpse's. Says whether it did.
    pub fn bury_packed_lock(&self) -> bool {
        static ONE_AT_A_TIME: std::sync::Mutex<()> = std::sync::Mutex::new(());
        let _alone = ONE_AT_A_TIME.lock().expect("no thread panics while it looks");
        let path = self.git_dir.join("packed-refs.lock");
        let text = fs::read_to_string(&path).unwrap_or_default();
        let dead = text.starts_with(MARK) && text != mark();
        if dead {
            // First what it was writing, which would be in Git's way.
            let _ = fs::remove_file(self.git_dir.join("packed-refs.new"));
            let _ = fs::remove_file(&path);
        }
        dead
    }

    fn rename_into_place(&self, lock: &Path, path: &Path) -> io::Result<()> {
        match fs::rename(lock, path) {
            // Directories of deleted refs stay behind and may be empty all the way down.
            Err(e) if path.is_dir() => {
                remove_empty_below(path);
                fs::rename(lock, path).map_err(|_| e)
            }
            other => other,
        }
    }

    /// What HEAD names, whether it exists or not.
    pub fn head(&self) -> Result<String> {
        let bytes = fs::read(self.git_dir.join("HEAD"))
            .with_context(|| format!("HEAD of {} cannot be read", self.git_dir.display()))?;
        match parse_loose(&bytes) {
            Loose::Symbolic(target) => Ok(target),
            Loose::Direct(_) | Loose::Absent => {
                anyhow::bail!("HEAD of {} names no branch; set it with `refrain repo set`", self.git_dir.display())
            }
        }
    }

    pub fn set_head(&self, target: &str) -> Result<()> {
        check_name(target).map_err(anyhow::Error::msg)?;
        let content = format!("ref: {target}\n");
        let lock =
            take_lock(self.git_dir.join("HEAD.lock"), content.as_bytes(), Instant::now() + REF_LOCK_WAIT, "HEAD")
                .map_err(anyhow::Error::msg)?;
        lock.commit(|lock| fs::rename(lock, self.git_dir.join("HEAD"))).context("HEAD could not be put in place")
    }
}

fn is_spoilt(outcome: &Option<SetOutcome>) -> bool {
    matches!(outcome, Some(SetOutcome::Refused { .. } | SetOutcome::Failed(_)))
}

/// A deletion of the set must be done before this edit of it can take its name.
fn is_made_way_for(edit: &RefEdit, edits: &[RefEdit]) -> bool {
    let below = |dir: &str, name: &str| name.strip_prefix(dir).is_some_and(|rest| rest.starts_with('/'));
    let mut gone = edits.iter().filter(|it| it.new.is_none());
    gone.any(|it| below(&it.name, &edit.name) || below(&edit.name, &it.name))
}

/// The last barrier before a name becomes a path; callers have parsed it long before.
fn check_name(name: &str) -> Result<(), String> {
    let plain = |part: &str| !part.is_empty() && !part.starts_with('.') && !part.ends_with(".lock");
    let bad = name.contains(['\0', '\n']) || !name.starts_with("refs/") || !name.split('/').all(plain);
    if bad { Err(format!("{name:?} is not a ref name that can be stored")) } else { Ok(()) }
}

/// An empty or zeroed file is what a power cut leaves of an unflushed ref: as good as absent.
fn parse_loose(bytes: &[u8]) -> Loose {
    let Ok(text) = std::str::from_utf8(bytes) else { return Loose::Absent };
    let text = text.trim_end();
    if let Some(target) = text.strip_prefix("ref:") {
        return Loose::Symbolic(target.trim_start().to_owned());
    }
    Oid::parse(text).map_or(Loose::Absent, Loose::Direct)
}

fn take_lock(path: PathBuf, content: &[u8], deadline: Instant, what: &str) -> Result<Lock, String> {
    let mut vanished = 0;
    loop {
        let error = match fs::OpenOptions::new().write(true).create_new(true).open(&path) {
            Ok(mut file) => {
                let lock = Lock { path, committed: false };
                return file.write_all(content).map(|()| lock).map_err(|e| format!("{what} cannot be written: {e}"));
            }
            Err(error) => error,
        };
        match error.kind() {
            io::ErrorKind::NotFound => {
                let parent = path.parent().expect("lock files lie in a directory");
                match fs::create_dir_all(parent) {
                    Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                    Err(e) => return Err(format!("{what} cannot exist beside a ref that is a part of its name: {e}")),
                    Ok(()) => {}
                }
            }
            io::ErrorKind::AlreadyExists if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(2)),
            io::ErrorKind::AlreadyExists => return Err(locked(what, &path)),
            io::ErrorKind::NotADirectory => {
                return Err(format!("{what} cannot exist beside a ref that is a part of its name"));
            }
            _ => return Err(format!("{what} cannot be locked at {}: {error}", path.display())),
        }
        // A deletion may take a directory away between its creation and the lock's: try again, but not for ever. That
        // is counted, since the time is shared by all refs of a set, and may be over when the last ones are locked.
        vanished += u32::from(error.kind() == io::ErrorKind::NotFound);
        if vanished > VANISHED_MAX {
            return Err(format!("{what} cannot be locked: its directory vanishes again and again"));
        }
    }
}

fn locked(what: &str, path: &Path) -> String {
    format!(
        "{what} is locked by {}: another git process is changing it, or one died there; refrain takes stale locks away \
         when it starts, or remove the file once no git runs in this repository",
        path.display()
    )
}

/// This process, and no other that ever ran: its number alone comes again, in containers each time.
fn mark() -> &'static str {
    static OWN: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    OWN.get_or_init(|| {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        format!("{MARK}{} {}\n", std::process::id(), since.as_nanos())
    })
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::IsADirectory)
}

/// Keeps `refs` and its children, as Git does. To be called without the lock, which lies in the nearest directory.
fn remove_empty_parents(git_dir: &Path, path: &Path) {
    for dir in path.ancestors().skip(1) {
        let depth = dir.strip_prefix(git_dir).map_or(0, |rest| rest.components().count());
        if depth <= 2 || fs::remove_dir(dir).is_err() {
            return;
        }
    }
}

fn remove_empty_below(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            remove_empty_below(&entry.path());
        }
    }
    let _ = fs::remove_dir(dir);
}
