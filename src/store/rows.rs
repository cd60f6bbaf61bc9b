//! Rows of both databases as events.

use sqlx::{ColumnIndex, Database, Decode, FromRow, Row, Type};
use uuid::Uuid;

use super::InboxEntry;
use super::scan::Scanned;
use crate::event::{Audience, Event, EventType, Millis, Position, Priority, Topic, UserId};

/// A row of [`super::scan::EVENT_COLUMNS`] with `users` and `topics`, and of a reader `read_at`.
#[derive(FromRow)]
pub(super) struct EventRow {
    position: Position,
    id: Uuid,
    #[sqlx(rename = "type")]
    event_type: String,
    priority: i16,
    /// 0: everyone; 2: the one topic in `topic`; 1: what is in `users` and `topics`.
    audience: i16,
    topic: Option<String>,
    data: String,
    created_at: Millis,
    expires_at: Option<Millis>,
    keep_after_read: Option<Millis>,
    publisher: UserId,
    #[sqlx(json(nullable))]
    users: Option<Vec<UserId>>,
    #[sqlx(json(nullable))]
    topics: Option<Vec<String>>,
    #[sqlx(default)]
    read_at: Option<Millis>,
}

impl From<EventRow> for Event {
    fn from(row: EventRow) -> Self {
        let stored = |topics: Vec<String>| topics.into_iter().map(Topic::from_stored).collect();
        Self {
            position: row.position,
            id: row.id,
            event_type: EventType::from_stored(row.event_type),
            priority: Priority::from_number(row.priority),
            audience: match (row.audience, row.topic) {
                (0, _) => Audience::Everyone,
                (_, Some(topic)) => Audience::topic(Topic::from_stored(topic)),
                _ => Audience::of(row.users.unwrap_or_default(), stored(row.topics.unwrap_or_default())),
            },
            data: row.data,
            created_at: row.created_at,
            expires_at: row.expires_at,
            keep_after_read: row.keep_after_read,
            publisher: row.publisher,
        }
    }
}

impl From<EventRow> for InboxEntry {
    fn from(row: EventRow) -> Self {
        let read_at = row.read_at;
        Self { event: row.into(), read_at }
    }
}

/// The number in `events.audience`.
pub(super) fn audience_number(audience: &Audience) -> i16 {
    match audience {
        Audience::Everyone => 0,
        _ if only_topic(audience).is_some() => 2,
        Audience::Of { .. } => 1,
    }
}

/// The topic in `events.topic`: one that is an event's only target.
pub(super) fn only_topic(audience: &Audience) -> Option<&str> {
    match audience {
        Audience::Of { users, topics } if users.is_empty() && topics.len() == 1 => Some(topics[0].as_str()),
        _ => None,
    }
}

/// What a scan's rows say. Each tells how far it came; those without an event tell nothing else.
pub(super) fn scanned<'r, R, T>(rows: &'r [R]) -> sqlx::Result<Scanned<T>>
where
    R: Row,
    T: From<EventRow>,
    EventRow: FromRow<'r, R>,
    &'static str: ColumnIndex<R>,
    i64: Decode<'r, <R as Row>::Database> + Type<<R as Row>::Database>,
    Option<i64>: Decode<'r, <R as Row>::Database> + Type<<R as Row>::Database>,
    <R as Row>::Database: Database,
{
    let Some(first) = rows.first() else { return Ok(Scanned::default()) };
    let mut found = Vec::with_capacity(rows.len());
    for row in rows {
        if row.try_get::<Option<i64>, _>("position")?.is_some() {
            found.push(EventRow::from_row(row)?.into());
        }
    }
    Ok(Scanned {
        found,
        looked_at: first.try_get("looked_at")?,
        last: first.try_get("last_position")?,
        floor: first.try_get("floor")?,
    })
}
