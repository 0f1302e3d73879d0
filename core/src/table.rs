//! The tables of the fold: what each name holds, as of the fold's position.
//!
//! Owns keys, entries, their digest, and the [`Cache`] of what is in flight: entries changed since the last journal
//! commit and entries read for a record that waits. Every question is a point read, directories included (they count
//! the refs below them), so memory is bounded by what is in flight, never by how many refs there are.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::hash::Hasher;

use serde::{Deserialize, Serialize};
use siphasher::sip128::{Hasher128, SipHasher24};

use crate::ids::{Digest, Incarnation, Offset, Oid};
use crate::names::{RefName, RepoName, SiteId};
use crate::record::Visibility;
use crate::settings::Settings;

/// A place in a partition's tables. Refs hang on the incarnation, so a repository created again begins empty.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum TableKey {
    /// A repository's own entry.
    Repo(RepoName),
    /// A ref.
    Ref(Incarnation, RefName),
    /// A directory of refs, as in `refs/heads/a` when `refs/heads/a/b` exists.
    Dir(Incarnation, Arc<str>),
}

/// What a place holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TableEntry {
    /// For [`TableKey::Repo`].
    Repo(RepoEntry),
    /// For [`TableKey::Ref`].
    Ref(RefEntry),
    /// For [`TableKey::Dir`]: how many refs lie below it, never 0.
    Dir(u32),
}

/// A repository that exists.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepoEntry {
    /// Offset of its `RepoCreated`.
    pub incarnation: Incarnation,
    /// What HEAD points to.
    pub head: RefName,
    /// One line for people.
    pub description: String,
    /// Refuse deletions.
    pub deny_deletes: bool,
    /// Refuse updates that are no fast-forward.
    pub deny_non_fast_forwards: bool,
    /// Refuse every push, with this reason.
    pub read_only: Option<String>,
    /// When its refs are shown.
    pub visibility: Visibility,
    /// Git settings; no verdict reads them.
    #[serde(default, skip_serializing_if = "Settings::is_empty")]
    pub git: Settings,
    /// Sum of its refs' hashes.
    pub refs_digest: Digest,
    /// How many refs it has.
    pub refs: u64,
    /// Names set last, newest first, for cutting packs. No verdict reads it and no digest covers it.
    pub recent: Vec<RefName>,
}

/// A ref that exists.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefEntry {
    /// Its value.
    pub value: Oid,
    /// Where it was set; for messages, not for the compare.
    pub since: Offset,
    /// The log's clock when it was set, in milliseconds since 1970; for messages.
    pub time_ms: u64,
    /// The site it was pushed at.
    pub site: SiteId,
}

impl TableKey {
    /// The entry's share of the partition's digest. A repository's entry contains its refs' sum, so refs are covered
    /// through it; directories follow from refs.
    pub fn hash_repo(key: Digest, name: &RepoName, entry: &RepoEntry) -> Digest {
        let mut hasher = keyed(key);
        text(&mut hasher, name.as_str());
        hasher.write_u64(entry.incarnation.0);
        text(&mut hasher, entry.head.as_str());
        hasher.write_u8(u8::from(entry.deny_deletes) | u8::from(entry.deny_non_fast_forwards) << 1);
        text(&mut hasher, entry.read_only.as_deref().unwrap_or(""));
        hasher.write_u8(entry.visibility as u8);
        hasher.write(&entry.refs_digest.0.to_le_bytes());
        entry.git.iter().flat_map(|(key, value)| [key, value]).for_each(|it| text(&mut hasher, it));
        Digest(hasher.finish128().as_u128())
    }

    /// A ref's share of its repository's sum.
    pub fn hash_ref(key: Digest, name: &RefName, value: &Oid) -> Digest {
        let mut hasher = keyed(key);
        text(&mut hasher, name.as_str());
        hasher.write(&value.0);
        Digest(hasher.finish128().as_u128())
    }
}

fn keyed(key: Digest) -> SipHasher24 {
    SipHasher24::new_with_key(&key.0.to_le_bytes())
}

fn text(hasher: &mut SipHasher24, value: &str) {
    hasher.write_u64(value.len() as u64);
    hasher.write(value.as_bytes());
}

/// Entries in flight over a table that lives in the journal.
#[derive(Debug, Default)]
pub struct Cache {
    slots: BTreeMap<TableKey, Slot>,
    /// Keys of reads under way, with how many; such a slot stays, lest a late answer bring back an old value.
    reading: BTreeMap<TableKey, u32>,
    /// Commit that will carry the changes made now.
    round: u64,
    /// Changes that the journal is not known to hold.
    unsaved: usize,
}

#[derive(Debug)]
struct Slot {
    entry: Option<TableEntry>,
    /// The commit that carries this change; `None` if the journal holds it.
    dirty: Option<u64>,
}

impl Cache {
    /// The keys that are not here.
    pub fn missing(&self, keys: &BTreeSet<TableKey>) -> Vec<TableKey> {
        keys.iter().filter(|key| !self.slots.contains_key(key)).cloned().collect()
    }

    /// A read of `keys` goes out.
    pub fn read_started(&mut self, keys: &[TableKey]) {
        for key in keys {
            *self.reading.entry(key.clone()).or_insert(0) += 1;
        }
    }

    /// A read came back. What changed here meanwhile is newer than the answer and stays.
    pub fn read_done(&mut self, entries: Vec<(TableKey, Option<TableEntry>)>) {
        for (key, entry) in entries {
            if let Some(count) = self.reading.get_mut(&key) {
                *count -= 1;
                if *count == 0 {
                    self.reading.remove(&key);
                }
            }
            self.slots.entry(key).or_insert(Slot { entry, dirty: None });
        }
    }

    /// Whether all of `keys` can be asked for.
    pub fn has(&self, keys: &BTreeSet<TableKey>) -> bool {
        keys.iter().all(|key| self.slots.contains_key(key))
    }

    /// What `key` holds.
    ///
    /// # Panics
    /// If the key was not read: a verdict on a guess would differ between sites.
    pub fn get(&self, key: &TableKey) -> Option<&TableEntry> {
        self.slots.get(key).expect("every key of a judged record was read before").entry.as_ref()
    }

    /// What a repository's entry holds.
    pub fn repo(&self, name: &RepoName) -> Option<&RepoEntry> {
        match self.get(&TableKey::Repo(name.clone())) {
            Some(TableEntry::Repo(entry)) => Some(entry),
            _ => None,
        }
    }

    /// What a ref holds.
    pub fn reference(&self, incarnation: Incarnation, name: &RefName) -> Option<&RefEntry> {
        match self.get(&TableKey::Ref(incarnation, name.clone())) {
            Some(TableEntry::Ref(entry)) => Some(entry),
            _ => None,
        }
    }

    /// How many refs lie below a directory.
    pub fn below(&self, incarnation: Incarnation, dir: &str) -> u32 {
        match self.get(&TableKey::Dir(incarnation, Arc::from(dir))) {
            Some(TableEntry::Dir(count)) => *count,
            _ => 0,
        }
    }

    /// Changes an entry.
    pub fn set(&mut self, key: TableKey, entry: Option<TableEntry>) {
        let former = self.slots.insert(key, Slot { entry, dirty: Some(self.round) });
        self.unsaved += usize::from(former.is_none_or(|slot| slot.dirty.is_none()));
    }

    /// The changes that no commit carries yet, and the round to confirm them by.
    pub fn commit(&mut self) -> (u64, Vec<(TableKey, Option<TableEntry>)>) {
        let round = self.round;
        self.round += 1;
        let changed = self.slots.iter().filter(|(_, slot)| slot.dirty == Some(round));
        (round, changed.map(|(key, slot)| (key.clone(), slot.entry.clone())).collect())
    }

    /// The journal holds `round` and all before it.
    pub fn committed(&mut self, round: u64) {
        for slot in self.slots.values_mut() {
            if slot.dirty.is_some_and(|dirty| dirty <= round) {
                slot.dirty = None;
                self.unsaved -= 1;
            }
        }
    }

    /// Forgets what the journal holds and nobody waits for.
    pub fn evict(&mut self, wanted: &BTreeSet<TableKey>) {
        let reading = &self.reading;
        self.slots.retain(|key, slot| slot.dirty.is_some() || reading.contains_key(key) || wanted.contains(key));
    }

    /// Repositories that were changed and are not known to be in the journal, with their life; `None`: gone.
    pub fn unsaved_lives(&self) -> BTreeMap<RepoName, Option<Incarnation>> {
        let unsaved = self.slots.iter().filter(|(_, slot)| slot.dirty.is_some());
        unsaved
            .filter_map(|(key, slot)| match (key, &slot.entry) {
                (TableKey::Repo(name), Some(TableEntry::Repo(entry))) => Some((name.clone(), Some(entry.incarnation))),
                (TableKey::Repo(name), _) => Some((name.clone(), None)),
                _ => None,
            })
            .collect()
    }

    /// Refs of a life, likewise.
    pub fn unsaved_refs(&self, life: Incarnation) -> BTreeSet<RefName> {
        let unsaved = self.slots.iter().filter(|(_, slot)| slot.dirty.is_some());
        unsaved
            .filter_map(|(key, _)| match key {
                TableKey::Ref(of, name) if *of == life => Some(name.clone()),
                _ => None,
            })
            .collect()
    }

    /// Changes that the journal is not known to hold.
    pub fn unsaved(&self) -> usize {
        self.unsaved
    }

    /// Entries held in memory.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;

    fn saved(cache: &mut Cache) {
        let (round, _) = cache.commit();
        cache.committed(round);
        cache.evict(&BTreeSet::new());
    }

    /// Changes one thing of a repository.
    type Touch = fn(&mut RepoEntry);

    #[test]
    fn the_hash_of_a_repository_covers_all_that_verdicts_read() {
        let name = |text: &str| RefName::parse(text).expect("valid");
        let demo = RepoName::parse("demo").expect("valid");
        let entry = RepoEntry {
            incarnation: Incarnation(3),
            head: name("refs/heads/main"),
            description: String::new(),
            deny_deletes: false,
            deny_non_fast_forwards: false,
            read_only: None,
            visibility: Visibility::Applied,
            git: Settings::new(),
            refs_digest: Digest(5),
            refs: 1,
            recent: vec![],
        };
        let touches: [Touch; 8] = [
            |it| it.incarnation = Incarnation(4),
            |it| it.head = RefName::parse("refs/heads/b").expect("valid"),
            |it| it.deny_deletes = true,
            |it| it.deny_non_fast_forwards = true,
            |it| it.read_only = Some(String::from("moving")),
            |it| it.visibility = Visibility::Replicated,
            |it| it.refs_digest = Digest(6),
            |it| it.git = [(String::from("gitweb.owner"), String::from("ada"))].into(),
        ];
        let mut hashes = vec![TableKey::hash_repo(Digest(1), &demo, &entry)];
        hashes.push(TableKey::hash_repo(Digest(2), &demo, &entry));
        hashes.push(TableKey::hash_repo(Digest(1), &RepoName::parse("other").expect("valid"), &entry));
        for touch in touches {
            let mut touched = entry.clone();
            touch(&mut touched);
            hashes.push(TableKey::hash_repo(Digest(1), &demo, &touched));
        }
        for (at, hash) in hashes.iter().enumerate() {
            assert!(!hashes[..at].contains(hash), "{at}");
        }
    }

    #[test]
    fn an_answer_that_was_asked_for_before_a_change_brings_no_old_value_back() {
        let key = TableKey::Dir(Incarnation(1), Arc::from("refs/heads/a"));
        let mut cache = Cache::default();
        cache.read_started(core::slice::from_ref(&key));
        cache.read_started(core::slice::from_ref(&key));
        cache.set(key.clone(), Some(TableEntry::Dir(2)));
        cache.read_done(vec![(key.clone(), Some(TableEntry::Dir(1)))]);
        assert_eq!(cache.get(&key), Some(&TableEntry::Dir(2)), "not saved yet");
        saved(&mut cache);
        assert_eq!(cache.len(), 1, "another answer is on its way");
        cache.read_done(vec![(key.clone(), Some(TableEntry::Dir(1)))]);
        assert_eq!(cache.get(&key), Some(&TableEntry::Dir(2)));
        saved(&mut cache);
        assert!(cache.is_empty());
    }

    #[test]
    fn what_is_changed_twice_is_unsaved_once_and_until_the_last_change_is_saved() {
        let key = TableKey::Dir(Incarnation(1), Arc::from("refs/heads/a"));
        let mut cache = Cache::default();
        cache.set(key.clone(), Some(TableEntry::Dir(1)));
        cache.set(key.clone(), Some(TableEntry::Dir(2)));
        assert_eq!(cache.unsaved(), 1);
        let (round, _) = cache.commit();
        cache.set(key, None);
        cache.committed(round);
        assert_eq!(cache.unsaved(), 1);
        saved(&mut cache);
        assert_eq!(cache.unsaved(), 0);
    }

    #[test]
    fn a_repository_that_is_gone_is_unsaved_until_the_journal_knows() {
        let demo = RepoName::parse("demo").expect("valid");
        let mut cache = Cache::default();
        cache.set(TableKey::Repo(demo.clone()), None);
        assert_eq!(cache.unsaved_lives(), [(demo, None)].into());
        saved(&mut cache);
        assert!(cache.unsaved_lives().is_empty());
    }
}
