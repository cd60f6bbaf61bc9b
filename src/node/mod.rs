//! One node: applies the log in order and looks after its streams. Several may live in one process.

pub mod clock;
pub mod figures;
mod housekeeping;
pub mod presence;
mod sequencer;
pub mod stream;
mod subscriber;
mod waiting;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rand::RngExt as _;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::bus::message::{self, Message, Notice};
use crate::bus::{Bus, BusLimits};
use crate::event::Epoch;
use crate::hub::{CareLimits, Closing, Hub, HubLimits, Interest};
use crate::publish::{PublishLimits, Publisher};
use crate::store::{Credential, LogState, Store, StoreError};
use crate::ttl::Ttl;
use clock::Clock;
use figures::Teller;
use presence::Presence;
pub use sequencer::SequencerLimits;
use stream::{StreamLimits, Streams};

/// Bounds and rhythms of a node.
#[derive(Debug, Clone)]
pub struct NodeLimits {
    /// Of the bus.
    pub bus: BusLimits,
    /// Of the sequencer.
    pub sequencer: SequencerLimits,
    /// Of listeners.
    pub hub: HubLimits,
    /// Of looking after them.
    pub care: CareLimits,
    /// Of streams.
    pub stream: StreamLimits,
    /// Of publishing.
    pub publish: PublishLimits,
    /// How often the log's head is compared with what was applied.
    pub reconcile_every: Duration,
    /// The same, while the bus is down.
    pub reconcile_degraded: Duration,
    /// How often sessions and tokens behind open streams are checked in the store; at most 30 s.
    pub recheck_every: Duration,
    /// The node's heartbeat through the bus; not back for five of these, the node is not ready.
    pub heartbeat_every: Duration,
    /// How long events are kept.
    pub retention: Duration,
    /// How often old events are removed.
    pub retire_every: Duration,
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
            care: CareLimits::default(),
            stream: StreamLimits::default(),
            publish: PublishLimits::default(),
            reconcile_every: Duration::from_secs(1),
            reconcile_degraded: Duration::from_millis(100),
            recheck_every: Duration::from_secs(10),
            heartbeat_every: Duration::from_secs(1),
            retention: Duration::from_secs(30 * 86_400),
            retire_every: Duration::from_secs(60),
            presence_lifetime: Duration::from_secs(15),
            drain_window: Duration::from_secs(10),
        }
    }
}

/// How the node is; what readiness and metrics show.
#[derive(Debug, Default)]
pub struct Health {
    store_ok: AtomicBool,
    draining: CancellationToken,
    /// Milliseconds since the node began, when its own heartbeat last came back; 0: never.
    heartbeat_at: AtomicU64,
}

/// How many ended sessions and tokens one notice names.
const ENDED_AT_ONCE: usize = 500;

/// One reason why a node is not ready.
pub type Unready = &'static str;

/// A running node.
pub struct Node {
    /// Who listens here.
    pub hub: Arc<Hub>,
    /// How streams are opened.
    pub streams: Arc<Streams>,
    /// How events are published.
    pub publisher: Publisher,
    /// The database's clock.
    pub clock: Arc<Clock>,
    store: Store,
    bus: Bus,
    ttl: Ttl,
    presence: Presence,
    health: Health,
    teller: Teller,
    limits: NodeLimits,
    began: Instant,
    name: String,
    /// The history in force, for those who announce.
    epoch: watch::Sender<Option<Epoch>>,
    stop: CancellationToken,
}

impl Node {
    /// Starts a node's tasks; they end with [`Node::stop`]. It serves streams as soon as it has seen the log.
    pub fn start(
        store: Store,
        bus_url: &str,
        ttl: Ttl,
        limits: NodeLimits,
    ) -> Result<Arc<Self>, crate::bus::BusError> {
        let (bus, events) = Bus::open(bus_url, &limits.bus)?;
        let for_hub = bus.clone();
        let hub = Arc::new(Hub::new(limits.hub.clone(), move |interest| follow(&for_hub, &interest)));
        let clock = Arc::new(Clock::default());
        let name = format!("{:016x}", rand::rng().random::<u64>());
        bus.subscribe(message::GLOBAL);
        bus.subscribe(&message::node_channel(&name));
        let (epoch, known_epoch) = watch::channel(None);
        let mut tasks = JoinSet::new();
        let node = Arc::new(Self {
            streams: Streams::new(
                hub.clone(),
                store.clone(),
                clock.clone(),
                limits.stream.clone(),
                limits.care.heartbeat_every,
            ),
            publisher: Publisher::start(
                &mut tasks,
                store.clone(),
                hub.clone(),
                bus.clone(),
                ttl.clone(),
                known_epoch,
                &limits.publish,
            ),
            hub,
            clock,
            store,
            bus,
            ttl,
            presence: Presence::new(),
            health: Health::default(),
            teller: Teller::default(),
            limits,
            began: Instant::now(),
            name,
            epoch,
            stop: CancellationToken::new(),
        });
        tasks.spawn(subscriber::run(node.clone(), events));
        tasks.spawn(presence::run(node.clone()));
        housekeeping::spawn(&node, &mut tasks);
        tokio::spawn(supervise(node.stop.clone(), tasks));
        Ok(node)
    }

    /// Ends the node's tasks.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Why this node should get no new listeners; empty when it is ready.
    pub fn unready(&self) -> Vec<Unready> {
        let mut reasons = Vec::new();
        if !self.is_store_ok() {
            reasons.push("the store is not reachable");
        }
        if self.is_draining() {
            reasons.push("the node is draining");
        }
        if !self.is_bus_ok() {
            reasons.push("the bus does not bring back this node's heartbeat");
        }
        reasons
    }

    fn is_store_ok(&self) -> bool {
        self.health.store_ok.load(Ordering::Relaxed)
    }

    fn is_bus_ok(&self) -> bool {
        let heartbeat_at = Duration::from_millis(self.health.heartbeat_at.load(Ordering::Relaxed));
        let silence = self.began.elapsed().saturating_sub(heartbeat_at);
        !heartbeat_at.is_zero() && silence <= self.limits.heartbeat_every * 5
    }

    fn is_draining(&self) -> bool {
        self.health.draining.is_cancelled()
    }

    /// Resolves when the node was told to stop.
    pub async fn draining(&self) {
        self.health.draining.cancelled().await;
    }

    /// Closes all streams, spread over the drain window, and waits for them to go; then leaves the cluster.
    pub async fn drain(&self) {
        self.health.draining.cancel();
        tokio::join!(self.close_streams(), self.tell_figures());
        self.depart().await;
    }

    async fn close_streams(&self) {
        let listeners = self.hub.listeners();
        let pause = self.limits.drain_window / u32::try_from(listeners.len().max(1)).unwrap_or(u32::MAX);
        let begun = tokio::time::Instant::now();
        for (index, listener) in listeners.iter().enumerate() {
            tokio::time::sleep_until(begun + pause * u32::try_from(index).unwrap_or(u32::MAX)).await;
            listener.close(Closing::Reconnect);
        }
        let gone = async {
            while !self.hub.is_empty() {
                self.hub.listeners().iter().for_each(|l| l.close(Closing::Reconnect));
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        if tokio::time::timeout(Duration::from_secs(2), gone).await.is_err() {
            self.hub.listeners().iter().for_each(|l| l.connection.cancel());
        }
    }

    /// Tells all nodes something that changes open pages. At most once; the store has the truth.
    pub async fn tell(&self, channel: String, notice: Notice) {
        let message = (channel, Message::Notice(notice).encode());
        if let Err(error) = self.bus.publish(&[message]).await {
            metrics::counter!("carillon_notices_failed_total").increment(1);
            tracing::debug!(%error, "a notice failed");
        }
    }

    /// Closes the streams that rest on what has just ended, on all nodes.
    pub async fn end(&self, ended: &[Credential]) {
        for some in ended.chunks(ENDED_AT_ONCE) {
            self.hub.end(some);
            self.tell(message::GLOBAL.to_owned(), Notice::Ended(some.to_vec())).await;
        }
    }

    /// Reads where the log stands, and learns the database's time and health from it.
    pub async fn log_state(&self) -> Result<LogState, StoreError> {
        let state = self.store.log_state().await;
        self.health.store_ok.store(state.is_ok(), Ordering::Relaxed);
        if let Ok(state) = &state {
            self.clock.set(state.now);
        }
        state
    }

    fn heard_heartbeat(&self) {
        let at = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.health.heartbeat_at.store(at.max(1), Ordering::Relaxed);
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

/// A task of a node that ends before it is told to would leave a node that looks alive and delivers nothing.
async fn supervise(stop: CancellationToken, mut tasks: JoinSet<()>) {
    tokio::select! {
        () = stop.cancelled() => {}
        ended = tasks.join_next() => {
            tracing::error!(?ended, "a task of this node ended: stopping the node");
            stop.cancel();
        }
    }
    tasks.shutdown().await;
}

impl Node {
    /// Resolves when the node's tasks have ended or are ending.
    pub async fn stopped(&self) {
        self.stop.cancelled().await;
    }
}

#[cfg(test)]
mod tests;
