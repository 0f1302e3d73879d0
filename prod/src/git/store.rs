//! One bare repository: the front of the Git adapter.
//!
//! Owns the path and the object database handle. The handle is opened anew whenever a pack directory has changed: its
//! table of packs has a fixed size and mapped packs outlive their deletion, so an old handle may call a present object
//! missing or a pruned one present. Promises nothing about durability: that is [`Disks`]'.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
use refrain_core::ids::Oid;

use super::freshen::Freshen;
use super::ingest::{self, unique};
use super::objects::{Objects, parse_tag};
use super::refs::Refs;
use super::settings::{self, SETTINGS};
use super::walk::{Step, Walked, is_ancestor, walk};
use super::{Cut, Disks, Ingested, Outgrown, RefEdit, SetOutcome, pack, sweep};

/// A directory changed so recently that its time stamp may not show the next change: coarsest common granularity.
const RACY: Duration = Duration::from_millis(50);

/// One repository at one site. Its operations block; any thread may call them.
pub struct Store {
    path: PathBuf,
    odb: Mutex<Option<Odb>>,
}

struct Odb {
    store: Arc<gix::odb::Store>,
    /// Pack directories, alternates included, and what their state was before the store was opened.
    seen: Vec<(PathBuf, Stamp)>,
}

/// A directory's identity and time of change.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    mtime: (i64, i64),
    racy: bool,
}

fn stamp(dir: &Path) -> Stamp {
    let Ok(meta) = fs::metadata(dir) else { return Stamp { inode: 0, mtime: (0, 0), racy: false } };
    let age = meta.modified().ok().and_then(|at| SystemTime::now().duration_since(at).ok());
    Stamp { inode: meta.ino(), mtime: (meta.mtime(), meta.mtime_nsec()), racy: age.is_none_or(|age| age < RACY) }
}

impl Store {
    /// Creates a bare repository whose HEAD names `head`, or opens the one that is there. It is built beside its place
    /// and renamed, so a crash leaves nothing or all of it.
    pub fn create(path: &Path, head: &str, disks: &Disks) -> Result<Store> {
        if path.join("HEAD").exists() {
            return Store::open(path);
        }
        let parent = path.parent().context("a repository needs a directory to be in")?;
        let file = path.file_name().and_then(|n| n.to_str()).context("a repository's path ends in a name")?;
        fs::create_dir_all(parent).with_context(|| format!("{} could not be created", parent.display()))?;
        let prefix = format!(".{file}.new-");
        for old in fs::read_dir(parent)?.flatten() {
            if old.file_name().to_string_lossy().starts_with(&prefix) {
                let _ = fs::remove_dir_all(old.path());
            }
        }
        let tmp = parent.join(unique(&prefix));
        build(&tmp, head).with_context(|| format!("repository {} could not be created", path.display()))?;
        // Flushed before it is visible: a repository that exists is complete.
        disks.flush([&*tmp])?;
        if let Err(error) = fs::rename(&tmp, path) {
            let _ = fs::remove_dir_all(&tmp);
            if !path.join("HEAD").exists() {
                return Err(error).with_context(|| format!("repository {} could not be put in place", path.display()));
            }
        }
        disks.flush([parent])?;
        Store::open(path)
    }

    /// Opens a bare SHA-1 repository with the files backend; anything else is refused.
    pub fn open(path: &Path) -> Result<Store> {
        let path = fs::canonicalize(path).with_context(|| format!("there is no repository at {}", path.display()))?;
        let shown = path.display();
        let file = path.join("config");
        let config = gix::config::File::from_path_no_includes(file.clone(), gix::config::Source::Local)
            .map_err(|e| anyhow::anyhow!("{} cannot be read: {e}", file.display()))?;
        if config.string("extensions.refStorage").is_some_and(|v| !v.eq_ignore_ascii_case(b"files")) {
            bail!(
                "{shown} keeps its refs as reftable, which refrain cannot read; convert it with \
                 `git refs migrate --ref-format=files`"
            );
        }
        if config.string("extensions.objectFormat").is_some_and(|v| !v.eq_ignore_ascii_case(b"sha1")) {
            bail!("{shown} uses SHA-256 object ids; refrain handles SHA-1 repositories only");
        }
        if !path.join("objects").is_dir() || !path.join("refs").is_dir() || !path.join("HEAD").exists() {
            bail!("{shown} is not a Git repository: HEAD, objects or refs is missing");
        }
        if !matches!(config.boolean("core.bare"), Ok(Some(true))) {
            bail!("{shown} is not bare; refrain serves bare repositories only (core.bare = true)");
        }
        Ok(Store { path, odb: Mutex::new(None) })
    }

    /// Where it is, canonical.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The objects as they are on disk now.
    fn objects(&self) -> Result<Objects> {
        let mut odb = self.odb.lock().expect("no panic while the handle is held");
        let fresh = |odb: &Odb| odb.seen.iter().all(|(dir, seen)| !seen.racy && stamp(dir) == *seen);
        if !odb.as_ref().is_some_and(fresh) {
            *odb = Some(self.open_odb()?);
        }
        let store = &odb.as_ref().expect("just opened").store;
        Ok(Objects { handle: store.to_handle_arc(), progress: None })
    }

    fn open_odb(&self) -> Result<Odb> {
        let dir = self.path.join("objects");
        // Stamped before it is opened: a pack that comes in between changes the stamp.
        let mut seen: Vec<(PathBuf, Stamp)> =
            [dir.join("pack"), dir.join("info")].into_iter().map(|dir| (dir.clone(), stamp(&dir))).collect();
        let options = gix::odb::store::init::Options {
            slots: gix::odb::store::init::Slots::AsNeededByDiskState { multiplier: 1.1, minimum: 256 },
            current_dir: Some(self.path.clone()),
            ..Default::default()
        };
        let store = gix::odb::Store::at_opts(dir.clone(), gix::hash::Kind::Sha1, &mut std::iter::empty(), options)
            .with_context(|| format!("the objects of {} cannot be opened", self.path.display()))?;
        for alternate in store.alternate_db_paths().map_err(|e| anyhow::anyhow!("{}: {e}", dir.display()))? {
            let pack = alternate.join("pack");
            seen.push((pack.clone(), stamp(&pack)));
        }
        Ok(Odb { store: Arc::new(store), seen })
    }

    fn present(&self, objects: &Objects, of: &[Oid]) -> Vec<Oid> {
        let mut present: Vec<Oid> = of.iter().filter(|oid| objects.header(oid).is_some()).copied().collect();
        present.dedup();
        present
    }

    /// Packs what `tips` need and those of `hide` that are here do not reach, in memory.
    pub fn cut_pack(&self, tips: &[Oid], hide: &[Oid], max_bytes: u64) -> Result<Cut> {
        self.cut(tips, hide, max_bytes, None)
    }

    /// The same; a pack that is longer than `inline_max` goes into a file.
    pub fn cut_long_pack(&self, tips: &[Oid], hide: &[Oid], inline_max: u64, long: &Outgrown) -> Result<Cut> {
        self.cut(tips, hide, inline_max, Some(long))
    }

    fn cut(&self, tips: &[Oid], hide: &[Oid], inline_max: u64, long: Option<&Outgrown>) -> Result<Cut> {
        let objects = Objects { progress: long.map(|long| long.progress.clone()), ..self.objects()? };
        let hide = self.present(&objects, hide);
        pack::Cutting { git_dir: &self.path, objects: &objects, tips, hide: &hide, inline_max }.cut(long)
    }

    /// Brings a pack's objects in: all of them, or none when the pack is not sound.
    pub fn ingest(&self, pack: &[u8]) -> Result<Ingested> {
        ingest::ingest(&self.path, &self.objects()?, pack)
    }

    /// The same, of a pack in a file, which is never held in memory; with `sum`, it must end with that checksum. The
    /// repository may come to share the file's bytes with it: whoever writes it again has to remove it first.
    pub fn ingest_file(&self, pack: &Path, sum: Option<&Oid>) -> Result<Ingested> {
        ingest::ingest_file(&self.path, &self.objects()?, pack, sum)
    }

    /// The first object that `tips` need and that is not here, below those of `hide` that are here. `hide` must hold
    /// values that refs show: only those are complete. What is found is safe from pruning for days.
    pub fn missing(&self, tips: &[Oid], hide: &[Oid]) -> Result<Option<Oid>> {
        let objects = self.objects()?;
        let hide = self.present(&objects, hide);
        let dir = self.path.join("objects");
        let fresh = Freshen::new(&dir);
        let walked = walk(&objects, tips, &hide, &mut |oid, _, data| {
            if data.is_none() && objects.header(&oid).is_none() {
                return Ok(Step::Missing);
            }
            fresh.object(&oid);
            Ok(Step::Go)
        })?;
        match walked {
            Walked::All { .. } => Ok(None),
            Walked::Missing(oid) => Ok(Some(oid)),
            Walked::Stopped => bail!("the connectivity walk stopped although nothing told it to: a bug in refrain"),
        }
    }

    /// Whether the commit behind `old` is an ancestor of the one behind `new`. What is no commit, or not here, is not.
    pub fn is_fast_forward(&self, old: &Oid, new: &Oid) -> Result<bool> {
        let objects = self.objects()?;
        let peel = |oid: &Oid| {
            let mut oid = *oid;
            while let Some((gix::objs::Kind::Tag, _)) = objects.header(&oid) {
                oid = parse_tag(&objects.read(&oid)?.1)?;
            }
            Some(oid)
        };
        let (Some(old), Some(new)) = (peel(old), peel(new)) else { return Ok(false) };
        let commit = |oid| matches!(objects.header(&oid), Some((gix::objs::Kind::Commit, _)));
        Ok(commit(old) && commit(new) && is_ancestor(&objects, old, new).unwrap_or(false))
    }

    /// Whether the object is here and can be read.
    pub fn has(&self, oid: &Oid) -> bool {
        self.objects().is_ok_and(|objects| objects.header(oid).is_some())
    }

    /// Compares and sets each ref; see [`SetOutcome`]. With `atomic`, all or none, except that what was done stays done
    /// when the disk fails after all locks were taken, or when a name that a deletion made way for cannot be locked.
    pub fn set_refs(&self, edits: &[RefEdit], atomic: bool) -> Vec<SetOutcome> {
        Refs { git_dir: &self.path }.set(edits, atomic)
    }

    /// A ref's own value, unpeeled. A symbolic ref has none.
    pub fn read_ref(&self, name: &str) -> Result<Option<Oid>> {
        Refs { git_dir: &self.path }.read(name)
    }

    /// All refs with their unpeeled values, but HEAD, symbolic refs, and those below `refs/refrain/`.
    pub fn refs(&self) -> Result<std::collections::BTreeMap<String, Oid>> {
        Refs { git_dir: &self.path }.all()
    }

    /// All refs below `dir`, as in `refs/refrain/keep`.
    pub fn refs_below(&self, dir: &str) -> Result<std::collections::BTreeMap<String, Oid>> {
        Refs { git_dir: &self.path }.below(dir)
    }

    /// Takes away the locks of refs that could not be set, if whoever took them must be dead.
    pub fn release_locks(&self, names: &[&str]) {
        sweep::release(&self.path, names);
    }

    /// The full name of the ref that HEAD names; the ref need not exist.
    pub fn head(&self) -> Result<String> {
        Refs { git_dir: &self.path }.head()
    }

    /// Points HEAD at `target`, a full ref name.
    pub fn set_head(&self, target: &str) -> Result<()> {
        Refs { git_dir: &self.path }.set_head(target)
    }

    /// Takes away what dead processes left behind; says what, a sentence each. To be called before the site serves.
    pub fn sweep(&self) -> Result<Vec<String>> {
        sweep::sweep(&self.path)
    }
}

fn build(dir: &Path, head: &str) -> Result<()> {
    for sub in ["objects/info", "objects/pack", "refs/heads", "refs/tags", "hooks", "info"] {
        fs::create_dir_all(dir.join(sub))?;
    }
    fs::write(dir.join("HEAD"), format!("ref: {head}\n"))?;
    let mut config = String::from("[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = true\n");
    for setting in &SETTINGS {
        let (section, name) = setting.key.split_once('.').expect("settings are section.name");
        config.push_str(&format!("[{section}]\n\t{name} = {}\n", setting.value));
    }
    fs::write(dir.join("config"), config)?;
    Ok(())
}

impl Store {
    /// Gives an adopted repository the settings of a created one.
    pub fn configure(&self) -> Result<()> {
        settings::configure(&self.path)
    }
}
