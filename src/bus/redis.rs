//! The bus over Redis pub/sub, of one server, behind Sentinel, or sharded over a Redis Cluster: connections that
//! publish and connections that listen, each rebuilt when it breaks and after a failover. What may have been missed
//! meanwhile is reported as a gap, and that they are back as restored; the subscriber then asks the store.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ::redis::{Pipeline, PushInfo, PushKind, Value};
use bytes::Bytes;
use futures_util::future::{join_all, try_join_all};
use tokio::time::{sleep, timeout};

use super::desired::{Changes, Channel, Desired, Subscriptions};
use super::receive_queue::{BusEvents, ReceiveQueue, receive_queue};
use super::{BusError, BusLimits};
use crate::redis::{Backoff, Failure, Links, Listening, OutageReport, RedisServers, Timing, Topology};

/// The most channels subscribed or unsubscribed in one pipeline.
const CHANNELS_AT_ONCE: usize = 1_000;
/// How long the last message waits until those on other servers are taken. An announcement that arrives before what
/// it announces costs a read from the store; one that waits for a server that is down delays everybody.
const LAST_WAITS: Duration = Duration::from_millis(50);

/// One node's connections to Redis.
pub(super) struct RedisBus {
    servers: RedisServers,
    verbs: &'static Verbs,
    links: Links,
    desired: Arc<Desired>,
    received: ReceiveQueue,
}

/// The commands of one kind of pub/sub.
struct Verbs {
    publish: &'static str,
    subscribe: &'static str,
    unsubscribe: &'static str,
}

const PLAIN: Verbs = Verbs { publish: "PUBLISH", subscribe: "SUBSCRIBE", unsubscribe: "UNSUBSCRIBE" };
const SHARDED: Verbs = Verbs { publish: "SPUBLISH", subscribe: "SSUBSCRIBE", unsubscribe: "SUNSUBSCRIBE" };

impl From<Failure> for BusError {
    fn from(failure: Failure) -> Self {
        Self(failure.0)
    }
}

impl RedisBus {
    pub(super) fn open(url: &str, limits: &BusLimits) -> Result<(Self, BusEvents), BusError> {
        let BusLimits { deadline, ping_every, max_backoff, .. } = *limits;
        let timing = Timing { deadline, every: ping_every, max_backoff };
        let servers = RedisServers::from_url(url, timing, "bus")
            .map_err(|failure| BusError(format!("the Redis URL: {failure}")))?;
        let (received, events) = receive_queue(limits);
        let verbs = if servers.is_cluster() { &SHARDED } else { &PLAIN };
        let desired = Arc::new(Desired::default());
        let subscriptions = Subscriptions::of(desired.clone());
        let subscriber =
            Subscriber { servers: servers.clone(), verbs, subscriptions, received: received.clone() };
        tokio::spawn(subscriber.run());
        let links = Links::new(servers.clone());
        Ok((Self { servers, verbs, links, desired, received }, events))
    }

    pub(super) async fn publish(&self, messages: &[(String, Bytes)]) -> Result<(), BusError> {
        let topology = self.links.topology().await?;
        let named = messages.iter().map(|(channel, payload)| (self.servers.name(channel), payload));
        let mut parts = self.links.by_master(&topology, named, |(name, _)| name)?;
        // The messages on the last one's master go together, after those on other servers were taken.
        let last = messages.last().and_then(|(last, _)| topology.master_of(&self.servers.name(last)));
        let Some((last, after)) = last.and_then(|last| parts.remove_entry(&last)) else { return Ok(()) };
        let before = join_all(parts.into_iter().map(|(master, part)| self.send(&topology, master, part)));
        let after = self.send(&topology, last, after);
        tokio::pin!(before, after);
        let (before, after) = match timeout(LAST_WAITS, &mut before).await {
            Ok(before) => (before, after.await),
            Err(_) => tokio::join!(before, after),
        };
        before.into_iter().chain([after]).collect()
    }

    /// Sends messages (name, payload) to one master.
    async fn send(
        &self,
        topology: &Topology,
        master: usize,
        messages: Vec<(String, &Bytes)>,
    ) -> Result<(), BusError> {
        let mut pipeline = Pipeline::with_capacity(messages.len());
        for (name, payload) in messages {
            pipeline.cmd(self.verbs.publish).arg(name).arg(&payload[..]).ignore();
        }
        let sent = self.links.call_at(topology, master, async |to| pipeline.exec_async(to).await);
        Ok(sent.await?)
    }

    pub(super) fn subscribe(&self, channel: &str) {
        self.desired.subscribe(channel);
    }

    pub(super) fn receive_queue(&self) -> &ReceiveQueue {
        &self.received
    }

    pub(super) fn outage(&self) -> Option<OutageReport> {
        self.servers.outage().report()
    }

    pub(super) fn unsubscribe(&self, channel: &str) {
        self.desired.unsubscribe(channel);
    }
}

/// The task that listens.
struct Subscriber {
    servers: RedisServers,
    verbs: &'static Verbs,
    subscriptions: Subscriptions,
    received: ReceiveQueue,
}

/// Channels that were unsubscribed on purpose and not yet confirmed so.
type Unsubscribing = Arc<Mutex<HashSet<Channel>>>;

impl Subscriber {
    async fn run(self) {
        let mut backoff = Backoff::up_to(self.servers.timing().max_backoff);
        while self.received.has_reader() {
            let failure = match self.listen().await {
                Ok(failure) => {
                    self.received.gap();
                    backoff.reset();
                    failure
                }
                Err(failure) => {
                    self.servers.outage().failed(&failure);
                    failure
                }
            };
            self.servers.mark_stale();
            tracing::debug!(%failure, "nothing comes from the bus for now");
            tokio::select! {
                () = sleep(backoff.pause()) => {}
                () = self.received.reader_gone() => return,
            }
        }
    }

    /// Listens until something breaks, and returns what; an error if the desired channels were never subscribed.
    async fn listen(&self) -> Result<Failure, Failure> {
        let unsubscribing = Unsubscribing::default();
        let (servers, received, expected) =
            (self.servers.clone(), self.received.clone(), unsubscribing.clone());
        let listening =
            self.servers.listen(move |push| receive(&servers, &received, &expected, push)).await?;
        // Slots that no channel of this node is in may move: resharding moves thousands of them.
        let ended = listening.ended(|old, new| {
            self.subscriptions.any(|channel| {
                let name = self.servers.name(channel);
                old.address_of(&name) != new.address_of(&name)
            })
        });
        tokio::pin!(ended);
        self.send(&listening, &unsubscribing, self.subscriptions.take_all()).await?;
        self.received.restored();
        loop {
            tokio::select! {
                () = self.subscriptions.changed() => {}
                () = self.received.reader_gone() => return Ok(Failure("the reader is gone".into())),
                failure = &mut ended => return Ok(failure),
            }
            let changes = self.subscriptions.take_changes();
            if let Err(failure) = self.send(&listening, &unsubscribing, changes).await {
                return Ok(failure);
            }
        }
    }

    /// Subscribes and unsubscribes. What could not be sent is for the next connections, which get all that is desired.
    async fn send(
        &self,
        listening: &Listening,
        unsubscribing: &Unsubscribing,
        Changes { subscribe, unsubscribe }: Changes,
    ) -> Result<(), Failure> {
        lock(unsubscribing).extend(unsubscribe.iter().cloned());
        self.command_each(listening, self.verbs.unsubscribe, &unsubscribe, |_| ()).await?;
        let confirmed = |channel: &str| _ = self.received.subscribed(channel);
        self.command_each(listening, self.verbs.subscribe, &subscribe, confirmed).await
    }

    /// Sends one command for each channel to its master: a sharded one takes no channels of several slots.
    async fn command_each(
        &self,
        listening: &Listening,
        verb: &str,
        channels: &[Channel],
        done: impl Fn(&str),
    ) -> Result<(), Failure> {
        let mut by_master: Vec<Vec<(&Channel, String)>> = Vec::new();
        by_master.resize_with(listening.topology().masters().len(), Vec::new);
        for channel in channels {
            let name = self.servers.name(channel);
            let master = listening.topology().master_of(&name);
            let master = master.ok_or_else(|| Failure("a slot has no master".into()))?;
            by_master[master].push((channel, name));
        }
        let done = &done;
        try_join_all(by_master.iter().enumerate().map(async |(master, channels)| {
            let mut connection = listening.connection(master);
            for channels in channels.chunks(CHANNELS_AT_ONCE) {
                let mut pipeline = Pipeline::with_capacity(channels.len());
                for (_, name) in channels {
                    pipeline.cmd(verb).arg(name).ignore();
                }
                let answer = timeout(self.servers.timing().deadline, pipeline.exec_async(&mut connection));
                answer.await.map_err(|_| Failure::silence())??;
                // Something that was not asked for may have been taken for the answer.
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

/// Takes what came over a connection. Must not wait. False if the connections are of no use any more.
fn receive(
    servers: &RedisServers,
    received: &ReceiveQueue,
    unsubscribing: &Unsubscribing,
    push: PushInfo,
) -> bool {
    let mut data = push.data.into_iter();
    let name = match data.next() {
        Some(Value::BulkString(name)) => String::from_utf8(name).ok(),
        _ => None,
    };
    let channel = name.as_deref().and_then(|name| servers.rest_of(name));
    match push.kind {
        PushKind::Message | PushKind::SMessage => {
            if let (Some(channel), Some(Value::BulkString(payload))) = (channel, data.next()) {
                received.message(channel, Bytes::from(payload));
                true
            } else {
                metrics::counter!("carillon_bus_undecodable_total").increment(1);
                false
            }
        }
        // One that was not asked for means, in a cluster, that the slot has another master now.
        PushKind::Unsubscribe | PushKind::SUnsubscribe => {
            channel.is_some_and(|channel| lock(unsubscribing).remove(channel))
        }
        _ => true,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
