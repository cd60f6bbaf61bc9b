//! Expiring keys in process, for a node of its own.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use moka::Expiry;
use moka::notification::RemovalCause;
use moka::ops::compute::Op;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio::time::MissedTickBehavior;

use super::memory_sets::Sets;
use super::memory_tables::Tables;
use super::{RateDecision, TableChange, TtlLimits};
use crate::event::Millis;

/// The cache notices ended keys only when it is used or asked. It rounds up to about a second of its own, so
/// asking more often than this would find nothing sooner.
const SWEEP_EVERY: Duration = Duration::from_millis(250);

/// The keys, the rate limits, the sets and the tables apart, so that none can push another out. Clones share them.
#[derive(Clone)]
pub struct MemoryTtl {
    keys: Cache<String, Timed<Arc<[u8]>>>,
    /// For each rate limit, when it is back to its full burst, counted from `began`.
    limits: Cache<String, Timed<Duration>>,
    sets: Arc<Mutex<Sets>>,
    tables: Arc<Mutex<Tables>>,
    began: Instant,
    watchers: Watchers,
    queue: usize,
}

type Watchers = Arc<Mutex<Vec<Watcher>>>;

/// Who gets the expirations under a prefix.
struct Watcher {
    prefix: String,
    sender: mpsc::Sender<String>,
}

impl MemoryTtl {
    pub fn open(limits: &TtlLimits) -> Self {
        let watchers = Watchers::default();
        let notified = watchers.clone();
        // Least recently used, not moka's own policy: that one may refuse a new key to a full cache, and a
        // session that has just begun must not be the one to go.
        let keys = Cache::builder()
            .max_capacity(limits.max_keys)
            .eviction_policy(EvictionPolicy::lru())
            .expire_after(ByItsOwnTime)
            .eviction_listener(move |key: Arc<String>, _, cause| {
                if cause == RemovalCause::Expired {
                    notify(&notified, &key);
                }
            })
            .build();
        let limits_cache = Cache::builder()
            .max_capacity(limits.max_keys)
            .eviction_policy(EvictionPolicy::lru())
            .expire_after(ByItsOwnTime)
            .build();
        let max_keys = usize::try_from(limits.max_keys).unwrap_or(usize::MAX);
        Self {
            keys,
            limits: limits_cache,
            sets: Arc::new(Mutex::new(Sets::new(limits.max_members, max_keys))),
            tables: Arc::new(Mutex::new(Tables::new(max_keys))),
            began: Instant::now(),
            watchers,
            queue: limits.queue.max(1),
        }
    }

    pub fn put(&self, key: &str, value: &[u8], lifetime: Duration) {
        if lifetime.is_zero() {
            self.keys.invalidate(key);
        } else {
            self.keys.insert(key.to_owned(), Timed { value: value.into(), lifetime });
        }
    }

    pub fn put_until(&self, keys: &[(String, Vec<u8>, Millis)]) {
        // The clock is read at its full precision: whole milliseconds would let a key outlive its time.
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        for (key, value, until) in keys {
            let until = Duration::from_millis(u64::try_from(*until).unwrap_or(0));
            self.put(key, value, until.saturating_sub(now));
        }
    }

    pub fn get(&self, key: &str) -> Option<Vec<u8>> {
        self.keys.get(key).map(|entry| entry.value.to_vec())
    }

    pub fn remove(&self, key: &str) {
        self.keys.invalidate(key);
    }

    /// The generic cell rate algorithm, one caller at a time for each key.
    pub fn take(&self, key: &str, burst: u32, every: Duration) -> RateDecision {
        let tolerance = every.saturating_mul(burst.max(1) - 1);
        let mut decision = RateDecision::Allowed;
        self.limits.entry(key.to_owned()).and_compute_with(|entry| {
            let now = self.began.elapsed();
            let full_at = entry.map_or(now, |entry| entry.into_value().value.max(now));
            let wait = (full_at - now).saturating_sub(tolerance);
            if !wait.is_zero() {
                decision = RateDecision::RetryAfter(wait);
                return Op::Nop;
            }
            let full_at = full_at.saturating_add(every);
            Op::Put(Timed { value: full_at, lifetime: full_at - now })
        });
        decision
    }

    pub fn enter(&self, set: &str, members: &[String], lifetime: Duration) {
        self.sets().enter(Instant::now(), set, members, lifetime);
    }

    pub fn leave(&self, set: &str, members: &[String]) {
        self.sets().leave(set, members);
    }

    pub fn members(&self, set: &str, limit: usize) -> Vec<String> {
        self.sets().members(Instant::now(), set, limit)
    }

    fn sets(&self) -> MutexGuard<'_, Sets> {
        self.sets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn write_table(
        &self,
        table: &str,
        changes: &[TableChange],
        writes: u64,
        lifetime: Duration,
    ) -> Option<u64> {
        self.tables().write(Instant::now(), table, changes, writes, lifetime)
    }

    pub fn renew_table(&self, table: &str, lifetime: Duration) -> u64 {
        self.tables().renew(Instant::now(), table, lifetime)
    }

    pub fn read_tables(&self, tables: &[String], fields: &[String]) -> Vec<Vec<Option<Vec<u8>>>> {
        self.tables().read(Instant::now(), tables, fields)
    }

    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Needs a Tokio runtime, for the task that looks for ended keys as long as the receiver lives.
    pub fn expirations(&self, prefix: &str) -> mpsc::Receiver<String> {
        let (sender, expirations) = mpsc::channel(self.queue);
        let watcher = Watcher { prefix: prefix.to_owned(), sender: sender.clone() };
        self.watchers.lock().unwrap_or_else(PoisonError::into_inner).push(watcher);
        tokio::spawn(sweep(self.keys.clone(), self.watchers.clone(), sender));
        expirations
    }
}

fn notify(watchers: &Watchers, key: &str) {
    for watcher in watchers.lock().unwrap_or_else(PoisonError::into_inner).iter() {
        if let Some(rest) = key.strip_prefix(&watcher.prefix)
            && let Err(TrySendError::Full(_)) = watcher.sender.try_send(rest.to_owned())
        {
            metrics::counter!("carillon_ttl_expirations_dropped_total").increment(1);
        }
    }
}

/// Makes the cache notice ended keys until the receiver of `sender` is gone.
async fn sweep(keys: Cache<String, Timed<Arc<[u8]>>>, watchers: Watchers, sender: mpsc::Sender<String>) {
    let mut ticks = tokio::time::interval(SWEEP_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = sender.closed() => break,
            _ = ticks.tick() => {}
        }
        // Very many keys may end together, and no connection may wait for that.
        let keys = keys.clone();
        if tokio::task::spawn_blocking(move || keys.run_pending_tasks()).await.is_err() {
            tracing::error!("looking for expired keys failed");
        }
    }
    watchers
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .retain(|watcher| !watcher.sender.same_channel(&sender));
}

/// A value with the lifetime it was put with.
#[derive(Clone)]
struct Timed<V> {
    value: V,
    lifetime: Duration,
}

/// Every value brings its lifetime, and a new one begins a new life.
struct ByItsOwnTime;

impl<V> Expiry<String, Timed<V>> for ByItsOwnTime {
    fn expire_after_create(&self, _: &String, entry: &Timed<V>, _: Instant) -> Option<Duration> {
        Some(entry.lifetime)
    }

    fn expire_after_update(
        &self,
        _: &String,
        entry: &Timed<V>,
        _: Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        Some(entry.lifetime)
    }
}
