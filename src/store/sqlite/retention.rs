//! Chunks of retention. The file has one writer: what waits for it comes between two of them.

use sqlx::sqlite::SqliteConnection;
use sqlx::{AssertSqlSafe, Connection as _};

use super::{SqliteStore, failed, now};
use crate::event::{Millis, Position, UserId};
use crate::store::Result;
use crate::store::retention::{Chunk, Done, EXPIRED_AT_ONCE, Rows};

/// Up to the first event, in order, that is too young, even if the clock once stepped back.
const LAST_TO_GO: &str = "
    with oldest as (
        select position, created_at from events where position > (select floor from log_state)
        order by position limit ?2
    )
    select count(*), max(position) from oldest
    where position < coalesce((select min(position) from oldest where created_at >= ?1), ?3)";
const DUE: &str =
    "select position from events where expires_at < ?1 and emptied_at is null order by expires_at limit ?3";
const EMPTY: &str =
    concat!("update events set data = 'null', emptied_at = ", now!(), " where position in (DUE) and ?2 > 0");
const NEXT_MARKS: &str = "
    select position, user_id from read_marks
    where (position, user_id) > ((select marks_position from log_state), (select marks_user from log_state))
        and position <= (select floor from log_state)
    order by position, user_id limit ?1";
/// A user's highest mark stays: it says what later marks must lie above. It goes once a later one is looked at.
const REMOVE_MARKS: &str = "
    with looked as (
        select position, user_id from read_marks
        where (position, user_id) > ((select marks_position from log_state), (select marks_user from log_state))
            and (position, user_id) <= (?1, ?2)
    )
    delete from read_marks where (user_id, position) in (
        select lower.user_id, lower.position from looked l cross join read_marks lower
            on lower.user_id = l.user_id and lower.position <= l.position
        where lower.position < l.position or exists (
            select 1 from read_marks higher where higher.user_id = l.user_id and higher.position > l.position))";

impl SqliteStore {
    pub(in crate::store) async fn retention(&self, chunk: Chunk, limit: u32) -> Result<Done> {
        let mut connection = self.writer.acquire().await.map_err(failed)?;
        let limit = i64::from(limit);
        let done = async {
            let mut work = connection.begin_with("BEGIN IMMEDIATE").await?;
            let rows = match chunk {
                Chunk::Floor { before } => raise_floor(&mut work, before, limit).await?,
                Chunk::Marks => remove_marks(&mut work, limit).await?,
                other => remove(&mut work, other, limit).await?,
            };
            work.commit().await?;
            sqlx::Result::Ok(Done { rows, last: 0 })
        };
        done.await.map_err(failed)
    }
}

async fn raise_floor(work: &mut SqliteConnection, before: Millis, limit: i64) -> sqlx::Result<u64> {
    let query = sqlx::query_as(LAST_TO_GO).bind(before).bind(limit).bind(Position::MAX);
    let (rows, last): (i64, Option<Position>) = query.fetch_one(&mut *work).await?;
    if let Some(last) = last {
        sqlx::query("update log_state set floor = max(floor, ?1)").bind(last).execute(work).await?;
    }
    Ok(rows.unsigned_abs())
}

async fn remove_marks(work: &mut SqliteConnection, limit: i64) -> sqlx::Result<u64> {
    let looked: Vec<(Position, UserId)> =
        sqlx::query_as(NEXT_MARKS).bind(limit).fetch_all(&mut *work).await?;
    if let Some((position, user)) = looked.last() {
        for statement in [REMOVE_MARKS, "update log_state set marks_position = ?1, marks_user = ?2"] {
            sqlx::query(statement).bind(position).bind(user).execute(&mut *work).await?;
        }
    }
    Ok(looked.len() as u64)
}

async fn remove(work: &mut SqliteConnection, chunk: Chunk, limit: i64) -> sqlx::Result<u64> {
    let key = |rows| match rows {
        Rows::Users | Rows::Receipts => "(user_id, position)",
        Rows::Topics => "(topic, position)",
        Rows::Events => "position",
    };
    let among = |rows: Rows, which: &str| {
        let (table, key) = (rows.table(), key(rows));
        let columns = key.trim_matches(['(', ')']);
        format!("delete from {table} where {key} in (select {columns} from {table} where {which} limit ?2)")
    };
    let (statement, value) = match chunk {
        Chunk::Below { rows, from } => {
            let below = "position >= ?1 and position <= (select floor from log_state) order by position";
            (among(rows, below), from)
        }
        Chunk::OfExpired { rows, before } => (among(rows, &format!("position in ({DUE})")), before),
        Chunk::Expired { before } => (EMPTY.replace("DUE", DUE), before),
        Chunk::Sessions { before } => (
            "delete from sessions where secret in (
                select secret from sessions where expires_at < ?1 limit ?2)"
                .to_owned(),
            before,
        ),
        Chunk::Tokens { before } => (
            "delete from tokens where id in (
                select id from tokens
                where min(coalesce(expires_at, revoked_at), coalesce(revoked_at, expires_at)) < ?1 limit ?2)"
                .to_owned(),
            before,
        ),
        Chunk::Floor { .. } | Chunk::Marks => return Ok(0),
    };
    let query = sqlx::query(AssertSqlSafe(statement)).bind(value).bind(limit).bind(EXPIRED_AT_ONCE);
    Ok(query.execute(work).await?.rows_affected())
}
