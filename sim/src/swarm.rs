//! A run's plan, drawn whole before it begins: the cluster, the workload, and each fault with its time and place.

use refrain_core::config::{Ack, Limits, RefDb};
use refrain_core::mutant::Mutant;
use refrain_core::placement::Map;
use refrain_core::rng::Rng;

use crate::dice::Dice;
use crate::fault::{Kind, Strike};
use crate::scenario::{Scenario, ScriptedPush};

/// A second in microseconds.
pub const SECOND: u64 = 1_000_000;

/// Everything about a run that chance decides beforehand.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Where it comes from.
    pub seed: u128,
    /// Their names.
    pub sites: Vec<String>,
    /// Per site: one way to the log, in microseconds.
    pub latency: Vec<u64>,
    /// Repositories; true: replicated visibility.
    pub repos: Vec<bool>,
    /// So many of `sites`, from the first one on, are the first members.
    pub first_members: usize,
    /// Partitions of the log.
    pub partitions: u32,
    /// Operators change Git settings, too.
    pub git_settings: bool,
    /// Which repositories go to which of them.
    pub map: Map,
    /// When faults stop and clients push no more, in virtual microseconds.
    pub calm_at: u64,
    /// How long after that everything may take to converge.
    pub patience: u64,
    /// People who push.
    pub clients: usize,
    /// Mean time between two pushes of one of them.
    pub every: u64,
    /// Pushes that the run offers at least, if people can have it so.
    pub least_pushes: u64,
    /// Faults, by time.
    pub strikes: Vec<Strike>,
    /// Operators' doings, by time.
    pub chores: Vec<(u64, Chore)>,
    /// Per site.
    pub acks: Vec<Ack>,
    /// Longest inline pack, in bytes.
    pub inline_max: u64,
    /// Longest pack in `packdata`, in bytes.
    pub pack_max: u64,
    /// Length of its chunks.
    pub chunk_bytes: u64,
    /// How long a site waits for the others before it shows what is staged, in microseconds.
    pub flip: u64,
    /// Garbage younger than this is never collected, in microseconds.
    pub prune: u64,
    /// Who decides.
    pub refdb: RefDb,
    /// How much a site has under way at once.
    pub limits: Limits,
    /// A known bug.
    pub mutant: Option<Mutant>,
    /// Workload features that are off.
    pub without: Vec<String>,
    /// Kinds of pushes that come often.
    pub often: Vec<String>,
    /// Pushes at fixed times, beside or instead of the drawn ones.
    pub script: Vec<ScriptedPush>,
}

/// What an operator does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chore {
    /// Changes a repository's configuration, and back after a while.
    Configure {
        /// Which repository.
        repo: usize,
        /// What.
        dice: u64,
    },
    /// Deletes a repository and creates it again.
    Recreate {
        /// Which.
        repo: usize,
        /// How long it is gone.
        gone_for: u64,
    },
    /// Drains or evicts a site and takes it back.
    Member {
        /// Which site.
        site: usize,
        /// Evicted, or only drained.
        evict: bool,
        /// For how long.
        out_for: u64,
    },
    /// Takes in a site that was no member.
    Join {
        /// Which site.
        site: usize,
        /// It is switched on now, with an empty disk; else it ran from the beginning and was heard by nobody.
        boots: bool,
        /// How long it is joining before the others wait for it.
        joins_for: u64,
    },
}

/// Sites' names where a scenario gives none.
pub(crate) const NAMES: [&str; 9] = ["ams", "sfo", "syd", "nrt", "gru", "iad", "lhr", "cpt", "yyz"];

impl Plan {
    /// The plan of `scenario` under `seed`.
    pub fn draw(scenario: &Scenario, seed: u128, mutant: Option<Mutant>) -> Plan {
        let root = Rng::new(seed);
        let mut rng = root.fork("topology");
        let sites = scenario.names_of_sites();
        let count = sites.len();
        let calm_at = scenario.seconds * SECOND;
        let mut faults = root.fork("faults");
        let mut strikes = draw_strikes(scenario, &mut faults, count, calm_at);
        strikes.extend(scenario.strikes(&sites));
        let chores = draw_chores(scenario, &mut root.fork("chores"), count, calm_at);
        strikes.extend(deafen(&strikes, &chores, &mut faults));
        strikes.extend(lose_while_apart(&strikes, &mut faults, count));
        let disks_last = strikes.iter().all(|strike| strike.kind != Kind::DiskLost);
        strikes.retain(|strike| disks_last || strike.kind != Kind::PackdataExpired);
        strikes.sort_by_key(|strike| strike.at);
        let large = scenario.is_on("large");
        let sizes = draw_sizes(large, &mut root.fork("sizes"));
        let latency = (0..count).map(|_| rng.range(200, 60_000)).collect();
        let replicated = |rng: &mut Rng| rng.percent(scenario.replicated_percent) && scenario.is_on("replicated");
        let repos = (0..scenario.repos).map(|_| replicated(&mut rng)).collect();
        let partitions = rng.range(u64::from(scenario.partitions.0), u64::from(scenario.partitions.1)) as u32;
        let map = if scenario.is_on("map") { scenario.map.clone() } else { Map::default() };
        Plan {
            seed,
            latency,
            repos,
            first_members: count - scenario.late,
            map,
            partitions,
            calm_at,
            patience: 10 * 60 * SECOND,
            clients: scenario.clients,
            every: scenario.every_seconds * SECOND,
            least_pushes: scenario.least_pushes,
            chores,
            acks: (0..count).map(|_| draw_ack(scenario, &mut rng, count)).collect(),
            inline_max: sizes.0,
            pack_max: sizes.1,
            chunk_bytes: sizes.2,
            flip: scenario.flip_seconds * SECOND,
            // A collection that comes at half of a run finds something that is old enough.
            prune: scenario.prune_seconds.unwrap_or((scenario.seconds / 5).min(600)) * SECOND,
            git_settings: scenario.git_settings && scenario.is_on("git-settings"),
            refdb: if scenario.refdb_none { RefDb::None } else { RefDb::Log },
            limits: draw_limits(scenario.narrow, &mut root.fork("limits")),
            mutant,
            without: scenario.without.clone(),
            often: scenario.often.clone(),
            script: scenario.push.clone(),
            sites,
            strikes,
        }
    }

    /// A workload feature is on.
    pub fn is_on(&self, feature: &str) -> bool {
        !self.without.iter().any(|off| off == feature)
    }
}

/// How long packs may be: most runs have all of them in their records, some have many in `packdata`, some refuse the
/// longest.
fn draw_sizes(large: bool, rng: &mut Rng) -> (u64, u64, u64) {
    let (drawn, inline_max, chunk_bytes) = (rng.below(10), 20 * rng.range(1, 8), 10 * rng.range(2, 12));
    match drawn {
        _ if !large => (256 * 1024, 1 << 30, 512 * 1024),
        0..=2 => (inline_max, 1 << 20, chunk_bytes),
        3 => (inline_max, 40 * rng.range(60, 140), chunk_bytes),
        4 => (40 * rng.range(20, 60), 0, chunk_bytes),
        _ => (256 * 1024, 1 << 30, 512 * 1024),
    }
}

/// Production's, or such as a run of some hundred pushes meets: a page of two refs, a read of three records.
fn draw_limits(narrow: bool, rng: &mut Rng) -> Limits {
    if !narrow {
        return Limits::PRODUCTION;
    }
    let mut up_to = |most: u64| rng.range(1, most) as usize;
    Limits {
        read_records: up_to(12),
        pushes: 1 + up_to(8),
        appends: up_to(4),
        unproved: 2 + up_to(12),
        unshown: 40 + up_to(120),
        exceptions: up_to(6),
        staging: up_to(2),
        chunks: up_to(3),
        packs_held: up_to(2_000),
        cached: up_to(16),
        unsaved: up_to(40),
        audit_batch: up_to(2),
        audit_page: up_to(6),
        candidates: up_to(2),
        published: up_to(8),
        receiving: up_to(2),
    }
}

/// A site that is put out does not always hear of it: where one-way cuts are on, some go with an eviction.
fn deafen(strikes: &[Strike], chores: &[(u64, Chore)], rng: &mut Rng) -> Vec<Strike> {
    let mut rng = rng.fork("deafen");
    let mut more = Vec::new();
    for (at, chore) in chores {
        let Chore::Member { site, evict: true, out_for } = chore else { continue };
        if strikes.iter().any(|strike| strike.kind == Kind::OneWay) && rng.percent(60) {
            let at = at.saturating_sub(rng.below(SECOND));
            let lasts = out_for + rng.range(5, 40) * SECOND;
            // Direction 1: from the log to the site.
            more.push(Strike { at, kind: Kind::OneWay, host: *site, lasts, dice: 1 });
        }
    }
    more
}

/// Disks are sometimes lost while another site is cut off, which is when the others must not believe what the dead disk
/// had reported: where partitions are on, some go with the loss and end soon after it.
fn lose_while_apart(strikes: &[Strike], rng: &mut Rng, sites: usize) -> Vec<Strike> {
    let mut rng = rng.fork("lose-while-apart");
    let on = sites > 2 && strikes.iter().any(|strike| strike.kind == Kind::Partition);
    let mut more = Vec::new();
    for lost in strikes.iter().filter(|strike| on && strike.kind == Kind::DiskLost) {
        if rng.percent(70) {
            let before = rng.range(2, 30) * SECOND;
            let after = rng.range(SECOND / 2, 10 * SECOND);
            let host = (lost.host + 1 + rng.below(sites as u64 - 1) as usize) % sites;
            let at = lost.at.saturating_sub(before);
            more.push(Strike { at, kind: Kind::Partition, host, lasts: lost.at - at + after, dice: rng.bits() });
        }
    }
    more
}

fn draw_ack(scenario: &Scenario, rng: &mut Rng, sites: usize) -> Ack {
    let drawn = rng.below(10);
    match scenario.ack_of_all() {
        Some(ack) => ack.expect("checked when it was read"),
        None => match drawn {
            0..=5 => Ack::Log,
            6..=7 => Ack::Sites(1 + (drawn as u32) % (sites.max(2) as u32 - 1)),
            _ => Ack::All,
        },
    }
}

fn draw_strikes(scenario: &Scenario, rng: &mut Rng, sites: usize, calm_at: u64) -> Vec<Strike> {
    let mut strikes = Vec::new();
    for kind in Kind::ALL {
        // Each class has a stream of its own: a new one shifts no other.
        let mut rng = rng.fork(kind.name());
        let on = rng.percent(50);
        let wanted = match &scenario.faults {
            None => on && kind.keeps_what_is_durable(),
            Some(only) => only.iter().any(|name| name == kind.name()),
        };
        if !wanted || !scenario.is_on(kind.name()) {
            continue;
        }
        let most = match kind {
            Kind::Crash => 8,
            Kind::AppendUnknown | Kind::Power | Kind::Gc | Kind::TornRefs => 5,
            Kind::DiskLost | Kind::SecondDaemon | Kind::OldBackup | Kind::LogLost => 2,
            _ => 3,
        };
        // Some while the log is opened and the repositories are made, most once people work.
        let opening = (20 * SECOND).min(calm_at / 2);
        for _ in 0..rng.range(1, most) {
            let at = if rng.percent(12) { rng.below(opening) } else { rng.range(opening, calm_at) };
            strikes.push(Strike {
                at,
                kind: *kind,
                host: rng.below(sites as u64) as usize,
                lasts: lasts(*kind, &mut rng),
                dice: rng.bits(),
            });
        }
    }
    strikes
}

fn lasts(kind: Kind, rng: &mut Rng) -> u64 {
    match kind {
        Kind::Pause => rng.range(1, 120) * SECOND / if rng.percent(50) { 10 } else { 1 },
        Kind::LogDown | Kind::LogLost => rng.range(1, 40) * SECOND,
        Kind::SecondDaemon => rng.range(20, 400) * SECOND,
        Kind::ForeignLock => rng.range(1, 20) * SECOND,
        Kind::OldJournal | Kind::OldBackup => rng.range(10, 600) * SECOND,
        Kind::AppendUnknown => rng.range(20, 300) * SECOND,
        _ => rng.range(5, 120) * SECOND,
    }
}

/// What operators do, as a scenario's `often` names it.
pub(crate) const CHORES: [&str; 3] = ["configure", "recreate", "member"];

fn draw_chores(scenario: &Scenario, rng: &mut Rng, sites: usize, calm_at: u64) -> Vec<(u64, Chore)> {
    let mut chores = Vec::new();
    let repos = scenario.repos as u64;
    // One run in four is full of one of these.
    let theme = rng.fork("theme").below(8);
    let named = |name: &str| scenario.often.iter().any(|often| often == name);
    let often = |is: u64| match CHORES[is as usize] {
        name if named(name) => 12,
        _ if theme == is => 5,
        _ => 1,
    };
    let time = |rng: &mut Rng| rng.range(calm_at / 20, calm_at * 9 / 10);
    let mut configure = rng.fork("configure");
    if scenario.is_on("configure") {
        for _ in 0..configure.range(3, 12) * often(0) {
            let repo = configure.below(repos) as usize;
            chores.push((time(&mut configure), Chore::Configure { repo, dice: configure.bits() }));
        }
    }
    let mut recreate = rng.fork("recreate");
    if scenario.is_on("recreate") {
        for _ in 0..recreate.range(1, 3) * often(1) {
            let repo = recreate.below(repos) as usize;
            let gone_for = if recreate.percent(50) { recreate.below(SECOND) } else { recreate.range(0, 20) * SECOND };
            chores.push((time(&mut recreate), Chore::Recreate { repo, gone_for }));
        }
    }
    let mut member = rng.fork("member");
    let members = sites - scenario.late;
    if scenario.is_on("member") && members > 2 {
        for _ in 0..member.range(0, 3) * often(2) {
            let site = member.below(members as u64) as usize;
            let most = if member.percent(50) { 20 } else { 300 };
            let out_for = member.range(1, most) * SECOND;
            chores.push((time(&mut member), Chore::Member { site, evict: member.percent(60), out_for }));
        }
    }
    let mut late = rng.fork("late");
    for site in members..sites {
        let joins_for = late.range(0, calm_at / 20 / SECOND) * SECOND;
        let at = late.range(calm_at / 10, calm_at * 7 / 10);
        chores.push((at, Chore::Join { site, boots: late.percent(50), joins_for }));
    }
    chores.sort_by_key(|(at, _)| *at);
    chores
}
