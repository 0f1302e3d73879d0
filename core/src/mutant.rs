//! Known bugs that the simulator can switch on, each named after what it gets wrong.
//!
//! A mutant is a value, not a build: the same core runs with and without it. Without the feature `mutants` there is no
//! list, no name and no way to switch one on: [`Mutants::on`] is the constant `false` then.

/// Whether this build has any: one without the feature has neither names nor a way to switch one on.
pub const ARE_KNOWN: bool = cfg!(feature = "mutants");

#[cfg(feature = "mutants")]
macro_rules! mutants {
    ($($(#[doc = $story:literal])* $name:ident = $text:literal,)*) => {
        /// One known bug.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Mutant { $($(#[doc = $story])* $name,)* }

        impl Mutant {
            /// All of them.
            pub const ALL: &'static [Mutant] = &[$(Mutant::$name,)*];

            /// The name used on the command line.
            pub fn name(self) -> &'static str {
                match self { $(Mutant::$name => $text,)* }
            }

            /// What it gets wrong.
            pub fn story(self) -> &'static str {
                match self { $(Mutant::$name => concat!($($story),*).trim_ascii(),)* }
            }
        }
    };
}

#[cfg(not(feature = "mutants"))]
macro_rules! mutants {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        #[derive(Clone, Copy)]
        pub(crate) enum Mutant { $($name,)* }
    };
}

mutants! {
    /// An append with unknown outcome is appended again at once.
    ReappendOnUnknown = "reappend-on-unknown",
    /// A push that was not decided in time is answered as refused.
    RefuseOnTimeout = "refuse-on-timeout",
    /// A daemon goes on although another instance of its site is in force.
    NoFence = "no-fence",
    /// Git is compared with the tables only once the site is ready.
    AuditWhenReady = "audit-when-ready",
    /// Whoever waits in line to take objects in is not served when there is room again.
    LineForgotten = "line-forgotten",
    /// A start with the epoch already in force counts.
    EqualEpoch = "equal-epoch",
    /// A copied state directory's instance is taken for one's own.
    CopiedInstance = "copied-instance",
    /// Decided pushes are refused too when the daemon is fenced.
    FenceRefusesDecided = "fence-refuses-decided",
    /// A fence in one partition refuses the pushes of all.
    FenceOfAnotherPartition = "fence-of-another-partition",
    /// An evicted site's start counts.
    EvictedMayStart = "evicted-may-start",
    /// A re-admitted site's old instance goes on speaking.
    ReadmittedSpeaks = "readmitted-speaks",
    /// Records count whatever their sequence.
    SequenceIgnored = "sequence-ignored",
    /// A record counts in a partition that is not its repository's.
    HomeIgnored = "home-ignored",
    /// A record whose updates are all rejected leaves the sequence as it was.
    RejectedSpendsNothing = "rejected-spends-nothing",
    /// Pushes to an earlier repository of the same name count.
    IncarnationIgnored = "incarnation-ignored",
    /// Updates are accepted whatever their expected old value.
    ExpectedOldIgnored = "expected-old-ignored",
    /// Of the directories above a ref only the outermost are looked at.
    OutermostOnly = "outermost-only",
    /// A repository's configuration counts in a later life of the name.
    ConfigOfAnyLife = "config-of-any-life",
    /// The refs of an atomic push are judged one by one.
    AtomicByRef = "atomic-by-ref",
    /// Creations are judged before deletions.
    DeletionsLast = "deletions-last",
    /// A ref is accepted beside one of which it is a directory.
    NeighboursIgnored = "neighbours-ignored",
    /// Configuration is judged by the producer alone, before the append.
    PolicyAtProducer = "policy-at-producer",
    /// The pack holds only what came with the push, not what its values need.
    PackAtQuarantine = "pack-at-quarantine",
    /// A chunk whose append has an unknown outcome is taken to be behind the one before it.
    ChunkPlaceGuessed = "chunk-place-guessed",
    /// A boundary counts as complete because its object exists.
    BoundaryByPresence = "boundary-by-presence",
    /// A ref is set before its objects are proved to be here.
    RefsBeforeObjects = "refs-before-objects",
    /// The journal's position runs ahead of what it holds.
    JournalAhead = "journal-ahead",
    /// The last record is judged again after a restart.
    JudgedAgain = "judged-again",
    /// Of several accepted values the oldest is set first and the others forgotten.
    OldestFirst = "oldest-first",
    /// After a start refs are set before the fold has reached the log's end.
    ReconcileEarly = "reconcile-early",
    /// Progress is reported before the files are flushed.
    ProgressBeforeFlush = "progress-before-flush",
    /// The aggregator does not wait for a silent active member.
    AggregateWithoutMember = "aggregate-without-member",
    /// The aggregator believes an old instance's progress.
    AggregateOldInstance = "aggregate-old-instance",
    /// The aggregator appends without a compare on the topic's end.
    AggregateTwice = "aggregate-twice",
    /// A parked update is skipped after a while.
    ParkedSkipped = "parked-skipped",
    /// Pushes to a repository that was deleted are done with before Git shows that it is gone.
    EndTakenForDone = "end-taken-for-done",
    /// A push whose pack cannot be read from the log counts as asked for in vain, so the site shows refs without it.
    UnreadTakenForLost = "unread-taken-for-lost",
    /// When one parked update is tried again, the others' next tries are forgotten.
    RetryForgotten = "retry-forgotten",
    /// Pushes that can only be proved at the log's end count for the limit above which the fold stops reading.
    WaitsForItself = "waits-for-itself",
    /// Parked pushes count for the limit above which the fold stops reading.
    ParkedKeepsFromReading = "parked-keeps-from-reading",
    /// A site without room to wait for the log's end shows what it has read, whatever is in Git.
    CrowdedShowsAll = "crowded-shows-all",
    /// A push that names a ref twice is appended, though its record is void for everybody.
    NamedTwiceAppended = "named-twice-appended",
    /// Lag is measured by the clock of the site that tells it.
    LagByOwnClock = "lag-by-own-clock",
    /// What is published already takes the places of what is not, when pushes are read back to be published.
    WindowOfPublished = "window-of-published",
    /// What a parked push was cut at is asked of other sites only, never of the log.
    BasesForgotten = "bases-forgotten",
    /// A staged update is shown without waiting for the other sites.
    FlipWithoutProgress = "flip-without-progress",
    /// A site is ready while it is only joining.
    JoinerServes = "joiner-serves",
    /// A ref that somebody changed behind the daemon stays as it is.
    ForeignKept = "foreign-kept",
    /// A ref that a push moved while Git was compared with the tables is taken for one that somebody changed.
    AuditRaces = "audit-races",
    /// A staged update is shown before it is known who is a member.
    FlipWithoutMembers = "flip-without-members",
    /// A staged update is shown by a site that found partition 0 empty and has not read since who opened the log.
    FlipUnopened = "flip-unopened",
    /// A staged update is shown because an old instance, whose disk may be lost, had staged it.
    FlipOldInstance = "flip-old-instance",
    /// A push whose client was told `undecided:` waits for its acknowledgement like any other, for ever.
    AnsweredPushKept = "answered-push-kept",
    /// The latest moment to show what is staged is waited for although nothing can be shown yet.
    FlipDeadlineEarly = "flip-deadline-early",
    /// No hidden ref holds a staged push's objects while it waits for the other sites.
    KeepNotTaken = "keep-not-taken",
    /// A start does not listen whether a foreign instance of the site is alive.
    ForeignUnheard = "foreign-unheard",
    /// Another instance of the site is listened for only if partition 0 shows its start already.
    ForeignUnheardElsewhere = "foreign-unheard-elsewhere",
    /// A membership table is merged into the one in force instead of replacing it.
    MembersMerged = "members-merged",
    /// The first of several staged pushes that is shown takes the keep refs of all with it.
    KeepsOfAllReleased = "keeps-of-all-released",
    /// The first ref that is set releases the keep refs of every earlier push to the repository.
    KeepsOfOtherRefsReleased = "keeps-of-other-refs-released",
    /// Keep refs that a former start took are released by nobody.
    FormerKeepsForgotten = "former-keeps-forgotten",
    /// What somebody put at a ref is not kept when the daemon takes it away.
    FoundNotKept = "found-not-kept",
    /// One partition gets no copies of the membership.
    MembersNotCopied = "members-not-copied",
    /// A report goes out before the journal's commit is durable.
    ReportBeforeCommit = "report-before-commit",
    /// A keep ref that could not be taken away stays for good.
    HeldForgotten = "held-forgotten",
    /// A start that counts while a commit is under way counts as stored by it.
    StartNotStored = "start-not-stored",
    /// What cannot be set for a while is not held against gc.
    RetriedUnkept = "retried-unkept",
    /// Nothing is appended to resolve an append with unknown outcome.
    NoBarrier = "no-barrier",
    /// An acknowledgement counts what a former start of another site had flushed.
    AckOldInstance = "ack-old-instance",
    /// Overtaken updates that a report does not name any more count as flushed.
    FloorIgnored = "floor-ignored",
    /// An update that is overtaken late lowers the offset below which overtaken ones are not named.
    FloorFalls = "floor-falls",
    /// An update that changes nothing is acknowledged whatever the other sites have.
    UnchangedWaitsForNothing = "unchanged-waits-for-nothing",
    /// A record that also asks for what was there already needs its own objects nowhere else.
    UnchangedExcusesChanged = "unchanged-excuses-changed",
    /// `ok` is said before the origin shows the refs.
    ReplyBeforeShown = "reply-before-shown",
    /// A split push's decided half is told `ok` with no word that it is still being applied.
    SplitToldWhole = "split-told-whole",
    /// Beside refusals alone it is said that something is still to come.
    StillBesideRefusals = "still-beside-refusals",
    /// The second half of a split push is cut before the first is judged.
    SplitCutEarly = "split-cut-early",
    /// After the log had another leader, or a daemon another life, the last record folded is not looked for.
    LogLossUnseen = "log-loss-unseen",
    /// Any record at the last offset folded is taken for the one folded there.
    LogUnrecognised = "log-unrecognised",
    /// A position below the log's start is taken for the start.
    LogStartJumped = "log-start-jumped",
    /// Who cannot read the log, or stood still, takes a foreign instance for silent.
    DeafListens = "deaf-listens",
    /// That an update is staged is taken back between its showing and the flush of that.
    StagedTakenBack = "staged-taken-back",
    /// The refs of an atomic push are set one by one.
    AtomicSetApart = "atomic-set-apart",
    /// HEAD and Git settings that somebody changed behind the daemon are left so.
    ShapeKept = "shape-kept",
    /// What is put back is shown before its objects are durable.
    PutBackUnflushed = "put-back-unflushed",
    /// What is put back is asked of other sites only, never of the log.
    PutBackFromPeers = "put-back-from-peers",
    /// A shape that cannot be put back is tried until it can.
    ShapeInsisted = "shape-insisted",
    /// Git settings that an order leaves out are taken away.
    SettingsForgotten = "settings-forgotten",
    /// Which partition a repository is at home in is told by the hash alone.
    MapIgnored = "map-ignored",
    /// The digests in other sites' reports are compared with nothing.
    DigestIgnored = "digest-ignored",
    /// A push is answered by the verdict on the record that happened to come next.
    FirstVerdictWins = "first-verdict-wins",
}

/// The bugs that are switched on: none, or one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Mutants {
    #[cfg(feature = "mutants")]
    one: Option<Mutant>,
}

impl Mutants {
    /// No bug on purpose.
    pub const fn none() -> Self {
        Self {
            #[cfg(feature = "mutants")]
            one: None,
        }
    }

    /// With this one.
    #[cfg(feature = "mutants")]
    pub const fn with(one: Mutant) -> Self {
        Self { one: Some(one) }
    }

    #[cfg(feature = "mutants")]
    pub(crate) fn on(self, which: Mutant) -> bool {
        self.one == Some(which)
    }

    #[cfg(not(feature = "mutants"))]
    pub(crate) const fn on(self, _which: Mutant) -> bool {
        false
    }
}
