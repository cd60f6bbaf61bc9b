//! Presence: who holds a stream on a topic, on whichever node.
//!
//! Each node enters its users in a set that all share, whose members expire, and sends on the topic's channel who
//! came to it and who left it. A notice is fast and may be lost; the set is read again and again, and
//! what a killed node entered expires. One task does all of it, so that what one listener gets stands in
//! one order: who is there, then who comes and who leaves.

mod topic_users;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use futures_util::stream;
use serde::Serialize;
use tokio::sync::{Mutex, Notify, mpsc};
use tokio::time::sleep_until;

use super::frame::ServerEvent;
use super::hub::{Changes, Hub};
use crate::bus::Bus;
use crate::bus::message::{Message, MessageWriter, Notice, topic_channel};
use crate::event::Topic;
use crate::ttl::{Ttl, TtlError};
use topic_users::{Change, MAX_PLACES, Name, TopicUsers};

/// How often changes are handled, at most.
const TICK: Duration = Duration::from_millis(250);
/// How long somebody may be gone before that is sent: a reload, or another node.
const GRACE: Duration = Duration::from_secs(2);
/// How soon a topic that is new here is read once more: notices from before its channel was subscribed are missed.
const SECOND_LOOK: Duration = Duration::from_secs(1);
/// How soon it is tried again when the set could not be reached.
const RETRY: Duration = Duration::from_secs(1);
/// How often in a lifetime a node enters its users again, and how often it reads who else is there. The first is more
/// often: between two reads of a set, every node that lives has entered its users.
const ENTRIES: u32 = 5;
const READS: u32 = 3;
/// The most changes of a topic that are sent one by one; of more, those who watch get anew who is there.
const MAX_CHANGES: usize = 50;
/// The most names in one notice.
const MAX_NAMES: usize = 500;
/// The most names shown of a topic.
const MAX_SHOWN: usize = 200;
/// How many notices of other nodes may wait; of more, the sets are read.
const QUEUE: usize = 1_024;
/// How many sets are written or read at once.
const AT_ONCE: usize = 64;

/// The set of those on a topic.
fn set(topic: &Topic) -> String {
    format!("presence:{topic}")
}

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
    /// Notices were lost, or the sets may have been emptied: everything is entered and read again.
    stale: Notify,
    /// Until the task takes it.
    inbox: Mutex<Option<mpsc::Receiver<RemoteChange>>>,
}

impl Presence {
    /// Of the listeners of `hub`, on the node whose messages `writer` writes and whose entries last `lifetime`.
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

    /// The bus was away, and maybe the sets were emptied meanwhile.
    pub(super) fn mark_stale(&self) {
        self.stale.notify_one();
    }

    /// Who is on a topic, by the shared set and by who listens here.
    pub async fn present(&self, topic: &Topic) -> Result<Present, TtlError> {
        let places = places(&self.ttl, topic).await?;
        let mut users: BTreeSet<Name> = places.into_iter().map(|(_, name)| name.into()).collect();
        users.extend(self.hub.names_on(topic));
        Ok(Present::new(topic, users.iter()))
    }
}

/// The members of a topic's set: node and user.
async fn places(ttl: &Ttl, topic: &Topic) -> Result<Vec<(String, String)>, TtlError> {
    let members = ttl.members(&set(topic), MAX_PLACES).await?;
    let split =
        |member: &String| member.split_once(' ').map(|(node, name)| (node.to_owned(), name.to_owned()));
    Ok(members.iter().filter_map(split).collect())
}

/// A topic with what its set holds.
async fn read_set(ttl: Ttl, topic: Topic) -> (Topic, Result<Vec<(String, String)>, TtlError>) {
    let places = places(&ttl, &topic).await;
    (topic, places)
}

/// Enters and takes out members of a set, as far as there are any.
async fn write(
    ttl: Ttl,
    set: String,
    enter: Vec<String>,
    leave: Vec<String>,
    lifetime: Duration,
) -> Result<(), TtlError> {
    if !enter.is_empty() {
        ttl.enter(&set, &enter, lifetime).await?;
    }
    if !leave.is_empty() {
        ttl.leave(&set, &leave).await?;
    }
    Ok(())
}

/// A topic that somebody here listens to, or did a moment ago.
struct Watched {
    users: TopicUsers,
    /// Whether its channel is subscribed: not while nobody listens here.
    is_subscribed: bool,
    /// Whether the next read is the first since the channel is subscribed.
    is_new: bool,
    read_at: Instant,
}

/// What this node does to a set, and sends on the channel.
#[derive(Default)]
struct Own {
    enter: Vec<Name>,
    joined: Vec<Name>,
    left: Vec<Name>,
}

struct Keeper {
    presence: Arc<Presence>,
    topics: HashMap<Topic, Watched>,
    enter_at: Instant,
}

/// Keeps presence up to date until the node ends.
pub async fn run(presence: Arc<Presence>) {
    let inbox = presence.inbox.lock().await.take();
    let Some(mut inbox) = inbox else { return };
    let enter_at = Instant::now() + presence.lifetime / ENTRIES;
    let mut keeper = Keeper { presence: presence.clone(), topics: HashMap::new(), enter_at };
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

impl Keeper {
    /// When time alone brings something to do.
    fn wake_at(&self) -> Instant {
        let reads =
            self.topics.values().filter(|watched| watched.is_subscribed).map(|watched| watched.read_at);
        let leaves = self.topics.values().filter_map(|watched| watched.users.next_left(GRACE));
        reads.chain(leaves).fold(self.enter_at, Instant::min)
    }

    /// All is entered again, and read when other nodes have done so, too.
    fn refresh(&mut self) {
        let now = Instant::now();
        self.enter_at = now;
        for watched in self.topics.values_mut() {
            watched.read_at = watched.read_at.min(now + SECOND_LOOK);
        }
    }

    async fn turn(&mut self, remote: Vec<RemoteChange>) {
        let now = Instant::now();
        for RemoteChange { topic, node, joined, left } in remote {
            if node != self.presence.writer.sender()
                && let Some(watched) = self.topics.get_mut(&topic)
            {
                watched.users.remote_change(&node, &joined, &left);
            }
        }
        let changes = self.presence.hub.take_presence();
        let own = self.own(&changes, now);
        self.enter_and_leave(own, now).await;
        self.read(now).await;
        self.notify(changes);
        self.topics.retain(|_, watched| watched.is_subscribed || !watched.users.is_nobody_here());
    }

    /// What changed on this node: who is new, who has been gone for long enough, and all of them if it is time.
    fn own(&mut self, changes: &Changes, now: Instant) -> HashMap<Topic, Own> {
        let mut own: HashMap<Topic, Own> = HashMap::new();
        for topic in &changes.topics {
            let names = self.presence.hub.names_on(topic);
            if names.is_empty() && !self.topics.contains_key(topic) {
                continue;
            }
            let watched = self.topics.entry(topic.clone()).or_insert_with(|| Watched {
                users: TopicUsers::default(),
                is_subscribed: false,
                is_new: true,
                read_at: now,
            });
            if !names.is_empty() && !watched.is_subscribed {
                // What was known is from before nobody listened: the set is read before anything is sent.
                watched.users.forget_others();
                (watched.is_new, watched.read_at) = (true, now);
            }
            watched.is_subscribed = !names.is_empty();
            let new = watched.users.here(&names, now);
            if !new.is_empty() {
                own.insert(topic.clone(), Own { enter: new.clone(), joined: new, left: Vec::new() });
            }
        }
        let is_time = now >= self.enter_at;
        for (topic, watched) in &mut self.topics {
            let left = watched.users.left(now, GRACE);
            if is_time || !left.is_empty() {
                let own = own.entry(topic.clone()).or_default();
                own.left = left;
                if is_time {
                    own.enter = watched.users.all_here();
                }
            }
        }
        if is_time {
            self.enter_at = now + self.presence.lifetime / ENTRIES;
        }
        own
    }

    /// The set first, then the notice: who gets it and reads then finds the same.
    async fn enter_and_leave(&mut self, own: HashMap<Topic, Own>, now: Instant) {
        let member = |name: &Name| format!("{} {name}", self.presence.writer.sender());
        let writes: Vec<_> = own
            .iter()
            .map(|(topic, own)| {
                let enter = own.enter.iter().map(member).collect();
                let leave = own.left.iter().map(member).collect();
                write(self.presence.ttl.clone(), set(topic), enter, leave, self.presence.lifetime)
            })
            .collect();
        let written: Vec<_> = stream::iter(writes).buffer_unordered(AT_ONCE).collect().await;
        if let Some(error) = written.into_iter().find_map(Result::err) {
            tracing::debug!(%error, "who is present could not be shared");
            self.enter_at = self.enter_at.min(now + RETRY);
        }
        let mut messages = Vec::new();
        for (topic, own) in &own {
            let notices = own.joined.len().max(own.left.len()).div_ceil(MAX_NAMES);
            let names = |names: &[Name], number: usize| -> Vec<String> {
                names
                    .chunks(MAX_NAMES)
                    .nth(number)
                    .unwrap_or_default()
                    .iter()
                    .map(ToString::to_string)
                    .collect()
            };
            messages.extend((0..notices).filter_map(|number| {
                let notice = Notice::Presence {
                    topic: topic.clone(),
                    joined: names(&own.joined, number),
                    left: names(&own.left, number),
                };
                Some((topic_channel(topic), self.presence.writer.encode(&Message::Notice(notice))?))
            }));
        }
        if !messages.is_empty()
            && let Err(error) = self.presence.bus.publish(&messages).await
        {
            metrics::counter!("carillon_notices_failed_total").increment(1);
            tracing::debug!(%error, "who came and left is read by other nodes later");
        }
    }

    /// Reads the sets whose turn it is. What cannot be read stays as it is known.
    async fn read(&mut self, now: Instant) {
        let is_due = |watched: &Watched| watched.is_subscribed && watched.read_at <= now;
        let due = self.topics.iter().filter(|(_, watched)| is_due(watched));
        let reads: Vec<_> =
            due.map(|(topic, _)| read_set(self.presence.ttl.clone(), topic.clone())).collect();
        let answers: Vec<_> = stream::iter(reads).buffer_unordered(AT_ONCE).collect().await;
        let every = self.presence.lifetime / READS;
        for (topic, answer) in answers {
            let Some(watched) = self.topics.get_mut(&topic) else { continue };
            match answer {
                Ok(mut places) => {
                    places.retain(|(node, _)| node != self.presence.writer.sender());
                    // Less than the time between two reads, more than between two entries of a node.
                    watched.users.read(&places, now, every.mul_f64(0.95));
                    let is_first = std::mem::take(&mut watched.is_new);
                    watched.read_at = now + if is_first { SECOND_LOOK.min(every) } else { every };
                }
                Err(error) => {
                    tracing::debug!(%error, "who is present elsewhere could not be read");
                    watched.read_at = now + RETRY;
                }
            }
        }
    }

    /// Queues for those who watch what changed; for those who know nothing yet, who is there.
    fn notify(&mut self, changes: Changes) {
        let hub = &self.presence.hub;
        for (topic, watched) in &mut self.topics {
            let changed = watched.users.take_changes();
            let events: Vec<Arc<ServerEvent>> = if changed.len() > MAX_CHANGES {
                vec![Present::new(topic, watched.users.users()).server_event()]
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
            let present: Vec<_> = known
                .map(|(topic, watched)| Present::new(topic, watched.users.users()).server_event())
                .collect();
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
