//! What stands in a user's inbox, and what the user has read of it.

use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;
use uuid::Uuid;

use super::log::{event_columns, event_of, min_priority};
use super::{SqliteStore, failed, list, now};
use crate::event::{EventType, Position, Priority, UserId};
use crate::store::{Found, InboxEntry, InboxOrder, InboxQuery, Reader, Result};

/// Events `e` with the time at which user ?1 read them. What was said about the event itself outweighs the marks;
/// of those the lowest at or above it is the one that came first.
macro_rules! with_reading {
    () => {
        concat!(
            "select ",
            event_columns!(),
            ", e.retracted_at, case when r.is_read then r.at when r.is_read is null then (
                select m.at from read_marks m where m.user_id = ?1 and m.position >= e.position
                order by m.position limit 1) end as read_at
              from events e left join receipts r on r.user_id = ?1 and r.position = e.position"
        )
    };
}
/// That event `e` has not left the user after reading.
macro_rules! has_stayed {
    () => {
        concat!("(read_at is null or keep_after_read is null or read_at + keep_after_read > ", now!(), ")")
    };
}
/// That event `e` is for user ?1 or on one of the topics ?2.
macro_rules! is_mine {
    () => {
        "(e.audience = 0 or (e.audience = 2 and e.topic in (select value from json_each(?2))) or exists (
            select 1 from event_users u where u.user_id = ?1 and u.position = e.position))"
    };
}
macro_rules! inbox {
    ($after:literal, $order:literal) => {
        concat!(
            "select *, json_array(?1) as recipients from (",
            with_reading!(),
            " where ",
            is_mine!(),
            " and (not ?7 or e.audience = 2)) e where ",
            $after,
            " and retracted_at is null and (?6 or expires_at is null or expires_at > ",
            now!(),
            ") and (not ?5 or read_at is null) and ",
            has_stayed!(),
            " and (?3 = '[]' or type in (select value from json_each(?3))) and priority >= ?4 order by ",
            $order,
            " limit ?10"
        )
    };
}

const NEWEST: &str = inbox!("position < ?9 and ?8 >= 0", "position desc");
const BY_PRIORITY: &str = inbox!("(priority, position) < (?8, ?9)", "priority desc, position desc");
/// Looks for ?11 in what [`inbox!`] gives, and tells how many it looked at and where they end. Of letters, `lower`
/// knows only A to Z.
macro_rules! search {
    ($after:literal, $order:literal, $last:literal) => {
        concat!(
            "with candidates as materialized (",
            inbox!($after, $order),
            "), found as (
                select * from candidates
                where instr(lower(type), lower(?11)) > 0 or instr(lower(data), lower(?11)) > 0
                order by ",
            $order,
            " limit ?12
            )
            select (select count(*) from candidates) as looked_at, l.last_priority, l.last_position, e.*
            from (select priority as last_priority, position as last_position from candidates order by ",
            $last,
            " limit 1) l left join found e on true order by ",
            $order
        )
    };
}

const SEARCH_NEWEST: &str = search!("position < ?9 and ?8 >= 0", "position desc", "position");
const SEARCH_BY_PRIORITY: &str =
    search!("(priority, position) < (?8, ?9)", "priority desc, position desc", "priority, position");
/// With ?3, also if it has left the user after reading.
const INBOX_EVENT: &str = concat!(
    "select *, json_array(?1) as recipients from (",
    with_reading!(),
    " where e.id = ?2 and (e.audience <> 1 or exists (
        select 1 from event_users u where u.user_id = ?1 and u.position = e.position))) e
      where retracted_at is null and (?3 or ",
    has_stayed!(),
    ")"
);
const UNREAD_COUNTS: &str = concat!(
    "select type, count(*) as unread from (",
    with_reading!(),
    " where ",
    is_mine!(),
    ") e where retracted_at is null and read_at is null and (expires_at is null or expires_at > ",
    now!(),
    ") group by type order by unread desc, type limit ?3"
);
/// Writes nothing for an event that stands as wanted by the marks alone.
const MARK: &str = concat!(
    "insert into receipts (user_id, position, is_read, at)
     select ?1, ?2, ?3, ",
    now!(),
    " where exists (select 1 from receipts where user_id = ?1 and position = ?2)
        or ?3 <> exists (select 1 from read_marks where user_id = ?1 and position >= ?2)
     on conflict (user_id, position)
     do update set is_read = excluded.is_read, at = excluded.at, forgotten_by = null
     where is_read <> excluded.is_read"
);
/// Not beyond the head: what comes later has not been read.
const MARK_READ_UP_TO: &str = concat!(
    "insert into read_marks (user_id, position, at, number)
     select ?1, t.position, ",
    now!(),
    ", ?3 from (select min(?2, max(floor, coalesce((select max(position) from events), 0))) as position from log_state) t
     where not exists (select 1 from read_marks where user_id = ?1 and position >= t.position)"
);

const NUMBER_READ_UP_TO: &str = "
    insert into last_read_up_to (user_id, number) values (?1, 1)
    on conflict (user_id) do update set number = number + 1, is_taken_back = 0
    returning number";
/// Receipts that say unread say read from now on, and which number made them.
const FORGET_UNREAD: &str = concat!(
    "update receipts set is_read = 1, forgotten_by = ?3, at = ",
    now!(),
    " where user_id = ?1 and position <= ?2 and not is_read"
);
const TAKE_BACK: &str = "
    update last_read_up_to set is_taken_back = 1 where user_id = ?1 and number = ?2 and not is_taken_back";
const UNMARK: &str = "delete from read_marks where user_id = ?1 and number = ?2";
const REMEMBER_UNREAD: &str = concat!(
    "update receipts set is_read = 0, forgotten_by = null, at = ",
    now!(),
    " where user_id = ?1 and forgotten_by = ?2"
);

impl SqliteStore {
    pub(in crate::store) async fn inbox(
        &self,
        reader: &Reader,
        query: &InboxQuery,
    ) -> Result<Vec<InboxEntry>> {
        let statement = match query.order {
            InboxOrder::Newest => NEWEST,
            InboxOrder::Priority => BY_PRIORITY,
        };
        let question = ask(statement, reader, query).bind(i64::from(query.limit));
        question.fetch_all(&self.readers).await.map_err(failed)?.iter().map(entry).collect()
    }

    pub(in crate::store) async fn search_inbox(
        &self,
        reader: &Reader,
        query: &InboxQuery,
        text: &str,
        look_at: u32,
    ) -> Result<Found> {
        let statement = match query.order {
            InboxOrder::Newest => SEARCH_NEWEST,
            InboxOrder::Priority => SEARCH_BY_PRIORITY,
        };
        let question = ask(statement, reader, query)
            .bind(i64::from(look_at))
            .bind(text.to_owned())
            .bind(i64::from(query.limit));
        found(&question.fetch_all(&self.readers).await.map_err(failed)?, look_at)
    }

    pub(in crate::store) async fn inbox_event(
        &self,
        user: UserId,
        id: Uuid,
        also_left: bool,
    ) -> Result<Option<InboxEntry>> {
        let query = sqlx::query(INBOX_EVENT).bind(user).bind(id).bind(also_left);
        query.fetch_optional(&self.readers).await.map_err(failed)?.as_ref().map(entry).transpose()
    }

    pub(in crate::store) async fn unread_counts(
        &self,
        reader: &Reader,
        limit: u32,
    ) -> Result<Vec<(EventType, i64)>> {
        let query = sqlx::query_as(UNREAD_COUNTS)
            .bind(reader.user)
            .bind(list(&reader.selector.topics))
            .bind(i64::from(limit));
        let counts: Vec<(String, i64)> = query.fetch_all(&self.readers).await.map_err(failed)?;
        Ok(counts.into_iter().map(|(name, unread)| (EventType::from_stored(name), unread)).collect())
    }

    pub(in crate::store) async fn mark(
        &self,
        user: UserId,
        position: Position,
        is_read: bool,
    ) -> Result<bool> {
        let query = sqlx::query(MARK).bind(user).bind(position).bind(is_read);
        Ok(query.execute(&self.writer).await.map_err(failed)?.rows_affected() > 0)
    }

    pub(in crate::store) async fn mark_read_up_to(&self, user: UserId, position: Position) -> Result<i64> {
        let mut work = self.writer.begin_with("BEGIN IMMEDIATE").await.map_err(failed)?;
        let number: i64 =
            sqlx::query_scalar(NUMBER_READ_UP_TO).bind(user).fetch_one(&mut *work).await.map_err(failed)?;
        for statement in [FORGET_UNREAD, MARK_READ_UP_TO] {
            let change = sqlx::query(statement).bind(user).bind(position).bind(number);
            change.execute(&mut *work).await.map_err(failed)?;
        }
        work.commit().await.map_err(failed)?;
        Ok(number)
    }

    pub(in crate::store) async fn take_back_read_up_to(&self, user: UserId, number: i64) -> Result<bool> {
        let mut work = self.writer.begin_with("BEGIN IMMEDIATE").await.map_err(failed)?;
        for (index, statement) in [TAKE_BACK, UNMARK, REMEMBER_UNREAD].into_iter().enumerate() {
            let change = sqlx::query(statement).bind(user).bind(number);
            let done = change.execute(&mut *work).await.map_err(failed)?;
            if index == 0 && done.rows_affected() == 0 {
                return Ok(false);
            }
        }
        work.commit().await.map_err(failed)?;
        Ok(true)
    }
}

/// The question with all but its limits.
fn ask(
    statement: &'static str,
    reader: &Reader,
    query: &InboxQuery,
) -> sqlx::query::Query<'static, sqlx::Sqlite, sqlx::sqlite::SqliteArguments> {
    let (priority, position) = match query.after {
        Some((priority, position)) => (priority as i16, position),
        None => (i16::MAX, Position::MAX),
    };
    sqlx::query(statement)
        .bind(reader.user)
        .bind(list(&reader.selector.topics))
        .bind(list(&reader.selector.types))
        .bind(min_priority(&reader.selector))
        .bind(query.unread_only)
        .bind(query.include_expired)
        .bind(!reader.selector.everyone)
        .bind(priority)
        .bind(position)
}

/// What a search found, from rows that each tell how far it looked; if it found nothing, one does.
fn found(rows: &[SqliteRow], look_at: u32) -> Result<Found> {
    let is_one = |row: &&SqliteRow| !matches!(row.try_get::<Option<Position>, _>("position"), Ok(None));
    let entries = rows.iter().filter(is_one).map(entry).collect::<Result<_>>()?;
    let Some(first) = rows.first() else { return Ok(Found { entries, looked_up_to: None }) };
    let read = || {
        let is_cut = first.try_get::<i64, _>("looked_at")? >= i64::from(look_at);
        let last = (Priority::from_number(first.try_get("last_priority")?), first.try_get("last_position")?);
        Ok(is_cut.then_some(last))
    };
    Ok(Found { entries, looked_up_to: read().map_err(failed)? })
}

fn entry(row: &SqliteRow) -> Result<InboxEntry> {
    Ok(InboxEntry { event: event_of(row)?, read_at: row.try_get("read_at").map_err(failed)? })
}
