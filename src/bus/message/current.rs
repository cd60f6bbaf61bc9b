//! Version 2 of messages; the layout stands in the module above.

use std::borrow::Cow;
use std::fmt::Display;
use std::str::FromStr;

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize};
use uuid::Uuid;

use super::{Announcement, EventCopy, Message, Notice, Received, split_once, take_data};
use crate::event::{Audience, Epoch, Event, EventType, Millis, Position, Priority, Topic, UserId};

/// The number of this form.
pub(super) const VERSION: u32 = 2;

#[derive(Serialize, Deserialize)]
struct Header<'a> {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    epoch: Option<Cow<'a, str>>,
    sender: Cow<'a, str>,
    #[serde(default, skip_serializing_if = "is_zero")]
    mac: usize,
    #[serde(borrow)]
    body: Body<'a>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Body<'a> {
    Event(#[serde(borrow)] Fields<'a>),
    Announcement {
        previous: Position,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        previous_id: Option<Uuid>,
        last: Position,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        last_id: Option<Uuid>,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        elsewhere: Vec<(Position, Targets<'a>)>,
        #[serde(borrow, default, skip_serializing_if = "Vec::is_empty")]
        carried: Vec<(Targets<'a>, Fields<'a>)>,
    },
    Notice(Cow<'a, Notice>),
    Heartbeat(u64),
}

/// An event's fields, without its audience; and how long its data is.
#[derive(Serialize, Deserialize)]
struct Fields<'a> {
    position: Position,
    id: Uuid,
    #[serde(rename = "type", borrow)]
    event_type: Cow<'a, str>,
    priority: Priority,
    created_at: Millis,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expires_at: Option<Millis>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    keep_after_read: Option<Millis>,
    publisher: UserId,
    bytes: usize,
}

/// An audience; without any target: everyone.
#[derive(Serialize, Deserialize)]
struct Targets<'a> {
    #[serde(default, skip_serializing_if = "<[_]>::is_empty")]
    users: Cow<'a, [UserId]>,
    #[serde(default, skip_serializing_if = "<[_]>::is_empty", deserialize_with = "topics")]
    topics: Cow<'a, [Topic]>,
}

fn is_zero(number: &usize) -> bool {
    *number == 0
}

/// Topics, each by the rules for topics.
fn topics<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Cow<'static, [Topic]>, D::Error> {
    let texts = Vec::<Cow<'de, str>>::deserialize(deserializer)?;
    texts.iter().map(|text| parse(text)).collect::<Result<Vec<Topic>, _>>().map(Cow::Owned)
}

fn parse<T: FromStr<Err: Display>, E: serde::de::Error>(text: &str) -> Result<T, E> {
    text.parse().map_err(E::custom)
}

impl<'a> Targets<'a> {
    fn of(audience: &'a Audience) -> Self {
        Self { users: audience.user_ids().into(), topics: audience.topics().into() }
    }

    fn into_audience(self) -> Audience {
        if self.users.is_empty() && self.topics.is_empty() {
            return Audience::Everyone;
        }
        Audience::of(self.users.into_owned(), self.topics.into_owned())
    }
}

impl<'a> Fields<'a> {
    fn of_copy(copy: &'a EventCopy) -> Self {
        Self {
            position: copy.position,
            id: copy.id,
            event_type: copy.event_type.as_str().into(),
            priority: copy.priority,
            created_at: copy.created_at,
            expires_at: copy.expires_at,
            keep_after_read: copy.keep_after_read,
            publisher: copy.publisher,
            bytes: copy.data.len(),
        }
    }

    fn of_event(event: &'a Event) -> Self {
        Self {
            position: event.position,
            id: event.id,
            event_type: event.event_type.as_str().into(),
            priority: event.priority,
            created_at: event.created_at,
            expires_at: event.expires_at,
            keep_after_read: event.keep_after_read,
            publisher: event.publisher,
            bytes: event.data.len(),
        }
    }

    fn with_data(self, rest: &mut &[u8]) -> Option<EventCopy> {
        Some(EventCopy {
            position: self.position,
            id: self.id,
            event_type: self.event_type.parse::<EventType>().ok()?,
            priority: self.priority,
            data: take_data(rest, self.bytes)?,
            created_at: self.created_at,
            expires_at: self.expires_at,
            keep_after_read: self.keep_after_read,
            publisher: self.publisher,
        })
    }
}

pub(super) fn encode(sender: &str, epoch: Option<&Epoch>, message: &Message) -> Bytes {
    let mut data: Vec<&str> = Vec::new();
    let body = match message {
        Message::Copy(copy) => {
            data.push(&copy.data);
            Body::Event(Fields::of_copy(copy))
        }
        Message::Announcement(announcement) => {
            let Announcement { previous, previous_id, last, last_id, elsewhere, carried } = announcement;
            data.extend(carried.iter().map(|event| event.data.as_str()));
            let elsewhere = elsewhere.iter().map(|(at, audience)| (*at, Targets::of(audience)));
            let carried = carried.iter().map(|event| (Targets::of(&event.audience), Fields::of_event(event)));
            Body::Announcement {
                previous: *previous,
                previous_id: *previous_id,
                last: *last,
                last_id: *last_id,
                elsewhere: elsewhere.collect(),
                carried: carried.collect(),
            }
        }
        Message::Notice(notice) => Body::Notice(Cow::Borrowed(notice)),
        Message::Heartbeat(count) => Body::Heartbeat(*count),
    };
    let header = Header { epoch: epoch.map(|e| e.as_str().into()), sender: sender.into(), mac: 0, body };
    let mut out = Vec::with_capacity(512 + data.iter().map(|data| data.len()).sum::<usize>());
    out.extend_from_slice(format!("{VERSION} ").as_bytes());
    serde_json::to_writer(&mut out, &header).expect("a header is plain JSON");
    out.push(b'\n');
    data.iter().for_each(|data| out.extend_from_slice(data.as_bytes()));
    out.into()
}

/// Whether [`encode`] wrote these bytes for `sender`, by how it begins a header.
pub(super) fn is_from(sender: &str, bytes: &[u8]) -> bool {
    let begins = || {
        let rest = bytes.strip_prefix(b"2 {")?;
        let rest = match rest.strip_prefix(b"\"epoch\":\"") {
            Some(epoch) => split_once(epoch, b'"')?.1.strip_prefix(b",")?,
            None => rest,
        };
        rest.strip_prefix(b"\"sender\":\"")?.strip_prefix(sender.as_bytes())?.strip_prefix(b"\"")
    };
    begins().is_some()
}

/// What follows the version.
pub(super) fn decode(bytes: &[u8]) -> Option<Received> {
    let (header, mut rest) = split_once(bytes, b'\n')?;
    let header: Header<'_> = serde_json::from_slice(header).ok()?;
    let message = match header.body {
        Body::Event(fields) => Message::Copy(fields.with_data(&mut rest)?),
        Body::Announcement { previous, previous_id, last, last_id, elsewhere, carried } => {
            let elsewhere = elsewhere.into_iter().map(|(at, targets)| (at, targets.into_audience()));
            let carried = carried.into_iter().map(|(targets, fields)| {
                Some(fields.with_data(&mut rest)?.addressed_to(targets.into_audience()))
            });
            Message::Announcement(Announcement {
                previous,
                previous_id,
                last,
                last_id,
                elsewhere: elsewhere.collect(),
                carried: carried.collect::<Option<_>>()?,
            })
        }
        Body::Notice(notice) => Message::Notice(notice.into_owned()),
        Body::Heartbeat(count) => Message::Heartbeat(count),
    };
    let epoch = header.epoch.map(|epoch| epoch.parse()).transpose().ok()?;
    (rest.len() == header.mac).then(|| Received { sender: header.sender.into_owned(), epoch, message })
}
