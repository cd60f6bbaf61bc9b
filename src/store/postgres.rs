//! The store in Postgres.
//!
//! Every call is one statement, or one short transaction, under a deadline on both sides: `statement_timeout`
//! in the server, and one here for the server that does not answer at all.

mod accounts;
mod connections;
mod inbox;
mod log;
mod migrate;
mod retention;
mod session;
mod users;

use std::borrow::Cow;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use sqlx::migrate::Migrator;
use sqlx::postgres::PgConnection;

use self::connections::Connections;
use self::session::PREPARED_STATEMENTS;
use super::scan::Dialect;
use super::schema::{Applied, COMPATIBLE_FROM, POSTGRES, judge, migrator};
use super::{Pool, Result, Schema, StoreError, StoreLimits};
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
    event_of_each: "cross join lateral (select * from events where position = s.position offset 0) e",
    item: "k.item",
    item_at: |list, place| format!("({list})[{}]", place + 1),
    // Without a limit it takes a part for short, reads all of it and sorts.
    merged: |walk, order| format!("(select position from ({walk} order by t.position {order} limit $5) t)"),
    unread_receipts: "receipts t",
    is_in: |column, list| format!("{column} = any({list})"),
    not_looked_up: "",
    no_types: "cardinality($7) = 0",
    json_list: "json_agg",
    json_one: "json_build_array",
    holds_text: "(strpos(lower(e.type collate \"C\"), lower($11 collate \"C\")) > 0
        or strpos(lower(e.data collate \"C\"), lower($11 collate \"C\")) > 0)",
};

/// Binds the parameters that all scans have, up to `$10`.
macro_rules! bound {
    ($query:expr, $scan:expr) => {
        $query
            .bind($scan.after)
            .bind($scan.up_to)
            .bind(&$scan.selector.users)
            .bind($scan.selector.topics.iter().map(crate::event::Topic::as_str).collect::<Vec<_>>())
            .bind(i64::from($scan.limit))
            .bind($scan.reader)
            .bind($scan.selector.types.iter().map(crate::event::EventType::as_str).collect::<Vec<_>>())
            .bind($scan.min_priority())
            .bind($scan.include_expired)
            .bind(i64::from($scan.most))
    };
}
use bound;

/// SQLSTATE: the table does not exist.
const UNDEFINED_TABLE: &str = "42P01";

/// The store in Postgres; see the contract of the module above. Its calls use the connections of one pool.
#[derive(Clone)]
pub(super) struct PostgresStore {
    connections: Arc<Connections>,
    pool: Pool,
}

impl PostgresStore {
    /// Reads the URL; connects on first use.
    pub(super) fn open(url: &str, limits: &StoreLimits) -> Result<Self> {
        Ok(Self { connections: Arc::new(Connections::open(url, limits)?), pool: Pool::Requests })
    }

    /// The same store, whose calls use the connections of `pool`.
    pub(super) fn on(&self, pool: Pool) -> Self {
        Self { connections: self.connections.clone(), pool }
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

    /// Does `work` on a connection of this store's pool, under its deadline.
    async fn within<T>(
        &self,
        work: impl AsyncFnOnce(&mut PgConnection) -> sqlx::Result<T>,
    ) -> std::result::Result<T, Failure> {
        self.connections.within(self.pool, work).await
    }
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
    /// A pooler gives each transaction another server connection.
    SharedSession,
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
            Failure::SharedSession => return Self::SharedSessions,
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
            // What answers is not Postgres, or not any more: a connection that is taken and closed says this, too.
            | sqlx::Error::Protocol(_)
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
    // 55P03: lock_timeout. 25006: a standby, until it is promoted or the name points elsewhere. A pooler that has shared
    // sessions leaves connections without their prepared statements: each fails once and is closed.
    ["08", "40", "53", "57"].iter().any(|class| code.starts_with(class))
        || matches!(code, "55P03" | "25006")
        || PREPARED_STATEMENTS.contains(&code)
}
