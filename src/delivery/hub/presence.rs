//! What presence needs of the hub: on which topics listeners came or went, and who is to be told.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use super::{Hub, Item, Listener, Routing};
use crate::event::Topic;

/// What has changed since it was last asked for. Marks only: a topic with many listeners is looked at once for all
/// that came and went meanwhile.
#[derive(Debug, Default)]
pub struct Changes {
    /// Somebody came or went there.
    pub topics: HashSet<Topic>,
    /// These, by their number, have not been told who is there, or have lost it with their queue.
    pub untold: HashMap<u64, Arc<Listener>>,
}

impl Routing {
    pub(super) fn has_come(&mut self, listener: &Arc<Listener>) {
        self.presence.topics.extend(listener.reader.selector.topics.iter().cloned());
        self.is_untold(listener);
    }

    pub(super) fn is_untold(&mut self, listener: &Arc<Listener>) {
        if listener.wants_presence {
            listener.set_told(false);
            self.presence.untold.insert(listener.id, listener.clone());
        }
    }

    pub(super) fn has_gone(&mut self, listener: &Listener) {
        self.presence.topics.extend(listener.reader.selector.topics.iter().cloned());
        self.presence.untold.remove(&listener.id);
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

    /// The names of those who listen to a topic here; each once.
    pub fn names_on(&self, topic: &Topic) -> BTreeSet<Arc<str>> {
        // Sorted without the lock: very many may listen, and routing waits for it.
        let names: Vec<Arc<str>> = {
            let guard = self.lock();
            let listeners = guard.routing.by_topic.get(topic).into_iter().flatten();
            listeners.map(|listener| listener.name.clone()).collect()
        };
        names.into_iter().collect()
    }

    /// Tells of a change those on a topic who know who was there before it.
    pub fn tell_presence(&self, topic: &Topic, bodies: &[Arc<str>]) {
        let guard = self.lock();
        for listener in guard.routing.by_topic.get(topic).into_iter().flatten() {
            if listener.wants_presence && listener.is_told() {
                bodies.iter().for_each(|body| listener.push(Item::Notice(body.clone())));
            }
        }
    }

    /// Tells a listener who is there, on all its topics; from then on it is told of changes.
    pub fn begin_presence(&self, listener: &Listener, bodies: &[Arc<str>]) {
        let _guard = self.lock();
        bodies.iter().for_each(|body| listener.push(Item::Notice(body.clone())));
        listener.set_told(true);
    }
}
