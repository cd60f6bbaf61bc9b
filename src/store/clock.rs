//! The database's clock, as this process knows it.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::event::Millis;

/// Gives the database's time, so that nodes whose own clocks differ agree on what has expired.
#[derive(Debug, Default)]
pub struct Clock {
    offset: AtomicI64,
}

impl Clock {
    /// The database's time now.
    pub fn now(&self) -> Millis {
        local() + self.offset.load(Ordering::Relaxed)
    }

    /// The database just said what time it is.
    pub fn set(&self, now: Millis) {
        self.offset.store(now - local(), Ordering::Relaxed);
    }
}

fn local() -> Millis {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_millis().try_into().unwrap_or(Millis::MAX))
}
