//! What follows a commit. This node learns of it at once, without the bus; the announcer, a task, sends it to the others
//! and gives expiring events their keys.

use std::time::Instant;

use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::LiveKey;
use super::byte_budget::ByteBudget;
use super::size;
use crate::bus::Bus;
use crate::bus::message::MessageWriter;
use crate::event::{Checkpoint, Epoch, Event, Millis};
use crate::failpoint;
use crate::ttl::Ttl;

/// What others are to learn of one append.
pub(super) struct Committed {
    epoch: Epoch,
    previous: Checkpoint,
    /// Empty if there is nobody else on the bus.
    events: Vec<Event>,
    /// Of the events that expire: until when each key lives.
    keys: Vec<(String, Vec<u8>, Millis)>,
    /// When it was committed.
    at: Instant,
    /// Its share of what may wait.
    _budget: OwnedSemaphorePermit,
}

/// The ways from the writer to this node's own sequencer, and, bounded, to the announcer.
pub(super) struct Announcements {
    pub bus: Bus,
    pub messages: MessageWriter,
    pub queue: mpsc::Sender<Committed>,
    pub budget: ByteBudget,
}

impl Announcements {
    /// Delivers an append, `committed` then, to the history `epoch`, of which `previous` was the head, to this node, and has it announced to
    /// the others, unless too much waits already. Nothing is lost then: the next announcement shows the gap, and every
    /// node compares its position with the log's head.
    pub(super) fn offer(&self, epoch: Epoch, previous: Checkpoint, events: Vec<Event>, committed: Instant) {
        let key = |event: &Event| Some((live_key(&epoch, event)?, Vec::new(), event.expires_at?));
        let keys: Vec<_> = events.iter().filter_map(key).collect();
        let for_others = if self.bus.may_have_others() { events.clone() } else { Vec::new() };
        self.bus.deliver_here(self.messages.own_append(&epoch, previous, events));
        if for_others.is_empty() && keys.is_empty() {
            return;
        }
        let bytes = for_others.iter().map(|event| size(&event.data, &event.audience)).sum();
        let offered = self.budget.take(bytes).is_some_and(|budget| {
            let append =
                Committed { epoch, previous, events: for_others, keys, at: committed, _budget: budget };
            self.queue.try_send(append).is_ok()
        });
        if !offered {
            metrics::counter!("carillon_announcements_skipped_total").increment(1);
        }
    }
}

/// Announces each append to the other nodes, in order, and gives expiring events their keys.
pub(super) async fn announce(
    bus: Bus,
    writer: MessageWriter,
    ttl: Ttl,
    mut committed: mpsc::Receiver<Committed>,
) {
    while let Some(Committed { epoch, previous, events, keys, at, _budget }) = committed.recv().await {
        failpoint::die("announcing");
        if !events.is_empty() {
            let messages = writer.after_append(&epoch, previous, events);
            match bus.publish(&messages).await {
                Ok(()) => {
                    let took = at.elapsed().as_secs_f64();
                    metrics::histogram!("carillon_committed_to_announced_seconds").record(took);
                }
                Err(error) => {
                    metrics::counter!("carillon_announcements_failed_total").increment(1);
                    tracing::debug!(%error, "an announcement failed");
                }
            }
        }
        if !keys.is_empty() && ttl.put_until(&keys).await.is_err() {
            metrics::counter!("carillon_live_keys_failed_total").increment(keys.len() as u64);
        }
    }
}

fn live_key(epoch: &Epoch, event: &Event) -> Option<String> {
    let key = LiveKey { epoch: epoch.clone(), position: event.position, expires_at: event.expires_at? };
    Some(key.to_string())
}
