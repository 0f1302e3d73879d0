//! Which partition a repository's records go to: frozen when the log is opened.

use core::hash::Hasher;

use siphasher::sip::SipHasher24;

use crate::ids::Partition;
use crate::names::RepoName;

/// The only mapping so far, as `LogOpened` names it: SipHash-2-4 with a zero key, modulo the number of partitions.
pub const HASH: &str = "siphash24";

/// The partition of `repo` in a log of `partitions` partitions (at least 1).
pub fn partition_of(repo: &RepoName, partitions: u32) -> Partition {
    let mut hasher = SipHasher24::new_with_key(&[0; 16]);
    hasher.write(repo.as_str().as_bytes());
    Partition((hasher.finish() % u64::from(partitions)) as u32)
}
