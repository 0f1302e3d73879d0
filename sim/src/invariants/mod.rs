//! The promises, one file each. Each sees what [`crate::observed`] shows and no more of a core.
//!
//! An invariant keeps what it needs to answer from the one event at hand, because it is asked after every event of
//! every run. None trusts another to have run before it.

mod acknowledged_survives;
mod aggregated_after_all;
mod aggregated_once;
mod at_rest;
mod atomic_in_one;
mod behind_with_cause;
mod differing_folds_stop;
mod every_push_answered;
mod exactly_one_speaker;
mod foreigners_heard;
mod frugal;
mod joiner_not_ready;
mod known;
mod lag_never_understated;
mod lag_told;
mod lost_log_stops;
mod memory_bounded;
mod no_partition_stops;
mod no_ref_goes_back;
mod not_given_up_early;
mod nothing_left_behind;
mod nothing_left_open;
mod nothing_reported_undurable;
mod ok_as_promised;
mod one_history_per_ref;
mod orders_answered_once;
mod partitions_beat;
mod prompt_at_rest;
mod published_in_time;
mod record_closed;
mod records_parse;
mod refs_after_objects;
mod refused_in_words;
mod refused_stays_refused;
mod refused_with_cause;
mod reports_kept;
mod shown_in_time;
mod shown_when_replicated;
mod sites_judge_alike;
mod starts_at_once;
mod status_never_ahead;
mod still_with_cause;
mod stopped_not_ready;
mod strangers_only;
mod strangers_undone;

mod claims;
mod places;
mod pushes;
#[cfg(test)]
mod testing;
mod walk;

use crate::observed::{Invariant, Violation};

/// Every promise, fresh, for one run.
pub fn all() -> Vec<Box<dyn Invariant>> {
    vec![
        Box::<acknowledged_survives::AcknowledgedSurvives>::default(),
        Box::<refused_stays_refused::RefusedStaysRefused>::default(),
        Box::<refused_with_cause::RefusedWithCause>::default(),
        Box::new(refused_in_words::RefusedInWords),
        Box::<every_push_answered::EveryPushAnswered>::default(),
        Box::<orders_answered_once::OrdersAnsweredOnce>::default(),
        Box::<ok_as_promised::OkAsPromised>::default(),
        Box::new(one_history_per_ref::OneHistoryPerRef),
        Box::<sites_judge_alike::SitesJudgeAlike>::default(),
        Box::<strangers_only::StrangersOnly>::default(),
        Box::<exactly_one_speaker::ExactlyOneSpeaker>::default(),
        Box::<foreigners_heard::ForeignersHeard>::default(),
        Box::new(record_closed::RecordClosed),
        Box::new(records_parse::RecordsParse),
        Box::<refs_after_objects::RefsAfterObjects>::default(),
        Box::new(no_partition_stops::NoPartitionStops),
        Box::<lost_log_stops::LostLogStops>::default(),
        Box::<differing_folds_stop::DifferingFoldsStop>::default(),
        Box::<no_ref_goes_back::NoRefGoesBack>::default(),
        Box::<shown_when_replicated::ShownWhenReplicated>::default(),
        Box::<nothing_left_open::NothingLeftOpen>::default(),
        Box::new(nothing_left_behind::NothingLeftBehind),
        Box::<nothing_reported_undurable::NothingReportedUndurable>::default(),
        Box::<aggregated_after_all::AggregatedAfterAll>::default(),
        Box::<aggregated_once::AggregatedOnce>::default(),
        Box::<lag_never_understated::LagNeverUnderstated>::default(),
        Box::<memory_bounded::MemoryBounded>::default(),
        Box::<reports_kept::ReportsKept>::default(),
        Box::new(status_never_ahead::StatusNeverAhead),
        Box::<not_given_up_early::NotGivenUpEarly>::default(),
        Box::<behind_with_cause::BehindWithCause>::default(),
        Box::<partitions_beat::PartitionsBeat>::default(),
        Box::new(prompt_at_rest::PromptAtRest),
        Box::<joiner_not_ready::JoinerNotReady>::default(),
        Box::<strangers_undone::StrangersUndone>::default(),
        Box::<atomic_in_one::AtomicInOne>::default(),
        Box::<frugal::Frugal>::default(),
        Box::<lag_told::LagTold>::default(),
        Box::<published_in_time::PublishedInTime>::default(),
        Box::<shown_in_time::ShownInTime>::default(),
        Box::<starts_at_once::StartsAtOnce>::default(),
        Box::<still_with_cause::StillWithCause>::default(),
        Box::<stopped_not_ready::StoppedNotReady>::default(),
        Box::new(at_rest::AtRest),
    ]
}

/// Names and promises, for `list invariants`.
pub fn names() -> Vec<(&'static str, &'static str)> {
    all().iter().map(|invariant| (invariant.name(), invariant.promise())).collect()
}

fn broken(invariant: &'static str, what: String) -> Violation {
    Violation { invariant, what }
}

/// A value for people: seven digits, or that there is none.
fn short(value: Option<refrain_core::ids::Oid>) -> String {
    value.map_or_else(|| "absent".to_string(), |oid| oid.short())
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_promise_has_a_name_of_its_own() {
        let names: std::collections::BTreeSet<_> = super::names().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names.len(), super::all().len());
    }
}
