//! A reactor's sessions: who gets what it is told, and what their sockets take of it. Reads and sockets are given to it,
//! so that it runs without either.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use slab::Slab;
use tokio_util::task::AbortOnDropHandle;

use super::connection::{Connection, Outgoing, Wire, Written};
use super::draining::Draining;
use super::index::{Index, Place};
use super::wheel::Wheel;
use crate::delivery::backlog::Want;
use crate::delivery::frame::{Delivery, LAST_CHUNK, ServerEvent};
use crate::delivery::hub::{Hub, Message, Registration, SessionKey};
use crate::delivery::request::{Subscription, Wish};
use crate::delivery::session::{Closing, Context, Due, Fence, Session, SessionLimits, Tick};
use crate::delivery::taken::Framing;
use crate::event::{Audience, Checkpoint, Epoch};
use crate::store::Reader;
use crate::store::clock::Clock;

/// How many events are handed on before the sockets get them: what waits for a stream that keeps up is never too much.
const EVENTS_AT_ONCE: usize = 64;
/// How often one socket is written to before the others have their turn.
const WRITES_AT_ONCE: usize = 4;

/// A read that a session wants.
#[derive(Debug)]
pub(super) struct Job {
    pub session: SessionKey,
    pub reader: Arc<Reader>,
    pub want: Want,
    /// The last one failed: it begins a moment later.
    pub has_failed: bool,
}

/// A stream that begins.
pub(super) struct NewSession<W> {
    pub id: u64,
    pub subscription: Subscription,
    pub wish: Wish,
    pub fence: Fence,
    pub registration: Registration,
    pub connection: Connection<W>,
    /// What is written before everything else.
    pub head: Bytes,
}

struct Entry<W> {
    id: u64,
    session: Session,
    connection: Connection<W>,
    /// Whether it is among those that may have something to write.
    is_touched: bool,
    /// Whether its last bytes are written or wait for the socket.
    is_ending: bool,
    reading: Option<AbortOnDropHandle<()>>,
    _registration: Registration,
}

impl<W> Entry<W> {
    fn key(&self, place: Place) -> SessionKey {
        SessionKey { id: self.id, place }
    }

    /// It may have something to write.
    fn touch(&mut self, place: Place, touched: &mut VecDeque<Place>) {
        if !self.is_touched {
            self.is_touched = true;
            touched.push_back(place);
        }
    }
}

/// See the module.
pub(super) struct Table<W> {
    hub: Arc<Hub>,
    clock: Arc<Clock>,
    limits: SessionLimits,
    /// `None` until the log was seen.
    cx: Option<Context>,
    entries: Slab<Entry<W>>,
    index: Index,
    wheel: Wheel,
    touched: VecDeque<Place>,
    jobs: Vec<Job>,
    draining: Option<Draining>,
    tick: Tick,
    /// When what is not yet written was applied.
    applied_at: Vec<Instant>,
    delivered: Arc<AtomicU64>,
    /// Bytes that wait for sockets.
    unsent: usize,
    frames: Vec<Outgoing>,
    places: Vec<Place>,
}

impl<W: Wire> Table<W> {
    pub(super) fn new(
        hub: Arc<Hub>,
        clock: Arc<Clock>,
        limits: SessionLimits,
        delivered: Arc<AtomicU64>,
    ) -> Self {
        Self {
            hub,
            clock,
            limits,
            cx: None,
            entries: Slab::new(),
            index: Index::default(),
            wheel: Wheel::new(0),
            touched: VecDeque::new(),
            jobs: Vec::new(),
            draining: None,
            tick: 0,
            applied_at: Vec::new(),
            delivered,
            unsent: 0,
            frames: Vec::new(),
            places: Vec::new(),
        }
    }

    /// Time has passed.
    pub(super) fn set_time(&mut self, tick: Tick) {
        self.tick = tick;
        if let Some(cx) = &mut self.cx {
            (cx.tick, cx.now, cx.has_digests) = (tick, self.clock.now(), self.hub.has_digests());
        }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Bytes that wait for sockets.
    pub(super) fn unsent(&self) -> usize {
        self.unsent
    }

    pub(super) fn wire_mut(&mut self, place: Place) -> Option<&mut W> {
        self.entries.get_mut(place as usize).map(|entry| &mut entry.connection.wire)
    }

    /// The reads that are wanted since this was last asked.
    pub(super) fn take_jobs(&mut self) -> Vec<Job> {
        std::mem::take(&mut self.jobs)
    }

    /// The read that this session wanted runs; it is stopped when the session is over.
    pub(super) fn set_reading(&mut self, session: SessionKey, reading: AbortOnDropHandle<()>) {
        if let Some(entry) = find(&mut self.entries, session) {
            entry.reading = Some(reading);
        }
    }

    /// Whether a read is under way.
    #[cfg(test)]
    pub(super) fn is_reading(&self) -> bool {
        self.entries.iter().any(|(_, entry)| entry.reading.is_some())
    }

    /// When the clock alone brings something to do; `None`: never.
    pub(super) fn next_tick(&self) -> Option<Tick> {
        self.wheel.next()
    }

    /// Whether something is to be done at once, without being told.
    pub(super) fn is_busy(&self) -> bool {
        !self.touched.is_empty()
    }

    pub(super) fn is_draining(&self) -> bool {
        self.draining.is_some()
    }

    /// A stream begins; gives its place.
    pub(super) fn start(&mut self, new: NewSession<W>) -> Place {
        let NewSession { id, subscription, wish, fence, registration, mut connection, head } = new;
        let cx = self.cx.as_ref().expect("a stream begins only once the log was seen");
        let session = Session::new(subscription, wish, fence, cx);
        let mut frames = vec![Outgoing { bytes: head, expires_at: None }];
        let has_failed = connection.write(&mut frames, cx.tick).is_err();
        self.unsent += connection.waiting();
        let entry = Entry {
            id,
            session,
            connection,
            is_touched: false,
            is_ending: false,
            reading: None,
            _registration: registration,
        };
        let place = place_of(self.entries.insert(entry));
        let entry = &self.entries[place as usize];
        self.index.add(place, entry.session.subscription());
        let key = entry.key(place);
        self.hub.has_come(key, entry.session.subscription());
        self.wheel.add(key, self.tick + 1);
        if let Some(draining) = &mut self.draining {
            draining.add(key);
        }
        if has_failed {
            self.remove(place)
        } else {
            self.touch(place)
        }
        place
    }

    /// The reactor is told something else than that a stream begins.
    pub(super) fn handle(&mut self, message: Message) {
        match message {
            Message::Begin(epoch, applied) => self.begin(epoch, applied),
            Message::Apply(events, applied, at) => self.apply(&events, applied, at),
            Message::Notify(audience, event) => self.notify(&audience, &event),
            Message::Forget(audience, position) => {
                self.each(&audience, |session, _| session.forget(|at| at == position));
            }
            Message::ForgetUpTo(user, position) => {
                let places = self.index.of_user(user);
                self.each_of(&places, |session, _| session.forget(|at| at <= position));
            }
            Message::End(credentials) => {
                let of = |credential| self.index.of_credential(credential);
                let places: Vec<Place> = credentials.iter().flat_map(of).collect();
                self.each_of(&places, |session, cx| session.close(Closing::SignedOut, cx));
            }
            Message::BeginPresence(session, present) => {
                if find(&mut self.entries, session).is_some() {
                    self.each_of(&[session.place], |session, cx| session.begin_presence(&present, cx));
                }
            }
            Message::PresenceChanged(topic, changes) => {
                let places = self.index.of_topic(&topic);
                self.each_of(&places, |session, cx| session.presence_changed(&changes, cx));
            }
            Message::Found(session, answer) => {
                if let (Some(entry), Some(cx)) = (find(&mut self.entries, session), &self.cx) {
                    entry.reading = None;
                    entry.session.found(answer, cx);
                    self.touch(session.place);
                }
            }
            Message::Credentials(last, reply) => {
                // Who asked may have gone away.
                let _ = reply.send(self.index.credentials_after(last));
            }
            Message::Drain(window) => self.drain(window),
            Message::Cut => {
                self.places().into_iter().for_each(|place| self.remove(place));
            }
            Message::Start(_) | Message::Stop => {}
        }
    }

    fn places(&self) -> Vec<Place> {
        self.entries.iter().map(|(place, _)| place_of(place)).collect()
    }

    fn begin(&mut self, epoch: Epoch, applied: Checkpoint) {
        let places = self.places();
        self.each_of(&places, |session, cx| session.close(Closing::Reconnect, cx));
        self.cx = Some(Context {
            epoch,
            applied,
            has_digests: self.hub.has_digests(),
            now: self.clock.now(),
            tick: self.tick,
            limits: self.limits.clone(),
        });
    }

    fn apply(&mut self, events: &[Arc<Delivery>], applied: Checkpoint, at: Instant) {
        for some in events.chunks(EVENTS_AT_ONCE) {
            let Some(cx) = &mut self.cx else { return };
            // Up to the last of these everything is with the sessions once they have it.
            if let Some(last) = some.last() {
                cx.applied = last.checkpoint();
            }
            for event in some {
                self.each(&event.event().audience, |session, cx| session.offer(event, cx));
            }
            if events.len() > EVENTS_AT_ONCE {
                self.flush();
            }
        }
        if let Some(cx) = &mut self.cx {
            cx.applied = applied;
        }
        if !events.is_empty() {
            self.applied_at.push(at);
            if self.applied_at.len() >= EVENTS_AT_ONCE {
                self.flush();
            }
        }
    }

    fn notify(&mut self, audience: &Audience, event: &Arc<ServerEvent>) {
        self.each(audience, |session, cx| session.notify(event, cx));
    }

    /// Does something to all sessions that an audience targets.
    fn each(&mut self, audience: &Audience, does: impl FnMut(&mut Session, &Context)) {
        let mut places = std::mem::take(&mut self.places);
        places.clear();
        if self.index.targets(audience, &mut places).is_none() {
            let everyone = self.entries.iter().filter(|(_, entry)| entry.session.wants_everyone());
            places.extend(everyone.map(|(place, _)| place_of(place)));
        }
        self.each_of(&places, does);
        self.places = places;
    }

    fn each_of(&mut self, places: &[Place], mut does: impl FnMut(&mut Session, &Context)) {
        let Some(cx) = &self.cx else { return };
        for place in places {
            let Some(entry) = self.entries.get_mut(*place as usize) else { continue };
            does(&mut entry.session, cx);
            entry.touch(*place, &mut self.touched);
        }
    }

    fn touch(&mut self, place: Place) {
        if let Some(entry) = self.entries.get_mut(place as usize) {
            entry.touch(place, &mut self.touched);
        }
    }

    /// Its socket has room.
    pub(super) fn is_writable(&mut self, place: Place) {
        self.touch(place);
    }

    /// Its client sent something, or closed the connection.
    pub(super) fn is_readable(&mut self, place: Place) {
        if self.entries.get_mut(place as usize).is_some_and(|entry| !entry.connection.read()) {
            self.remove(place);
        }
    }

    /// What is due by the clock.
    pub(super) fn sweep(&mut self) {
        for key in self.wheel.take_due(self.tick) {
            let (Some(entry), Some(cx)) = (find(&mut self.entries, key), &self.cx) else { continue };
            let jitter = u32::try_from(key.id % 100).unwrap_or(0);
            match entry.session.sweep(entry.connection.stalled_since(), jitter, cx) {
                Due::At(tick) => {
                    self.wheel.add(key, tick);
                    self.touch(key.place);
                }
                Due::Cut => self.remove(key.place),
            }
        }
        self.drain_on();
    }

    fn drain(&mut self, window: Duration) {
        let left = self.entries.iter().map(|(place, entry)| entry.key(place_of(place))).collect();
        self.draining = Some(Draining::of(left, window));
        self.drain_on();
    }

    /// Closes the streams whose turn it is.
    fn drain_on(&mut self) {
        let Some(draining) = &mut self.draining else { return };
        let goes = draining.take_due().into_iter();
        let is_there = |key: &SessionKey| find(&mut self.entries, *key).is_some();
        let places: Vec<Place> = goes.filter(is_there).map(|key| key.place).collect();
        self.each_of(&places, |session, cx| session.close(Closing::Reconnect, cx));
    }

    /// Writes what may be written. Some may have more: see [`Table::is_busy`].
    pub(super) fn flush(&mut self) {
        let (mut at_once, mut later) = (0, 0);
        for _ in 0..self.touched.len() {
            let Some(place) = self.touched.pop_front() else { break };
            let (events, written) = self.write(place);
            match written {
                Some(Written::All) => at_once += events,
                _ => later += events,
            }
        }
        if at_once + later > 0 {
            self.delivered.fetch_add(at_once + later, Ordering::Relaxed);
            metrics::counter!("carillon_deliveries_total").increment(at_once + later);
            metrics::counter!("carillon_deliveries_deferred_total").increment(later);
        }
        for at in self.applied_at.drain(..) {
            super::stage_written(at.elapsed());
        }
    }

    /// Writes what one socket takes; how many events were handed to it, and whether it took all. `None`: it is over.
    fn write(&mut self, place: Place) -> (u64, Option<Written>) {
        let (Some(entry), Some(cx)) = (self.entries.get_mut(place as usize), &self.cx) else {
            return (0, None);
        };
        entry.is_touched = false;
        if entry.session.take_lost_presence() {
            let key = entry.key(place);
            self.hub.needs_presence(key, &entry.session.subscription().reader);
        }
        let before = entry.connection.waiting();
        let mut events = 0;
        if entry.connection.drop_expired(cx.now) {
            entry.session.has_not_left();
        }
        let mut outcome = entry.connection.write_on(cx.tick);
        let mut is_done = false;
        for _ in 0..WRITES_AT_ONCE {
            if !matches!(outcome, Ok(Written::All)) || is_done {
                break;
            }
            events += gather(entry, cx, &mut self.frames);
            is_done = self.frames.is_empty();
            if !is_done {
                outcome = entry.connection.write(&mut self.frames, cx.tick);
                self.frames.clear();
            }
        }
        let is_over = entry.is_ending && entry.connection.stalled_since().is_none();
        self.unsent = (self.unsent + entry.connection.waiting()).saturating_sub(before);
        let Ok(written) = outcome else {
            self.remove(place);
            return (events, None);
        };
        if is_over {
            self.remove(place);
            return (events, Some(written));
        }
        if written == Written::Part {
            entry.session.falls_behind();
        } else {
            let key = entry.key(place);
            if !is_done {
                self.touch(place);
            } else if let Some((want, has_failed)) = entry.session.wants(cx) {
                let reader = entry.session.subscription().reader.clone();
                self.jobs.push(Job { session: key, reader, want, has_failed });
            }
        }
        (events, Some(written))
    }

    /// Ends a stream at once.
    pub(super) fn remove(&mut self, place: Place) {
        let Some(entry) = self.entries.try_remove(place as usize) else { return };
        self.unsent = self.unsent.saturating_sub(entry.connection.waiting());
        let subscription = entry.session.subscription();
        self.index.remove(place, subscription);
        self.hub.has_gone(entry.key(place), subscription);
    }
}

/// The slab's number of an entry, which is never as large as that.
fn place_of(number: usize) -> Place {
    Place::try_from(number).unwrap_or(Place::MAX)
}

/// The session with this key, if it is not over.
fn find<W>(entries: &mut Slab<Entry<W>>, key: SessionKey) -> Option<&mut Entry<W>> {
    entries.get_mut(key.place as usize).filter(|entry| entry.id == key.id)
}

/// The frames of one write; how many of them are events.
fn gather<W>(entry: &mut Entry<W>, cx: &Context, frames: &mut Vec<Outgoing>) -> u64 {
    let (mut bytes, mut events) = (0, 0);
    let framing = entry.connection.framing;
    while bytes < cx.limits.write_bytes {
        let Some(leaving) = entry.session.next(cx) else {
            if let Some(closing) = entry.session.closing()
                && !entry.is_ending
            {
                entry.is_ending = true;
                // Who is to come back must not read this as the end of all: a client by `fetch` would stay away.
                if closing == Closing::SignedOut && framing == Framing::Chunked {
                    frames.push(Outgoing { bytes: Bytes::from_static(LAST_CHUNK), expires_at: None });
                }
            }
            break;
        };
        events += u64::from(leaving.is_event);
        let frame = leaving.chunk.framed(framing);
        bytes += frame.len();
        frames.push(Outgoing { bytes: frame, expires_at: leaving.expires_at });
    }
    events
}
