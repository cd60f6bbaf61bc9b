//! Presence: who holds a stream on a topic, on whichever node.
//!
//! Each node enters its users in a set that all share, whose members expire, and says on the topic's channel who
//! came to it and who left it. The word on the channel is fast and may be lost; the set is read again and again, and
//! what a killed node entered ends by itself. One task does all of it, so that what one listener is told stands in
//! one order: who is there, then who comes and who leaves.

mod room;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use futures_util::stream;
use serde::Serialize;
use tokio::sync::{Mutex, Notify, mpsc};
use tokio::time::sleep_until;

use super::hub::{Changes, Hub};
use crate::bus::Bus;
use crate::bus::message::{Message, Notice, topic_channel};
use crate::event::Topic;
use crate::event::frame::control_body;
use crate::ttl::{Ttl, TtlError};
use room::{Change, MAX_PLACES, Name, Room};

/// How often changes are taken note of, at most.
const TICK: Duration = Duration::from_millis(250);
/// How long somebody may be gone before that is told: a reload, or another node.
const GRACE: Duration = Duration::from_secs(2);
/// How soon a topic that is new here is read once more: what was said before its channel was subscribed is not heard.
const SECOND_LOOK: Duration = Duration::from_secs(1);
/// How soon it is tried again when the set could not be reached.
const RETRY: Duration = Duration::from_secs(1);
/// How often in a lifetime a node enters its users again, and how often it reads who else is there. The first is more
/// often: between two reads of a set, every node that lives has entered its users.
const ENTRIES: u32 = 5;
const READS: u32 = 3;
/// The most changes of a topic that are told one by one; of more, those who watch are told anew who is there.
const MAX_TOLD: usize = 50;
/// The most names in one word on the channel.
const MAX_NAMES: usize = 500;
/// The most names shown of a topic.
const MAX_SHOWN: usize = 200;
/// How many words of other nodes may wait; of more, the sets are read.
const QUEUE: usize = 1_024;
/// How many sets are written or read at once.
const AT_ONCE: usize = 64;

/// The set of those on a topic.
fn set(topic: &Topic) -> String {
    format!("presence:{topic}")
}

/// Who came to a node and who left it, on one topic.
#[derive(Debug)]
pub(super) struct Heard {
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

    fn body(&self) -> Arc<str> {
        control_body("carillon.presence", self).into()
    }
}

/// Who is present, and the way to the task that keeps it so.
pub struct Presence {
    hub: Arc<Hub>,
    ttl: Ttl,
    bus: Bus,
    /// This node's name.
    node: String,
    /// How long a node's users count as present after it last said so.
    lifetime: Duration,
    heard: mpsc::Sender<Heard>,
    /// Words were lost, or the sets may have been emptied: everything is entered and read again.
    doubted: Notify,
    /// Until the task takes it.
    inbox: Mutex<Option<mpsc::Receiver<Heard>>>,
}

impl Presence {
    /// Of the listeners of `hub`, on the node called `node`, whose entries last `lifetime`.
    pub fn new(hub: Arc<Hub>, ttl: Ttl, bus: Bus, node: String, lifetime: Duration) -> Self {
        let (heard, inbox) = mpsc::channel(QUEUE);
        let (doubted, inbox) = (Notify::new(), Mutex::new(Some(inbox)));
        Self { hub, ttl, bus, node, lifetime, heard, doubted, inbox }
    }

    /// Another node said something.
    pub(super) fn hear(&self, heard: Heard) {
        if self.heard.try_send(heard).is_err() {
            metrics::counter!("carillon_presence_notices_dropped_total").increment(1);
            self.doubt();
        }
    }

    /// The bus was away, and maybe what is beside it.
    pub(super) fn doubt(&self) {
        self.doubted.notify_one();
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
async fn look(ttl: Ttl, topic: Topic) -> (Topic, Result<Vec<(String, String)>, TtlError>) {
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
    room: Room,
    /// Whether words about it are heard: not while nobody listens here.
    is_heard: bool,
    /// Whether the next read is the first since words are heard.
    is_new: bool,
    read_at: Instant,
}

/// What this node does to a set, and says on the channel.
#[derive(Default)]
struct Own {
    enter: Vec<Name>,
    joined: Vec<Name>,
    left: Vec<Name>,
}

struct Keeper {
    presence: Arc<Presence>,
    rooms: HashMap<Topic, Watched>,
    enter_at: Instant,
}

/// Looks after presence until the node ends.
pub async fn run(presence: Arc<Presence>) {
    let inbox = presence.inbox.lock().await.take();
    let Some(mut inbox) = inbox else { return };
    let enter_at = Instant::now() + presence.lifetime / ENTRIES;
    let mut keeper = Keeper { presence: presence.clone(), rooms: HashMap::new(), enter_at };
    let mut ran = Instant::now() - TICK;
    loop {
        let mut first = None;
        tokio::select! {
            () = presence.hub.presence_changed() => {}
            () = presence.doubted.notified() => keeper.doubt(),
            heard = inbox.recv() => first = heard,
            () = sleep_until(keeper.wake_at().into()) => {}
        }
        // What comes within a moment is looked at together.
        sleep_until((ran + TICK).into()).await;
        ran = Instant::now();
        let mut heard: Vec<Heard> = first.into_iter().collect();
        while let Ok(more) = inbox.try_recv() {
            heard.push(more);
        }
        keeper.turn(heard).await;
    }
}

impl Keeper {
    /// When time alone brings something to do.
    fn wake_at(&self) -> Instant {
        let reads = self.rooms.values().filter(|watched| watched.is_heard).map(|watched| watched.read_at);
        let leaves = self.rooms.values().filter_map(|watched| watched.room.next_left(GRACE));
        reads.chain(leaves).fold(self.enter_at, Instant::min)
    }

    /// All is entered again, and read when other nodes have done so, too.
    fn doubt(&mut self) {
        let now = Instant::now();
        self.enter_at = now;
        for watched in self.rooms.values_mut() {
            watched.read_at = watched.read_at.min(now + SECOND_LOOK);
        }
    }

    async fn turn(&mut self, heard: Vec<Heard>) {
        let now = Instant::now();
        for Heard { topic, node, joined, left } in heard {
            if node != self.presence.node
                && let Some(watched) = self.rooms.get_mut(&topic)
            {
                watched.room.heard(&node, &joined, &left);
            }
        }
        let changes = self.presence.hub.take_presence();
        let own = self.own(&changes, now);
        self.enter_and_leave(own, now).await;
        self.read(now).await;
        self.tell(changes);
        self.rooms.retain(|_, watched| watched.is_heard || !watched.room.is_nobody_here());
    }

    /// What changed on this node: who is new, who has been gone for long enough, and all of them if it is time.
    fn own(&mut self, changes: &Changes, now: Instant) -> HashMap<Topic, Own> {
        let mut own: HashMap<Topic, Own> = HashMap::new();
        for topic in &changes.topics {
            let names = self.presence.hub.names_on(topic);
            if names.is_empty() && !self.rooms.contains_key(topic) {
                continue;
            }
            let watched = self.rooms.entry(topic.clone()).or_insert_with(|| Watched {
                room: Room::default(),
                is_heard: false,
                is_new: true,
                read_at: now,
            });
            if !names.is_empty() && !watched.is_heard {
                // What was known is from before nobody listened, and is read before anybody is told.
                watched.room.forget_others();
                (watched.is_new, watched.read_at) = (true, now);
            }
            watched.is_heard = !names.is_empty();
            let new = watched.room.here(&names, now);
            if !new.is_empty() {
                own.insert(topic.clone(), Own { enter: new.clone(), joined: new, left: Vec::new() });
            }
        }
        let is_time = now >= self.enter_at;
        for (topic, watched) in &mut self.rooms {
            let left = watched.room.left(now, GRACE);
            if is_time || !left.is_empty() {
                let own = own.entry(topic.clone()).or_default();
                own.left = left;
                if is_time {
                    own.enter = watched.room.all_here();
                }
            }
        }
        if is_time {
            self.enter_at = now + self.presence.lifetime / ENTRIES;
        }
        own
    }

    /// The set first, then the word: who hears it and reads then finds the same.
    async fn enter_and_leave(&mut self, own: HashMap<Topic, Own>, now: Instant) {
        let member = |name: &Name| format!("{} {name}", self.presence.node);
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
            let words = own.joined.len().max(own.left.len()).div_ceil(MAX_NAMES);
            let names = |names: &[Name], word: usize| -> Vec<String> {
                names
                    .chunks(MAX_NAMES)
                    .nth(word)
                    .unwrap_or_default()
                    .iter()
                    .map(ToString::to_string)
                    .collect()
            };
            messages.extend((0..words).map(|word| {
                let notice = Notice::Presence {
                    topic: topic.clone(),
                    node: self.presence.node.clone(),
                    joined: names(&own.joined, word),
                    left: names(&own.left, word),
                };
                (topic_channel(topic), Message::Notice(notice).encode())
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
        let is_due = |watched: &Watched| watched.is_heard && watched.read_at <= now;
        let due = self.rooms.iter().filter(|(_, watched)| is_due(watched));
        let reads: Vec<_> = due.map(|(topic, _)| look(self.presence.ttl.clone(), topic.clone())).collect();
        let answers: Vec<_> = stream::iter(reads).buffer_unordered(AT_ONCE).collect().await;
        let every = self.presence.lifetime / READS;
        for (topic, answer) in answers {
            let Some(watched) = self.rooms.get_mut(&topic) else { continue };
            match answer {
                Ok(mut places) => {
                    places.retain(|(node, _)| *node != self.presence.node);
                    // Less than the time between two reads, more than between two entries of a node.
                    watched.room.read(&places, now, every.mul_f64(0.95));
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

    /// Tells those who watch: what changed, and to those who know nothing yet, who is there.
    fn tell(&mut self, changes: Changes) {
        let hub = &self.presence.hub;
        for (topic, watched) in &mut self.rooms {
            let changed = watched.room.take_changes();
            let bodies: Vec<Arc<str>> = if changed.len() > MAX_TOLD {
                vec![Present::new(topic, watched.room.users()).body()]
            } else {
                changed.iter().map(|change| told(topic, change)).collect()
            };
            if !bodies.is_empty() {
                hub.tell_presence(topic, &bodies);
            }
        }
        for listener in changes.untold.values() {
            let topics = listener.reader.selector.topics.iter();
            let rooms = topics.filter_map(|topic| Some((topic, self.rooms.get(topic)?)));
            let bodies: Vec<_> =
                rooms.map(|(topic, watched)| Present::new(topic, watched.room.users()).body()).collect();
            hub.begin_presence(listener, &bodies);
        }
    }
}

fn told(topic: &Topic, change: &Change) -> Arc<str> {
    #[derive(Serialize)]
    struct Told<'a> {
        topic: &'a Topic,
        user: &'a Name,
    }
    let (name, user) = match change {
        Change::Join(user) => ("carillon.join", user),
        Change::Leave(user) => ("carillon.leave", user),
    };
    control_body(name, &Told { topic, user }).into()
}
