//! The hub: who listens on this node, and the routing of events to them. No input or output, no await.
//!
//! One lock covers routing and registering, so that a listener is registered either before an event is routed
//! (and gets it) or after (and its fence says to replay it).

mod listener;
mod presence;
mod recent;

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Mutex, MutexGuard};

use tokio::sync::Notify;

use crate::account::Credential;
use crate::delivery::frame::{Delivery, ServerEvent};
use crate::event::{AppliedCell, Audience, Checkpoint, Cursor, Epoch, Position, Selector, Topic, UserId};
pub use listener::{Closing, Listener, QueueItem, QueueRead, Subscription, SweepLimits};
pub use presence::{Changes, HereOnTopic};
use recent::Recent;

/// How many events are remembered that were taken back before they came.
const MAX_RETRACTED: usize = 1_024;

/// Bounds on what listeners may cost.
#[derive(Debug, Clone)]
pub struct HubLimits {
    /// The most events queued for one listener; more and it lags.
    pub queue_events: usize,
    /// The most bytes of events queued for one listener; more and it lags.
    pub queue_bytes: usize,
    /// How many routes are remembered, to know at once that a reconnecting listener missed nothing.
    pub ring: usize,
    /// How many recipients these routes may name in all.
    pub ring_recipients: usize,
    /// The most streams of one user on this node.
    pub streams_per_user: usize,
}

impl Default for HubLimits {
    fn default() -> Self {
        Self {
            queue_events: 256,
            queue_bytes: 256 * 1024,
            ring: 65_536,
            ring_recipients: 1 << 20,
            streams_per_user: 64,
        }
    }
}

/// What changed about whom this node listens for; reported under the hub's lock, so in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Interest {
    /// The first listener of this user came, or the last one went.
    User(UserId, bool),
    /// The first listener of this topic came, or the last one went.
    Topic(Topic, bool),
}

/// Who listens on this node; see the module.
pub struct Hub {
    routing: Mutex<Routing>,
    /// The position alone, for the streams, which ask often.
    applied: AtomicI64,
    applied_cell: Arc<AppliedCell>,
    has_digests: AtomicBool,
    limits: HubLimits,
    on_interest: Box<dyn Fn(Interest) + Send + Sync>,
    on_presence: Notify,
}

/// The hub's state under its lock.
pub struct Routing {
    epoch: Option<Epoch>,
    floor: Position,
    applied: Checkpoint,
    /// Up to where a read for the listeners of a moment ago is under way: later ones replay that themselves.
    reading: Checkpoint,
    recent: Recent,
    next_id: u64,
    listeners: HashMap<u64, Arc<Listener>>,
    by_user: HashMap<UserId, Vec<Arc<Listener>>>,
    by_topic: HashMap<Topic, Vec<Arc<Listener>>>,
    ring: VecDeque<(Position, Audience)>,
    /// How many recipients the ring names.
    ring_recipients: usize,
    /// Everything above it and up to `applied` is in the ring.
    ring_floor: Position,
    /// Taken back, above `applied`.
    retracted: BTreeSet<Position>,
    /// The changes of presence that were not yet taken.
    presence: Changes,
}

/// Where a listener stands when it was just registered or goes on after it lagged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fence {
    /// The history in force.
    pub epoch: Epoch,
    /// Everything at or below was removed by retention.
    pub floor: Position,
    /// Positions above it arrive live; up to it they must be replayed.
    pub at: Checkpoint,
    /// Whether it is known here that the cursor is of this log, and that nothing in (cursor, at] is for this listener.
    pub missed_nothing: bool,
}

/// Why a listener was not registered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// The node has not yet seen the log.
    NotReady,
    /// This user has as many streams here as are allowed.
    TooManyStreams,
}

impl Hub {
    /// An empty hub that reports to `on_interest` which users and topics are wanted here.
    pub fn new(limits: HubLimits, on_interest: impl Fn(Interest) + Send + Sync + 'static) -> Self {
        let routing = Routing {
            epoch: None,
            floor: 0,
            applied: Checkpoint::default(),
            reading: Checkpoint::default(),
            recent: Recent::default(),
            next_id: 0,
            listeners: HashMap::new(),
            by_user: HashMap::new(),
            by_topic: HashMap::new(),
            ring: VecDeque::new(),
            ring_recipients: 0,
            ring_floor: 0,
            retracted: BTreeSet::new(),
            presence: Changes::default(),
        };
        Self {
            routing: Mutex::new(routing),
            applied: AtomicI64::new(0),
            applied_cell: Arc::default(),
            has_digests: AtomicBool::new(false),
            limits,
            on_interest: Box::new(on_interest),
            on_presence: Notify::new(),
        }
    }

    /// Takes the lock. Held only for short, never across an await.
    pub fn lock(&self) -> HubGuard<'_> {
        // A panic while routing cannot leave half an update that matters more than going on.
        let routing = self.routing.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        HubGuard { hub: self, routing }
    }

    /// The last position handed to listeners. Everything up to it is already in their queues.
    pub fn applied(&self) -> Position {
        self.applied.load(Ordering::Acquire)
    }

    /// The same with the event there, for those who need nothing else of the hub.
    pub fn applied_cell(&self) -> Arc<AppliedCell> {
        self.applied_cell.clone()
    }

    /// [`Hub::applied`], when it was `position`, with the event there. `None` if it has moved since.
    pub fn applied_at(&self, position: Position) -> Option<Checkpoint> {
        self.applied_cell.get().map(|applied| applied.at).filter(|at| at.position == position)
    }

    /// Whether cursors are written with a digest.
    pub fn has_digests(&self) -> bool {
        self.has_digests.load(Ordering::Relaxed)
    }

    /// Whether cursors are written with a digest from now on.
    pub fn set_digests(&self, has_digests: bool) {
        self.has_digests.store(has_digests, Ordering::Relaxed);
    }

    /// Registers a listener; from the fence on, what is for it reaches its queue.
    pub fn register(
        &self,
        subscription: Subscription,
        cursor: Option<&Cursor>,
    ) -> Result<(Arc<Listener>, Fence), Refused> {
        let mut guard = self.lock();
        let routing = &mut *guard.routing;
        if routing.epoch.is_none() {
            return Err(Refused::NotReady);
        }
        if routing.streams_of(subscription.reader.user) >= self.limits.streams_per_user {
            return Err(Refused::TooManyStreams);
        }
        routing.next_id += 1;
        let listener = Arc::new(Listener::new(
            routing.next_id,
            subscription,
            self.limits.queue_events,
            self.limits.queue_bytes,
        ));
        routing.listeners.insert(listener.id, listener.clone());
        let of_user = routing.by_user.entry(listener.reader.user).or_default();
        of_user.push(listener.clone());
        if of_user.len() == 1 {
            (self.on_interest)(Interest::User(listener.reader.user, true));
        }
        for topic in &listener.reader.selector.topics {
            let of_topic = routing.by_topic.entry(topic.clone()).or_default();
            of_topic.push(listener.clone());
            if of_topic.len() == 1 {
                (self.on_interest)(Interest::Topic(topic.clone(), true));
            }
        }
        if !listener.reader.selector.topics.is_empty() {
            routing.has_come(&listener);
            self.on_presence.notify_one();
        }
        let fence = routing.fence(&listener, cursor);
        Ok((listener, fence))
    }

    /// A lagging listener goes on: positions above the new fence arrive in its queue again.
    pub fn fence(&self, listener: &Arc<Listener>, cursor: &Cursor) -> Fence {
        let mut guard = self.lock();
        if listener.wants_presence {
            guard.routing.needs_presence(listener);
            self.on_presence.notify_one();
        }
        guard.routing.fence(listener, Some(cursor))
    }

    /// Forgets a listener.
    pub fn unregister(&self, listener: &Listener) {
        let mut guard = self.lock();
        let routing = &mut *guard.routing;
        if routing.listeners.remove(&listener.id).is_none() {
            return;
        }
        let user = listener.reader.user;
        if leave(&mut routing.by_user, &user, listener.id) {
            (self.on_interest)(Interest::User(user, false));
        }
        if !listener.reader.selector.topics.is_empty() {
            routing.has_gone(listener);
            self.on_presence.notify_one();
        }
        for topic in &listener.reader.selector.topics {
            if leave(&mut routing.by_topic, topic, listener.id) {
                (self.on_interest)(Interest::Topic(topic.clone(), false));
            }
        }
    }

    /// Everybody who listens here, at this moment.
    pub fn listeners(&self) -> Vec<Arc<Listener>> {
        self.lock().routing.listeners.values().cloned().collect()
    }

    /// How many listen here.
    pub fn len(&self) -> usize {
        self.lock().routing.listeners.len()
    }

    /// Whether nobody listens here.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Closes the streams that rest on any of these credentials.
    pub fn end(&self, credentials: &[Credential]) {
        for listener in self.listeners() {
            if credentials.contains(&listener.credential) {
                listener.close(Closing::SignedOut);
            }
        }
    }
}

/// Takes a listener out of one list; whether the list is gone with it.
fn leave<K: std::hash::Hash + Eq>(lists: &mut HashMap<K, Vec<Arc<Listener>>>, key: &K, id: u64) -> bool {
    let Some(list) = lists.get_mut(key) else { return false };
    list.retain(|l| l.id != id);
    list.is_empty() && lists.remove(key).is_some()
}

/// The hub, locked.
pub struct HubGuard<'a> {
    hub: &'a Hub,
    routing: MutexGuard<'a, Routing>,
}

impl HubGuard<'_> {
    /// Whether an event for `audience` concerns somebody here.
    pub fn concerns(&self, audience: &Audience) -> bool {
        self.routing.concerns(audience)
    }

    /// All that somebody here listens for.
    pub fn interests(&self) -> Selector {
        let Routing { by_user, by_topic, .. } = &*self.routing;
        Selector {
            everyone: true,
            users: by_user.keys().copied().collect(),
            topics: by_topic.keys().cloned().collect(),
            ..Selector::default()
        }
    }

    /// A read up to `up_to` begins, for those who listen now; who comes later must replay that far.
    pub fn reading(&mut self, up_to: impl Into<Checkpoint>) {
        let up_to = up_to.into();
        if up_to.position > self.routing.reading.position {
            self.routing.reading = up_to;
        }
    }

    /// Hands events to their listeners and moves `applied`. `routes` are all positions since `applied`; `None`:
    /// only what concerned somebody here is known.
    pub fn apply(
        &mut self,
        events: &[Arc<Delivery>],
        routes: Option<Vec<(Position, Audience)>>,
        applied: impl Into<Checkpoint>,
    ) {
        let applied = applied.into();
        let routing = &mut *self.routing;
        for event in events.iter().filter(|event| !routing.retracted.contains(&event.position())) {
            routing.route(event);
        }
        routing.retracted = routing.retracted.split_off(&(applied.position + 1));
        match routes {
            Some(routes) => routing.remember(routes, &self.hub.limits),
            None => routing.forget_routes(applied.position),
        }
        for here in events.iter().map(|event| event.checkpoint()).chain([applied]) {
            routing.recent.add(here, self.hub.limits.ring);
        }
        self.set_applied(applied);
    }

    /// After the queues: a listener that finds its queue empty may then say it has seen up to here.
    fn set_applied(&mut self, applied: Checkpoint) {
        self.routing.applied = applied;
        if let Some(epoch) = &self.routing.epoch {
            self.hub.applied_cell.set(epoch, applied);
        }
        self.hub.applied.store(applied.position, Ordering::Release);
    }

    /// Begins a history, or follows retention. A new history ends every stream: each comes back with a cursor
    /// of the old one and gets a reset.
    pub fn begin(&mut self, epoch: &Epoch, floor: Position, applied: impl Into<Checkpoint>) {
        let applied = applied.into();
        let routing = &mut *self.routing;
        routing.floor = floor;
        if routing.epoch.as_ref() != Some(epoch) {
            routing.listeners.values().for_each(|l| l.close(Closing::Reconnect));
            routing.forget_routes(applied.position);
            routing.retracted.clear();
            routing.recent.clear();
            routing.recent.add(applied, self.hub.limits.ring);
            routing.epoch = Some(epoch.clone());
            routing.reading = applied;
            self.set_applied(applied);
        }
    }

    /// Queues one of the server's own events for the listeners that `audience` targets.
    pub fn notify(&self, audience: &Audience, event: ServerEvent) {
        let event = Arc::new(event);
        self.routing.each(audience, |listener| listener.push(QueueItem::Server(event.clone())));
    }

    /// Takes an event that nobody may see any more out of the queues it waits in.
    pub fn forget(&self, audience: &Audience, position: Position) {
        self.routing.each(audience, |listener| listener.forget(|at| at == position));
    }

    /// Takes an event that its publisher has taken back out of the queues, or keeps it from coming: the
    /// notice may be faster than the event.
    pub fn retract(&mut self, audience: &Audience, position: Position) {
        self.forget(audience, position);
        if position > self.routing.applied.position {
            self.routing.retracted.insert(position);
            if self.routing.retracted.len() > MAX_RETRACTED {
                // The furthest is the likeliest to be read from the store, which knows.
                self.routing.retracted.pop_last();
                metrics::counter!("carillon_retractions_dropped_total").increment(1);
            }
        }
    }

    /// Takes everything that `user` has read, up to here, out of the queues of their streams.
    pub fn forget_up_to(&self, user: UserId, position: Position) {
        let of_user = self.routing.by_user.get(&user);
        of_user.into_iter().flatten().for_each(|listener| listener.forget(|at| at <= position));
    }

    /// The audience of a position still in the ring.
    pub fn audience_of(&self, position: Position) -> Option<Audience> {
        let ring = &self.routing.ring;
        let at = ring.binary_search_by_key(&position, |(position, _)| *position).ok()?;
        Some(ring[at].1.clone())
    }
}

impl Routing {
    fn streams_of(&self, user: UserId) -> usize {
        self.by_user.get(&user).map_or(0, Vec::len)
    }

    fn concerns(&self, audience: &Audience) -> bool {
        match audience {
            Audience::Everyone => !self.listeners.is_empty(),
            Audience::Of { users, topics } => {
                users.iter().any(|user| self.by_user.contains_key(user))
                    || topics.iter().any(|topic| self.by_topic.contains_key(topic))
            }
        }
    }

    /// Calls `f` for each listener that `audience` targets, once.
    fn each(&self, audience: &Audience, mut f: impl FnMut(&Arc<Listener>)) {
        match audience {
            Audience::Everyone => self.listeners.values().for_each(f),
            Audience::Of { users, topics } => {
                let of_users = users.iter().filter_map(|user| self.by_user.get(user));
                let of_topics = topics.iter().filter_map(|topic| self.by_topic.get(topic));
                if users.len() + topics.len() == 1 {
                    return of_users.chain(of_topics).flatten().for_each(f);
                }
                // Somebody may be meant as a user and as a listener to several topics.
                let mut met = HashSet::new();
                for listener in of_users.chain(of_topics).flatten() {
                    if met.insert(listener.id) {
                        f(listener);
                    }
                }
            }
        }
    }

    fn route(&self, event: &Arc<Delivery>) {
        self.each(&event.event().audience, |listener| listener.offer(event));
    }

    fn remember(&mut self, routes: Vec<(Position, Audience)>, limits: &HubLimits) {
        self.ring_recipients += routes.iter().map(|(_, audience)| audience.targets()).sum::<usize>();
        self.ring.extend(routes);
        while self.ring.len() > limits.ring || self.ring_recipients > limits.ring_recipients {
            let Some((position, audience)) = self.ring.pop_front() else { return };
            self.ring_recipients -= audience.targets();
            self.ring_floor = position;
        }
    }

    /// What lies at or below `floor` is no longer known.
    fn forget_routes(&mut self, floor: Position) {
        self.ring.clear();
        self.ring_recipients = 0;
        self.ring_floor = floor;
    }

    fn fence(&self, listener: &Arc<Listener>, cursor: Option<&Cursor>) -> Fence {
        let is_reading = self.reading.position > self.applied.position;
        let at = if is_reading { self.reading } else { self.applied };
        listener.resume_from(at.position);
        let missed_nothing = cursor.is_some_and(|cursor| {
            !is_reading && cursor.position >= self.ring_floor && self.recent.confirms(cursor) && {
                let since = self.ring.partition_point(|(position, _)| *position <= cursor.position);
                !self.ring.range(since..).any(|(position, audience)| {
                    !cursor.has_seen(*position) && listener.reader.selector.targets(audience)
                })
            }
        });
        let epoch = self.epoch.clone().expect("listeners exist only once the log was seen");
        Fence { epoch, floor: self.floor, at, missed_nothing }
    }
}

#[cfg(test)]
mod tests;
