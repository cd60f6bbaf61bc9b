//! Redis, as the bus and the expiring keys use it: a single server, a master watched by sentinels, or a cluster.
//!
//! These differ in how the masters are found ([`Topology`]) and in the commands of pub/sub. All else is shared: one
//! connection to each master for commands ([`Links`]), or one pool of them ([`Pools`]), connections for pub/sub
//! ([`Listening`]), the background task that detects failover, although the old master may still answer, and what
//! is wrong and since when ([`Outage`]).
//!
//! Everything in that Redis begins with the URL's namespace (`carillon` unless given), so that several clusters
//! may share one. Needs RESP3 and `SET … PXAT`, so Redis 6.2 or newer; a Redis Cluster needs 7.0 for sharded
//! pub/sub. Nothing that is logged or returned holds what a server said beyond its error code: some servers
//! repeat the command they refuse, and one of ours is the password.

mod address;
mod backoff;
mod circuit;
mod cluster;
mod greeting;
mod links;
mod listening;
mod outage;
mod per_master;
mod pools;
mod quorum;
mod sentinel;
mod topology;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rand::RngExt as _;
use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ConnectionInfo, RedisError, RedisResult, Value,
};
use tokio::sync::{Mutex, Notify, watch};
use tokio::time::{Instant, sleep, timeout};

use address::{Address, Deployment};
use quorum::QuorumQuery;

pub use address::is_redis;
pub use backoff::Backoff;
pub use links::Links;
pub use listening::Listening;
pub use outage::{Outage, OutageReport};
pub use pools::{PoolLimits, Pools};
pub use topology::Topology;

/// The shortest pause between two topology queries, even when the topology is marked stale all the time.
const MIN_QUERY_PAUSE: Duration = Duration::from_millis(100);
/// The longest error code that is repeated.
const MAX_CODE: usize = 32;

/// How long things may take.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// How long a server may take to answer before it counts as down.
    pub deadline: Duration,
    /// How often connections for pub/sub are checked with a PING, and how often the topology is queried.
    pub every: Duration,
    /// The longest pause between attempts to connect.
    pub max_backoff: Duration,
}

/// Why something failed, in words that hold no secret.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct Failure(pub String);

impl Failure {
    /// A server did not answer within its deadline.
    pub fn silence() -> Self {
        Self("Redis did not answer in time".into())
    }
}

impl From<RedisError> for Failure {
    fn from(error: RedisError) -> Self {
        Self(match error.code().filter(|code| is_code(code)) {
            Some(code) => format!("Redis answered {code}"),
            None if error.is_connection_refusal() => "Redis refused the connection".into(),
            None if error.is_timeout() => return Self::silence(),
            None => format!("Redis: {}", error.category()),
        })
    }
}

fn is_code(code: &str) -> bool {
    code.len() <= MAX_CODE && code.bytes().all(|byte| byte.is_ascii_uppercase())
}

/// The Redis that a URL names. Cheap to clone.
#[derive(Clone)]
pub struct RedisServers(Arc<Inner>);

struct Inner {
    address: Address,
    timing: Timing,
    quorum: QuorumQuery,
    /// The topology, as far as known.
    topology: watch::Sender<Option<Arc<Topology>>>,
    /// When the last topology query began; held while querying.
    queried_at: Mutex<Option<Instant>>,
    stale: Arc<Notify>,
    detects_failover: AtomicBool,
    outage: Outage,
}

impl RedisServers {
    /// Reads the URL; does not connect. `purpose` says in the log what this Redis is used for. Errors hold nothing
    /// of the URL, which may hold a password.
    pub fn from_url(url: &str, timing: Timing, purpose: &'static str) -> Result<Self, Failure> {
        let address = Address::read(url)?;
        let topology = match &address.deployment {
            Deployment::Single => Some(Arc::new(Topology::single(address.data.addr().clone()))),
            Deployment::Sentinel { .. } | Deployment::Cluster { .. } => None,
        };
        Ok(Self(Arc::new(Inner {
            address,
            timing,
            quorum: QuorumQuery::new(timing.deadline / 2),
            topology: watch::Sender::new(topology),
            queried_at: Mutex::default(),
            stale: Arc::default(),
            detects_failover: AtomicBool::new(false),
            outage: Outage::new(purpose),
        })))
    }

    /// A channel's or key's name in Redis, with the namespace before it.
    pub fn name(&self, rest: &str) -> String {
        format!("{}:{rest}", self.0.address.namespace)
    }

    /// What follows the namespace, if this name has it.
    pub fn rest_of<'a>(&self, name: &'a str) -> Option<&'a str> {
        name.strip_prefix(&self.0.address.namespace)?.strip_prefix(':')
    }

    /// The number of the database, as key events name it.
    pub fn database(&self) -> i64 {
        self.0.address.data.redis_settings().db()
    }

    /// Whether names belong to slots and pub/sub must be sharded.
    pub fn is_cluster(&self) -> bool {
        matches!(self.0.address.deployment, Deployment::Cluster { .. })
    }

    /// What was given with the URL.
    pub fn timing(&self) -> Timing {
        self.0.timing
    }

    /// What is wrong with this Redis. [`Links`] and [`Pools`] report to it; who listens does so by itself.
    pub fn outage(&self) -> &Outage {
        &self.0.outage
    }

    /// The topology, as far as known.
    pub fn topology(&self) -> Option<Arc<Topology>> {
        self.0.topology.borrow().clone()
    }

    /// The topology, queried anew. Needs a Tokio runtime: from then on failover is detected in the background.
    pub async fn query_topology(&self) -> Result<Arc<Topology>, Failure> {
        let wanted_since = Instant::now();
        if let Some(topology) = self.topology().filter(|_| self.is_single()) {
            return Ok(topology);
        }
        self.detect_failover();
        let mut queried_at = self.0.queried_at.lock().await;
        // A query by somebody else that began after this call serves as well.
        if queried_at.is_some_and(|began| began >= wanted_since)
            && let Some(topology) = self.topology()
        {
            return Ok(topology);
        }
        let began = Instant::now();
        let topology = Arc::new(self.query().await?);
        *queried_at = Some(began);
        self.0.topology.send_if_modified(|known| {
            let has_changed = known.as_ref() != Some(&topology);
            if has_changed {
                *known = Some(topology.clone());
            }
            has_changed
        });
        Ok(topology)
    }

    async fn query(&self) -> Result<Topology, Failure> {
        let Inner { address, quorum, .. } = &*self.0;
        match &address.deployment {
            Deployment::Single => Ok(Topology::single(address.data.addr().clone())),
            Deployment::Sentinel { sentinels, master } => {
                sentinel::find_master(quorum, sentinels, master).await.map(Topology::single)
            }
            Deployment::Cluster { seeds } => {
                cluster::find_masters(quorum, &address.data, seeds, self.topology().as_deref()).await
            }
        }
    }

    /// Resolves as soon as the topology is one that `matters`.
    pub async fn topology_changed(&self, matters: impl Fn(&Topology) -> bool) {
        let mut known = self.0.topology.subscribe();
        if known.wait_for(|known| known.as_deref().is_some_and(&matters)).await.is_err() {
            std::future::pending().await
        }
    }

    /// Something suggests that there is another master: the topology is queried soon.
    pub fn mark_stale(&self) {
        self.0.stale.notify_one();
    }

    /// A connection to a master. A server that is a master no longer is refused.
    pub async fn connect(
        &self,
        master: &ConnectionAddr,
        config: AsyncConnectionConfig,
    ) -> Result<MultiplexedConnection, Failure> {
        let deadline = self.0.timing.deadline;
        let config = self.with_deadlines(config);
        let connect = async {
            let client = Client::open(self.connection_info(master))?;
            let mut connection = match client.get_multiplexed_async_connection_with_config(&config).await {
                Ok(connection) => connection,
                Err(error) => return Err(greeting::connect_failure(master, error).await),
            };
            if !self.is_single() && !is_master(&mut connection).await? {
                return Err(not_a_master());
            }
            Ok(connection)
        };
        timeout(deadline, connect).await.unwrap_or_else(|_| Err(Failure::silence()))
    }

    /// How to connect to this master.
    fn connection_info(&self, master: &ConnectionAddr) -> ConnectionInfo {
        self.0.address.data.clone().set_addr(master.clone())
    }

    fn with_deadlines(&self, config: AsyncConnectionConfig) -> AsyncConnectionConfig {
        let deadline = Some(self.0.timing.deadline);
        config.set_connection_timeout(deadline).set_response_timeout(deadline)
    }

    /// Whether the one server of the URL is used whatever its role.
    fn is_single(&self) -> bool {
        matches!(self.0.address.deployment, Deployment::Single)
    }

    /// Starts the background task that detects failover. It queries the topology for as long as anybody uses this:
    /// a master that was cut off goes on answering its clients, so only a query shows it.
    fn detect_failover(&self) {
        if self.0.detects_failover.swap(true, Ordering::SeqCst) {
            return;
        }
        let (inner, stale, every) =
            (Arc::downgrade(&self.0), self.0.stale.clone(), self.0.timing.every.max(MIN_QUERY_PAUSE));
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    () = sleep(jittered(every)) => {}
                    () = stale.notified() => {}
                }
                let Some(inner) = inner.upgrade() else { return };
                // Without an answer the known topology stands: sentinels that are down are no reason to leave a master.
                if let Err(failure) = Self(inner).query_topology().await {
                    tracing::debug!(%failure, "the topology of Redis cannot be queried");
                }
                sleep(jittered(MIN_QUERY_PAUSE)).await;
            }
        });
    }
}

impl fmt::Debug for RedisServers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RedisServers").field(&self.0.address).finish()
    }
}

/// Whether the server says that it is a master.
async fn is_master(connection: &mut MultiplexedConnection) -> RedisResult<bool> {
    let role: Vec<Value> = Cmd::new().arg("ROLE").query_async(connection).await?;
    Ok(matches!(role.first(), Some(Value::BulkString(role)) if role == b"master"))
}

fn not_a_master() -> Failure {
    Failure("the server is not a master".into())
}

/// A little less, so that nodes do not query in step.
fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(rand::rng().random_range(0.75..1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_no_password() {
        let urls = [
            "redis://me:secret@h:1/2",
            "redis+sentinel://me:secret@h:1,i/master?sentinel_password=secret",
            "redis+cluster://me:secret@h:1,i",
        ];
        let second = Duration::from_secs(1);
        let timing = Timing { deadline: second, every: second, max_backoff: second };
        for url in urls {
            let servers = RedisServers::from_url(url, timing, "test").unwrap();
            let info = servers.connection_info(&ConnectionAddr::Tcp("h".into(), 1));
            assert_eq!(info.redis_settings().password(), Some("secret"));
            servers.outage().failed(&Failure("Redis answered WRONGPASS".into()));
            let shown = [
                format!("{servers:?} {:?} {:?}", servers.0.address, servers.0.address.deployment),
                format!("{info:?} {:?} {:?}", servers.topology(), servers.timing()),
                format!("{:?} {:?}", servers.outage(), servers.outage().report()),
            ];
            for text in shown {
                assert!(!text.contains("secret"), "{url}: {text}");
            }
        }
    }

    #[test]
    fn of_what_a_server_answers_only_the_code_is_repeated() {
        let answer = |text: &str| {
            let text = format!("-{text}\r\n");
            let Err(error) = redis::parse_redis_value(text.as_bytes()).and_then(|v| v.extract_error()) else {
                panic!("no error")
            };
            Failure::from(error).0
        };
        assert_eq!(answer("WRONGPASS secret is wrong"), "Redis answered WRONGPASS");
        assert!(!answer("secret is unknown").contains("secret"));
    }
}
