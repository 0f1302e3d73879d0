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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repositories_stay_in_the_partitions_that_they_always_were_in() {
        let golden =
            [("demo", 0, 208), ("a/b/c", 7, 95), ("A.b_c-1", 7, 631), ("1/2/3/4/5/6/7/8", 2, 594), ("linux", 5, 653)];
        for (name, of_8, of_1024) in golden {
            let repo = RepoName::parse(name).expect("valid");
            assert_eq!((partition_of(&repo, 8).0, partition_of(&repo, 1_024).0), (of_8, of_1024), "{name}");
            assert_eq!(partition_of(&repo, 1), Partition(0));
        }
    }
}
