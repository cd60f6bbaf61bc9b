//! Expiring keys in Redis, shared by every node: in one server, behind Sentinel, or in a Redis Cluster, where each
//! key is on its slot's master and each master announces its own expirations.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use ::redis::aio::MultiplexedConnection;
use ::redis::{Cmd, Pipeline, PushInfo, PushKind, RedisResult, Script, Value};
use futures_util::future::{join_all, try_join_all};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio::time::{sleep, timeout};

use super::{LONGEST, RateDecision, TableChange, TtlError, TtlLimits};
use crate::event::Millis;
use crate::redis::{Backoff, Failure, Listening, OutageReport, Pools, RedisServers, Timing};

/// Before every key in Redis, behind the namespace.
const KEY_PREFIX: &str = "ttl:";
/// Before every rate limit. Another one than for keys, so that neither meets the other.
const LIMIT_PREFIX: &str = "limit:";
/// Before every set, for the same reason.
const SET_PREFIX: &str = "set:";
/// Before every table.
const TABLE_PREFIX: &str = "table:";
/// The field in which a table counts its writes.
const WRITES: &str = "";
/// The most keys set in one pipeline, and members in one call: what Redis and this process must hold at once for it.
const PIPELINE: usize = 1000;
/// The most bytes of a table written in one pipeline; one field always fits.
const PIPELINE_BYTES: usize = 1 << 20;
/// The longest wait after a failed connect.
const LONGEST_BACKOFF: Duration = Duration::from_secs(1);
/// How often the servers are checked with a PING (a frozen one never closes a connection) and the topology is queried.
const PING_EVERY: Duration = Duration::from_secs(1);

/// The generic cell rate algorithm by the server's own clock. The key holds when the limit is back to its full
/// burst, in microseconds, and ends at that time. Answers how long to wait; 0 took one.
static TAKE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
        local burst = tonumber(ARGV[1])
        local every = tonumber(ARGV[2])
        local time = redis.call('TIME')
        local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
        local full_at = math.max(tonumber(redis.call('GET', KEYS[1]) or now), now)
        local wait = full_at - now - every * (burst - 1)
        if wait > 0 then
            return wait
        end
        full_at = full_at + every
        local lifetime = string.format('%.0f', math.ceil((full_at - now) / 1000))
        redis.call('SET', KEYS[1], string.format('%.0f', full_at), 'PX', lifetime)
        return 0
        ",
    )
});

/// Makes members (from the third argument on) end a lifetime (the first, in ms) from now by the server's own clock:
/// one sorted set, scored by when they end. The second argument is how many it holds. It ends with its last member.
static ENTER: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
        local time = redis.call('TIME')
        local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
        local ends = string.format('%.0f', now + tonumber(ARGV[1]))
        redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now))
        for index = 3, #ARGV do
            redis.call('ZADD', KEYS[1], ends, ARGV[index])
        end
        redis.call('ZREMRANGEBYRANK', KEYS[1], 0, -1 - tonumber(ARGV[2]))
        local last = redis.call('ZRANGE', KEYS[1], -1, -1, 'WITHSCORES')
        if last[2] then
            redis.call('PEXPIREAT', KEYS[1], string.format('%.0f', tonumber(last[2])))
        end
        return 0
        ",
    )
});

/// The members of a set that have not ended, by the server's own clock: at most as many as the argument says.
static MEMBERS: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
        local time = redis.call('TIME')
        local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
        local after = string.format('(%.0f', now)
        return redis.call('ZRANGE', KEYS[1], '+inf', after, 'BYSCORE', 'REV', 'LIMIT', 0, ARGV[1])
        ",
    )
});

/// Lazily created pools of connections, shared by all clones.
#[derive(Clone)]
pub struct RedisTtl {
    servers: RedisServers,
    pools: Pools,
    queue: usize,
    max_members: usize,
}

impl From<Failure> for TtlError {
    fn from(failure: Failure) -> Self {
        Self(failure.0)
    }
}

impl RedisTtl {
    pub fn open(url: &str, limits: &TtlLimits) -> Result<Self, TtlError> {
        let timing = Timing { deadline: limits.deadline, every: PING_EVERY, max_backoff: LONGEST_BACKOFF };
        let servers = RedisServers::from_url(url, timing, "expiring keys")
            .map_err(|failure| TtlError(format!("the Redis URL: {failure}")))?;
        let (queue, max_members) = (limits.queue.max(1), limits.max_members);
        Ok(Self { pools: Pools::new(servers.clone(), limits.pool()), servers, queue, max_members })
    }

    pub fn outage(&self) -> Option<OutageReport> {
        self.servers.outage().report()
    }

    pub async fn put(&self, key: &str, value: &[u8], lifetime: Duration) -> Result<(), TtlError> {
        let lifetime = lifetime.min(LONGEST).as_millis() as u64;
        if lifetime == 0 {
            return self.remove(key).await;
        }
        let key = self.key(key);
        let mut set = Cmd::new();
        set.arg("SET").arg(&key).arg(value).arg("PX").arg(lifetime);
        Ok(self.pools.call(&key, async |connection| set.exec_async(connection).await).await?)
    }

    pub async fn put_until(&self, keys: &[(String, Vec<u8>, Millis)]) -> Result<(), TtlError> {
        if keys.is_empty() {
            return Ok(());
        }
        let topology = self.pools.topology().await?;
        let keys = keys.iter().map(|(key, value, until)| (self.key(key), value, *until));
        let parts = self.pools.by_master(&topology, keys, |(key, ..)| key)?;
        // All are tried: one server that is down does not cost the keys of others.
        let set = join_all(parts.into_iter().map(|(master, keys)| {
            self.pools.call_at(&topology, master, async move |connection| {
                for chunk in keys.chunks(PIPELINE) {
                    set_until(chunk).exec_async(connection).await?;
                }
                Ok(())
            })
        }));
        Ok(set.await.into_iter().collect::<Result<(), Failure>>()?)
    }

    pub async fn get(&self, key: &str) -> Result<Option<Vec<u8>>, TtlError> {
        let key = self.key(key);
        let mut get = Cmd::new();
        get.arg("GET").arg(&key);
        Ok(self.pools.call(&key, async |connection| get.query_async(connection).await).await?)
    }

    pub async fn remove(&self, key: &str) -> Result<(), TtlError> {
        let key = self.key(key);
        let mut remove = Cmd::new();
        remove.arg("DEL").arg(&key);
        Ok(self.pools.call(&key, async |connection| remove.exec_async(connection).await).await?)
    }

    pub async fn take(&self, key: &str, burst: u32, every: Duration) -> Result<RateDecision, TtlError> {
        let every = every.min(LONGEST).as_micros() as u64;
        if every == 0 {
            return Ok(RateDecision::Allowed);
        }
        let burst = u64::from(burst.max(1)).min(LONGEST.as_micros() as u64 / every).max(1);
        let key = self.servers.name(&format!("{LIMIT_PREFIX}{key}"));
        let mut take = TAKE.key(&key);
        take.arg(burst).arg(every);
        let wait: u64 = self.pools.call(&key, async |connection| take.invoke_async(connection).await).await?;
        Ok(if wait == 0 {
            RateDecision::Allowed
        } else {
            RateDecision::RetryAfter(Duration::from_micros(wait))
        })
    }

    pub async fn enter(&self, set: &str, members: &[String], lifetime: Duration) -> Result<(), TtlError> {
        let lifetime = lifetime.min(LONGEST).as_millis() as u64;
        if lifetime == 0 {
            return self.leave(set, members).await;
        }
        let set = self.set(set);
        for members in members.chunks(PIPELINE) {
            let mut enter = ENTER.key(&set);
            enter.arg(lifetime).arg(self.max_members).arg(members);
            self.pools.call(&set, async |connection| enter.invoke_async::<Value>(connection).await).await?;
        }
        Ok(())
    }

    pub async fn leave(&self, set: &str, members: &[String]) -> Result<(), TtlError> {
        let set = self.set(set);
        for members in members.chunks(PIPELINE) {
            let mut remove = Cmd::new();
            remove.arg("ZREM").arg(&set).arg(members);
            self.pools.call(&set, async |connection| remove.exec_async(connection).await).await?;
        }
        Ok(())
    }

    pub async fn members(&self, set: &str, limit: usize) -> Result<Vec<String>, TtlError> {
        if limit == 0 {
            return Ok(Vec::new());
        }
        let set = self.set(set);
        let mut members = MEMBERS.key(&set);
        members.arg(limit.min(self.max_members));
        Ok(self.pools.call(&set, async |connection| members.invoke_async(connection).await).await?)
    }

    pub async fn write_table(
        &self,
        table: &str,
        changes: &[TableChange],
        writes: u64,
        lifetime: Duration,
    ) -> Result<Option<u64>, TtlError> {
        let table = self.table(table);
        let lifetime = lifetime.min(LONGEST).as_millis() as u64;
        let (mut writes, mut rest) = (writes, changes);
        loop {
            let part;
            (part, rest) = rest.split_at(first_part(rest));
            let pipeline = write_table(&table, part, writes, lifetime);
            let (counted,): (u64,) =
                self.pools.call(&table, async |connection| pipeline.query_async(connection).await).await?;
            writes += 1;
            if counted != writes {
                return Ok(None);
            }
            if rest.is_empty() {
                return Ok(Some(writes));
            }
        }
    }

    pub async fn renew_table(&self, table: &str, lifetime: Duration) -> Result<u64, TtlError> {
        let table = self.table(table);
        let mut renew = Pipeline::with_capacity(2);
        renew.cmd("HGET").arg(&table).arg(WRITES);
        renew.cmd("PEXPIRE").arg(&table).arg(lifetime.min(LONGEST).as_millis() as u64).ignore();
        let (writes,): (Option<u64>,) =
            self.pools.call(&table, async |connection| renew.query_async(connection).await).await?;
        Ok(writes.unwrap_or(0))
    }

    pub async fn read_tables(
        &self,
        tables: &[String],
        fields: &[String],
    ) -> Result<Vec<Vec<Option<Vec<u8>>>>, TtlError> {
        let mut read = vec![vec![None; fields.len()]; tables.len()];
        if tables.is_empty() || fields.is_empty() {
            return Ok(read);
        }
        let topology = self.pools.topology().await?;
        let names = tables.iter().map(|table| self.table(table)).enumerate();
        let parts = self.pools.by_master(&topology, names, |(_, name)| name)?;
        let answers = try_join_all(parts.into_iter().map(async |(master, names)| {
            let mut pipeline = Pipeline::with_capacity(names.len());
            for (_, name) in &names {
                pipeline.cmd("HMGET").arg(name).arg(fields);
            }
            let query = async |connection: &mut MultiplexedConnection| pipeline.query_async(connection).await;
            let values: Vec<Vec<Option<Vec<u8>>>> = self.pools.call_at(&topology, master, query).await?;
            Ok::<_, Failure>(names.into_iter().map(|(index, _)| index).zip(values).collect::<Vec<_>>())
        }));
        answers.await?.into_iter().flatten().for_each(|(index, values)| read[index] = values);
        Ok(read)
    }

    /// A table's name in Redis.
    fn table(&self, table: &str) -> String {
        self.servers.name(&format!("{TABLE_PREFIX}{table}"))
    }

    /// A set's name in Redis.
    fn set(&self, set: &str) -> String {
        self.servers.name(&format!("{SET_PREFIX}{set}"))
    }

    /// A key's name in Redis.
    fn key(&self, key: &str) -> String {
        self.servers.name(&format!("{KEY_PREFIX}{key}"))
    }

    /// Needs a Tokio runtime, for the task that stays subscribed as long as the receiver lives.
    pub fn expirations(&self, prefix: &str) -> mpsc::Receiver<String> {
        let (sender, expirations) = mpsc::channel(self.queue);
        let subscriber = Subscriber {
            servers: self.servers.clone(),
            prefix: self.key(prefix).into_bytes().into(),
            sender,
            is_refusal_logged: false,
        };
        tokio::spawn(subscriber.run());
        expirations
    }
}

/// How many of these changes are written in one pipeline.
fn first_part(changes: &[TableChange]) -> usize {
    let mut bytes = 0;
    let fits = |(field, value): &&TableChange| {
        bytes += field.len() + value.as_ref().map_or(0, Vec::len);
        bytes <= PIPELINE_BYTES
    };
    changes.iter().take(PIPELINE).take_while(fits).count().max(1).min(changes.len())
}

/// Writes a table's fields and counts that, all or nothing: a table without a time would stay for ever.
fn write_table(table: &str, changes: &[TableChange], writes: u64, lifetime: u64) -> Pipeline {
    let mut pipeline = Pipeline::new();
    pipeline.atomic();
    if writes == 0 {
        pipeline.cmd("DEL").arg(table).ignore();
    }
    let gone: Vec<&str> =
        changes.iter().filter(|(_, value)| value.is_none()).map(|(name, _)| &**name).collect();
    if !gone.is_empty() {
        pipeline.cmd("HDEL").arg(table).arg(gone).ignore();
    }
    if changes.iter().any(|(_, value)| value.is_some()) {
        let set = pipeline.cmd("HSET").arg(table);
        for (field, value) in changes {
            if let Some(value) = value {
                set.arg(field).arg(&value[..]);
            }
        }
        set.ignore();
    }
    pipeline.cmd("HINCRBY").arg(table).arg(WRITES).arg(1);
    pipeline.cmd("PEXPIRE").arg(table).arg(lifetime).ignore();
    pipeline
}

fn set_until(keys: &[(String, &Vec<u8>, Millis)]) -> Pipeline {
    let mut pipeline = Pipeline::with_capacity(keys.len());
    for (key, value, until) in keys {
        // A time that is past makes Redis delete the key; one before 1970 would be an error.
        pipeline.cmd("SET").arg(key).arg(value).arg("PXAT").arg((*until).max(1)).ignore();
    }
    pipeline
}

/// Listens for keys that end, over connections of its own, until its receiver is dropped.
struct Subscriber {
    servers: RedisServers,
    prefix: Arc<[u8]>,
    sender: mpsc::Sender<String>,
    /// Whether it is logged that Redis refuses to be set up to announce expirations.
    is_refusal_logged: bool,
}

impl Subscriber {
    async fn run(mut self) {
        let sender = self.sender.clone();
        tokio::select! {
            () = sender.closed() => {}
            () = self.stay_subscribed() => {}
        }
    }

    async fn stay_subscribed(&mut self) {
        let mut backoff = Backoff::up_to(LONGEST_BACKOFF);
        loop {
            match self.subscribe().await {
                Ok(listening) => {
                    backoff.reset();
                    let failure = listening.ended(|old, new| old.masters() != new.masters()).await;
                    tracing::debug!(%failure, "no expirations are received for now");
                }
                Err(failure) => {
                    self.servers.outage().failed(&failure);
                    tracing::debug!(%failure, "expirations cannot be subscribed to");
                }
            }
            self.servers.mark_stale();
            sleep(backoff.pause()).await;
        }
    }

    /// Connects and subscribes; expirations go from the connections straight into the bounded queue.
    async fn subscribe(&mut self) -> Result<Listening, Failure> {
        let (sender, prefix) = (self.sender.clone(), self.prefix.clone());
        let receive = move |push: PushInfo| {
            if push.kind == PushKind::Message {
                notify(&sender, &prefix, &push.data);
            }
            true
        };
        let listening = self.servers.listen(receive).await?;
        let channel = format!("__keyevent@{}__:expired", self.servers.database());
        let deadline = self.servers.timing().deadline;
        let refusals = try_join_all((0..listening.topology().masters().len()).map(async |master| {
            let mut connection = listening.connection(master);
            let subscribe = async {
                let refusal = announce_expirations(&mut connection).await.err();
                connection.subscribe(&channel).await?;
                Ok::<_, Failure>(refusal)
            };
            timeout(deadline, subscribe).await.map_err(|_| Failure::silence())?
        }));
        // Managed servers refuse to be set up, and have a setting of their own for it.
        for refusal in refusals.await?.into_iter().flatten() {
            if refusal.code().is_some() && !std::mem::replace(&mut self.is_refusal_logged, true) {
                let reason = Failure::from(refusal);
                tracing::warn!(%reason, "set notify-keyspace-events to Ex in Redis: it cannot be done from here");
            }
        }
        Ok(listening)
    }
}

/// Makes a server announce expirations, keeping what else it announces.
async fn announce_expirations(connection: &mut MultiplexedConnection) -> RedisResult<()> {
    const SETTING: &str = "notify-keyspace-events";
    let mut settings: HashMap<String, String> =
        ::redis::cmd("CONFIG").arg("GET").arg(SETTING).query_async(connection).await?;
    let mut flags = settings.remove(SETTING).unwrap_or_default();
    let (events, expired) = (flags.contains('E'), flags.contains(['x', 'A']));
    if events && expired {
        return Ok(());
    }
    if !events {
        flags.push('E');
    }
    if !expired {
        flags.push('x');
    }
    ::redis::cmd("CONFIG").arg("SET").arg(SETTING).arg(flags).exec_async(connection).await
}

/// Passes on an announced key (channel, key) if it is one of ours under the prefix.
fn notify(sender: &mpsc::Sender<String>, prefix: &[u8], announced: &[Value]) {
    let [_, Value::BulkString(key)] = announced else { return };
    let Some(rest) = key.strip_prefix(prefix) else { return };
    // All our keys are text; another program's bytes under our prefix are not ours.
    let Ok(rest) = str::from_utf8(rest) else { return };
    if let Err(TrySendError::Full(_)) = sender.try_send(rest.to_owned()) {
        metrics::counter!("carillon_ttl_expirations_dropped_total").increment(1);
    }
}
