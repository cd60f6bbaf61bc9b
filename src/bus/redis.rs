//! The bus over Redis pub/sub: one connection that publishes, one that listens, each rebuilt when it breaks.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ::redis::aio::MultiplexedConnection;
use ::redis::{AsyncConnectionConfig, Pipeline, PushInfo, PushKind, RedisError, Value};
use bytes::Bytes;
use rand::RngExt as _;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};

use super::inbox::{BusEvents, Inbox, inbox};
use super::{BusError, BusLimits};
use crate::redis_server::{RedisServer, reason};

/// The most channels in one SUBSCRIBE or UNSUBSCRIBE.
const CHANNELS_AT_ONCE: usize = 1_000;
/// The first pause before reconnecting; doubled each time up to the limit.
const FIRST_BACKOFF: Duration = Duration::from_millis(50);

/// One node's connections to a Redis server. Cheap to clone.
#[derive(Clone)]
pub(super) struct RedisBus {
    server: RedisServer,
    limits: BusLimits,
    publisher: Arc<Mutex<Publisher>>,
    wishes: Arc<Wishes>,
}

/// The publishing connection.
enum Publisher {
    Up(MultiplexedConnection),
    /// It is being made.
    Connecting,
    /// `None`: nobody has tried yet.
    Down {
        retry_at: Option<Instant>,
    },
}

/// The channels this node wants.
#[derive(Default)]
struct Wishes {
    channels: Mutex<HashSet<String>>,
    changed: Notify,
}

impl RedisBus {
    pub(super) fn open(url: &str, limits: &BusLimits) -> Result<(Self, BusEvents), BusError> {
        let server = RedisServer::from_url(url)
            .map_err(|error| BusError(format!("the Redis URL: {}", reason(&error))))?;
        let (inbox, events) = inbox(limits);
        let wishes = Arc::new(Wishes::default());
        let listener =
            Listener { server: server.clone(), limits: limits.clone(), wishes: wishes.clone(), inbox };
        tokio::spawn(listener.run());
        let publisher = Arc::new(Mutex::new(Publisher::Down { retry_at: None }));
        Ok((Self { server, limits: limits.clone(), publisher, wishes }, events))
    }

    pub(super) async fn publish(&self, messages: &[(String, Bytes)]) -> Result<(), BusError> {
        let mut connection = self.publisher().await?;
        let mut pipeline = Pipeline::with_capacity(messages.len());
        for (channel, payload) in messages {
            pipeline.cmd("PUBLISH").arg(self.server.name(channel)).arg(&payload[..]).ignore();
        }
        let sent = timeout(self.limits.deadline, pipeline.exec_async(&mut connection)).await;
        match sent {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) if !error.is_unrecoverable_error() && !error.is_timeout() => Err(told(&error)),
            Ok(Err(error)) => {
                self.publisher_is_down();
                Err(told(&error))
            }
            Err(_) => {
                self.publisher_is_down();
                Err(BusError("no answer within the deadline".into()))
            }
        }
    }

    pub(super) fn subscribe(&self, channel: &str) {
        lock(&self.wishes.channels).insert(channel.to_owned());
        self.wishes.changed.notify_one();
    }

    pub(super) fn unsubscribe(&self, channel: &str) {
        lock(&self.wishes.channels).remove(channel);
        self.wishes.changed.notify_one();
    }

    /// The publishing connection. Only the first caller of all waits for it; later, when there is none, it is
    /// made beside those who publish, who all fail at once.
    async fn publisher(&self) -> Result<MultiplexedConnection, BusError> {
        let is_first = {
            let mut publisher = lock(&self.publisher);
            let is_first = match &*publisher {
                Publisher::Up(connection) => return Ok(connection.clone()),
                Publisher::Down { retry_at: None } => true,
                Publisher::Down { retry_at: Some(at) } if *at <= Instant::now() => false,
                Publisher::Connecting | Publisher::Down { .. } => return Err(not_connected()),
            };
            *publisher = Publisher::Connecting;
            is_first
        };
        // A task of its own, so that an attempt that has begun is not dropped half way.
        let connecting = tokio::spawn(self.clone().connect_publisher());
        if is_first {
            connecting.await.unwrap_or_else(|_| Err(not_connected()))
        } else {
            Err(not_connected())
        }
    }

    async fn connect_publisher(self) -> Result<MultiplexedConnection, BusError> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.limits.deadline))
            .set_response_timeout(Some(self.limits.deadline));
        let connecting = self.server.client.get_multiplexed_async_connection_with_config(&config);
        let connected = match timeout(self.limits.deadline, connecting).await {
            Ok(outcome) => outcome.map_err(|error| told(&error)),
            Err(_) => Err(BusError("no connection within the deadline".into())),
        };
        match &connected {
            Ok(connection) => *lock(&self.publisher) = Publisher::Up(connection.clone()),
            Err(_) => self.publisher_is_down(),
        }
        connected
    }

    fn publisher_is_down(&self) {
        *lock(&self.publisher) = Publisher::Down { retry_at: Some(Instant::now() + FIRST_BACKOFF) };
    }
}

fn not_connected() -> BusError {
    BusError("not connected".into())
}

/// The task behind the listening connection.
struct Listener {
    server: RedisServer,
    limits: BusLimits,
    wishes: Arc<Wishes>,
    inbox: Inbox,
}

/// What the connection tells the task.
#[derive(Default)]
struct Line {
    is_broken: AtomicBool,
    /// Channels that were given up on purpose and not yet confirmed so.
    leaving: Mutex<HashSet<String>>,
    changed: Notify,
}

impl Line {
    fn broke(&self) {
        self.is_broken.store(true, Ordering::SeqCst);
        self.changed.notify_one();
    }
}

impl Listener {
    async fn run(self) {
        let mut backoff = FIRST_BACKOFF;
        let mut was_up = false;
        while self.inbox.is_read() {
            let line = Arc::new(Line::default());
            if let Ok(connection) = self.connect(&line).await {
                let lasted = self.listen(connection, &line).await;
                if lasted {
                    backoff = FIRST_BACKOFF;
                    was_up = true;
                }
            }
            if was_up {
                self.inbox.gap();
                was_up = false;
            }
            let pause = backoff.mul_f64(rand::rng().random_range(0.5..1.0));
            tokio::select! {
                () = sleep(pause) => {}
                () = self.inbox.unread() => return,
            }
            backoff = (backoff * 2).min(self.limits.max_backoff);
        }
    }

    async fn connect(&self, line: &Arc<Line>) -> Result<MultiplexedConnection, BusError> {
        let (server, inbox, line) = (self.server.clone(), self.inbox.clone(), line.clone());
        let received = move |push: PushInfo| -> Result<(), std::convert::Infallible> {
            receive(&server, &inbox, &line, push);
            Ok(())
        };
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.limits.deadline))
            .set_response_timeout(Some(self.limits.deadline))
            .set_push_sender(received);
        let connecting = self.server.client.get_multiplexed_async_connection_with_config(&config);
        match timeout(self.limits.deadline, connecting).await {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(error)) => Err(told(&error)),
            Err(_) => Err(BusError("no connection within the deadline".into())),
        }
    }

    /// Keeps the connection's channels as they are wanted until it breaks. Whether it was ever good.
    async fn listen(&self, mut connection: MultiplexedConnection, line: &Line) -> bool {
        let mut subscribed = HashSet::new();
        let mut is_up = false;
        let mut ping_at = Instant::now() + self.limits.ping_every;
        loop {
            if self.follow(&mut connection, line, &mut subscribed).await.is_err() {
                return is_up;
            }
            if !is_up && !line.is_broken.load(Ordering::SeqCst) {
                is_up = true;
                self.inbox.restored();
            }
            tokio::select! {
                () = self.wishes.changed.notified() => {}
                () = line.changed.notified() => {}
                () = self.inbox.unread() => return is_up,
                () = tokio::time::sleep_until(ping_at) => {
                    // A frozen server never closes the connection: only its silence tells.
                    let ping = ::redis::cmd("PING");
                    let answer = timeout(self.limits.deadline, connection.send_packed_command(&ping)).await;
                    if !matches!(answer, Ok(Ok(_))) {
                        return is_up;
                    }
                    ping_at = Instant::now() + self.limits.ping_every;
                }
            }
            if line.is_broken.load(Ordering::SeqCst) {
                return is_up;
            }
        }
    }

    /// Subscribes to what is wanted and gives up what is not.
    async fn follow(
        &self,
        connection: &mut MultiplexedConnection,
        line: &Line,
        subscribed: &mut HashSet<String>,
    ) -> Result<(), BusError> {
        let (new, old): (Vec<String>, Vec<String>) = {
            let wanted = lock(&self.wishes.channels);
            (
                wanted.difference(subscribed).cloned().collect(),
                subscribed.difference(&wanted).cloned().collect(),
            )
        };
        for channels in old.chunks(CHANNELS_AT_ONCE) {
            lock(&line.leaving).extend(channels.iter().cloned());
            self.in_time(connection.unsubscribe(self.names(channels))).await?;
            channels.iter().for_each(|channel| _ = subscribed.remove(channel));
        }
        for channels in new.chunks(CHANNELS_AT_ONCE) {
            self.in_time(connection.subscribe(self.names(channels))).await?;
            for channel in channels {
                self.inbox.subscribed(channel);
                subscribed.insert(channel.clone());
            }
        }
        Ok(())
    }

    fn names(&self, channels: &[String]) -> Vec<String> {
        channels.iter().map(|channel| self.server.name(channel)).collect()
    }

    async fn in_time(&self, call: impl Future<Output = Result<(), RedisError>>) -> Result<(), BusError> {
        match timeout(self.limits.deadline, call).await {
            Ok(answer) => answer.map_err(|error| told(&error)),
            Err(_) => Err(BusError("no answer within the deadline".into())),
        }
    }
}

/// Something came over the listening connection. Must not wait.
fn receive(server: &RedisServer, inbox: &Inbox, line: &Line, push: PushInfo) {
    let mut data = push.data.into_iter();
    let name = match data.next() {
        Some(Value::BulkString(name)) => String::from_utf8(name).ok(),
        _ => None,
    };
    let channel = name.as_deref().and_then(|name| server.rest_of(name));
    match push.kind {
        PushKind::Message => {
            if let (Some(channel), Some(Value::BulkString(payload))) = (channel, data.next()) {
                inbox.message(channel, Bytes::from(payload));
            } else {
                metrics::counter!("carillon_bus_undecodable_total").increment(1);
                line.broke();
            }
        }
        PushKind::Unsubscribe if channel.is_some_and(|channel| lock(&line.leaving).remove(channel)) => {}
        // One that nobody here asked for.
        PushKind::Unsubscribe | PushKind::Disconnection => line.broke(),
        _ => {}
    }
}

/// What may be said of an error: never the server's own words, which may repeat a password.
fn told(error: &RedisError) -> BusError {
    BusError(error.category().to_owned())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
