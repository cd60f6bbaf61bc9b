//! One node: puts its parts together and starts them. Several may live in one process.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rand::RngExt as _;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::bus::message::{self, MessageWriter, node_channel};
use crate::bus::{Bus, BusError, BusEvents, BusLimits, Notifier};
use crate::cluster::{ANNOUNCE_EVERY, Readiness, Status, close_streams, send_bus_heartbeat};
use crate::delivery::backlog::{ReadLimits, Reads};
use crate::delivery::endings::Endings;
use crate::delivery::expiry::Expirations;
use crate::delivery::hub::{self, Hub, HubLimits, Interest, MAX_REACTORS};
use crate::delivery::presence::{self, Presence};
use crate::delivery::reactor;
use crate::delivery::session::SessionLimits;
use crate::delivery::stream::Streams;
use crate::delivery::subscriber::{self, Feed};
use crate::delivery::sweep::Sweep;
use crate::delivery::{Progress, SequencerLimits};
use crate::event::Epoch;
use crate::http::Services;
use crate::identity::Accounts;
use crate::identity::topic_rules::TopicRules;
use crate::publishing::retention::{Retention, RetentionLimits};
use crate::publishing::{PublishLimits, Publisher, PublisherParts};
use crate::reading::Inbox;
use crate::store::clock::Clock;
use crate::store::{Pool, SEEN_EVERY, Store};
use crate::ttl::Ttl;

/// Bounds and rhythms of a node.
#[derive(Debug, Clone)]
pub struct NodeLimits {
    /// Of the bus.
    pub bus: BusLimits,
    /// Of the sequencer.
    pub sequencer: SequencerLimits,
    /// Of listeners.
    pub hub: HubLimits,
    /// Of streams.
    pub session: SessionLimits,
    /// Of reads for streams.
    pub reads: ReadLimits,
    /// How many threads own the sockets of streams.
    pub reactors: usize,
    /// Of publishing.
    pub publish: PublishLimits,
    /// How often the log's head is compared with what was applied.
    pub poll_every: Duration,
    /// The same, while the bus is down.
    pub poll_degraded: Duration,
    /// How often sessions and tokens behind open streams are checked in the store; at most 30 s.
    pub recheck_every: Duration,
    /// How often the node sends itself a heartbeat over the bus.
    pub bus_heartbeat_every: Duration,
    /// After how long without one the bus counts as silent: a frozen server, a link that carries nothing.
    pub bus_silence: Duration,
    /// What is kept, and for how long.
    pub retention: RetentionLimits,
    /// How often old events are removed.
    pub retention_every: Duration,
    /// How long a node's users count as present after it last said so.
    pub presence_lifetime: Duration,
    /// Over how long streams are closed when the node is drained.
    pub drain_window: Duration,
}

impl Default for NodeLimits {
    fn default() -> Self {
        Self {
            bus: BusLimits::default(),
            sequencer: SequencerLimits::default(),
            hub: HubLimits::default(),
            session: SessionLimits::default(),
            reads: ReadLimits::default(),
            reactors: std::thread::available_parallelism().map_or(1, usize::from).min(MAX_REACTORS),
            publish: PublishLimits::default(),
            poll_every: Duration::from_secs(1),
            poll_degraded: Duration::from_millis(100),
            recheck_every: Duration::from_secs(10),
            bus_heartbeat_every: Duration::from_millis(200),
            bus_silence: Duration::from_millis(350),
            retention: RetentionLimits::default(),
            retention_every: Duration::from_secs(60),
            presence_lifetime: Duration::from_secs(15),
            drain_window: Duration::from_secs(10),
        }
    }
}

/// How often the streams are counted.
const COUNT_EVERY: Duration = Duration::from_secs(1);

/// Spawns a task that does a job again and again, never two at once.
macro_rules! every {
    ($tasks:ident, $period:expr, $job:expr) => {
        let mut ticks = interval($period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        $tasks.spawn(async move {
            loop {
                ticks.tick().await;
                $job;
            }
        });
    };
}

/// Why a node does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Its bus.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// What it polls its sockets with.
    #[error("the threads that write to listeners cannot be started: {0}")]
    Reactors(#[from] io::Error),
}

/// A running node.
pub struct Node {
    /// What HTTP serves.
    pub services: Services,
    hub: Arc<Hub>,
    drain_window: Duration,
    stop: CancellationToken,
}

impl Node {
    /// Starts a node's tasks; they end with [`Node::stop`]. It serves streams as soon as it has seen the log.
    pub fn start(
        store: Store,
        bus_url: &str,
        ttl: Ttl,
        rules: TopicRules,
        limits: NodeLimits,
    ) -> Result<Self, StartError> {
        let (bus, events) = Bus::open(bus_url, &limits.bus)?;
        let polls = (0..limits.reactors.clamp(1, MAX_REACTORS)).map(|_| hub::inbox());
        let polls = polls.collect::<io::Result<Vec<_>>>()?;
        let name = format!("{:016x}", rand::rng().random::<u64>());
        bus.subscribe(message::GLOBAL);
        bus.subscribe(&node_channel(&name));
        let inboxes = polls.iter().map(|(_, inbox)| inbox.clone()).collect();
        let parts = Parts::new(store, bus, ttl, rules, name, inboxes, &limits);
        Ok(parts.start(events, polls, limits)?)
    }

    /// Ends the node's tasks and threads.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Turns unready, closes all streams, spread over the drain window, waits for them to go, and leaves the cluster.
    pub async fn drain(&self) {
        let Services { readiness, status, .. } = &self.services;
        readiness.begin_draining();
        tokio::join!(close_streams(&self.hub, self.drain_window), status.announce());
        status.depart().await;
    }
}

/// The parts, before they run.
struct Parts {
    store: Store,
    bus: Bus,
    ttl: Ttl,
    rules: TopicRules,
    name: String,
    hub: Arc<Hub>,
    progress: Arc<Progress>,
    streams: Arc<Streams>,
    presence: Arc<Presence>,
    stop: CancellationToken,
    /// The history in force, and what messages are written with.
    epoch: watch::Sender<Option<Epoch>>,
    writer: MessageWriter,
}

impl Parts {
    fn new(
        store: Store,
        bus: Bus,
        ttl: Ttl,
        rules: TopicRules,
        name: String,
        inboxes: Vec<Arc<hub::Inbox>>,
        limits: &NodeLimits,
    ) -> Self {
        let for_hub = bus.clone();
        let hub = Hub::new(&limits.hub, inboxes, move |interest| follow(&for_hub, &interest));
        let (hub, clock) = (Arc::new(hub), Arc::new(Clock::default()));
        let (epoch, known_epoch) = watch::channel(None);
        let writer = MessageWriter::new(&name, known_epoch);
        Self {
            streams: Arc::new(Streams::new(hub.clone(), limits.session.retry)),
            presence: Arc::new(Presence::new(
                hub.clone(),
                ttl.clone(),
                bus.clone(),
                writer.clone(),
                limits.presence_lifetime,
            )),
            progress: Arc::new(Progress::new(clock)),
            hub,
            store,
            bus,
            ttl,
            rules,
            name,
            stop: CancellationToken::new(),
            epoch,
            writer,
        }
    }

    fn start(
        self,
        events: BusEvents,
        polls: Vec<(mio::Poll, Arc<hub::Inbox>)>,
        limits: NodeLimits,
    ) -> io::Result<Node> {
        let mut tasks = JoinSet::new();
        let reads = Arc::new(Reads::new(self.store.on(Pool::Replay), limits.reads.clone()));
        let shared = reactor::Shared {
            hub: self.hub.clone(),
            clock: self.progress.clock.clone(),
            limits: SessionLimits { page: reads.page(), ..limits.session.clone() },
            reads,
            delivered: self.streams.counter(),
        };
        tasks.spawn(reactor::start(&shared, polls)?);
        let known_epoch = self.epoch.subscribe();
        let notifier = Notifier::over(self.bus.clone(), self.writer.clone());
        let (log, authentication) = (self.store.on(Pool::Log), self.store.on(Pool::Authentication));
        let accounts = Accounts::new(authentication.clone(), self.ttl.clone(), notifier.clone());
        let parts = PublisherParts {
            store: self.store.clone(),
            names: accounts.names().clone(),
            applied: self.hub.applied_cell(),
            bus: self.bus.clone(),
            messages: self.writer.clone(),
            ttl: self.ttl.clone(),
        };
        let publisher = Publisher::start(&mut tasks, parts, &limits.publish);
        let readiness =
            Readiness::new(self.progress.clone(), self.bus.clone(), self.ttl.clone(), self.stop.clone());
        let readiness = Arc::new(readiness);
        let status = Arc::new(Status::new(
            self.name.clone(),
            self.progress.clone(),
            readiness.clone(),
            self.hub.clone(),
            publisher.clone(),
            self.streams.clone(),
            self.ttl.clone(),
        ));
        self.spawn_timers(&mut tasks, &status, &limits);
        let mut endings = Endings::new(authentication, accounts.clone(), self.hub.clone());
        every!(tasks, limits.poll_every, endings.follow().await);
        let expirations = Expirations {
            hub: self.hub.clone(),
            store: log.clone(),
            clock: self.progress.clock.clone(),
            epoch: known_epoch,
        };
        tasks.spawn(expirations.watch(self.ttl.clone()));
        tasks.spawn(presence::run(self.presence.clone()));
        let feed = Feed {
            hub: self.hub.clone(),
            store: log,
            presence: self.presence.clone(),
            accounts: accounts.clone(),
            progress: self.progress,
            epoch: self.epoch,
            writer: self.writer,
            sequencer: limits.sequencer,
            poll_every: limits.poll_every,
            poll_degraded: limits.poll_degraded,
            bus_silence: limits.bus_silence,
        };
        tasks.spawn(subscriber::run(feed, events));
        tokio::spawn(supervise(self.stop.clone(), tasks, self.hub.clone()));
        Ok(Node {
            services: Services {
                accounts,
                inbox: Inbox::new(self.store.clone(), self.rules.clone(), notifier.clone()),
                publisher,
                streams: self.streams,
                presence: self.presence,
                status,
                readiness,
                store: self.store,
                rules: self.rules,
                notifier,
            },
            hub: self.hub,
            drain_window: limits.drain_window,
            stop: self.stop,
        })
    }

    /// What is done by the clock.
    fn spawn_timers(&self, tasks: &mut JoinSet<()>, status: &Arc<Status>, limits: &NodeLimits) {
        let (bus, writer, progress) = (self.bus.clone(), self.writer.clone(), self.progress.clone());
        every!(tasks, limits.bus_heartbeat_every, send_bus_heartbeat(&bus, &writer, &progress).await);
        let (hub, store) = (self.hub.clone(), self.store.on(Pool::Authentication));
        let sweep = Arc::new(Sweep { hub, store });
        let noting = sweep.clone();
        every!(tasks, limits.recheck_every, sweep.recheck().await);
        every!(tasks, SEEN_EVERY, noting.note_use().await);
        let hub = self.hub.clone();
        every!(tasks, COUNT_EVERY, metrics::gauge!("carillon_listeners").set(hub.len() as f64));
        let (store, clock) = (self.store.clone(), self.progress.clock.clone());
        let mut retention = Retention::new(store, clock, limits.retention.clone());
        every!(tasks, limits.retention_every, retention.run().await);
        let status = status.clone();
        every!(tasks, ANNOUNCE_EVERY, status.announce().await);
    }
}

/// Subscribes to what somebody here listens for.
fn follow(bus: &Bus, interest: &Interest) {
    let (channel, wanted) = match interest {
        Interest::User(user, wanted) => (message::user_channel(*user), *wanted),
        Interest::Topic(topic, wanted) => (message::topic_channel(topic), *wanted),
    };
    if wanted { bus.subscribe(&channel) } else { bus.unsubscribe(&channel) }
}

/// Stops the node when one of its tasks ends early: it would look alive and deliver nothing.
async fn supervise(stop: CancellationToken, mut tasks: JoinSet<()>, hub: Arc<Hub>) {
    tokio::select! {
        () = stop.cancelled() => {}
        ended = tasks.join_next() => {
            tracing::error!(?ended, "a task of this node ended: stopping the node");
            stop.cancel();
        }
    }
    tasks.shutdown().await;
    hub.stop();
}

#[cfg(test)]
mod tests;
