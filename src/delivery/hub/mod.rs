//! The hub: for whom somebody listens on this node, and what its reactors are told. No input or output, no await.
//!
//! One lock covers deciding whom an event concerns, telling the reactors, and beginning a stream, so that a stream
//! begins either before an event is handed on (and gets it) or after (and its fence says to read it). What is done under
//! it does not grow with listeners, nor with what was published before.

mod interests;
mod message;
mod presence;
mod registration;
mod routes;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, oneshot};

use crate::account::Credential;
use crate::delivery::backlog::Found;
use crate::delivery::frame::{Delivery, ServerEvent};
use crate::delivery::request::{Subscription, Wish};
use crate::delivery::session::Fence;
use crate::delivery::taken::Taken;
use crate::event::{AppliedCell, Audience, Checkpoint, Epoch, Position, Selector, Topic, UserId};
use crate::store::StoreError;
use interests::Interests;
pub use interests::MAX_REACTORS;
pub use message::{Inbox, Message, SessionKey, Start, WAKER, inbox};
use presence::Present;
pub use presence::{Changes, HereOnTopic};
pub use registration::Registration;
use routes::Routes;

/// How many events are remembered that were taken back before they came.
const MAX_RETRACTED: usize = 1_024;
/// The most users and topics that a read of the log names; a node with more reads all of it.
const MAX_NAMED: usize = 256;

/// Bounds on what is remembered for listeners.
#[derive(Debug, Clone)]
pub struct HubLimits {
    /// How many routes are remembered, to know at once that a reconnecting listener missed nothing.
    pub ring: usize,
    /// How many recipients these routes may name in all.
    pub ring_recipients: usize,
    /// The most streams of one user on this node.
    pub streams_per_user: usize,
}

impl Default for HubLimits {
    fn default() -> Self {
        Self { ring: 65_536, ring_recipients: 1 << 20, streams_per_user: 64 }
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
    state: Mutex<State>,
    inboxes: Vec<Arc<Inbox>>,
    present: Mutex<Present>,
    applied: Arc<AppliedCell>,
    has_digests: AtomicBool,
    streams_per_user: usize,
    on_interest: Box<dyn Fn(Interest) + Send + Sync>,
    on_presence: Notify,
}

/// The hub's state under its lock.
struct State {
    epoch: Option<Epoch>,
    floor: Position,
    applied: Checkpoint,
    /// Up to where a read for the listeners of a moment ago is under way: later ones read that themselves.
    reading: Checkpoint,
    routes: Routes,
    interests: Interests,
    next_id: u64,
    /// Taken back, above `applied`.
    retracted: BTreeSet<Position>,
}

/// Why a stream was not admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// The node has not yet seen the log.
    NotReady,
    /// This user has as many streams here as are allowed.
    TooManyStreams,
}

impl Hub {
    /// A hub that tells these reactors (one to [`MAX_REACTORS`]), and reports to `on_interest` which users and topics are
    /// wanted here.
    pub fn new(
        limits: &HubLimits,
        inboxes: Vec<Arc<Inbox>>,
        on_interest: impl Fn(Interest) + Send + Sync + 'static,
    ) -> Self {
        let state = State {
            epoch: None,
            floor: 0,
            applied: Checkpoint::default(),
            reading: Checkpoint::default(),
            routes: Routes::new(limits.ring, limits.ring_recipients),
            interests: Interests::new(inboxes.len()),
            next_id: 0,
            retracted: BTreeSet::new(),
        };
        Self {
            state: Mutex::new(state),
            inboxes,
            present: Mutex::default(),
            applied: Arc::default(),
            has_digests: AtomicBool::new(false),
            streams_per_user: limits.streams_per_user,
            on_interest: Box::new(on_interest),
            on_presence: Notify::new(),
        }
    }

    /// Takes the lock. Held only for short, never across an await.
    pub fn lock(&self) -> HubGuard<'_> {
        // A panic here cannot leave half an update that matters more than going on.
        let state = self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        HubGuard { hub: self, state }
    }

    /// The last position handed to reactors, for those who need nothing else of the hub.
    pub fn applied_cell(&self) -> Arc<AppliedCell> {
        self.applied.clone()
    }

    /// Whether cursors are written with a digest.
    pub fn has_digests(&self) -> bool {
        self.has_digests.load(Ordering::Relaxed)
    }

    /// Whether cursors are written with a digest from now on.
    pub fn set_digests(&self, has_digests: bool) {
        self.has_digests.store(has_digests, Ordering::Relaxed);
    }

    /// Admits a stream: from now on this node listens for it. It counts until the registration is dropped.
    pub fn admit(self: &Arc<Self>, subscription: &Subscription) -> Result<Registration, Refused> {
        let reader = subscription.reader.clone();
        {
            let mut guard = self.lock();
            let state = &mut *guard.state;
            if state.epoch.is_none() {
                return Err(Refused::NotReady);
            }
            if state.interests.streams_of(reader.user) >= self.streams_per_user {
                return Err(Refused::TooManyStreams);
            }
            if state.interests.add_user(reader.user) {
                (self.on_interest)(Interest::User(reader.user, true));
            }
            for topic in &reader.selector.topics {
                if state.interests.add_topic(reader.user, topic) {
                    (self.on_interest)(Interest::Topic(topic.clone(), true));
                }
            }
        }
        Ok(Registration::new(self.clone(), reader))
    }

    /// Begins an admitted stream on its connection: what comes from now on reaches it.
    pub fn start(&self, subscription: Subscription, wish: Wish, registration: Registration, taken: Taken) {
        let mut guard = self.lock();
        let state = &mut *guard.state;
        state.next_id += 1;
        let reader = &subscription.reader;
        let cursor = wish.resume.as_ref().and_then(|resume| resume.as_ref().ok());
        let is_reading = state.reading.position > state.applied.position;
        let missed_nothing =
            !is_reading && cursor.is_some_and(|cursor| state.routes.missed_nothing(cursor, &reader.selector));
        let epoch = state.epoch.clone().expect("a stream is admitted only once the log was seen");
        let at = if is_reading { state.reading } else { state.applied };
        let fence = Fence { epoch, floor: state.floor, at, missed_nothing };
        let inbox = self.inbox(state.interests.reactor_of(reader.user));
        if inbox.is_closed() {
            // What would be dropped with the message takes the lock.
            return drop(guard);
        }
        let id = state.next_id;
        inbox.send(Message::Start(Box::new(Start { id, subscription, wish, fence, registration, taken })));
    }

    /// A stream is over: see [`Registration`].
    fn leave(&self, user: UserId, topics: &[Topic]) {
        let mut guard = self.lock();
        let interests = &mut guard.state.interests;
        if interests.remove_user(user) {
            (self.on_interest)(Interest::User(user, false));
        }
        for topic in topics {
            if interests.remove_topic(user, topic) {
                (self.on_interest)(Interest::Topic(topic.clone(), false));
            }
        }
    }

    fn inbox(&self, reactor: usize) -> &Inbox {
        &self.inboxes[reactor]
    }

    /// How many listen here.
    pub fn len(&self) -> usize {
        self.lock().state.interests.len()
    }

    /// Whether nobody listens here.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether some reactor has more to do than should wait for it.
    pub fn is_full(&self) -> bool {
        self.inboxes.iter().any(|inbox| inbox.is_full())
    }

    fn tell_all(&self, message: impl Fn() -> Message) {
        self.inboxes.iter().for_each(|inbox| inbox.send(message()));
    }

    /// Closes the streams that rest on any of these credentials.
    pub fn end(&self, credentials: &[Credential]) {
        let credentials: Arc<[Credential]> = credentials.into();
        self.tell_all(|| Message::End(credentials.clone()));
    }

    /// What a session wanted to have read.
    pub fn found(&self, reactor: usize, session: SessionKey, answer: Result<Found, StoreError>) {
        self.inbox(reactor).send(Message::Found(session, answer));
    }

    /// What streams rest on: some of those after `last`, in order, each once. None are left when it is empty.
    pub async fn credentials_after(&self, last: Option<Credential>) -> Vec<Credential> {
        let mut all = Vec::new();
        let mut least_last: Option<Credential> = None;
        for inbox in &self.inboxes {
            let (reply, answer) = oneshot::channel();
            inbox.send(Message::Credentials(last, reply));
            // It ends with the node.
            let page = answer.await.unwrap_or_default();
            if let Some(end) = page.last() {
                least_last = Some(least_last.map_or(*end, |least| least.min(*end)));
            }
            all.extend(page);
        }
        // Another reactor's page may have ended before this: what is behind that comes with the next.
        all.retain(|credential| least_last.is_none_or(|least| *credential <= least));
        all.sort_unstable();
        all.dedup();
        all
    }

    /// Closes all streams, spread over `window`.
    pub fn drain(&self, window: Duration) {
        self.tell_all(|| Message::Drain(window));
    }

    /// Cuts all connections of streams.
    pub fn cut(&self) {
        self.tell_all(|| Message::Cut);
    }

    /// Ends the reactors.
    pub fn stop(&self) {
        self.tell_all(|| Message::Stop);
    }
}

/// The hub, locked.
pub struct HubGuard<'a> {
    hub: &'a Hub,
    state: MutexGuard<'a, State>,
}

impl HubGuard<'_> {
    /// Whether an event for `audience` concerns somebody here.
    pub fn concerns(&self, audience: &Audience) -> bool {
        !self.state.interests.concerned(audience).is_empty()
    }

    /// All that somebody here listens for; `None`: more than a read should name.
    pub fn interests(&self) -> Option<Selector> {
        self.state.interests.selector(MAX_NAMED)
    }

    /// A read up to `up_to` begins, for those who listen now; who comes later must read that far.
    pub fn reading(&mut self, up_to: impl Into<Checkpoint>) {
        let up_to = up_to.into();
        if up_to.position > self.state.reading.position {
            self.state.reading = up_to;
        }
    }

    /// Hands events to the reactors and moves `applied`. `routes` are all positions since `applied`; `None`:
    /// only what concerned somebody here is known.
    pub fn apply(
        &mut self,
        mut events: Vec<Arc<Delivery>>,
        routes: Option<Vec<(Position, Audience)>>,
        applied: impl Into<Checkpoint>,
    ) {
        let applied = applied.into();
        let state = &mut *self.state;
        if !state.retracted.is_empty() {
            events.retain(|event| !state.retracted.contains(&event.position()));
            state.retracted = state.retracted.split_off(&(applied.position + 1));
        }
        match routes {
            Some(routes) => state.routes.add(routes),
            None => state.routes.forget(applied.position),
        }
        for here in events.iter().map(|event| event.checkpoint()).chain([applied]) {
            state.routes.add_checkpoint(here);
        }
        let concerned = events.iter().map(|event| state.interests.concerned(&event.event().audience));
        let concerned = concerned.fold(interests::Reactors::default(), interests::Reactors::and);
        let (events, now): (Arc<[_]>, _) = (events.into(), Instant::now());
        for (reactor, inbox) in self.hub.inboxes.iter().enumerate() {
            if concerned.has(reactor) {
                inbox.send(Message::Apply(events.clone(), applied, now));
            } else {
                inbox.send_applied(applied, now);
            }
        }
        self.set_applied(applied);
    }

    fn set_applied(&mut self, applied: Checkpoint) {
        self.state.applied = applied;
        if let Some(epoch) = &self.state.epoch {
            self.hub.applied.set(epoch, applied);
        }
    }

    /// Begins a history, or follows retention. A new history ends every stream: each comes back with a cursor
    /// of the old one and gets a reset.
    pub fn begin(&mut self, epoch: &Epoch, floor: Position, applied: impl Into<Checkpoint>) {
        let applied = applied.into();
        let state = &mut *self.state;
        state.floor = floor;
        if state.epoch.as_ref() != Some(epoch) {
            state.routes.forget(applied.position);
            state.retracted.clear();
            state.routes.clear_checkpoints();
            state.routes.add_checkpoint(applied);
            state.epoch = Some(epoch.clone());
            state.reading = applied;
            self.hub.tell_all(|| Message::Begin(epoch.clone(), applied));
            self.set_applied(applied);
        }
    }

    fn tell(&self, audience: &Audience, message: impl Fn(Arc<Audience>) -> Message) {
        let concerned = self.state.interests.concerned(audience);
        if concerned.is_empty() {
            return;
        }
        let audience = Arc::new(audience.clone());
        let inboxes = self.hub.inboxes.iter().enumerate().filter(|(reactor, _)| concerned.has(*reactor));
        inboxes.for_each(|(_, inbox)| inbox.send(message(audience.clone())));
    }

    /// Hands one of the server's own events to the listeners that `audience` targets.
    pub fn notify(&self, audience: &Audience, event: ServerEvent) {
        let event = Arc::new(event);
        self.tell(audience, |audience| Message::Notify(audience, event.clone()));
    }

    /// Takes an event that nobody may see any more from those it waits for.
    pub fn forget(&self, audience: &Audience, position: Position) {
        self.tell(audience, |audience| Message::Forget(audience, position));
    }

    /// Takes an event that its publisher has taken back from those it waits for, or keeps it from coming: the
    /// notice may be faster than the event.
    pub fn retract(&mut self, audience: &Audience, position: Position) {
        self.forget(audience, position);
        if position > self.state.applied.position {
            self.state.retracted.insert(position);
            if self.state.retracted.len() > MAX_RETRACTED {
                // The furthest is the likeliest to be read from the store, which knows.
                self.state.retracted.pop_last();
                metrics::counter!("carillon_retractions_dropped_total").increment(1);
            }
        }
    }

    /// Takes everything that `user` has read, up to here, from their streams.
    pub fn forget_up_to(&self, user: UserId, position: Position) {
        if self.state.interests.streams_of(user) > 0 {
            let inbox = self.hub.inbox(self.state.interests.reactor_of(user));
            inbox.send(Message::ForgetUpTo(user, position));
        }
    }

    /// The audience of a position that this node came by lately.
    pub fn audience_of(&self, position: Position) -> Option<Audience> {
        self.state.routes.audience_of(position).cloned()
    }
}
