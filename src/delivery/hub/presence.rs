//! What presence needs of the hub: who listens to which topic here, where listeners came or went, and who must be sent
//! who is there. Under a lock of its own: no event waits for it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, MutexGuard, PoisonError};

use super::{Hub, Message, SessionKey};
use crate::delivery::frame::ServerEvent;
use crate::delivery::request::Subscription;
use crate::event::{Topic, UserId};
use crate::store::Reader;

/// What has changed since it was last taken. Marks only: a topic with many listeners is read once for all
/// that came and went meanwhile.
#[derive(Debug, Default)]
pub struct Changes {
    /// Somebody came or went there.
    pub topics: HashSet<Topic>,
    /// These do not know who is there, or have lost it with what waited for them.
    pub unaware: HashMap<SessionKey, Arc<Reader>>,
}

/// Who listens to a topic on this node.
#[derive(Debug, Default)]
pub struct HereOnTopic {
    /// Each once, by name.
    pub users: BTreeMap<Arc<str>, UserId>,
    /// Whether any of them wants to know who else is there.
    pub is_watched: bool,
}

/// Who listens to topics here.
#[derive(Debug, Default)]
pub(super) struct Present {
    topics: HashMap<Topic, OnTopic>,
    changes: Changes,
}

#[derive(Debug, Default)]
struct OnTopic {
    /// Their names, and how many streams each has.
    users: HashMap<UserId, (Arc<str>, u32)>,
    /// How many streams want to know who is there.
    watching: u32,
}

impl Hub {
    fn present(&self) -> MutexGuard<'_, Present> {
        self.present.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A stream has begun.
    pub fn has_come(&self, session: SessionKey, subscription: &Subscription) {
        let reader = &subscription.reader;
        if reader.selector.topics.is_empty() {
            return;
        }
        let mut present = self.present();
        for topic in &reader.selector.topics {
            let on_topic = present.topics.entry(topic.clone()).or_default();
            on_topic.users.entry(reader.user).or_insert_with(|| (subscription.name.clone(), 0)).1 += 1;
            on_topic.watching += u32::from(subscription.wants_presence);
        }
        present.changes.topics.extend(reader.selector.topics.iter().cloned());
        if subscription.wants_presence {
            present.changes.unaware.insert(session, reader.clone());
        }
        self.on_presence.notify_one();
    }

    /// It is over.
    pub fn has_gone(&self, session: SessionKey, subscription: &Subscription) {
        let reader = &subscription.reader;
        if reader.selector.topics.is_empty() {
            return;
        }
        let mut present = self.present();
        for topic in &reader.selector.topics {
            let Some(on_topic) = present.topics.get_mut(topic) else { continue };
            on_topic.watching = on_topic.watching.saturating_sub(u32::from(subscription.wants_presence));
            if let Some((_, streams)) = on_topic.users.get_mut(&reader.user) {
                *streams -= 1;
                if *streams == 0 {
                    on_topic.users.remove(&reader.user);
                }
            }
            if on_topic.users.is_empty() {
                present.topics.remove(topic);
            }
        }
        present.changes.topics.extend(reader.selector.topics.iter().cloned());
        present.changes.unaware.remove(&session);
        self.on_presence.notify_one();
    }

    /// A stream that watches has lost who is there.
    pub fn needs_presence(&self, session: SessionKey, reader: &Arc<Reader>) {
        self.present().changes.unaware.insert(session, reader.clone());
        self.on_presence.notify_one();
    }

    /// Resolves when there are changes to take.
    pub async fn presence_changed(&self) {
        self.on_presence.notified().await;
    }

    /// The changes since this was last called.
    pub fn take_presence(&self) -> Changes {
        std::mem::take(&mut self.present().changes)
    }

    /// Who listens to a topic here.
    pub fn here_on(&self, topic: &Topic) -> HereOnTopic {
        let (users, watching): (Vec<_>, u32) = {
            let present = self.present();
            let Some(on_topic) = present.topics.get(topic) else { return HereOnTopic::default() };
            // Sorted without the lock: very many may listen, and streams that come and go wait for it.
            let users = on_topic.users.iter().map(|(user, (name, _))| (name.clone(), *user));
            (users.collect(), on_topic.watching)
        };
        HereOnTopic { users: users.into_iter().collect(), is_watched: watching > 0 }
    }

    /// Hands changes to those on a topic who know who was there before them.
    pub fn notify_presence(&self, topic: &Topic, changes: &[Arc<ServerEvent>]) {
        let changes: Arc<[Arc<ServerEvent>]> = changes.into();
        let guard = self.lock();
        let reactors = guard.state.interests.of_topic(topic);
        let inboxes = self.inboxes.iter().enumerate().filter(|(reactor, _)| reactors.has(*reactor));
        inboxes.for_each(|(_, inbox)| inbox.send(Message::PresenceChanged(topic.clone(), changes.clone())));
    }

    /// Hands a stream who is there, on all of its topics; from then on it gets changes.
    pub fn begin_presence(&self, session: SessionKey, reader: &Reader, present: Vec<Arc<ServerEvent>>) {
        let guard = self.lock();
        let inbox = self.inbox(guard.state.interests.reactor_of(reader.user));
        inbox.send(Message::BeginPresence(session, present));
    }
}
