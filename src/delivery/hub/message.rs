//! What reactors are told. In order: a stream that begins gets all that stands behind its beginning.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::Registration;
use crate::account::Credential;
use crate::delivery::backlog::Found;
use crate::delivery::frame::{Delivery, ServerEvent};
use crate::delivery::request::{Subscription, Wish};
use crate::delivery::session::Fence;
use crate::delivery::taken::Taken;
use crate::event::{Audience, Checkpoint, Epoch, Position, Topic, UserId};
use crate::store::StoreError;

/// One session of a reactor: its place, and a number that no other session at that place has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionKey {
    /// Which of all that ever were there.
    pub id: u64,
    /// Its place.
    pub place: u32,
}

/// A stream that begins, with its socket.
#[derive(Debug)]
pub struct Start {
    /// Its number, which no other stream of this node has.
    pub id: u64,
    /// Who listens, and to what.
    pub subscription: Subscription,
    /// How it is to begin.
    pub wish: Wish,
    /// Where it begins.
    pub fence: Fence,
    /// Its part in what this node listens for.
    pub registration: Registration,
    /// Its connection.
    pub taken: Taken,
}

/// See the module.
#[derive(Debug)]
pub enum Message {
    /// A history begins, or was begun: all streams end.
    Begin(Epoch, Checkpoint),
    /// A stream begins.
    Start(Box<Start>),
    /// Events, in the order of positions, and up to where the log is applied with them.
    Apply(Arc<[Arc<Delivery>]>, Checkpoint, Instant),
    /// One of the server's own events, for an audience.
    Notify(Arc<Audience>, Arc<ServerEvent>),
    /// Nobody may see the event at this position any more.
    Forget(Arc<Audience>, Position),
    /// A user has read everything up to here.
    ForgetUpTo(UserId, Position),
    /// These sessions and tokens permit nothing any more.
    End(Arc<[Credential]>),
    /// Who is on its topics, for one stream.
    BeginPresence(SessionKey, Vec<Arc<ServerEvent>>),
    /// What has changed on a topic.
    PresenceChanged(Topic, Arc<[Arc<ServerEvent>]>),
    /// What a stream wanted to have read.
    Found(SessionKey, Result<Found, StoreError>),
    /// What streams rest on: those after this one, in order, and not all at once.
    Credentials(Option<Credential>, oneshot::Sender<Vec<Credential>>),
    /// Closes all streams, spread over this time.
    Drain(Duration),
    /// Cuts all that are left.
    Cut,
    /// Ends the reactor.
    Stop,
}

impl Message {
    /// About how many bytes it holds on to.
    fn size(&self) -> usize {
        match self {
            Self::Apply(events, ..) => events.iter().map(|event| event.frame_size()).sum(),
            Self::Notify(_, event) => event.size(),
            _ => 0,
        }
    }
}

/// What waits for a reactor. Not bounded by itself: the subscriber waits while [`Inbox::is_full`], streams and reads are
/// bounded where they are admitted.
#[derive(Debug)]
pub struct Inbox {
    waiting: Mutex<Waiting>,
    /// Whether the reactor has been woken for what waits.
    is_woken: AtomicBool,
    waker: mio::Waker,
}

#[derive(Debug, Default)]
struct Waiting {
    messages: VecDeque<Message>,
    bytes: usize,
    /// Nobody takes anything any more.
    is_closed: bool,
}

/// How many messages, and how many bytes of events, wait at most before the subscriber waits, too.
const MAX_WAITING: usize = 4_096;
const MAX_WAITING_BYTES: usize = 32 << 20;

impl Inbox {
    /// Of the reactor that this wakes.
    pub fn new(waker: mio::Waker) -> Self {
        Self { waiting: Mutex::default(), is_woken: AtomicBool::new(false), waker }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the reactor.
    pub fn send(&self, message: Message) {
        {
            let mut waiting = self.waiting();
            waiting.bytes += message.size();
            waiting.messages.push_back(message);
        }
        if !self.is_woken.swap(true, Ordering::AcqRel)
            && let Err(error) = self.waker.wake()
        {
            tracing::error!(%error, "a reactor cannot be woken");
        }
    }

    /// Says up to where the log is applied, with nothing for the streams there: the reactor learns of it when it wakes for
    /// something else.
    pub fn send_applied(&self, applied: Checkpoint, at: Instant) {
        let mut waiting = self.waiting();
        if let Some(Message::Apply(events, last, _)) = waiting.messages.back_mut()
            && events.is_empty()
        {
            *last = applied;
        } else {
            waiting.messages.push_back(Message::Apply(Arc::new([]), applied, at));
        }
    }

    /// All that waits.
    pub fn take(&self) -> VecDeque<Message> {
        self.is_woken.store(false, Ordering::Release);
        let mut waiting = self.waiting();
        waiting.bytes = 0;
        std::mem::take(&mut waiting.messages)
    }

    /// The reactor ends: gives what waited.
    pub fn close(&self) -> VecDeque<Message> {
        self.waiting().is_closed = true;
        self.take()
    }

    /// Whether the reactor has ended.
    pub fn is_closed(&self) -> bool {
        self.waiting().is_closed
    }

    /// Whether more should wait until the reactor has taken something.
    pub fn is_full(&self) -> bool {
        let waiting = self.waiting();
        waiting.bytes > MAX_WAITING_BYTES || waiting.messages.len() > MAX_WAITING
    }
}

/// What a reactor polls, with its inbox.
pub fn inbox() -> io::Result<(mio::Poll, Arc<Inbox>)> {
    let poll = mio::Poll::new()?;
    let waker = mio::Waker::new(poll.registry(), WAKER)?;
    Ok((poll, Arc::new(Inbox::new(waker))))
}

/// What the waker is called among what a reactor polls.
pub const WAKER: mio::Token = mio::Token(usize::MAX);
