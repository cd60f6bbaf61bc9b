//! What stands in a user's inbox, and what the user has read of it.

use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;
use uuid::Uuid;

use super::log::{event_columns, event_of, min_priority};
use super::{SqliteStore, failed, list, now};
use crate::event::{EventType, Position, UserId};
use crate::store::{InboxEntry, InboxOrder, InboxQuery, Reader, Result};

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
const INBOX_EVENT: &str = concat!(
    "select *, json_array(?1) as recipients from (",
    with_reading!(),
    " where e.id = ?2 and (e.audience <> 1 or exists (
        select 1 from event_users u where u.user_id = ?1 and u.position = e.position))) e
      where retracted_at is null and ",
    has_stayed!()
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
     on conflict (user_id, position) do update set is_read = excluded.is_read, at = excluded.at
     where is_read <> excluded.is_read"
);
/// Not beyond the head: what comes later has not been read.
const MARK_READ_UP_TO: &str = concat!(
    "insert into read_marks (user_id, position, at)
     select ?1, t.position, ",
    now!(),
    " from (select min(?2, max(floor, coalesce((select max(position) from events), 0))) as position from log_state) t
     where not exists (select 1 from read_marks where user_id = ?1 and position >= t.position)"
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
        let (priority, position) = match query.after {
            Some((priority, position)) => (priority as i16, position),
            None => (i16::MAX, Position::MAX),
        };
        let rows = sqlx::query(statement)
            .bind(reader.user)
            .bind(list(&reader.topics))
            .bind(list(&query.filter.types))
            .bind(min_priority(&query.filter))
            .bind(query.unread_only)
            .bind(query.include_expired)
            .bind(query.topics_only)
            .bind(priority)
            .bind(position)
            .bind(i64::from(query.limit))
            .fetch_all(&self.readers)
            .await
            .map_err(failed)?;
        rows.iter().map(entry).collect()
    }

    pub(in crate::store) async fn inbox_event(&self, user: UserId, id: Uuid) -> Result<Option<InboxEntry>> {
        let query = sqlx::query(INBOX_EVENT).bind(user).bind(id);
        query.fetch_optional(&self.readers).await.map_err(failed)?.as_ref().map(entry).transpose()
    }

    pub(in crate::store) async fn unread_counts(
        &self,
        reader: &Reader,
        limit: u32,
    ) -> Result<Vec<(EventType, i64)>> {
        let query =
            sqlx::query_as(UNREAD_COUNTS).bind(reader.user).bind(list(&reader.topics)).bind(i64::from(limit));
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

    pub(in crate::store) async fn mark_read_up_to(&self, user: UserId, position: Position) -> Result<()> {
        let mut work = self.writer.begin_with("BEGIN IMMEDIATE").await.map_err(failed)?;
        // Receipts that say read stay, for their time.
        for statement in
            ["delete from receipts where user_id = ?1 and position <= ?2 and not is_read", MARK_READ_UP_TO]
        {
            sqlx::query(statement).bind(user).bind(position).execute(&mut *work).await.map_err(failed)?;
        }
        work.commit().await.map_err(failed)
    }
}

fn entry(row: &SqliteRow) -> Result<InboxEntry> {
    Ok(InboxEntry { event: event_of(row)?, read_at: row.try_get("read_at").map_err(failed)? })
}
