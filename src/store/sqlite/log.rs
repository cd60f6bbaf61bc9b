//! The log: appending, reading ranges, retracting, retention.

use sqlx::sqlite::{SqliteConnection, SqliteRow};
use sqlx::{Connection as _, Row as _};
use uuid::Uuid;

use super::{SqliteStore, failed, list, now};
use crate::event::{
    Audience, Epoch, Event, EventType, Expiry, Millis, NewEvent, Position, Priority, Selector, Topic, UserId,
};
use crate::store::{Appended, AppendedEvent, LogState, Page, Reader, Result, StoreError};

/// What [`event_of`] reads, besides the column `recipients`.
macro_rules! event_columns {
    () => {
        "e.position, e.id, e.type, e.priority, e.audience, e.topic, e.data, e.created_at, e.expires_at, \
         e.keep_after_read, e.publisher"
    };
}
/// All users an event names, for readers that are nodes.
macro_rules! whole_audience {
    () => {
        "(select json_group_array(u.user_id) from event_users u where u.position = e.position) as recipients"
    };
}
/// Positions above ?1 up to ?2 for the users ?3 and topics ?4 (JSON lists), at most ?5.
macro_rules! scanned {
    () => {
        "with scanned as (
            select position from (
                select * from (select position from events
                    where audience = 0 and position > ?1 and position <= ?2 order by position limit ?5)
                union all
                select * from (select distinct position from event_users
                    where user_id in (select value from json_each(?3)) and position > ?1 and position <= ?2
                    order by position limit ?5)
                union all
                select * from (select position from events
                    where audience = 2 and topic in (select value from json_each(?4))
                        and position > ?1 and position <= ?2
                    order by position limit ?5)
            ) group by position order by position limit ?5
        )"
    };
}
pub(super) use event_columns;

const LOG_STATE: &str = concat!(
    "select epoch, floor, max(floor, coalesce((select max(position) from events), 0)) as head, ",
    now!(),
    " as now from log_state"
);
const READ_FOR_NODE: &str = concat!(
    scanned!(),
    " select s.position as scanned, (select floor from log_state) as floor, ",
    event_columns!(),
    ", ",
    whole_audience!(),
    " from scanned s left join events e on e.position = s.position and e.retracted_at is null
        and (e.expires_at is null or e.expires_at > ",
    now!(),
    ") order by s.position"
);
const READ_FOR_READER: &str = concat!(
    scanned!(),
    " select s.position as scanned, (select floor from log_state) as floor, ",
    event_columns!(),
    ", ?3 as recipients
      from scanned s
      left join receipts r on r.user_id = ?6 and r.position = s.position
      left join events e on e.position = s.position and e.retracted_at is null
        and (e.expires_at is null or e.expires_at > ",
    now!(),
    ")
        and not coalesce(r.is_read, s.position <= (select max(position) from read_marks where user_id = ?6), 0)
        and (?7 = '[]' or e.type in (select value from json_each(?7)))
        and e.priority >= ?8
      order by s.position"
);
const EVENT_AT: &str =
    concat!("select ", event_columns!(), ", ", whole_audience!(), " from events e where e.position = ?1");
const RETRACT: &str = concat!(
    "update events set retracted_at = ",
    now!(),
    " where id = ?1 and retracted_at is null and (?2 is null or publisher = ?2) returning position"
);
const INSERT: &str = "
    insert into events (id, type, priority, audience, topic, data, created_at, expires_at, keep_after_read,
        publisher, idempotency_key, idempotency_index)
    values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)
    on conflict (publisher, idempotency_key, idempotency_index) do nothing
    returning position, id, created_at, expires_at";
const FIRST_OF_KEY: &str = "
    select position, id, created_at, expires_at from events
    where publisher = ?1 and idempotency_key = ?2 and idempotency_index = ?3";

impl SqliteStore {
    pub(in crate::store) async fn log_state(&self) -> Result<LogState> {
        let row = sqlx::query(LOG_STATE).fetch_one(&self.readers).await.map_err(failed)?;
        let epoch: String = row.try_get("epoch").map_err(failed)?;
        Ok(LogState {
            epoch: epoch_of(&epoch)?,
            floor: row.try_get("floor").map_err(failed)?,
            head: row.try_get("head").map_err(failed)?,
            now: row.try_get("now").map_err(failed)?,
        })
    }

    pub(in crate::store) async fn renew_epoch(&self, old: &Epoch) -> Result<Epoch> {
        sqlx::query("update log_state set epoch = lower(hex(randomblob(4))) where epoch = ?1")
            .bind(old.as_str())
            .execute(&self.writer)
            .await
            .map_err(failed)?;
        Ok(self.log_state().await?.epoch)
    }

    pub(in crate::store) async fn append(&self, events: &[NewEvent]) -> Result<Appended> {
        let mut connection = self.writer.acquire().await.map_err(failed)?;
        append(&mut connection, events).await.map_err(failed)
    }

    pub(in crate::store) async fn read_for_node(
        &self,
        after: Position,
        up_to: Position,
        selector: &Selector,
        limit: u32,
    ) -> Result<Page> {
        let query = sqlx::query(READ_FOR_NODE)
            .bind(after)
            .bind(up_to)
            .bind(list(&selector.users))
            .bind(list(&selector.topics))
            .bind(i64::from(limit));
        page(&query.fetch_all(&self.readers).await.map_err(failed)?, after, up_to, limit)
    }

    pub(in crate::store) async fn read_for_reader(
        &self,
        after: Position,
        up_to: Position,
        reader: &Reader,
        limit: u32,
    ) -> Result<Page> {
        let query = sqlx::query(READ_FOR_READER)
            .bind(after)
            .bind(up_to)
            .bind(list(&[reader.user]))
            .bind(list(&reader.selector.topics))
            .bind(i64::from(limit))
            .bind(reader.user)
            .bind(list(&reader.selector.types))
            .bind(min_priority(&reader.selector));
        page(&query.fetch_all(&self.readers).await.map_err(failed)?, after, up_to, limit)
    }

    pub(in crate::store) async fn event_at(&self, position: Position) -> Result<Option<Event>> {
        let row = sqlx::query(EVENT_AT).bind(position).fetch_optional(&self.readers).await.map_err(failed)?;
        row.as_ref().map(event_of).transpose()
    }

    pub(in crate::store) async fn retract(
        &self,
        id: Uuid,
        publisher: Option<UserId>,
    ) -> Result<Option<Event>> {
        let query = sqlx::query_scalar(RETRACT).bind(id).bind(publisher);
        let position: Option<Position> = query.fetch_optional(&self.writer).await.map_err(failed)?;
        match position {
            Some(position) => self.event_at(position).await,
            None => Ok(None),
        }
    }

    pub(in crate::store) async fn remove_before(&self, before: Millis, limit: u32) -> Result<u64> {
        let mut connection = self.writer.acquire().await.map_err(failed)?;
        retire(&mut connection, before, i64::from(limit)).await.map_err(failed)
    }
}

async fn append(connection: &mut SqliteConnection, events: &[NewEvent]) -> sqlx::Result<Appended> {
    let mut work = connection.begin_with("BEGIN IMMEDIATE").await?;
    let state = sqlx::query(LOG_STATE).fetch_one(&mut *work).await?;
    let (previous, now): (Position, Millis) = (state.try_get("head")?, state.try_get("now")?);
    let mut outcomes = Vec::with_capacity(events.len());
    for event in events {
        let (audience, topic) = match &event.audience {
            Audience::Everyone => (0, None),
            Audience::Of { topics, .. } => match topics.first() {
                None => (1, None),
                Some(topic) => (2, Some(topic.as_str())),
            },
        };
        let expires_at = match event.expiry {
            Expiry::Never => None,
            Expiry::At(at) => Some(at),
            Expiry::After(span) => Some(now.saturating_add(span)),
        };
        let (key, index) = event.idempotency.as_ref().map(|(key, index)| (key.as_str(), *index)).unzip();
        let inserted = sqlx::query(INSERT)
            .bind(event.id)
            .bind(event.event_type.as_str())
            .bind(event.priority as i16)
            .bind(audience)
            .bind(topic)
            .bind(event.data.as_str())
            .bind(now)
            .bind(expires_at)
            .bind(event.keep_after_read)
            .bind(event.publisher)
            .bind(key)
            .bind(index)
            .fetch_optional(&mut *work)
            .await?;
        let outcome = match inserted {
            Some(row) => appended(&row, false)?,
            None => {
                let first = sqlx::query(FIRST_OF_KEY).bind(event.publisher).bind(key).bind(index);
                appended(&first.fetch_one(&mut *work).await?, true)?
            }
        };
        let users = event.audience.user_ids();
        if !users.is_empty() && !outcome.is_repeat {
            sqlx::query("insert into event_users (user_id, position) select value, ?2 from json_each(?1)")
                .bind(list(users))
                .bind(outcome.position)
                .execute(&mut *work)
                .await?;
        }
        outcomes.push(outcome);
    }
    work.commit().await?;
    Ok(Appended { previous, events: outcomes })
}

fn appended(row: &SqliteRow, is_repeat: bool) -> sqlx::Result<AppendedEvent> {
    Ok(AppendedEvent {
        position: row.try_get("position")?,
        id: row.try_get("id")?,
        created_at: row.try_get("created_at")?,
        expires_at: row.try_get("expires_at")?,
        is_repeat,
    })
}

/// The least priority of a selector.
pub(super) fn min_priority(selector: &Selector) -> i16 {
    selector.min_priority.unwrap_or(Priority::Low) as i16
}

fn epoch_of(text: &str) -> Result<Epoch> {
    text.parse().map_err(|_| StoreError::Failed("the epoch in the database is malformed".into()))
}

/// The event in a row of [`event_columns`] and `recipients`.
pub(super) fn event_of(row: &SqliteRow) -> Result<Event> {
    let read = || {
        let audience = match row.try_get::<i16, _>("audience")? {
            0 => Audience::Everyone,
            1 => {
                let ids: String = row.try_get("recipients")?;
                Audience::users(
                    serde_json::from_str(&ids).map_err(|error| sqlx::Error::Decode(Box::new(error)))?,
                )
            }
            _ => Audience::topic(Topic::from_stored(row.try_get("topic")?)),
        };
        Ok(Event {
            position: row.try_get("position")?,
            id: row.try_get("id")?,
            event_type: EventType::from_stored(row.try_get("type")?),
            priority: Priority::from_number(row.try_get("priority")?),
            audience,
            data: row.try_get("data")?,
            created_at: row.try_get("created_at")?,
            expires_at: row.try_get("expires_at")?,
            keep_after_read: row.try_get("keep_after_read")?,
            publisher: row.try_get("publisher")?,
        })
    };
    read().map_err(failed)
}

/// A page from one row for each position looked at.
fn page(rows: &[SqliteRow], after: Position, up_to: Position, limit: u32) -> Result<Page> {
    // Whoever stops at the limit knows nothing of what lies behind the last position looked at.
    let is_cut = rows.len() >= limit as usize;
    let end = match rows.last() {
        Some(last) if is_cut => last.try_get("scanned").map_err(failed)?,
        None if is_cut => after,
        _ => up_to.max(after),
    };
    let floor = rows.first().map(|row| row.try_get("floor")).transpose().map_err(failed)?;
    let is_wanted = |row: &&SqliteRow| !matches!(row.try_get::<Option<Position>, _>("position"), Ok(None));
    Ok(Page { events: rows.iter().filter(is_wanted).map(event_of).collect::<Result<_>>()?, end, floor })
}

async fn retire(connection: &mut SqliteConnection, before: Millis, limit: i64) -> sqlx::Result<u64> {
    // Up to the first event, in order, that is too young, even if the clock once stepped back.
    const LAST_TO_GO: &str = "
        with oldest as (select position, created_at from events order by position limit ?2)
        select max(position) from oldest
        where position < coalesce((select min(position) from oldest where created_at >= ?1), ?3)";
    // A user's highest mark stays: it says what later marks must lie above.
    const MARKS: &str = "
        delete from read_marks where position <= ?1 and exists (
            select 1 from read_marks higher
            where higher.user_id = read_marks.user_id and higher.position > read_marks.position)";
    let mut work = connection.begin_with("BEGIN IMMEDIATE").await?;
    let query = sqlx::query_scalar(LAST_TO_GO).bind(before).bind(limit).bind(Position::MAX);
    let last: Option<Position> = query.fetch_one(&mut *work).await?;
    let mut retired = 0;
    if let Some(last) = last {
        // The floor rises with the same commit, so that the head stays even when nothing is left.
        sqlx::query("update log_state set floor = max(floor, ?1)").bind(last).execute(&mut *work).await?;
        let events = sqlx::query("delete from events where position <= ?1").bind(last);
        retired = events.execute(&mut *work).await?.rows_affected();
        for rest in [
            "delete from event_users where position <= ?1",
            "delete from receipts where position <= ?1",
            MARKS,
        ] {
            sqlx::query(rest).bind(last).execute(&mut *work).await?;
        }
    }
    for ended in [
        "delete from sessions where expires_at < ?1",
        "delete from tokens where min(coalesce(expires_at, revoked_at), coalesce(revoked_at, expires_at)) < ?1",
    ] {
        sqlx::query(ended).bind(before).execute(&mut *work).await?;
    }
    work.commit().await?;
    Ok(retired)
}
