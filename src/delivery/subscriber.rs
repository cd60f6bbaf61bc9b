//! The subscriber: feeds the sequencer from this node's own appends, the bus, the store and the clock, and does what it
//! says.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::RngExt as _;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep_until;

use super::Progress;
use super::endings;
use super::frame::{Delivery, ServerEvent};
use super::hub::{Hub, HubGuard};
use super::presence::{Presence, RemoteChange};
use super::sequencer::{Moment, Output, Sequencer, SequencerLimits};
use crate::bus::message::{Message, MessageWriter, Notice, Received, Unreadable, node_channel};
use crate::bus::{BusEvent, BusEvents};
use crate::event::{Applied, Audience, Checkpoint, Epoch};
use crate::failpoint::is_armed;
use crate::identity::Accounts;
use crate::store::{DIGEST_FORM, LogState, Store, StoreError, history_lost};

/// How often a sequencer that waits gets the time.
const TICK: Duration = Duration::from_millis(10);
/// How often it is logged at most that messages cannot be read.
const LOG_UNREADABLE_EVERY: Duration = Duration::from_secs(60);
/// How many events a read brings at most.
const READ_PAGE: u32 = 500;

/// The events of a read, and up to where they are all. `None`: the log has not got the event any more after which the
/// read began.
type ReadPage = Option<(Vec<Arc<Delivery>>, Checkpoint)>;

enum Answer {
    /// Of a read in this epoch.
    Page(Epoch, Result<ReadPage, StoreError>),
    Head(Result<LogState, StoreError>),
}

/// What the subscriber feeds, and from what.
pub struct Feed {
    /// Where events go.
    pub hub: Arc<Hub>,
    /// What is read where the bus brought nothing.
    pub store: Store,
    /// Where notices of presence go.
    pub presence: Arc<Presence>,
    /// What forgets the sessions and tokens that notices say have ended.
    pub accounts: Accounts,
    /// How far this node is.
    pub progress: Arc<Progress>,
    /// The history in force, for those who announce.
    pub epoch: watch::Sender<Option<Epoch>>,
    /// What this node writes messages with: it follows the forms that the log's state names.
    pub writer: MessageWriter,
    /// Of the sequencer.
    pub sequencer: SequencerLimits,
    /// How often the log's head is compared with what was applied.
    pub poll_every: Duration,
    /// The same, while the bus is down.
    pub poll_degraded: Duration,
}

struct Subscriber {
    feed: Arc<Feed>,
    /// The one on which this node's heartbeats come back.
    own_channel: String,
    /// `None` until the log was seen.
    at: Option<(Epoch, Sequencer)>,
    is_bus_down: bool,
    /// What the store is being asked: one read and one question at most.
    questions: JoinSet<Answer>,
    asking: bool,
    /// When the head was last asked for.
    asked_time: Instant,
    ask_at: Instant,
    /// When it was last logged that a message could not be read.
    unreadable_logged: Option<Instant>,
}

/// Runs until the bus is closed, or something breaks that should not.
pub async fn run(feed: Feed, mut bus: BusEvents) {
    let mut subscriber = Subscriber {
        own_channel: node_channel(feed.writer.sender()),
        feed: Arc::new(feed),
        at: None,
        is_bus_down: true,
        questions: JoinSet::new(),
        asking: false,
        asked_time: Instant::now(),
        ask_at: Instant::now(),
        unreadable_logged: None,
    };
    loop {
        let wake = subscriber.wake_at().into();
        tokio::select! {
            event = bus.recv() => match event {
                Some(event) => subscriber.received(event),
                None => return,
            },
            Some(answer) = subscriber.questions.join_next() => match answer {
                Ok(answer) => subscriber.answered(answer),
                // It panicked. What waits for it would wait for ever.
                Err(error) => return tracing::error!(%error, "a question to the store broke off"),
            },
            () = sleep_until(wake) => {}
        }
        // Everything that has come is taken before the sequencer moves: one lock for all of it.
        while let Some(event) = bus.try_recv() {
            subscriber.received(event);
            if subscriber.is_far() {
                break;
            }
        }
        subscriber.advance();
        subscriber.ask_when_due();
    }
}

impl Subscriber {
    /// Whether enough waits that the sequencer should move before more is taken.
    fn is_far(&self) -> bool {
        self.at.as_ref().is_some_and(|(_, sequencer)| sequencer.is_full())
    }

    /// When time alone may bring something to do.
    fn wake_at(&self) -> Instant {
        let is_waiting = self.asking || self.at.as_ref().is_some_and(|(_, sequencer)| sequencer.is_waiting());
        let soon = Instant::now() + TICK;
        if is_waiting { soon } else { self.ask_at.max(soon) }
    }

    fn received(&mut self, event: BusEvent) {
        match event {
            BusEvent::Own(own) => self.message(*own),
            // What this node sent to all has come to it without the bus.
            BusEvent::Message { channel, payload }
                if channel != self.own_channel && Received::is_from(self.feed.writer.sender(), &payload) => {}
            BusEvent::Message { payload, .. } => match Received::decode(&payload) {
                Ok(received) => self.message(received),
                Err(why) => self.unreadable(why),
            },
            BusEvent::Subscribed(_) => {}
            BusEvent::Gap => {
                metrics::counter!("carillon_bus_gaps_total").increment(1);
                self.is_bus_down = true;
                self.ask_at = Instant::now();
            }
            BusEvent::Restored => {
                self.is_bus_down = false;
                self.feed.presence.mark_stale();
                self.ask_at = Instant::now();
            }
        }
        if let Some((_, sequencer)) = &mut self.at {
            sequencer.degraded(self.is_bus_down);
        }
    }

    /// The store has what the message spoke of. A cluster whose nodes are of two versions brings many of these.
    fn unreadable(&mut self, why: Unreadable) {
        match why {
            Unreadable::Version(_) => metrics::counter!("carillon_bus_unknown_version_total").increment(1),
            Unreadable::Malformed => metrics::counter!("carillon_bus_undecodable_total").increment(1),
        }
        let is_due = |logged: Instant| logged.elapsed() >= LOG_UNREADABLE_EVERY;
        if self.unreadable_logged.is_none_or(is_due) {
            self.unreadable_logged = Some(Instant::now());
            tracing::warn!(%why, "messages on the bus cannot be read; the store is read instead");
        }
        self.ask_soon();
    }

    /// Asks for the log's head soon: at once, unless that was just asked.
    fn ask_soon(&mut self) {
        self.ask_at = self.ask_at.min(self.asked_time + self.feed.poll_degraded);
    }

    fn message(&mut self, Received { sender, epoch: of, message }: Received) {
        let now = self.now();
        let current = self.at.as_mut().filter(|(epoch, _)| of.as_ref() == Some(epoch));
        match message {
            Message::Heartbeat(_) => self.feed.progress.received_bus_heartbeat(),
            // Its positions are of a history that this node does not know, or not any more.
            Message::Notice(notice) if notice.has_position() && current.is_none() && of.is_some() => {
                self.ask_soon();
            }
            Message::Notice(notice) => self.notice(sender, notice),
            Message::Copy(copy) => {
                if let Some((_, sequencer)) = current {
                    sequencer.copy(copy);
                }
            }
            Message::Announcement(mut announcement) => {
                if is_armed("compare_off") {
                    announcement.previous_id = None;
                }
                if current.is_none_or(|(_, sequencer)| sequencer.announcement(announcement, now)) {
                    self.ask_soon();
                }
            }
        }
    }

    fn notice(&self, sender: String, notice: Notice) {
        let hub = &self.feed.hub;
        match notice {
            Notice::Read { user, position, read } => {
                let (guard, audience) = (hub.lock(), Audience::users(vec![user]));
                if read {
                    guard.forget(&audience, position);
                }
                guard.notify(&audience, ServerEvent::read(position, read));
            }
            Notice::ReadUpTo { user, up_to } => {
                let (guard, audience) = (hub.lock(), Audience::users(vec![user]));
                guard.forget_up_to(user, up_to);
                guard.notify(&audience, ServerEvent::read_up_to(up_to));
            }
            Notice::ReadUpToTakenBack { user } => {
                let audience = Audience::users(vec![user]);
                hub.lock().notify(&audience, ServerEvent::read_undone());
            }
            Notice::Retracted { position, audience } => {
                let mut guard = hub.lock();
                guard.retract(&audience, position);
                guard.notify(&audience, ServerEvent::retract(position));
            }
            Notice::Ended(credentials) => endings::end(&self.feed.accounts, hub, &credentials),
            Notice::UserChanged(user) => self.feed.accounts.names().forget(user),
            Notice::Presence { topic, joined, left } => {
                self.feed.presence.remote_change(RemoteChange { topic, node: sender, joined, left });
            }
        }
    }

    fn answered(&mut self, answer: Answer) {
        match answer {
            Answer::Page(epoch, page) => self.page(&epoch, page),
            Answer::Head(state) => {
                self.asking = false;
                match state {
                    Ok(state) => self.head(&state),
                    Err(error) => tracing::warn!(%error, "the log's head could not be read"),
                }
            }
        }
    }

    /// A read was answered; one of a former history no longer matters.
    fn page(&mut self, of: &Epoch, page: Result<ReadPage, StoreError>) {
        let now = self.now();
        let Some((_, sequencer)) = self.at.as_mut().filter(|(epoch, _)| epoch == of) else { return };
        match page {
            Ok(None) => {
                sequencer.read_failed(now);
                self.ask_soon();
            }
            Ok(Some((events, end))) => {
                if let Some(output) = sequencer.page(events, end) {
                    let feed = self.feed.clone();
                    self.perform(&mut feed.hub.lock(), of, output);
                }
            }
            Err(error) => {
                metrics::counter!("carillon_catch_up_failures_total").increment(1);
                tracing::warn!(%error, "catching up waits for the store");
                sequencer.read_failed(now);
            }
        }
    }

    /// The store said where the log stands.
    fn head(&mut self, state: &LogState) {
        let has_digests = state.forms >= DIGEST_FORM.number;
        self.feed.writer.set_forms(state.forms);
        self.feed.hub.set_digests(has_digests);
        if state.is_new_epoch {
            history_lost();
        }
        let now = self.now();
        let mut guard = self.feed.hub.lock();
        guard.begin(&state.epoch, state.floor, state.head());
        match &mut self.at {
            Some((epoch, sequencer)) if *epoch == state.epoch => {
                sequencer.head(state.head(), now);
                sequencer.set_digests(has_digests);
            }
            // Cursors of another history mean nothing now.
            _ => {
                let mut sequencer =
                    Sequencer::new(self.feed.sequencer.clone(), state.epoch.clone(), state.head());
                sequencer.degraded(self.is_bus_down);
                sequencer.set_digests(has_digests);
                self.at = Some((state.epoch.clone(), sequencer));
                self.feed.epoch.send_replace(Some(state.epoch.clone()));
            }
        }
    }

    fn advance(&mut self) {
        let now = self.now();
        let feed = self.feed.clone();
        let mut guard = feed.hub.lock();
        let Some((epoch, sequencer)) = &mut self.at else { return };
        // Under the hub's lock: nobody registers between asking whom an event concerns and routing it.
        let outputs = sequencer.advance(now, |audience| guard.concerns(audience));
        metrics::gauge!("carillon_lag_positions").set(sequencer.lag() as f64);
        feed.progress.set_lag(sequencer.lag());
        let epoch = epoch.clone();
        for output in outputs {
            self.perform(&mut guard, &epoch, output);
        }
    }

    fn perform(&mut self, guard: &mut HubGuard<'_>, epoch: &Epoch, output: Output) {
        match output {
            Output::Apply { events, routes, applied } => guard.apply(&events, routes, applied),
            Output::Read { after, up_to } => {
                metrics::counter!("carillon_catch_up_reads_total").increment(1);
                guard.reading(up_to);
                let selector = guard.interests();
                let (feed, epoch) = (self.feed.clone(), epoch.clone());
                self.questions.spawn(async move {
                    let page =
                        feed.store.read_for_node(after.position, up_to.position, &selector, READ_PAGE).await;
                    let has_digests = feed.hub.has_digests();
                    let delivery = |event| Arc::new(Delivery::new(&epoch, event).with_digest(has_digests));
                    let page = page.map(|page| {
                        let end = page.end();
                        let follows = page.follows(after) || is_armed("compare_off");
                        follows.then(|| (page.events.into_iter().map(delivery).collect(), end))
                    });
                    Answer::Page(epoch, page)
                });
            }
        }
    }

    /// Asks the store for its head: once a second, jittered; often while the bus is down.
    fn ask_when_due(&mut self) {
        let now = Instant::now();
        let is_off = self.at.is_some() && is_armed("reconcile_off");
        if self.asking || now < self.ask_at || is_off {
            return;
        }
        let is_degraded = self.is_bus_down || self.at.is_none();
        let pause = if is_degraded { self.feed.poll_degraded } else { self.feed.poll_every };
        self.ask_at = now + pause.mul_f64(rand::rng().random_range(0.9..1.1));
        self.asking = true;
        self.asked_time = now;
        let applied = self.at.as_ref().filter(|_| !is_armed("compare_off"));
        let applied =
            applied.map(|(epoch, sequencer)| Applied { epoch: epoch.clone(), at: sequencer.applied() });
        let feed = self.feed.clone();
        let question = async move { feed.progress.log_state(&feed.store, applied.as_ref()).await };
        self.questions.spawn(async move { Answer::Head(question.await) });
    }

    fn now(&self) -> Moment {
        self.feed.progress.now()
    }
}
