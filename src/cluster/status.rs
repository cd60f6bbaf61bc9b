//! The status of a node, which the others learn from a key that expires, and that of all nodes: any node that is asked
//! answers for the cluster.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde::{Deserialize, Serialize};

use super::{Readiness, ServerError};
use crate::delivery::Progress;
use crate::delivery::hub::Hub;
use crate::delivery::stream::Streams;
use crate::event::{Position, rfc3339};
use crate::publishing::Publisher;
use crate::store::clock::Clock;
use crate::ttl::Ttl;

/// How often a node announces its status.
pub const ANNOUNCE_EVERY: Duration = Duration::from_secs(2);
/// How long an announced status is kept: a node that was killed is gone after this.
const LIFETIME: Duration = Duration::from_secs(10);
/// The most nodes that are listed.
const MAX_NODES: usize = 256;
/// How long the status of all nodes is not asked for again: many may watch.
const KNOWN_FOR: Duration = Duration::from_secs(1);
/// The set of the nodes' names.
const NODES: &str = "nodes";

/// The status of one node, as JSON; what another version leaves out is as by default.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeStatus {
    /// Drawn anew at each start.
    pub name: String,
    /// The machine.
    pub host: String,
    /// Where it listens.
    pub address: String,
    /// The program's version.
    pub version: String,
    /// When it was started.
    pub started_at: String,
    /// When it reported this.
    pub reported_at: String,
    /// Streams open there.
    pub listeners: usize,
    /// Events committed there, a second.
    pub published_per_second: f64,
    /// Events handed to streams there, a second.
    pub delivered_per_second: f64,
    /// How many positions its listeners are behind the log's head.
    pub lag: Position,
    /// For how long they have been behind without a break, in seconds.
    pub lag_seconds: f64,
    /// Whether the bus brings back its heartbeat.
    pub bus_ok: bool,
    /// The last error of the server behind its bus, while there is an outage.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bus_error: Option<String>,
    /// When that outage began.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bus_error_since: Option<String>,
    /// The last error of the server behind its expiring keys, while there is an outage.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl_error: Option<String>,
    /// When that outage began.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl_error_since: Option<String>,
    /// Whether it reached the store.
    pub store_ok: bool,
    /// Whether it was asked to stop.
    pub draining: bool,
    /// Why it should get no new listeners; empty if it may.
    pub reasons: Vec<String>,
    /// Its resident memory, in bytes, if the system says.
    pub memory_bytes: Option<u64>,
}

/// All nodes, as one of them knows.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Cluster {
    /// When they were asked.
    pub at: String,
    /// The name of the node that was asked.
    pub reported_by: String,
    /// By host, address and name.
    pub nodes: Vec<NodeStatus>,
    /// Whether these are all; otherwise others may be there that could not be asked about.
    pub complete: bool,
}

/// This node's status and that of all, as this node knows it.
pub struct Status {
    name: String,
    address: OnceLock<String>,
    progress: Arc<Progress>,
    readiness: Arc<Readiness>,
    hub: Arc<Hub>,
    publisher: Publisher,
    streams: Arc<Streams>,
    ttl: Ttl,
    rates: Mutex<Rates>,
    /// Whether it has departed, and announces nothing more.
    departed: tokio::sync::Mutex<bool>,
    known: tokio::sync::Mutex<Option<(Instant, Arc<Cluster>)>>,
}

/// Two counters as they were, and how fast they rose before.
#[derive(Debug, Clone, Copy, Default)]
struct Rates {
    at: Option<Instant>,
    published: u64,
    delivered: u64,
    published_per_second: f64,
    delivered_per_second: f64,
}

impl Rates {
    fn advance(&mut self, now: Instant, published: u64, delivered: u64) {
        if let Some(seconds) = self.at.map(|at| now.duration_since(at).as_secs_f64()).filter(|s| *s > 0.0) {
            let rate = |from: u64, to: u64| (to.saturating_sub(from) as f64 / seconds * 10.0).round() / 10.0;
            self.published_per_second = rate(self.published, published);
            self.delivered_per_second = rate(self.delivered, delivered);
        }
        (self.at, self.published, self.delivered) = (Some(now), published, delivered);
    }
}

impl Status {
    /// The status of the node `name`, read from these parts of it.
    pub fn new(
        name: String,
        progress: Arc<Progress>,
        readiness: Arc<Readiness>,
        hub: Arc<Hub>,
        publisher: Publisher,
        streams: Arc<Streams>,
        ttl: Ttl,
    ) -> Self {
        Self {
            name,
            address: OnceLock::new(),
            progress,
            readiness,
            hub,
            publisher,
            streams,
            ttl,
            rates: Mutex::default(),
            departed: tokio::sync::Mutex::default(),
            known: tokio::sync::Mutex::default(),
        }
    }

    fn rates(&self) -> std::sync::MutexGuard<'_, Rates> {
        self.rates.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes where this node listens, for the others to know.
    pub fn set_address(&self, address: impl ToString) {
        self.address.get_or_init(|| address.to_string());
    }

    /// The database's time, as this node knows it.
    pub fn clock(&self) -> &Clock {
        &self.progress.clock
    }

    /// The status of this node.
    pub fn own(&self) -> NodeStatus {
        let (now, age) = (self.progress.clock.now(), self.progress.age());
        let rates = *self.rates();
        let split = |error: Option<ServerError>| error.map(|e| (e.error, e.since)).unzip();
        let (bus_error, bus_error_since) = split(self.readiness.bus_error());
        let (ttl_error, ttl_error_since) = split(self.readiness.ttl_error());
        NodeStatus {
            name: self.name.clone(),
            host: host(),
            address: self.address.get().cloned().unwrap_or_default(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started_at: rfc3339(now - i64::try_from(age.as_millis()).unwrap_or(0)),
            reported_at: rfc3339(now),
            listeners: self.hub.len(),
            published_per_second: rates.published_per_second,
            delivered_per_second: rates.delivered_per_second,
            lag: self.progress.lag(),
            lag_seconds: (self.progress.behind_for().as_secs_f64() * 10.0).round() / 10.0,
            bus_ok: self.readiness.is_bus_ok(),
            bus_error,
            bus_error_since,
            ttl_error,
            ttl_error_since,
            store_ok: self.readiness.is_store_ok(),
            draining: self.readiness.is_draining(),
            reasons: self.readiness.unready().into_iter().map(str::to_owned).collect(),
            memory_bytes: resident_memory(),
        }
    }

    /// The status of all nodes; this one is always among them.
    pub async fn all(&self) -> Arc<Cluster> {
        let mut known = self.known.lock().await;
        if let Some((at, cluster)) = &*known
            && at.elapsed() < KNOWN_FOR
        {
            return cluster.clone();
        }
        let others = self.others().await;
        let complete = others.is_some();
        let mut nodes = others.unwrap_or_default();
        nodes.push(self.own());
        nodes.sort_by(|a, b| (&a.host, &a.address, &a.name).cmp(&(&b.host, &b.address, &b.name)));
        let at = rfc3339(self.progress.clock.now());
        let cluster = Arc::new(Cluster { at, reported_by: self.name.clone(), nodes, complete });
        *known = Some((Instant::now(), cluster.clone()));
        cluster
    }

    /// The other nodes; `None` if they are not all known.
    async fn others(&self) -> Option<Vec<NodeStatus>> {
        let names = self.ttl.members(NODES, MAX_NODES).await.ok()?;
        if names.len() >= MAX_NODES {
            return None;
        }
        let keys: Vec<String> = names.iter().filter(|name| **name != self.name).map(|n| key(n)).collect();
        let found = join_all(keys.iter().map(|key| self.ttl.get(key))).await;
        let read = |bytes: Option<Vec<u8>>| match bytes {
            Some(bytes) => serde_json::from_slice(&bytes).ok().map(Some),
            // It has just gone.
            None => Some(None),
        };
        let found: Option<Vec<Option<NodeStatus>>> = found.into_iter().map(|got| read(got.ok()?)).collect();
        Some(found?.into_iter().flatten().collect())
    }

    /// Announces this node's status to the others. Every [`ANNOUNCE_EVERY`].
    pub async fn announce(&self) {
        let departed = self.departed.lock().await;
        if *departed {
            return;
        }
        self.rates().advance(Instant::now(), self.publisher.published(), self.streams.delivered());
        let status = serde_json::to_vec(&self.own()).unwrap_or_default();
        let announced = async {
            self.ttl.put(&key(&self.name), &status, LIFETIME).await?;
            self.ttl.enter(NODES, std::slice::from_ref(&self.name), LIFETIME).await
        };
        if let Err(error) = announced.await {
            tracing::debug!(%error, "the status of this node could not be announced");
        }
    }

    /// Leaves the cluster: the others need not wait until this node's status expires.
    pub async fn depart(&self) {
        *self.departed.lock().await = true;
        let left = async {
            self.ttl.leave(NODES, std::slice::from_ref(&self.name)).await?;
            self.ttl.remove(&key(&self.name)).await
        };
        if let Err(error) = left.await {
            tracing::debug!(%error, "other nodes will list this one for some seconds more");
        }
    }
}

fn key(name: &str) -> String {
    format!("node:{name}")
}

/// What the system calls the machine; empty if it does not say.
fn host() -> String {
    static HOST: OnceLock<String> = OnceLock::new();
    let read = || std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned();
    HOST.get_or_init(read).clone()
}

/// This process's resident memory in bytes, where there is a `/proc`.
fn resident_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_of_the_time_between() {
        let (mut rates, begun) = (Rates::default(), Instant::now());
        rates.advance(begun, 1_000, 5_000);
        assert_eq!((rates.published_per_second, rates.delivered_per_second), (0.0, 0.0));
        rates.advance(begun + Duration::from_secs(2), 1_025, 5_000);
        assert_eq!((rates.published_per_second, rates.delivered_per_second), (12.5, 0.0));
        rates.advance(begun + Duration::from_secs(4), 1_025, 5_001);
        assert_eq!((rates.published_per_second, rates.delivered_per_second), (0.0, 0.5));
    }

    #[test]
    fn what_another_version_reports_can_be_read() {
        let read: NodeStatus = serde_json::from_str(r#"{"name": "a", "listeners": 3, "new": {}}"#).unwrap();
        assert_eq!(read, NodeStatus { name: "a".into(), listeners: 3, ..NodeStatus::default() });
    }
}
