//! The sequencer: applies the log in order on one node. A pure state machine: its input is what came over the
//! bus, what the store answered and the time; its output is what to route and what to read.
//!
//! It keeps `applied`, the last position handed to listeners, and moves it only over positions of which it has
//! everything that concerns a listener here. Announcements chain: each speaks of `(previous, last]`, so that
//! holes in positions are no gaps and a lost announcement is seen by the next one.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::frame::{Delivery, frame_size};
use super::reorder_buffer::ReorderBuffer;
use crate::bus::message::{Announcement, EventCopy};
use crate::event::{Audience, Epoch, Event, Position, UserId};

/// A moment, in milliseconds of any steady clock.
pub type Moment = u64;

/// Bounds and patience of the sequencer.
#[derive(Debug, Clone)]
pub struct SequencerLimits {
    /// How long a gap may fill itself before the store is read.
    pub gap_patience: Moment,
    /// How many announcements may wait for earlier ones; the furthest are dropped (and read later).
    pub pending: usize,
    /// How many copies may wait for their announcement; the oldest are dropped (and read later).
    pub copies: usize,
    /// How many bytes either of them may hold; one of each may always wait.
    pub bytes: usize,
    /// How long to wait after a failed read.
    pub retry_after: Moment,
}

impl Default for SequencerLimits {
    fn default() -> Self {
        Self { gap_patience: 30, pending: 1_024, copies: 4_096, bytes: 32 << 20, retry_after: 200 }
    }
}

/// What is to be done, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Hand these to listeners; everything up to `applied` is then done.
    Apply {
        /// In position order, each once.
        events: Vec<Arc<Delivery>>,
        /// Every position since the last `applied` with its audience; `None` if not all are known.
        routes: Option<Vec<(Position, Audience)>>,
        /// The new `applied`.
        applied: Position,
    },
    /// Read `(after, up_to]` for the audiences here and answer with [`Sequencer::page`] or
    /// [`Sequencer::read_failed`].
    Read {
        /// Exclusive.
        after: Position,
        /// Inclusive.
        up_to: Position,
    },
}

/// See the module.
#[derive(Debug)]
pub struct Sequencer {
    limits: SequencerLimits,
    /// Of the events that it hands on.
    epoch: Epoch,
    applied: Position,
    /// The highest head known. Final, so the store may be read up to it.
    head: Position,
    /// By `previous`, with the moment it came.
    pending: ReorderBuffer<(Moment, Announcement)>,
    copies: ReorderBuffer<EventCopy>,
    /// When the store last gave a head that was higher than any known.
    head_since: Moment,
    /// The bus may be losing messages: do not wait for it.
    is_degraded: bool,
    reading: bool,
    not_before: Moment,
}

impl Sequencer {
    /// Begins where everything up to `applied` is done.
    pub fn new(limits: SequencerLimits, epoch: Epoch, applied: Position) -> Self {
        Self {
            pending: ReorderBuffer::new(limits.pending, limits.bytes),
            copies: ReorderBuffer::new(limits.copies, limits.bytes),
            limits,
            epoch,
            applied,
            head: applied,
            head_since: 0,
            is_degraded: false,
            reading: false,
            not_before: 0,
        }
    }

    /// The last position handed to listeners.
    pub fn applied(&self) -> Position {
        self.applied
    }

    /// How far behind the highest known head.
    pub fn lag(&self) -> Position {
        self.head - self.applied
    }

    /// A copy of an event came on a target's channel.
    pub fn copy(&mut self, copy: EventCopy) {
        if copy.position <= self.applied {
            return;
        }
        self.copies.insert(copy.position, size_of::<EventCopy>() + copy.data.len(), copy);
        while self.copies.is_over() {
            self.copies.pop_first();
            metrics::counter!("carillon_sequencer_copies_dropped_total").increment(1);
        }
    }

    /// An announcement came.
    pub fn announcement(&mut self, announcement: Announcement, now: Moment) {
        self.head = self.head.max(announcement.last);
        if announcement.last <= self.applied {
            return;
        }
        let carried: usize = announcement.carried.iter().map(size).sum();
        let elsewhere: usize =
            announcement.elsewhere.iter().map(|(_, audience)| audience_size(audience)).sum();
        // One that is repeated has waited since it came first.
        let since = self.pending.get(announcement.previous).map_or(now, |(since, _)| *since);
        self.pending.insert(announcement.previous, carried + elsewhere, (since, announcement));
        while self.pending.is_over() {
            self.pending.pop_last();
            metrics::counter!("carillon_sequencer_announcements_dropped_total").increment(1);
        }
    }

    /// The store was asked for its head.
    pub fn head(&mut self, head: Position, now: Moment) {
        if head > self.head {
            self.head = head;
            self.head_since = now;
        }
    }

    /// Whether the bus may be losing messages now.
    pub fn degraded(&mut self, is_degraded: bool) {
        self.is_degraded = is_degraded;
    }

    /// The store answered a read: all events up to `end` that concern the audiences asked for.
    pub fn page(&mut self, events: Vec<Arc<Delivery>>, end: Position) -> Option<Output> {
        self.reading = false;
        if end <= self.applied {
            return None;
        }
        let events = events.into_iter().filter(|e| e.position() > self.applied).collect();
        Some(self.apply(events, None, end))
    }

    /// The store did not answer.
    pub fn read_failed(&mut self, now: Moment) {
        self.reading = false;
        self.not_before = now + self.limits.retry_after;
    }

    /// Goes as far as possible. `concerns` says whether an audience has a listener here. Call after any
    /// input, and every few milliseconds while [`Sequencer::is_waiting`].
    pub fn advance(&mut self, now: Moment, concerns: impl Fn(&Audience) -> bool) -> Vec<Output> {
        let mut outputs = Vec::new();
        // While the store is read, too: what is missing may still come, and a store that is slow holds nothing up.
        loop {
            self.pending.drop_while(|_, (_, a)| a.last <= self.applied);
            let follows = self.pending.first().filter(|(previous, _)| *previous <= self.applied);
            let Some((_, (_, announcement))) = follows else { break };
            if !self.is_complete(announcement, &concerns) {
                let last = announcement.last;
                outputs.extend(self.read(now, last));
                return outputs;
            }
            let Some((_, announcement)) = self.pending.pop_first() else { break };
            let last = announcement.last;
            let (events, routes) = self.take(announcement);
            outputs.push(self.apply(events, Some(routes), last));
        }
        if self.head <= self.applied {
            return outputs;
        }
        // The gap is known since what stands behind it came.
        let behind = self.pending.first().map(|(previous, (since, _))| (previous, *since));
        let (up_to, since) = behind.unwrap_or((self.head, self.head_since));
        if self.has_waited(since, now) {
            outputs.extend(self.read(now, up_to));
        }
        outputs
    }

    /// Whether what came then has had its time, and what is missing before it will not come any more.
    fn has_waited(&self, since: Moment, now: Moment) -> bool {
        self.is_degraded || now.saturating_sub(since) >= self.limits.gap_patience
    }

    /// Whether time alone may bring something to do.
    pub fn is_waiting(&self) -> bool {
        !self.reading && self.head > self.applied
    }

    /// Whether more announcements or payloads would push others out.
    pub fn is_full(&self) -> bool {
        self.pending.is_full() || self.copies.is_full()
    }

    /// Reads this far, and as far as there are gaps that have had their time: one read for all of them. Gap by gap,
    /// a node that announces nothing for a while would put all others ever further behind. What the announcement
    /// behind the last of them brings need not be read.
    fn read(&mut self, now: Moment, up_to: Position) -> Option<Output> {
        if self.reading || now < self.not_before {
            return None;
        }
        let waited = self.pending.iter().filter(|(_, (since, _))| self.has_waited(*since, now));
        let up_to = waited.map(|(previous, _)| previous).fold(up_to, Position::max);
        self.reading = true;
        Some(Output::Read { after: self.applied, up_to })
    }

    /// Whether everything of an announcement above `applied` that concerns somebody here has come.
    fn is_complete(&self, announcement: &Announcement, concerns: impl Fn(&Audience) -> bool) -> bool {
        let new = announcement.elsewhere.iter().filter(|(position, _)| *position > self.applied);
        new.filter(|(_, audience)| concerns(audience))
            .all(|(position, _)| self.copies.get(*position).is_some())
    }

    /// What a complete announcement brings above `applied`, in order, and all that it names.
    fn take(&mut self, announcement: Announcement) -> (Vec<Arc<Delivery>>, Vec<(Position, Audience)>) {
        let mut events: BTreeMap<Position, Event> = BTreeMap::new();
        let mut routes = Vec::new();
        for event in announcement.carried.into_iter().filter(|event| event.position > self.applied) {
            routes.push((event.position, event.audience.clone()));
            events.insert(event.position, event);
        }
        for (position, audience) in announcement.elsewhere {
            if position <= self.applied {
                continue;
            }
            // One that came without a listener here is for nobody, and is dropped by routing.
            if let Some(copy) = self.copies.remove(position) {
                events.insert(position, copy.addressed_to(audience.clone()));
            }
            routes.push((position, audience));
        }
        routes.sort_unstable_by_key(|(position, _)| *position);
        let events = events.into_values().map(|event| Arc::new(Delivery::new(&self.epoch, event))).collect();
        (events, routes)
    }

    fn apply(
        &mut self,
        events: Vec<Arc<Delivery>>,
        routes: Option<Vec<(Position, Audience)>>,
        applied: Position,
    ) -> Output {
        self.applied = applied;
        self.head = self.head.max(applied);
        self.copies.drop_while(|position, _| position <= applied);
        Output::Apply { events, routes, applied }
    }
}

/// What an event takes in memory, about.
fn size(event: &Event) -> usize {
    frame_size(event) + audience_size(&event.audience)
}

fn audience_size(audience: &Audience) -> usize {
    size_of::<Delivery>() + size_of::<UserId>() * audience.targets()
}

#[cfg(test)]
mod tests;
