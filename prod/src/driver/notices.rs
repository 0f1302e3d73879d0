//! What the core wants somebody to see, in the daemon's own log and in what it counts.

use refrain_core::names::SiteId;
use refrain_core::port::Notice;

use super::Task;

impl Task {
    pub(super) fn notice(&self, notice: Notice) {
        match notice {
            Notice::ForeignRef { repo, name, actual } => {
                let actual = actual.map_or_else(|| "absent".to_string(), |oid| oid.to_string());
                tracing::warn!(%repo, %name, actual, "a ref was changed behind the daemon; it is put back");
            }
            Notice::ForeignShape { repo } => {
                tracing::warn!(%repo, "HEAD or Git settings were changed behind the daemon; they are put back");
            }
            Notice::Parked { partition, offset, missing } => {
                tracing::warn!(%partition, %offset, %missing, "an update waits for objects that cannot be had yet");
            }
            Notice::Stopped { partition, why } => {
                tracing::error!(%partition, why, "replication of this partition has stopped; an operator must decide");
            }
            Notice::FlippedLate { partition, offset, lacking } => {
                let lacking: Vec<_> = lacking.iter().map(SiteId::as_str).collect();
                tracing::warn!(%partition, %offset, lacking = lacking.join(" "), "shown by time: some sites lack it");
                self.tally.lock().expect("no thread panics while it counts").shown_late += 1;
            }
            Notice::Ready => {
                self.is_ready.send_replace(true);
            }
            Notice::InForce { instance } => tracing::info!(%instance, "this instance is in force"),
        }
    }
}
