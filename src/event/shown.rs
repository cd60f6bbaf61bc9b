//! An event as its readers see it, in streams and in the inbox alike.

use serde::Serialize;
use serde_json::value::RawValue;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use uuid::Uuid;

use super::{Audience, Event, EventType, Millis, Position, Priority};

/// An event as its readers see it. Whom else it went to is not theirs to know.
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

/// A time as RFC 3339 text in UTC.
pub fn rfc3339(millis: Millis) -> String {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(millis) * 1_000_000)
        .ok()
        .and_then(|t| t.format(&Rfc3339).ok())
        .unwrap_or_else(|| millis.to_string())
}
