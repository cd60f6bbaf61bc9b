//! What the processes used (C8), how late events came, and whether the run was looked at to its end (C9).

use std::collections::BTreeMap;

use super::events::{Events, Standing};
use super::{Check, Promises, Verdict, shown};
use crate::ledger::{Ledger, Sample};

/// Whether each process stayed within bounds and came back to where it began.
pub fn resources(ledger: &Ledger, promises: &Promises, verdict: &mut Verdict) {
    let mut by_process: BTreeMap<&str, Vec<&Sample>> = BTreeMap::new();
    for sample in &ledger.samples {
        by_process.entry(&sample.process).or_default().push(sample);
    }
    for (process, mut samples) in by_process {
        samples.sort_by_key(|sample| sample.at);
        let (Some(first), Some(last)) = (samples.first(), samples.last()) else { continue };
        let peak = |of: fn(&Sample) -> u64| samples.iter().map(|sample| of(sample)).max().unwrap_or_default();
        let (resident, queued) = (peak(|sample| sample.resident), peak(|sample| sample.queued));
        let after = |first: u64, growth: u64| first.saturating_add(growth);
        let bounds = [
            ("bytes of memory at most", resident, promises.memory_peak),
            ("bytes of memory in the end", last.resident, after(first.resident, promises.memory_growth)),
            (
                "descriptors in the end",
                last.descriptors,
                after(first.descriptors, promises.descriptors_growth),
            ),
            ("queued at most", queued, promises.queued_peak),
            ("queued in the end", last.queued, after(first.queued, promises.queued_growth)),
        ];
        for (what, measured, bound) in bounds {
            if measured > bound {
                verdict.add(Check::C8, || format!("{process}: {measured} {what}, {bound} promised"));
            }
        }
        verdict.measurements.peak_memory = verdict.measurements.peak_memory.max(resident);
    }
}

/// Whether each event came in time, where that is promised.
pub fn delays(promises: &Promises, verdict: &mut Verdict) {
    let Some(promised) = promises.worst_delay else { return };
    let late: Vec<_> = verdict.delays.iter().copied().filter(|(_, delay)| *delay > promised).collect();
    for (at, delay) in late {
        verdict.add(Check::C9, || {
            format!("what came at {} came after {}, {} is promised", shown(at), shown(delay), shown(promised))
        });
    }
}

/// A run that was healed and not looked at afterwards proves nothing.
pub fn sentinels(ledger: &Ledger, events: &Events<'_>, verdict: &mut Verdict) {
    if ledger.healed.is_none() {
        return;
    }
    for fact in events.sentinels().iter().map(|index| &events.facts()[*index]) {
        if fact.standing != Standing::Acked {
            verdict.add(Check::C9, || format!("{} was not acknowledged", fact.key));
        }
    }
    if events.sentinels().is_empty() {
        verdict.add(Check::C9, || "no sentinel was published after healing".to_owned());
    }
}
