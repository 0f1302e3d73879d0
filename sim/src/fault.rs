//! What can break, and when: a plan is a list of strikes, drawn before the run begins.

/// A class of faults; swarm leaves each out of half of the runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A daemon is killed between any two of its effects, and started again; sometimes all of them.
    Crash,
    /// A machine loses power, sometimes all: what was not flushed is lost, each for itself.
    Power,
    /// A daemon stands still, then goes on as if nothing had happened.
    Pause,
    /// The outcome of appends is unknown: applied, not applied, applied much later, applied twice.
    AppendUnknown,
    /// The log answers nobody.
    LogDown,
    /// The log loses what was durable: it is put back to an old copy, made anew, or begins later than it did. Most
    /// promises are void then, so only scenarios that name it have it.
    LogLost,
    /// Offsets are skipped, as by transaction markers.
    OffsetGaps,
    /// Somebody else writes to the log: rubbish, and copies of earlier records.
    Garbage,
    /// Messages of a site are lost.
    Loss,
    /// Messages arrive twice: a site's appends at the log, and answers at the site.
    Duplicate,
    /// Messages of a site take seconds.
    Delay,
    /// A site is cut off from everybody.
    Partition,
    /// Nothing passes in one direction between a site and somebody else.
    OneWay,
    /// A site's machine is copied, and both run.
    SecondDaemon,
    /// A site's journal is put back to an old copy.
    OldJournal,
    /// A site's journal and repositories are put back to an old copy.
    OldBackup,
    /// A row of a site's journal says something else than was written. No rule can keep that site's verdicts right
    /// then, so only scenarios that name it have it.
    RottenRow,
    /// A site's disk is lost.
    DiskLost,
    /// A disk is slow, and some flushes fail.
    SlowDisk,
    /// A disk is full, or fails: some of what is written there is not, or in part.
    DiskFull,
    /// A crash between the renames of a ref transaction leaves locks.
    TornRefs,
    /// Somebody else's git holds a repository's locks for a while.
    ForeignLock,
    /// Somebody changes, removes and makes refs behind the daemon.
    ForeignRefs,
    /// Somebody changes HEAD or Git settings behind the daemon.
    ForeignShape,
    /// Garbage is collected.
    Gc,
    /// Retention takes the chunks of packs that every site has applied. Not where disks are lost in the same run: then
    /// nobody might have the objects.
    PackdataExpired,
    /// A clock jumps.
    ClockStep,
    /// A clock runs too fast or too slow.
    ClockDrift,
}

impl Kind {
    /// All of them.
    pub const ALL: &'static [Kind] = &[
        Kind::Crash,
        Kind::Power,
        Kind::Pause,
        Kind::AppendUnknown,
        Kind::LogDown,
        Kind::LogLost,
        Kind::OffsetGaps,
        Kind::Garbage,
        Kind::Loss,
        Kind::Duplicate,
        Kind::Delay,
        Kind::Partition,
        Kind::OneWay,
        Kind::SecondDaemon,
        Kind::OldJournal,
        Kind::OldBackup,
        Kind::RottenRow,
        Kind::DiskLost,
        Kind::SlowDisk,
        Kind::DiskFull,
        Kind::TornRefs,
        Kind::ForeignLock,
        Kind::ForeignRefs,
        Kind::ForeignShape,
        Kind::Gc,
        Kind::PackdataExpired,
        Kind::ClockStep,
        Kind::ClockDrift,
    ];

    /// Its name in scenarios and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Crash => "crash",
            Kind::Power => "power",
            Kind::Pause => "pause",
            Kind::AppendUnknown => "append-unknown",
            Kind::LogDown => "log-down",
            Kind::LogLost => "log-lost",
            Kind::OffsetGaps => "offset-gaps",
            Kind::Garbage => "garbage",
            Kind::Loss => "loss",
            Kind::Duplicate => "duplicate",
            Kind::Delay => "delay",
            Kind::Partition => "partition",
            Kind::OneWay => "one-way",
            Kind::SecondDaemon => "second-daemon",
            Kind::OldJournal => "old-journal",
            Kind::OldBackup => "old-backup",
            Kind::RottenRow => "rotten-row",
            Kind::DiskLost => "disk-lost",
            Kind::SlowDisk => "slow-disk",
            Kind::DiskFull => "disk-full",
            Kind::TornRefs => "torn-refs",
            Kind::ForeignLock => "foreign-lock",
            Kind::ForeignRefs => "foreign-refs",
            Kind::ForeignShape => "foreign-shape",
            Kind::Gc => "gc",
            Kind::PackdataExpired => "packdata-expired",
            Kind::ClockStep => "clock-step",
            Kind::ClockDrift => "clock-drift",
        }
    }

    /// One sentence for `list faults`.
    pub fn story(self) -> &'static str {
        match self {
            Kind::Crash => "a daemon is killed between any two of its effects, and started again",
            Kind::Power => "a machine loses power; what was not flushed is lost, each for itself",
            Kind::Pause => "a daemon stands still for up to two minutes, then goes on",
            Kind::AppendUnknown => "appends with unknown outcome: applied, not applied, much later, twice",
            Kind::LogDown => "the log answers nobody",
            Kind::LogLost => "the log loses durable records; on only where a scenario names it",
            Kind::OffsetGaps => "offsets are skipped",
            Kind::Garbage => "somebody else writes rubbish and copies of earlier records to the log",
            Kind::Loss => "messages of a site are lost",
            Kind::Duplicate => "appends of a site and answers to it arrive twice",
            Kind::Delay => "messages of a site take seconds",
            Kind::Partition => "a site is cut off",
            Kind::OneWay => "nothing passes in one direction between a site and somebody else",
            Kind::SecondDaemon => "a site's machine is copied, and both run",
            Kind::OldJournal => "a site's journal is put back to an old copy",
            Kind::RottenRow => "a row of a site's journal says something else; on only where a scenario names it",
            Kind::OldBackup => "a site's journal and repositories are put back to an old copy",
            Kind::DiskLost => "a site's disk is lost",
            Kind::SlowDisk => "a disk is slow, and some flushes fail",
            Kind::DiskFull => "a disk is full: some of what is written there is not, or in part",
            Kind::TornRefs => "a crash between the renames of a ref transaction leaves locks",
            Kind::ForeignLock => "somebody else's git holds a repository's locks",
            Kind::ForeignRefs => "somebody changes, removes and makes refs behind the daemon",
            Kind::ForeignShape => "somebody changes HEAD or Git settings behind the daemon",
            Kind::Gc => "garbage is collected",
            Kind::PackdataExpired => "chunks of packs that every site has applied are gone, where no disk is lost",
            Kind::ClockStep => "a wall clock jumps",
            Kind::ClockDrift => "a monotonic clock runs too fast or too slow",
        }
    }

    /// Whether what is durable stays so, and as it was written: most promises presume it.
    pub fn keeps_what_is_durable(self) -> bool {
        !matches!(self, Kind::LogLost | Kind::RottenRow)
    }

    /// By name.
    pub fn parse(text: &str) -> Option<Kind> {
        Kind::ALL.iter().copied().find(|kind| kind.name() == text)
    }
}

/// One fault of a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Strike {
    /// When, in virtual microseconds.
    pub at: u64,
    /// What.
    pub kind: Kind,
    /// At which site.
    pub host: usize,
    /// For how long.
    pub lasts: u64,
    /// Drawn with it; each class reads it as it likes.
    pub dice: u64,
}
