//! Bringing the schema up to date beside nodes that go on working: add, fill in chunks, finish.
//!
//! Statements that change tables wait only briefly for their locks, since everybody else waits behind them, and are
//! tried again. How far rows were filled stands in the database, so that a run that broke goes on where it was. Nodes
//! that migrate at once do so one after another.

use std::time::Duration;

use sqlx::migrate::MigrateError;
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection};
use tokio::time::{Instant, sleep, timeout};

use super::{DEADLINE_SLACK, Failure, MIGRATIONS, PostgresStore, UNDEFINED_TABLE, is_passing};
use crate::event::Position;
use crate::store::{FORMS, Migrated, Result, Schema, StoreError};

/// How long a migration may take, indexes of large tables included, or wait for another node that migrates.
const MIGRATION_TIMEOUT: Duration = Duration::from_secs(3_600);
/// How long a statement waits for a lock on a table. Statements that come after it wait as long.
const LOCK_TIMEOUT: Duration = Duration::from_secs(2);
/// How often a statement that did not get its lock is tried again.
const TRIES: u32 = 100;
/// Between two tries, and between two looks whether another node still migrates.
const PAUSE: Duration = Duration::from_millis(500);
/// How many events are filled in one transaction.
const CHUNK: i64 = 5_000;
/// The advisory lock of who migrates. It is only ever tried: an index that is made concurrently would wait for those
/// that wait for the lock.
const LOCK: i64 = 7_163_384_699_738_779_503;

/// What fills rows that were there before a migration: its number in `fills`, and how a chunk of events `c` (position,
/// audience, topic, priority) is filled.
const FILLS: [(i32, &str); 2] = [
    (
        1,
        "insert into event_topics (topic, position, priority)
         select c.topic, c.position, nullif(c.priority, 1) from chunk c where c.audience = 2
         on conflict do nothing",
    ),
    (
        2,
        "update event_users u set priority = c.priority from chunk c
         where c.audience = 1 and c.priority <> 1 and u.position = c.position and u.priority is null",
    ),
];

impl PostgresStore {
    pub(in crate::store) async fn migrate(&self) -> Result<Migrated> {
        if self.schema().await? == Schema::Newer {
            return Ok(Migrated::default());
        }
        self.alone(async |connection| {
            // While this waited, another may have done all of it.
            let (before, is_new) = match self.schema().await? {
                Schema::Newer => return Ok(Migrated::default()),
                schema => (self.applied().await?.len(), schema == Schema::Empty),
            };
            add(connection).await?;
            let mut filled = 0;
            for (number, fill) in FILLS {
                filled += fill_rows(connection, number, fill).await?;
            }
            // Nobody reads the older forms of what has only just begun.
            let finished = is_new && finish(connection).await?;
            Ok(Migrated { added: self.applied().await?.len() - before, filled, finished })
        })
        .await
    }

    pub(in crate::store) async fn finish(&self) -> Result<bool> {
        match self.schema().await? {
            Schema::Current => self.alone(finish).await,
            Schema::Newer => Err(StoreError::Unusable(
                "the database's schema belongs to a newer program, which finishes it".into(),
            )),
            _ => Err(StoreError::Unusable(
                "the schema must be brought up to date before it is finished".into(),
            )),
        }
    }

    /// Whether everything that was there before is in the form that this program reads.
    pub(super) async fn is_filled(&self) -> Result<bool> {
        const LEFT: &str = "
            select count(*) from fills where number <= $1 and (up_to is null or filled < up_to)";
        let query = sqlx::query_scalar(LEFT).bind(FILLS.len() as i32);
        match self.within(async |c| query.fetch_one(c).await).await {
            Err(failure) if failure.code().as_deref() == Some(UNDEFINED_TABLE) => Ok(false),
            left => Ok(left.map(|left: i64| left == 0)?),
        }
    }

    /// Does `work` on a connection of its own that alone migrates.
    async fn alone<T>(&self, work: impl AsyncFnOnce(&mut PgConnection) -> Result<T>) -> Result<T> {
        let mut connection = self.connections.connect(LOCK_TIMEOUT, MIGRATION_TIMEOUT).await?;
        let all = async {
            lock(&mut connection).await?;
            work(&mut connection).await
        };
        let outcome = timeout(MIGRATION_TIMEOUT + DEADLINE_SLACK, all).await;
        // Closing gives the lock back, whatever came of it.
        let _ = timeout(DEADLINE_SLACK, connection.close()).await;
        outcome.map_err(|_| Failure::Late)?
    }
}

async fn lock(connection: &mut PgConnection) -> Result<()> {
    let end = Instant::now() + MIGRATION_TIMEOUT;
    let mut is_first = true;
    loop {
        let query = sqlx::query_scalar("select pg_try_advisory_lock($1)").bind(LOCK);
        if query.fetch_one(&mut *connection).await.map_err(Failure::Sql)? {
            return Ok(());
        }
        if Instant::now() > end {
            return Err(StoreError::Unavailable("another node has not finished migrating".into()));
        }
        if std::mem::take(&mut is_first) {
            tracing::info!("another node migrates the schema; waiting for it");
        }
        sleep(PAUSE).await;
    }
}

/// Runs the migrations that are missing.
async fn add(connection: &mut PgConnection) -> Result<()> {
    for attempt in 1.. {
        drop_invalid_indexes(connection).await?;
        let error = match MIGRATIONS.run_direct(None, connection, false).await {
            Ok(()) => return Ok(()),
            Err(MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _)) => {
                Failure::Sql(error)
            }
            Err(
                error @ (MigrateError::VersionMissing(_)
                | MigrateError::VersionMismatch(_)
                | MigrateError::Dirty(_)),
            ) => {
                let text = format!("the database's schema is not one this program knows: {error}");
                return Err(StoreError::Unusable(text));
            }
            Err(error) => return Err(StoreError::Failed(error.to_string())),
        };
        // A lock that was not got, or a deadlock.
        let may_try_again = error.code().is_some_and(|code| code == "55P03" || code == "40P01");
        if !may_try_again || attempt == TRIES {
            return Err(error.into());
        }
        tracing::warn!(attempt, "a migration did not get its lock; trying again");
        sleep(PAUSE).await;
    }
    Ok(())
}

/// What is left of an index whose making broke, of those that migrations make concurrently.
async fn drop_invalid_indexes(connection: &mut PgConnection) -> Result<()> {
    const INVALID: &str = "
        select c.relname from pg_index i join pg_class c on c.oid = i.indexrelid
        where not i.indisvalid and c.relname = any($1) and pg_table_is_visible(c.oid)";
    let names: Vec<&str> = MIGRATIONS
        .iter()
        .filter(|migration| migration.no_tx)
        .filter_map(|migration| {
            migration.sql.as_str().split("if not exists").nth(1)?.split_whitespace().next()
        })
        .collect();
    let invalid: Vec<String> =
        sqlx::query_scalar(INVALID).bind(&names).fetch_all(&mut *connection).await.map_err(Failure::Sql)?;
    for name in invalid {
        tracing::warn!(%name, "dropping an index that was left unfinished");
        // The name is one of our own migrations'.
        let drop = AssertSqlSafe(format!("drop index concurrently if exists {name}"));
        sqlx::query(drop).execute(&mut *connection).await.map_err(Failure::Sql)?;
    }
    Ok(())
}

/// Fills what is left of one kind, a chunk of events at a time; gives the events looked at.
async fn fill_rows(connection: &mut PgConnection, number: i32, fill: &str) -> Result<i64> {
    // What comes later is written by the new functions: the indexes made after them waited for every append of the old.
    const BEGIN: &str = "
        update fills set up_to = (
            select greatest(s.floor, (select max(position) from events)) from log_state s)
        where number = $1 and up_to is null";
    let chunk = format!(
        "with place as (select filled, up_to from fills where number = $1 and filled < up_to for update),
        chunk as materialized (
            select e.position, e.audience, e.topic, e.priority from events e, place p
            where e.position > p.filled and e.position <= p.up_to order by e.position limit $2
        ),
        done as ({fill})
        update fills f set filled = case
            when (select count(*) from chunk) < $2 then f.up_to else (select max(position) from chunk) end
        from place where f.number = $1
        returning f.name, f.filled, f.up_to, (select count(*) from chunk)"
    );
    sqlx::query(BEGIN).bind(number).execute(&mut *connection).await.map_err(Failure::Sql)?;
    let (mut looked_at, mut tries, mut said) = (0, 0, Instant::now());
    loop {
        let query = sqlx::query_as(AssertSqlSafe(chunk.clone())).bind(number).bind(CHUNK);
        let step: sqlx::Result<Option<(String, Position, Position, i64)>> =
            query.fetch_optional(&mut *connection).await;
        match step {
            Ok(None) => return Ok(looked_at),
            Ok(Some((name, filled, up_to, events))) => {
                (looked_at, tries) = (looked_at + events, 0);
                if said.elapsed() > Duration::from_secs(5) {
                    said = Instant::now();
                    tracing::info!(%name, filled, up_to, "filling");
                }
            }
            Err(error) => {
                tries += 1;
                let failure = Failure::Sql(error);
                if tries == TRIES || !failure.code().is_some_and(|code| is_passing(&code)) {
                    return Err(failure.into());
                }
                sleep(PAUSE).await;
            }
        }
    }
}

/// From now on the new forms are written, and older programs may not start; whether that changed anything.
async fn finish(connection: &mut PgConnection) -> Result<bool> {
    const FORMS_WRITTEN: &str = "update log_state set forms = $1 where forms < $1";
    const COMPATIBLE: &str = "
        update compatibility set compatible_from = version
        where version = (select max(version) from _sqlx_migrations) and compatible_from < version";
    // Only older programs read by it.
    const UNUSED: &str = "drop index concurrently if exists events_for_topics";
    let newest = async {
        let mut work = connection.begin().await?;
        let forms = sqlx::query(FORMS_WRITTEN).bind(FORMS).execute(&mut *work).await?.rows_affected();
        let compatible = sqlx::query(COMPATIBLE).execute(&mut *work).await?.rows_affected();
        work.commit().await?;
        sqlx::query(UNUSED).execute(&mut *connection).await?;
        sqlx::Result::Ok(forms + compatible > 0)
    };
    Ok(newest.await.map_err(Failure::Sql)?)
}
