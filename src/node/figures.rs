//! What a node tells of itself to the others, by keys that expire, and what it knows of all: whichever node is asked
//! answers for the cluster.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde::{Deserialize, Serialize};

use super::Node;
use crate::event::Position;
use crate::event::frame::rfc3339;

/// How often a node tells its figures.
pub const TELL_EVERY: Duration = Duration::from_secs(2);
/// How long what it told is kept: a node that was killed is gone after this.
const LIFETIME: Duration = Duration::from_secs(10);
/// The most nodes that are told of.
const MAX_NODES: usize = 256;
/// How long what is known of all is not asked for again: many may watch.
const KNOWN_FOR: Duration = Duration::from_secs(1);
/// The set of the nodes' names.
const NODES: &str = "nodes";

/// How one node is. Told as JSON; what another version does not tell is as by default.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Figures {
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
    /// When it told this.
    pub told_at: String,
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
    /// Whether it reached the store.
    pub store_ok: bool,
    /// Whether it was told to stop.
    pub draining: bool,
    /// Why it should get no new listeners; empty if it may.
    pub reasons: Vec<String>,
    /// Its resident memory, in bytes, if the system says.
    pub memory_bytes: Option<u64>,
}

/// All nodes, as one of them knows.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Cluster {
    /// When.
    pub at: String,
    /// The name of the node that says so.
    pub told_by: String,
    /// By host, address and name.
    pub nodes: Vec<Figures>,
    /// Whether these are all; otherwise others may be there that could not be asked about.
    pub complete: bool,
}

/// What a node keeps to tell of itself.
#[derive(Default)]
pub(super) struct Teller {
    address: OnceLock<String>,
    lag: AtomicI64,
    /// Milliseconds since the node began, when it fell behind; 0: it is not behind.
    behind_since: AtomicU64,
    rates: Mutex<Rates>,
    /// Whether it has departed, and tells nothing more.
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

impl Teller {
    /// How far behind the node's listeners are, `now` milliseconds after it began.
    pub(super) fn set_lag(&self, lag: Position, now: u64) {
        self.lag.store(lag, Ordering::Relaxed);
        if lag <= 0 {
            self.behind_since.store(0, Ordering::Relaxed);
        } else {
            // Only if it was not behind already.
            let _ = self.behind_since.compare_exchange(0, now.max(1), Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    fn rates(&self) -> std::sync::MutexGuard<'_, Rates> {
        self.rates.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Node {
    /// Says where this node listens, for the others to know.
    pub fn set_address(&self, address: impl ToString) {
        self.teller.address.get_or_init(|| address.to_string());
    }

    /// How this node is.
    pub fn figures(&self) -> Figures {
        let (now, age) = (self.clock.now(), self.began.elapsed());
        let behind_since = self.teller.behind_since.load(Ordering::Relaxed);
        let behind = (behind_since > 0).then(|| age.saturating_sub(Duration::from_millis(behind_since)));
        let rates = *self.teller.rates();
        Figures {
            name: self.name.clone(),
            host: host(),
            address: self.teller.address.get().cloned().unwrap_or_default(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started_at: rfc3339(now - i64::try_from(age.as_millis()).unwrap_or(0)),
            told_at: rfc3339(now),
            listeners: self.hub.len(),
            published_per_second: rates.published_per_second,
            delivered_per_second: rates.delivered_per_second,
            lag: self.teller.lag.load(Ordering::Relaxed).max(0),
            lag_seconds: behind.map_or(0.0, |behind| (behind.as_secs_f64() * 10.0).round() / 10.0),
            bus_ok: self.is_bus_ok(),
            store_ok: self.is_store_ok(),
            draining: self.is_draining(),
            reasons: self.unready().into_iter().map(str::to_owned).collect(),
            memory_bytes: resident_memory(),
        }
    }

    /// How all nodes are. Of this one it tells in any case.
    pub async fn cluster(&self) -> Arc<Cluster> {
        let mut known = self.teller.known.lock().await;
        if let Some((at, cluster)) = &*known
            && at.elapsed() < KNOWN_FOR
        {
            return cluster.clone();
        }
        let others = self.others().await;
        let complete = others.is_some();
        let mut nodes = others.unwrap_or_default();
        nodes.push(self.figures());
        nodes.sort_by(|a, b| (&a.host, &a.address, &a.name).cmp(&(&b.host, &b.address, &b.name)));
        let at = rfc3339(self.clock.now());
        let cluster = Arc::new(Cluster { at, told_by: self.name.clone(), nodes, complete });
        *known = Some((Instant::now(), cluster.clone()));
        cluster
    }

    /// The other nodes; `None` if they are not all known.
    async fn others(&self) -> Option<Vec<Figures>> {
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
        let found: Option<Vec<Option<Figures>>> = found.into_iter().map(|got| read(got.ok()?)).collect();
        Some(found?.into_iter().flatten().collect())
    }

    /// Tells the others how this node is.
    pub(super) async fn tell_figures(&self) {
        let departed = self.teller.departed.lock().await;
        if *departed {
            return;
        }
        self.teller.rates().advance(Instant::now(), self.publisher.published(), self.streams.delivered());
        let figures = serde_json::to_vec(&self.figures()).unwrap_or_default();
        let told = async {
            self.ttl.put(&key(&self.name), &figures, LIFETIME).await?;
            self.ttl.enter(NODES, std::slice::from_ref(&self.name), LIFETIME).await
        };
        if let Err(error) = told.await {
            tracing::debug!(%error, "other nodes are not told of this one");
        }
    }

    /// Leaves the cluster: the others need not wait until what was told of this node ends by itself.
    pub(super) async fn depart(&self) {
        *self.teller.departed.lock().await = true;
        let left = async {
            self.ttl.leave(NODES, std::slice::from_ref(&self.name)).await?;
            self.ttl.remove(&key(&self.name)).await
        };
        if let Err(error) = left.await {
            tracing::debug!(%error, "other nodes will see for some seconds more what was told of this one");
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
    fn how_long_it_lags_is_counted_from_when_it_fell_behind() {
        let teller = Teller::default();
        for (lag, now, since) in [(0, 5, 0), (3, 10, 10), (9, 20, 10), (0, 30, 0), (1, 40, 40)] {
            teller.set_lag(lag, now);
            assert_eq!(teller.behind_since.load(Ordering::Relaxed), since, "at {now}");
        }
    }

    #[test]
    fn what_another_version_tells_can_be_read() {
        let read: Figures = serde_json::from_str(r#"{"name": "a", "listeners": 3, "new": {}}"#).unwrap();
        assert_eq!(read, Figures { name: "a".into(), listeners: 3, ..Figures::default() });
    }
}
