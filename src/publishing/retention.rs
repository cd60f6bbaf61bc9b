//! Removing events that are older than they are to be kept.

use std::time::Duration;

use crate::event::Millis;
use crate::store::Store;
use crate::store::clock::Clock;

/// How many events are removed at once.
const BATCH: u32 = 5_000;

/// Removes all events that were committed longer than `keep` ago.
pub async fn remove_old(store: &Store, clock: &Clock, keep: Duration) {
    let keep = Millis::try_from(keep.as_millis()).unwrap_or(Millis::MAX);
    // Asked for, not the node's idea of it: what is removed in error is gone.
    let before = match store.log_state().await {
        Ok(state) => {
            clock.set(state.now);
            state.now.saturating_sub(keep)
        }
        Err(error) => return tracing::warn!(%error, "retention waits for the store"),
    };
    loop {
        match store.remove_before(before, BATCH).await {
            Ok(removed) => {
                metrics::counter!("carillon_retention_removed_total").increment(removed);
                if removed < u64::from(BATCH) {
                    return;
                }
            }
            Err(error) => return tracing::warn!(%error, "retention waits for the store"),
        }
    }
}
