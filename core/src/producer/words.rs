//! What a pusher reads. Every text starts with one of the words of `INTERFACE.md` and says what to do.

use alloc::format;
use alloc::string::String;

use crate::ids::Partition;
use crate::names::RefName;
use crate::refdb::{Rejection, Void};

pub(crate) const LOG_DOWN: &str = "unavailable: replication log not available; all writes disabled";
pub(crate) const LOST: &str = "unavailable: the replication log did not take the push; nothing was changed, try again";
pub(crate) const TOO_SLOW: &str =
    "unavailable: this site could not prepare the push in time; nothing was changed, try again";
pub(crate) const SPOOL_LOST: &str =
    "unavailable: this site cannot read back the pack that it cut; nothing was changed, try again";
pub(crate) const BEHIND: &str = "unavailable: this site is still applying earlier pushes; try again";
pub(crate) const REPLICATING: &str =
    "unavailable: an earlier push to this ref is still replicating to the other sites; try again";
pub(crate) const STARTING: &str = "unavailable: this site is still starting; try again in a few seconds";
pub(crate) const TOO_MANY: &str = "unavailable: too many pushes are waiting at this site; try again";
pub(crate) const FENCED: &str = "unavailable: another daemon has taken over this site; nothing was changed, try again";
pub(crate) const PUT_OUT: &str =
    "unavailable: this site was taken out of replication; nothing was changed, push to another one";
pub(crate) const NO_MEMBER: &str =
    "unavailable: this site takes no part in replication; push to another one, or ask an administrator to let it join";
pub(crate) const STOPPED: &str =
    "unavailable: replication of this repository has stopped; ask an administrator of this site";
pub(crate) const LOG_DOUBTED: &str =
    "undecided: this site does not trust its replication log any more; ask an administrator of this site";
pub(crate) const DRAINING: &str = "unavailable: this site is being drained; push to another one";
pub(crate) const STILL_APPLYING: &str = "refrain: the push is decided; sites are still applying it";

pub(crate) fn undecided(seconds: u64) -> String {
    format!(
        "undecided: the replication log did not answer within {seconds} s; fetch to see whether your push was applied"
    )
}

pub(crate) fn too_large(why: &str) -> String {
    format!("too large: {why}; push fewer refs at once")
}

pub(crate) fn order_too_large(why: &str) -> String {
    format!("too large: {why}; nothing was changed")
}

pub(crate) fn too_large_pack(why: &str) -> String {
    format!("too large: {why}; push less at once, or have push.packdata_max raised")
}

pub(crate) fn bad_name(why: &str) -> String {
    format!("denied: {why}")
}

pub(crate) fn named_twice() -> String {
    String::from("denied: the push names this ref more than once; push one value for it")
}

pub(crate) fn no_repo() -> String {
    String::from("denied: there is no such repository (any more)")
}

pub(crate) fn members_lag(partition: Partition) -> String {
    format!(
        "unavailable: partition {partition} has not heard of the last change of members; try again in a few seconds"
    )
}

pub(crate) fn order_void(void: &Void) -> String {
    match void {
        Void::RepoExists => String::from("the repository exists"),
        Void::NoSuchRepo => String::from("there is no such repository"),
        other => format!("the log did not take it: {other}"),
    }
}

/// Why an update was rejected, as of `wall_ms` by this site's wall clock: how long ago something happened is for
/// people, and two clocks may disagree about it.
pub(crate) fn rejection(name: &RefName, why: &Rejection, wall_ms: u64) -> String {
    match why {
        Rejection::Stale { at: Some(at) } => {
            let since = wall_ms.saturating_sub(at.time_ms) / 1_000;
            let (value, site) = (at.value.short(), &at.site);
            format!("stale: {name} is at {value} since {since} s (pushed at {site}); fetch and try again")
        }
        Rejection::Stale { at: None } => format!("stale: {name} does not exist any more; fetch and try again"),
        Rejection::NameConflict { with: Some(with) } => format!("name conflict: {with} exists; delete it first"),
        Rejection::NameConflict { with: None } => {
            format!("name conflict: there are refs below {name}/; delete them first")
        }
        Rejection::ReadOnly { reason } => format!("read only: {reason}"),
        Rejection::DeletesDenied => String::from("denied: this repository refuses deletions"),
        Rejection::NonFastForwardDenied => {
            String::from("denied: this repository refuses updates that are no fast-forward")
        }
        Rejection::HeadBranch => format!("denied: HEAD points to {name}; point it elsewhere before deleting"),
        Rejection::Atomic { culprit, why } => format!("atomic push failed: {culprit} was refused ({why})"),
        Rejection::NoSuchRepo => no_repo(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Offset, Oid};
    use crate::names::SiteId;
    use crate::table::RefEntry;

    #[test]
    fn a_stale_push_is_told_since_when_and_from_where() {
        let site = SiteId::parse("sfo").expect("valid");
        let at = Some(RefEntry { value: Oid([7; 20]), since: Offset(3), time_ms: 5_000, site });
        let name = RefName::parse("refs/heads/main").expect("valid");
        let text = |wall_ms| rejection(&name, &Rejection::Stale { at: at.clone() }, wall_ms);
        assert!(text(65_900).contains("since 60 s (pushed at sfo)"), "{}", text(65_900));
        assert!(text(1_000).contains("since 0 s"), "a clock behind the log's");
    }
}
