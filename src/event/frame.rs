//! Server-Sent Events frames (WHATWG HTML §9.2.6), encoded once and shared by every connection.
//!
//! Events of publishers carry no `event:` field, so that `EventSource.onmessage` sees them all; their type
//! is in the JSON. The server's own frames are named `carillon.…`.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use uuid::Uuid;

use crate::failpoint::is_armed;

use super::{Audience, Cursor, Epoch, Event, EventType, Millis, Position, Priority};

/// A frame with its `id:` line in front, so that a connection may use it whole or put another `id:` before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    bytes: Bytes,
    body_at: usize,
}

impl Frame {
    /// The frame that carries `event`, stamped with its own position.
    pub fn of(epoch: &Epoch, event: &Event) -> Self {
        let json = serde_json::to_string(&Shown::from(event)).expect("an event is plain JSON");
        let ahead = if is_armed("cursor_ahead") { 3 } else { 0 };
        let id = format!("id: {epoch}-{}\n", event.position + ahead);
        Self { body_at: id.len(), bytes: Bytes::from(format!("{id}data: {json}\n\n")) }
    }

    /// A frame as it came over the bus. `None` if it is not one.
    pub fn from_wire(bytes: Bytes) -> Option<Self> {
        let body_at = bytes.iter().position(|b| *b == b'\n')? + 1;
        (bytes.starts_with(b"id: ") && bytes.ends_with(b"\n\n")).then_some(Self { bytes, body_at })
    }

    /// The whole frame, `id:` line included.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The frame without its `id:` line.
    pub fn body(&self) -> &[u8] {
        &self.bytes[self.body_at..]
    }
}

/// An `id:` line. With an empty line after it (and no data) it moves a listener's cursor and nothing else.
pub fn id_line(cursor: &Cursor) -> String {
    format!("id: {cursor}\n")
}

/// One of the server's own events, without its `id:` line. `name` is a constant of ours, `data` becomes JSON.
pub fn control_body(name: &str, data: &impl Serialize) -> String {
    let json = serde_json::to_string(data).expect("control data is plain JSON");
    format!("event: {name}\ndata: {json}\n\n")
}

/// How long a browser waits before it reconnects.
pub fn retry_line(millis: u64) -> String {
    format!("retry: {millis}\n")
}

/// Makes a publisher's JSON fit one `data:` line: line breaks can stand only between tokens, where a space
/// means the same (RFC 8259 §2 and §7).
pub fn on_one_line(json: &str) -> String {
    json.replace(['\r', '\n'], " ")
}

/// A time as RFC 3339 text in UTC.
pub fn rfc3339(millis: Millis) -> String {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(millis) * 1_000_000)
        .ok()
        .and_then(|t| t.format(&Rfc3339).ok())
        .unwrap_or_else(|| millis.to_string())
}

/// An event as listeners see it. Whom else it went to is not theirs to know.
#[derive(Debug, Serialize)]
pub struct Shown<'a> {
    id: Uuid,
    position: Position,
    #[serde(rename = "type")]
    event_type: &'a EventType,
    priority: Priority,
    to: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    topic: Option<&'a str>,
    data: &'a RawValue,
    created_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<String>,
}

impl<'a> From<&'a Event> for Shown<'a> {
    fn from(event: &'a Event) -> Self {
        let (to, topic) = match &event.audience {
            Audience::Everyone => ("everyone", None),
            Audience::Of { topics, .. } => match topics.first() {
                Some(topic) => ("topic", Some(topic.as_str())),
                None => ("you", None),
            },
        };
        Self {
            id: event.id,
            position: event.position,
            event_type: &event.event_type,
            priority: event.priority,
            to,
            topic,
            data: serde_json::from_str(&event.data).unwrap_or(RawValue::NULL),
            created_at: rfc3339(event.created_at),
            expires_at: event.expires_at.map(rfc3339),
        }
    }
}

/// An event ready to be handed to listeners: what routing needs, and the frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// What routing needs to know.
    pub head: DeliveryHead,
    /// The bytes for the stream.
    pub frame: Frame,
}

/// What routing needs to know of an event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeliveryHead {
    /// Its place in the log.
    pub position: Position,
    /// What kind of event.
    pub event_type: EventType,
    /// How urgent.
    pub priority: Priority,
    /// Whom it is for.
    pub audience: Audience,
    /// When it ends for everyone, if it does.
    pub expires_at: Option<Millis>,
}

impl Delivery {
    /// Encodes `event` for the stream.
    pub fn of(epoch: &Epoch, event: &Event) -> Self {
        let head = DeliveryHead {
            position: event.position,
            event_type: event.event_type.clone(),
            priority: event.priority,
            audience: event.audience.clone(),
            expires_at: event.expires_at,
        };
        Self { head, frame: Frame::of(epoch, event) }
    }

    /// Whether it belongs to this history: positions of another mean something else.
    pub fn is_of(&self, epoch: &Epoch) -> bool {
        let id = self.frame.bytes().strip_prefix(b"id: ".as_slice());
        id.and_then(|id| id.strip_prefix(epoch.as_str().as_bytes()))
            .is_some_and(|rest| rest.starts_with(b"-"))
    }

    /// Its place in the log.
    pub fn position(&self) -> Position {
        self.head.position
    }
}
