//! The log: appending, reading ranges, retracting, retention.

use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{Connection, Row};
use uuid::Uuid;

use super::{Failure, PostgresStore};
use crate::event::{
    Audience, Epoch, Event, EventType, Expiry, Millis, NewEvent, Position, Priority, Selector, Topic, UserId,
};
use crate::store::{Appended, AppendedEvent, LogState, Page, Reader, Result};

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
        "(select array_agg(u.user_id order by u.user_id) from event_users u where u.position = e.position) \
         as recipients"
    };
}
pub(super) use event_columns;

const LOG_STATE: &str = "
    select s.epoch, s.floor, greatest(s.floor, (select max(position) from events)) as head, carillon_now() as now
    from log_state s";

const APPEND: &str =
    "select * from carillon_append($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)";

/// Gives a row for every position looked at, so that the caller can tell how far the read came; those of
/// events that are not wanted hold nothing else.
const READ_FOR_NODE: &str = concat!(
    "
    with scanned as (
        select position from (
            (select position from events
                where audience = 0 and position > $1 and position <= $2 order by position limit $5)
            union all
            (select distinct position from event_users
                where user_id = any($3) and position > $1 and position <= $2 order by position limit $5)
            union all
            (select position from events
                where audience = 2 and topic = any($4) and position > $1 and position <= $2
                order by position limit $5)
        ) found
        group by position order by position limit $5
    )
    select s.position as scanned, (select floor from log_state) as floor, ",
    event_columns!(),
    ", ",
    whole_audience!(),
    "
    from scanned s
    left join events e on e.position = s.position and e.retracted_at is null
        and (e.expires_at is null or e.expires_at > (select carillon_now()))
    order by s.position"
);

/// As above, for one reader.
const READ_FOR_READER: &str = concat!(
    "
    with scanned as (
        select position from (
            (select position from events
                where audience = 0 and position > $1 and position <= $2 order by position limit $5)
            union all
            (select position from event_users
                where user_id = $3 and position > $1 and position <= $2 order by position limit $5)
            union all
            (select position from events
                where audience = 2 and topic = any($4) and position > $1 and position <= $2
                order by position limit $5)
        ) found
        group by position order by position limit $5
    )
    select s.position as scanned, (select floor from log_state) as floor, ",
    event_columns!(),
    ", array[$3] as recipients
    from scanned s
    left join receipts r on r.user_id = $3 and r.position = s.position
    left join events e on e.position = s.position and e.retracted_at is null
        and (e.expires_at is null or e.expires_at > (select carillon_now()))
        and not coalesce(r.is_read, s.position <= (select max(position) from read_marks where user_id = $3), false)
        and (cardinality($6) = 0 or e.type = any($6))
        and e.priority >= $7
    order by s.position"
);

const EVENT_AT: &str =
    concat!("select ", event_columns!(), ", ", whole_audience!(), " from events e where e.position = $1");

const RETRACT: &str = concat!(
    "update events e set retracted_at = carillon_now()
     where e.id = $1 and e.retracted_at is null and ($2 is null or e.publisher = $2)
     returning ",
    event_columns!(),
    ", ",
    whole_audience!()
);

impl PostgresStore {
    pub(in crate::store) async fn log_state(&self) -> Result<LogState> {
        let row = self.within(async |c| sqlx::query(LOG_STATE).fetch_one(c).await).await?;
        let read = || {
            Ok(LogState {
                epoch: epoch(row.try_get("epoch")?)?,
                floor: row.try_get("floor")?,
                head: row.try_get("head")?,
                now: row.try_get("now")?,
            })
        };
        Ok(read().map_err(Failure::Sql)?)
    }

    pub(in crate::store) async fn renew_epoch(&self, old: &Epoch) -> Result<Epoch> {
        const RENEW: &str = "update log_state set epoch = carillon_new_epoch() where epoch = $1";
        // Two statements: the second sees what another node wrote while the first waited for it.
        let text = self
            .within(async |c| {
                sqlx::query(RENEW).bind(old.as_str()).execute(&mut *c).await?;
                epoch(sqlx::query_scalar("select epoch from log_state").fetch_one(c).await?)
            })
            .await?;
        Ok(text)
    }

    pub(in crate::store) async fn append(&self, events: &[NewEvent]) -> Result<Appended> {
        if events.is_empty() {
            return Ok(Appended { previous: self.log_state().await?.head, events: Vec::new() });
        }
        // One statement on its own, so that the log's lock is never held across a round trip.
        let rows = self.within(async |c| append_rows(c, events).await).await?;
        let read = || {
            let previous = rows.first().ok_or(sqlx::Error::RowNotFound)?.try_get("previous")?;
            let events: Vec<_> = rows.iter().map(appended).collect::<sqlx::Result<_>>()?;
            Ok(Appended { previous, events })
        };
        let appended: Appended = read().map_err(Failure::Sql)?;
        if appended.events.len() != events.len() {
            let (given, got) = (events.len(), appended.events.len());
            return Err(crate::store::StoreError::Failed(format!("appended {given} events, told of {got}")));
        }
        Ok(appended)
    }

    pub(in crate::store) async fn read_for_node(
        &self,
        after: Position,
        up_to: Position,
        selector: &Selector,
        limit: u32,
    ) -> Result<Page> {
        let topics = topic_names(selector);
        let query = sqlx::query(READ_FOR_NODE)
            .bind(after)
            .bind(up_to)
            .bind(&selector.users)
            .bind(topics)
            .bind(i64::from(limit));
        let rows = self.within(async |c| query.fetch_all(c).await).await?;
        Ok(page(&rows, after, up_to, limit).map_err(Failure::Sql)?)
    }

    pub(in crate::store) async fn read_for_reader(
        &self,
        after: Position,
        up_to: Position,
        reader: &Reader,
        limit: u32,
    ) -> Result<Page> {
        let topics = topic_names(&reader.selector);
        let query = sqlx::query(READ_FOR_READER)
            .bind(after)
            .bind(up_to)
            .bind(reader.user)
            .bind(topics)
            .bind(i64::from(limit))
            .bind(type_names(&reader.selector))
            .bind(min_priority(&reader.selector));
        let rows = self.within(async |c| query.fetch_all(c).await).await?;
        Ok(page(&rows, after, up_to, limit).map_err(Failure::Sql)?)
    }

    pub(in crate::store) async fn event_at(&self, position: Position) -> Result<Option<Event>> {
        let query = sqlx::query(EVENT_AT).bind(position);
        let row = self.within(async |c| query.fetch_optional(c).await).await?;
        Ok(row.as_ref().map(event_of).transpose().map_err(Failure::Sql)?)
    }

    pub(in crate::store) async fn retract(
        &self,
        id: Uuid,
        publisher: Option<UserId>,
    ) -> Result<Option<Event>> {
        let query = sqlx::query(RETRACT).bind(id).bind(publisher);
        let row = self.within(async |c| query.fetch_optional(c).await).await?;
        Ok(row.as_ref().map(event_of).transpose().map_err(Failure::Sql)?)
    }

    pub(in crate::store) async fn remove_before(&self, before: Millis, limit: u32) -> Result<u64> {
        Ok(self.within(async |c| retire(c, before, i64::from(limit)).await).await?)
    }
}

/// Lays the events out in columns and appends them.
async fn append_rows(connection: &mut PgConnection, events: &[NewEvent]) -> sqlx::Result<Vec<PgRow>> {
    let mut recipients: Vec<UserId> = Vec::new();
    let mut recipient_ordinals: Vec<i64> = Vec::new();
    for (event, ordinal) in events.iter().zip(1..) {
        recipients.extend_from_slice(event.audience.user_ids());
        recipient_ordinals.resize(recipients.len(), ordinal);
    }
    let key = |e: &NewEvent| e.idempotency.as_ref().map(|(key, _)| key.clone());
    let end_at = |e: &NewEvent| if let Expiry::At(at) = e.expiry { Some(at) } else { None };
    let end_in = |e: &NewEvent| if let Expiry::After(span) = e.expiry { Some(span) } else { None };
    sqlx::query(APPEND)
        .bind(column(events, |e| e.id))
        .bind(events.iter().map(|e| e.event_type.as_str()).collect::<Vec<_>>())
        .bind(column(events, |e| e.priority as i16))
        .bind(column(events, |e| audience_number(&e.audience)))
        .bind(events.iter().map(|e| topic_of(&e.audience)).collect::<Vec<_>>())
        .bind(events.iter().map(|e| e.data.as_str()).collect::<Vec<_>>())
        .bind(column(events, end_at))
        .bind(column(events, end_in))
        .bind(column(events, |e| e.keep_after_read))
        .bind(column(events, |e| e.publisher))
        .bind(column(events, key))
        .bind(column(events, |e| e.idempotency.as_ref().map(|(_, index)| *index)))
        .bind(recipients)
        .bind(recipient_ordinals)
        .fetch_all(connection)
        .await
}

fn column<T>(events: &[NewEvent], value: impl Fn(&NewEvent) -> T) -> Vec<T> {
    events.iter().map(value).collect()
}

fn topic_of(audience: &Audience) -> Option<&str> {
    audience.topics().first().map(Topic::as_str)
}

/// The number in `events.audience`.
fn audience_number(audience: &Audience) -> i16 {
    match audience {
        Audience::Everyone => 0,
        Audience::Of { topics, .. } if topics.is_empty() => 1,
        Audience::Of { .. } => 2,
    }
}

fn appended(row: &PgRow) -> sqlx::Result<AppendedEvent> {
    Ok(AppendedEvent {
        position: row.try_get("position")?,
        id: row.try_get("id")?,
        created_at: row.try_get("created_at")?,
        expires_at: row.try_get("expires_at")?,
        is_repeat: row.try_get("is_repeat")?,
    })
}

/// The topics of a selector, for a text array.
pub(super) fn topic_names(selector: &Selector) -> Vec<&str> {
    selector.topics.iter().map(Topic::as_str).collect()
}

/// The types of a selector, for a text array; empty: all.
pub(super) fn type_names(selector: &Selector) -> Vec<&str> {
    selector.types.iter().map(EventType::as_str).collect()
}

/// The least priority of a selector.
pub(super) fn min_priority(selector: &Selector) -> i16 {
    selector.min_priority.unwrap_or(Priority::Low) as i16
}

fn epoch(text: String) -> sqlx::Result<Epoch> {
    text.parse().map_err(|error| sqlx::Error::Decode(Box::new(error)))
}

/// The event in a row of [`event_columns`] and `recipients`.
pub(super) fn event_of(row: &PgRow) -> sqlx::Result<Event> {
    let audience = match row.try_get::<i16, _>("audience")? {
        0 => Audience::Everyone,
        1 => Audience::users(row.try_get::<Option<Vec<UserId>>, _>("recipients")?.unwrap_or_default()),
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
}

/// A page from one row for each position looked at.
fn page(rows: &[PgRow], after: Position, up_to: Position, limit: u32) -> sqlx::Result<Page> {
    // Whoever stops at the limit knows nothing of what lies behind the last position looked at.
    let is_cut = u32::try_from(rows.len()).is_ok_and(|found| found >= limit);
    let end = match rows.last() {
        Some(last) if is_cut => last.try_get("scanned")?,
        None if is_cut => after,
        _ => up_to.max(after),
    };
    let floor = rows.first().map(|row| row.try_get("floor")).transpose()?;
    let wanted = |row: &&PgRow| !matches!(row.try_get::<Option<Position>, _>("position"), Ok(None));
    Ok(Page { events: rows.iter().filter(wanted).map(event_of).collect::<sqlx::Result<_>>()?, end, floor })
}

async fn retire(connection: &mut PgConnection, before: Millis, limit: i64) -> sqlx::Result<u64> {
    // Up to the first event, in order, that is too young, even if the clock once stepped back.
    const LAST_TO_GO: &str = "
        with oldest as (select position, created_at from events order by position limit $2)
        select max(position) from oldest
        where position < coalesce((select min(position) from oldest where created_at >= $1), $3)";
    // A user's highest mark stays: it says what later marks must lie above.
    const MARKS: &str = "
        delete from read_marks m where m.position <= $1 and exists (
            select from read_marks higher where higher.user_id = m.user_id and higher.position > m.position)";
    const SESSIONS: &str = "
        delete from sessions where secret in (
            select secret from sessions where expires_at < $1 order by expires_at limit $2)";
    const TOKENS: &str = "
        delete from tokens where id in (
            select id from tokens where least(expires_at, revoked_at) < $1
            order by least(expires_at, revoked_at) limit $2)";

    let mut work = connection.begin().await?;
    // One node at a time; the others find less to do.
    sqlx::query("select from log_state for update").execute(&mut *work).await?;
    let query = sqlx::query_scalar(LAST_TO_GO).bind(before).bind(limit).bind(Position::MAX);
    let last: Option<Position> = query.fetch_one(&mut *work).await?;
    let mut retired = 0;
    if let Some(last) = last {
        // The floor rises with the same commit, so that the head stays even when nothing is left.
        let floor = "update log_state set floor = greatest(floor, $1)";
        sqlx::query(floor).bind(last).execute(&mut *work).await?;
        let events = sqlx::query("delete from events where position <= $1").bind(last);
        retired = events.execute(&mut *work).await?.rows_affected();
        for rest in [
            "delete from event_users where position <= $1",
            "delete from receipts where position <= $1",
            MARKS,
        ] {
            sqlx::query(rest).bind(last).execute(&mut *work).await?;
        }
    }
    for ended in [SESSIONS, TOKENS] {
        sqlx::query(ended).bind(before).bind(limit).execute(&mut *work).await?;
    }
    work.commit().await?;
    Ok(retired)
}
