//! The bus over Redis pub/sub, of one server, behind Sentinel, or sharded over a Redis Cluster: connections that
//! publish and connections that listen, each rebuilt when it breaks or somebody else is in charge.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ::redis::{Pipeline, PushInfo, PushKind, Value};
use bytes::Bytes;
use futures_util::future::{join_all, try_join_all};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use super::inbox::{BusEvents, Inbox, inbox};
use super::{BusError, BusLimits};
use crate::redis::{Backoff, Failure, Layout, Links, Listening, RedisServers, Timing};

/// The most channels subscribed or given up in one go.
const CHANNELS_AT_ONCE: usize = 1_000;
/// How long the last message waits for those on other servers to be taken. An announcement that comes before
/// what it announces costs a reading; one that waits for a server that is gone costs everyone's time.
const LAST_WAITS: Duration = Duration::from_millis(50);

/// One node's connections to Redis.
pub(super) struct RedisBus {
    servers: RedisServers,
    verbs: &'static Verbs,
    links: Links,
    wishes: Arc<Wishes>,
}

/// The commands of one kind of pub/sub.
struct Verbs {
    publish: &'static str,
    subscribe: &'static str,
    unsubscribe: &'static str,
}

const PLAIN: Verbs = Verbs { publish: "PUBLISH", subscribe: "SUBSCRIBE", unsubscribe: "UNSUBSCRIBE" };
const SHARDED: Verbs = Verbs { publish: "SPUBLISH", subscribe: "SSUBSCRIBE", unsubscribe: "SUNSUBSCRIBE" };

/// The channels this node wants.
#[derive(Default)]
struct Wishes {
    channels: Mutex<HashSet<String>>,
    changed: Notify,
}

impl From<Failure> for BusError {
    fn from(failure: Failure) -> Self {
        Self(failure.0)
    }
}

impl RedisBus {
    pub(super) fn open(url: &str, limits: &BusLimits) -> Result<(Self, BusEvents), BusError> {
        let BusLimits { deadline, ping_every, max_backoff, .. } = *limits;
        let timing = Timing { deadline, every: ping_every, max_backoff };
        let servers = RedisServers::from_url(url, timing)
            .map_err(|failure| BusError(format!("the Redis URL: {failure}")))?;
        let (inbox, events) = inbox(limits);
        let verbs = if servers.is_cluster() { &SHARDED } else { &PLAIN };
        let wishes = Arc::new(Wishes::default());
        let listener = Listener { servers: servers.clone(), verbs, wishes: wishes.clone(), inbox };
        tokio::spawn(listener.run());
        let links = Links::new(servers.clone());
        Ok((Self { servers, verbs, links, wishes }, events))
    }

    pub(super) async fn publish(&self, messages: &[(String, Bytes)]) -> Result<(), BusError> {
        let layout = self.links.layout().await?;
        let named = messages.iter().map(|(channel, payload)| (self.servers.name(channel), payload));
        let mut parts = self.links.spread(&layout, named, |(name, _)| name)?;
        // The messages on the last one's server go together, after those on other servers were taken.
        let last = messages.last().and_then(|(last, _)| layout.server_of(&self.servers.name(last)));
        let Some((last, after)) = last.and_then(|last| parts.remove_entry(&last)) else { return Ok(()) };
        let before = join_all(parts.into_iter().map(|(server, part)| self.send(&layout, server, part)));
        let after = self.send(&layout, last, after);
        tokio::pin!(before, after);
        let (before, after) = match timeout(LAST_WAITS, &mut before).await {
            Ok(before) => (before, after.await),
            Err(_) => tokio::join!(before, after),
        };
        before.into_iter().chain([after]).collect()
    }

    /// Sends messages (name, payload) to one server.
    async fn send(
        &self,
        layout: &Layout,
        server: usize,
        messages: Vec<(String, &Bytes)>,
    ) -> Result<(), BusError> {
        let mut pipeline = Pipeline::with_capacity(messages.len());
        for (name, payload) in messages {
            pipeline.cmd(self.verbs.publish).arg(name).arg(&payload[..]).ignore();
        }
        let sent = self.links.call_at(layout, server, async |to| pipeline.exec_async(to).await);
        Ok(sent.await?)
    }

    pub(super) fn subscribe(&self, channel: &str) {
        lock(&self.wishes.channels).insert(channel.to_owned());
        self.wishes.changed.notify_one();
    }

    pub(super) fn unsubscribe(&self, channel: &str) {
        lock(&self.wishes.channels).remove(channel);
        self.wishes.changed.notify_one();
    }
}

/// The task behind the listening connections.
struct Listener {
    servers: RedisServers,
    verbs: &'static Verbs,
    wishes: Arc<Wishes>,
    inbox: Inbox,
}

/// Channels that were given up on purpose and not yet confirmed so.
type Leaving = Arc<Mutex<HashSet<String>>>;

impl Listener {
    async fn run(self) {
        let mut backoff = Backoff::up_to(self.servers.timing().max_backoff);
        while self.inbox.is_read() {
            let failure = match self.attempt().await {
                Ok(failure) => {
                    self.inbox.gap();
                    backoff.reset();
                    failure
                }
                Err(failure) => failure,
            };
            self.servers.doubt();
            tracing::debug!(%failure, "the bus is not heard for now");
            tokio::select! {
                () = sleep(backoff.pause()) => {}
                () = self.inbox.unread() => return,
            }
        }
    }

    /// Listens until something breaks, and gives what; an error if all was never well.
    async fn attempt(&self) -> Result<Failure, Failure> {
        let leaving = Leaving::default();
        let (servers, inbox, left) = (self.servers.clone(), self.inbox.clone(), leaving.clone());
        let listening = self.servers.listen(move |push| receive(&servers, &inbox, &left, push)).await?;
        // Slots that no channel of this node is in may move: resharding moves thousands of them.
        let ended = listening.ended(|old, new| {
            let names = lock(&self.wishes.channels);
            names
                .iter()
                .map(|channel| self.servers.name(channel))
                .any(|name| old.address_of(&name) != new.address_of(&name))
        });
        tokio::pin!(ended);
        let mut subscribed = HashSet::new();
        let mut is_up = false;
        loop {
            let failure = match self.follow(&listening, &leaving, &mut subscribed).await {
                Ok(()) => {
                    if !std::mem::replace(&mut is_up, true) {
                        self.inbox.restored();
                    }
                    tokio::select! {
                        () = self.wishes.changed.notified() => continue,
                        () = self.inbox.unread() => Failure("nobody reads".into()),
                        failure = &mut ended => failure,
                    }
                }
                Err(failure) => failure,
            };
            return if is_up { Ok(failure) } else { Err(failure) };
        }
    }

    /// Subscribes to what is wanted and gives up what is not.
    async fn follow(
        &self,
        listening: &Listening,
        leaving: &Leaving,
        subscribed: &mut HashSet<String>,
    ) -> Result<(), Failure> {
        let (new, old): (Vec<String>, Vec<String>) = {
            let wanted = lock(&self.wishes.channels);
            (
                wanted.difference(subscribed).cloned().collect(),
                subscribed.difference(&wanted).cloned().collect(),
            )
        };
        lock(leaving).extend(old.iter().cloned());
        self.tell(listening, self.verbs.unsubscribe, &old, |_| ()).await?;
        old.iter().for_each(|channel| _ = subscribed.remove(channel));
        self.tell(listening, self.verbs.subscribe, &new, |channel| _ = self.inbox.subscribed(channel))
            .await?;
        subscribed.extend(new);
        Ok(())
    }

    /// Sends one command for each channel to the server in charge of it. One each, as a sharded one takes no
    /// channels of several slots.
    async fn tell(
        &self,
        listening: &Listening,
        verb: &str,
        channels: &[String],
        done: impl Fn(&str),
    ) -> Result<(), Failure> {
        let mut spread: Vec<Vec<(&String, String)>> = Vec::new();
        spread.resize_with(listening.layout().servers().len(), Vec::new);
        for channel in channels {
            let name = self.servers.name(channel);
            let server = listening.layout().server_of(&name);
            let server = server.ok_or_else(|| Failure("no server is in charge of that slot".into()))?;
            spread[server].push((channel, name));
        }
        let done = &done;
        try_join_all(spread.iter().enumerate().map(async |(server, channels)| {
            let mut connection = listening.connection(server);
            for channels in channels.chunks(CHANNELS_AT_ONCE) {
                let mut pipeline = Pipeline::with_capacity(channels.len());
                for (_, name) in channels {
                    pipeline.cmd(verb).arg(name).ignore();
                }
                let answer = timeout(self.servers.timing().deadline, pipeline.exec_async(&mut connection));
                answer.await.map_err(|_| Failure("no answer within the deadline".into()))??;
                // Something unasked for may have been taken for the answer.
                if !listening.is_good() {
                    return Err(Failure("a connection broke".into()));
                }
                channels.iter().for_each(|(channel, _)| done(channel));
            }
            Ok(())
        }))
        .await?;
        Ok(())
    }
}

/// Something came over a listening connection. Must not wait. Whether all is well.
fn receive(servers: &RedisServers, inbox: &Inbox, leaving: &Leaving, push: PushInfo) -> bool {
    let mut data = push.data.into_iter();
    let name = match data.next() {
        Some(Value::BulkString(name)) => String::from_utf8(name).ok(),
        _ => None,
    };
    let channel = name.as_deref().and_then(|name| servers.rest_of(name));
    match push.kind {
        PushKind::Message | PushKind::SMessage => {
            if let (Some(channel), Some(Value::BulkString(payload))) = (channel, data.next()) {
                inbox.message(channel, Bytes::from(payload));
                true
            } else {
                metrics::counter!("carillon_bus_undecodable_total").increment(1);
                false
            }
        }
        // One that nobody here asked for: in a cluster, that the slot is somebody else's now.
        PushKind::Unsubscribe | PushKind::SUnsubscribe => {
            channel.is_some_and(|channel| lock(leaving).remove(channel))
        }
        _ => true,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
