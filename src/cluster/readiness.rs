//! Whether this node should get new listeners.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::bus::Bus;
use crate::bus::message::{Message, MessageWriter, node_channel};
use crate::delivery::Progress;
use crate::event::rfc3339;
use crate::redis::OutageReport;
use crate::ttl::Ttl;

/// One reason why a node is not ready.
pub type Unready = &'static str;

/// For how long no bus heartbeat may come back before the node counts as cut off.
const CUT_OFF_AFTER: Duration = Duration::from_secs(5);

/// The last error of a server that a node needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerError {
    /// The server's error code, or a category; holds no secret.
    pub error: String,
    /// When it began, in RFC 3339, by the database's clock.
    pub since: String,
}

/// See the module.
#[derive(Debug)]
pub struct Readiness {
    progress: Arc<Progress>,
    bus: Bus,
    ttl: Ttl,
    draining: CancellationToken,
    stop: CancellationToken,
}

impl Readiness {
    /// Of a node whose tasks end with `stop`.
    pub fn new(progress: Arc<Progress>, bus: Bus, ttl: Ttl, stop: CancellationToken) -> Self {
        Self { progress, bus, ttl, draining: CancellationToken::new(), stop }
    }

    /// Why this node should get no new listeners; empty when it is ready.
    pub fn unready(&self) -> Vec<Unready> {
        let mut reasons = Vec::new();
        reasons.extend(self.progress.store_trouble());
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
        self.progress.store_trouble().is_none()
    }

    /// Whether the bus brings back this node's heartbeats.
    pub fn is_bus_ok(&self) -> bool {
        self.progress.has_received_bus_heartbeat_within(CUT_OFF_AFTER)
    }

    /// What is wrong with the server behind the bus.
    pub fn bus_error(&self) -> Option<ServerError> {
        self.bus.outage().map(|outage| self.server_error(outage))
    }

    /// What is wrong with the server behind the expiring keys. A node is ready without it.
    pub fn ttl_error(&self) -> Option<ServerError> {
        self.ttl.outage().map(|outage| self.server_error(outage))
    }

    fn server_error(&self, outage: OutageReport) -> ServerError {
        let lasts = i64::try_from(outage.since.elapsed().as_millis()).unwrap_or(0);
        ServerError { error: outage.error, since: rfc3339(self.progress.clock.now() - lasts) }
    }

    /// Whether the node was asked to stop.
    pub fn is_draining(&self) -> bool {
        self.draining.is_cancelled()
    }

    /// From now on the node is not ready.
    pub fn begin_draining(&self) {
        self.draining.cancel();
    }

    /// Resolves when the node was asked to stop.
    pub async fn draining(&self) {
        self.draining.cancelled().await;
    }

    /// Resolves when the node's tasks have ended or are ending.
    pub async fn stopped(&self) {
        self.stop.cancelled().await;
    }
}

/// Sends a bus heartbeat, a message to this node itself: it is ready as long as they come back.
pub async fn send_bus_heartbeat(bus: &Bus, writer: &MessageWriter, progress: &Progress) {
    let Some(message) = writer.encode(&Message::Heartbeat(progress.now())) else { return };
    if let Err(error) = bus.publish(&[(node_channel(writer.sender()), message)]).await {
        tracing::debug!(%error, "a bus heartbeat could not be sent");
    }
}
