//! Cutting packs: a closed set of objects, found by our own walk.
//!
//! Promises a valid version-2 pack, each object once, no delta on an object that is not in it. A short pack is encoded
//! here, without deltas; as soon as it outgrows that, or meets a blob that should not be in memory, only the names are
//! listed and `git pack-objects` writes them to a file. Stops as soon as the pack is larger than allowed.

use std::cell::Cell;
use std::fs::File;
use std::io::{BufWriter, Seek, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use gix::objs::Kind;
use gix::zlib::Compression;
use gix::zlib::stream::deflate::{Compress, FlushCompress};
use refrain_core::ids::Oid;

use super::objects::Objects;
use super::walk::{Step, Walked, walk};
use super::{Cut, OBJECT_MAX, Outgrown, child};

/// zlib cannot shrink data by more than this factor.
const ZLIB_RATIO_MAX: u64 = 1_032;
const HEADER_BYTES: usize = 12;
const TRAILER_BYTES: usize = 20;

/// One pack to be cut. `hide` holds present values only.
pub(super) struct Cutting<'a> {
    pub git_dir: &'a Path,
    pub objects: &'a Objects,
    pub tips: &'a [Oid],
    pub hide: &'a [Oid],
    pub inline_max: u64,
}

/// What the walk fills: the pack itself while it is short, and from then on only the names of its objects.
enum Filling {
    Pack(Encoder, Vec<Oid>),
    Names(Names),
}

/// Why a walk was stopped.
#[derive(Clone, Copy)]
enum Stopped {
    TooLong(u64),
    GivenUp,
}

impl Cutting<'_> {
    /// Walks and encodes. `long`: where a pack goes that becomes longer than `inline_max`; without it, it may not.
    pub fn cut(&self, long: Option<&Outgrown>) -> Result<Cut> {
        let mut filling = Filling::Pack(Encoder::new(), Vec::new());
        let mut stopped = Stopped::GivenUp;
        let walked = walk(self.objects, self.tips, self.hide, &mut |oid, kind, data| {
            let size = match data {
                Some(data) => data.len() as u64,
                None => {
                    let Some((_, size)) = self.objects.header(&oid) else { return Ok(Step::Missing) };
                    size
                }
            };
            if long.is_some_and(|long| long.progress.is_stopped()) {
                return Ok(Step::Stop);
            }
            if let Filling::Pack(pack, names) = &mut filling {
                names.push(oid);
                let fits = data.is_some() || (size <= OBJECT_MAX && size / ZLIB_RATIO_MAX <= self.inline_max);
                if fits {
                    let blob = if data.is_none() { self.objects.read(&oid) } else { None };
                    let Some(data) = data.or(blob.as_ref().map(|(_, data)| &data[..])) else {
                        return Ok(Step::Missing);
                    };
                    pack.add(kind, data)?;
                }
                if fits && pack.size() <= self.inline_max {
                    return Ok(Step::Go);
                }
                let Some(long) = long else {
                    stopped = Stopped::TooLong(pack.size() + if fits { 0 } else { size / ZLIB_RATIO_MAX });
                    return Ok(Step::Stop);
                };
                filling = Filling::Names(Names::begin(&long.file, names)?);
                return Ok(Step::Go);
            }
            if let Filling::Names(names) = &mut filling {
                names.add(&oid)?;
            }
            Ok(Step::Go)
        })?;
        Ok(match (walked, filling) {
            (Walked::Missing(oid), _) => Cut::Missing(oid),
            (Walked::Stopped, _) => match stopped {
                Stopped::TooLong(bytes_at_least) => Cut::TooLarge { bytes_at_least },
                Stopped::GivenUp => bail!("{}", child::GIVEN_UP),
            },
            (Walked::All { used }, Filling::Pack(pack, _)) if pack.objects == 0 => Cut::Empty { used },
            (Walked::All { used }, Filling::Pack(pack, _)) => {
                let objects = pack.objects;
                Cut::Pack { bytes: pack.finish()?, used, objects }
            }
            (Walked::All { used }, Filling::Names(names)) => {
                self.stream(names, used, long.expect("names are only listed with a place for the pack"))?
            }
        })
    }

    /// Has `git pack-objects` write exactly the named objects. It finds deltas among them only: what it reuses from the
    /// store's packs never leans on an object that is not named.
    fn stream(&self, names: Names, used: Vec<Oid>, long: &Outgrown) -> Result<Cut> {
        let (count, names) = names.finish()?;
        // Anew: the old file's bytes may be a repository's by now.
        let _ = std::fs::remove_file(&long.file);
        let open = File::options().read(true).write(true).create_new(true).open(&long.file);
        let file = open.with_context(|| format!("{} could not be created", long.file.display()))?;
        let mut git = child::git(self.git_dir);
        git.args(["pack-objects", "--stdout", "--delta-base-offset", "--threads=1", "--compression=1", "--progress"]);
        let ended = child::watch(git, names.into(), Some((&file, long.max)), &long.progress)?;
        let cut = match ended {
            child::Ended::TooLong(bytes) => Cut::TooLarge { bytes_at_least: bytes },
            child::Ended::Exited(status, said) => {
                ensure!(status.success(), "git pack-objects in {}: {said}", self.git_dir.display());
                self.cut_of(&file, count, used, long.max)?
            }
        };
        if !matches!(cut, Cut::Spooled { .. }) {
            let _ = std::fs::remove_file(&long.file);
        }
        Ok(cut)
    }

    fn cut_of(&self, file: &File, count: u32, used: Vec<Oid>, max: u64) -> Result<Cut> {
        let bytes = file.metadata()?.len();
        let (found, sum) = ends(file)?;
        ensure!(found == count, "git pack-objects wrote {found} objects and should have written {count}");
        if bytes > max {
            return Ok(Cut::TooLarge { bytes_at_least: bytes });
        }
        if bytes > self.inline_max {
            return Ok(Cut::Spooled { bytes, sum, used, objects: count });
        }
        // With deltas it is short after all.
        let mut pack = vec![0; bytes as usize];
        file.read_exact_at(&mut pack, 0)?;
        Ok(Cut::Pack { bytes: pack, used, objects: count })
    }
}

/// How many objects a pack in a file says it has, and the checksum that it ends with. Believes neither.
pub(super) fn ends(file: &File) -> Result<(u32, Oid)> {
    let length = file.metadata()?.len();
    ensure!(length >= (HEADER_BYTES + TRAILER_BYTES) as u64, "{length} bytes are no pack");
    let (mut head, mut tail) = ([0; HEADER_BYTES], [0; TRAILER_BYTES]);
    file.read_exact_at(&mut head, 0)?;
    file.read_exact_at(&mut tail, length - TRAILER_BYTES as u64)?;
    ensure!(head[..8] == *b"PACK\0\0\0\x02", "it does not start with the header of a version-2 pack");
    Ok((u32::from_be_bytes(head[8..].try_into().expect("four bytes")), Oid(tail)))
}

/// The names of a pack's objects, in a file that nobody else sees: there may be millions.
struct Names {
    list: BufWriter<File>,
    count: u32,
}

impl Names {
    /// Beside `file`.
    fn begin(file: &Path, first: &[Oid]) -> Result<Names> {
        let dir = file.parent().context("a spool is in a directory")?;
        let list = tempfile::tempfile_in(dir).with_context(|| format!("cannot create a file in {}", dir.display()))?;
        let mut names = Names { list: BufWriter::new(list), count: 0 };
        first.iter().try_for_each(|oid| names.add(oid))?;
        Ok(names)
    }

    fn add(&mut self, oid: &Oid) -> Result<()> {
        self.count = self.count.checked_add(1).context("a pack holds less than 4,294,967,296 objects")?;
        writeln!(self.list, "{oid}").context("the names of a pack's objects cannot be written; check free space")
    }

    fn finish(self) -> Result<(u32, File)> {
        let mut list = self.list.into_inner().context("the names of a pack's objects cannot be written")?;
        list.rewind()?;
        Ok((self.count, list))
    }
}

/// A pack under construction.
pub(super) struct Encoder {
    bytes: Vec<u8>,
    objects: u32,
    deflate: Deflate,
}

impl Encoder {
    pub fn new() -> Self {
        let mut bytes = b"PACK\0\0\0\x02".to_vec();
        bytes.extend_from_slice(&[0; 4]);
        Self { bytes, objects: 0, deflate: Deflate::new() }
    }

    fn size(&self) -> u64 {
        (self.bytes.len() + TRAILER_BYTES) as u64
    }

    pub fn add(&mut self, kind: Kind, data: &[u8]) -> Result<()> {
        let code: u8 = match kind {
            Kind::Commit => 1,
            Kind::Tree => 2,
            Kind::Blob => 3,
            Kind::Tag => 4,
        };
        let mut size = data.len();
        let mut byte = code << 4 | (size & 0x0f) as u8;
        size >>= 4;
        while size > 0 {
            self.bytes.push(byte | 0x80);
            byte = (size & 0x7f) as u8;
            size >>= 7;
        }
        self.bytes.push(byte);
        self.deflate.append(data, &mut self.bytes)?;
        self.objects += 1;
        Ok(())
    }

    pub fn finish(mut self) -> Result<Vec<u8>> {
        self.bytes[HEADER_BYTES - 4..HEADER_BYTES].copy_from_slice(&self.objects.to_be_bytes());
        let sum = sha1(&self.bytes)?;
        self.bytes.extend_from_slice(&sum.0);
        Ok(self.bytes)
    }
}

pub(super) fn sha1(bytes: &[u8]) -> Result<Oid> {
    let mut hasher = gix::hash::hasher(gix::hash::Kind::Sha1);
    hasher.update(bytes);
    let id = hasher.try_finalize()?;
    Ok(super::objects::from_gix(&id))
}

/// A zlib compressor that its thread uses again and again: making one costs more than a small pack.
pub(super) struct Deflate {
    /// `None` only while it is given back.
    compress: Option<Compress>,
    chunk: Vec<u8>,
}

thread_local! {
    static SPARE: Cell<Option<Compress>> = const { Cell::new(None) };
}

impl Drop for Deflate {
    fn drop(&mut self) {
        let compress = self.compress.take();
        let _ = SPARE.try_with(|spare| spare.set(compress));
    }
}

impl Deflate {
    pub fn new() -> Self {
        let compress = SPARE.take().unwrap_or_else(|| Compress::new(Compression::BEST_SPEED));
        Self { compress: Some(compress), chunk: vec![0; 4 * 1024] }
    }

    /// Appends `data` as one zlib stream.
    pub fn append(&mut self, data: &[u8], out: &mut Vec<u8>) -> Result<()> {
        self.append_parts(&[data], out)
    }

    /// Appends the concatenation of `parts` as one zlib stream.
    pub fn append_parts(&mut self, parts: &[&[u8]], out: &mut Vec<u8>) -> Result<()> {
        self.compress.as_mut().expect("only its drop takes it away").reset();
        for (number, part) in parts.iter().enumerate() {
            let last = number + 1 == parts.len();
            self.feed(part, if last { FlushCompress::Finish } else { FlushCompress::None }, out)?;
        }
        Ok(())
    }

    fn feed(&mut self, mut data: &[u8], flush: FlushCompress, out: &mut Vec<u8>) -> Result<()> {
        let finish = matches!(flush, FlushCompress::Finish);
        loop {
            let compress = self.compress.as_mut().expect("only its drop takes it away");
            let (before_in, before_out) = (compress.total_in(), compress.total_out());
            let status = compress.compress(data, &mut self.chunk, flush)?;
            let taken = (compress.total_in() - before_in) as usize;
            let written = (compress.total_out() - before_out) as usize;
            out.extend_from_slice(&self.chunk[..written]);
            data = &data[taken..];
            let ended = matches!(status, gix::zlib::Status::StreamEnd);
            if ended || (!finish && data.is_empty() && written < self.chunk.len()) {
                return Ok(());
            }
        }
    }
}
