//! Whether this node should get new listeners.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::bus::Bus;
use crate::bus::message::{Message, MessageWriter, node_channel};
use crate::delivery::Progress;

/// One reason why a node is not ready.
pub type Unready = &'static str;

/// How many heartbeats may fail to come back before the bus counts as down.
const MISSED_HEARTBEATS: u32 = 5;

/// See the module.
#[derive(Debug)]
pub struct Readiness {
    progress: Arc<Progress>,
    heartbeat_every: Duration,
    draining: CancellationToken,
    stop: CancellationToken,
}

impl Readiness {
    /// Of a node whose tasks end with `stop`.
    pub fn new(progress: Arc<Progress>, heartbeat_every: Duration, stop: CancellationToken) -> Self {
        Self { progress, heartbeat_every, draining: CancellationToken::new(), stop }
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

    /// Whether the log could be read lately.
    pub fn is_store_ok(&self) -> bool {
        self.progress.is_store_ok()
    }

    /// Whether the bus brings back this node's heartbeat.
    pub fn is_bus_ok(&self) -> bool {
        self.progress.has_received_heartbeat_within(self.heartbeat_every * MISSED_HEARTBEATS)
    }

    /// Whether the node was told to stop.
    pub fn is_draining(&self) -> bool {
        self.draining.is_cancelled()
    }

    /// From now on the node is not ready.
    pub fn begin_draining(&self) {
        self.draining.cancel();
    }

    /// Resolves when the node was told to stop.
    pub async fn draining(&self) {
        self.draining.cancelled().await;
    }

    /// Resolves when the node's tasks have ended or are ending.
    pub async fn stopped(&self) {
        self.stop.cancelled().await;
    }
}

/// A message to itself through the bus: readiness rests on its coming back.
pub async fn send_heartbeat(bus: &Bus, writer: &MessageWriter, progress: &Progress) {
    let Some(message) = writer.encode(&Message::Heartbeat(progress.now())) else { return };
    if let Err(error) = bus.publish(&[(node_channel(writer.sender()), message)]).await {
        tracing::debug!(%error, "the heartbeat could not be sent");
    }
}
