//! Presence: who holds a stream on a topic, on whichever node.
//!
//! Each node shares who is on its topics in a table of its own ([`tables`]), and sends on a topic's channel who came to
//! it and who left it. A notice is fast and may be lost; the tables are read again and again, though only for topics
//! that somebody watches, and what a killed node wrote expires. One task ([`keeper`]) does all of it, so that what one
//! listener gets stands in one order: who is there, then who comes and who leaves.

mod keeper;
mod schedule;
mod tables;
mod topic_users;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::sync::{Mutex, Notify, mpsc};

use super::frame::ServerEvent;
use super::hub::Hub;
use crate::bus::Bus;
use crate::bus::message::MessageWriter;
use crate::event::Topic;
use crate::ttl::{Ttl, TtlError};
pub use keeper::run;
use topic_users::Name;

/// The most names shown of a topic.
const MAX_SHOWN: usize = 200;
/// How many notices of other nodes may wait; of more, the tables are read.
const QUEUE: usize = 1_024;

/// Who came to a node and who left it, on one topic.
#[derive(Debug)]
pub(super) struct RemoteChange {
    pub(super) topic: Topic,
    pub(super) node: String,
    pub(super) joined: Vec<String>,
    pub(super) left: Vec<String>,
}

/// Who is on a topic, as it is shown.
#[derive(Debug, Serialize)]
pub struct Present {
    topic: Topic,
    /// By name, and not all of very many.
    users: Vec<Name>,
    count: usize,
}

impl Present {
    fn new<'a>(topic: &Topic, users: impl ExactSizeIterator<Item = &'a Name>) -> Self {
        let count = users.len();
        Self { topic: topic.clone(), users: users.take(MAX_SHOWN).cloned().collect(), count }
    }

    fn server_event(&self) -> Arc<ServerEvent> {
        Arc::new(ServerEvent::presence(self))
    }
}

/// Who is present, and the way to the task that keeps it so.
pub struct Presence {
    hub: Arc<Hub>,
    ttl: Ttl,
    bus: Bus,
    writer: MessageWriter,
    /// How long a node's users count as present after it last said so.
    lifetime: Duration,
    remote: mpsc::Sender<RemoteChange>,
    /// Notices were lost, or the tables may have been: all is shared and read again.
    stale: Notify,
    /// Until the task takes it.
    inbox: Mutex<Option<mpsc::Receiver<RemoteChange>>>,
}

impl Presence {
    /// Of the listeners of `hub`, on the node whose messages `writer` writes and whose table lasts for `lifetime`.
    pub fn new(hub: Arc<Hub>, ttl: Ttl, bus: Bus, writer: MessageWriter, lifetime: Duration) -> Self {
        let (remote, inbox) = mpsc::channel(QUEUE);
        let (stale, inbox) = (Notify::new(), Mutex::new(Some(inbox)));
        Self { hub, ttl, bus, writer, lifetime, remote, stale, inbox }
    }

    /// A node, perhaps this one, sent who came and left.
    pub(super) fn remote_change(&self, change: RemoteChange) {
        if self.remote.try_send(change).is_err() {
            metrics::counter!("carillon_presence_notices_dropped_total").increment(1);
            self.mark_stale();
        }
    }

    /// The bus was away, and maybe the tables were lost meanwhile.
    pub(super) fn mark_stale(&self) {
        self.stale.notify_one();
    }

    /// Who is on a topic, by the nodes' tables and by who listens here.
    pub async fn present(&self, topic: &Topic) -> Result<Present, TtlError> {
        let mut users: BTreeSet<Name> = self.hub.here_on(topic).users.into_keys().collect();
        for (_, places) in tables::read(&self.ttl, vec![topic.clone()], None).await {
            users.extend(places?.into_iter().map(|(_, name)| Name::from(name)));
        }
        Ok(Present::new(topic, users.iter()))
    }
}
