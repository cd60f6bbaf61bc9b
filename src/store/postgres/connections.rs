//! Connections to Postgres: a pool for each kind of work, and bounds that hold when the link falls silent.
//!
//! - A connection is used only after it has answered, unless it did so a moment ago.
//! - A call whose caller has gone keeps its connection until the server has answered, at most until the call's deadline.
//!   So no more statements run than there are connections, and none is returned with an answer under way.
//! - A connection that does not answer by a deadline is closed, and its place in the pool is free.

use std::str::FromStr as _;
use std::sync::Arc;
use std::time::Duration;

use sqlx::pool::{PoolConnection, PoolConnectionMetadata};
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, Postgres};
use tokio::time::{Instant, timeout, timeout_at};

use super::session::{Session, SessionCheck};
use super::{DEADLINE_SLACK, Failure, millis};
use crate::store::{Pool, Result, StoreError, StoreLimits};

/// How long a connection may take to answer a ping.
const PING_DEADLINE: Duration = Duration::from_secs(2);
/// A connection that was idle no longer than this is used without a ping. On a busy node none is idle for longer.
const FRESH: Duration = Duration::from_millis(100);

/// The pools of one store, and how connections are made.
pub(super) struct Connections {
    pools: [PgPool; 4],
    options: PgConnectOptions,
    acquire_timeout: Duration,
    deadline: Duration,
    sessions: SessionCheck,
}

impl Connections {
    /// Reads the URL; connects on first use.
    pub(super) fn open(url: &str, limits: &StoreLimits) -> Result<Self> {
        // The parser's message may quote the URL, and with it the password.
        let options = PgConnectOptions::from_str(url)
            .map_err(|_| StoreError::Unusable("the store's Postgres URL cannot be read".into()))?
            .application_name("carillon")
            // PgBouncer refuses it. Nothing here is a floating-point number.
            .extra_float_digits(None)
            .disable_statement_logging();
        let pools = Pool::ALL.map(|pool| {
            let settings: Arc<str> = settings(limits.lock_timeout, limits.statement_timeout).into();
            PgPoolOptions::new()
                .max_connections(limits.connections.of(pool))
                .acquire_timeout(limits.acquire_timeout)
                // Its ping has no deadline.
                .test_before_acquire(false)
                .before_acquire(|connection, metadata| Box::pin(answers(connection, metadata)))
                .after_connect(move |connection, _| Box::pin(apply(connection, settings.clone())))
                .connect_lazy_with(options.clone())
        });
        Ok(Self {
            pools,
            options,
            acquire_timeout: limits.acquire_timeout,
            deadline: limits.statement_timeout + DEADLINE_SLACK,
            sessions: SessionCheck::default(),
        })
    }

    /// Does `work` on a connection of this pool, under a deadline.
    pub(super) async fn within<T>(
        &self,
        pool: Pool,
        work: impl AsyncFnOnce(&mut PgConnection) -> sqlx::Result<T>,
    ) -> std::result::Result<T, Failure> {
        let connection = self.pools[pool as usize].acquire().await.map_err(Failure::Sql)?;
        let mut lease = Lease { connection, state: State::Busy(Instant::now() + self.deadline) };
        self.check_session(&mut lease).await?;
        let until = Instant::now() + self.deadline;
        lease.state = State::Busy(until);
        let Ok(outcome) = timeout_at(until, work(&mut lease.connection)).await else {
            lease.state = State::Broken;
            return Err(Failure::Late);
        };
        lease.state = State::Done;
        outcome.map_err(|error| {
            if self.sessions.is_in_doubt(&error) || is_broken(&error) {
                lease.state = State::Broken;
            }
            Failure::Sql(error)
        })
    }

    /// Makes a connection outside of the pools, with these time-outs.
    pub(super) async fn connect(
        &self,
        lock: Duration,
        statement: Duration,
    ) -> std::result::Result<PgConnection, Failure> {
        let connect = async {
            let mut connection = self.options.connect().await?;
            apply(&mut connection, settings(lock, statement).into()).await?;
            Ok(connection)
        };
        timeout(self.acquire_timeout, connect).await.map_err(|_| Failure::Late)?.map_err(Failure::Sql)
    }

    async fn check_session(&self, lease: &mut Lease) -> std::result::Result<(), Failure> {
        if self.sessions.is_own() {
            return Ok(());
        }
        let checking = self.sessions.check(&mut lease.connection, &self.options);
        let session = timeout(self.acquire_timeout, checking).await;
        match session {
            Ok(Session::Own) => return Ok(()),
            // Another server connection has what this one began with.
            Ok(Session::Shared) => lease.state = State::Broken,
            Err(_) => {}
        }
        Err(session.map_or(Failure::Late, |_| Failure::SharedSession))
    }
}

/// A connection in use. When it is dropped, it returns to its pool if the server answers in time; else it is closed.
struct Lease {
    connection: PoolConnection<Postgres>,
    state: State,
}

enum State {
    /// An answer may be under way, until then.
    Busy(Instant),
    /// The last answer has come.
    Done,
    /// Not to be used again.
    Broken,
}

impl Drop for Lease {
    fn drop(&mut self) {
        let until = match self.state {
            State::Busy(until) => until.max(Instant::now() + PING_DEADLINE),
            State::Done => Instant::now() + PING_DEADLINE,
            State::Broken => {
                metrics::counter!("carillon_store_connections_lost_total").increment(1);
                return self.connection.close_on_drop();
            }
        };
        // As the connection does when it is dropped, but there without a deadline: it reads what is under way, pings and
        // goes back to the pool. Where that does not end in time, the connection is closed with the future.
        let returning = self.connection.return_to_pool();
        tokio::spawn(async move {
            if timeout_at(until, returning).await.is_err() {
                metrics::counter!("carillon_store_connections_lost_total").increment(1);
            }
        });
    }
}

/// Whether a connection that was idle still has its server.
async fn answers(connection: &mut PgConnection, metadata: PoolConnectionMetadata) -> sqlx::Result<bool> {
    if metadata.idle_for <= FRESH || matches!(timeout(PING_DEADLINE, connection.ping()).await, Ok(Ok(()))) {
        return Ok(true);
    }
    metrics::counter!("carillon_store_connections_lost_total").increment(1);
    Ok(false)
}

/// Whether nothing more can be asked on the connection.
fn is_broken(error: &sqlx::Error) -> bool {
    matches!(
        error,
        sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::Protocol(_) | sqlx::Error::WorkerCrashed
    )
}

/// Sets what a connection begins with. As statements: PgBouncer refuses settings in the start-up message.
async fn apply(connection: &mut PgConnection, settings: Arc<str>) -> sqlx::Result<()> {
    sqlx::raw_sql(AssertSqlSafe(settings.to_string())).execute(connection).await?;
    Ok(())
}

/// The statements of [`apply`].
fn settings(lock: Duration, statement: Duration) -> String {
    let (lock, statement) = (millis(lock), millis(statement));
    // The log's order rests on statements that see what was committed while they waited for its lock. Plans: ranges run
    // from one position to the whole log, so a plan is good only for the values it was made for. TCP: the server ends
    // the session of a node that has gone without a word, and gives back its locks.
    format!(
        "set lock_timeout = {lock};
        set statement_timeout = {statement};
        set idle_in_transaction_session_timeout = {statement};
        set default_transaction_isolation = 'read committed';
        set plan_cache_mode = 'force_custom_plan';
        set jit = off;
        set tcp_keepalives_idle = 30;
        set tcp_keepalives_interval = 10;
        set tcp_keepalives_count = 3;
        set tcp_user_timeout = {}",
        statement.min(60_000)
    )
}
