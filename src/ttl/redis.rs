//! Expiring keys in Redis, shared by every node.
//!
//! Needs Redis 6.2 or newer (RESP3, `SET … PXAT`). Nothing that is logged or returned holds what the server
//! said beyond its error code: some servers repeat the command they refuse, and one of ours is the password.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, OnceLock, Weak};
use std::time::Duration;

use ::redis::aio::MultiplexedConnection;
use ::redis::{
    AsyncConnectionConfig, Client, Cmd, Pipeline, PushInfo, PushKind, RedisError, RedisResult, Script,
    ServerErrorKind, Value,
};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{sleep, timeout};

use super::{Taken, TtlError, TtlLimits};
use crate::event::Millis;
use crate::redis_server::{RedisServer, reason};

/// Before every key in Redis, behind the namespace.
const KEY_PREFIX: &str = "ttl:";
/// Before every rate limit. Another one than for keys, so that neither meets the other.
const LIMIT_PREFIX: &str = "limit:";
/// The most keys set in one pipeline: what Redis and this process must hold at once for it.
const PIPELINE: usize = 1000;
/// The longest time counted with. Redis refuses times beyond its range, and Lua counts exactly only to 2^53.
const LONGEST: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// The wait after a failed connect, doubled each time up to the longest.
const FIRST_BACKOFF: Duration = Duration::from_millis(50);
const LONGEST_BACKOFF: Duration = Duration::from_secs(1);
/// How often the subscriber asks whether its server still answers: a frozen one never closes the connection.
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

/// One connection shared by all clones, made when first needed and again whenever it breaks; never by a caller,
/// who would wait for it.
#[derive(Clone)]
pub struct RedisTtl {
    server: RedisServer,
    /// Begun with the first call.
    link: Arc<OnceLock<Arc<watch::Sender<Link>>>>,
    deadline: Duration,
    queue: usize,
}

impl RedisTtl {
    pub fn open(url: &str, limits: &TtlLimits) -> Result<Self, TtlError> {
        Ok(Self {
            server: RedisServer::from_url(url)
                .map_err(|error| TtlError(format!("the Redis URL: {}", reason(&error))))?,
            link: Arc::default(),
            deadline: limits.deadline,
            queue: limits.queue.max(1),
        })
    }

    pub async fn put(&self, key: &str, value: &[u8], lifetime: Duration) -> Result<(), TtlError> {
        let lifetime = lifetime.min(LONGEST).as_millis() as u64;
        if lifetime == 0 {
            return self.remove(key).await;
        }
        let mut set = Cmd::new();
        set.arg("SET").arg(self.key(key)).arg(value).arg("PX").arg(lifetime);
        self.call(async |connection| set.exec_async(connection).await).await
    }

    pub async fn put_until(&self, keys: &[(String, Vec<u8>, Millis)]) -> Result<(), TtlError> {
        if keys.is_empty() {
            return Ok(());
        }
        self.call(async |connection| {
            for chunk in keys.chunks(PIPELINE) {
                let mut pipeline = Pipeline::with_capacity(chunk.len());
                for (key, value, until) in chunk {
                    // A time that is past makes Redis delete the key; one before 1970 would be an error.
                    let until = (*until).max(1);
                    pipeline.cmd("SET").arg(self.key(key)).arg(value).arg("PXAT").arg(until).ignore();
                }
                pipeline.exec_async(connection).await?;
            }
            Ok(())
        })
        .await
    }

    pub async fn get(&self, key: &str) -> Result<Option<Vec<u8>>, TtlError> {
        let mut get = Cmd::new();
        get.arg("GET").arg(self.key(key));
        self.call(async |connection| get.query_async(connection).await).await
    }

    pub async fn remove(&self, key: &str) -> Result<(), TtlError> {
        let mut remove = Cmd::new();
        remove.arg("DEL").arg(self.key(key));
        self.call(async |connection| remove.exec_async(connection).await).await
    }

    pub async fn take(&self, key: &str, burst: u32, every: Duration) -> Result<Taken, TtlError> {
        let every = every.min(LONGEST).as_micros() as u64;
        if every == 0 {
            return Ok(Taken::Allowed);
        }
        let burst = u64::from(burst.max(1)).min(LONGEST.as_micros() as u64 / every).max(1);
        let mut take = TAKE.key(self.server.name(&format!("{LIMIT_PREFIX}{key}")));
        take.arg(burst).arg(every);
        let wait: u64 = self.call(async |connection| take.invoke_async(connection).await).await?;
        Ok(if wait == 0 { Taken::Allowed } else { Taken::RetryAfter(Duration::from_micros(wait)) })
    }

    /// A key's name in Redis.
    fn key(&self, key: &str) -> String {
        self.server.name(&format!("{KEY_PREFIX}{key}"))
    }

    /// Needs a Tokio runtime, for the task that stays subscribed as long as the receiver lives.
    pub fn expirations(&self, prefix: &str) -> mpsc::Receiver<String> {
        let (told, expirations) = mpsc::channel(self.queue);
        let subscriber = Subscriber {
            client: self.server.client.clone(),
            prefix: self.key(prefix).into_bytes().into(),
            deadline: self.deadline,
            told,
            refusal_known: false,
        };
        tokio::spawn(subscriber.run());
        expirations
    }

    /// Runs commands over the shared connection, within the deadline. While Redis is known to be away this fails
    /// at once: whoever asks has another answer, and is not to wait for this one again and again.
    async fn call<T>(
        &self,
        commands: impl AsyncFnOnce(&mut MultiplexedConnection) -> RedisResult<T>,
    ) -> Result<T, TtlError> {
        let mut used = None;
        let answered = timeout(self.deadline, async {
            let (mut connection, number) = self.connection().await?;
            used = Some(number);
            Ok(commands(&mut connection).await)
        })
        .await;
        match answered {
            Ok(Ok(Ok(value))) => Ok(value),
            Ok(Ok(Err(error))) => {
                if is_broken(&error) {
                    self.broke(used, Link::Connecting);
                }
                Err(TtlError(describe(&error)))
            }
            Ok(Err(error)) => Err(error),
            Err(_) => {
                let silence = silence(self.deadline);
                self.broke(used, Link::Down(silence.clone()));
                Err(TtlError(silence))
            }
        }
    }

    /// The shared connection and its number; waits for it only while nothing is known to be wrong.
    async fn connection(&self) -> Result<(MultiplexedConnection, u64), TtlError> {
        let link = self.link.get_or_init(|| {
            let link = Arc::new(watch::channel(Link::Connecting).0);
            tokio::spawn(stay_connected(self.server.client.clone(), self.deadline, Arc::downgrade(&link)));
            link
        });
        let mut known = link.subscribe();
        let known = known.wait_for(|link| !matches!(link, Link::Connecting)).await;
        match known.as_deref() {
            Ok(Link::Up(connection, number)) => Ok((connection.clone(), *number)),
            Ok(Link::Down(reason)) => Err(TtlError(reason.clone())),
            Ok(Link::Connecting) | Err(_) => Err(TtlError("not connected".into())),
        }
    }

    /// The connection of this number is of no use any more.
    fn broke(&self, number: Option<u64>, now: Link) {
        let Some(link) = self.link.get() else { return };
        link.send_if_modified(|link| {
            // A late failure of one does not cost its successor.
            let is_it = matches!(link, Link::Up(_, current) if number == Some(*current));
            if is_it {
                *link = now;
            }
            is_it
        });
    }
}

/// The shared connection, as it is known to stand.
enum Link {
    /// About to be there: worth a wait.
    Connecting,
    /// With its number, counted up.
    Up(MultiplexedConnection, u64),
    /// Not there, and why; attempts go on.
    Down(String),
}

/// Makes the connection, and another whenever it has broken, as long as anybody has the link.
async fn stay_connected(client: Client, deadline: Duration, link: Weak<watch::Sender<Link>>) {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(deadline))
        .set_response_timeout(Some(deadline));
    let (mut number, mut backoff) = (0, Duration::ZERO);
    loop {
        let attempt = client.get_multiplexed_async_connection_with_config(&config);
        let outcome = match timeout(deadline, attempt).await {
            Ok(outcome) => outcome.map_err(|error| describe(&error)),
            Err(_) => Err(silence(deadline)),
        };
        let Some(link) = link.upgrade() else { return };
        match outcome {
            Ok(connection) => {
                number += 1;
                backoff = Duration::ZERO;
                let mut known = link.subscribe();
                link.send_replace(Link::Up(connection, number));
                drop(link);
                if known.wait_for(|link| !matches!(link, Link::Up(..))).await.is_err() {
                    return;
                }
            }
            Err(reason) => {
                link.send_replace(Link::Down(reason));
                drop(link);
                backoff = next_backoff(backoff);
                sleep(backoff).await;
            }
        }
    }
}

fn silence(deadline: Duration) -> String {
    format!("no answer within {} ms", deadline.as_millis())
}

/// Listens for keys that end, over a connection of its own, until its receiver is dropped.
struct Subscriber {
    client: Client,
    prefix: Arc<[u8]>,
    deadline: Duration,
    told: mpsc::Sender<String>,
    /// Whether it is logged that Redis will not be told to announce expirations.
    refusal_known: bool,
}

impl Subscriber {
    async fn run(mut self) {
        let told = self.told.clone();
        tokio::select! {
            () = told.closed() => {}
            () = self.stay_subscribed() => {}
        }
    }

    async fn stay_subscribed(&mut self) {
        let mut backoff = Duration::ZERO;
        loop {
            let lost = Arc::new(Notify::new());
            match self.subscribe(lost.clone()).await {
                Ok(connection) => {
                    backoff = Duration::ZERO;
                    let reason = self.watch(connection, &lost).await;
                    tracing::warn!(reason, "expirations are not heard for now");
                }
                Err(reason) => tracing::debug!(reason, "cannot subscribe to expirations"),
            }
            backoff = next_backoff(backoff);
            sleep(backoff).await;
        }
    }

    /// Connects and subscribes; expirations go from the connection straight into the bounded queue.
    async fn subscribe(&mut self, lost: Arc<Notify>) -> Result<MultiplexedConnection, String> {
        let (told, prefix) = (self.told.clone(), self.prefix.clone());
        let hear = move |push: PushInfo| {
            match push.kind {
                PushKind::Message => tell(&told, &prefix, &push.data),
                PushKind::Disconnection => lost.notify_one(),
                _ => {}
            }
            Ok::<(), ()>(())
        };
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.deadline))
            .set_response_timeout(Some(self.deadline))
            .set_push_sender(hear);
        let connect = self.client.get_multiplexed_async_connection_with_config(&config);
        let mut connection = connect.await.map_err(|error| describe(&error))?;
        self.ask_for_events(&mut connection).await;
        let db = self.client.get_connection_info().redis_settings().db();
        connection.subscribe(format!("__keyevent@{db}__:expired")).await.map_err(|error| describe(&error))?;
        Ok(connection)
    }

    /// Makes Redis announce expirations, keeping what else it announces. Managed servers refuse this, and have
    /// a setting of their own for it.
    async fn ask_for_events(&mut self, connection: &mut MultiplexedConnection) {
        if let Err(error) = announce_expirations(connection).await
            && error.code().is_some()
            && !std::mem::replace(&mut self.refusal_known, true)
        {
            let reason = describe(&error);
            tracing::warn!(reason, "set notify-keyspace-events to Ex in Redis: it cannot be done from here");
        }
    }

    /// Why the connection is of no use any more, as soon as that is so.
    async fn watch(&self, mut connection: MultiplexedConnection, lost: &Notify) -> String {
        loop {
            tokio::select! {
                () = lost.notified() => return "the connection was closed".into(),
                () = sleep(PING_EVERY) => {}
            }
            match timeout(self.deadline, Cmd::new().arg("PING").exec_async(&mut connection)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return describe(&error),
                Err(_) => return silence(self.deadline),
            }
        }
    }
}

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
fn tell(told: &mpsc::Sender<String>, prefix: &[u8], announced: &[Value]) {
    let [_, Value::BulkString(key)] = announced else { return };
    let Some(rest) = key.strip_prefix(prefix) else { return };
    // All our keys are text; another program's bytes under our prefix are not ours to tell of.
    let Ok(rest) = str::from_utf8(rest) else { return };
    if let Err(TrySendError::Full(_)) = told.try_send(rest.to_owned()) {
        metrics::counter!("carillon_ttl_expirations_dropped_total").increment(1);
    }
}

fn next_backoff(backoff: Duration) -> Duration {
    (backoff * 2).clamp(FIRST_BACKOFF, LONGEST_BACKOFF)
}

/// Whether the connection is of no use after this error. A server that has become a replica, too: the address
/// may lead to the new master by now.
fn is_broken(error: &RedisError) -> bool {
    error.is_io_error()
        || error.is_unrecoverable_error()
        || matches!(
            error.kind(),
            ::redis::ErrorKind::Server(ServerErrorKind::ReadOnly | ServerErrorKind::MasterDown)
        )
}

/// What went wrong, without the server's own words (see the top of this file).
fn describe(error: &RedisError) -> String {
    match error.code() {
        Some(code) => format!("Redis answered {code}"),
        None if error.is_connection_refusal() => "Redis refused the connection".into(),
        None if error.is_timeout() => "Redis did not answer in time".into(),
        None => format!("Redis: {}", error.category()),
    }
}
