//! When a session is to be looked at by the clock: a wheel of slots, one for each tick of its turn. Adding costs nothing,
//! however many there are; what lies further ahead than a turn is looked at once each turn.

use crate::delivery::hub::SessionKey;
use crate::delivery::session::Tick;

/// How many ticks a turn has.
const SLOTS: usize = 2_048;

/// See the module. A session that is over stays until its slot comes, and is not found then.
#[derive(Debug)]
pub(super) struct Wheel {
    slots: Vec<Vec<(SessionKey, Tick)>>,
    /// Up to here everything was taken.
    taken: Tick,
    len: usize,
}

impl Wheel {
    pub(super) fn new(now: Tick) -> Self {
        Self { slots: (0..SLOTS).map(|_| Vec::new()).collect(), taken: now, len: 0 }
    }

    /// Puts a session in, for a tick that is yet to come.
    pub(super) fn add(&mut self, session: SessionKey, at: Tick) {
        let at = at.max(self.taken + 1);
        self.slots[at as usize % SLOTS].push((session, at));
        self.len += 1;
    }

    /// The next tick at which there may be something to take.
    pub(super) fn next(&self) -> Option<Tick> {
        if self.len == 0 {
            return None;
        }
        let slots = u32::try_from(SLOTS).unwrap_or(u32::MAX);
        (self.taken + 1..=self.taken + slots).find(|tick| !self.slots[*tick as usize % SLOTS].is_empty())
    }

    /// Takes all that are due.
    pub(super) fn take_due(&mut self, now: Tick) -> Vec<SessionKey> {
        let mut due = Vec::new();
        // Once around is everything.
        let first = now.saturating_sub(u32::try_from(SLOTS - 1).unwrap_or(0)).max(self.taken + 1);
        for tick in first..=now {
            let slot = &mut self.slots[tick as usize % SLOTS];
            if slot.iter().all(|(_, at)| *at <= now) {
                due.extend(std::mem::take(slot).into_iter().map(|(session, _)| session));
            } else {
                due.extend(slot.iter().filter(|(_, at)| *at <= now).map(|(session, _)| *session));
                slot.retain(|(_, at)| *at > now);
            }
        }
        self.taken = self.taken.max(now);
        self.len -= due.len();
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(id: u64) -> SessionKey {
        SessionKey { id, place: 0 }
    }

    #[test]
    fn each_is_taken_once_when_it_is_due() {
        let mut wheel = Wheel::new(10);
        for (id, at) in [(1, 11), (2, 12), (3, 12), (4, 10 + 2_048), (5, 12 + 2_048 * 3), (6, 3)] {
            wheel.add(key(id), at);
        }
        assert_eq!(wheel.next(), Some(11));
        let mut taken = Vec::new();
        for now in [11, 12, 12, 500, 2_058, 5_000, 7_000, 20_000] {
            let mut due: Vec<u64> = wheel.take_due(now).into_iter().map(|session| session.id).collect();
            due.sort_unstable();
            taken.push((now, due));
        }
        let expected = [
            (11, vec![1, 6]),
            (12, vec![2, 3]),
            (12, vec![]),
            (500, vec![]),
            (2_058, vec![4]),
            (5_000, vec![]),
        ];
        assert_eq!(taken[..6], expected);
        assert_eq!(taken[6], (7_000, vec![5]));
        assert_eq!((taken[7].1.len(), wheel.next()), (0, None));
    }
}
