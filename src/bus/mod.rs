//! The bus: carries committed events from node to node, fast.
//!
//! # Contract
//! - **At most once.** It may lose, repeat or reorder anything, and be down for as long as it likes; nobody
//!   waits for it. Messages are opaque bytes.
//! - `publish` sends several messages in the order given, in one round trip; an error means that none, some or
//!   all were sent. It fails at once while the bus is known to be down, and within a deadline otherwise. Over
//!   several servers (Redis Cluster) the order holds on each, and the last message waits a little until the
//!   others are taken; a server that is down costs the messages on it and delays no others.
//! - Whatever may have cost this node messages (a lost connection, silence past the deadline, an overrun of
//!   the receiving queue) is reported as [`BusEvent::Gap`]; when messages flow again on everything that was
//!   subscribed, [`BusEvent::Restored`] follows. Between the two, messages may or may not come.
//! - A channel that was subscribed stays so across reconnections. When `subscribe` returns, the channel is desired;
//!   [`BusEvent::Subscribed`] means that messages published from then on will come.
//! - The receiving queue is bounded; the reader never blocks the connection: overrun is a gap, counted.
//! - What a node delivers to itself ([`Bus::deliver_here`]) takes the same queue and nothing else: it comes whatever the
//!   server does, as it is, to this member alone.
//!
//! Chosen by URL: `memory:`, or one of [`crate::redis`]: `redis://…`, `redis+sentinel://…`,
//! `redis+cluster://…`. One conformance suite (`tests/bus_conformance.rs`) runs against all.

mod desired;
mod memory;
pub mod message;
mod notifier;
mod receive_queue;
mod redis;

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
pub use notifier::Notifier;
pub use receive_queue::BusEvents;

use self::message::Received;
use crate::redis::{OutageReport, is_redis};

/// Bounds on what the bus may cost.
#[derive(Debug, Clone)]
pub struct BusLimits {
    /// How many received messages may wait for the reader.
    pub queue: usize,
    /// How many bytes of received messages may wait for the reader.
    pub queue_bytes: u32,
    /// How long an answer, also to a PING, may take before the connection counts as broken.
    pub deadline: Duration,
    /// How often a PING is sent.
    pub ping_every: Duration,
    /// The longest pause between attempts to reconnect.
    pub max_backoff: Duration,
}

impl Default for BusLimits {
    fn default() -> Self {
        Self {
            queue: 65_536,
            queue_bytes: 64 << 20,
            deadline: Duration::from_secs(2),
            ping_every: Duration::from_secs(1),
            max_backoff: Duration::from_secs(1),
        }
    }
}

/// What the one reader of the bus gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BusEvent {
    /// A message on a subscribed channel.
    Message {
        /// The channel.
        channel: String,
        /// What was published.
        payload: Bytes,
    },
    /// What this node delivered to itself.
    Own(Box<Received>),
    /// Messages on this channel come from now on.
    Subscribed(String),
    /// Messages may have been lost since the last one.
    Gap,
    /// The connection is good and every desired channel subscribed.
    Restored,
}

/// Why something was not published.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the bus is not available: {0}")]
pub struct BusError(pub String);

/// One node's connection to the bus; see the module's contract. Cheap to clone.
#[derive(Clone)]
pub struct Bus(Backend);

#[derive(Clone)]
enum Backend {
    Memory(memory::MemoryBus),
    Redis(std::sync::Arc<redis::RedisBus>),
}

impl Bus {
    /// Connects to the bus at `url`, and gives what comes from it. It keeps trying by itself for as long as
    /// the receiver lives; an unusable URL is an error at once, an unreachable server is not.
    ///
    /// `memory:` is a bus of its own each time; `memory:name` is shared by all in this process who name it.
    pub fn open(url: &str, limits: &BusLimits) -> Result<(Self, BusEvents), BusError> {
        match url.split_once(':').map(|(scheme, _)| scheme) {
            Some("memory") => {
                let (bus, events) = memory::MemoryBus::open(url, limits);
                Ok((Self(Backend::Memory(bus)), events))
            }
            _ if is_redis(url) => {
                let (bus, events) = redis::RedisBus::open(url, limits)?;
                Ok((Self(Backend::Redis(std::sync::Arc::new(bus))), events))
            }
            _ => Err(BusError(
                "the bus's URL must begin with memory:, redis://, redis+sentinel:// or redis+cluster://"
                    .into(),
            )),
        }
    }

    /// Sends messages (channel, payload) in this order.
    pub async fn publish(&self, messages: &[(String, Bytes)]) -> Result<(), BusError> {
        match &self.0 {
            Backend::Memory(bus) => bus.publish(messages),
            Backend::Redis(bus) => bus.publish(messages).await,
        }
    }

    /// Puts something of this node before its own reader, without the server; an overrun is a gap.
    pub fn deliver_here(&self, own: Received) {
        let queue = match &self.0 {
            Backend::Memory(bus) => bus.receive_queue(),
            Backend::Redis(bus) => bus.receive_queue(),
        };
        queue.own(own);
    }

    /// Whether anybody else may hear what is published. Only a bus in this process knows that nobody does.
    pub fn may_have_others(&self) -> bool {
        match &self.0 {
            Backend::Memory(bus) => bus.has_others(),
            Backend::Redis(_) => true,
        }
    }

    /// The outage of the server behind the bus that lasts, if any. A bus in this process has none.
    pub fn outage(&self) -> Option<OutageReport> {
        match &self.0 {
            Backend::Memory(_) => None,
            Backend::Redis(bus) => bus.outage(),
        }
    }

    /// Asks for a channel's messages.
    pub fn subscribe(&self, channel: &str) {
        match &self.0 {
            Backend::Memory(bus) => bus.subscribe(channel),
            Backend::Redis(bus) => bus.subscribe(channel),
        }
    }

    /// Asks for no more of a channel's messages.
    pub fn unsubscribe(&self, channel: &str) {
        match &self.0 {
            Backend::Memory(bus) => bus.unsubscribe(channel),
            Backend::Redis(bus) => bus.unsubscribe(channel),
        }
    }
}

impl fmt::Debug for Bus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Backend::Memory(_) => "Bus(memory)",
            Backend::Redis(_) => "Bus(redis)",
        })
    }
}
