//! What stands in a user's inbox, and what the user has read of it.

use sqlx::AssertSqlSafe;
use uuid::Uuid;

use super::{DIALECT, Failure, PostgresStore, bound};
use crate::event::{Position, UserId};
use crate::store::rows::{EventRow, unread_counts};
use crate::store::scan::Scan;
use crate::store::{InboxEntry, Reader, Result, UnreadCounts};

/// Writes nothing for an event that stands as wanted by the marks alone.
const MARK: &str = "
    insert into receipts as r (user_id, position, is_read, at)
    select $1, $2, $3, carillon_now()
    where exists (select from receipts where user_id = $1 and position = $2)
        or $3 <> exists (select from read_marks where user_id = $1 and position >= $2)
    on conflict (user_id, position)
    do update set is_read = excluded.is_read, at = excluded.at, forgotten_by = null
    where r.is_read <> excluded.is_read";

/// Not beyond the head: what comes later has not been read. Receipts that say unread say read from now on, and
/// which number made them.
const MARK_READ_UP_TO: &str = "
    with target as materialized (
        select least($2, greatest(s.floor, (select max(position) from events))) as position from log_state s
    ),
    said as (
        insert into last_read_up_to as l (user_id, number) values ($1, 1)
        on conflict (user_id) do update set number = l.number + 1, is_taken_back = false
        returning number
    ),
    forgotten as (
        update receipts set is_read = true, at = carillon_now(), forgotten_by = (select number from said)
        where user_id = $1 and position <= (select position from target) and not is_read
    ),
    marked as (
        insert into read_marks (user_id, position, at, number)
        select $1, t.position, carillon_now(), s.number from target t, said s
        where not exists (select from read_marks where user_id = $1 and position >= t.position)
        on conflict (user_id, position) do nothing
    )
    select number from said";

const TAKE_BACK_READ_UP_TO: &str = "
    with said as (
        update last_read_up_to set is_taken_back = true
        where user_id = $1 and number = $2 and not is_taken_back
        returning user_id
    ),
    unmarked as (
        delete from read_marks where user_id = (select user_id from said) and number = $2
    ),
    remembered as (
        update receipts set is_read = false, at = carillon_now(), forgotten_by = null
        where user_id = (select user_id from said) and forgotten_by = $2
    )
    select 1 from said";

impl PostgresStore {
    pub(in crate::store) async fn inbox_event(
        &self,
        user: UserId,
        id: Uuid,
        also_left: bool,
    ) -> Result<Option<InboxEntry>> {
        let question =
            sqlx::query_as(AssertSqlSafe(DIALECT.inbox_event())).bind(id).bind(user).bind(also_left);
        let row: Option<EventRow> = self.within(async |c| question.fetch_optional(c).await).await?;
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
        let rows = self.within(async |c| question.fetch_all(c).await).await?;
        Ok(unread_counts(&rows).map_err(Failure::Sql)?)
    }

    pub(in crate::store) async fn mark(
        &self,
        user: UserId,
        position: Position,
        is_read: bool,
    ) -> Result<bool> {
        let change = sqlx::query(MARK).bind(user).bind(position).bind(is_read);
        let done = self.within(async |c| change.execute(c).await).await?;
        Ok(done.rows_affected() > 0)
    }

    pub(in crate::store) async fn mark_read_up_to(&self, user: UserId, position: Position) -> Result<i64> {
        let change = sqlx::query_scalar(MARK_READ_UP_TO).bind(user).bind(position);
        Ok(self.within(async |c| change.fetch_one(c).await).await?)
    }

    pub(in crate::store) async fn take_back_read_up_to(&self, user: UserId, number: i64) -> Result<bool> {
        let change = sqlx::query(TAKE_BACK_READ_UP_TO).bind(user).bind(number);
        Ok(self.within(async |c| change.fetch_optional(c).await).await?.is_some())
    }
}
