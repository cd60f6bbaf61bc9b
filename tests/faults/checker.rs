//! Decides whether a run kept the promises, from its ledger alone.
//!
//! Nothing of the product's own logic is used here: what checks must not trust what it checks. A ledger is of one
//! history of the log: acknowledgements do not say which epoch their positions are of.

mod after;
mod events;
mod mark;
mod measurements;
mod stream;

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use carillon::event::Priority;

pub use mark::digest as digest_in;
pub use measurements::Measurements;

use crate::ledger::{At, Heard, Ledger, Listener};
use events::Events;

/// What is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Check {
    /// Every acknowledged event reached every entitled listener.
    C1,
    /// Once: never twice on one connection, and over all connections no more repeats than promised.
    C2,
    /// First receipts come in position order; what overtook by permission is only counted.
    C3,
    /// Cursors are sound: nothing they have seen comes first after them, nothing they claim is missing.
    C4,
    /// Nobody gets what is not theirs.
    C5,
    /// Nothing comes after its end plus a margin.
    C6,
    /// An unknown outcome is all or nothing; one key is one event.
    C7,
    /// Memory, descriptors and queues are bounded and come back.
    C8,
    /// After healing nothing lags behind for long, and where it is promised, not before either.
    C9,
}

impl Check {
    /// All of them.
    pub const ALL: [Self; 9] =
        [Self::C1, Self::C2, Self::C3, Self::C4, Self::C5, Self::C6, Self::C7, Self::C8, Self::C9];

    /// What it stands for, in a few words.
    pub fn title(self) -> &'static str {
        match self {
            Self::C1 => "every acknowledged event arrives",
            Self::C2 => "once",
            Self::C3 => "in order",
            Self::C4 => "cursors are sound",
            Self::C5 => "only what is theirs",
            Self::C6 => "nothing after its end",
            Self::C7 => "one key, one event, all or nothing",
            Self::C8 => "resources bounded",
            Self::C9 => "no lag",
        }
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

/// A promise that was not kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which check found it.
    pub check: Check,
    /// What happened, to whom and when.
    pub text: String,
}

/// What a run is held to.
#[derive(Debug, Clone, PartialEq)]
pub struct Promises {
    /// How long after its expiry an event may still come.
    pub expiry_margin: Duration,
    /// How long after the answer to a read the event may still come to that user.
    pub read_margin: Duration,
    /// How long after the answer to a retraction the event may still come.
    pub retraction_margin: Duration,
    /// How long after the answer to a revocation anything may still come to that listener.
    pub revocation_margin: Duration,
    /// An event that ended during the run is owed to those who were connected, with no fault about, for this
    /// long before it ended.
    pub deliver_within: Duration,
    /// How long after healing the sentinels may take, and everything with them.
    pub lag_zero_within: Duration,
    /// How long after its acknowledgement an event may first come to somebody who listens, faults or not; `None`: it
    /// is measured only.
    pub worst_delay: Option<Duration>,
    /// How many repeats over all connections of all listeners are forgiven.
    pub raw_repeats: usize,
    /// Whether a listener may be notified that its past is lost. If not, such a notice is a violation.
    pub resets: bool,
    /// The least priority that may overtake a lower one; `None`: order is strict.
    pub overtaking: Option<Priority>,
    /// The most resident memory of one process, in bytes.
    pub memory_peak: u64,
    /// How much more memory than in the beginning a process may hold in the end, in bytes.
    pub memory_growth: u64,
    /// How many more descriptors than in the beginning a process may hold in the end.
    pub descriptors_growth: u64,
    /// The most that may ever wait in a process's queues.
    pub queued_peak: u64,
    /// How much more than in the beginning may wait in the end.
    pub queued_growth: u64,
}

impl Default for Promises {
    fn default() -> Self {
        Self {
            expiry_margin: Duration::from_secs(1),
            read_margin: Duration::from_secs(2),
            retraction_margin: Duration::from_secs(2),
            revocation_margin: Duration::from_secs(5),
            deliver_within: Duration::from_secs(5),
            lag_zero_within: Duration::from_secs(20),
            worst_delay: None,
            raw_repeats: 0,
            resets: false,
            overtaking: Some(Priority::Normal),
            memory_peak: 512 << 20,
            memory_growth: 64 << 20,
            descriptors_growth: 64,
            queued_peak: 1_000_000,
            queued_growth: 0,
        }
    }
}

/// What the checker found.
#[derive(Debug, Clone, Default)]
pub struct Verdict {
    /// The first [`Verdict::IN_FULL`] of each check.
    pub violations: Vec<Violation>,
    /// What was measured.
    pub measurements: Measurements,
    /// Each first receipt of an acknowledged event: when, and how long after the acknowledgement (or after
    /// the listener began, if that was later). Listeners who read slowly do not count.
    pub delays: Vec<(At, Duration)>,
    counts: [usize; Check::ALL.len()],
}

impl Verdict {
    /// How many violations of each check are reported in full.
    pub const IN_FULL: usize = 20;

    /// Whether every promise was kept.
    pub fn is_clean(&self) -> bool {
        self.counts.iter().all(|count| *count == 0)
    }

    /// How many violations a check found, those not reported included.
    pub fn count(&self, check: Check) -> usize {
        self.counts[check as usize]
    }

    /// The checks that found something.
    pub fn broken(&self) -> Vec<Check> {
        Check::ALL.into_iter().filter(|check| self.count(*check) > 0).collect()
    }

    fn add(&mut self, check: Check, text: impl FnOnce() -> String) {
        let count = &mut self.counts[check as usize];
        *count += 1;
        if *count <= Self::IN_FULL {
            self.violations.push(Violation { check, text: text() });
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for violation in &self.violations {
            writeln!(f, "{}: {}", violation.check, violation.text)?;
        }
        for check in self.broken() {
            writeln!(f, "{check} ({}): {} in all", check.title(), self.count(check))?;
        }
        Ok(())
    }
}

/// Checks a run.
pub fn check(ledger: &Ledger, promises: &Promises) -> Verdict {
    let mut verdict = Verdict::default();
    let events = Events::gather(ledger, &mut verdict);
    let mut heard: HashMap<usize, Vec<&Heard>> = HashMap::new();
    for record in &ledger.heard {
        heard.entry(record.listener).or_default().push(record);
    }
    let mut listeners: Vec<&Listener> = ledger.listeners.iter().collect();
    listeners.sort_by_key(|listener| listener.id);
    for listener in listeners {
        let records = heard.remove(&listener.id).unwrap_or_default();
        stream::check(listener, &records, &events, promises, &mut verdict);
    }
    for listener in heard.keys() {
        // A ledger like this proves nothing.
        verdict.add(Check::C5, || format!("listener {listener} is not described"));
    }
    if verdict.measurements.raw_repeats > promises.raw_repeats {
        let (repeats, promised) = (verdict.measurements.raw_repeats, promises.raw_repeats);
        verdict.add(Check::C2, || format!("{repeats} repeats over all connections, {promised} are forgiven"));
    }
    after::delays(promises, &mut verdict);
    after::resources(ledger, promises, &mut verdict);
    after::sentinels(ledger, &events, &mut verdict);
    measurements::fill(ledger, &events, &mut verdict);
    verdict.violations.sort_by_key(|violation| violation.check);
    verdict
}

/// A time as people read it in a report.
fn shown(at: At) -> String {
    format!("{:.3} s", at.as_secs_f64())
}
