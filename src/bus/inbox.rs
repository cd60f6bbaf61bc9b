//! The bounded queue between a connection, which must never wait, and its one reader. What does not fit is a
//! gap, and a gap is always told.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Semaphore, SemaphorePermit, mpsc};

use super::{BusEvent, BusLimits};

/// Where a connection puts what it receives. Cheap to clone.
#[derive(Clone)]
pub(super) struct Inbox {
    events: mpsc::Sender<BusEvent>,
    bytes: Room,
    /// A gap is waiting for room in the queue.
    owes_gap: Arc<AtomicBool>,
    /// The connection is good: once the gap is told, that is, too.
    is_up: Arc<AtomicBool>,
}

/// The reader's end of the queue.
#[derive(Debug)]
pub struct BusEvents {
    queue: mpsc::Receiver<BusEvent>,
    bytes: Room,
}

impl BusEvents {
    /// The next event; `None` once the bus is gone. Nothing is lost when this is dropped half way.
    pub async fn recv(&mut self) -> Option<BusEvent> {
        let event = self.queue.recv().await?;
        self.bytes.give_back(&event);
        Some(event)
    }

    /// The next event, if one is there.
    pub fn try_recv(&mut self) -> Option<BusEvent> {
        let event = self.queue.try_recv().ok()?;
        self.bytes.give_back(&event);
        Some(event)
    }
}

/// How many bytes of messages the queue still takes.
#[derive(Debug, Clone)]
struct Room {
    left: Arc<Semaphore>,
    all: u32,
}

impl Room {
    /// What an event takes; one message always fits, however large.
    fn share(&self, event: &BusEvent) -> u32 {
        let BusEvent::Message { payload, .. } = event else { return 0 };
        u32::try_from(payload.len()).unwrap_or(u32::MAX).min(self.all)
    }

    fn take(&self, event: &BusEvent) -> bool {
        self.left.try_acquire_many(self.share(event)).map(SemaphorePermit::forget).is_ok()
    }

    fn give_back(&self, event: &BusEvent) {
        self.left.add_permits(self.share(event) as usize);
    }

    /// Waits until the queue has been read in good part.
    async fn half_empty(&self) {
        // Never closed, so this only waits.
        let _half = self.left.acquire_many(self.all / 2).await;
    }
}

/// A queue for so many events and bytes of messages.
pub(super) fn inbox(limits: &BusLimits) -> (Inbox, BusEvents) {
    let (events, queue) = mpsc::channel(limits.queue.max(4));
    let bytes = Room { left: Arc::new(Semaphore::new(limits.queue_bytes as usize)), all: limits.queue_bytes };
    let reader = BusEvents { queue, bytes: bytes.clone() };
    (Inbox { events, bytes, owes_gap: Arc::default(), is_up: Arc::default() }, reader)
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
        if !self.bytes.take(&event) {
            return self.overrun();
        }
        match self.events.try_send(event) {
            Ok(()) => true,
            Err(TrySendError::Closed(_)) => false,
            Err(TrySendError::Full(event)) => {
                self.bytes.give_back(&event);
                self.overrun()
            }
        }
    }

    fn overrun(&self) -> bool {
        metrics::counter!("carillon_bus_overruns_total").increment(1);
        if !self.owes_gap.swap(true, Ordering::SeqCst) {
            tokio::spawn(self.clone().pay());
        }
        self.is_read()
    }

    /// Tells the gap as soon as there is room, and then that all is well if it is.
    async fn pay(self) {
        tokio::select! {
            () = self.bytes.half_empty() => {}
            () = self.unread() => return,
        }
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
