//! What stands in a user's inbox, and what the user has read of it.

use sqlx::Row;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use super::log::{event_columns, event_of, min_priority, topic_names, type_names};
use super::{Failure, PostgresStore};
use crate::event::{EventType, Position, Priority, UserId};
use crate::store::{Found, InboxEntry, InboxOrder, InboxQuery, Reader, Result};

/// When user `$1` read event `e`, as `reading.at`. What was said about the event itself outweighs the marks; of
/// those the lowest at or above it is the one that came first.
macro_rules! reading {
    () => {
        "
        left join receipts r on r.user_id = $1 and r.position = e.position
        cross join lateral (
            select case
                when r.is_read then r.at
                when r.is_read is null then (
                    select m.at from read_marks m where m.user_id = $1 and m.position >= e.position
                    order by m.position limit 1)
            end as at
        ) reading"
    };
}

/// One of the three ways by which an event gets to user `$1`, each complete in itself and no longer than a page:
/// `$2` topics, `$3` types, `$4` least priority, `$5` only unread, `$6` also expired, `$7` only topics, `$8` and
/// `$9` priority and position of the entry before, `$10` the limit.
macro_rules! branch {
    ($from:literal, $mine:literal, $after:literal, $order:literal) => {
        concat!(
            "(select ",
            event_columns!(),
            ", reading.at as read_at from ",
            $from,
            reading!(),
            " where ",
            $mine,
            " and ",
            $after,
            " and e.retracted_at is null
              and ($6 or e.expires_at is null or e.expires_at > (select carillon_now()))
              and (reading.at is null or (not $5 and (
                  e.keep_after_read is null or reading.at + e.keep_after_read > (select carillon_now()))))
              and (cardinality($3) = 0 or e.type = any($3)) and e.priority >= $4
              order by ",
            $order,
            " limit $10)"
        )
    };
}

macro_rules! inbox {
    ($after:literal, $order:literal) => {
        concat!(
            "select e.*, array[$1] as recipients from (",
            branch!("events e", "not $7 and e.audience = 0", $after, $order),
            " union all ",
            branch!(
                "event_users mine join events e on e.position = mine.position",
                "not $7 and mine.user_id = $1",
                $after,
                $order
            ),
            " union all ",
            branch!("events e", "e.audience = 2 and e.topic = any($2)", $after, $order),
            ") e order by ",
            $order,
            " limit $10"
        )
    };
}

const NEWEST: &str = inbox!("e.position < $9 and $8 >= 0", "e.position desc");
const BY_PRIORITY: &str = inbox!("(e.priority, e.position) < ($8, $9)", "e.priority desc, e.position desc");

/// Looks for `$11` in what [`inbox!`] gives, and tells how many it looked at and where they end. The letters A to Z
/// are the only ones whose case does not matter, whatever the database's language: so it is in SQLite and in pages.
macro_rules! search {
    ($after:literal, $order:literal, $last:literal) => {
        concat!(
            "with candidates as materialized (",
            inbox!($after, $order),
            "),
            found as (
                select * from candidates e
                where strpos(lower(e.type collate \"C\"), lower($11 collate \"C\")) > 0
                    or strpos(lower(e.data collate \"C\"), lower($11 collate \"C\")) > 0
                order by ",
            $order,
            " limit $12
            )
            select (select count(*) from candidates) as looked_at, l.priority as last_priority,
                l.position as last_position, e.*
            from (select e.priority, e.position from candidates e order by ",
            $last,
            " limit 1) l left join found e on true order by ",
            $order
        )
    };
}

const SEARCH_NEWEST: &str = search!("e.position < $9 and $8 >= 0", "e.position desc", "e.position");
const SEARCH_BY_PRIORITY: &str = search!(
    "(e.priority, e.position) < ($8, $9)",
    "e.priority desc, e.position desc",
    "e.priority, e.position"
);

/// With `$3`, also if it has left the user after reading.
const INBOX_EVENT: &str = concat!(
    "select ",
    event_columns!(),
    ", reading.at as read_at, array[$1] as recipients from events e",
    reading!(),
    "
    where e.id = $2 and e.retracted_at is null
        and (e.audience <> 1 or exists (
            select from event_users mine where mine.user_id = $1 and mine.position = e.position))
        and ($3 or reading.at is null or e.keep_after_read is null
            or reading.at + e.keep_after_read > (select carillon_now()))"
);

/// Reads only what lies above the user's highest mark, and the receipts below it that say unread.
const UNREAD_COUNTS: &str = "
    with top as materialized (
        select coalesce((select max(position) from read_marks where user_id = $1), 0) as position
    ),
    mine as (
        select position from events where audience = 0 and position > (select position from top)
        union all
        select position from event_users where user_id = $1 and position > (select position from top)
        union all
        select position from events
            where audience = 2 and topic = any($2) and position > (select position from top)
        union all
        select r.position from receipts r join events e on e.position = r.position
            where r.user_id = $1 and not r.is_read and r.position <= (select position from top)
                and (e.audience = 0 or (e.audience = 2 and e.topic = any($2)) or exists (
                    select from event_users u where u.user_id = $1 and u.position = r.position))
    )
    select e.type, count(*) as unread
    from mine join events e on e.position = mine.position
    left join receipts r on r.user_id = $1 and r.position = e.position
    where e.retracted_at is null and (e.expires_at is null or e.expires_at > (select carillon_now()))
        and not coalesce(r.is_read, false)
    group by e.type
    order by unread desc, e.type collate \"C\"
    limit $3";

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
        let rows = self.within(async |c| question.fetch_all(c).await).await?;
        Ok(rows.iter().map(entry).collect::<sqlx::Result<_>>().map_err(Failure::Sql)?)
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
        let rows = self.within(async |c| question.fetch_all(c).await).await?;
        Ok(found(&rows, look_at).map_err(Failure::Sql)?)
    }

    pub(in crate::store) async fn inbox_event(
        &self,
        user: UserId,
        id: Uuid,
        also_left: bool,
    ) -> Result<Option<InboxEntry>> {
        let question = sqlx::query(INBOX_EVENT).bind(user).bind(id).bind(also_left);
        let row = self.within(async |c| question.fetch_optional(c).await).await?;
        Ok(row.as_ref().map(entry).transpose().map_err(Failure::Sql)?)
    }

    pub(in crate::store) async fn unread_counts(
        &self,
        reader: &Reader,
        limit: u32,
    ) -> Result<Vec<(EventType, i64)>> {
        let question = sqlx::query_as(UNREAD_COUNTS)
            .bind(reader.user)
            .bind(topic_names(&reader.selector))
            .bind(i64::from(limit));
        let counts: Vec<(String, i64)> = self.within(async |c| question.fetch_all(c).await).await?;
        Ok(counts.into_iter().map(|(name, unread)| (EventType::from_stored(name), unread)).collect())
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

/// The question with all but its limits.
fn ask(
    statement: &'static str,
    reader: &Reader,
    query: &InboxQuery,
) -> sqlx::query::Query<'static, sqlx::Postgres, sqlx::postgres::PgArguments> {
    let (priority, position) = match query.after {
        Some((priority, position)) => (priority as i16, position),
        None => (i16::MAX, Position::MAX),
    };
    let names = |names: Vec<&str>| names.into_iter().map(str::to_owned).collect::<Vec<String>>();
    sqlx::query(statement)
        .bind(reader.user)
        .bind(names(topic_names(&reader.selector)))
        .bind(names(type_names(&reader.selector)))
        .bind(min_priority(&reader.selector))
        .bind(query.unread_only)
        .bind(query.include_expired)
        .bind(!reader.selector.everyone)
        .bind(priority)
        .bind(position)
}

/// What a search found, from rows that each tell how far it looked; if it found nothing, one does.
fn found(rows: &[PgRow], look_at: u32) -> sqlx::Result<Found> {
    let entries = rows
        .iter()
        .filter(|row| !matches!(row.try_get::<Option<Position>, _>("position"), Ok(None)))
        .map(entry)
        .collect::<sqlx::Result<_>>()?;
    let Some(first) = rows.first() else { return Ok(Found { entries, looked_up_to: None }) };
    let is_cut = first.try_get::<i64, _>("looked_at")? >= i64::from(look_at);
    let last = (Priority::from_number(first.try_get("last_priority")?), first.try_get("last_position")?);
    Ok(Found { entries, looked_up_to: is_cut.then_some(last) })
}

fn entry(row: &PgRow) -> sqlx::Result<InboxEntry> {
    Ok(InboxEntry { event: event_of(row)?, read_at: row.try_get("read_at")? })
}
