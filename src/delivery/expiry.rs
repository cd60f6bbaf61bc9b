//! Events that end while pages are open leave them at once: the key that lives as long as an event has ended.
//!
//! A key may end before its event does, when the clock of the server that holds it is ahead of the database's. What is
//! heard early waits here until the event ends.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;

use super::frame::ServerEvent;
use super::hub::Hub;
use crate::event::{Epoch, Millis, Position};
use crate::publishing::LiveKey;
use crate::store::Store;
use crate::store::clock::Clock;
use crate::ttl::Ttl;

/// How many events may wait for their end after their key has ended. Pages notice the end of others by their own clock.
const MAX_EARLY: usize = 10_000;
/// How often it is looked whether one that waits has ended: the database's clock may be set meanwhile.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Passes ended keys on to the streams.
pub struct Expirations {
    /// Whose listeners are notified.
    pub hub: Arc<Hub>,
    /// Where an event's audience is read that the hub does not remember.
    pub store: Store,
    /// Whether an event has ended is a matter of the database's clock.
    pub clock: Arc<Clock>,
    /// The history in force: keys of others mean nothing.
    pub epoch: watch::Receiver<Option<Epoch>>,
}

/// Events whose key has ended before them, the next to end first.
type Early = BinaryHeap<Reverse<(Millis, Position)>>;

impl Expirations {
    /// Runs for as long as the node does.
    pub async fn watch(self, ttl: Ttl) {
        let mut ended = ttl.expirations(LiveKey::PREFIX);
        let mut early = Early::new();
        let mut is_open = true;
        loop {
            tokio::select! {
                key = ended.recv(), if is_open => match key {
                    Some(key) => self.key_ended(&key, &mut early).await,
                    // The keys' watcher ends only with the process; waiting keeps this node's other tasks alive.
                    None => is_open = false,
                },
                () = sleep(self.until_next(&early)) => {}
            }
            while early.peek().is_some_and(|Reverse((ends, _))| *ends <= self.clock.now()) {
                let Some(Reverse((_, position))) = early.pop() else { break };
                self.expire(position).await;
            }
        }
    }

    async fn key_ended(&self, key: &str, early: &mut Early) {
        let Some(LiveKey { epoch, position, expires_at }) = LiveKey::parse(key) else { return };
        if self.epoch.borrow().as_ref() != Some(&epoch) {
            return;
        }
        if expires_at <= self.clock.now() {
            return self.expire(position).await;
        }
        metrics::counter!("carillon_live_keys_early_total").increment(1);
        if early.len() < MAX_EARLY {
            early.push(Reverse((expires_at, position)));
        } else {
            metrics::counter!("carillon_early_expirations_dropped_total").increment(1);
        }
    }

    fn until_next(&self, early: &Early) -> Duration {
        early.peek().map_or(LOOK_EVERY, |Reverse((ends, _))| {
            let left = u64::try_from(ends - self.clock.now()).unwrap_or(0);
            Duration::from_millis(left).min(LOOK_EVERY)
        })
    }

    /// Takes an event that has ended from those it is for.
    async fn expire(&self, position: Position) {
        let known = self.hub.lock().audience_of(position);
        let audience = match known {
            Some(audience) => audience,
            None => match self.store.event_at(position).await {
                Ok(Some(event)) => event.audience,
                Ok(None) => return,
                Err(error) => {
                    // Pages also watch the time themselves, and every read filters.
                    tracing::debug!(%error, "an expiration could not be passed on");
                    return;
                }
            },
        };
        let guard = self.hub.lock();
        guard.forget(&audience, position);
        guard.notify(&audience, ServerEvent::expire(position));
    }
}
