//! The bounded queue between a connection, which must never wait, and its one reader. What does not fit is a
//! gap, and a gap is always told.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use super::BusEvent;

/// Where a connection puts what it receives. Cheap to clone.
#[derive(Clone)]
pub(super) struct Inbox {
    events: mpsc::Sender<BusEvent>,
    /// A gap is waiting for room in the queue.
    owes_gap: Arc<AtomicBool>,
    /// The connection is good: once the gap is told, that is, too.
    is_up: Arc<AtomicBool>,
}

/// A queue for `capacity` events.
pub(super) fn inbox(capacity: usize) -> (Inbox, mpsc::Receiver<BusEvent>) {
    let (events, reader) = mpsc::channel(capacity.max(4));
    (Inbox { events, owes_gap: Arc::default(), is_up: Arc::default() }, reader)
}

impl Inbox {
    /// A message came. False once nobody reads.
    pub(super) fn message(&self, channel: &str, payload: Bytes) -> bool {
        self.put(BusEvent::Message { channel: channel.to_owned(), payload })
    }

    /// A channel is subscribed.
    pub(super) fn subscribed(&self, channel: &str) -> bool {
        self.put(BusEvent::Subscribed(channel.to_owned()))
    }

    /// The connection is lost, or doubtful.
    pub(super) fn gap(&self) -> bool {
        self.is_up.store(false, Ordering::SeqCst);
        self.put(BusEvent::Gap)
    }

    /// The connection is good and everything subscribed.
    pub(super) fn restored(&self) -> bool {
        self.is_up.store(true, Ordering::SeqCst);
        self.put(BusEvent::Restored)
    }

    /// Whether anybody still reads.
    pub(super) fn is_read(&self) -> bool {
        !self.events.is_closed()
    }

    /// Resolves when nobody reads any more.
    pub(super) async fn unread(&self) {
        self.events.closed().await;
    }

    fn put(&self, event: BusEvent) -> bool {
        if self.owes_gap.load(Ordering::SeqCst) {
            // What comes before the gap is told is part of it.
            return self.is_read();
        }
        match self.events.try_send(event) {
            Ok(()) => true,
            Err(TrySendError::Closed(_)) => false,
            Err(TrySendError::Full(_)) => {
                metrics::counter!("carillon_bus_overruns_total").increment(1);
                if !self.owes_gap.swap(true, Ordering::SeqCst) {
                    tokio::spawn(self.clone().pay());
                }
                true
            }
        }
    }

    /// Tells the gap as soon as there is room, and then that all is well if it is.
    async fn pay(self) {
        let Ok(mut room) = self.events.reserve_many(2).await else { return };
        if let Some(place) = room.next() {
            place.send(BusEvent::Gap);
        }
        self.owes_gap.store(false, Ordering::SeqCst);
        if self.is_up.load(Ordering::SeqCst)
            && let Some(place) = room.next()
        {
            place.send(BusEvent::Restored);
        }
    }
}
