//! Where each known bug is looked for, and what it takes for it to show.
//!
//! Where a bug takes one of a few fault classes or workload features, it survives without them: that is why they are
//! there.

use refrain_core::mutant::Mutant;

use crate::scenario::Scenario;

macro_rules! files {
    ($mutant:expr, $($name:ident => $file:literal,)*) => {
        match $mutant {
            $(Mutant::$name => Some(($file, include_str!(concat!("../../scenarios/", $file, ".toml")))),)*
            _ => None,
        }
    };
}

/// The built-in scenario, or one that brings about what the bug takes.
pub fn home(mutant: Mutant) -> Scenario {
    let file = files! { mutant,
        ReconcileEarly => "faults/old-journal",
        HomeIgnored => "faults/garbage",
        ForeignKept => "faults/foreign-refs",
        IncarnationIgnored => "mixed/recreated",
        SplitCutEarly => "faults/chunks",
        SplitToldWhole => "regressions/split-told-whole",
        ConfigOfAnyLife => "mixed/recreated",
        KeepsOfAllReleased => "regressions/keep-of-another-ref",
        KeepsOfOtherRefsReleased => "regressions/keep-of-another-ref",
        FormerKeepsForgotten => "faults/chunks-narrow",
        FoundNotKept => "faults/foreign-refs",
        MembersNotCopied => "mixed/membership",
        JoinerServes => "mixed/membership",
        ReportBeforeCommit => "mixed/dense",
        HeldForgotten => "faults/disk-full",
        StartNotStored => "regressions/start-stored-by-no-commit",
        RetriedUnkept => "regressions/keep-of-another-ref",
        AckOldInstance => "mixed/everything",
        KeepNotTaken => "faults/keeps",
        ParkedSkipped => "faults/parked",
        FlipDeadlineEarly => "regressions/flip-deadline-in-the-past",
        AnsweredPushKept => "regressions/answered-push-kept",
        FlipUnopened => "regressions/shown-before-the-opening",
        FlipWithoutMembers => "regressions/flip-without-members",
        RetryForgotten => "regressions/retry-forgotten",
        UnreadTakenForLost => "regressions/unread-taken-for-lost",
        EndTakenForDone => "regressions/end-taken-for-done",
        BasesForgotten => "regressions/bases-of-a-deleted-branch",
        WaitsForItself => "regressions/rebuild-without-room",
        ParkedKeepsFromReading => "regressions/rebuild-without-room",
        CrowdedShowsAll => "regressions/rebuild-without-room",
        LineForgotten => "mixed/narrow",
        AuditWhenReady => "regressions/stray-in-the-way-of-the-start",
        WindowOfPublished => "mixed/narrow",
        FloorFalls => "mixed/narrow",
        ForeignUnheardElsewhere => "regressions/foreign-start-seen-elsewhere",
        LogLossUnseen => "faults/log-lost",
        LogUnrecognised => "faults/log-lost",
        LogStartJumped => "faults/log-lost",
        ShapeKept => "faults/foreign-refs",
        AtomicSetApart => "mixed/together",
        StagedTakenBack => "mixed/replicated",
        PutBackUnflushed => "regressions/put-back-before-its-flush",
        PutBackFromPeers => "regressions/put-back-where-nobody-has-it",
        ShapeInsisted => "faults/foreign-refs",
        DeafListens => "regressions/deaf-while-listening",
        SettingsForgotten => "mixed/mapped",
        MapIgnored => "mixed/mapped",
        DigestIgnored => "faults/rotten-row",
        UnchangedExcusesChanged => "regressions/unchanged-beside-changed",
    };
    let Some((name, text)) = file else { return Scenario::built_in() };
    let mut scenario = Scenario::parse(text).expect("a file of this repository");
    scenario.name = name.rsplit('/').next().unwrap_or(name).to_string();
    scenario.path = format!("scenarios/{name}.toml");
    scenario
}

/// The fault classes and workload features one of which the bug takes: with all of them off it survives. Empty for bugs
/// that show in many ways.
pub fn needs(mutant: Mutant) -> &'static [&'static str] {
    match mutant {
        Mutant::ReappendOnUnknown | Mutant::NoBarrier => UNKNOWN,
        Mutant::NoFence | Mutant::FenceRefusesDecided | Mutant::FenceOfAnotherPartition => &["second-daemon", "member"],
        Mutant::EvictedMayStart | Mutant::ReadmittedSpeaks => &["member"],
        Mutant::MembersMerged | Mutant::MembersNotCopied | Mutant::JoinerServes => &["member"],
        Mutant::IncarnationIgnored | Mutant::EndTakenForDone | Mutant::ConfigOfAnyLife => &["recreate"],
        Mutant::AtomicByRef => &["atomic"],
        Mutant::DeletionsLast => &["delete", "directory-and-file"],
        Mutant::ReconcileEarly => &["old-journal", "old-backup"],
        Mutant::ForeignKept => &["foreign-refs", "foreign-shape"],
        Mutant::FoundNotKept | Mutant::AuditWhenReady => &["foreign-refs"],
        Mutant::HomeIgnored => &["garbage"],
        Mutant::EqualEpoch => STARTED_TWICE,
        Mutant::RefuseOnTimeout => UNKNOWN_OR_FENCED,
        Mutant::NamedTwiceAppended => &["bad-name"],
        Mutant::RetriedUnkept => &["gc"],
        Mutant::WaitsForItself | Mutant::ParkedKeepsFromReading => &["disk-lost", "old-journal"],
        Mutant::FlipWithoutProgress | Mutant::FlipOldInstance | Mutant::StagedTakenBack => &["replicated"],
        Mutant::PolicyAtProducer => &["configure", "delete"],
        Mutant::SplitCutEarly | Mutant::SplitToldWhole => &["split"],
        Mutant::ChunkPlaceGuessed => &["large"],
        Mutant::KeepsOfOtherRefsReleased => &["configure"],
        Mutant::UnreadTakenForLost => &["loss"],
        Mutant::BasesForgotten => &["old-backup"],
        Mutant::FlipWithoutMembers => &["disk-lost"],
        Mutant::FlipUnopened => &["pause"],
        Mutant::FlipDeadlineEarly => &["crash", "power"],
        Mutant::AnsweredPushKept => &["append-unknown", "log-down", "one-way", "partition"],
        Mutant::KeepNotTaken => &["gc"],
        Mutant::HeldForgotten => &["disk-full"],
        Mutant::CrowdedShowsAll => &["old-journal"],
        Mutant::ForeignUnheardElsewhere => &["second-daemon"],
        Mutant::UnchangedExcusesChanged => &["partition"],
        Mutant::ShapeKept | Mutant::ShapeInsisted => &["foreign-shape"],
        Mutant::PutBackUnflushed => &["power"],
        Mutant::PutBackFromPeers => &["foreign-refs"],
        Mutant::DeafListens => &["second-daemon"],
        Mutant::AtomicSetApart => &["foreign-refs", "foreign-lock", "disk-full", "crash"],
        Mutant::SettingsForgotten => &["git-settings"],
        Mutant::MapIgnored => &["map"],
        Mutant::DigestIgnored => &["rotten-row"],
        Mutant::LogLossUnseen | Mutant::LogUnrecognised | Mutant::LogStartJumped => &["log-lost"],
        _ => &[],
    }
}

/// What leaves the outcome of an append unknown, and what else may bring a bug about.
macro_rules! unknown_or {
    ($($more:literal),*) => {
        &["append-unknown", "loss", "delay", "duplicate", "log-down", "partition", "one-way", "pause", $($more),*]
    };
}

/// Appends whose outcome nobody knows.
const UNKNOWN: &[&str] = unknown_or!();
/// A start that is appended twice, or by two daemons.
const STARTED_TWICE: &[&str] = unknown_or!("second-daemon", "garbage");
/// Appends whose outcome nobody knows, or a fence.
const UNKNOWN_OR_FENCED: &[&str] = unknown_or!("second-daemon", "member");
