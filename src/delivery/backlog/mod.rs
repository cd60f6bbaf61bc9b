//! What a stream missed, or begins with, is read from the store: jobs of the runtime, whose answers a session takes.

mod history;
mod replay;

use std::sync::Arc;

use tokio::sync::Semaphore;

use super::frame::Delivery;
use crate::event::{Checkpoint, Cursor, Epoch, Position};
use crate::store::{Reader, Store, StoreError};

/// Bounds on reads.
#[derive(Debug, Clone)]
pub struct ReadLimits {
    /// How many events are read from the store at once for one stream.
    pub replay_events: u32,
    /// How many bytes of backlog one stream holds at most (and at least one event).
    pub replay_bytes: usize,
    /// How many events of history, and how many bytes of them, one stream holds at most; the oldest are left out.
    pub history_events: usize,
    /// See `history_events`.
    pub history_bytes: usize,
    /// How many streams of this node read the store at once.
    pub concurrent_replays: usize,
}

impl Default for ReadLimits {
    fn default() -> Self {
        Self {
            replay_events: 200,
            replay_bytes: 64 * 1024,
            history_events: 1_000,
            history_bytes: 512 * 1024,
            concurrent_replays: 8,
        }
    }
}

/// What a session wants to have read.
#[derive(Debug, Clone)]
pub enum Want {
    /// The next page of what its reader missed.
    Replay {
        /// What was sent. Of this history.
        cursor: Cursor,
        /// As far as that, inclusive.
        up_to: Checkpoint,
        /// Looking at no more events.
        limit: u32,
    },
    /// The last events of each of its topics.
    History {
        /// Of this history.
        epoch: Epoch,
        /// As far as that, inclusive.
        up_to: Checkpoint,
        /// How many of each.
        of_each: u32,
    },
}

/// What was read.
#[derive(Debug)]
pub enum Found {
    /// A page of backlog.
    Page(Page),
    /// What comes next is not in the log any more, or never was; why.
    Lost(&'static str),
    /// A history.
    History(History),
}

/// A page of backlog: all up to `end` that concerns the reader and was not sent, and perhaps some urgent ones beyond it.
#[derive(Debug)]
pub struct Page {
    /// In the order of positions.
    pub events: Vec<Arc<Delivery>>,
    /// It is complete up to here.
    pub end: Checkpoint,
    /// Of what is urgent it is complete up to here.
    pub urgent_end: Position,
    /// How many events to look at for the next one.
    pub next_limit: u32,
}

/// The history of a stream's topics, the oldest first.
#[derive(Debug)]
pub struct History {
    /// Its events.
    pub events: Vec<Arc<Delivery>>,
    /// Whether it is all that was asked for.
    pub is_complete: bool,
}

/// Reads for all streams of a node, so many at a time.
#[derive(Debug)]
pub struct Reads {
    store: Store,
    limits: ReadLimits,
    turns: Semaphore,
}

impl Reads {
    /// From this store.
    pub fn new(store: Store, limits: ReadLimits) -> Self {
        let turns = Semaphore::new(limits.concurrent_replays);
        Self { store, limits, turns }
    }

    /// How many events a page has at most.
    pub fn page(&self) -> u32 {
        self.limits.replay_events
    }

    /// Reads what `reader`'s session wants, when it is its turn.
    pub async fn read(&self, reader: &Reader, want: Want) -> Result<Found, StoreError> {
        // Never closed, so this only waits.
        let _turn = self.turns.acquire().await;
        match want {
            Want::Replay { cursor, up_to, limit } => self.replay(reader, cursor, up_to.position, limit).await,
            Want::History { epoch, up_to, of_each } => {
                let history = self.history(reader, &epoch, up_to.position, of_each).await?;
                Ok(Found::History(history))
            }
        }
    }
}

#[cfg(test)]
impl Reads {
    /// Keeps one turn from others.
    pub(super) async fn turn(&self) -> tokio::sync::SemaphorePermit<'_> {
        self.turns.acquire().await.unwrap()
    }
}
