//! Removing events that are older than they are to be kept: `--retention-days` of [`crate::config`].

use std::time::Duration;

use crate::event::Millis;
use crate::store::Store;
use crate::store::clock::Clock;

/// How many events are removed at once.
const BATCH: u32 = 5_000;
/// How long nodes can read what has ended. One that was cut off for longer finds out by asking about each of its
/// streams, and keeps no answer so long.
const ENDINGS_KEPT: Duration = Duration::from_secs(3_600);

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

/// Removes what has ended so long ago that every node has read it.
pub async fn remove_old_endings(store: &Store) {
    loop {
        match store.remove_old_endings(ENDINGS_KEPT, BATCH).await {
            Ok(removed) if removed < u64::from(BATCH) => return,
            Ok(_) => {}
            Err(error) => return tracing::warn!(%error, "retention of endings waits for the store"),
        }
    }
}
