//! What stands in a user's inbox, and what the user has read of it.

use sqlx::AssertSqlSafe;
use uuid::Uuid;

use super::{DIALECT, SqliteStore, bound, failed, now};
use crate::event::{Position, UserId};
use crate::store::rows::{EventRow, unread_counts};
use crate::store::scan::Scan;
use crate::store::{InboxEntry, Reader, Result, UnreadCounts};

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
/// Receipts that say unread say read from now on, and which number made them. Without the index named, all of the user's
/// receipts are read.
const FORGET_UNREAD: &str = concat!(
    "update receipts indexed by receipts_unread set is_read = 1, forgotten_by = ?3, at = ",
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
    pub(in crate::store) async fn inbox_event(
        &self,
        user: UserId,
        id: Uuid,
        also_left: bool,
    ) -> Result<Option<InboxEntry>> {
        let question =
            sqlx::query_as(AssertSqlSafe(DIALECT.inbox_event())).bind(id).bind(user).bind(also_left);
        let row: Option<EventRow> = question.fetch_optional(&self.readers).await.map_err(failed)?;
        Ok(row.map(InboxEntry::from))
    }

    pub(in crate::store) async fn unread_counts(
        &self,
        reader: &Reader,
        most: u32,
        look_at: u32,
    ) -> Result<UnreadCounts> {
        let scan = Scan::unread(reader, most, look_at);
        let statement = AssertSqlSafe(DIALECT.unread_counts(&scan));
        let question = bound!(sqlx::query(statement), scan);
        let rows = question.fetch_all(&self.readers).await.map_err(failed)?;
        unread_counts(&rows).map_err(failed)
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
