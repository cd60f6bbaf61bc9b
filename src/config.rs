//! What can be set, each as an option and as an environment variable.

use std::net::SocketAddr;
use std::time::Duration;

use clap::Args;

use crate::identity::topic_rules::{DEFAULT_RULES, MAX_RULES, SEPARATOR, TopicRule, TopicRules};
use crate::node::NodeLimits;
use crate::store::{Store, StoreError, StoreLimits};

/// Where the durable truth is.
#[derive(Debug, Clone, Args)]
pub struct StoreArgs {
    /// The store: sqlite:path or postgres://user:password@host/database
    #[arg(
        long,
        env = "CARILLON_STORE_URL",
        default_value = "sqlite:data/carillon.sqlite",
        hide_env_values = true
    )]
    pub store_url: String,
    /// Connections to the database at most
    #[arg(long, env = "CARILLON_STORE_CONNECTIONS", default_value_t = 10)]
    pub store_connections: u32,
}

impl StoreArgs {
    /// Opens the store.
    pub async fn open(&self) -> Result<Store, StoreError> {
        let limits = StoreLimits { max_connections: self.store_connections.max(2), ..StoreLimits::default() };
        Store::open(&self.store_url, &limits).await
    }
}

/// How a node runs.
#[derive(Debug, Clone, Args)]
pub struct ServeArgs {
    /// Where to listen for HTTP
    #[arg(long, env = "CARILLON_LISTEN", default_value = "127.0.0.1:8080")]
    pub listen: SocketAddr,
    /// Where to listen for Prometheus, or off
    #[arg(long, env = "CARILLON_METRICS_LISTEN", default_value = "127.0.0.1:9090")]
    pub metrics_listen: String,
    /// Where the durable truth is.
    #[command(flatten)]
    pub store: StoreArgs,
    /// The bus between nodes: memory:, redis://host, redis+sentinel://host,…/master or redis+cluster://host,…
    #[arg(long, env = "CARILLON_BUS_URL", default_value = "memory:", hide_env_values = true)]
    pub bus_url: String,
    /// Keys that expire: as for the bus [default: the bus's]
    #[arg(long, env = "CARILLON_TTL_URL", hide_env_values = true)]
    pub ttl_url: Option<String>,
    /// Bring the database's schema up to date first (the embedded store always does)
    #[arg(long, env = "CARILLON_MIGRATE")]
    pub migrate: bool,
    /// Mark cookies Secure always; otherwise when X-Forwarded-Proto says https
    #[arg(long, env = "CARILLON_SECURE_COOKIES")]
    pub secure_cookies: bool,
    /// Who may read and write a topic: 'PATTERN read=ROLE write=ROLE', repeatable; the first that matches decides
    #[arg(
        long = "topic-rule",
        env = "CARILLON_TOPIC_RULES",
        value_name = "RULE",
        value_delimiter = SEPARATOR,
        default_value = DEFAULT_RULES
    )]
    pub topic_rules: Vec<TopicRule>,
    /// Leave out the pages under /examples, and what takes uploads for one of them
    #[arg(long, env = "CARILLON_NO_EXAMPLES")]
    pub no_examples: bool,
    /// The most bytes of an event's data
    #[arg(long, env = "CARILLON_MAX_DATA_BYTES", default_value_t = 65_536)]
    pub max_data_bytes: usize,
    /// The most connections at once; more wait to be accepted
    #[arg(long, env = "CARILLON_MAX_CONNECTIONS", default_value_t = 50_000)]
    pub max_connections: usize,
    /// The most streams of one user on this node
    #[arg(long, env = "CARILLON_STREAMS_PER_USER", default_value_t = 64)]
    pub streams_per_user: usize,
    /// Events queued for one listener; more and it catches up from the store
    #[arg(long, env = "CARILLON_QUEUE_EVENTS", default_value_t = 256)]
    pub queue_events: usize,
    /// Bytes queued for one listener; more and it catches up from the store
    #[arg(long, env = "CARILLON_QUEUE_BYTES", default_value_t = 262_144)]
    pub queue_bytes: usize,
    /// Seconds of quiet after which a stream gets a heartbeat
    #[arg(long, env = "CARILLON_HEARTBEAT_SECONDS", default_value_t = 15)]
    pub heartbeat_seconds: u64,
    /// Seconds after which a listener that takes nothing is closed
    #[arg(long, env = "CARILLON_STALL_SECONDS", default_value_t = 600)]
    pub stall_seconds: u64,
    /// Seconds after which a stream is asked to reconnect
    #[arg(long, env = "CARILLON_MAX_STREAM_SECONDS", default_value_t = 14_400)]
    pub max_stream_seconds: u64,
    /// Days that events are kept
    #[arg(long, env = "CARILLON_RETENTION_DAYS", default_value_t = 30)]
    pub retention_days: u64,
    /// Seconds, at least 5, for which users of a node that was killed still count as present
    #[arg(long, env = "CARILLON_PRESENCE_SECONDS", default_value_t = 15)]
    pub presence_seconds: u64,
    /// Seconds over which streams are closed when the node is told to stop
    #[arg(long, env = "CARILLON_DRAIN_SECONDS", default_value_t = 10)]
    pub drain_seconds: u64,
}

impl ServeArgs {
    /// The URL of the keys that expire.
    pub fn ttl_url(&self) -> &str {
        self.ttl_url.as_deref().unwrap_or(&self.bus_url)
    }

    /// Who may read and write which topics.
    pub fn topic_rules(&self) -> Result<TopicRules, String> {
        match self.topic_rules.len() {
            0..=MAX_RULES => Ok(TopicRules::new(self.topic_rules.clone())),
            more => Err(format!("--topic-rule: {more} rules are too many: at most {MAX_RULES}")),
        }
    }

    /// A node's bounds, with what was set.
    pub fn node_limits(&self) -> NodeLimits {
        let mut limits = NodeLimits::default();
        limits.hub.queue_events = self.queue_events.max(1);
        limits.hub.queue_bytes = self.queue_bytes.max(1);
        limits.hub.streams_per_user = self.streams_per_user.max(1);
        limits.sweep.keep_alive_every = Duration::from_secs(self.heartbeat_seconds.max(1));
        limits.sweep.stall_timeout = Duration::from_secs(self.stall_seconds.max(1));
        limits.sweep.max_age = Duration::from_secs(self.max_stream_seconds.max(1));
        limits.retention = Duration::from_secs(self.retention_days.saturating_mul(86_400));
        limits.presence_lifetime = Duration::from_secs(self.presence_seconds.max(5));
        limits.drain_window = Duration::from_secs(self.drain_seconds);
        limits
    }
}
