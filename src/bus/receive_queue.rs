//! The bounded queue between a connection, which must never wait, and its one reader. What does not fit is a
//! gap, and a gap is always reported.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Semaphore, SemaphorePermit, mpsc};

use super::message::Received;
use super::{BusEvent, BusLimits};

/// Where a connection puts what it receives. Cheap to clone.
#[derive(Clone)]
pub(super) struct ReceiveQueue {
    events: mpsc::Sender<BusEvent>,
    budget: ByteBudget,
    /// A gap that waits until the queue takes it.
    gap_pending: Arc<AtomicBool>,
    /// The connection is good: reported after the gap.
    is_up: Arc<AtomicBool>,
}

/// The reader's end of the queue.
#[derive(Debug)]
pub struct BusEvents {
    queue: mpsc::Receiver<BusEvent>,
    budget: ByteBudget,
}

impl BusEvents {
    /// The next event; `None` once the bus is gone. Nothing is lost when this is dropped half way.
    pub async fn recv(&mut self) -> Option<BusEvent> {
        let event = self.queue.recv().await?;
        self.budget.release(&event);
        Some(event)
    }

    /// The next event, if one is there.
    pub fn try_recv(&mut self) -> Option<BusEvent> {
        let event = self.queue.try_recv().ok()?;
        self.budget.release(&event);
        Some(event)
    }
}

/// How many bytes of messages the queue still takes.
#[derive(Debug, Clone)]
struct ByteBudget {
    free: Arc<Semaphore>,
    all: u32,
}

impl ByteBudget {
    /// What an event costs; one message always fits, however large.
    fn cost(&self, event: &BusEvent) -> u32 {
        let bytes = match event {
            BusEvent::Message { payload, .. } => payload.len(),
            BusEvent::Own(own) => own.size(),
            BusEvent::Subscribed(_) | BusEvent::Gap | BusEvent::Restored => 0,
        };
        u32::try_from(bytes).unwrap_or(u32::MAX).min(self.all)
    }

    fn acquire(&self, event: &BusEvent) -> bool {
        self.free.try_acquire_many(self.cost(event)).map(SemaphorePermit::forget).is_ok()
    }

    fn release(&self, event: &BusEvent) {
        self.free.add_permits(self.cost(event) as usize);
    }

    /// Waits until the queue has been read in good part.
    async fn half_empty(&self) {
        // Never closed, so this only waits.
        let _half = self.free.acquire_many(self.all / 2).await;
    }
}

/// A queue for so many events and bytes of messages.
pub(super) fn receive_queue(limits: &BusLimits) -> (ReceiveQueue, BusEvents) {
    let (events, queue) = mpsc::channel(limits.queue.max(4));
    let budget =
        ByteBudget { free: Arc::new(Semaphore::new(limits.queue_bytes as usize)), all: limits.queue_bytes };
    let reader = BusEvents { queue, budget: budget.clone() };
    (ReceiveQueue { events, budget, gap_pending: Arc::default(), is_up: Arc::default() }, reader)
}

impl ReceiveQueue {
    /// A message came. False once the reader is gone.
    pub(super) fn message(&self, channel: &str, payload: Bytes) -> bool {
        self.put(BusEvent::Message { channel: channel.to_owned(), payload })
    }

    /// The node delivers this to itself. False once the reader is gone.
    pub(super) fn own(&self, own: Received) -> bool {
        self.put(BusEvent::Own(Box::new(own)))
    }

    /// A channel is subscribed.
    pub(super) fn subscribed(&self, channel: &str) -> bool {
        self.put(BusEvent::Subscribed(channel.to_owned()))
    }

    /// The connection is lost, or may be.
    pub(super) fn gap(&self) -> bool {
        self.is_up.store(false, Ordering::SeqCst);
        self.put(BusEvent::Gap)
    }

    /// The connection is good and everything subscribed.
    pub(super) fn restored(&self) -> bool {
        self.is_up.store(true, Ordering::SeqCst);
        self.put(BusEvent::Restored)
    }

    /// Whether the reader is still there.
    pub(super) fn has_reader(&self) -> bool {
        !self.events.is_closed()
    }

    /// Resolves when the reader is gone.
    pub(super) async fn reader_gone(&self) {
        self.events.closed().await;
    }

    fn put(&self, event: BusEvent) -> bool {
        if self.gap_pending.load(Ordering::SeqCst) {
            // What comes before the gap is reported is part of it.
            return self.has_reader();
        }
        if !self.budget.acquire(&event) {
            return self.overrun();
        }
        match self.events.try_send(event) {
            Ok(()) => true,
            Err(TrySendError::Closed(_)) => false,
            Err(TrySendError::Full(event)) => {
                self.budget.release(&event);
                self.overrun()
            }
        }
    }

    fn overrun(&self) -> bool {
        metrics::counter!("carillon_bus_overruns_total").increment(1);
        if !self.gap_pending.swap(true, Ordering::SeqCst) {
            tokio::spawn(self.clone().report_gap());
        }
        self.has_reader()
    }

    /// Reports the gap as soon as the queue takes it, and then that the connection is good if it is.
    async fn report_gap(self) {
        tokio::select! {
            () = self.budget.half_empty() => {}
            () = self.reader_gone() => return,
        }
        let Ok(mut slots) = self.events.reserve_many(2).await else { return };
        if let Some(slot) = slots.next() {
            slot.send(BusEvent::Gap);
        }
        self.gap_pending.store(false, Ordering::SeqCst);
        if self.is_up.load(Ordering::SeqCst)
            && let Some(slot) = slots.next()
        {
            slot.send(BusEvent::Restored);
        }
    }
}
