//! Sets and maps of objects: the largest things a run keeps. An id is random already, so its first bytes are its hash;
//! the order of such a map is the same in every process.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};

use refrain_core::ids::Oid;

/// A set of objects.
pub type OidSet = HashSet<Oid, BuildHasherDefault<FirstBytes>>;
/// Something for each of many objects.
pub type OidMap<V> = HashMap<Oid, V, BuildHasherDefault<FirstBytes>>;

/// The hash of an id: its first bytes, mixed so that small test ids spread too.
#[derive(Clone, Copy, Debug, Default)]
pub struct FirstBytes(u64);

impl Hasher for FirstBytes {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        let first = bytes.first_chunk().map_or(bytes.len() as u64, |first| u64::from_be_bytes(*first));
        self.0 = (self.0 ^ first).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    /// The length of an id says nothing.
    fn write_usize(&mut self, _: usize) {}
}
