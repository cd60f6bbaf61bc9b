//! What can be set: as an option, as a variable of the environment, or in a configuration file.
//!
//! Options win over variables, variables over the file, the file over defaults. A setting has one name: the field's
//! here is the key in the file; the option has `-` for `_`, the variable is in capitals after `CARILLON_`.

mod file;
mod kind;
mod origins;
mod secret_url;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::builder::RangedU64ValueParser;
use clap::{ArgAction, Args};

use crate::event::draft;
use crate::identity::topic_rules::{DEFAULT_RULES, MAX_RULES, SEPARATOR, TopicRule, TopicRules};
use crate::node::NodeLimits;
use crate::store::{DEFAULT_CONNECTIONS, MIN_CONNECTIONS, PoolSizes, Store, StoreError, StoreLimits};
pub use file::{ConfigFile, FileError};
pub use origins::{Origin, Setting, quoted, settings};
pub use secret_url::SecretUrl;

/// The key of the rules for topics, which are tables in the file.
pub const TOPIC_RULES: &str = "topic_rules";

/// The longest time that can be set, in seconds: a year.
const MAX_SECONDS: u64 = 365 * 86_400;
/// The longest retention, in days: a century.
const MAX_DAYS: u64 = 36_500;

/// The least of [`ServeArgs::max_recipients`]: one event with as many as it may have.
const MAX_RECIPIENTS: u64 = draft::MAX_RECIPIENTS as u64;

/// A number that is not below `least`.
fn at_least<T: TryFrom<u64> + Clone + Send + Sync>(least: u64) -> RangedU64ValueParser<T> {
    RangedU64ValueParser::new().range(least..=u64::from(u32::MAX))
}

/// Seconds, from `least` to a year.
fn seconds(least: u64) -> RangedU64ValueParser<u64> {
    RangedU64ValueParser::new().range(least..=MAX_SECONDS)
}

/// Where metrics are served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricsListen {
    /// Nowhere.
    Off,
    /// At this address.
    At(SocketAddr),
}

impl FromStr for MetricsListen {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "off" => Ok(Self::Off),
            _ => text.parse().map(Self::At).map_err(|_| "must be an address such as 127.0.0.1:9464, or off"),
        }
    }
}

/// Where the durable truth is.
#[derive(Debug, Clone, Args)]
pub struct StoreArgs {
    /// A file with settings, as deploy/carillon.toml explains; options and variables win over it
    #[arg(long, env = "CARILLON_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The store: sqlite:path or postgres://user:password@host/database
    #[arg(
        long,
        env = "CARILLON_STORE_URL",
        default_value = "sqlite:data/carillon.sqlite",
        hide_env_values = true
    )]
    pub store_url: SecretUrl,
    /// Connections to the database at most, shared out to the log, authentication, replay and requests
    #[arg(
        long,
        env = "CARILLON_STORE_CONNECTIONS",
        default_value_t = DEFAULT_CONNECTIONS,
        value_parser = at_least::<u32>(MIN_CONNECTIONS.into())
    )]
    pub store_connections: u32,
}

impl StoreArgs {
    /// Opens the store; an embedded one is created if it is not there.
    pub async fn open(&self) -> Result<Store, StoreError> {
        let limits =
            StoreLimits { connections: PoolSizes::share(self.store_connections), ..StoreLimits::default() };
        Store::open(self.store_url.reveal(), &limits).await
    }
}

/// How a node runs.
#[derive(Debug, Clone, Args)]
pub struct ServeArgs {
    /// Where to listen for HTTP
    #[arg(long, env = "CARILLON_LISTEN", default_value = "127.0.0.1:8080")]
    pub listen: SocketAddr,
    /// Where to listen for Prometheus, or off
    #[arg(
        long,
        env = "CARILLON_METRICS_LISTEN",
        default_value = "127.0.0.1:9464",
        value_name = "ADDRESS|off"
    )]
    pub metrics_listen: MetricsListen,
    /// Where the durable truth is.
    #[command(flatten)]
    pub store: StoreArgs,
    /// The bus between nodes: memory:, redis://host, redis+sentinel://host,…/master or redis+cluster://host,…
    #[arg(long, env = "CARILLON_BUS_URL", default_value = "memory:", hide_env_values = true)]
    pub bus_url: SecretUrl,
    /// Keys that expire: as for the bus [default: the bus's]
    #[arg(long, env = "CARILLON_TTL_URL", hide_env_values = true)]
    pub ttl_url: Option<SecretUrl>,
    /// Bring the database's schema up to date first (the embedded store always does)
    #[arg(
        long,
        env = "CARILLON_MIGRATE",
        action = ArgAction::Set,
        num_args = 0..=1,
        require_equals = true,
        default_value_t = false,
        default_missing_value = "true",
        value_name = "BOOL"
    )]
    pub migrate: bool,
    /// Mark cookies Secure always; otherwise when X-Forwarded-Proto says https
    #[arg(
        long,
        env = "CARILLON_SECURE_COOKIES",
        action = ArgAction::Set,
        num_args = 0..=1,
        require_equals = true,
        default_value_t = false,
        default_missing_value = "true",
        value_name = "BOOL"
    )]
    pub secure_cookies: bool,
    /// Who may read and write a topic: 'PATTERN read=ROLE write=ROLE', repeatable; the first that matches decides
    // Without a default for clap: from a file come rules, not text, since a pattern may hold the separator.
    #[arg(
        long = "topic-rule",
        env = "CARILLON_TOPIC_RULES",
        value_name = "RULE",
        value_delimiter = SEPARATOR
    )]
    pub topic_rules: Vec<TopicRule>,
    /// The rules of the configuration file, in force when no others are given.
    #[arg(skip)]
    pub file_rules: Option<Vec<TopicRule>>,
    /// Leave out the pages under /examples, and what takes uploads for one of them
    #[arg(
        long,
        env = "CARILLON_NO_EXAMPLES",
        action = ArgAction::Set,
        num_args = 0..=1,
        require_equals = true,
        default_value_t = false,
        default_missing_value = "true",
        value_name = "BOOL"
    )]
    pub no_examples: bool,
    /// The most bytes of an event's data
    #[arg(long, env = "CARILLON_MAX_DATA_BYTES", default_value_t = 65_536, value_parser = at_least::<usize>(1))]
    pub max_data_bytes: usize,
    /// The most recipients of one request to publish, and of one append, which holds up all nodes
    #[arg(long, env = "CARILLON_MAX_RECIPIENTS", default_value_t = 10_000, value_parser = at_least::<usize>(MAX_RECIPIENTS))]
    pub max_recipients: usize,
    /// Milliseconds for which an append waits for company at most, when the last has just ended; 0: never
    #[arg(long, env = "CARILLON_APPEND_WAIT_MS", default_value_t = 3, value_parser = RangedU64ValueParser::<u64>::new().range(0..=1_000))]
    pub append_wait_ms: u64,
    /// The most connections at once; more wait to be accepted
    #[arg(long, env = "CARILLON_MAX_CONNECTIONS", default_value_t = 50_000, value_parser = at_least::<usize>(1))]
    pub max_connections: usize,
    /// The most streams of one user on this node
    #[arg(long, env = "CARILLON_STREAMS_PER_USER", default_value_t = 64, value_parser = at_least::<usize>(1))]
    pub streams_per_user: usize,
    /// Events queued for one listener; more and it catches up from the store
    #[arg(long, env = "CARILLON_QUEUE_EVENTS", default_value_t = 256, value_parser = at_least::<usize>(1))]
    pub queue_events: usize,
    /// Bytes queued for one listener; more and it catches up from the store
    #[arg(long, env = "CARILLON_QUEUE_BYTES", default_value_t = 262_144, value_parser = at_least::<usize>(1))]
    pub queue_bytes: usize,
    /// Seconds of quiet after which a stream gets a keep-alive comment
    #[arg(long, env = "CARILLON_HEARTBEAT_SECONDS", default_value_t = 15, value_parser = seconds(1))]
    pub heartbeat_seconds: u64,
    /// Seconds after which a listener that takes nothing is closed
    #[arg(long, env = "CARILLON_STALL_SECONDS", default_value_t = 600, value_parser = seconds(1))]
    pub stall_seconds: u64,
    /// Seconds after which a stream is asked to reconnect
    #[arg(long, env = "CARILLON_MAX_STREAM_SECONDS", default_value_t = 14_400, value_parser = seconds(1))]
    pub max_stream_seconds: u64,
    /// Days that events are kept
    #[arg(long, env = "CARILLON_RETENTION_DAYS", default_value_t = 30, value_parser = RangedU64ValueParser::<u64>::new().range(1..=MAX_DAYS))]
    pub retention_days: u64,
    /// Keep the data and recipients of events that have expired for as long as the events [default: for an hour]
    #[arg(
        long,
        env = "CARILLON_KEEP_EXPIRED",
        action = ArgAction::Set,
        num_args = 0..=1,
        require_equals = true,
        default_value_t = false,
        default_missing_value = "true",
        value_name = "BOOL"
    )]
    pub keep_expired: bool,
    /// Seconds, at least 5, for which users of a node that was killed still count as present
    #[arg(long, env = "CARILLON_PRESENCE_SECONDS", default_value_t = 15, value_parser = seconds(5))]
    pub presence_seconds: u64,
    /// Seconds over which streams are closed when the node is asked to stop
    #[arg(long, env = "CARILLON_DRAIN_SECONDS", default_value_t = 10, value_parser = seconds(0))]
    pub drain_seconds: u64,
}

impl ServeArgs {
    /// The URL of the keys that expire.
    pub fn ttl_url(&self) -> &SecretUrl {
        self.ttl_url.as_ref().unwrap_or(&self.bus_url)
    }

    /// The rules for topics that are in force: those given as options or variable, those of the file, or the default.
    pub fn rules_in_force(&self) -> Vec<TopicRule> {
        match &self.file_rules {
            _ if !self.topic_rules.is_empty() => self.topic_rules.clone(),
            Some(rules) => rules.clone(),
            None => default_rules(),
        }
    }

    /// Who may read and write which topics.
    pub fn topic_rules(&self) -> Result<TopicRules, String> {
        let rules = self.rules_in_force();
        match rules.len() {
            0..=MAX_RULES => Ok(TopicRules::new(rules)),
            more => Err(format!("{TOPIC_RULES}: {more} rules are too many: at most {MAX_RULES}")),
        }
    }

    /// A node's bounds, with what was set.
    pub fn node_limits(&self) -> NodeLimits {
        let mut limits = NodeLimits::default();
        limits.publish.recipients = self.max_recipients;
        limits.publish.append_wait = Duration::from_millis(self.append_wait_ms);
        limits.retention.keep_expired = self.keep_expired;
        limits.hub.queue_events = self.queue_events;
        limits.hub.queue_bytes = self.queue_bytes;
        limits.hub.streams_per_user = self.streams_per_user;
        limits.sweep.keep_alive_every = Duration::from_secs(self.heartbeat_seconds);
        limits.sweep.stall_timeout = Duration::from_secs(self.stall_seconds);
        limits.sweep.max_age = Duration::from_secs(self.max_stream_seconds);
        limits.retention.keep = Duration::from_secs(self.retention_days.saturating_mul(86_400));
        limits.presence_lifetime = Duration::from_secs(self.presence_seconds);
        limits.drain_window = Duration::from_secs(self.drain_seconds);
        limits
    }
}

/// The table of topic rules that is in force when none is given.
fn default_rules() -> Vec<TopicRule> {
    DEFAULT_RULES
        .split(SEPARATOR)
        .map(|rule| rule.parse().expect("the default rules are rules: a test reads them"))
        .collect()
}

#[cfg(test)]
mod tests {
    use clap::{Args as _, Command, FromArgMatches as _};

    use super::*;

    fn args(options: &[&str]) -> ServeArgs {
        let command = ServeArgs::augment_args(Command::new("serve").no_binary_name(true));
        ServeArgs::from_arg_matches(&command.try_get_matches_from(options).unwrap()).unwrap()
    }

    #[test]
    fn the_default_rules_are_rules() {
        assert_eq!(default_rules().len(), DEFAULT_RULES.split(SEPARATOR).count());
    }

    #[test]
    fn no_secret_reaches_debug() {
        let secret = "postgres://me:hunter2@host/x";
        let args = args(&["--store-url", secret, "--bus-url", secret, "--ttl-url", secret]);
        let shown = format!("{args:?} {:#?} {:?}", args.store, args.ttl_url());
        assert!(shown.contains("me:***@host") && !shown.contains("hunter2"), "{shown}");
    }
}
