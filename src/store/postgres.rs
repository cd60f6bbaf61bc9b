//! The store in Postgres.
//!
//! Every call is one statement, or one short transaction, under a deadline on both sides: `statement_timeout`
//! in the server, and one here for the server that does not answer at all.

mod accounts;
mod inbox;
mod log;
mod migrate;
mod retention;
mod users;

use std::borrow::Cow;
use std::str::FromStr;
use std::sync::LazyLock;
use std::time::Duration;

use sqlx::ConnectOptions as _;
use sqlx::migrate::Migrator;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions};

use super::scan::Dialect;
use super::schema::{Applied, COMPATIBLE_FROM, POSTGRES, judge, migrator};
use super::{Result, Schema, StoreError, StoreLimits};
use crate::event::Millis;

static MIGRATIONS: LazyLock<Migrator> = LazyLock::new(|| migrator(POSTGRES));

/// What a call's own deadline adds to the server's, so that the server's, which says more, comes first.
const DEADLINE_SLACK: Duration = Duration::from_secs(1);

/// The statements that both databases share, in this one's words.
static DIALECT: Dialect = Dialect {
    now: "carillon_now()",
    greatest: "greatest",
    materialized: "materialized",
    each: "select e.position from unnest(LIST) k(item) cross join lateral (SUBSELECT) e",
    item: "k.item",
    is_in: |column, list| format!("{column} = any({list})"),
    not_looked_up: "",
    no_types: "cardinality($7) = 0",
    json_list: "json_agg",
    json_one: "json_build_array",
    holds_text: "(strpos(lower(e.type collate \"C\"), lower($10 collate \"C\")) > 0
        or strpos(lower(e.data collate \"C\"), lower($10 collate \"C\")) > 0)",
};

/// Binds the parameters that all scans have, up to `$9`.
macro_rules! bound {
    ($query:expr, $scan:expr) => {
        $query
            .bind($scan.after)
            .bind($scan.up_to)
            .bind(&$scan.selector.users)
            .bind($scan.selector.topics.iter().map(crate::event::Topic::as_str).collect::<Vec<_>>())
            .bind($scan.limit.map(i64::from))
            .bind($scan.reader)
            .bind($scan.selector.types.iter().map(crate::event::EventType::as_str).collect::<Vec<_>>())
            .bind($scan.min_priority())
            .bind($scan.include_expired)
    };
}
use bound;

/// SQLSTATE: the table does not exist.
const UNDEFINED_TABLE: &str = "42P01";

/// The store in Postgres; see the contract of the module above.
#[derive(Clone)]
pub(super) struct PostgresStore {
    pool: PgPool,
    options: PgConnectOptions,
    acquire_timeout: Duration,
    deadline: Duration,
}

impl PostgresStore {
    /// Reads the URL; connects on first use.
    pub(super) fn open(url: &str, limits: &StoreLimits) -> Result<Self> {
        // The parser's message may quote the URL, and with it the password.
        let options = PgConnectOptions::from_str(url)
            .map_err(|_| StoreError::Unusable("the store's Postgres URL cannot be read".into()))?
            .application_name("carillon")
            .disable_statement_logging();
        let pool = PgPoolOptions::new()
            .max_connections(limits.max_connections)
            .acquire_timeout(limits.acquire_timeout)
            .connect_lazy_with(with_timeouts(options.clone(), limits.lock_timeout, limits.statement_timeout));
        let deadline = limits.statement_timeout + DEADLINE_SLACK;
        Ok(Self { pool, options, acquire_timeout: limits.acquire_timeout, deadline })
    }

    pub(super) async fn schema(&self) -> Result<Schema> {
        let applied = self.applied().await?;
        let compatible_from =
            match self.within(async |c| sqlx::query_scalar(COMPATIBLE_FROM).fetch_optional(c).await).await {
                Err(Failure::Sql(error)) if code(&error).as_deref() == Some(UNDEFINED_TABLE) => None,
                other => other?,
            };
        match judge(&MIGRATIONS, &applied, compatible_from) {
            Schema::Current if !self.is_filled().await? => Ok(Schema::Older),
            schema => Ok(schema),
        }
    }

    /// The migrations that the database says to have.
    async fn applied(&self) -> Result<Vec<Applied>> {
        let query = sqlx::query_as("select version, checksum, success from _sqlx_migrations");
        match self.within(async |c| query.fetch_all(c).await).await {
            Err(Failure::Sql(error)) if code(&error).as_deref() == Some(UNDEFINED_TABLE) => Ok(Vec::new()),
            other => Ok(other?),
        }
    }

    /// Does `work` on a connection of the pool, under this store's deadline.
    async fn within<T>(
        &self,
        work: impl AsyncFnOnce(&mut PgConnection) -> sqlx::Result<T>,
    ) -> std::result::Result<T, Failure> {
        let mut connection = self.pool.acquire().await.map_err(Failure::Sql)?;
        match tokio::time::timeout(self.deadline, work(&mut connection)).await {
            Ok(outcome) => outcome.map_err(Failure::Sql),
            Err(_) => {
                // Given back to the pool it would be pinged, without a deadline, and hold its place until then.
                connection.close_on_drop();
                Err(Failure::Late)
            }
        }
    }
}

/// Settings that every connection begins with.
fn with_timeouts(options: PgConnectOptions, lock: Duration, statement: Duration) -> PgConnectOptions {
    options.options([
        ("lock_timeout", millis(lock).to_string()),
        ("statement_timeout", millis(statement).to_string()),
        ("idle_in_transaction_session_timeout", millis(statement).to_string()),
        // The log's order rests on statements that see what was committed while they waited for its lock.
        ("default_transaction_isolation", "read committed".to_owned()),
        // Ranges run from one position to the whole log: a plan is good only for the values it was made for.
        ("plan_cache_mode", "force_custom_plan".to_owned()),
        ("jit", "off".to_owned()),
    ])
}

/// A span as the database counts it, at most what can be added to any time.
fn millis(span: Duration) -> Millis {
    const MOST: Millis = 1 << 52;
    Millis::try_from(span.as_millis()).map_or(MOST, |millis| millis.min(MOST))
}

/// Why a call failed, before it is known what that means to the caller.
enum Failure {
    Sql(sqlx::Error),
    Late,
}

impl Failure {
    /// The SQLSTATE, if the server answered.
    fn code(&self) -> Option<Cow<'_, str>> {
        if let Self::Sql(error) = self { code(error) } else { None }
    }
}

impl From<Failure> for StoreError {
    fn from(failure: Failure) -> Self {
        let error = match failure {
            Failure::Late => return Self::Unavailable("the database does not answer".into()),
            Failure::Sql(error) => error,
        };
        match &error {
            // It may quote the URL.
            sqlx::Error::Configuration(_) => {
                Self::Unusable("the connection to Postgres cannot be set up as its URL says".into())
            }
            sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed
            | sqlx::Error::BeginFailed
            | sqlx::Error::Io(_)
            | sqlx::Error::Tls(_) => Self::Unavailable(error.to_string()),
            _ if code(&error).is_some_and(|code| is_passing(&code)) => Self::Unavailable(error.to_string()),
            _ => Self::Failed(error.to_string()),
        }
    }
}

/// The SQLSTATE of an error the server answered with.
fn code(error: &sqlx::Error) -> Option<Cow<'_, str>> {
    error.as_database_error()?.code()
}

/// Whether trying again later may help: connections, resources, an operator's doing, a lock or a rollback.
fn is_passing(code: &str) -> bool {
    // 55P03: lock_timeout. 25006: a standby, until it is promoted or the name points elsewhere.
    ["08", "40", "53", "57"].iter().any(|class| code.starts_with(class)) || matches!(code, "55P03" | "25006")
}
