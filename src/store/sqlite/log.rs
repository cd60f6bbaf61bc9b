//! The log: appending, reading ranges, retracting, retention.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use serde::Serialize;
use sqlx::sqlite::{SqliteConnection, SqliteRow};
use sqlx::{AssertSqlSafe, Connection as _, Row as _};
use uuid::Uuid;

use super::{DIALECT, SqliteStore, bound, failed, list, now};
use crate::event::{Applied, Epoch, Event, Fingerprint, Millis, NewEvent, Position, Priority, Topic, UserId};
use crate::store::rows::{EventRow, audience_number, only_topic, scanned};
use crate::store::scan::{Scan, Scanned};
use crate::store::{Appended, AppendedEvent, LogState, Result, StoreError};

/// Compared with what was applied: `?1` epoch, `?2` position, `?3` id; all null: with nothing.
const LOG_STATE: &str = concat!(
    "select s.epoch, s.floor, max(s.floor, coalesce(l.position, 0)) as head, ",
    now!(),
    " as now, s.forms, case when l.position >= s.floor then l.id end as head_id,
        coalesce(s.epoch = ?1 and (
            ?2 > max(s.floor, coalesce(l.position, 0))
            or ?3 is not null and ?2 > s.floor
                and not exists (select 1 from events e where e.position = ?2 and e.id = ?3)
        ), false) as is_lost
    from log_state s left join (select position, id from events order by position desc limit 1) l on true"
);
const NEW_EPOCH: &str = "update log_state set epoch = lower(hex(randomblob(4)))";
const RETRACT: &str = concat!(
    "update events set retracted_at = ",
    now!(),
    " where id = ?1 and retracted_at is null and (?2 is null or publisher = ?2) returning position"
);
const INSERT: &str = "
    insert into events (id, type, priority, audience, topic, data, created_at, expires_at, keep_after_read,
        publisher, idempotency_key, idempotency_index, request_hash, request_length)
    values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)
    on conflict (publisher, idempotency_key, idempotency_index) do nothing
    returning position, id, created_at, expires_at";
/// Events without keys, as one list. Positions are drawn as the column's own would be, and rise with the list.
const INSERT_ALL: &str = "
    insert into events (position, id, type, priority, audience, topic, data, created_at, expires_at, keep_after_read,
        publisher)
    select max(?3, coalesce((select seq from sqlite_sequence where name = 'events'), 0)) + 1 + key,
        unhex(value ->> 0), value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, ?2, value ->> 6, value ->> 7,
        value ->> 8
    from json_each(?1) order by key
    returning position";
/// Targets, each with the event's position and priority.
const TO_USERS: &str = "
    insert into event_users (user_id, position, priority) select value ->> 0, value ->> 1, value ->> 2 from json_each(?1)";
const ON_TOPICS: &str = "
    insert into event_topics (topic, position, priority) select value ->> 0, value ->> 1, value ->> 2 from json_each(?1)";
const FIRST_OF_KEY: &str = "
    select position, id, created_at, expires_at from events
    where publisher = ?1 and idempotency_key = ?2 and idempotency_index = ?3";

const REQUEST_OF_KEY: &str = "
    select request_hash, request_length from events
    where publisher = ?1 and idempotency_key = ?2 order by idempotency_index limit 1";

impl SqliteStore {
    pub(in crate::store) async fn log_state(&self) -> Result<LogState> {
        let mut connection = self.readers.acquire().await.map_err(failed)?;
        Ok(log_state(&mut connection, None).await.map_err(failed)?.0)
    }

    pub(in crate::store) async fn compare(&self, applied: &Applied) -> Result<LogState> {
        let mut connection = self.readers.acquire().await.map_err(failed)?;
        let (state, is_lost) = log_state(&mut connection, Some(applied)).await.map_err(failed)?;
        drop(connection);
        if !is_lost {
            return Ok(state);
        }
        let mut connection = self.writer.acquire().await.map_err(failed)?;
        let compared = async {
            let mut work = connection.begin_with("BEGIN IMMEDIATE").await?;
            let state = compare(&mut work, Some(applied)).await?;
            work.commit().await?;
            Ok(state)
        };
        compared.await.map_err(failed)
    }

    pub(in crate::store) async fn id_at(&self, position: Position) -> Result<Option<Uuid>> {
        let query = sqlx::query_scalar("select id from events where position = ?1").bind(position);
        query.fetch_optional(&self.readers).await.map_err(failed)
    }

    pub(in crate::store) async fn append(
        &self,
        events: &[NewEvent],
        applied: Option<&Applied>,
    ) -> Result<Appended> {
        let mut connection = self.writer.acquire().await.map_err(failed)?;
        // Nobody else writes meanwhile: there is one connection for it.
        let reused = reused_keys(&mut connection, events).await.map_err(failed)?;
        if !reused.is_empty() {
            return Err(StoreError::KeyReused(reused));
        }
        append(&mut connection, events, applied).await.map_err(failed)
    }

    pub(in crate::store) async fn scan<T: From<EventRow>>(&self, scan: &Scan<'_>) -> Result<Scanned<T>> {
        let statement = AssertSqlSafe(DIALECT.scan(scan));
        let query = bound!(sqlx::query(statement), scan).bind(scan.text).bind(scan.bytes);
        let rows = query.fetch_all(&self.readers).await.map_err(failed)?;
        scanned(&rows).map_err(failed)
    }

    pub(in crate::store) async fn event_at(&self, position: Position) -> Result<Option<Event>> {
        let query = sqlx::query_as(AssertSqlSafe(DIALECT.event("e.position = $1"))).bind(position);
        let row: Option<EventRow> = query.fetch_optional(&self.readers).await.map_err(failed)?;
        Ok(row.map(Event::from))
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
}

/// The places, from 0, of the first events of requests whose key came with another one, in the log or earlier here.
async fn reused_keys(connection: &mut SqliteConnection, events: &[NewEvent]) -> sqlx::Result<Vec<usize>> {
    let mut earlier: HashMap<(UserId, &str), Option<Fingerprint>> = HashMap::new();
    let mut reused = Vec::new();
    for (place, event) in events.iter().enumerate() {
        let Some((key, 0)) = &event.idempotency else { continue };
        let first = match earlier.entry((event.publisher, key)) {
            Entry::Occupied(first) => *first.get(),
            Entry::Vacant(vacant) => {
                let query = sqlx::query_as(REQUEST_OF_KEY).bind(event.publisher).bind(key);
                let stored: Option<(Option<Vec<u8>>, Option<i64>)> =
                    query.fetch_optional(&mut *connection).await?;
                *vacant.insert(stored.map_or(event.request, |(hash, length)| {
                    Some(Fingerprint { hash: hash?.try_into().ok()?, length: length? })
                }))
            }
        };
        if event.request.is_some_and(|request| first.is_some_and(|first| first != request)) {
            reused.push(place);
        }
    }
    Ok(reused)
}

/// Where the log stands, and whether it has lost what was applied.
async fn log_state(
    connection: &mut SqliteConnection,
    applied: Option<&Applied>,
) -> sqlx::Result<(LogState, bool)> {
    let query = sqlx::query(LOG_STATE)
        .bind(applied.map(|applied| applied.epoch.as_str()))
        .bind(applied.map(|applied| applied.at.position))
        .bind(applied.and_then(|applied| applied.at.id));
    let row = query.fetch_one(connection).await?;
    let state = LogState {
        epoch: epoch(row.try_get("epoch")?)?,
        floor: row.try_get("floor")?,
        head: row.try_get("head")?,
        head_id: row.try_get("head_id")?,
        now: row.try_get("now")?,
        forms: row.try_get("forms")?,
        is_new_epoch: false,
    };
    Ok((state, row.try_get("is_lost")?))
}

/// The same in a transaction that writes: a log that has lost what was applied begins a new epoch.
async fn compare(connection: &mut SqliteConnection, applied: Option<&Applied>) -> sqlx::Result<LogState> {
    let (state, is_lost) = log_state(connection, applied).await?;
    if !is_lost {
        return Ok(state);
    }
    sqlx::query(NEW_EPOCH).execute(&mut *connection).await?;
    let (state, _) = log_state(connection, None).await?;
    Ok(LogState { is_new_epoch: true, ..state })
}

async fn append(
    connection: &mut SqliteConnection,
    events: &[NewEvent],
    applied: Option<&Applied>,
) -> sqlx::Result<Appended> {
    let mut work = connection.begin_with("BEGIN IMMEDIATE").await?;
    let LogState { epoch, is_new_epoch, head: previous, head_id: previous_id, now, .. } =
        compare(&mut work, applied).await?;
    let outcomes = if events.iter().all(|event| event.idempotency.is_none()) {
        insert_all(&mut work, events, previous, now).await?
    } else {
        insert_each(&mut work, events, now).await?
    };
    let written = || events.iter().zip(&outcomes).filter(|(_, outcome)| !outcome.is_repeat);
    write_targets(&mut work, TO_USERS, written().flat_map(|(event, outcome)| users(event, outcome.position)))
        .await?;
    write_targets(
        &mut work,
        ON_TOPICS,
        written().flat_map(|(event, outcome)| topics(event, outcome.position)),
    )
    .await?;
    work.commit().await?;
    Ok(Appended { epoch, is_new_epoch, previous, previous_id, events: outcomes })
}

/// Writes events without keys: each statement costs more than the rows it writes.
async fn insert_all(
    connection: &mut SqliteConnection,
    events: &[NewEvent],
    head: Position,
    now: Millis,
) -> sqlx::Result<Vec<AppendedEvent>> {
    let row = |e: &NewEvent| {
        let (id, audience, topic) =
            (e.id.simple().to_string(), audience_number(&e.audience), only_topic(&e.audience));
        let (event_type, expires_at) = (e.event_type.as_str(), e.expiry.from(now));
        serde_json::json!([
            id,
            event_type,
            e.priority as i16,
            audience,
            topic,
            e.data,
            expires_at,
            e.keep_after_read,
            e.publisher
        ])
    };
    let rows: Vec<_> = events.iter().map(row).collect();
    let query = sqlx::query_scalar(INSERT_ALL).bind(list(&rows)).bind(now).bind(head);
    let mut positions: Vec<Position> = query.fetch_all(connection).await?;
    // Rows may be given back in any order.
    positions.sort_unstable();
    let outcome = |(position, event): (Position, &NewEvent)| AppendedEvent {
        position,
        id: event.id,
        created_at: now,
        expires_at: event.expiry.from(now),
        is_repeat: false,
    };
    Ok(positions.into_iter().zip(events).map(outcome).collect())
}

/// Writes events one by one: of those with a key, the one that came first stays.
async fn insert_each(
    connection: &mut SqliteConnection,
    events: &[NewEvent],
    now: Millis,
) -> sqlx::Result<Vec<AppendedEvent>> {
    let mut outcomes = Vec::with_capacity(events.len());
    for event in events {
        let expires_at = event.expiry.from(now);
        let (key, index) = event.idempotency.as_ref().map(|(key, index)| (key.as_str(), *index)).unzip();
        let inserted = sqlx::query(INSERT)
            .bind(event.id)
            .bind(event.event_type.as_str())
            .bind(event.priority as i16)
            .bind(audience_number(&event.audience))
            .bind(only_topic(&event.audience))
            .bind(event.data.as_str())
            .bind(now)
            .bind(expires_at)
            .bind(event.keep_after_read)
            .bind(event.publisher)
            .bind(key)
            .bind(index)
            .bind(event.request.map(|request| request.hash.to_vec()))
            .bind(event.request.map(|request| request.length))
            .fetch_optional(&mut *connection)
            .await?;
        outcomes.push(match inserted {
            Some(row) => appended(&row, false)?,
            None => {
                let first = sqlx::query(FIRST_OF_KEY).bind(event.publisher).bind(key).bind(index);
                appended(&first.fetch_one(&mut *connection).await?, true)?
            }
        });
    }
    Ok(outcomes)
}

/// A target with its event's position and priority; normal is null there.
type Target<T> = (T, Position, Option<i16>);

fn users(event: &NewEvent, position: Position) -> impl Iterator<Item = Target<UserId>> {
    event.audience.user_ids().iter().map(move |user| (*user, position, beside_target(event.priority)))
}

fn topics(event: &NewEvent, position: Position) -> impl Iterator<Item = Target<&Topic>> {
    event.audience.topics().iter().map(move |topic| (topic, position, beside_target(event.priority)))
}

fn beside_target(priority: Priority) -> Option<i16> {
    (priority != Priority::Normal).then_some(priority as i16)
}

/// Writes whom events are for.
async fn write_targets<T: Serialize>(
    connection: &mut SqliteConnection,
    statement: &'static str,
    targets: impl Iterator<Item = Target<T>>,
) -> sqlx::Result<()> {
    let targets: Vec<_> = targets.collect();
    if !targets.is_empty() {
        sqlx::query(statement).bind(list(&targets)).execute(connection).await?;
    }
    Ok(())
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

fn epoch(text: &str) -> sqlx::Result<Epoch> {
    text.parse().map_err(|error| sqlx::Error::Decode(Box::new(error)))
}
