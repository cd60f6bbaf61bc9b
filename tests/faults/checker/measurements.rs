//! What was measured in a run.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use super::Verdict;
use super::events::{Events, Standing};
use super::stream::gives_id;
use crate::ledger::{At, Ledger, What};

/// What was measured in a run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Measurements {
    /// Events that were acknowledged.
    pub acked: usize,
    /// Events of whose outcome no publisher was informed.
    pub unknown: usize,
    /// Events that were refused.
    pub failed: usize,
    /// Logical listeners.
    pub listeners: usize,
    /// Events received, repeats included.
    pub deliveries: usize,
    /// Acknowledged events that a listener never got: pairs of both.
    pub lost: usize,
    /// Events received again by the same listener.
    pub raw_repeats: usize,
    /// First receipts after one of a later position.
    pub overtakings: usize,
    /// The longest time from acknowledgement to first receipt. Listeners who read slowly do not count.
    pub worst_delay: Duration,
    /// Half of all first receipts were faster.
    pub p50_delay: Duration,
    /// 99 of 100 first receipts were faster.
    pub p99_delay: Duration,
    /// The longest time that a listener was without a stream.
    pub longest_outage: Duration,
    /// How often a listener was notified that its past is lost.
    pub resets: usize,
    /// The most resident memory of one process, in bytes.
    pub peak_memory: u64,
    /// How long after healing the last sentinel came; `None`: none did.
    pub caught_up_after: Option<Duration>,
}

/// Fills in what the checks did not count on their way.
pub fn fill(ledger: &Ledger, events: &Events<'_>, verdict: &mut Verdict) {
    let count = |standing| events.facts().iter().filter(|fact| fact.standing == standing).count();
    let mut delays: Vec<Duration> = verdict.delays.iter().map(|(_, delay)| *delay).collect();
    delays.sort_unstable();
    let at_percent = |percent: usize| {
        let place = (delays.len() * percent).div_ceil(100).saturating_sub(1);
        delays.get(place).copied().unwrap_or_default()
    };
    let measurements = &mut verdict.measurements;
    measurements.acked = count(Standing::Acked);
    measurements.unknown = count(Standing::Unknown);
    measurements.failed = count(Standing::Failed);
    measurements.listeners = ledger.listeners.len();
    measurements.worst_delay = at_percent(100);
    measurements.p50_delay = at_percent(50);
    measurements.p99_delay = at_percent(99);
    measurements.longest_outage = longest_outage(ledger, events);
}

/// From the end of a stream (or the first attempt at one) to the first id of the next. A listener that was
/// revoked or left has no outage; one without a stream in the end has one until the run's end.
fn longest_outage(ledger: &Ledger, events: &Events<'_>) -> Duration {
    let mut without: HashMap<usize, At> = HashMap::new();
    let mut with = HashSet::new();
    let mut longest = Duration::ZERO;
    for heard in &ledger.heard {
        match &heard.what {
            What::Opened { .. } | What::Closed { .. } => {
                with.remove(&heard.listener);
                without.entry(heard.listener).or_insert(heard.at);
            }
            what if gives_id(what) && with.insert(heard.listener) => {
                if let Some(since) = without.remove(&heard.listener) {
                    longest = longest.max(heard.at.saturating_sub(since));
                }
            }
            _ => {}
        }
    }
    let staying = ledger.listeners.iter().filter(|listener| events.gone(listener).is_none());
    let lasting = staying.filter_map(|listener| without.get(&listener.id));
    lasting.map(|since| events.run_end.saturating_sub(*since)).fold(longest, Duration::max)
}
