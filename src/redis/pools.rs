//! Pools of connections for commands that would hold up others on a shared one: one pool for each master.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use deadpool_redis::{
    Connection, Hook, HookError, Manager, Pool, PoolError, QueueMode, Runtime, TimeoutType,
};
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, ConnectionAddr, RedisResult};
use tokio::time::timeout;

use super::greeting::connect_failure;
use super::per_master::{Access, CallError, PerMaster, ensure_master, is_broken};
use super::{Failure, RedisServers, Topology, is_master, not_a_master};

/// Bounds on the pool of each master.
#[derive(Debug, Clone, Copy)]
pub struct PoolLimits {
    /// The most connections.
    pub size: usize,
    /// How long a call may wait for a free connection.
    pub wait: Duration,
    /// How long a connection that was used before may take to answer a PING before it is used again.
    pub recycle: Duration,
}

/// One pool of connections for each master, created by the first call and again whenever it breaks. Cheap to clone.
#[derive(Clone)]
pub struct Pools {
    masters: PerMaster<Pool>,
    limits: PoolLimits,
}

impl Access for Pool {
    /// Free connections end at once, those in use after their call; calls that wait for one fail.
    fn close(&self) {
        Pool::close(self);
    }
}

impl Pools {
    /// Connects to nothing yet.
    pub fn new(servers: RedisServers, limits: PoolLimits) -> Self {
        Self { masters: PerMaster::new(servers), limits }
    }

    /// The topology; waits only if it was never known.
    pub async fn topology(&self) -> Result<Arc<Topology>, Failure> {
        self.masters.topology().await
    }

    /// `items` by the number of their name's master, in the order given.
    pub fn by_master<I>(
        &self,
        topology: &Topology,
        items: impl IntoIterator<Item = I>,
        name: impl Fn(&I) -> &str,
    ) -> Result<BTreeMap<usize, Vec<I>>, Failure> {
        self.masters.by_master(topology, items, name)
    }

    /// Runs commands at the master of a name, within the deadline.
    pub async fn call<R>(
        &self,
        name: &str,
        commands: impl AsyncFnOnce(&mut MultiplexedConnection) -> RedisResult<R>,
    ) -> Result<R, Failure> {
        let topology = self.topology().await?;
        let master = self.masters.master_of(&topology, name)?;
        self.call_at(&topology, master, commands).await
    }

    /// Runs commands at the master of this number, on a connection of their own, within the deadline. A connection
    /// that fails or falls silent is not used again, and the pool is made anew for the next call.
    pub async fn call_at<R>(
        &self,
        topology: &Topology,
        master: usize,
        commands: impl AsyncFnOnce(&mut MultiplexedConnection) -> RedisResult<R>,
    ) -> Result<R, Failure> {
        let limits = self.limits;
        let run = async |pool: Pool| Lease::take(&pool, limits.wait).await?.run(commands).await;
        let connect = move |servers, address| open(servers, address, limits);
        self.masters.call_at(topology, master, connect, run).await
    }
}

/// A connection in use. It goes back to its pool only after an answer: it ends after a failure, and when its call is
/// given up half way.
struct Lease(Option<Connection>);

impl Lease {
    async fn take(pool: &Pool, wait: Duration) -> Result<Self, CallError> {
        match pool.get().await {
            Ok(connection) => Ok(Self(Some(connection))),
            Err(PoolError::Timeout(TimeoutType::Wait)) => {
                metrics::counter!("carillon_redis_pool_timeouts_total").increment(1);
                Err(CallError::Local(Failure(format!("no free connection within {} ms", wait.as_millis()))))
            }
            Err(PoolError::Closed) => Err(CallError::Local(closed())),
            // A server may refuse one connection more, or a password that was good before: those there are still good.
            Err(PoolError::Backend(error)) if !error.is_io_error() && pool.status().size > 0 => {
                Err(CallError::Local(error.into()))
            }
            Err(error) => Err(broken(error)),
        }
    }

    async fn run<R>(
        mut self,
        commands: impl AsyncFnOnce(&mut MultiplexedConnection) -> RedisResult<R>,
    ) -> Result<R, CallError> {
        let Some(connection) = &mut self.0 else { return Err(CallError::Local(closed())) };
        let answer = commands(connection).await;
        if !answer.as_ref().is_err_and(is_broken) {
            // Dropped so, it goes back.
            self.0 = None;
        }
        answer.map_err(CallError::Redis)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(connection) = self.0.take() {
            drop(Connection::take(connection));
        }
    }
}

/// Makes the pool of a master that answers.
async fn open(servers: RedisServers, address: ConnectionAddr, limits: PoolLimits) -> Result<Pool, Failure> {
    ensure_master(&servers, &address).await?;
    let deadline = servers.timing().deadline;
    let config = servers.with_deadlines(AsyncConnectionConfig::new());
    let manager = Manager::new_with_config(servers.connection_info(&address), config)?;
    let mut builder = Pool::builder(manager)
        .max_size(limits.size.max(1))
        // The connections used last first: a node with little to do keeps few of them busy.
        .queue_mode(QueueMode::Lifo)
        .wait_timeout(Some(limits.wait.min(deadline)))
        .create_timeout(Some(deadline))
        .recycle_timeout(Some(limits.recycle.min(deadline)))
        .runtime(Runtime::Tokio1);
    if !servers.is_single() {
        builder = builder.post_create(Hook::async_fn(|connection, _| Box::pin(require_master(connection))));
    }
    let pool = builder.build().map_err(|error| Failure(error.to_string()))?;
    match timeout(deadline, pool.get()).await {
        Ok(Ok(_first)) => {}
        Ok(Err(error)) => {
            return Err(match broken(error) {
                CallError::Redis(error) => connect_failure(&address, error).await,
                CallError::Broken(failure) | CallError::Local(failure) => failure,
            });
        }
        Err(_) => return Err(Failure::silence()),
    }
    Ok(pool)
}

/// The address of a master may lead to a replica by the time that one connection more is made.
async fn require_master(connection: &mut MultiplexedConnection) -> Result<(), HookError> {
    match is_master(connection).await.map_err(HookError::Backend)? {
        true => Ok(()),
        false => Err(HookError::message("")),
    }
}

fn broken(error: PoolError) -> CallError {
    match error {
        PoolError::Backend(error) | PoolError::PostCreateHook(HookError::Backend(error)) => {
            CallError::Redis(error)
        }
        PoolError::Timeout(_) => CallError::Redis(io::Error::from(io::ErrorKind::TimedOut).into()),
        PoolError::PostCreateHook(HookError::Message(_)) => CallError::Broken(not_a_master()),
        PoolError::Closed | PoolError::NoRuntimeSpecified => CallError::Local(closed()),
    }
}

fn closed() -> Failure {
    Failure("the pool of connections is closed".into())
}
