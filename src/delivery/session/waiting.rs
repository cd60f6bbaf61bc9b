//! Events that a session has and has not sent yet, and which of them leaves next.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::delivery::frame::Delivery;
use crate::event::{Position, Priority};

/// See the module. In the order of positions, each once.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    events: VecDeque<Arc<Delivery>>,
    bytes: usize,
    /// How many there are of each priority.
    levels: [usize; Priority::ALL.len()],
}

/// Which of them may leave.
#[derive(Debug, Clone, Copy)]
pub(super) struct Leave {
    /// All up to here are known, and any may leave.
    pub known: Position,
    /// Of what is urgent all up to here are known, and may leave.
    pub urgent: Position,
    /// Whether one may leave before others that stand before it.
    pub may_overtake: bool,
}

/// From this priority on an event may leave before those that are not even read yet.
pub(super) const URGENT: Priority = Priority::High;

impl Waiting {
    pub(super) fn len(&self) -> usize {
        self.events.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// About how many bytes their frames have.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The first position that waits.
    pub(super) fn first(&self) -> Option<Position> {
        self.events.front().map(|event| event.position())
    }

    /// How many are urgent.
    pub(super) fn urgent(&self) -> usize {
        self.levels[URGENT as usize..].iter().sum()
    }

    pub(super) fn add(&mut self, event: Arc<Delivery>) {
        let position = event.position();
        let at = match self.events.back() {
            Some(last) if last.position() >= position => {
                let at = self.events.partition_point(|other| other.position() < position);
                if self.events[at].position() == position {
                    return;
                }
                at
            }
            _ => self.events.len(),
        };
        self.bytes += event.frame_size();
        self.levels[event.event().priority as usize] += 1;
        self.events.insert(at, event);
    }

    /// Takes out what is to leave next: the highest priority first, of these the oldest; the oldest of all where nothing
    /// may overtake.
    pub(super) fn take_next(&mut self, leave: Leave) -> Option<Arc<Delivery>> {
        let first = self.events.front()?;
        let highest = self.levels.iter().rposition(|count| *count > 0)?;
        let is_first = first.position() <= leave.known
            && (!leave.may_overtake || first.event().priority as usize == highest);
        if is_first {
            return self.take(0);
        }
        if !leave.may_overtake {
            return None;
        }
        let may_leave = |event: &Delivery| {
            let is_urgent = event.event().priority >= URGENT;
            event.position() <= leave.known || (is_urgent && event.position() <= leave.urgent)
        };
        let candidates = self.events.iter().enumerate().filter(|(_, event)| may_leave(event));
        let best = candidates.min_by_key(|(_, e)| (std::cmp::Reverse(e.event().priority), e.position()));
        let at = best.map(|(at, _)| at)?;
        self.take(at)
    }

    fn take(&mut self, at: usize) -> Option<Arc<Delivery>> {
        let event = self.events.remove(at)?;
        self.bytes -= event.frame_size();
        self.levels[event.event().priority as usize] -= 1;
        Some(event)
    }

    /// Takes out all that `goes` says.
    pub(super) fn remove(&mut self, goes: impl Fn(&Delivery) -> bool) {
        self.events.retain(|event| !goes(event));
        self.count();
    }

    /// Keeps the first `most` urgent ones, and nothing else; gives the first urgent one that had to go.
    pub(super) fn keep_urgent(&mut self, most: usize) -> Option<Position> {
        self.events.retain(|event| event.event().priority >= URGENT);
        let gone = self.events.get(most).map(|event| event.position());
        self.events.truncate(most);
        self.events.shrink_to_fit();
        self.count();
        gone
    }

    fn count(&mut self) {
        self.bytes = self.events.iter().map(|event| event.frame_size()).sum();
        self.levels = Default::default();
        self.events.iter().for_each(|event| self.levels[event.event().priority as usize] += 1);
    }
}
