//! Redis, as the bus and the expiring keys use it: one server, a master that sentinels watch over, or a cluster.
//!
//! They differ in where the servers in charge are found ([`Layout`]) and in the commands of pub/sub. All else is
//! shared: connections that commands go over ([`Links`]), connections that are listened to ([`Listening`]), and
//! the lookout that notices when somebody else is in charge, although the old server may still answer.
//!
//! Everything in that Redis begins with the URL's namespace (`carillon` unless given), so that several clusters
//! may share one. Needs RESP3 and `SET … PXAT`, so Redis 6.2 or newer; a Redis Cluster needs 7.0 for sharded
//! pub/sub. Nothing that is logged or returned holds what a server said beyond its error code: some servers
//! repeat the command they refuse, and one of ours is the password.

mod address;
mod backoff;
mod circuit;
mod cluster;
mod layout;
mod links;
mod listening;
mod panel;
mod sentinel;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rand::RngExt as _;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, Cmd, ConnectionAddr, RedisError, Value};
use tokio::sync::{Mutex, Notify, watch};
use tokio::time::{Instant, sleep, timeout};

use address::{Address, Place};
use panel::Panel;

pub use address::is_redis;
pub use backoff::Backoff;
pub use layout::Layout;
pub use links::Links;
pub use listening::Listening;

/// The shortest pause between two looks at who is in charge, however doubtful it is.
const SHORTEST_LOOK: Duration = Duration::from_millis(100);

/// How long things may take.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// How long a server may take to answer before it counts as gone.
    pub deadline: Duration,
    /// How often listening connections are tried with a PING, and how often it is asked who is in charge.
    pub every: Duration,
    /// The longest pause between attempts to connect.
    pub max_backoff: Duration,
}

/// Why something could not be done, in words that hold no secret.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct Failure(pub String);

impl From<RedisError> for Failure {
    fn from(error: RedisError) -> Self {
        Self(match error.code() {
            Some(code) => format!("Redis answered {code}"),
            None if error.is_connection_refusal() => "Redis refused the connection".into(),
            None if error.is_timeout() => "Redis did not answer in time".into(),
            None => format!("Redis: {}", error.category()),
        })
    }
}

/// The Redis that a URL names. Cheap to clone.
#[derive(Clone)]
pub struct RedisServers(Arc<Inner>);

struct Inner {
    address: Address,
    timing: Timing,
    panel: Panel,
    /// Who is in charge, as far as known.
    known: watch::Sender<Option<Arc<Layout>>>,
    /// When the last look at that began; held while looking.
    looking: Mutex<Option<Instant>>,
    doubted: Arc<Notify>,
    has_lookout: AtomicBool,
}

impl RedisServers {
    /// Reads the URL; does not connect. Errors hold nothing of the URL, which may hold a password.
    pub fn from_url(url: &str, timing: Timing) -> Result<Self, Failure> {
        let address = Address::read(url)?;
        let known = match &address.place {
            Place::One => Some(Arc::new(Layout::one(address.data.addr().clone()))),
            Place::Sentinel { .. } | Place::Cluster { .. } => None,
        };
        Ok(Self(Arc::new(Inner {
            address,
            timing,
            panel: Panel::new(timing.deadline / 2),
            known: watch::Sender::new(known),
            looking: Mutex::default(),
            doubted: Arc::default(),
            has_lookout: AtomicBool::new(false),
        })))
    }

    /// A channel or key of this cluster's own.
    pub fn name(&self, rest: &str) -> String {
        format!("{}:{rest}", self.0.address.namespace)
    }

    /// What stands behind the namespace, if this name is one of this cluster's.
    pub fn rest_of<'a>(&self, name: &'a str) -> Option<&'a str> {
        name.strip_prefix(&self.0.address.namespace)?.strip_prefix(':')
    }

    /// The number of the database, as key events name it.
    pub fn database(&self) -> i64 {
        self.0.address.data.redis_settings().db()
    }

    /// Whether names belong to slots and pub/sub is to be sharded.
    pub fn is_cluster(&self) -> bool {
        matches!(self.0.address.place, Place::Cluster { .. })
    }

    /// What was asked for with the URL.
    pub fn timing(&self) -> Timing {
        self.0.timing
    }

    /// Who is in charge, as far as known.
    pub fn known(&self) -> Option<Arc<Layout>> {
        self.0.known.borrow().clone()
    }

    /// Who is in charge, asked anew. Needs a Tokio runtime: from then on it is asked again and again.
    pub async fn find(&self) -> Result<Arc<Layout>, Failure> {
        let wanted_since = Instant::now();
        if let Some(layout) = self.known().filter(|_| matches!(self.0.address.place, Place::One)) {
            return Ok(layout);
        }
        self.keep_looking();
        let mut looking = self.0.looking.lock().await;
        // Who waited for another's look that began later than the wish needs none of its own.
        if looking.is_some_and(|began| began >= wanted_since)
            && let Some(layout) = self.known()
        {
            return Ok(layout);
        }
        let began = Instant::now();
        let layout = Arc::new(self.look().await?);
        *looking = Some(began);
        self.0.known.send_if_modified(|known| {
            let has_changed = known.as_ref() != Some(&layout);
            if has_changed {
                *known = Some(layout.clone());
            }
            has_changed
        });
        Ok(layout)
    }

    async fn look(&self) -> Result<Layout, Failure> {
        let inner = &*self.0;
        match &inner.address.place {
            Place::One => Ok(Layout::one(inner.address.data.addr().clone())),
            Place::Sentinel { sentinels, master } => {
                sentinel::find_master(&inner.panel, sentinels, master).await.map(Layout::one)
            }
            Place::Cluster { seeds } => {
                cluster::find_masters(&inner.panel, &inner.address.data, seeds, self.known().as_deref()).await
            }
        }
    }

    /// Resolves as soon as others are in charge, as far as that `matters`.
    pub async fn moved(&self, matters: impl Fn(&Layout) -> bool) {
        let mut known = self.0.known.subscribe();
        if known.wait_for(|known| known.as_deref().is_some_and(&matters)).await.is_err() {
            std::future::pending().await
        }
    }

    /// Something suggests that others are in charge: it is asked soon.
    pub fn doubt(&self) {
        self.0.doubted.notify_one();
    }

    /// A connection to one of those in charge. A server that only was in charge is refused.
    pub async fn connect(
        &self,
        server: &ConnectionAddr,
        config: AsyncConnectionConfig,
    ) -> Result<MultiplexedConnection, Failure> {
        let Inner { address, timing, .. } = &*self.0;
        let config =
            config.set_connection_timeout(Some(timing.deadline)).set_response_timeout(Some(timing.deadline));
        let connect = async {
            let client = Client::open(address.data.clone().set_addr(server.clone()))?;
            let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
            if !matches!(address.place, Place::One) {
                let role: Vec<Value> = Cmd::new().arg("ROLE").query_async(&mut connection).await?;
                if !matches!(role.first(), Some(Value::BulkString(role)) if role == b"master") {
                    return Err(Failure("the server is no master".into()));
                }
            }
            Ok(connection)
        };
        timeout(timing.deadline, connect)
            .await
            .unwrap_or_else(|_| Err(Failure("no connection within the deadline".into())))
    }

    /// Starts the lookout, which asks who is in charge for as long as anybody uses this. A master that was cut
    /// off goes on answering on its side: only asking tells.
    fn keep_looking(&self) {
        if self.0.has_lookout.swap(true, Ordering::SeqCst) {
            return;
        }
        let (inner, doubted, every) =
            (Arc::downgrade(&self.0), self.0.doubted.clone(), self.0.timing.every.max(SHORTEST_LOOK));
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    () = sleep(jittered(every)) => {}
                    () = doubted.notified() => {}
                }
                let Some(inner) = inner.upgrade() else { return };
                // Without an answer what is known stands: sentinels that are down are no reason to give up a master.
                if let Err(failure) = Self(inner).find().await {
                    tracing::debug!(%failure, "cannot tell who is in charge of Redis");
                }
                sleep(jittered(SHORTEST_LOOK)).await;
            }
        });
    }
}

/// A little less, so that nodes do not ask in step.
fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(rand::rng().random_range(0.75..1.0))
}
