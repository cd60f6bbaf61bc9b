//! The sequencer: applies the log in order on one node. A pure state machine: its input is what came over the
//! bus, what the store answered and the time; its output is what to route and what to read.
//!
//! It keeps `applied`, the last position handed to listeners, and moves it only over positions of which it has
//! everything that concerns a listener here. Announcements chain: each speaks of `(previous, last]`, so that
//! holes in positions are no gaps and a lost announcement is seen by the next one. It must also name the event at
//! `previous` as it was applied: a log that has lost its end gives positions out again. What does not is dropped, and
//! the read in its place asks the store, which knows.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::frame::{Delivery, frame_size};
use super::reorder_buffer::ReorderBuffer;
use crate::bus::message::{Announcement, EventCopy};
use crate::event::{Audience, Checkpoint, Epoch, Event, Position, UserId};

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
        applied: Checkpoint,
    },
    /// Read `(after, up_to]` for the audiences here and answer with [`Sequencer::page`], or with
    /// [`Sequencer::read_failed`], also if the event at `after` is not there any more.
    Read {
        /// Exclusive.
        after: Checkpoint,
        /// Inclusive.
        up_to: Checkpoint,
    },
}

/// See the module.
#[derive(Debug)]
pub struct Sequencer {
    limits: SequencerLimits,
    /// Of the events that it hands on.
    epoch: Epoch,
    /// Whether their frames have cursors with a digest.
    has_digests: bool,
    applied: Checkpoint,
    /// The highest head known. Final, so the store may be read up to it.
    head: Checkpoint,
    /// By `previous`, with the moment it came.
    pending: ReorderBuffer<(Moment, Announcement)>,
    copies: ReorderBuffer<EventCopy>,
    /// When the store last gave a head that was higher than any known.
    head_since: Moment,
    /// The bus may be losing messages: do not wait for it.
    is_degraded: bool,
    /// What the read that is under way comes after.
    reading: Option<Position>,
    not_before: Moment,
}

impl Sequencer {
    /// Begins where everything up to `applied` is done.
    pub fn new(limits: SequencerLimits, epoch: Epoch, applied: impl Into<Checkpoint>) -> Self {
        let applied = applied.into();
        Self {
            pending: ReorderBuffer::new(limits.pending, limits.bytes),
            copies: ReorderBuffer::new(limits.copies, limits.bytes),
            limits,
            epoch,
            has_digests: false,
            applied,
            head: applied,
            head_since: 0,
            is_degraded: false,
            reading: None,
            not_before: 0,
        }
    }

    /// The last position handed to listeners, and the event there.
    pub fn applied(&self) -> Checkpoint {
        self.applied
    }

    /// How far behind the highest known head.
    pub fn lag(&self) -> Position {
        self.head.position - self.applied.position
    }

    /// Whether cursors are written with a digest from now on.
    pub fn set_digests(&mut self, has_digests: bool) {
        self.has_digests = has_digests;
    }

    /// A copy of an event came on a target's channel.
    pub fn copy(&mut self, copy: EventCopy) {
        if copy.position <= self.applied.position {
            return;
        }
        self.copies.insert(copy.position, size_of::<EventCopy>() + copy.data.len(), copy);
        while self.copies.is_over() {
            self.copies.pop_first();
            metrics::counter!("carillon_sequencer_copies_dropped_total").increment(1);
        }
    }

    /// An announcement came. Whether it shows by itself that the log is not the one that was applied.
    pub fn announcement(&mut self, announcement: Announcement, now: Moment) -> bool {
        self.head = furthest(self.head, announcement.last());
        if announcement.last <= self.applied.position {
            return differ(announcement.last(), self.applied);
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
        false
    }

    /// The store was asked for its head.
    pub fn head(&mut self, head: impl Into<Checkpoint>, now: Moment) {
        let head = head.into();
        if head.position > self.head.position {
            self.head = head;
            self.head_since = now;
        }
    }

    /// Whether the bus may be losing messages now.
    pub fn degraded(&mut self, is_degraded: bool) {
        self.is_degraded = is_degraded;
    }

    /// The store answered a read: all events up to `end` that concern the audiences asked for, in a log that has the
    /// event after which the read began. If what was missing has come meanwhile, it says nothing about that, and is not
    /// used.
    pub fn page(&mut self, events: Vec<Arc<Delivery>>, end: impl Into<Checkpoint>) -> Option<Output> {
        let (after, end) = (self.reading.take(), end.into());
        if after != Some(self.applied.position) || end.position <= self.applied.position {
            return None;
        }
        Some(self.apply(events, None, end))
    }

    /// The store did not answer.
    pub fn read_failed(&mut self, now: Moment) {
        self.reading = None;
        self.not_before = now + self.limits.retry_after;
    }

    /// Goes as far as possible. `concerns` says whether an audience has a listener here. Call after any
    /// input, and every few milliseconds while [`Sequencer::is_waiting`].
    pub fn advance(&mut self, now: Moment, concerns: impl Fn(&Audience) -> bool) -> Vec<Output> {
        let mut outputs = Vec::new();
        // While the store is read, too: what is missing may still come, and a store that is slow holds nothing up.
        loop {
            let applied = self.applied.position;
            self.pending.drop_while(|_, (_, a)| a.last <= applied);
            let follows = self.pending.first().filter(|(previous, _)| *previous <= applied);
            let Some((_, (_, announcement))) = follows else { break };
            if !self.continues(announcement) {
                metrics::counter!("carillon_sequencer_announcements_mismatched_total").increment(1);
                self.pending.pop_first();
                continue;
            }
            if !self.is_complete(announcement, &concerns) {
                let last = announcement.last();
                outputs.extend(self.read(now, last));
                return outputs;
            }
            let Some((_, announcement)) = self.pending.pop_first() else { break };
            let last = announcement.last();
            let (events, routes) = self.take(announcement);
            outputs.push(self.apply(events, Some(routes), last));
        }
        if self.head.position <= self.applied.position {
            return outputs;
        }
        // The gap is known since what stands behind it came.
        let behind = self.pending.first().map(|(_, (since, announcement))| (announcement.previous(), *since));
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
        self.reading.is_none() && self.head.position > self.applied.position
    }

    /// Whether more announcements or payloads would push others out.
    pub fn is_full(&self) -> bool {
        self.pending.is_full() || self.copies.is_full()
    }

    /// Reads this far, and as far as there are gaps that have had their time: one read for all of them. Gap by gap,
    /// a node that announces nothing for a while would put all others ever further behind. What the announcement
    /// behind the last of them brings need not be read.
    fn read(&mut self, now: Moment, up_to: Checkpoint) -> Option<Output> {
        if self.reading.is_some() || now < self.not_before {
            return None;
        }
        let waited = self.pending.iter().filter(|(_, (since, _))| self.has_waited(*since, now));
        let up_to = waited.map(|(_, (_, announcement))| announcement.previous()).fold(up_to, furthest);
        self.reading = Some(self.applied.position);
        Some(Output::Read { after: self.applied, up_to })
    }

    /// Whether an announcement goes on from what was applied. One of an older program, which names no event before it, is
    /// believed; so is one where nothing stands there, since retention removed it.
    fn continues(&self, announcement: &Announcement) -> bool {
        let previous = announcement.previous();
        previous.id.is_none() || previous.position == self.applied.position && !differ(previous, self.applied)
    }

    /// Whether everything of an announcement above `applied` that concerns somebody here has come.
    fn is_complete(&self, announcement: &Announcement, concerns: impl Fn(&Audience) -> bool) -> bool {
        let new = announcement.elsewhere.iter().filter(|(position, _)| *position > self.applied.position);
        new.filter(|(_, audience)| concerns(audience))
            .all(|(position, _)| self.copies.get(*position).is_some())
    }

    /// What a complete announcement brings above `applied`, in order, and all that it names.
    fn take(&mut self, announcement: Announcement) -> (Vec<Arc<Delivery>>, Vec<(Position, Audience)>) {
        let mut events: BTreeMap<Position, Event> = BTreeMap::new();
        let mut routes = Vec::new();
        for event in announcement.carried.into_iter().filter(|event| event.position > self.applied.position) {
            routes.push((event.position, event.audience.clone()));
            events.insert(event.position, event);
        }
        for (position, audience) in announcement.elsewhere {
            if position <= self.applied.position {
                continue;
            }
            // One that came without a listener here is for nobody, and is dropped by routing.
            if let Some(copy) = self.copies.remove(position) {
                events.insert(position, copy.addressed_to(audience.clone()));
            }
            routes.push((position, audience));
        }
        routes.sort_unstable_by_key(|(position, _)| *position);
        let delivery = |event| Arc::new(Delivery::new(&self.epoch, event).with_digest(self.has_digests));
        let events = events.into_values().map(delivery).collect();
        (events, routes)
    }

    fn apply(
        &mut self,
        events: Vec<Arc<Delivery>>,
        routes: Option<Vec<(Position, Audience)>>,
        applied: Checkpoint,
    ) -> Output {
        self.applied = applied;
        self.head = furthest(self.head, applied);
        self.copies.drop_while(|position, _| position <= applied.position);
        Output::Apply { events, routes, applied }
    }
}

/// The one of the two that is further.
fn furthest(one: Checkpoint, other: Checkpoint) -> Checkpoint {
    if other.position > one.position { other } else { one }
}

/// Whether two checkpoints are of different histories: at one position, different events.
fn differ(one: Checkpoint, other: Checkpoint) -> bool {
    one.position == other.position && one.id.is_some() && other.id.is_some() && one.id != other.id
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
