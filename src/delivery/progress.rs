//! What applying the log shows of a node's health: how far it is, whether the store answers, whether the bus does.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::event::{Applied, Position};
use crate::store::clock::Clock;
use crate::store::{LogState, SHARED_SESSIONS, Store, StoreError};

/// What is said of a store that does not answer.
const UNREACHABLE: &str = "the store is not reachable";

/// See the module. Written by the subscriber, read by readiness and the node's status.
#[derive(Debug)]
pub struct Progress {
    /// The database's time.
    pub clock: Arc<Clock>,
    began: Instant,
    /// Why the log could not be read when this was last tried.
    store_trouble: Mutex<Option<&'static str>>,
    /// Milliseconds since the node began, when its own bus heartbeat last came back; 0: never.
    bus_heartbeat_at: AtomicU64,
    lag: AtomicI64,
    /// Milliseconds since the node began, when it fell behind; 0: it is not behind.
    behind_since: AtomicU64,
}

impl Progress {
    /// Of a node that begins now.
    pub fn new(clock: Arc<Clock>) -> Self {
        Self {
            clock,
            began: Instant::now(),
            store_trouble: Mutex::new(Some(UNREACHABLE)),
            bus_heartbeat_at: AtomicU64::new(0),
            lag: AtomicI64::new(0),
            behind_since: AtomicU64::new(0),
        }
    }

    /// How long ago the node began.
    pub fn age(&self) -> Duration {
        self.began.elapsed()
    }

    /// The same in milliseconds.
    pub fn now(&self) -> u64 {
        u64::try_from(self.age().as_millis()).unwrap_or(u64::MAX)
    }

    /// Reads where the log stands, compared with what was applied of it, and learns the database's time and health.
    pub async fn log_state(&self, store: &Store, applied: Option<&Applied>) -> Result<LogState, StoreError> {
        let state = match applied {
            Some(applied) => store.compare(applied).await,
            None => store.log_state().await,
        };
        let trouble = state.as_ref().err().map(|error| match error {
            StoreError::SharedSessions => SHARED_SESSIONS,
            _ => UNREACHABLE,
        });
        *self.store_trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
        if let Ok(state) = &state {
            self.clock.set(state.now);
        }
        state
    }

    /// Why the log could not be read when this was last tried; nothing if it could.
    pub fn store_trouble(&self) -> Option<&'static str> {
        *self.store_trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A bus heartbeat of this node came back.
    pub fn received_bus_heartbeat(&self) {
        self.bus_heartbeat_at.store(self.now().max(1), Ordering::Relaxed);
    }

    /// When a bus heartbeat last came back, in milliseconds since the node began; `None`: never.
    pub fn bus_heartbeat_at(&self) -> Option<u64> {
        Some(self.bus_heartbeat_at.load(Ordering::Relaxed)).filter(|at| *at > 0)
    }

    /// Whether a bus heartbeat has come back in this time.
    pub fn has_received_bus_heartbeat_within(&self, span: Duration) -> bool {
        let bus_heartbeat_at = Duration::from_millis(self.bus_heartbeat_at.load(Ordering::Relaxed));
        !bus_heartbeat_at.is_zero() && self.age().saturating_sub(bus_heartbeat_at) <= span
    }

    /// How many positions the node's listeners are behind the log's head.
    pub fn set_lag(&self, lag: Position) {
        self.set_lag_at(lag, self.now());
    }

    fn set_lag_at(&self, lag: Position, now: u64) {
        self.lag.store(lag, Ordering::Relaxed);
        if lag <= 0 {
            self.behind_since.store(0, Ordering::Relaxed);
        } else {
            // Only if it was not behind already.
            let _ = self.behind_since.compare_exchange(0, now.max(1), Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    /// How many positions the node's listeners are behind.
    pub fn lag(&self) -> Position {
        self.lag.load(Ordering::Relaxed).max(0)
    }

    /// For how long they have been behind without a break.
    pub fn behind_for(&self) -> Duration {
        match self.behind_since.load(Ordering::Relaxed) {
            0 => Duration::ZERO,
            since => self.age().saturating_sub(Duration::from_millis(since)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_long_it_lags_is_counted_from_when_it_fell_behind() {
        let progress = Progress::new(Arc::default());
        for (lag, now, since) in [(0, 5, 0), (3, 10, 10), (9, 20, 10), (0, 30, 0), (1, 40, 40)] {
            progress.set_lag_at(lag, now);
            assert_eq!(progress.behind_since.load(Ordering::Relaxed), since, "at {now}");
        }
    }
}
