//! What nodes send each other over the bus.
//!
//! # Layout
//! `2 {header}\n{data}{mac}`
//!
//! - The **version** in digits and a space, before anything that it gives a meaning to. A program that does not know
//!   the version reads no further: the message is [`Unreadable::Version`], and the store has what it spoke of.
//! - The **header**, one line of JSON:
//!   `epoch` (the history that positions belong to; absent while the sender has not seen the log), `sender` (the name of
//!   the node), `mac` (how many bytes at the end are a message authentication code; absent: none), and `body`: one of
//!   `event`, `announcement`, `notice`, `heartbeat`. An event's fields stand there with the length of its data
//!   (`bytes`); never a frame of one wire form, so each node encodes what its listeners use.
//! - The **data** of the events that the header describes, one after the other: the publisher's JSON, byte for byte.
//! - The **mac**: nothing writes one yet. A reader skips as many bytes as the header says.
//!
//! A header may get new members, which older programs ignore; whatever they must not ignore is a new version. Bytes
//! that end early or late are [`Unreadable::Malformed`].
//!
//! Version 1 has no digits in front: see `before.rs`.
//!
//! # After an append
//! An event for few targets goes to the channel of each as a copy, which names no audience; then one announcement says
//! which positions there are now and whom each concerns, and carries the events for everyone and for many targets.
//! What exceeds a bound is left to the store, event by event: see `append.rs`.

mod append;
mod before;
mod current;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use uuid::Uuid;

use crate::account::Credential;
use crate::event::{
    Audience, Checkpoint, Epoch, Event, EventType, Millis, Position, Priority, Topic, UserId,
};

use append::{AROUND_DATA, named_size};
pub use append::{MAX_CARRIED, MAX_COPIED, MAX_COPIES, MAX_NAMED};

/// The channel every node listens to. Behind the bus's namespace, as all of them.
pub const GLOBAL: &str = "global";

/// The channel of one user's events.
pub fn user_channel(user: UserId) -> String {
    format!("user:{user}")
}

/// The channel of one topic's events.
pub fn topic_channel(topic: &Topic) -> String {
    format!("topic:{topic}")
}

/// The channel on which a node receives its own heartbeat.
pub fn node_channel(node: &str) -> String {
    format!("node:{node}")
}

/// A message as it came, and from whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    /// The name of the node that sent it; empty if the message does not say.
    pub sender: String,
    /// The history that its positions belong to, as far as the sender knew.
    pub epoch: Option<Epoch>,
    /// What it says.
    pub message: Message,
}

impl Received {
    /// From bytes of the bus. Nothing of what it gives shares them.
    pub fn decode(bytes: &[u8]) -> Result<Self, Unreadable> {
        if bytes.first() == Some(&b'{') {
            return before::decode(bytes).ok_or(Unreadable::Malformed);
        }
        let (version, rest) = split_once(bytes, b' ').ok_or(Unreadable::Malformed)?;
        let version = std::str::from_utf8(version).ok().and_then(|text| text.parse().ok());
        match version.ok_or(Unreadable::Malformed)? {
            current::VERSION => current::decode(rest).ok_or(Unreadable::Malformed),
            version => Err(Unreadable::Version(version)),
        }
    }
}

impl Received {
    /// Whether the node called `sender` wrote these bytes: it knows its own by how they begin. Version 1 does not say.
    pub fn is_from(sender: &str, bytes: &[u8]) -> bool {
        current::is_from(sender, bytes)
    }

    /// What it takes in memory, about.
    pub fn size(&self) -> usize {
        let around = size_of::<Self>();
        match &self.message {
            Message::Announcement(announcement) => {
                let carried = announcement.carried.iter();
                let carried: usize =
                    carried.map(|e| e.data.len() + AROUND_DATA + named_size(&e.audience)).sum();
                around + carried
            }
            Message::Copy(copy) => around + copy.data.len(),
            Message::Notice(_) | Message::Heartbeat(_) => around,
        }
    }
}

/// Why bytes of the bus are no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// A program of another version sent it.
    #[error("version {0} of messages is not known here")]
    Version(u32),
    /// It breaks the rules of its version.
    #[error("it is malformed")]
    Malformed,
}

/// What a message says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// An event, on the channel of a target it is for.
    Copy(EventCopy),
    /// That an append was committed.
    Announcement(Announcement),
    /// Something that changes what open pages show.
    Notice(Notice),
    /// A node's test whether the bus brings back what it sends.
    Heartbeat(u64),
}

/// An event without its audience, which the announcement names: on each target's channel the list would travel again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventCopy {
    /// Its position in the log.
    pub position: Position,
    /// The key for de-duplication.
    pub id: Uuid,
    /// What kind of event.
    pub event_type: EventType,
    /// How urgent.
    pub priority: Priority,
    /// The publisher's JSON on one line.
    pub data: String,
    /// When it was committed.
    pub created_at: Millis,
    /// When it ends for everyone, if it does.
    pub expires_at: Option<Millis>,
    /// How long it stays with a user who has read it; `None`: as long as it lives.
    pub keep_after_read: Option<Millis>,
    /// Who published it; 0 if the message does not say.
    pub publisher: UserId,
}

impl EventCopy {
    /// The event, for this audience.
    pub fn addressed_to(self, audience: Audience) -> Event {
        Event {
            position: self.position,
            id: self.id,
            event_type: self.event_type,
            priority: self.priority,
            audience,
            data: self.data,
            created_at: self.created_at,
            expires_at: self.expires_at,
            keep_after_read: self.keep_after_read,
            publisher: self.publisher,
        }
    }
}

/// An event's copy and its audience.
fn split(event: Event) -> (EventCopy, Audience) {
    let copy = EventCopy {
        position: event.position,
        id: event.id,
        event_type: event.event_type,
        priority: event.priority,
        data: event.data,
        created_at: event.created_at,
        expires_at: event.expires_at,
        keep_after_read: event.keep_after_read,
        publisher: event.publisher,
    };
    (copy, event.audience)
}

/// That something was committed: which positions there are now, and whom they concern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announcement {
    /// The head before: this speaks of everything in `(previous, last]`.
    pub previous: Position,
    /// The id of the event at `previous`; `None` if there is none, or the message does not say.
    pub previous_id: Option<Uuid>,
    /// The head after.
    pub last: Position,
    /// The id of the event at `last`; `None` if the message does not say.
    pub last_id: Option<Uuid>,
    /// The events that travel elsewhere (on channels of their own, or only in the store), rising.
    pub elsewhere: Vec<(Position, Audience)>,
    /// The events that travel here, rising.
    pub carried: Vec<Event>,
}

/// Something that changes what open pages show. At most once: the store has the truth.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Notice {
    /// A user read one event, or marked it as unread.
    Read {
        /// Who.
        user: UserId,
        /// Which event.
        position: Position,
        /// Read, or unread again.
        read: bool,
    },
    /// A user read everything up to here.
    ReadUpTo {
        /// Who.
        user: UserId,
        /// Up to where.
        up_to: Position,
    },
    /// A user undid "read up to here".
    ReadUpToTakenBack {
        /// Who.
        user: UserId,
    },
    /// An event was taken back.
    Retracted {
        /// Which event.
        position: Position,
        /// Whom it was for.
        audience: Audience,
    },
    /// These permit nothing any more.
    Ended(Vec<Credential>),
    /// A user is called otherwise now, or is gone.
    UserChanged(UserId),
    /// Who came to the sending node and who left it, on one topic.
    Presence {
        /// The topic.
        topic: Topic,
        /// The names of those who came.
        joined: Vec<String>,
        /// The names of those who left.
        left: Vec<String>,
    },
}

impl Announcement {
    /// The head before, with the event there.
    pub fn previous(&self) -> Checkpoint {
        Checkpoint { position: self.previous, id: self.previous_id }
    }

    /// The head after, with the event there.
    pub fn last(&self) -> Checkpoint {
        Checkpoint { position: self.last, id: self.last_id }
    }
}

impl Notice {
    /// Whether it speaks of positions, which mean something else in another history.
    pub fn has_position(&self) -> bool {
        match self {
            Self::Read { .. } | Self::ReadUpTo { .. } | Self::Retracted { .. } => true,
            Self::ReadUpToTakenBack { .. }
            | Self::Ended(_)
            | Self::UserChanged(_)
            | Self::Presence { .. } => false,
        }
    }
}

/// What a node writes messages with: its name, the history it knows, and the form that all nodes can read. Cheap to
/// clone.
#[derive(Debug, Clone)]
pub struct MessageWriter {
    sender: Arc<str>,
    epoch: watch::Receiver<Option<Epoch>>,
    /// Programs that know only version 1 may be running.
    is_before: Arc<AtomicBool>,
}

impl MessageWriter {
    /// Of the node called `sender`, which learns the history in force from `epoch`.
    pub fn new(sender: &str, epoch: watch::Receiver<Option<Epoch>>) -> Self {
        Self { sender: sender.into(), epoch, is_before: Arc::default() }
    }

    /// The node's name.
    pub fn sender(&self) -> &str {
        &self.sender
    }

    /// Follows the number that says which forms are written: below 2, programs may be running that know only version 1
    /// of messages.
    pub fn set_forms(&self, forms: i32) {
        self.is_before.store(forms < 2, Ordering::Relaxed);
    }

    /// A message as bytes for the bus; `None` if it cannot be said in the form that all nodes can read.
    pub fn encode(&self, message: &Message) -> Option<Bytes> {
        let epoch = self.epoch.borrow().clone();
        if self.is_before.load(Ordering::Relaxed) {
            return before::encode(&self.sender, epoch.as_ref(), message, None);
        }
        Some(current::encode(&self.sender, epoch.as_ref(), message))
    }

    /// What the node delivers to itself after an append of `events`: an announcement that carries all of them.
    pub fn own_append(&self, epoch: &Epoch, previous: impl Into<Checkpoint>, events: Vec<Event>) -> Received {
        let previous = previous.into();
        let last = events.last().map_or(previous, |last| Checkpoint::new(last.position, last.id));
        let announcement = Announcement {
            previous: previous.position,
            previous_id: previous.id,
            last: last.position,
            last_id: last.id,
            elsewhere: Vec::new(),
            carried: events,
        };
        self.own(Some(epoch.clone()), Message::Announcement(announcement))
    }

    /// The same of a notice.
    pub fn own_notice(&self, notice: Notice) -> Received {
        self.own(self.epoch.borrow().clone(), Message::Notice(notice))
    }

    fn own(&self, epoch: Option<Epoch>, message: Message) -> Received {
        Received { sender: (*self.sender).to_owned(), epoch, message }
    }

    /// Everything to be sent to other nodes after an append of `events` (rising, not empty) to the history `epoch`, of which `previous`
    /// was the head, in order: copies on their channels, then announcements.
    pub fn after_append(
        &self,
        epoch: &Epoch,
        previous: impl Into<Checkpoint>,
        events: Vec<Event>,
    ) -> Vec<(String, Bytes)> {
        let plan = append::plan(previous.into(), events);
        let is_before = self.is_before.load(Ordering::Relaxed);
        let encode = |message: &Message, audience: Option<&Audience>| {
            if is_before {
                before::encode(&self.sender, Some(epoch), message, audience)
            } else {
                Some(current::encode(&self.sender, Some(epoch), message))
            }
        };
        let mut messages = Vec::new();
        for (copy, audience) in plan.copies {
            let Some(bytes) = encode(&Message::Copy(copy), Some(&audience)) else { continue };
            let users = audience.user_ids().iter().map(|user| user_channel(*user));
            let channels = users.chain(audience.topics().iter().map(topic_channel));
            messages.extend(channels.map(|channel| (channel, bytes.clone())));
        }
        for announcement in plan.announcements {
            let bytes = encode(&Message::Announcement(announcement), None);
            messages.extend(bytes.map(|bytes| (GLOBAL.to_owned(), bytes)));
        }
        messages
    }
}

/// What stands before and after the first such byte.
fn split_once(bytes: &[u8], at: u8) -> Option<(&[u8], &[u8])> {
    let found = bytes.iter().position(|byte| *byte == at)?;
    Some((&bytes[..found], &bytes[found + 1..]))
}

/// The next `length` bytes as an event's data, which leaves the rest. `None` if these cannot be data.
fn take_data(rest: &mut &[u8], length: usize) -> Option<String> {
    let (data, after) = rest.split_at_checked(length)?;
    // Line breaks in it would end a frame.
    if data.iter().any(|byte| matches!(byte, b'\r' | b'\n')) {
        return None;
    }
    *rest = after;
    // A copy: one small event in a listener's queue would otherwise hold all that came with it.
    Some(std::str::from_utf8(data).ok()?.to_owned())
}

#[cfg(test)]
mod tests;
