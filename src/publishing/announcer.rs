//! The announcer: one task of a node sends what was committed to all nodes, and gives expiring events their keys.

use tokio::sync::{OwnedSemaphorePermit, mpsc, watch};

use super::byte_budget::ByteBudget;
use super::live_key::LiveKey;
use super::size;
use crate::bus::Bus;
use crate::bus::message::MessageWriter;
use crate::event::{Epoch, Event, Millis, Position};
use crate::failpoint;
use crate::ttl::Ttl;

/// One append, committed.
pub(super) struct Committed {
    previous: Position,
    events: Vec<Event>,
    /// Its share of what may wait.
    _budget: OwnedSemaphorePermit,
}

/// The bounded way from the writer to the announcer.
pub(super) struct Announcements {
    pub queue: mpsc::Sender<Committed>,
    pub budget: ByteBudget,
}

impl Announcements {
    /// Has an append announced, unless too much waits already. Nothing is lost then: the next announcement
    /// shows the gap, and every node compares its position with the log's head.
    pub(super) fn offer(&self, previous: Position, events: Vec<Event>) {
        let bytes = events.iter().map(|event| size(&event.data, &event.audience)).sum();
        let offered = self.budget.take(bytes).is_some_and(|budget| {
            self.queue.try_send(Committed { previous, events, _budget: budget }).is_ok()
        });
        if !offered {
            metrics::counter!("carillon_announcements_skipped_total").increment(1);
        }
    }
}

/// Announces each append on the bus, in order, and gives expiring events their keys.
pub(super) async fn announce(
    epoch: watch::Receiver<Option<Epoch>>,
    bus: Bus,
    writer: MessageWriter,
    ttl: Ttl,
    mut committed: mpsc::Receiver<Committed>,
) {
    while let Some(Committed { previous, events, _budget }) = committed.recv().await {
        failpoint::die("announcing");
        let epoch = epoch.borrow().clone();
        let Some(epoch) = &epoch else {
            metrics::counter!("carillon_announcements_skipped_total").increment(1);
            continue;
        };
        let keys: Vec<(String, Vec<u8>, Millis)> = events
            .iter()
            .filter_map(|event| {
                let (position, expires_at) = (event.position, event.expires_at?);
                let key = LiveKey { epoch: epoch.clone(), position, expires_at };
                Some((key.name(), Vec::new(), expires_at))
            })
            .collect();
        let messages = writer.after_append(epoch, previous, events);
        if let Err(error) = bus.publish(&messages).await {
            metrics::counter!("carillon_announcements_failed_total").increment(1);
            tracing::debug!(%error, "an announcement failed");
        }
        if !keys.is_empty() && ttl.put_until(&keys).await.is_err() {
            metrics::counter!("carillon_live_keys_failed_total").increment(keys.len() as u64);
        }
    }
}
