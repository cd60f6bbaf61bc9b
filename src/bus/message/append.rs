//! How the events of an append travel: as copies on their targets' channels, inside the announcement, or not at all.
//! Each event is judged by itself against what is left of each bound, and what does not fit is read from the store.

use super::{Announcement, EventCopy, split};
use crate::event::{Audience, Checkpoint, Event};

/// The most bytes of events that the announcements of one append carry: every node receives them.
pub const MAX_CARRIED: usize = 1 << 20;
/// The most bytes of copies that are sent after one append, each counted for every channel.
pub const MAX_COPIED: usize = 4 << 20;
/// An event for more targets than this is carried, if it fits: one message to every node costs about as much as so many
/// messages to single channels.
pub const MAX_COPIES: usize = 8;
/// The most bytes of audiences that the announcements of one append name.
pub const MAX_NAMED: usize = 1 << 20;

/// What an event has around its data in a message, in bytes, about.
pub(super) const AROUND_DATA: usize = 256;
/// What a user's number or a topic's quotes take in an announcement, in bytes, about.
const AROUND_TARGET: usize = 12;

/// What is to be sent after an append.
#[derive(Debug)]
pub(super) struct Plan {
    /// To the channel of each target.
    pub copies: Vec<(EventCopy, Audience)>,
    /// Then to all nodes. Between two of them lie events whose audiences do not fit; nodes find the gap and read it.
    pub announcements: Vec<Announcement>,
}

/// Plans how `events` (rising), appended after `previous`, travel.
pub(super) fn plan(previous: Checkpoint, events: Vec<Event>) -> Plan {
    let mut plan = Plan { copies: Vec::new(), announcements: Vec::new() };
    let (mut carried, mut copied, mut named) = (0, 0, 0);
    let mut current = empty(previous);
    for event in events {
        let (position, targets) = (event.position, event.audience.targets());
        let names = named_size(&event.audience);
        if named + names > MAX_NAMED {
            leave_to_store();
            let before = std::mem::replace(&mut current, empty(Checkpoint::new(position, event.id)));
            if before.previous < before.last {
                plan.announcements.push(before);
            }
            continue;
        }
        named += names;
        let size = event.data.len() + AROUND_DATA;
        let copies_fit = targets > 0 && copied + size * targets <= MAX_COPIED;
        let is_carried =
            carried + size <= MAX_CARRIED && (targets == 0 || targets > MAX_COPIES || !copies_fit);
        (current.last, current.last_id) = (position, Some(event.id));
        if is_carried {
            carried += size;
            current.carried.push(event);
            continue;
        }
        current.elsewhere.push((position, event.audience.clone()));
        if copies_fit {
            copied += size * targets;
            plan.copies.push(split(event));
        } else {
            leave_to_store();
        }
    }
    // Even if it says nothing: it shows a gap before it.
    plan.announcements.push(current);
    plan
}

fn leave_to_store() {
    metrics::counter!("carillon_events_left_to_store_total").increment(1);
}

fn empty(previous: Checkpoint) -> Announcement {
    let Checkpoint { position, id } = previous;
    Announcement {
        previous: position,
        previous_id: id,
        last: position,
        last_id: id,
        elsewhere: Vec::new(),
        carried: Vec::new(),
    }
}

/// What an audience takes in an announcement, in bytes, about.
pub(super) fn named_size(audience: &Audience) -> usize {
    let topics: usize = audience.topics().iter().map(|topic| topic.as_str().len()).sum();
    audience.targets() * AROUND_TARGET + topics
}
