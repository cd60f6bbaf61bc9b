//! The store in a SQLite file: one writer connection, several readers.

mod accounts;
mod inbox;
mod log;
mod retention;
mod users;

use std::path::Path;
use std::sync::LazyLock;

use sqlx::migrate::Migrator;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};

use super::scan::Dialect;
use super::schema::{Applied, COMPATIBLE_FROM, SQLITE, judge, migrator};
use super::{Migrated, Pool, Result, Schema, StoreError, StoreLimits};

static MIGRATIONS: LazyLock<Migrator> = LazyLock::new(|| migrator(SQLITE));

/// The database's clock in milliseconds, as SQL.
macro_rules! now {
    () => {
        "cast(unixepoch('subsec') * 1000 as integer)"
    };
}
pub(super) use now;

/// The statements that both databases share, in this one's words.
static DIALECT: Dialect = Dialect {
    now: now!(),
    greatest: "max",
    materialized: "materialized",
    // A cross join is made in the order in which it is written. What the subselect found is looked up where it stands.
    each: "select x.position from json_each(LIST) k
        cross join TABLE x on x.COLUMN = k.value and x.position in (SUBSELECT)",
    event_of_each: "cross join events e on e.position = s.position",
    item: "k.value",
    item_at: |list, place| format!("json_extract({list}, '$[{place}]')"),
    // The union is merged if its parts are in its order by themselves: one with an order or a limit of its own is not.
    merged: |walk, _| walk.to_owned(),
    // Of its own accord it reads all of the reader's receipts: it takes the primary key for as good.
    unread_receipts: "receipts t indexed by receipts_unread",
    is_in: |column, list| format!("{column} in (select value from json_each({list}))"),
    not_looked_up: "+",
    no_types: "$7 = '[]'",
    json_list: "json_group_array",
    json_one: "json_array",
    holds_text: "(instr(lower(e.type), lower($11)) > 0 or instr(lower(e.data), lower($11)) > 0)",
};

/// Binds the parameters that all scans have, up to `$10`.
macro_rules! bound {
    ($query:expr, $scan:expr) => {
        $query
            .bind($scan.after)
            .bind($scan.up_to)
            .bind(crate::store::sqlite::list(&$scan.selector.users))
            .bind(crate::store::sqlite::list(&$scan.selector.topics))
            .bind(i64::from($scan.limit))
            .bind($scan.reader)
            .bind(crate::store::sqlite::list(&$scan.selector.types))
            .bind($scan.min_priority())
            .bind($scan.include_expired)
            .bind(i64::from($scan.most))
    };
}
use bound;

/// A store in a SQLite file. Cheap to clone.
#[derive(Clone)]
pub(super) struct SqliteStore {
    /// One connection: writes wait for each other here rather than on the file's lock.
    writer: SqlitePool,
    /// Of the pool in use.
    readers: SqlitePool,
    pools: [SqlitePool; 4],
}

impl SqliteStore {
    pub(super) async fn open(url: &str, limits: &StoreLimits) -> Result<Self> {
        let path = path_of(url);
        let is_memory = path == ":memory:";
        let options = if is_memory {
            "sqlite::memory:".parse().map_err(|error: sqlx::Error| StoreError::Unusable(error.to_string()))?
        } else {
            prepare(path)?;
            SqliteConnectOptions::new()
                .filename(path)
                .create_if_missing(true)
                .journal_mode(SqliteJournalMode::Wal)
                // Acknowledged means on disk.
                .synchronous(SqliteSynchronous::Full)
        };
        let options = options.busy_timeout(limits.statement_timeout);
        let pool = SqlitePoolOptions::new()
            .acquire_timeout(limits.acquire_timeout)
            .idle_timeout(None)
            .max_lifetime(None)
            .test_before_acquire(false);
        let writer = pool.clone().max_connections(1).connect_with(options.clone()).await.map_err(failed)?;
        // What is in memory belongs to its one connection.
        let pools = Pool::ALL.map(|kind| match is_memory {
            true => writer.clone(),
            false => {
                let pool = pool.clone().max_connections(limits.connections.of(kind));
                pool.connect_lazy_with(options.clone().read_only(true))
            }
        });
        Ok(Self { writer, readers: pools[Pool::Requests as usize].clone(), pools })
    }

    /// The same store, whose reads use the connections of `pool`. There is one writer for all.
    pub(super) fn on(&self, pool: Pool) -> Self {
        Self { readers: self.pools[pool as usize].clone(), ..self.clone() }
    }

    pub(super) async fn schema(&self) -> Result<Schema> {
        let applied = self.applied().await?;
        let compatible_from = match self.has_table("compatibility").await? {
            true => sqlx::query_scalar(COMPATIBLE_FROM).fetch_optional(&self.writer).await.map_err(failed)?,
            false => None,
        };
        Ok(judge(&MIGRATIONS, &applied, compatible_from))
    }

    async fn applied(&self) -> Result<Vec<Applied>> {
        if !self.has_table("_sqlx_migrations").await? {
            return Ok(Vec::new());
        }
        let query = sqlx::query_as("select version, checksum, success from _sqlx_migrations");
        query.fetch_all(&self.writer).await.map_err(failed)
    }

    async fn has_table(&self, name: &str) -> Result<bool> {
        let found = sqlx::query("select 1 from sqlite_master where type = 'table' and name = ?1").bind(name);
        Ok(found.fetch_optional(&self.writer).await.map_err(failed)?.is_some())
    }

    /// Adds, fills and finishes at once: nobody else writes the file.
    pub(super) async fn migrate(&self) -> Result<Migrated> {
        if self.schema().await? == Schema::Newer {
            return Ok(Migrated::default());
        }
        let before = self.applied().await?.len();
        MIGRATIONS.run(&self.writer).await.map_err(|error| match error {
            sqlx::migrate::MigrateError::Execute(error) => failed(error),
            other => StoreError::Unusable(other.to_string()),
        })?;
        let added = self.applied().await?.len().saturating_sub(before);
        Ok(Migrated { added, filled: 0, finished: added > 0 })
    }

    pub(super) async fn finish(&self) -> Result<bool> {
        Ok(false)
    }
}

/// Whether the file is there.
pub(super) fn exists(url: &str) -> Result<bool> {
    let path = path_of(url);
    if path.is_empty() {
        return Err(no_path());
    }
    Ok(Path::new(path).is_file())
}

fn path_of(url: &str) -> &str {
    let path = url.trim_start_matches("sqlite:");
    path.strip_prefix("//").unwrap_or(path)
}

fn no_path() -> StoreError {
    StoreError::Unusable("the store's URL needs a path: sqlite:data/carillon.sqlite".into())
}

/// Makes the file's folder.
fn prepare(path: &str) -> Result<()> {
    if path.is_empty() {
        return Err(no_path());
    }
    let Some(folder) = Path::new(path).parent().filter(|folder| !folder.as_os_str().is_empty()) else {
        return Ok(());
    };
    std::fs::create_dir_all(folder)
        .map_err(|error| StoreError::Unusable(format!("{} cannot be made: {error}", folder.display())))
}

/// What a failure means to the caller. Result codes: <https://sqlite.org/rescode.html>.
fn failed(error: sqlx::Error) -> StoreError {
    use sqlx::Error as E;
    const BUSY: i32 = 5;
    const LOCKED: i32 = 6;
    const IO: i32 = 10;
    const FULL: i32 = 13;
    const CANNOT_OPEN: i32 = 14;
    let code =
        |e: &dyn sqlx::error::DatabaseError| e.code().and_then(|c| c.parse::<i32>().ok()).unwrap_or(0) & 0xff;
    match &error {
        E::PoolTimedOut | E::PoolClosed | E::Io(_) | E::WorkerCrashed => {
            StoreError::Unavailable(error.to_string())
        }
        E::Database(e) if [BUSY, LOCKED, IO, FULL, CANNOT_OPEN].contains(&code(e.as_ref())) => {
            StoreError::Unavailable(error.to_string())
        }
        _ => StoreError::Failed(error.to_string()),
    }
}

/// A list for `json_each`.
fn list<T: serde::Serialize>(values: &[T]) -> String {
    serde_json::to_string(values).unwrap_or_else(|_| "[]".into())
}
