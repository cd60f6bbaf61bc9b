//! What is wrong with a Redis and since when: for readiness, the node's status and the log.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::Failure;

/// How often an outage that lasts is logged.
const LOG_EVERY: Duration = Duration::from_secs(60);
/// An outage is over with the first success this long after the last failure. Of several servers or several commands
/// some may work: successes between failures must not end it. Longer than two attempts to connect are apart.
const QUIET: Duration = Duration::from_secs(5);

/// Follows the calls to one Redis. Logs an outage when it begins, once a minute while it lasts, and when it is over.
#[derive(Debug)]
pub struct Outage {
    /// What the Redis is used for, in the log.
    purpose: &'static str,
    ongoing: Mutex<Option<Ongoing>>,
    /// Whether there is one, so that successes need no lock.
    is_ongoing: AtomicBool,
}

#[derive(Debug)]
struct Ongoing {
    failure: Failure,
    began: Instant,
    failed_at: Instant,
    logged_at: Instant,
}

/// The last failure of an outage, and when the outage began.
#[derive(Debug, Clone)]
pub struct OutageReport {
    /// Error code or category; holds no secret.
    pub error: String,
    /// When the first call failed.
    pub since: Instant,
}

/// What is to be logged.
#[derive(Debug, PartialEq, Eq)]
enum Change {
    Began,
    Lasts(Duration),
    Over(Duration),
}

impl Outage {
    /// Of a Redis used for this `purpose`; nothing is wrong so far.
    pub(super) fn new(purpose: &'static str) -> Self {
        Self { purpose, ongoing: Mutex::default(), is_ongoing: AtomicBool::new(false) }
    }

    /// The outage that lasts, if any.
    pub fn report(&self) -> Option<OutageReport> {
        self.lock().as_ref().map(|now| OutageReport { error: now.failure.0.clone(), since: now.began })
    }

    /// A call failed, or listening did.
    pub fn failed(&self, failure: &Failure) {
        let purpose = self.purpose;
        match self.failed_at(failure, Instant::now()) {
            Some(Change::Lasts(time)) => {
                tracing::warn!(purpose, error = %failure, seconds = time.as_secs(), "Redis still does not work");
            }
            Some(_) => tracing::warn!(purpose, error = %failure, "Redis does not work"),
            None => {}
        }
    }

    /// A call worked.
    pub fn worked(&self) {
        if self.is_ongoing.load(Ordering::Relaxed)
            && let Some(Change::Over(time)) = self.worked_at(Instant::now())
        {
            tracing::info!(purpose = self.purpose, seconds = time.as_secs(), "Redis works again");
        }
    }

    fn failed_at(&self, failure: &Failure, now: Instant) -> Option<Change> {
        let mut ongoing = self.lock();
        let Some(outage) = &mut *ongoing else {
            *ongoing = Some(Ongoing { failure: failure.clone(), began: now, failed_at: now, logged_at: now });
            self.is_ongoing.store(true, Ordering::Relaxed);
            return Some(Change::Began);
        };
        outage.failure = failure.clone();
        outage.failed_at = now;
        if now.saturating_duration_since(outage.logged_at) < LOG_EVERY {
            return None;
        }
        outage.logged_at = now;
        Some(Change::Lasts(now - outage.began))
    }

    fn worked_at(&self, now: Instant) -> Option<Change> {
        let mut ongoing = self.lock();
        let over = ongoing.take_if(|outage| now.saturating_duration_since(outage.failed_at) >= QUIET)?;
        self.is_ongoing.store(false, Ordering::Relaxed);
        Some(Change::Over(now.saturating_duration_since(over.began)))
    }

    fn lock(&self) -> MutexGuard<'_, Option<Ongoing>> {
        self.ongoing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_logged_when_it_begins_each_minute_and_when_it_is_over() {
        let (outage, began) = (Outage::new("test"), Instant::now());
        let at = |seconds: f64| began + Duration::from_secs_f64(seconds);
        let code = |code: &str| Failure(code.to_owned());
        assert_eq!(outage.worked_at(at(0.0)), None);
        assert!(outage.report().is_none());
        assert_eq!(outage.failed_at(&code("NOAUTH"), at(0.0)), Some(Change::Began));
        let mut lines = Vec::new();
        for seconds in 1..=190 {
            let seconds = f64::from(seconds);
            lines.extend(outage.failed_at(&code("DENIED"), at(seconds)));
            // What works in between does not end it.
            assert_eq!(outage.worked_at(at(seconds + 0.5)), None);
        }
        assert_eq!(lines, [60, 120, 180].map(|s| Change::Lasts(Duration::from_secs(s))));
        let report = outage.report().unwrap();
        assert_eq!((report.error.as_str(), report.since), ("DENIED", began));
        assert_eq!(outage.worked_at(at(195.0)), Some(Change::Over(Duration::from_secs(195))));
        assert!(outage.report().is_none());
        assert_eq!(outage.worked_at(at(196.0)), None);
        assert_eq!(outage.failed_at(&code("NOAUTH"), at(197.0)), Some(Change::Began));
    }
}
