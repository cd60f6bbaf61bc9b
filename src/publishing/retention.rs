//! Removing events that are older than they are to be kept (`--retention-days` of [`crate::config`]), and before that the
//! data of those that have expired.

use std::sync::Arc;
use std::time::Duration;

use crate::event::Millis;
use crate::store::clock::Clock;
use crate::store::{Store, StoreError};

/// How many rows are removed in one transaction.
const CHUNK: u32 = 5_000;
/// The fewest, when the database is slow.
const LEAST_CHUNK: u32 = 10;
/// How long an event keeps its data and recipients after it has expired.
const EXPIRED_KEPT: Duration = Duration::from_secs(3_600);
/// How long nodes can read what has ended. One that was cut off for longer finds out by asking about each of its
/// streams, and keeps no answer so long.
const ENDINGS_KEPT: Duration = Duration::from_secs(3_600);

/// What is kept.
#[derive(Debug, Clone)]
pub struct RetentionLimits {
    /// How long events are kept after they were committed.
    pub keep: Duration,
    /// Whether expired events keep their data and recipients as long as that.
    pub keep_expired: bool,
}

impl Default for RetentionLimits {
    fn default() -> Self {
        Self { keep: Duration::from_secs(30 * 86_400), keep_expired: false }
    }
}

/// Removes what is old, again and again.
pub struct Retention {
    store: Store,
    clock: Arc<Clock>,
    limits: RetentionLimits,
    /// How many rows a transaction removes: halved when it takes too long, doubled with each run.
    chunk: u32,
}

/// What is done in chunks.
#[derive(Debug, Clone, Copy)]
enum Job {
    RemoveOld { before: Millis },
    EmptyExpired { before: Millis },
}

impl Retention {
    /// Over this store; `clock` is set by it.
    pub fn new(store: Store, clock: Arc<Clock>, limits: RetentionLimits) -> Self {
        Self { store, clock, limits, chunk: CHUNK }
    }

    /// Removes what is to be removed by now. What fails is left to the next run.
    pub async fn run(&mut self) {
        self.chunk = self.chunk.saturating_mul(2).min(CHUNK);
        self.remove_old_endings().await;
        // Asked for, not the node's idea of it: what is removed in error is gone.
        let now = match self.store.log_state().await {
            Ok(state) => state.now,
            Err(error) => return failed(&error, self.chunk),
        };
        self.clock.set(now);
        let ago =
            |span: Duration| now.saturating_sub(Millis::try_from(span.as_millis()).unwrap_or(Millis::MAX));
        let removed = self.in_chunks(Job::RemoveOld { before: ago(self.limits.keep) }).await;
        let emptied = match self.limits.keep_expired {
            true => 0,
            false => self.in_chunks(Job::EmptyExpired { before: ago(EXPIRED_KEPT) }).await,
        };
        if removed + emptied > 0 {
            tracing::info!(removed, emptied, "retention: old events were removed, expired ones emptied");
        }
    }

    /// How many events it came to.
    async fn in_chunks(&mut self, job: Job) -> u64 {
        let mut all = 0;
        loop {
            let done = match job {
                Job::RemoveOld { before } => self.store.remove_before(before, self.chunk).await,
                Job::EmptyExpired { before } => self.store.empty_expired(before, self.chunk).await,
            };
            match done {
                Ok(events) => {
                    let counter = match job {
                        Job::RemoveOld { .. } => metrics::counter!("carillon_retention_removed_total"),
                        Job::EmptyExpired { .. } => metrics::counter!("carillon_retention_emptied_total"),
                    };
                    counter.increment(events);
                    all += events;
                    let is_over = match job {
                        Job::RemoveOld { .. } => events < u64::from(self.chunk),
                        Job::EmptyExpired { .. } => events == 0,
                    };
                    if is_over {
                        return all;
                    }
                }
                Err(error) => {
                    failed(&error, self.chunk);
                    if !matches!(error, StoreError::Unavailable(_)) || self.chunk == LEAST_CHUNK {
                        return all;
                    }
                    self.chunk = (self.chunk / 2).max(LEAST_CHUNK);
                }
            }
        }
    }

    /// Removes what has ended so long ago that every node has read it.
    async fn remove_old_endings(&self) {
        loop {
            match self.store.remove_old_endings(ENDINGS_KEPT, self.chunk).await {
                Ok(removed) if removed < u64::from(self.chunk) => return,
                Ok(_) => {}
                Err(error) => return failed(&error, self.chunk),
            }
        }
    }
}

/// Every failure is seen: a store in which nothing is removed any more grows until it is full.
fn failed(error: &StoreError, chunk: u32) {
    metrics::counter!("carillon_retention_failures_total").increment(1);
    tracing::warn!(%error, chunk, "retention could not remove a chunk");
}
