//! What all sessions of a reactor have in common, and time: passed in, so that any order of events can be tested.

use std::time::Duration;

use crate::event::{Checkpoint, Epoch, Millis};

/// A moment, in ticks of a reactor's clock.
pub type Tick = u32;

/// How long a tick is.
pub const TICK: Duration = Duration::from_millis(250);

/// So many ticks, at least one.
pub fn ticks(span: Duration) -> Tick {
    let ticks = span.as_millis().div_ceil(TICK.as_millis());
    Tick::try_from(ticks).unwrap_or(Tick::MAX / 2).clamp(1, Tick::MAX / 2)
}

/// Bounds on what a stream may cost, and when it gets what.
#[derive(Debug, Clone)]
pub struct SessionLimits {
    /// The most events that wait for one stream; more and it lags.
    pub queue_events: usize,
    /// The most bytes of events that wait for one stream; more and it lags.
    pub queue_bytes: usize,
    /// About how many bytes are handed to the socket in one write.
    pub write_bytes: usize,
    /// How many events a page of backlog has at most.
    pub page: u32,
    /// How long a browser waits before it reconnects.
    pub retry: Duration,
    /// A stream that has been quiet this long gets a keep-alive.
    pub keep_alive_every: Duration,
    /// A stream whose client takes nothing for this long is closed.
    pub stall_timeout: Duration,
    /// A stream older than this (less up to a tenth) is asked to reconnect.
    pub max_age: Duration,
}

impl Default for SessionLimits {
    fn default() -> Self {
        Self {
            queue_events: 256,
            queue_bytes: 256 * 1024,
            write_bytes: 16 * 1024,
            page: 200,
            retry: Duration::from_secs(1),
            keep_alive_every: Duration::from_secs(15),
            stall_timeout: Duration::from_secs(600),
            max_age: Duration::from_secs(4 * 3600),
        }
    }
}

/// See the module.
#[derive(Debug)]
pub struct Context {
    /// The history in force.
    pub epoch: Epoch,
    /// The last position that was handed to sessions.
    pub applied: Checkpoint,
    /// Whether cursors are written with a digest.
    pub has_digests: bool,
    /// The database's time.
    pub now: Millis,
    /// The reactor's time.
    pub tick: Tick,
    /// See there.
    pub limits: SessionLimits,
}
