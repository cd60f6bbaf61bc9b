//! Chunks of retention: each one statement.

use sqlx::{AssertSqlSafe, Row as _};

use super::{Failure, PostgresStore};
use crate::store::Result;
use crate::store::retention::{Chunk, Done, EXPIRED_AT_ONCE};

/// The advisory lock of the node that removes. It is only ever tried.
const LOCK: i64 = 7_163_384_699_738_779_504;

impl PostgresStore {
    pub(in crate::store) async fn retention(&self, chunk: Chunk, limit: u32) -> Result<Option<Done>> {
        let (statement, value) = statement(chunk);
        let query = sqlx::query(AssertSqlSafe(statement)).bind(LOCK).bind(i64::from(limit)).bind(value);
        let row = self.within(async |c| query.fetch_one(c).await).await?;
        let read = || {
            let (is_mine, rows): (bool, i64) = (row.try_get("is_mine")?, row.try_get("rows")?);
            let done = Done { rows: rows.unsigned_abs(), last: row.try_get("last")? };
            Ok(is_mine.then_some(done))
        };
        Ok(read().map_err(Failure::Sql)?)
    }
}

/// The statement of a chunk, with `$1` the lock, `$2` the most rows, and `$3`, which is given beside it.
///
/// Rows are named by lists of where they are, so that each is looked up: a join may scan the table. Walks begin where the
/// last one ended, since they must step over every row that was removed and not yet vacuumed.
fn statement(chunk: Chunk) -> (String, i64) {
    let (parts, value) = match chunk {
        Chunk::Floor { before } => (FLOOR.to_owned(), before),
        Chunk::Below { rows, from } => (BELOW.replace("ROWS", rows.table()), from),
        Chunk::Marks => (MARKS.to_owned(), 0),
        Chunk::Sessions { before } => (SESSIONS.to_owned(), before),
        Chunk::Tokens { before } => (TOKENS.to_owned(), before),
        Chunk::OfExpired { rows, before } => {
            (format!("{DUE}{}", OF_EXPIRED.replace("ROWS", rows.table())), before)
        }
        Chunk::Expired { before } => (format!("{DUE}{EMPTIED}"), before),
    };
    let parts = parts.replace("DUE_AT_ONCE", &EXPIRED_AT_ONCE.to_string());
    let statement = format!(
        "with mine as materialized (select pg_try_advisory_xact_lock($1) as is_mine), {parts}
        select m.is_mine, (select count(*) from gone) as rows, coalesce((select max(position) from gone), 0) as last
        from mine m"
    );
    (statement, value)
}

/// Up to the first event, in order, that is too young, even if the clock once stepped back.
const FLOOR: &str = "
    oldest as materialized (
        select e.position, e.created_at from events e
        where (select is_mine from mine) and e.position > (select floor from log_state)
        order by e.position limit $2
    ),
    gone as materialized (
        select position from oldest
        where position < coalesce((select min(position) from oldest where created_at >= $3), 9223372036854775807)
    ),
    risen as (
        update log_state set floor = greatest(floor, (select max(position) from gone))
        where exists (select from gone)
    )";

const BELOW: &str = "
    gone as (
        delete from ROWS t where t.ctid = any(array(
            select r.ctid from ROWS r
            where (select is_mine from mine) and r.position >= $3 and r.position <= (select floor from log_state)
            order by r.position limit $2))
        returning t.position
    )";

/// A user's highest mark stays: it says what later marks must lie above. It goes once a later one is looked at.
const MARKS: &str = "
    gone as materialized (
        select m.user_id, m.position from read_marks m
        where (select is_mine from mine) and $3 = 0
            and (m.position, m.user_id)
                > ((select marks_position from log_state), (select marks_user from log_state))
            and m.position <= (select floor from log_state)
        order by m.position, m.user_id limit $2
    ),
    removed as (
        delete from read_marks m where m.ctid = any(array(
            select lower.ctid from gone g join read_marks lower
                on lower.user_id = g.user_id and lower.position <= g.position
            where lower.position < g.position or exists (
                select from read_marks higher where higher.user_id = g.user_id and higher.position > g.position)))
    ),
    moved as (
        update log_state s set marks_position = l.position, marks_user = l.user_id
        from (select * from gone order by position desc, user_id desc limit 1) l
    )";

const SESSIONS: &str = "
    gone as (
        delete from sessions where secret = any(array(
            select secret from sessions where (select is_mine from mine) and expires_at < $3
            order by expires_at limit $2))
        returning 0::bigint as position
    )";

const TOKENS: &str = "
    gone as (
        delete from tokens where id = any(array(
            select id from tokens where (select is_mine from mine) and least(expires_at, revoked_at) < $3
            order by least(expires_at, revoked_at) limit $2))
        returning 0::bigint as position
    )";

const DUE: &str = "
    due as materialized (
        select e.position from events e
        where (select is_mine from mine) and e.expires_at < $3 and e.emptied_at is null
        order by e.expires_at limit DUE_AT_ONCE
    ),";

const OF_EXPIRED: &str = "
    gone as (
        delete from ROWS t where t.ctid = any(array(
            select r.ctid from due d cross join lateral (
                select x.ctid from ROWS x where x.position = d.position limit $2) r
            limit $2))
        returning t.position
    )";

const EMPTIED: &str = "
    gone as (
        update events e set data = 'null', emptied_at = carillon_now()
        where e.position = any(array(select position from due)) and $2 > 0
        returning e.position
    )";
