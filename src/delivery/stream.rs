//! A stream's life: register, fence, history or replay, flush, live. The one place that owns it.
//!
//! The connection drives it: nothing is read or encoded that the socket has no room for. When too much waits
//! for a listener, its queue is emptied and the stream goes back to replaying from its own cursor.

mod history;
mod leave_order;
mod replay;
mod request;

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame as BodyFrame};
use tokio::sync::Semaphore;
use uuid::Uuid;

use crate::delivery::frame::{COMMENT, Delivery, Form, ServerEvent};
use crate::delivery::hub::{Closing, Fence, Hub, Listener, QueueItem, QueueRead, Refused};
use crate::event::{Checkpoint, Cursor, Millis};
use crate::failpoint::is_armed;
use crate::store::clock::Clock;
use crate::store::{Store, StoreError};
use history::History;
use replay::Backlog;
pub use request::StreamRequest;

/// The pause after a read that failed.
const RETRY_READ: Duration = Duration::from_millis(500);

/// Bounds on what a stream may cost.
#[derive(Debug, Clone)]
pub struct StreamLimits {
    /// How many events are read from the store at once for one stream.
    pub replay_events: u32,
    /// How many bytes of encoded backlog one stream holds at most (and at least one event).
    pub replay_bytes: usize,
    /// How many events of history, and how many bytes of them, one stream holds at most; the oldest are left out.
    pub history_events: usize,
    /// See `history_events`.
    pub history_bytes: usize,
    /// About how many bytes are handed to the socket in one write.
    pub write_bytes: usize,
    /// How long a browser waits before it reconnects.
    pub retry: Duration,
    /// How many streams of this node read the store at once.
    pub concurrent_replays: usize,
}

impl Default for StreamLimits {
    fn default() -> Self {
        Self {
            replay_events: 200,
            replay_bytes: 64 * 1024,
            history_events: 1_000,
            history_bytes: 512 * 1024,
            write_bytes: 16 * 1024,
            retry: Duration::from_secs(1),
            concurrent_replays: 8,
        }
    }
}

/// What every stream of a node shares.
pub struct Streams {
    hub: Arc<Hub>,
    store: Store,
    clock: Arc<Clock>,
    limits: StreamLimits,
    keep_alive: Duration,
    replays: Semaphore,
    /// How many events were handed to connections.
    delivered: AtomicU64,
}

impl Streams {
    /// Streams fed by `hub`, replaying from `store`. `keep_alive`: how long they are quiet at most.
    pub fn new(
        hub: Arc<Hub>,
        store: Store,
        clock: Arc<Clock>,
        limits: StreamLimits,
        keep_alive: Duration,
    ) -> Arc<Self> {
        let replays = Semaphore::new(limits.concurrent_replays);
        Arc::new(Self { hub, store, clock, limits, keep_alive, replays, delivered: AtomicU64::new(0) })
    }

    /// How many events were handed to connections since the node began.
    pub fn delivered(&self) -> u64 {
        self.delivered.load(Ordering::Relaxed)
    }

    /// A cursor in the form that is written.
    fn written(&self, cursor: &Cursor) -> Cursor {
        let cursor = cursor.clone();
        if self.hub.has_digests() { cursor } else { cursor.without_digest() }
    }

    /// How long a browser waits before it reconnects.
    pub fn retry(&self) -> Duration {
        self.limits.retry
    }

    /// Opens a stream.
    pub fn open(self: &Arc<Self>, request: StreamRequest) -> Result<EventStream, Refused> {
        let StreamRequest { subscription, resume, history, has_heartbeats, form, retry, ignored } = request;
        let is_blind = is_armed("compare_off");
        let resume =
            resume.map(|resume| resume.map(|cursor| if is_blind { cursor.without_digest() } else { cursor }));
        let cursor = resume.as_ref().and_then(|resume| resume.as_ref().ok());
        let (listener, fence) = self.hub.register(subscription, cursor)?;
        let mut stream = EventStream {
            shared: self.clone(),
            listener,
            cursor: Cursor::at(fence.epoch.clone(), fence.at),
            is_cursor_sent: false,
            out: VecDeque::new(),
            phase: Phase::Live,
            limit: self.limits.replay_events,
            has_heartbeats,
            form,
            retry: retry.unwrap_or(self.limits.retry),
        };
        match resume {
            Some(Ok(cursor)) => stream.resume(cursor, &fence),
            Some(Err(_)) => stream.reset("unreadable"),
            None => stream.begin(history, fence),
        }
        stream.connected(&ignored);
        stream.send_heartbeat();
        Ok(stream)
    }
}

type Recalling = Pin<Box<dyn Future<Output = Result<History, StoreError>> + Send>>;
type Reading = Pin<Box<dyn Future<Output = Result<Backlog, StoreError>> + Send>>;

enum Phase {
    Live,
    /// Reading the last so many events of each topic, up to this fence.
    Recalling(Recalling, Fence, u32),
    /// Reading a page, after which the backlog ends at this fence.
    Replaying(Reading, Checkpoint),
    /// The last bytes are on their way.
    Ended,
}

/// What waits for the socket.
enum Ready {
    /// An event, and when it ends.
    Event(Bytes, Option<Millis>),
    /// Something of the stream's own.
    Frame(Bytes),
}

/// One stream: the body of its response.
pub struct EventStream {
    shared: Arc<Streams>,
    listener: Arc<Listener>,
    /// What has been handed to the connection.
    cursor: Cursor,
    /// Whether the last frame that is sent, or waits to be, carries this cursor.
    is_cursor_sent: bool,
    out: VecDeque<Ready>,
    phase: Phase,
    /// How many events a replay reads at once.
    limit: u32,
    /// Keep-alives are events, which an `EventSource` shows.
    has_heartbeats: bool,
    /// How it carries events.
    form: Form,
    /// How long its client is to wait before it reconnects.
    retry: Duration,
}

impl EventStream {
    /// Puts the first frame of the stream in front of what waits already.
    fn connected(&mut self, ignored: &[String]) {
        let connected = ServerEvent::connected(Uuid::now_v7(), self.cursor.position, ignored, self.retry);
        self.out.push_front(Ready::Frame(connected.frame(self.cursor_in_force().as_ref())));
        self.is_cursor_sent = self.cursor_in_force().is_some();
    }

    fn send_heartbeat(&mut self) {
        if self.has_heartbeats {
            let live = matches!(self.phase, Phase::Live);
            let keep_alive = self.listener.keep_alive_every.unwrap_or(self.shared.keep_alive);
            self.send(&ServerEvent::alive(live, keep_alive, self.retry, self.shared.clock.now()));
        }
    }

    fn history(
        &self,
        fence: Fence,
        of_each: u32,
    ) -> impl Future<Output = Result<History, StoreError>> + use<> {
        self.shared.clone().history(self.listener.clone(), fence, of_each, self.form)
    }

    /// Begins at the fence, with history before it if that is wanted.
    fn begin(&mut self, history: Option<u32>, fence: Fence) {
        if let Some(of_each) = history {
            let recalling = self.history(fence.clone(), of_each);
            self.phase = Phase::Recalling(Box::pin(recalling), fence, of_each);
        }
    }

    /// What the `id:` of a frame says now. There is none before the history is sent: after a break it begins again.
    fn cursor_in_force(&self) -> Option<Cursor> {
        match self.phase {
            Phase::Recalling(..) => None,
            _ => Some(self.shared.written(&self.cursor)),
        }
    }

    /// Goes on from `cursor`, up to `fence` from the store.
    fn resume(&mut self, cursor: Cursor, fence: &Fence) {
        let lost = if cursor.epoch != fence.epoch {
            Some("epoch")
        } else if cursor.position < fence.floor {
            Some("retention")
        } else {
            None
        };
        if let Some(reason) = lost {
            self.cursor = Cursor::at(fence.epoch.clone(), fence.at);
            return self.reset(reason);
        }
        self.cursor = cursor;
        // What this node does not know itself is checked against the log: one that lost its end would have
        // the stream leave out whatever has come up to there since.
        if self.cursor.furthest() <= fence.at.position && fence.missed_nothing {
            self.reach(fence.at);
        } else {
            self.replay_to(fence.at);
        }
    }

    /// Everything up to `here` has been sent (or was not for this listener).
    fn reach(&mut self, here: Checkpoint) {
        if here.position > self.cursor.position {
            self.cursor.reach(here);
            self.is_cursor_sent = false;
        }
    }

    fn next_page(&self, up_to: Checkpoint) -> impl Future<Output = Result<Backlog, StoreError>> + use<> {
        let (shared, listener) = (self.shared.clone(), self.listener.clone());
        shared.read(listener, self.cursor.clone(), up_to.position, self.limit, self.form)
    }

    fn replay_to(&mut self, up_to: Checkpoint) {
        let reading = self.next_page(up_to);
        self.phase = Phase::Replaying(Box::pin(reading), up_to);
    }

    /// Reports that what came before cannot be delivered.
    fn reset(&mut self, reason: &str) {
        metrics::counter!("carillon_resets_total", "reason" => reason.to_owned()).increment(1);
        self.send(&ServerEvent::reset(reason, &self.shared.written(&self.cursor)));
    }

    fn send(&mut self, event: &ServerEvent) {
        let cursor = self.cursor_in_force();
        let (frame, is_cursor_sent) = (event.frame(cursor.as_ref()), cursor.is_some());
        self.out.push_back(Ready::Frame(frame));
        self.is_cursor_sent = is_cursor_sent;
    }

    /// Says that the stream lives. If its cursor has moved since the client got one, that is said by an event: a client
    /// that comes back with an old cursor costs a long replay, and a reset when retention has passed it.
    fn keep_alive(&mut self) {
        if self.has_heartbeats {
            self.send_heartbeat();
        } else if self.is_cursor_sent || !matches!(self.phase, Phase::Live) {
            self.out.push_back(Ready::Frame(Bytes::from_static(COMMENT.as_bytes())));
        } else {
            self.send(&ServerEvent::position(self.cursor.position));
        }
    }

    /// Ends the stream, with the reason if the client must not come back.
    fn close(&mut self, closing: Closing) {
        if closing == Closing::SignedOut {
            self.send(&ServerEvent::signout());
        }
        self.phase = Phase::Ended;
    }

    /// The history came, or the store failed.
    fn recalled(&mut self, answer: Result<History, StoreError>, fence: Fence, of_each: u32) {
        match answer {
            Ok(history) => {
                let end = ServerEvent::history(history.frames.len(), history.is_complete);
                let frames = history.frames.into_iter();
                self.out.extend(frames.map(|(frame, expires_at)| Ready::Event(frame, expires_at)));
                self.phase = Phase::Live;
                self.send(&end);
                self.send_heartbeat();
            }
            Err(error) => {
                metrics::counter!("carillon_replay_failures_total").increment(1);
                tracing::warn!(%error, "a history waits for the store");
                let next = self.history(fence.clone(), of_each);
                let later = async {
                    tokio::time::sleep(RETRY_READ).await;
                    next.await
                };
                self.phase = Phase::Recalling(Box::pin(later), fence, of_each);
            }
        }
    }

    /// One page of backlog came, or the store failed.
    fn replayed(&mut self, answer: Result<Backlog, StoreError>, up_to: Checkpoint) {
        match answer {
            Ok(Backlog::Lost(reason)) => {
                self.cursor = Cursor::at(self.cursor.epoch.clone(), up_to);
                self.phase = Phase::Live;
                self.reset(reason);
                self.send_heartbeat();
            }
            Ok(Backlog::Page(replay)) => {
                self.is_cursor_sent = !replay.frames.is_empty();
                let frames = replay.frames.into_iter();
                self.out.extend(frames.map(|(frame, expires_at)| Ready::Event(frame, expires_at)));
                self.cursor = replay.end;
                self.limit = replay.next_limit;
                if self.cursor.position >= up_to.position {
                    self.reach(up_to);
                    self.phase = Phase::Live;
                    self.send_heartbeat();
                } else {
                    self.replay_to(up_to);
                }
            }
            Err(error) => {
                metrics::counter!("carillon_replay_failures_total").increment(1);
                tracing::warn!(%error, "a replay waits for the store");
                let next = self.next_page(up_to);
                let later = async {
                    tokio::time::sleep(RETRY_READ).await;
                    next.await
                };
                self.phase = Phase::Replaying(Box::pin(later), up_to);
            }
        }
    }

    /// Live items came.
    fn flush(&mut self, items: VecDeque<QueueItem>) {
        for item in items {
            match item {
                QueueItem::Server(event) => self.send(&event),
                QueueItem::Event(event) if self.cursor.has_seen(event.position()) => {
                    self.reach(event.checkpoint());
                }
                QueueItem::Event(event) => {
                    self.reach(event.checkpoint());
                    self.out.push_back(Ready::Event(self.frame(&event), event.event().expires_at));
                    self.is_cursor_sent = true;
                }
            }
        }
    }

    /// The event's frame in this stream's form, with the cursor in force.
    fn frame(&self, event: &Delivery) -> Bytes {
        let frame = event.frame(self.form);
        if self.cursor.overtaken.is_empty() {
            frame.bytes().clone()
        } else {
            frame.ending_with(Some(&self.shared.written(&self.cursor)))
        }
    }

    /// The next bytes for the socket: shared as they are if one frame waits, joined if several do.
    fn next_write(&mut self) -> Option<Bytes> {
        let (now, mut events, mut has_expired) = (self.shared.clock.now(), 0, false);
        // Asked of each as it leaves: behind a slow client it may have waited for long.
        let mut next = |out: &mut VecDeque<Ready>| loop {
            match out.pop_front()? {
                Ready::Event(_, Some(expires_at)) if expires_at <= now => has_expired = true,
                Ready::Event(bytes, _) => {
                    events += 1;
                    return Some(bytes);
                }
                Ready::Frame(bytes) => return Some(bytes),
            }
        };
        let Some(first) = next(&mut self.out) else {
            self.is_cursor_sent &= !has_expired;
            return None;
        };
        let write = if self.out.is_empty() {
            self.out = VecDeque::new();
            first
        } else {
            let mut joined = BytesMut::from(&first[..]);
            while joined.len() < self.shared.limits.write_bytes {
                let Some(more) = next(&mut self.out) else { break };
                joined.extend_from_slice(&more);
            }
            joined.freeze()
        };
        self.is_cursor_sent &= !has_expired;
        metrics::counter!("carillon_deliveries_total").increment(events);
        self.shared.delivered.fetch_add(events, Ordering::Relaxed);
        Some(write)
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        loop {
            if let Some(bytes) = self.next_write() {
                return Poll::Ready(Some(bytes));
            }
            if matches!(self.phase, Phase::Ended) {
                return Poll::Ready(None);
            }
            let is_live = matches!(self.phase, Phase::Live);
            // Read before the queue: if the queue is then empty, everything up to here was taken from it.
            let applied = self.shared.hub.applied();
            match self.listener.poll_take(cx, is_live) {
                Poll::Ready(QueueRead::Items(items)) => self.flush(items),
                Poll::Ready(QueueRead::Lagged) => {
                    let fence = self.shared.hub.fence(&self.listener, &self.cursor);
                    self.resume(self.cursor.clone(), &fence);
                    self.send_heartbeat();
                }
                Poll::Ready(QueueRead::KeepAlive) if is_live => {
                    // If it has moved meanwhile, something may be in the queue again: the next one will say so.
                    if let Some(applied) = self.shared.hub.applied_at(applied) {
                        self.reach(applied);
                    }
                    self.keep_alive();
                }
                Poll::Ready(QueueRead::KeepAlive) => self.keep_alive(),
                Poll::Ready(QueueRead::Close(closing)) => self.close(closing),
                Poll::Pending => match &mut self.phase {
                    Phase::Recalling(recalling, fence, of_each) => {
                        let answer = ready!(recalling.as_mut().poll(cx));
                        let (fence, of_each) = (fence.clone(), *of_each);
                        self.recalled(answer, fence, of_each);
                    }
                    Phase::Replaying(reading, up_to) => {
                        let up_to = *up_to;
                        let answer = ready!(reading.as_mut().poll(cx));
                        self.replayed(answer, up_to);
                    }
                    Phase::Live | Phase::Ended => return Poll::Pending,
                },
            }
        }
    }
}

impl Body for EventStream {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<BodyFrame<Bytes>, Infallible>>> {
        self.poll_next(cx).map(|bytes| bytes.map(|bytes| Ok(BodyFrame::data(bytes))))
    }
}

impl Drop for EventStream {
    fn drop(&mut self) {
        self.shared.hub.unregister(&self.listener);
    }
}

#[cfg(test)]
mod tests;
