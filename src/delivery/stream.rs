//! Streams of this node: a request is admitted, and begins when it has its connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::hub::{Hub, Refused, Registration};
use super::request::{Subscription, Wish};
use super::taken::Taken;
use crate::failpoint::is_armed;

/// What every stream of a node shares.
pub struct Streams {
    hub: Arc<Hub>,
    retry: Duration,
    delivered: Arc<AtomicU64>,
}

/// A stream that was admitted, and waits for its connection. Dropped, it leaves.
pub struct Opening {
    hub: Arc<Hub>,
    subscription: Subscription,
    wish: Wish,
    registration: Registration,
}

impl Streams {
    /// Streams told by `hub`. `retry`: how long a browser waits before it reconnects.
    pub fn new(hub: Arc<Hub>, retry: Duration) -> Self {
        Self { hub, retry, delivered: Arc::default() }
    }

    /// The counter of events that were handed to connections.
    pub fn counter(&self) -> Arc<AtomicU64> {
        self.delivered.clone()
    }

    /// How many events were handed to connections since the node began.
    pub fn delivered(&self) -> u64 {
        self.delivered.load(Ordering::Relaxed)
    }

    /// How long a browser waits before it reconnects.
    pub fn retry(&self) -> Duration {
        self.retry
    }

    /// Admits a stream.
    pub fn open(&self, subscription: Subscription, wish: Wish) -> Result<Opening, Refused> {
        let registration = self.hub.admit(&subscription)?;
        Ok(Opening { hub: self.hub.clone(), subscription, wish, registration })
    }
}

impl Opening {
    /// Begins on this connection.
    pub fn start(self, taken: Taken) {
        let Self { hub, subscription, mut wish, registration } = self;
        if is_armed("compare_off") {
            wish.resume = wish.resume.map(|resume| resume.map(|cursor| cursor.without_digest()));
        }
        hub.start(subscription, wish, registration, taken);
    }
}
