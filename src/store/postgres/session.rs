//! Whether a connection is a session of its own. PgBouncer in transaction mode gives each transaction another server
//! connection: then settings and prepared statements belong to nobody, and the store cannot be used.

use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions as _, Connection as _, Executor as _, Row as _};
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::store::SHARED_SESSIONS;

/// How long after a look the next one is made, if there is a reason.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// How often one look compares: other clients of the same PgBouncer may hide what is looked for.
const ROUNDS: usize = 4;

/// SQLSTATE: a prepared statement that does not exist, or exists already. On a session of one's own neither happens.
pub(super) const PREPARED_STATEMENTS: [&str; 2] = ["26000", "42P05"];

/// What a connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Session {
    /// One server process serves it from its beginning to its end.
    Own,
    /// A pooler gives it now this server process and now that one.
    Shared,
}

const UNKNOWN: u8 = 0;
const OWN: u8 = 1;
const SHARED: u8 = 2;

/// What is known of a store's connections: looked at with the first one, and again when there is a reason.
#[derive(Default)]
pub(super) struct SessionCheck {
    known: AtomicU8,
    looked_at: Mutex<Option<Instant>>,
}

impl SessionCheck {
    /// Whether `connection` is known to be a session of its own.
    pub(super) fn is_own(&self) -> bool {
        self.known.load(Ordering::Acquire) == OWN
    }

    /// What `connection` is. Where that cannot be found out it counts as a session of its own, and is looked at again
    /// soon.
    pub(super) async fn check(&self, connection: &mut PgConnection, options: &PgConnectOptions) -> Session {
        let mut looked_at = self.looked_at.lock().await;
        let known = self.known.load(Ordering::Acquire);
        if known == OWN || looked_at.is_some_and(|at| at.elapsed() < LOOK_AGAIN) {
            return if known == SHARED { Session::Shared } else { Session::Own };
        }
        let found = look(connection, options).await;
        *looked_at = Some(Instant::now());
        match found {
            Ok(Session::Own) => self.known.store(OWN, Ordering::Release),
            Ok(Session::Shared) => {
                if self.known.swap(SHARED, Ordering::AcqRel) != SHARED {
                    tracing::error!("{SHARED_SESSIONS}");
                }
                return Session::Shared;
            }
            Err(error) => tracing::debug!(%error, "whether a pooler shares sessions could not be looked at"),
        }
        Session::Own
    }

    /// A statement failed with `error`: whether that says that a pooler has begun to share sessions. Then the next call
    /// looks.
    pub(super) fn is_in_doubt(&self, error: &sqlx::Error) -> bool {
        let code = error.as_database_error().and_then(|error| error.code());
        let is_lost = code.is_some_and(|code| PREPARED_STATEMENTS.contains(&code.as_ref()));
        if is_lost {
            self.known.store(UNKNOWN, Ordering::Release);
        }
        is_lost
    }
}

/// Compares the server processes of two connections while the second is in a transaction, and so keeps its own.
async fn look(connection: &mut PgConnection, options: &PgConnectOptions) -> sqlx::Result<Session> {
    let mut second = options.connect().await?;
    let found = compare(connection, &mut second).await;
    // Without waiting for an answer: closing rolls back.
    let _ = second.close().await;
    found
}

async fn compare(first: &mut PgConnection, second: &mut PgConnection) -> sqlx::Result<Session> {
    for _ in 0..ROUNDS {
        let before = process(first).await?;
        if let Err(error) = second.execute(sqlx::raw_sql("begin")).await {
            // In statement mode PgBouncer refuses transactions.
            let is_refused = error.as_database_error().and_then(|e| e.code()).is_some_and(|c| c == "08P01");
            return if is_refused { Ok(Session::Shared) } else { Err(error) };
        }
        let held = process(second).await?;
        let after = process(first).await?;
        second.execute(sqlx::raw_sql("rollback")).await?;
        if before == held || before != after {
            return Ok(Session::Shared);
        }
    }
    Ok(Session::Own)
}

/// The server process that answers, asked without a prepared statement.
async fn process(connection: &mut PgConnection) -> sqlx::Result<i32> {
    connection.fetch_one(sqlx::raw_sql("select pg_backend_pid()")).await?.try_get(0)
}
