//! A stream's life: register, fence, history or replay, flush, live. The one place that owns it.
//!
//! The connection drives it: nothing is read or encoded that the socket has no room for. When too much waits
//! for a listener, its queue is emptied and the stream goes back to replaying from its own cursor.

mod history;
mod leave_order;
mod replay;

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

use crate::delivery::frame::{Delivery, ServerEvent, id_line, retry_line};
use crate::delivery::hub::{Closing, Fence, Hub, Listener, QueueItem, QueueRead, Refused, Subscription};
use crate::event::{Checkpoint, Cursor, Millis};
use crate::failpoint::is_armed;
use crate::store::clock::Clock;
use crate::store::{Store, StoreError};
use history::History;
use replay::Backlog;

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

    /// How long a browser waits before it reconnects.
    pub fn retry(&self) -> Duration {
        self.limits.retry
    }

    /// Opens a stream. `resume` is the cursor as the client sent it. Without one the stream begins now, after the
    /// last `history` events of each topic, if that is given.
    pub fn open(
        self: &Arc<Self>,
        subscription: Subscription,
        resume: Option<&str>,
        history: Option<u32>,
    ) -> Result<EventStream, Refused> {
        let is_blind = is_armed("compare_off");
        let parsed = resume.map(|text| {
            text.parse().map(|cursor: Cursor| if is_blind { cursor.without_digest() } else { cursor })
        });
        let cursor = parsed.as_ref().and_then(|c| c.as_ref().ok());
        let (listener, fence) = self.hub.register(subscription, cursor)?;
        let mut stream = EventStream {
            shared: self.clone(),
            listener,
            cursor: Cursor::at(fence.epoch.clone(), fence.checkpoint()),
            out: VecDeque::new(),
            phase: Phase::Live,
            limit: self.limits.replay_events,
            has_heartbeats: false,
        };
        match parsed {
            Some(Ok(cursor)) => stream.resume(cursor, &fence),
            Some(Err(_)) => stream.reset("unreadable"),
            None => stream.begin(history, fence),
        }
        let hello = format!("{}{}\n", stream.id_line(), retry_line(millis(self.limits.retry)));
        stream.out.push_front(Ready::Frame(hello.into()));
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
    out: VecDeque<Ready>,
    phase: Phase,
    /// How many events a replay reads at once.
    limit: u32,
    /// Keep-alives are events, which an `EventSource` shows.
    has_heartbeats: bool,
}

impl EventStream {
    /// The same stream with heartbeats as events, for what an `EventSource` does not show: the cursor, that the stream
    /// lives, and whether it has sent everything up to now.
    pub fn with_heartbeats(mut self) -> Self {
        self.has_heartbeats = true;
        self.send_heartbeat();
        self
    }

    fn send_heartbeat(&mut self) {
        if self.has_heartbeats {
            let live = matches!(self.phase, Phase::Live);
            self.send(&ServerEvent::alive(live, self.shared.keep_alive, self.shared.limits.retry));
        }
    }

    /// Begins at the fence, with history before it if that is wanted.
    fn begin(&mut self, history: Option<u32>, fence: Fence) {
        if let Some(of_each) = history {
            let recalling = self.shared.clone().history(self.listener.clone(), fence.clone(), of_each);
            self.phase = Phase::Recalling(Box::pin(recalling), fence, of_each);
        }
    }

    /// The `id:` line in force. There is none before the history is sent: after a break it begins again.
    fn id_line(&self) -> String {
        match self.phase {
            Phase::Recalling(..) => String::new(),
            _ => self.id_line_of(&self.cursor),
        }
    }

    /// The `id:` line of a cursor, in the form that is written.
    fn id_line_of(&self, cursor: &Cursor) -> String {
        match self.shared.hub.has_digests() {
            true => id_line(cursor),
            false => id_line(&cursor.clone().without_digest()),
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
            self.cursor = Cursor::at(fence.epoch.clone(), fence.checkpoint());
            return self.reset(reason);
        }
        self.cursor = cursor;
        // What this node does not know itself is checked against the log: one that lost its end would have
        // the stream leave out whatever has come up to there since.
        if self.cursor.furthest() <= fence.at && fence.missed_nothing {
            self.cursor.reach(fence.checkpoint());
        } else {
            self.replay_to(fence.checkpoint());
        }
    }

    fn next_page(&self, up_to: Checkpoint) -> impl Future<Output = Result<Backlog, StoreError>> + use<> {
        self.shared.clone().read(self.listener.clone(), self.cursor.clone(), up_to.position, self.limit)
    }

    fn replay_to(&mut self, up_to: Checkpoint) {
        let reading = self.next_page(up_to);
        self.phase = Phase::Replaying(Box::pin(reading), up_to);
    }

    /// Reports that what came before cannot be delivered.
    fn reset(&mut self, reason: &str) {
        metrics::counter!("carillon_resets_total", "reason" => reason.to_owned()).increment(1);
        self.send(&ServerEvent::reset(reason, &self.cursor));
    }

    fn send(&mut self, event: &ServerEvent) {
        let frame = format!("{}{}", self.id_line(), event.body());
        self.out.push_back(Ready::Frame(frame.into()));
    }

    /// Keeps the stream alive: by `frame`, or by a heartbeat as an event.
    fn keep_alive(&mut self, frame: String) {
        if self.has_heartbeats {
            self.send_heartbeat();
        } else {
            self.out.push_back(Ready::Frame(frame.into()));
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
                self.out.extend(frames.map(|(body, expires_at)| Ready::Event(body, expires_at)));
                self.phase = Phase::Live;
                self.send(&end);
                self.send_heartbeat();
            }
            Err(error) => {
                metrics::counter!("carillon_replay_failures_total").increment(1);
                tracing::warn!(%error, "a history waits for the store");
                let next = self.shared.clone().history(self.listener.clone(), fence.clone(), of_each);
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
                for (cursor, expires_at, body) in replay.frames {
                    let frame = [self.id_line_of(&cursor).as_bytes(), &body].concat();
                    self.out.push_back(Ready::Event(frame.into(), expires_at));
                }
                self.cursor = replay.end;
                self.limit = replay.next_limit;
                if self.cursor.position >= up_to.position {
                    self.cursor.reach(up_to);
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
                    self.cursor.reach(event.checkpoint());
                }
                QueueItem::Event(event) => {
                    self.cursor.reach(event.checkpoint());
                    self.out.push_back(Ready::Event(self.frame(&event), event.event().expires_at));
                }
            }
        }
    }

    /// The event's frame in this stream's form, with the cursor in force.
    fn frame(&self, event: &Delivery) -> Bytes {
        let frame = event.envelope();
        if self.cursor.overtaken.is_empty() {
            frame.bytes().clone()
        } else {
            [self.id_line().as_bytes(), &frame.body()].concat().into()
        }
    }

    /// The next bytes for the socket: shared as they are if one frame waits, joined if several do.
    fn next_write(&mut self) -> Option<Bytes> {
        let (now, mut events) = (self.shared.clock.now(), 0);
        // Asked of each as it leaves: behind a slow client it may have waited for long.
        let mut next = |out: &mut VecDeque<Ready>| loop {
            match out.pop_front()? {
                Ready::Event(_, Some(expires_at)) if expires_at <= now => {}
                Ready::Event(bytes, _) => {
                    events += 1;
                    return Some(bytes);
                }
                Ready::Frame(bytes) => return Some(bytes),
            }
        };
        let first = next(&mut self.out)?;
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
                        self.cursor.reach(applied);
                    }
                    self.keep_alive(format!("{}\n", self.id_line()));
                }
                Poll::Ready(QueueRead::KeepAlive) => self.keep_alive(":\n\n".to_owned()),
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

fn millis(duration: Duration) -> u64 {
    duration.as_millis().try_into().unwrap_or(u64::MAX)
}

/// The answer to a stream that cannot be opened now: an empty one, since anything but a 200 ends an
/// `EventSource` for good. The reason stands in a comment, for people who look.
pub fn come_back_later(retry: Duration, reason: &str) -> String {
    format!("{}: {reason}\n\n", retry_line(millis(retry)))
}

#[cfg(test)]
mod tests;
