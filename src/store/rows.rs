//! Rows of both databases as events.

use sqlx::postgres::PgRow;
use sqlx::sqlite::SqliteRow;
use sqlx::types::Json;
use sqlx::{ColumnIndex, Database, Decode, FromRow, Row, Type};
use uuid::Uuid;

use super::scan::Scanned;
use super::{InboxEntry, UnreadCounts};
use crate::event::{Audience, Event, EventType, Millis, Position, Priority, Topic, UserId};

/// A row of [`super::scan::EVENT_COLUMNS`] with `users` and `topics`, and of a reader `read_at`.
pub(super) struct EventRow {
    position: Position,
    id: Uuid,
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
    users: Option<Vec<UserId>>,
    topics: Option<Vec<String>>,
    read_at: Option<Millis>,
}

/// Written here rather than derived: sqlx's macros have every driver compiled a second time.
macro_rules! from_row {
    ($row:ty) => {
        impl FromRow<'_, $row> for EventRow {
            fn from_row(row: &$row) -> sqlx::Result<Self> {
                let users: Option<Json<Vec<UserId>>> = row.try_get("users")?;
                let topics: Option<Json<Vec<String>>> = row.try_get("topics")?;
                Ok(Self {
                    position: row.try_get("position")?,
                    id: row.try_get("id")?,
                    event_type: row.try_get("type")?,
                    priority: row.try_get("priority")?,
                    audience: row.try_get("audience")?,
                    topic: row.try_get("topic")?,
                    data: row.try_get("data")?,
                    created_at: row.try_get("created_at")?,
                    expires_at: row.try_get("expires_at")?,
                    keep_after_read: row.try_get("keep_after_read")?,
                    publisher: row.try_get("publisher")?,
                    users: users.map(|Json(users)| users),
                    topics: topics.map(|Json(topics)| topics),
                    read_at: match row.try_get("read_at") {
                        // Nodes read without a reader.
                        Err(sqlx::Error::ColumnNotFound(_)) => None,
                        read_at => read_at?,
                    },
                })
            }
        }
    };
}
from_row!(PgRow);
from_row!(SqliteRow);

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

/// What a scan's rows say. Each says how far it came; those without an event say nothing else.
pub(super) fn scanned<'r, R, T>(rows: &'r [R]) -> sqlx::Result<Scanned<T>>
where
    R: Row,
    T: From<EventRow>,
    EventRow: FromRow<'r, R>,
    &'static str: ColumnIndex<R>,
    i64: Decode<'r, <R as Row>::Database> + Type<<R as Row>::Database>,
    Option<i64>: Decode<'r, <R as Row>::Database> + Type<<R as Row>::Database>,
    bool: Decode<'r, <R as Row>::Database> + Type<<R as Row>::Database>,
    Option<Uuid>: Decode<'r, <R as Row>::Database> + Type<<R as Row>::Database>,
    <R as Row>::Database: Database,
{
    let Some(first) = rows.first() else { return Ok(Scanned::default()) };
    let mut found = Vec::with_capacity(rows.len());
    for row in rows {
        if row.try_get::<Option<i64>, _>("position")?.is_some() {
            found.push(EventRow::from_row(row)?.into());
        }
    }
    let id = |name: &'static str| match first.try_get(name) {
        // Scans from the newest down.
        Err(sqlx::Error::ColumnNotFound(_)) => Ok(None),
        id => id,
    };
    Ok(Scanned {
        found,
        looked_at: first.try_get("looked_at")?,
        bytes: first.try_get("bytes")?,
        last: first.try_get("last_position")?,
        is_cut: first.try_get("is_cut")?,
        floor: first.try_get("floor")?,
        after_id: id("after_id")?,
        end_id: id("end_id")?,
    })
}

/// What a count's rows say. Each tells whether there may be more; one without a type tells nothing else.
pub(super) fn unread_counts<'r, R>(rows: &'r [R]) -> sqlx::Result<UnreadCounts>
where
    R: Row,
    &'static str: ColumnIndex<R>,
    String: Decode<'r, <R as Row>::Database> + Type<<R as Row>::Database>,
    i64: Decode<'r, <R as Row>::Database> + Type<<R as Row>::Database>,
    bool: Decode<'r, <R as Row>::Database> + Type<<R as Row>::Database>,
    <R as Row>::Database: Database,
{
    let mut counts = UnreadCounts::default();
    for row in rows {
        counts.more = row.try_get("is_cut")?;
        if let Some(name) = row.try_get::<Option<String>, _>("type")? {
            let unread: i64 = row.try_get("unread")?;
            counts.unread += unread;
            counts.by_type.push((EventType::from_stored(name), unread));
        }
    }
    Ok(counts)
}
