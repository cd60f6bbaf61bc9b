//! The task that keeps presence up to date: shares who is here, reads who is elsewhere as far as somebody here wants
//! to know it, and queues what changed for those.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::sleep_until;

use super::schedule::Schedule;
use super::tables::{self, OwnTable};
use super::topic_users::{Change, Name, TopicUsers};
use super::{Presence, Present, RemoteChange};
use crate::bus::message::{Message, Notice, topic_channel};
use crate::delivery::frame::ServerEvent;
use crate::delivery::hub::Changes;
use crate::event::Topic;

/// How often changes are handled, at most.
const TICK: Duration = Duration::from_millis(250);
/// How long somebody may be gone before that is sent: a reload, or another node.
const GRACE: Duration = Duration::from_secs(2);
/// How soon a topic that is newly watched here is read once more: notices from before its channel was subscribed are
/// missed.
const SECOND_LOOK: Duration = Duration::from_secs(1);
/// How soon it is tried again when a table could not be reached.
const RETRY: Duration = Duration::from_secs(1);
/// How often in a lifetime a node renews its table, and how often it reads those of others.
const RENEWALS: u32 = 3;
const READS: u32 = 5;
/// For which part of a lifetime somebody may be missing from a table and not have left: more than between two renewals,
/// at which a node notices that its table was lost.
const PATIENCE: f64 = 0.5;
/// The most changes of a topic that are sent one by one; of more, those who watch get anew who is there.
const MAX_CHANGES: usize = 50;
/// The most names in one notice.
const MAX_NAMES: usize = 500;

/// Keeps presence up to date until the node ends.
pub async fn run(presence: Arc<Presence>) {
    let inbox = presence.inbox.lock().await.take();
    let Some(mut inbox) = inbox else { return };
    let mut keeper = Keeper::new(presence.clone());
    let mut ran = Instant::now() - TICK;
    loop {
        let mut first = None;
        tokio::select! {
            () = presence.hub.presence_changed() => {}
            () = presence.stale.notified() => keeper.refresh(),
            change = inbox.recv() => first = change,
            () = sleep_until(keeper.wake_at().into()) => {}
        }
        // What comes within a moment is handled together.
        sleep_until((ran + TICK).into()).await;
        ran = Instant::now();
        let mut remote: Vec<RemoteChange> = first.into_iter().collect();
        while let Ok(more) = inbox.try_recv() {
            remote.push(more);
        }
        keeper.turn(remote).await;
    }
}

struct Keeper {
    presence: Arc<Presence>,
    own: OwnTable,
    topics: HashMap<Topic, Known>,
    /// When those of other nodes on a topic are read: only of one that is watched.
    reads: Schedule,
    /// When somebody who is gone from here has left.
    leaves: Schedule,
    renew_at: Instant,
}

/// A topic that somebody here listens to, or did a moment ago.
#[derive(Default)]
struct Known {
    /// Of other nodes nobody, unless it is watched.
    users: TopicUsers,
    /// Whether somebody here wants to know who is there.
    is_watched: bool,
    /// Whether the next read is the first since it is watched.
    is_new: bool,
}

/// Who came to this node and who left it, on one topic.
#[derive(Default)]
struct Own {
    joined: Vec<Name>,
    left: Vec<Name>,
}

impl Keeper {
    fn new(presence: Arc<Presence>) -> Self {
        let own = OwnTable::new(presence.ttl.clone(), presence.writer.sender(), presence.lifetime);
        let (reads, leaves) = (Schedule::default(), Schedule::default());
        Self { presence, own, topics: HashMap::new(), reads, leaves, renew_at: Instant::now() }
    }

    /// When time alone brings something to do.
    fn wake_at(&self) -> Instant {
        let renew_at = (!self.topics.is_empty()).then_some(self.renew_at);
        let next = [renew_at, self.reads.next(), self.leaves.next()].into_iter().flatten().min();
        // Nothing may be to do at all.
        next.unwrap_or_else(|| Instant::now() + self.presence.lifetime)
    }

    /// What is here is shared again, and others are read when they have done so, too.
    fn refresh(&mut self) {
        let now = Instant::now();
        self.renew_at = now;
        self.reads.advance_all(now + SECOND_LOOK);
    }

    async fn turn(&mut self, remote: Vec<RemoteChange>) {
        let now = Instant::now();
        let mut touched = self.take_remote(remote);
        let changes = self.presence.hub.take_presence();
        let own = self.own(&changes, now);
        touched.extend(changes.topics.iter().cloned());
        touched.extend(own.keys().cloned());
        self.share(&own, now).await;
        self.send(&own).await;
        touched.extend(self.read(now).await);
        self.notify(&touched, changes);
        for topic in touched {
            if self.topics.get(&topic).is_some_and(|known| known.users.is_nobody_here()) {
                self.topics.remove(&topic);
            }
            let left_at = self.topics.get(&topic).and_then(|known| known.users.next_left(GRACE));
            self.leaves.set(&topic, left_at);
        }
    }

    /// Who came to other nodes and who left them, on topics that are watched; gives these topics.
    fn take_remote(&mut self, remote: Vec<RemoteChange>) -> HashSet<Topic> {
        let mut touched = HashSet::new();
        for RemoteChange { topic, node, joined, left } in remote {
            if node != self.presence.writer.sender()
                && let Some(known) = self.topics.get_mut(&topic).filter(|known| known.is_watched)
            {
                known.users.remote_change(&node, &joined, &left);
                touched.insert(topic);
            }
        }
        touched
    }

    /// What changed on this node: who is new, and who has been gone for long enough.
    fn own(&mut self, changes: &Changes, now: Instant) -> HashMap<Topic, Own> {
        let mut own: HashMap<Topic, Own> = HashMap::new();
        for topic in &changes.topics {
            let here = self.presence.hub.here_on(topic);
            if here.users.is_empty() && !self.topics.contains_key(topic) {
                continue;
            }
            let known = self.topics.entry(topic.clone()).or_default();
            if known.is_watched != here.is_watched {
                // What was known is from before nobody watched: the tables are read before anything is sent.
                known.users.forget_others();
                (known.is_watched, known.is_new) = (here.is_watched, here.is_watched);
                self.reads.set(topic, here.is_watched.then_some(now));
            }
            let joined = known.users.here(&here.users, now);
            if !joined.is_empty() {
                own.insert(topic.clone(), Own { joined, left: Vec::new() });
            }
        }
        for topic in self.leaves.take_due(now) {
            if let Some(known) = self.topics.get_mut(&topic) {
                // Those who came back meanwhile are not among them.
                own.entry(topic).or_default().left = known.users.left(now, GRACE);
            }
        }
        own
    }

    /// Writes what changed, and renews the table when it is time. Before others are notified: who gets a notice and
    /// reads then finds the same.
    async fn share(&mut self, own: &HashMap<Topic, Own>, now: Instant) {
        if self.topics.is_empty() {
            // The table ends by itself. The next topic begins a new one at once.
            self.own.forget();
            self.renew_at = now;
            return;
        }
        let is_time = now >= self.renew_at;
        if is_time {
            self.renew_at = now + self.presence.lifetime / RENEWALS;
        } else if own.is_empty() || !self.own.is_complete() {
            return;
        }
        let (table, topics) = (&mut self.own, &self.topics);
        let shared = async {
            if is_time {
                table.renew().await?;
            }
            let changed = own.keys().filter_map(|topic| Some((topic, topics.get(topic)?.users.all_here())));
            let all = topics.iter().map(|(topic, known)| (topic, known.users.all_here()));
            let all = all.filter(|(_, users)| !users.is_empty());
            table.write(changed, all).await
        };
        if let Err(error) = shared.await {
            tracing::debug!(%error, "who is present could not be shared");
        }
        if !self.own.is_complete() {
            self.renew_at = now + RETRY;
        }
    }

    /// Notifies other nodes of who came and who left.
    async fn send(&self, own: &HashMap<Topic, Own>) {
        if !self.presence.bus.may_have_others() {
            return;
        }
        let messages: Vec<_> = own.iter().flat_map(|(topic, own)| self.notices(topic, own)).collect();
        if !messages.is_empty()
            && let Err(error) = self.presence.bus.publish(&messages).await
        {
            metrics::counter!("carillon_notices_failed_total").increment(1);
            tracing::debug!(%error, "who came and left is read by other nodes later");
        }
    }

    fn notices(&self, topic: &Topic, own: &Own) -> Vec<(String, bytes::Bytes)> {
        let names = |names: &[Name], number: usize| -> Vec<String> {
            let part = names.chunks(MAX_NAMES).nth(number).unwrap_or_default();
            part.iter().map(ToString::to_string).collect()
        };
        let notices = own.joined.len().max(own.left.len()).div_ceil(MAX_NAMES);
        let message = |number| {
            let (joined, left) = (names(&own.joined, number), names(&own.left, number));
            let notice = Notice::Presence { topic: topic.clone(), joined, left };
            Some((topic_channel(topic), self.presence.writer.encode(&Message::Notice(notice))?))
        };
        (0..notices).filter_map(message).collect()
    }

    /// Reads the topics whose turn it is, and gives them. What cannot be read stays as it is known.
    async fn read(&mut self, now: Instant) -> Vec<Topic> {
        let due = self.reads.take_due(now);
        let answers = tables::read(&self.presence.ttl, due, Some(self.presence.writer.sender())).await;
        let (every, patience) = (self.presence.lifetime / READS, self.presence.lifetime.mul_f64(PATIENCE));
        let mut read = Vec::new();
        for (topic, answer) in answers {
            let Some(known) = self.topics.get_mut(&topic) else { continue };
            let pause = match answer {
                Ok(places) => {
                    known.users.read(&places, now, patience);
                    if std::mem::take(&mut known.is_new) { SECOND_LOOK.min(every) } else { every }
                }
                Err(error) => {
                    tracing::debug!(%error, "who is present elsewhere could not be read");
                    RETRY
                }
            };
            self.reads.set(&topic, Some(now + pause));
            read.push(topic);
        }
        read
    }

    /// Queues for those who watch what changed; for those who know nothing yet, who is there.
    fn notify(&mut self, touched: &HashSet<Topic>, changes: Changes) {
        let hub = &self.presence.hub;
        for topic in touched {
            let Some(known) = self.topics.get_mut(topic) else { continue };
            let changed = known.users.take_changes();
            let events: Vec<Arc<ServerEvent>> = if changed.len() > MAX_CHANGES {
                vec![Present::new(topic, known.users.users()).server_event()]
            } else {
                changed.iter().map(|change| server_event(topic, change)).collect()
            };
            if !events.is_empty() {
                hub.notify_presence(topic, &events);
            }
        }
        for listener in changes.unaware.values() {
            let topics = listener.reader.selector.topics.iter();
            let known = topics.filter_map(|topic| Some((topic, self.topics.get(topic)?)));
            let present: Vec<_> =
                known.map(|(topic, known)| Present::new(topic, known.users.users()).server_event()).collect();
            hub.begin_presence(listener, &present);
        }
    }
}

fn server_event(topic: &Topic, change: &Change) -> Arc<ServerEvent> {
    Arc::new(match change {
        Change::Join(user) => ServerEvent::join(topic, user),
        Change::Leave(user) => ServerEvent::leave(topic, user),
    })
}
