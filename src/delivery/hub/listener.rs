//! One listener: its filter, and the bounded queue between routing and its connection.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures_util::task::AtomicWaker;
use tokio_util::sync::CancellationToken;

use crate::account::Credential;
use crate::delivery::frame::{Delivery, ServerEvent};
use crate::delivery::sweep::SWEEP_EVERY;
use crate::event::Position;
use crate::store::Reader;

/// When the sweep does what to a stream.
#[derive(Debug, Clone)]
pub struct SweepLimits {
    /// A stream that has been quiet this long gets a keep-alive.
    pub keep_alive_every: Duration,
    /// A stream with something to take that takes nothing for this long is closed.
    pub stall_timeout: Duration,
    /// A stream older than this (less up to a tenth) is asked to reconnect.
    pub max_age: Duration,
}

impl Default for SweepLimits {
    fn default() -> Self {
        Self {
            keep_alive_every: Duration::from_secs(15),
            stall_timeout: Duration::from_secs(600),
            max_age: Duration::from_secs(4 * 3600),
        }
    }
}

/// What waits in a listener's queue.
#[derive(Debug, Clone)]
pub enum QueueItem {
    /// An event.
    Event(Arc<Delivery>),
    /// One of the server's own events.
    Server(Arc<ServerEvent>),
}

impl QueueItem {
    /// Its bytes on the wire, about.
    fn size(&self) -> usize {
        match self {
            Self::Event(event) => event.frame_size(),
            Self::Server(event) => event.size(),
        }
    }
}

/// Why a stream ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closing {
    /// Its session or token permits nothing any more.
    SignedOut,
    /// The client should come back: old age, draining, a new history.
    Reconnect,
}

/// What a connection finds in its queue.
#[derive(Debug)]
pub enum QueueRead {
    /// All that waited, in order.
    Items(VecDeque<QueueItem>),
    /// Too much waited: resume from the cursor.
    Lagged,
    /// Nothing for a while: a keep-alive is due, and everything is sent.
    KeepAlive,
    /// The stream ends.
    Close(Closing),
}

/// Who wants to listen to what.
#[derive(Debug, Clone)]
pub struct Subscription {
    /// Who listens, and to what.
    pub reader: Reader,
    /// Their name: what others on these topics see.
    pub name: Arc<str>,
    /// Whether they want to know who else is there.
    pub wants_presence: bool,
    /// How long the stream is quiet at most, if not as long as others.
    pub keep_alive_every: Option<Duration>,
    /// What the permission rests on.
    pub credential: Credential,
    /// Ends the connection at once, even if its client reads nothing.
    pub connection: CancellationToken,
}

/// One open stream, as routing sees it.
#[derive(Debug)]
pub struct Listener {
    pub(super) id: u64,
    subscription: Subscription,
    max_events: usize,
    max_bytes: usize,
    /// Only what is above it is for the queue.
    from: AtomicI64,
    opened: Instant,
    /// Whether they know who is there, so that a change means something to them.
    knows_presence: AtomicBool,
    queue: Mutex<Queue>,
    waker: AtomicWaker,
}

#[derive(Debug)]
struct Queue {
    items: VecDeque<QueueItem>,
    bytes: usize,
    is_lagging: bool,
    keep_alive_due: bool,
    closing: Option<Closing>,
    /// When the connection last asked for more: it makes progress.
    last_asked: Instant,
    /// When the connection last got something to send.
    last_sent: Instant,
}

impl std::ops::Deref for Listener {
    type Target = Subscription;

    fn deref(&self) -> &Subscription {
        &self.subscription
    }
}

impl Listener {
    pub(super) fn new(id: u64, subscription: Subscription, max_events: usize, max_bytes: usize) -> Self {
        let now = Instant::now();
        Self {
            id,
            subscription,
            max_events,
            max_bytes,
            knows_presence: AtomicBool::new(false),
            from: AtomicI64::new(0),
            opened: now,
            queue: Mutex::new(Queue {
                items: VecDeque::new(),
                bytes: 0,
                is_lagging: false,
                keep_alive_due: false,
                closing: None,
                last_asked: now,
                last_sent: now,
            }),
            waker: AtomicWaker::new(),
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether changes of presence mean anything to them. Read and set under the hub's lock.
    pub(super) fn knows_presence(&self) -> bool {
        self.knows_presence.load(Ordering::Relaxed)
    }

    pub(super) fn set_knows_presence(&self, knows: bool) {
        self.knows_presence.store(knows, Ordering::Relaxed);
    }

    /// From now on everything above `at` is for the queue.
    pub(super) fn resume_from(&self, at: Position) {
        self.from.store(at, Ordering::Relaxed);
        self.queue().is_lagging = false;
    }

    /// Queues an event if this listener wants it.
    pub(super) fn offer(&self, event: &Arc<Delivery>) {
        let fields = event.event();
        let is_wanted = fields.position > self.from.load(Ordering::Relaxed)
            && self.reader.selector.wants(&fields.event_type, fields.priority);
        if is_wanted {
            self.push(QueueItem::Event(event.clone()));
        }
    }

    /// Queues something. On overflow the queue is emptied and the stream will resume from its own cursor.
    pub(super) fn push(&self, item: QueueItem) {
        let size = item.size();
        {
            let mut queue = self.queue();
            if queue.is_lagging {
                return;
            }
            if queue.items.len() >= self.max_events || queue.bytes + size > self.max_bytes.max(size) {
                metrics::counter!("carillon_listener_lags_total").increment(1);
                queue.is_lagging = true;
                queue.items = VecDeque::new();
                queue.bytes = 0;
            } else {
                queue.bytes += size;
                queue.items.push_back(item);
            }
        }
        self.waker.wake();
    }

    /// Takes the events at some positions out of the queue.
    pub(super) fn forget(&self, which: impl Fn(Position) -> bool) {
        let mut queue = self.queue();
        queue.items.retain(|item| !matches!(item, QueueItem::Event(event) if which(event.position())));
        queue.bytes = queue.items.iter().map(QueueItem::size).sum();
    }

    /// Asks the stream to end. The first reason stands.
    pub fn close(&self, closing: Closing) {
        self.queue().closing.get_or_insert(closing);
        self.waker.wake();
    }

    /// Whether the stream was asked to end.
    pub fn is_closing(&self) -> bool {
        self.queue().closing.is_some()
    }

    /// Everything that waits, for the connection. `live` is false during replay, when only endings and
    /// keep-alives matter.
    pub fn poll_take(&self, cx: &mut Context<'_>, live: bool) -> Poll<QueueRead> {
        self.waker.register(cx.waker());
        let mut queue = self.queue();
        queue.last_asked = Instant::now();
        if let Some(closing) = queue.closing {
            return Poll::Ready(QueueRead::Close(closing));
        }
        if live && queue.is_lagging {
            return Poll::Ready(QueueRead::Lagged);
        }
        if live && !queue.items.is_empty() {
            queue.bytes = 0;
            queue.keep_alive_due = false;
            queue.last_sent = queue.last_asked;
            return Poll::Ready(QueueRead::Items(std::mem::take(&mut queue.items)));
        }
        if std::mem::take(&mut queue.keep_alive_due) {
            queue.last_sent = queue.last_asked;
            return Poll::Ready(QueueRead::KeepAlive);
        }
        Poll::Pending
    }

    /// Keep-alive, old age, no progress. Called every [`SWEEP_EVERY`].
    pub fn sweep(&self, now: Instant, limits: &SweepLimits) {
        let jitter = limits.max_age / 1000 * u32::try_from(self.id % 100).unwrap_or(0);
        let is_old = now.saturating_duration_since(self.opened) + jitter >= limits.max_age;
        let mut queue = self.queue();
        let has_work =
            queue.is_lagging || !queue.items.is_empty() || queue.closing.is_some() || queue.keep_alive_due;
        if has_work && now.saturating_duration_since(queue.last_asked) >= limits.stall_timeout {
            metrics::counter!("carillon_listeners_stalled_total").increment(1);
            self.connection.cancel();
            return;
        }
        // To the sweep that is nearest, or a stream that wants one each second would get one every other.
        let keep_alive_every = self.keep_alive_every.unwrap_or(limits.keep_alive_every);
        let is_quiet = now.saturating_duration_since(queue.last_sent) + SWEEP_EVERY / 2 >= keep_alive_every;
        if is_old {
            queue.closing.get_or_insert(Closing::Reconnect);
        }
        if is_quiet {
            queue.keep_alive_due = true;
        }
        drop(queue);
        if is_old || is_quiet {
            self.waker.wake();
        }
    }
}

#[cfg(test)]
impl Listener {
    pub(super) fn queue_len(&self) -> usize {
        self.queue().items.len()
    }
}
