//! Keys that expire: the session cache, rate limits, presence and the liveness of events.
//!
//! # Contract
//! - Nothing here is the truth. A key may vanish early (a restart, an eviction); it is never given back later
//!   than its time. Every caller has an answer for "not there" and for an error.
//! - Keys and values are text and bytes of ours; the backend puts its own prefix before keys.
//! - `expirations` reports keys under a prefix that ended by their time, late or not at all: for liveliness only.
//! - A set's members each have their own time: entering again begins a new one, and what has ended is no member.
//!   A set holds `max_members`; when more enter, those that end first leave. Sets have no expirations.
//! - A table's fields end together: each write and each renewal gives all of them one new lifetime. A table counts its
//!   writes since it began, so that its only writer learns when something of it was lost. A failed write may
//!   have been made in part. Tables have no expirations.
//! - `take` is a rate limit by the generic cell rate algorithm: `burst` at once, then one each `every`.
//!
//! Chosen by URL: `memory:`, or one of [`crate::redis`]: `redis://…`, `redis+sentinel://…`,
//! `redis+cluster://…`. One conformance suite (`tests/ttl_conformance/`) runs against all.

mod memory;
mod memory_sets;
mod memory_tables;
mod redis;

use std::fmt;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::event::Millis;
use crate::redis::{OutageReport, PoolLimits, is_redis};

/// The longest lifetime counted with: what is added to a clock must stay within its range.
const LONGEST: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// A field of a table, and its new value; without one, the field is removed. No field's name is empty.
pub type TableChange = (String, Option<Vec<u8>>);

/// Bounds on what expiring keys may cost.
#[derive(Debug, Clone)]
pub struct TtlLimits {
    /// The most keys held in process (the memory backend only); the least used leave first. As many members are
    /// held of all sets together, and as many fields of all tables: more fields are not taken.
    pub max_keys: u64,
    /// The most members of a set.
    pub max_members: usize,
    /// How long a call may take, waiting for a connection included. A server that takes longer counts as down.
    pub deadline: Duration,
    /// The most connections for calls, to each server (Redis only). More calls at once wait for one of them.
    pub pool_size: usize,
    /// How long a call waits for a connection; at most `deadline`. Calls that wait in vain fail and are counted.
    pub pool_wait: Duration,
    /// How long a connection may take to answer a PING before each call; one that takes longer is closed.
    pub pool_recycle: Duration,
    /// How many expirations may wait for their reader; more are dropped and counted.
    pub queue: usize,
}

impl Default for TtlLimits {
    fn default() -> Self {
        Self {
            max_keys: 200_000,
            max_members: 100_000,
            deadline: Duration::from_millis(500),
            pool_size: 16,
            pool_wait: Duration::from_millis(250),
            pool_recycle: Duration::from_millis(250),
            queue: 10_000,
        }
    }
}

impl TtlLimits {
    fn pool(&self) -> PoolLimits {
        PoolLimits { size: self.pool_size, wait: self.pool_wait, recycle: self.pool_recycle }
    }
}

/// Why a call failed: the keys cannot be reached now.
#[derive(Debug, Clone, thiserror::Error)]
#[error("expiring keys are not available: {0}")]
pub struct TtlError(pub String);

/// The answer to [`Ttl::take`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RateDecision {
    /// Within the limit.
    Allowed,
    /// Over it; allowed again after this time.
    RetryAfter(Duration),
}

/// Keys that expire; see the module's contract. Cheap to clone.
#[derive(Clone)]
pub struct Ttl(Backend);

#[derive(Clone)]
enum Backend {
    Memory(memory::MemoryTtl),
    Redis(redis::RedisTtl),
}

/// Passes a call on to whichever backend there is.
macro_rules! forward {
    ($self:ident.$verb:ident($($argument:expr),*)) => {
        match &$self.0 {
            Backend::Memory(ttl) => Ok(ttl.$verb($($argument),*)),
            Backend::Redis(ttl) => ttl.$verb($($argument),*).await,
        }
    };
}

impl Ttl {
    /// Uses the keys at `url`. An unusable URL is an error at once, an unreachable server is not.
    pub fn open(url: &str, limits: &TtlLimits) -> Result<Self, TtlError> {
        match url.split_once(':').map(|(scheme, _)| scheme) {
            Some("memory") => Ok(Self(Backend::Memory(memory::MemoryTtl::open(limits)))),
            _ if is_redis(url) => Ok(Self(Backend::Redis(redis::RedisTtl::open(url, limits)?))),
            _ => Err(TtlError(
                "the URL must begin with memory:, redis://, redis+sentinel:// or redis+cluster://".into(),
            )),
        }
    }

    /// The outage of the server behind the keys that lasts, if any. Keys in this process have none.
    pub fn outage(&self) -> Option<OutageReport> {
        match &self.0 {
            Backend::Memory(_) => None,
            Backend::Redis(ttl) => ttl.outage(),
        }
    }

    /// Sets a key for `lifetime`, replacing what was there.
    pub async fn put(&self, key: &str, value: &[u8], lifetime: Duration) -> Result<(), TtlError> {
        forward!(self.put(key, value, lifetime))
    }

    /// Sets many keys (key, value, time at which each ends): one round trip (to each server). Times already past set nothing.
    pub async fn put_until(&self, keys: &[(String, Vec<u8>, Millis)]) -> Result<(), TtlError> {
        forward!(self.put_until(keys))
    }

    /// A key's value, if it has not ended.
    pub async fn get(&self, key: &str) -> Result<Option<Vec<u8>>, TtlError> {
        forward!(self.get(key))
    }

    /// Ends a key now. This is not reported as an expiration.
    pub async fn remove(&self, key: &str) -> Result<(), TtlError> {
        forward!(self.remove(key))
    }

    /// Takes one from the rate limit `key`: `burst` (at least 1) at once, then one each `every`.
    pub async fn take(&self, key: &str, burst: u32, every: Duration) -> Result<RateDecision, TtlError> {
        forward!(self.take(key, burst, every))
    }

    /// Makes `members` members of a set for `lifetime` from now, or for that long again. One round trip for each
    /// thousand. Sets and keys of the same name do not meet.
    pub async fn enter(&self, set: &str, members: &[String], lifetime: Duration) -> Result<(), TtlError> {
        forward!(self.enter(set, members, lifetime))
    }

    /// Ends the membership of those of `members` that are members of a set. One round trip for each thousand.
    pub async fn leave(&self, set: &str, members: &[String]) -> Result<(), TtlError> {
        forward!(self.leave(set, members))
    }

    /// The members of a set that have not ended: at most `limit`, those that end last first.
    pub async fn members(&self, set: &str, limit: usize) -> Result<Vec<String>, TtlError> {
        forward!(self.members(set, limit))
    }

    /// Changes fields of a table, which then lives for `lifetime` (no lifetime: it ends). `writes` is how many writes the
    /// table has had, as the last one said; 0 begins it anew. Gives how many it has now, or `None` if there were others
    /// or the table was lost meanwhile: then it is incomplete, and must be begun anew with all its fields. One round
    /// trip for each thousand fields or megabyte, each a write.
    pub async fn write_table(
        &self,
        table: &str,
        changes: &[TableChange],
        writes: u64,
        lifetime: Duration,
    ) -> Result<Option<u64>, TtlError> {
        forward!(self.write_table(table, changes, writes, lifetime))
    }

    /// Gives a table a new lifetime, and says how many writes it has had; 0 if it is not there.
    pub async fn renew_table(&self, table: &str, lifetime: Duration) -> Result<u64, TtlError> {
        forward!(self.renew_table(table, lifetime))
    }

    /// The values of these fields in each of these tables, in the orders given. One round trip (to each server).
    pub async fn read_tables(
        &self,
        tables: &[String],
        fields: &[String],
    ) -> Result<Vec<Vec<Option<Vec<u8>>>>, TtlError> {
        forward!(self.read_tables(tables, fields))
    }

    /// The keys under `prefix` (given without it) that end by their time, from now on.
    pub fn expirations(&self, prefix: &str) -> mpsc::Receiver<String> {
        match &self.0 {
            Backend::Memory(ttl) => ttl.expirations(prefix),
            Backend::Redis(ttl) => ttl.expirations(prefix),
        }
    }
}

impl fmt::Debug for Ttl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Backend::Memory(_) => "Ttl(memory)",
            Backend::Redis(_) => "Ttl(redis)",
        })
    }
}
