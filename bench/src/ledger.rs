//! What listeners got, against what was published: nothing may be missing, come twice, or reach somebody else.

use std::time::Duration;

use hdrhistogram::Histogram;
use memchr::memmem::Finder;

use crate::scenario::{Load, To};
use crate::stream::number;

/// The longest delay that a histogram tells from longer ones.
const LONGEST: u64 = 600_000_000;

/// What one published event carries: its number, when it was due (nanoseconds of the clock of the run), and what fills it
/// up to `size` bytes.
pub fn payload(event: u64, due: u64, size: usize) -> String {
    let mut text = format!("{{\"bench_number\":{event},\"bench_due\":{due},\"fill\":\"");
    let fill = size.saturating_sub(text.len() + 2);
    text.extend(std::iter::repeat_n('x', fill));
    text.push_str("\"}");
    text
}

/// The user whom an event is for: any, but the same whenever it is asked.
pub fn user_of(event: u64, users: usize) -> usize {
    let mut mixed = (event + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    mixed = (mixed ^ (mixed >> 32)).wrapping_mul(0xD6E8_FEB8_6659_FD93);
    ((mixed ^ (mixed >> 32)) % users as u64) as usize
}

/// An empty histogram of microseconds.
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LONGEST, 3).expect("the bounds are valid")
}

/// See the module.
pub struct Ledger {
    load: Load,
    /// A bit for each event of each listener; where each is for one user, for each event.
    seen: Vec<u64>,
    /// The event that each listener got last.
    last: Vec<Option<u64>>,
    number: Finder<'static>,
    due: Finder<'static>,
    /// Events that came, each once.
    pub received: u64,
    /// When the last of them came, on the clock of the run.
    pub last_at: Duration,
    /// Events that came again.
    pub repeated: u64,
    /// Events that reached somebody they were not for.
    pub misdelivered: u64,
    /// Events that came after a later one.
    pub disordered: u64,
    /// Microseconds from when an event was due until it was read.
    pub delays: Histogram<u64>,
}

impl Ledger {
    pub fn new(load: Load) -> Self {
        let bits = match load.to {
            To::Everyone => load.listeners * load.events as usize,
            To::OneUser => load.events as usize,
        };
        Self {
            seen: vec![0; bits.div_ceil(64)],
            last: vec![None; load.listeners],
            load,
            number: Finder::new(b"\"bench_number\":"),
            due: Finder::new(b"\"bench_due\":"),
            received: 0,
            last_at: Duration::ZERO,
            repeated: 0,
            misdelivered: 0,
            disordered: 0,
            delays: histogram(),
        }
    }

    /// How many deliveries there must be.
    pub fn expected(&self) -> u64 {
        match self.load.to {
            To::Everyone => self.load.listeners as u64 * self.load.events,
            To::OneUser => self.load.events,
        }
    }

    /// A listener read an event of its stream. What was not published here is a server's own, or a comment.
    pub fn read(&mut self, listener: usize, event: &[u8], now: Duration) {
        let Some(published) = number(event, &self.number) else { return };
        let is_for = match self.load.to {
            To::Everyone => true,
            To::OneUser => user_of(published, self.load.listeners) == listener,
        };
        if published >= self.load.events || !is_for {
            self.misdelivered += 1;
            return;
        }
        let place = match self.load.to {
            To::Everyone => listener * self.load.events as usize + published as usize,
            To::OneUser => published as usize,
        };
        let (word, bit) = (&mut self.seen[place / 64], 1 << (place % 64));
        if *word & bit != 0 {
            self.repeated += 1;
            return;
        }
        *word |= bit;
        self.received += 1;
        self.last_at = now;
        self.disordered += u64::from(self.last[listener] > Some(published));
        self.last[listener] = self.last[listener].max(Some(published));
        if let Some(due) = number(event, &self.due) {
            let delay = now.saturating_sub(Duration::from_nanos(due));
            self.delays.saturating_record(u64::try_from(delay.as_micros()).unwrap_or(LONGEST).max(1));
        }
    }

    /// What is wrong; empty: nothing.
    pub fn faults(&self) -> Vec<String> {
        let lost = self.expected() - self.received;
        // Of several publishers at once nobody knows whose event was first.
        let disordered = if self.load.in_flight == 1 { self.disordered } else { 0 };
        let all = [
            ("lost", lost),
            ("repeated", self.repeated),
            ("for somebody else", self.misdelivered),
            ("out of order", disordered),
        ];
        let wrong = all.into_iter().filter(|(_, number)| *number > 0);
        wrong.map(|(what, number)| format!("{number} of {} events {what}", self.expected())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_millis(3);

    fn ledger(to: To, listeners: usize, events: u64) -> Ledger {
        let load = Load { listeners, events, to, in_flight: 1, ..Load::default() };
        Ledger::new(load)
    }

    fn all_read(ledger: &mut Ledger) {
        for event in 0..ledger.load.events {
            let text = payload(event, 1_000_000, 200);
            assert_eq!(text.len(), 200);
            for listener in 0..ledger.load.listeners {
                if ledger.load.to == To::Everyone || user_of(event, ledger.load.listeners) == listener {
                    ledger.read(listener, text.as_bytes(), NOW);
                }
            }
        }
    }

    #[test]
    fn what_came_to_all_once_and_in_order_is_right() {
        for to in [To::Everyone, To::OneUser] {
            let mut ledger = ledger(to, 3, 100);
            assert_eq!(ledger.faults().len(), 1, "nothing came yet");
            all_read(&mut ledger);
            assert_eq!(ledger.faults(), Vec::<String>::new());
            assert_eq!(ledger.delays.max(), 2_000);
            ledger.read(0, b": a comment", NOW);
            assert_eq!(ledger.faults(), Vec::<String>::new());
        }
    }

    #[test]
    fn every_fault_is_told() {
        let read = |ledger: &mut Ledger, event| ledger.read(0, payload(event, 0, 0).as_bytes(), NOW);
        let mut one = ledger(To::Everyone, 1, 4);
        [0, 2, 1, 1, 9].into_iter().for_each(|event| read(&mut one, event));
        let wanted = ["1 of 4 events lost", "1 of 4 events repeated", "1 of 4 events for somebody else"];
        let wanted = [&wanted[..], &["1 of 4 events out of order"]].concat();
        assert_eq!(one.faults(), wanted);

        let mut users = ledger(To::OneUser, 2, 1);
        users.read(1 - user_of(0, 2), payload(0, 0, 0).as_bytes(), NOW);
        assert_eq!(users.faults(), ["1 of 1 events lost", "1 of 1 events for somebody else"]);
    }
}
