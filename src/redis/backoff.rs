//! Pauses between attempts.

use std::time::Duration;

use rand::RngExt as _;

/// The first pause; doubled each time up to the longest.
const FIRST: Duration = Duration::from_millis(50);

/// Growing pauses, with jitter so that nodes which lost the same server do not come back in step.
#[derive(Debug)]
pub struct Backoff {
    next: Duration,
    longest: Duration,
}

impl Backoff {
    /// Pauses up to `longest`.
    pub fn up_to(longest: Duration) -> Self {
        Self { next: FIRST, longest }
    }

    /// How long to wait now.
    pub fn pause(&mut self) -> Duration {
        let pause = self.next.min(self.longest);
        self.next = (pause * 2).max(FIRST);
        pause.mul_f64(rand::rng().random_range(0.5..1.0))
    }

    /// It worked: the next pause is a short one.
    pub fn reset(&mut self) {
        self.next = FIRST;
    }
}
