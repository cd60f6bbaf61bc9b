//! Connections to Postgres: a pool for each kind of work, and bounds that hold when the link falls silent.
//!
//! - A connection is used only after it has answered, unless it did so a moment ago.
//! - A call whose caller has gone keeps its connection until the server has answered, at most until the call's deadline.
//!   So no more statements run than there are connections, and none is returned with an answer under way.
//! - A connection that does not answer by a deadline is closed, and its place in the pool is free.

use std::str::FromStr as _;
use std::time::Duration;

use deadpool::managed::{
    Manager, Metrics, Object, PoolConfig, PoolError, QueueMode, RecycleError, RecycleResult,
};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::session::{Session, SessionCheck};
use super::{DEADLINE_SLACK, Failure, is_passing, millis};
use crate::store::{Pool, Result, StoreError, StoreLimits};

/// How long a connection may take to answer a ping.
const PING_DEADLINE: Duration = Duration::from_secs(2);
/// A connection that was taken no longer ago than this is used without a ping. On a busy node none is idle for longer.
const FRESH: Duration = Duration::from_millis(100);
/// For how long a connection is used: what the server keeps for it grows.
const MAX_AGE: Duration = Duration::from_secs(30 * 60);
/// The pause before connecting again to a server that is not there yet.
const CONNECT_AGAIN: Duration = Duration::from_millis(100);

type ConnectionPool = deadpool::managed::Pool<Opener>;

/// The pools of one store, and how connections are made.
pub(super) struct Connections {
    pools: [ConnectionPool; 4],
    /// One connection for appends, which wait for each other anyway: the server's process keeps what it needs for them at
    /// hand. It counts as one of the log's.
    writer: ConnectionPool,
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
        let settings = settings(limits.lock_timeout, limits.statement_timeout);
        let pool = |size: u32, plans: &str| {
            let settings = format!("{settings}; set plan_cache_mode = '{plans}'");
            pool(Opener { options: options.clone(), settings }, size)
        };
        // Ranges run from one position to the whole log, so a plan is good only for the values it was made for.
        let of = |kind| pool(limits.connections.of(kind) - u32::from(kind == Pool::Log), "force_custom_plan");
        Ok(Self {
            pools: Pool::ALL.map(of),
            writer: pool(1, "force_generic_plan"),
            acquire_timeout: limits.acquire_timeout,
            deadline: limits.statement_timeout + DEADLINE_SLACK,
            sessions: SessionCheck::default(),
            options,
        })
    }

    /// Does `work` on a connection of this pool, under a deadline.
    pub(super) async fn within<T>(
        &self,
        pool: Pool,
        work: impl AsyncFnOnce(&mut PgConnection) -> sqlx::Result<T>,
    ) -> std::result::Result<T, Failure> {
        self.within_one_of(&self.pools[pool as usize], work).await
    }

    /// Does `work` on the connection for appends, under a deadline.
    pub(super) async fn within_writer<T>(
        &self,
        work: impl AsyncFnOnce(&mut PgConnection) -> sqlx::Result<T>,
    ) -> std::result::Result<T, Failure> {
        self.within_one_of(&self.writer, work).await
    }

    async fn within_one_of<T>(
        &self,
        pool: &ConnectionPool,
        work: impl AsyncFnOnce(&mut PgConnection) -> sqlx::Result<T>,
    ) -> std::result::Result<T, Failure> {
        let mut lease = self.lease(pool).await?;
        self.check_session(&mut lease).await?;
        let until = Instant::now() + self.deadline;
        lease.state = State::Busy(until);
        let Ok(outcome) = timeout_at(until, work(lease.connection())).await else {
            lease.state = State::Broken;
            return Err(Failure::Late);
        };
        match outcome {
            Ok(answer) => {
                lease.state = State::Done;
                Ok(answer)
            }
            Err(error) => {
                // Else it stays busy: what follows the error has not been read.
                if self.sessions.is_in_doubt(&error) || is_broken(&error) {
                    lease.state = State::Broken;
                }
                Err(Failure::Sql(error))
            }
        }
    }

    async fn lease(&self, pool: &ConnectionPool) -> std::result::Result<Lease, Failure> {
        let connection = match timeout(self.acquire_timeout, pool.get()).await {
            Ok(Ok(connection)) => connection,
            Ok(Err(PoolError::Backend(error))) => return Err(Failure::Sql(error)),
            // Nothing else is configured, and nobody closes a pool.
            Ok(Err(_)) | Err(_) => return Err(Failure::Sql(sqlx::Error::PoolTimedOut)),
        };
        Ok(Lease { connection: Some(connection), state: State::Busy(Instant::now() + self.deadline) })
    }

    /// Makes a connection outside of the pools, with these time-outs.
    pub(super) async fn connect(
        &self,
        lock: Duration,
        statement: Duration,
    ) -> std::result::Result<PgConnection, Failure> {
        let connect = async {
            let mut connection = self.options.connect().await?;
            apply(&mut connection, &settings(lock, statement)).await?;
            Ok(connection)
        };
        timeout(self.acquire_timeout, connect).await.map_err(|_| Failure::Late)?.map_err(Failure::Sql)
    }

    async fn check_session(&self, lease: &mut Lease) -> std::result::Result<(), Failure> {
        if self.sessions.is_own() {
            return Ok(());
        }
        let checking = self.sessions.check(lease.connection(), &self.options);
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
    /// There until it is dropped.
    connection: Option<Object<Opener>>,
    state: State,
}

impl Lease {
    fn connection(&mut self) -> &mut PgConnection {
        self.connection.as_mut().expect("only dropping takes it")
    }
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
        let Some(mut connection) = self.connection.take() else { return };
        match self.state {
            State::Done => drop(connection),
            State::Broken => lose(connection),
            State::Busy(until) => {
                let until = until.max(Instant::now() + PING_DEADLINE);
                tokio::spawn(async move {
                    // It first reads what is under way.
                    match timeout_at(until, connection.ping()).await {
                        Ok(Ok(())) => drop(connection),
                        Ok(Err(_)) | Err(_) => lose(connection),
                    }
                });
            }
        }
    }
}

/// Closes a connection; its place in the pool is free.
fn lose(connection: Object<Opener>) {
    metrics::counter!("carillon_store_connections_lost_total").increment(1);
    drop(Object::take(connection));
}

/// A pool that connects on first use, and uses most what it used last.
fn pool(opener: Opener, size: u32) -> ConnectionPool {
    let size = usize::try_from(size).unwrap_or(usize::MAX).max(1);
    let config = PoolConfig { queue_mode: QueueMode::Lifo, ..PoolConfig::new(size) };
    ConnectionPool::builder(opener)
        .config(config)
        .build()
        .expect("no time-outs are set, which need a runtime")
}

/// Makes the connections of a pool.
struct Opener {
    options: PgConnectOptions,
    /// What a connection begins with.
    settings: String,
}

impl Manager for Opener {
    type Type = PgConnection;
    type Error = sqlx::Error;

    /// Waits for a server that is being started; who takes a connection has a deadline.
    async fn create(&self) -> sqlx::Result<PgConnection> {
        loop {
            match self.connect().await {
                Err(error) if is_starting(&error) => sleep(CONNECT_AGAIN).await,
                outcome => return outcome,
            }
        }
    }

    /// Whether a connection that was idle still has its server.
    async fn recycle(&self, connection: &mut PgConnection, metrics: &Metrics) -> RecycleResult<sqlx::Error> {
        if metrics.age() > MAX_AGE {
            return Err(RecycleError::message("it is old"));
        }
        if metrics.last_used() <= FRESH {
            return Ok(());
        }
        match timeout(PING_DEADLINE, connection.ping()).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => {
                metrics::counter!("carillon_store_connections_lost_total").increment(1);
                Err(RecycleError::message("it does not answer"))
            }
        }
    }
}

impl Opener {
    async fn connect(&self) -> sqlx::Result<PgConnection> {
        let mut connection = self.options.connect().await?;
        apply(&mut connection, &self.settings).await?;
        Ok(connection)
    }
}

/// Whether the server may take a connection soon: it does not listen yet, or says itself that it cannot take one now.
fn is_starting(error: &sqlx::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    match error {
        sqlx::Error::Io(error) => {
            matches!(error.kind(), ConnectionRefused | ConnectionAborted | ConnectionReset)
        }
        sqlx::Error::Database(error) => error.code().is_some_and(|code| is_passing(&code)),
        _ => false,
    }
}

/// Whether nothing more can be asked on the connection.
fn is_broken(error: &sqlx::Error) -> bool {
    matches!(
        error,
        sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::Protocol(_) | sqlx::Error::WorkerCrashed
    )
}

/// Sets what a connection begins with. As statements: PgBouncer refuses settings in the start-up message.
async fn apply(connection: &mut PgConnection, settings: &str) -> sqlx::Result<()> {
    sqlx::raw_sql(AssertSqlSafe(settings.to_owned())).execute(connection).await?;
    Ok(())
}

/// The statements of [`apply`].
fn settings(lock: Duration, statement: Duration) -> String {
    let (lock, statement) = (millis(lock), millis(statement));
    // The log's order rests on statements that see what was committed while they waited for its lock. TCP: the server ends
    // the session of a node that has gone without a word, and gives back its locks.
    format!(
        "set lock_timeout = {lock};
        set statement_timeout = {statement};
        set idle_in_transaction_session_timeout = {statement};
        set default_transaction_isolation = 'read committed';
        set jit = off;
        set tcp_keepalives_idle = 30;
        set tcp_keepalives_interval = 10;
        set tcp_keepalives_count = 3;
        set tcp_user_timeout = {}",
        statement.min(60_000)
    )
}
