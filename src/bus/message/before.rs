//! Version 1 of messages, which programs before `carillon migrate --finish` read and write: a header line of JSON, then
//! each event as the frame of the envelope form. Written only while such programs may be running. They log each message
//! that they cannot read and then ask the store for its head, so another version would flood their logs and the store.
//!
//! To be deleted, with its one use in the module above, when no program of that time can be running any more.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use uuid::Uuid;

use super::{Announcement, Message, Notice, Received, split_once};
use crate::account::Credential;
use crate::event::{Audience, Epoch, Event, EventType, Millis, Position, Priority, Shown, Topic, UserId};

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Header {
    Payload(Head),
    Announcement {
        epoch: Epoch,
        previous: Position,
        last: Position,
        elsewhere: Vec<(Position, Targets)>,
        carried: Vec<(Head, usize)>,
        // Programs of that time do not read the ids, and do not write them.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        previous_id: Option<Uuid>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        last_id: Option<Uuid>,
    },
    Notice(OldNotice),
    Heartbeat(u64),
}

#[derive(Serialize, Deserialize)]
struct Head {
    position: Position,
    event_type: EventType,
    priority: Priority,
    audience: Targets,
    expires_at: Option<Millis>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Targets {
    Everyone,
    Users(Vec<UserId>),
    Topic(Topic),
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum OldNotice {
    Read { user: UserId, position: Position, read: bool },
    ReadUpTo { user: UserId, up_to: Position },
    ReadUpToTakenBack { user: UserId },
    Retracted { position: Position, audience: Targets },
    Ended(Vec<Credential>),
    Presence { topic: Topic, node: String, joined: Vec<String>, left: Vec<String> },
}

/// `None`: users and topics together, or several topics, cannot be said.
fn targets(audience: &Audience) -> Option<Targets> {
    match (audience.user_ids(), audience.topics()) {
        ([], []) => Some(Targets::Everyone),
        (users, []) => Some(Targets::Users(users.to_vec())),
        ([], [topic]) => Some(Targets::Topic(topic.clone())),
        _ => None,
    }
}

fn audience(targets: Targets) -> Audience {
    match targets {
        Targets::Everyone => Audience::Everyone,
        Targets::Users(users) => Audience::users(users),
        Targets::Topic(topic) => Audience::topic(topic),
    }
}

fn head(event: &Event) -> Option<Head> {
    Some(Head {
        position: event.position,
        event_type: event.event_type.clone(),
        priority: event.priority,
        audience: targets(&event.audience)?,
        expires_at: event.expires_at,
    })
}

fn frame(epoch: &Epoch, event: &Event) -> String {
    let json = serde_json::to_string(&Shown::from(event)).expect("an event is plain JSON");
    format!("id: {epoch}-{}\ndata: {json}\n\n", event.position)
}

/// `of_copy` is whom a copy's event is for. `None`: it cannot be said in this version.
pub(super) fn encode(
    sender: &str,
    epoch: Option<&Epoch>,
    message: &Message,
    of_copy: Option<&Audience>,
) -> Option<Bytes> {
    let mut frames = String::new();
    let header = match message {
        Message::Copy(copy) => {
            let event = copy.clone().addressed_to(of_copy?.clone());
            frames = frame(epoch?, &event);
            Header::Payload(head(&event)?)
        }
        Message::Announcement(Announcement { previous, previous_id, last, last_id, elsewhere, carried }) => {
            let mut heads = Vec::with_capacity(carried.len());
            for event in carried {
                let frame = frame(epoch?, event);
                heads.push((head(event)?, frame.len()));
                frames.push_str(&frame);
            }
            let elsewhere = elsewhere.iter().map(|(at, audience)| Some((*at, targets(audience)?)));
            let elsewhere = elsewhere.collect::<Option<_>>()?;
            Header::Announcement {
                epoch: epoch?.clone(),
                previous: *previous,
                previous_id: *previous_id,
                last: *last,
                last_id: *last_id,
                elsewhere,
                carried: heads,
            }
        }
        Message::Notice(notice) => Header::Notice(old_notice(sender, notice)?),
        Message::Heartbeat(count) => Header::Heartbeat(*count),
    };
    let mut out = serde_json::to_vec(&header).expect("a header is plain JSON");
    out.push(b'\n');
    out.extend_from_slice(frames.as_bytes());
    Some(out.into())
}

fn old_notice(sender: &str, notice: &Notice) -> Option<OldNotice> {
    Some(match notice.clone() {
        Notice::Read { user, position, read } => OldNotice::Read { user, position, read },
        Notice::ReadUpTo { user, up_to } => OldNotice::ReadUpTo { user, up_to },
        Notice::ReadUpToTakenBack { user } => OldNotice::ReadUpToTakenBack { user },
        Notice::Retracted { position, audience } => {
            OldNotice::Retracted { position, audience: targets(&audience)? }
        }
        Notice::Ended(credentials) => OldNotice::Ended(credentials),
        Notice::UserChanged(_) => return None,
        Notice::Presence { topic, joined, left } => {
            OldNotice::Presence { topic, node: sender.to_owned(), joined, left }
        }
    })
}

pub(super) fn decode(bytes: &[u8]) -> Option<Received> {
    let (header, mut rest) = split_once(bytes, b'\n')?;
    let (mut sender, mut of) = (String::new(), None);
    let message = match serde_json::from_slice(header).ok()? {
        Header::Payload(head) => {
            let (epoch, event) = event(head, std::mem::take(&mut rest))?;
            of = Some(epoch);
            Message::Copy(super::split(event).0)
        }
        Header::Announcement { epoch, previous, previous_id, last, last_id, elsewhere, carried } => {
            let carried = carried.into_iter().map(|(head, length)| {
                let (frame, after) = rest.split_at_checked(length)?;
                rest = after;
                Some(event(head, frame)?.1)
            });
            let carried = carried.collect::<Option<Vec<_>>>()?;
            let elsewhere = elsewhere.into_iter().map(|(at, targets)| (at, audience(targets))).collect();
            of = Some(epoch);
            Message::Announcement(Announcement { previous, previous_id, last, last_id, elsewhere, carried })
        }
        Header::Notice(notice) => Message::Notice(new_notice(&mut sender, notice)),
        Header::Heartbeat(count) => Message::Heartbeat(count),
    };
    rest.is_empty().then_some(Received { sender, epoch: of, message })
}

fn new_notice(sender: &mut String, notice: OldNotice) -> Notice {
    match notice {
        OldNotice::Read { user, position, read } => Notice::Read { user, position, read },
        OldNotice::ReadUpTo { user, up_to } => Notice::ReadUpTo { user, up_to },
        OldNotice::ReadUpToTakenBack { user } => Notice::ReadUpToTakenBack { user },
        OldNotice::Retracted { position, audience: targets } => {
            Notice::Retracted { position, audience: audience(targets) }
        }
        OldNotice::Ended(credentials) => Notice::Ended(credentials),
        OldNotice::Presence { topic, node, joined, left } => {
            *sender = node;
            Notice::Presence { topic, joined, left }
        }
    }
}

/// An event from its frame. The frame does not say who published it, and nothing that is delivered does.
fn event(head: Head, frame: &[u8]) -> Option<(Epoch, Event)> {
    #[derive(Deserialize)]
    struct Envelope<'a> {
        id: Uuid,
        #[serde(borrow)]
        data: &'a RawValue,
        created_at: &'a str,
    }
    let frame = std::str::from_utf8(frame).ok()?.strip_prefix("id: ")?.strip_suffix("\n\n")?;
    let (cursor, json) = frame.split_once("\ndata: ")?;
    let epoch = cursor.split_once('-')?.0.parse().ok()?;
    if json.contains(['\r', '\n']) {
        return None;
    }
    let envelope: Envelope<'_> = serde_json::from_str(json).ok()?;
    let created_at = OffsetDateTime::parse(envelope.created_at, &Rfc3339).ok()?;
    let event = Event {
        position: head.position,
        id: envelope.id,
        event_type: head.event_type,
        priority: head.priority,
        audience: audience(head.audience),
        data: envelope.data.get().to_owned(),
        created_at: Millis::try_from(created_at.unix_timestamp_nanos() / 1_000_000).ok()?,
        expires_at: head.expires_at,
        keep_after_read: None,
        publisher: 0,
    };
    Some((epoch, event))
}
