//! Who may speak: opening, starts, sequences, membership.

use crate::ids::{Epoch, Seq};
use crate::mutant::Mutant;
use crate::names::SiteId;
use crate::placement::Map;
use crate::record::{Body, LogOpened, MemberState, Record, SiteChanged};

use super::{Fold, Members, Speaker, Void};

impl Fold {
    /// Whether a record counts at all. Does not look at what it is about.
    pub(super) fn admit(&self, record: &Record) -> Result<(), Void> {
        let header = &record.header;
        match (&record.body, &self.control.opened) {
            (Body::LogOpened(_), Some(_)) => return Err(Void::AlreadyOpened),
            (Body::LogOpened(_), None) => return Ok(()),
            (_, None) => return Err(Void::NotOpened),
            _ => {}
        }
        let state = self.control.members.table.get(&header.site);
        let evicted = state == Some(&MemberState::Evicted);
        let speaker = self.control.speakers.get(&header.site);
        if let Body::SiteStarted(started) = &record.body {
            if state.is_none() || (evicted && !self.mutants.on(Mutant::EvictedMayStart)) {
                return Err(Void::NotAMember);
            }
            if started.rules < self.control.rules {
                return Err(Void::OldRules);
            }
            let last = speaker.map_or(Epoch(0), |speaker| speaker.epoch).max(self.ended(&header.site));
            let equal_is_fine = self.mutants.on(Mutant::EqualEpoch);
            if header.epoch < last || (header.epoch == last && !equal_is_fine) {
                return Err(Void::OldEpoch);
            }
            return Ok(());
        }
        if state.is_none() || evicted {
            return Err(Void::NotAMember);
        }
        let ended = self.ended(&header.site);
        let in_force = speaker.filter(|speaker| {
            let same = speaker.epoch == header.epoch && speaker.instance == header.instance;
            same && (speaker.epoch > ended || self.mutants.on(Mutant::ReadmittedSpeaks))
        });
        let Some(speaker) = in_force else { return Err(Void::NotInForce) };
        if header.seq <= speaker.seq && !self.mutants.on(Mutant::SequenceIgnored) {
            return Err(Void::OldSequence);
        }
        if !self.is_home(record) && !self.mutants.on(Mutant::HomeIgnored) {
            return Err(Void::WrongPartition);
        }
        Ok(())
    }

    /// A repository lives in one partition. A record of it elsewhere must not count: it would begin a second life
    /// there, and spend a sequence number that the first still needs.
    fn is_home(&self, record: &Record) -> bool {
        let (Some(repo), Some(opened)) = (&record.header.repo, &self.control.opened) else { return true };
        let hash_alone = Map::default();
        let map = if self.mutants.on(Mutant::MapIgnored) { &hash_alone } else { &opened.map };
        map.partition_of(repo, opened.partitions.max(1)) == self.control.partition
    }

    fn ended(&self, site: &SiteId) -> Epoch {
        self.control.members.ended_of(site)
    }

    pub(super) fn seq_of(&self, site: &SiteId) -> Option<Seq> {
        self.control.speakers.get(site).map(|speaker| speaker.seq)
    }

    pub(super) fn spend(&mut self, record: &Record) {
        let speaks = !matches!(record.body, Body::LogOpened(_) | Body::SiteStarted(_));
        if let Some(speaker) = self.control.speakers.get_mut(&record.header.site).filter(|_| speaks) {
            speaker.seq = speaker.seq.max(record.header.seq);
        }
    }

    pub(super) fn open(&mut self, opened: &LogOpened) {
        self.control.members = Members {
            version: 0,
            table: opened.members.iter().map(|site| (site.clone(), MemberState::Active)).collect(),
            ended: Default::default(),
        };
        self.control.rules = opened.rules;
        self.control.opened = Some(opened.clone());
    }

    pub(super) fn start(&mut self, record: &Record, rules: u32) {
        let header = &record.header;
        let speaker = Speaker { epoch: header.epoch, instance: header.instance, seq: Seq(0), rules };
        self.control.speakers.insert(header.site.clone(), speaker);
    }

    /// Counts only when every member that may speak has said that it knows them, so that no daemon meets rules that it
    /// does not know while it speaks.
    pub(super) fn raise(&mut self, rules: u32) -> Result<(), Void> {
        let control = &self.control;
        let may_speak = control.members.table.iter().filter(|(_, state)| **state != MemberState::Evicted);
        let knows = |site: &SiteId| control.speakers.get(site).is_some_and(|speaker| speaker.rules >= rules);
        if rules != control.rules + 1 || !may_speak.map(|(site, _)| site).all(knows) {
            return Err(Void::BadRules);
        }
        self.control.rules = rules;
        Ok(())
    }

    /// Partition 0 decides, one version after the other; the other partitions follow its copies, which may skip some.
    pub(super) fn change(&mut self, changed: &SiteChanged, speaker: &SiteId) -> Result<(), Void> {
        let members = &self.control.members;
        let decides = self.control.partition.0 == 0;
        // Partition 0's own record, copied here byte for byte, does not say whose force has ended meanwhile.
        let told = |site: &SiteId| changed.ended.contains_key(site);
        if !decides && !changed.members.keys().all(told) {
            return Err(Void::BadMembership);
        }
        if decides {
            let next = changed.version == members.version + 1;
            let legal = members.table.keys().all(|site| changed.members.contains_key(site))
                && changed.members.iter().all(|(site, to)| legal_step(members.table.get(site), *to, site, speaker));
            if !next || !legal {
                return Err(Void::BadMembership);
            }
        } else if changed.version <= members.version {
            if !self.mutants.on(Mutant::MembersMerged) {
                return Err(Void::BadMembership);
            }
            self.control.members.table.extend(changed.members.clone());
            return Ok(());
        }
        let mut ended = if decides { members.ended.clone() } else { changed.ended.clone() };
        ended.retain(|_, epoch| epoch.0 > 0);
        if decides {
            for (site, state) in &changed.members {
                // An eviction ends the instance for ever, so the epoch in force at this very offset is what it ends.
                if *state == MemberState::Evicted
                    && let Some(speaker) = self.control.speakers.get(site)
                {
                    ended.insert(site.clone(), speaker.epoch);
                }
            }
        }
        self.control.members = Members { version: changed.version, table: changed.members.clone(), ended };
        Ok(())
    }
}

/// A site enters as joining; only another member lets an evicted one join again.
fn legal_step(from: Option<&MemberState>, to: MemberState, site: &SiteId, speaker: &SiteId) -> bool {
    match from {
        Some(from) if *from == to => true,
        None => to == MemberState::Joining,
        Some(MemberState::Evicted) => to == MemberState::Joining && site != speaker,
        Some(MemberState::Joining | MemberState::Active | MemberState::Draining) => true,
    }
}
