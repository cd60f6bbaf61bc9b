//! A stream's life, as a state machine without input, output or clock: history or backlog first, then live.
//!
//! It gives one frame at a time, when the socket has room. When too much waits for it, it forgets that and reads it
//! again, from its own cursor.

mod context;
mod leaving;
mod sent;
mod waiting;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::frame::{COMMENT, Chunk, Delivery, Form, ServerEvent};
use super::request::{Subscription, Wish};
use crate::event::{Checkpoint, Cursor, Epoch, Invalid, Millis, Position};
pub use context::{Context, SessionLimits, TICK, Tick, ticks};
use sent::Sent;
use waiting::{URGENT, Waiting};

/// Where a stream stands when it begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fence {
    /// The history in force.
    pub epoch: Epoch,
    /// Everything at or below was removed by retention.
    pub floor: Position,
    /// Positions above it arrive live; up to it they must be read.
    pub at: Checkpoint,
    /// Whether it is known here that the cursor is of this log, and that nothing in (cursor, at] is for this listener.
    pub missed_nothing: bool,
}

/// Why a stream ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closing {
    /// Its session or token permits nothing any more. The client must not come back.
    SignedOut,
    /// The client should come back: old age, draining, a new history.
    Reconnect,
}

#[derive(Debug)]
enum Phase {
    Live,
    /// The last so many events of each topic are to be read, up to here.
    Recalling(Checkpoint, u32),
    /// What was missed is to be read, up to here.
    Replaying(Checkpoint),
    /// It ends when all is sent.
    Ending(Closing),
}

/// What leaves before anything else.
#[derive(Debug)]
enum Ready {
    /// An event of a history, and when it expires.
    Event(Chunk, Option<Millis>),
    /// Something of the stream's own.
    Frame(Chunk),
}

/// What a session has only when something waits for it.
#[derive(Debug, Default)]
struct Backlog {
    ready: VecDeque<Ready>,
    events: Waiting,
    /// The server's own events, which leave once the stream is live.
    notices: VecDeque<Arc<ServerEvent>>,
    notice_bytes: usize,
    /// Everything up to here was sent or waits. Not for a live stream, for which that is all that was applied.
    known: Checkpoint,
    /// Of what is urgent everything up to here was sent or waits, so that it may leave before what is not known: never
    /// before another one of its own priority.
    urgent_known: Position,
    /// The first urgent event that came live and was forgotten.
    urgent_gone: Option<Position>,
    /// How many events the next page looks at; `None`: as many as it may.
    page: Option<u32>,
    /// Too much waited and was forgotten.
    is_lagging: bool,
    /// The socket has not taken all: what is urgent leaves before what waits.
    is_behind: bool,
    /// A page or a history is being read.
    is_reading: bool,
    /// Nothing was read since the stream fell behind: its cursor may be of another log, or ahead of this one.
    is_unchecked: bool,
    /// The last read failed: the next one waits a moment.
    has_failed: bool,
}

/// See the module.
#[derive(Debug)]
pub struct Session {
    subscription: Box<Subscription>,
    sent: Sent,
    /// Only what is above it comes live.
    from: Position,
    phase: Phase,
    backlog: Option<Box<Backlog>>,
    form: Form,
    /// Keep-alives are events, which an `EventSource` shows.
    has_heartbeats: bool,
    /// Whether the last frame that was sent carries the cursor in force.
    is_cursor_sent: bool,
    /// Whether they know who is on their topics, so that a change means something to them.
    knows_presence: bool,
    /// Whether that was forgotten with what waited.
    has_lost_presence: bool,
    retry: Option<Duration>,
    opened: Tick,
    /// When something was last handed to the socket.
    last_sent: Tick,
}

/// What is due by the clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// Nothing before this tick.
    At(Tick),
    /// The client takes nothing: the connection is to be cut.
    Cut,
}

impl Session {
    /// Begins at the fence, as its client wishes.
    pub fn new(subscription: Subscription, wish: Wish, fence: Fence, cx: &Context) -> Self {
        let Wish { resume, history, has_heartbeats, form, retry, ignored } = wish;
        let mut session = Self {
            subscription: Box::new(subscription),
            sent: Sent::at(fence.at),
            from: fence.at.position,
            phase: Phase::Live,
            backlog: None,
            form,
            has_heartbeats,
            is_cursor_sent: false,
            knows_presence: false,
            has_lost_presence: false,
            retry,
            opened: cx.tick,
            last_sent: cx.tick,
        };
        match resume {
            Some(resume) => session.resume(resume, fence, cx),
            None => {
                if let Some(of_each) = history {
                    session.phase = Phase::Recalling(fence.at, of_each);
                }
            }
        }
        let connection = session.subscription.connection;
        let retry = session.retry(cx);
        let connected = ServerEvent::connected(connection, session.sent.position(), &ignored, retry);
        let cursor = session.cursor_in_force(cx);
        session.is_cursor_sent = cursor.is_some();
        session.backlog().ready.push_front(Ready::Frame(connected.frame(cursor.as_ref())));
        session.send_heartbeat(cx);
        session
    }

    /// Whether it gets what is for everyone.
    pub fn wants_everyone(&self) -> bool {
        self.subscription.reader.selector.everyone
    }

    /// Who listens, and to what.
    pub fn subscription(&self) -> &Subscription {
        &self.subscription
    }

    fn resume(&mut self, resume: Result<Cursor, Invalid>, fence: Fence, cx: &Context) {
        let Ok(cursor) = resume else { return self.reset("unreadable", cx) };
        if cursor.epoch != fence.epoch {
            return self.reset("epoch", cx);
        }
        if cursor.position < fence.floor {
            return self.reset("retention", cx);
        }
        self.sent = Sent::of(&cursor);
        // What this node does not know itself is checked against the log: one that lost its end would have
        // the stream leave out whatever has come up to there since.
        if cursor.furthest() <= fence.at.position && fence.missed_nothing {
            self.reach(fence.at);
        } else {
            self.replay_to(fence.at);
        }
    }

    fn replay_to(&mut self, up_to: Checkpoint) {
        self.phase = Phase::Replaying(up_to);
        let known = self.sent.position().into();
        let backlog = self.backlog();
        (backlog.known, backlog.is_unchecked) = (known, true);
    }

    fn backlog(&mut self) -> &mut Backlog {
        self.backlog.get_or_insert_default()
    }

    fn retry(&self, cx: &Context) -> Duration {
        self.retry.unwrap_or(cx.limits.retry)
    }

    fn keep_alive_every(&self, cx: &Context) -> Duration {
        self.subscription.keep_alive_every.unwrap_or(cx.limits.keep_alive_every)
    }

    fn is_live(&self) -> bool {
        matches!(self.phase, Phase::Live)
    }

    /// Everything up to `here` was sent, or was not for this listener.
    fn reach(&mut self, here: Checkpoint) {
        if self.sent.reach(here) {
            self.is_cursor_sent = false;
        }
    }

    fn cursor(&self, cx: &Context) -> Cursor {
        let cursor = self.sent.cursor(&cx.epoch);
        if cx.has_digests { cursor } else { cursor.without_digest() }
    }

    /// What the `id:` of a frame says now. There is none before the history is sent: after a break it begins again.
    fn cursor_in_force(&self, cx: &Context) -> Option<Cursor> {
        (!matches!(self.phase, Phase::Recalling(..))).then(|| self.cursor(cx))
    }

    fn send(&mut self, event: &ServerEvent, cx: &Context) {
        let cursor = self.cursor_in_force(cx);
        self.is_cursor_sent = cursor.is_some();
        self.backlog().ready.push_back(Ready::Frame(event.frame(cursor.as_ref())));
    }

    fn send_heartbeat(&mut self, cx: &Context) {
        if self.has_heartbeats {
            let alive = ServerEvent::alive(self.is_live(), self.keep_alive_every(cx), self.retry(cx), cx.now);
            self.send(&alive, cx);
        }
    }

    /// Reports that what came before cannot be delivered.
    fn reset(&mut self, reason: &str, cx: &Context) {
        metrics::counter!("carillon_resets_total", "reason" => reason.to_owned()).increment(1);
        self.send(&ServerEvent::reset(reason, &self.cursor(cx)), cx);
    }

    /// An event that this listener's audience has came live.
    pub fn offer(&mut self, event: &Arc<Delivery>, cx: &Context) {
        let fields = event.event();
        let is_wanted = fields.position > self.from
            && self.subscription.reader.selector.wants(&fields.event_type, fields.priority)
            && !matches!(self.phase, Phase::Ending(_));
        if !is_wanted || self.sent.has(fields.position) {
            return;
        }
        let size = event.frame_size();
        let room = self.sent.room();
        let backlog = self.backlog.get_or_insert_default();
        if backlog.is_lagging {
            if fields.priority >= URGENT && backlog.urgent_gone.is_none() {
                if backlog.events.urgent() < room {
                    backlog.events.add(event.clone());
                } else {
                    backlog.forgot_urgent(fields.position);
                }
            }
        } else if backlog.has_room(size, &cx.limits) {
            backlog.events.add(event.clone());
        } else {
            self.lag(Some(event));
        }
    }

    /// One of the server's own events is for this listener.
    pub fn notify(&mut self, notice: &Arc<ServerEvent>, cx: &Context) {
        if matches!(self.phase, Phase::Ending(_)) {
            return;
        }
        let backlog = self.backlog.get_or_insert_default();
        if backlog.is_lagging {
            return;
        }
        if backlog.has_room(notice.size(), &cx.limits) {
            backlog.notice_bytes += notice.size();
            backlog.notices.push_back(notice.clone());
        } else {
            self.lag(None);
        }
    }

    /// Forgets what waits, but for what is urgent: all of it is read again when the socket has room.
    fn lag(&mut self, last: Option<&Arc<Delivery>>) {
        metrics::counter!("carillon_listener_lags_total").increment(1);
        self.has_lost_presence |= std::mem::take(&mut self.knows_presence);
        let (room, here, is_live) = (self.sent.room(), self.sent.position().into(), self.is_live());
        let backlog = self.backlog();
        backlog.is_lagging = true;
        backlog.known = here;
        if is_live {
            backlog.urgent_known = Position::MAX;
        }
        if let Some(last) = last {
            backlog.events.add(last.clone());
        }
        if let Some(gone) = backlog.events.keep_urgent(room) {
            backlog.forgot_urgent(gone);
        }
        (backlog.notices, backlog.notice_bytes) = (VecDeque::new(), 0);
    }

    /// Takes events that nobody may see any more, or that this listener has read.
    pub fn forget(&mut self, goes: impl Fn(Position) -> bool) {
        if let Some(backlog) = &mut self.backlog {
            backlog.events.remove(|event| goes(event.position()));
        }
    }

    /// Asks the stream to end. The first reason stands.
    pub fn close(&mut self, closing: Closing, cx: &Context) {
        if matches!(self.phase, Phase::Ending(_)) {
            return;
        }
        *self.backlog() = Backlog::default();
        if closing == Closing::SignedOut {
            self.send(&ServerEvent::signout(), cx);
        }
        self.phase = Phase::Ending(closing);
    }

    /// Why it ends, if it does.
    pub fn closing(&self) -> Option<Closing> {
        if let Phase::Ending(closing) = self.phase { Some(closing) } else { None }
    }

    /// Keep-alives, old age, no progress. `stalled_since`: since when the socket has taken nothing although something
    /// waits for it.
    pub fn sweep(&mut self, stalled_since: Option<Tick>, jitter: u32, cx: &Context) -> Due {
        let max_age = cx.limits.max_age;
        let old_at = self.opened.saturating_add(ticks(max_age - max_age / 1000 * (jitter % 100)));
        if cx.tick >= old_at {
            self.close(Closing::Reconnect, cx);
        }
        let keep_alive_every = ticks(self.keep_alive_every(cx));
        if let Some(since) = stalled_since {
            let stalled_at = since.saturating_add(ticks(cx.limits.stall_timeout));
            if cx.tick >= stalled_at {
                metrics::counter!("carillon_listeners_stalled_total").increment(1);
                return Due::Cut;
            }
            return Due::At(stalled_at.min(cx.tick.saturating_add(keep_alive_every)));
        }
        if cx.tick >= self.last_sent.saturating_add(keep_alive_every) {
            self.keep_alive(cx);
            self.last_sent = cx.tick;
        }
        Due::At(old_at.max(cx.tick + 1).min(self.last_sent.saturating_add(keep_alive_every)))
    }

    /// Says that the stream lives. If its cursor has moved since the client got one, that is said by an event: a client
    /// that comes back with an old cursor costs a long replay, and a reset when retention has passed it.
    fn keep_alive(&mut self, cx: &Context) {
        if self.closing().is_some() {
            return;
        }
        let is_up_to_date = self.is_live() && self.backlog.is_none();
        if is_up_to_date {
            self.reach(cx.applied);
        }
        if self.has_heartbeats {
            self.send_heartbeat(cx);
        } else if self.is_cursor_sent || !is_up_to_date {
            self.backlog().ready.push_back(Ready::Frame(Chunk::of(COMMENT.as_bytes())));
        } else {
            self.send(&ServerEvent::position(self.sent.position()), cx);
        }
    }

    /// Who is on its topics: from now on it gets what changes there.
    pub fn begin_presence(&mut self, present: &[Arc<ServerEvent>], cx: &Context) {
        present.iter().for_each(|topic| self.notify(topic, cx));
        let is_lagging = self.is_lagging();
        (self.knows_presence, self.has_lost_presence) = (!is_lagging, is_lagging);
    }

    /// What has changed on one of its topics means something to those who know who was there.
    pub fn presence_changed(&mut self, changes: &[Arc<ServerEvent>], cx: &Context) {
        if self.knows_presence {
            changes.iter().for_each(|change| self.notify(change, cx));
        }
    }

    fn is_lagging(&self) -> bool {
        self.backlog.as_ref().is_some_and(|backlog| backlog.is_lagging)
    }

    /// Whether it must be sent anew who is on its topics, since that was forgotten.
    pub fn take_lost_presence(&mut self) -> bool {
        self.has_lost_presence && !self.is_lagging() && std::mem::take(&mut self.has_lost_presence)
    }
}

impl Backlog {
    /// An urgent event is not there any more: none behind it may leave before it was read.
    fn forgot_urgent(&mut self, position: Position) {
        self.urgent_gone = self.urgent_gone.or(Some(position));
        self.urgent_known = self.urgent_known.min(position - 1);
    }

    fn has_room(&self, size: usize, limits: &SessionLimits) -> bool {
        let (count, bytes) =
            (self.events.len() + self.notices.len(), self.events.bytes() + self.notice_bytes);
        count < limits.queue_events && bytes + size <= limits.queue_bytes.max(size)
    }
}

#[cfg(test)]
mod tests;
