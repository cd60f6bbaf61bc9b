//! Closing all streams one after the other, so that they do not all come back at once: whose turn it is.

use std::time::{Duration, Instant};

use crate::delivery::hub::SessionKey;

/// The streams that are still to be closed.
pub(super) struct Draining {
    left: Vec<SessionKey>,
    all: usize,
    begun: Instant,
    window: Duration,
}

impl Draining {
    /// Of these streams, over this time.
    pub(super) fn of(left: Vec<SessionKey>, window: Duration) -> Self {
        Self { all: left.len(), left, begun: Instant::now(), window }
    }

    /// One more has come.
    pub(super) fn add(&mut self, key: SessionKey) {
        self.left.push(key);
    }

    /// Takes those whose turn it is: all that are left once the time is over.
    pub(super) fn take_due(&mut self) -> Vec<SessionKey> {
        let part = match self.window.is_zero() {
            true => 1.0,
            false => self.begun.elapsed().as_secs_f64() / self.window.as_secs_f64(),
        };
        let may_stay = (self.all as f64 * (1.0 - part).max(0.0)) as usize;
        self.left.split_off(may_stay.min(self.left.len()))
    }
}
