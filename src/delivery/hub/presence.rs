//! What presence needs of the hub: on which topics listeners came or went, and who must be sent who is there.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use super::{Hub, Listener, QueueItem, Routing};
use crate::delivery::frame::ServerEvent;
use crate::event::{Topic, UserId};

/// What has changed since it was last taken. Marks only: a topic with many listeners is read once for all
/// that came and went meanwhile.
#[derive(Debug, Default)]
pub struct Changes {
    /// Somebody came or went there.
    pub topics: HashSet<Topic>,
    /// These, by their number, do not know who is there, or have lost it with their queue.
    pub unaware: HashMap<u64, Arc<Listener>>,
}

/// Who listens to a topic on this node.
#[derive(Debug)]
pub struct HereOnTopic {
    /// Each once, by name.
    pub users: BTreeMap<Arc<str>, UserId>,
    /// Whether any of them wants to know who else is there.
    pub is_watched: bool,
}

impl Routing {
    pub(super) fn has_come(&mut self, listener: &Arc<Listener>) {
        self.presence.topics.extend(listener.reader.selector.topics.iter().cloned());
        self.needs_presence(listener);
    }

    pub(super) fn needs_presence(&mut self, listener: &Arc<Listener>) {
        if listener.wants_presence {
            listener.set_knows_presence(false);
            self.presence.unaware.insert(listener.id, listener.clone());
        }
    }

    pub(super) fn has_gone(&mut self, listener: &Listener) {
        self.presence.topics.extend(listener.reader.selector.topics.iter().cloned());
        self.presence.unaware.remove(&listener.id);
    }
}

impl Hub {
    /// Resolves when there are changes to take.
    pub async fn presence_changed(&self) {
        self.on_presence.notified().await;
    }

    /// The changes since this was last called.
    pub fn take_presence(&self) -> Changes {
        std::mem::take(&mut self.lock().routing.presence)
    }

    /// Who listens to a topic here.
    pub fn here_on(&self, topic: &Topic) -> HereOnTopic {
        // Sorted without the lock: very many may listen, and routing waits for it.
        let listeners: Vec<Arc<Listener>> =
            self.lock().routing.by_topic.get(topic).cloned().unwrap_or_default();
        HereOnTopic {
            users: listeners.iter().map(|listener| (listener.name.clone(), listener.reader.user)).collect(),
            is_watched: listeners.iter().any(|listener| listener.wants_presence),
        }
    }

    /// Queues changes for those on a topic who know who was there before them.
    pub fn notify_presence(&self, topic: &Topic, changes: &[Arc<ServerEvent>]) {
        let guard = self.lock();
        for listener in guard.routing.by_topic.get(topic).into_iter().flatten() {
            if listener.wants_presence && listener.knows_presence() {
                changes.iter().for_each(|change| listener.push(QueueItem::Server(change.clone())));
            }
        }
    }

    /// Queues who is there, on all topics of a listener; from then on it gets changes.
    pub fn begin_presence(&self, listener: &Listener, present: &[Arc<ServerEvent>]) {
        let _guard = self.lock();
        present.iter().for_each(|topic| listener.push(QueueItem::Server(topic.clone())));
        listener.set_knows_presence(true);
    }
}
