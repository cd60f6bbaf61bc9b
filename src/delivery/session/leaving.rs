//! What leaves next, and what must be read for it.

use std::sync::Arc;

use super::sent::Sent;
use super::waiting::Leave;
use super::{Backlog, Context, Phase, Ready, Session};
use crate::delivery::backlog::{Found, History, Page, Want};
use crate::delivery::frame::{Chunk, Delivery, ServerEvent};
use crate::event::{Checkpoint, Millis, Position};
use crate::store::StoreError;

/// A frame that leaves.
#[derive(Debug)]
pub struct Leaving {
    /// Its bytes.
    pub chunk: Chunk,
    /// Whether it is an event's.
    pub is_event: bool,
    /// When it is to be seen no more.
    pub expires_at: Option<Millis>,
}

impl Session {
    /// The next frame for the socket; `None`: nothing for now, or until something is read ([`Session::wants`]).
    pub fn next(&mut self, cx: &Context) -> Option<Leaving> {
        loop {
            let backlog = self.backlog.as_mut()?;
            if let Some(leaving) = Self::next_ready(backlog, &mut self.is_cursor_sent, cx) {
                self.last_sent = cx.tick;
                return Some(leaving);
            }
            match self.phase {
                Phase::Ending(_) | Phase::Recalling(..) => return None,
                Phase::Live if backlog.is_lagging => {
                    self.catch_up(cx);
                    continue;
                }
                Phase::Live => {
                    if let Some(notice) = backlog.notices.pop_front() {
                        backlog.notice_bytes -= notice.size();
                        self.send(&notice, cx);
                        continue;
                    }
                }
                Phase::Replaying(_) => {}
            }
            if let Some(leaving) = self.next_event(cx) {
                self.last_sent = cx.tick;
                return Some(leaving);
            }
            if !self.is_caught_up(cx) {
                return None;
            }
        }
    }

    fn next_ready(backlog: &mut Backlog, is_cursor_sent: &mut bool, cx: &Context) -> Option<Leaving> {
        loop {
            match backlog.ready.pop_front()? {
                // Asked of each as it leaves: behind a slow client it may have waited for long.
                Ready::Event(_, Some(expires_at)) if expires_at <= cx.now => *is_cursor_sent = false,
                Ready::Event(chunk, expires_at) => {
                    return Some(Leaving { chunk, is_event: true, expires_at });
                }
                Ready::Frame(chunk) => return Some(Leaving { chunk, is_event: false, expires_at: None }),
            }
        }
    }

    /// Up to where all that concerns this listener was sent or waits.
    fn known(&self, cx: &Context) -> Position {
        match (&self.phase, &self.backlog) {
            (Phase::Replaying(_), Some(backlog)) => backlog.known.position,
            _ => cx.applied.position,
        }
    }

    fn next_event(&mut self, cx: &Context) -> Option<Leaving> {
        let known = self.known(cx);
        loop {
            let (is_live, room) = (self.is_live(), self.sent.room());
            let backlog = self.backlog.as_mut()?;
            let may_overtake = room > 0 && (backlog.is_behind || !is_live);
            let leave = Leave { known, urgent: backlog.urgent_known, may_overtake };
            let event = backlog.events.take_next(leave)?;
            let before = backlog.events.first().filter(|first| *first <= known);
            self.sent.add(event.position(), event.digest(), before, known);
            if before.is_none() && matches!(self.phase, Phase::Replaying(_)) {
                self.sent.reach(backlog.known);
            }
            // As above.
            if event.event().expires_at.is_some_and(|expires_at| expires_at <= cx.now) {
                self.is_cursor_sent = false;
                continue;
            }
            self.is_cursor_sent = true;
            let expires_at = event.event().expires_at;
            return Some(Leaving { chunk: self.frame(&event, cx), is_event: true, expires_at });
        }
    }

    /// The socket has not taken all that has left.
    pub fn falls_behind(&mut self) {
        self.backlog().is_behind = true;
    }

    /// A frame that had left expired before the socket took any of it.
    pub fn has_not_left(&mut self) {
        self.is_cursor_sent = false;
    }

    /// The event's frame in this stream's form, with the cursor in force.
    fn frame(&self, event: &Delivery, cx: &Context) -> Chunk {
        let frame = event.frame(self.form);
        if self.sent.is_exactly(event.position()) && event.has_digest() == cx.has_digests {
            frame.whole().clone()
        } else {
            frame.ending_with(Some(&self.cursor(cx)))
        }
    }

    /// Goes on from what was sent, up to what was applied.
    fn catch_up(&mut self, cx: &Context) {
        self.from = cx.applied.position;
        if let Some(backlog) = &mut self.backlog {
            // What was forgotten of it is read now.
            (backlog.is_lagging, backlog.urgent_gone) = (false, None);
        }
        self.replay_to(cx.applied);
        self.send_heartbeat(cx);
    }

    /// With nothing left that may leave: whether there is more to do at once.
    fn is_caught_up(&mut self, cx: &Context) -> bool {
        let Some(backlog) = &mut self.backlog else { return false };
        match self.phase {
            Phase::Replaying(up_to) if backlog.known.position >= up_to.position && !backlog.is_unchecked => {
                if backlog.is_lagging {
                    self.catch_up(cx);
                } else {
                    self.reach(up_to);
                    self.phase = Phase::Live;
                    self.send_heartbeat(cx);
                }
                true
            }
            Phase::Live if backlog.events.is_empty() => {
                self.backlog = None;
                false
            }
            _ => false,
        }
    }

    /// What is to be read now, and whether that failed a moment ago. Asked when nothing more can leave.
    pub fn wants(&mut self, cx: &Context) -> Option<(Want, bool)> {
        if !self.is_wanting() {
            return None;
        }
        let cursor = self.sent.cursor(&cx.epoch);
        let backlog = self.backlog.get_or_insert_default();
        let want = match self.phase {
            Phase::Recalling(up_to, of_each) => Want::History { epoch: cx.epoch.clone(), up_to, of_each },
            Phase::Replaying(up_to) => {
                let limit = backlog.page.unwrap_or(cx.limits.page);
                Want::Replay { cursor, up_to, limit }
            }
            Phase::Live | Phase::Ending(_) => return None,
        };
        backlog.is_reading = true;
        Some((want, std::mem::take(&mut backlog.has_failed)))
    }

    fn is_wanting(&self) -> bool {
        let is_reading = self.backlog.as_ref().is_some_and(|backlog| backlog.is_reading);
        !is_reading && matches!(self.phase, Phase::Recalling(..) | Phase::Replaying(_))
    }

    /// What was wanted came, or the store failed.
    pub fn found(&mut self, answer: Result<Found, StoreError>, cx: &Context) {
        let backlog = self.backlog();
        backlog.is_reading = false;
        match (answer, &self.phase) {
            (Ok(Found::History(history)), Phase::Recalling(..)) => self.recalled(history, cx),
            (Ok(Found::Page(page)), Phase::Replaying(up_to)) => self.replayed(page, *up_to),
            (Ok(Found::Lost(reason)), Phase::Replaying(up_to)) => self.lost(reason, *up_to, cx),
            (Err(error), Phase::Recalling(..) | Phase::Replaying(_)) => {
                metrics::counter!("carillon_replay_failures_total").increment(1);
                tracing::warn!(%error, "a stream's backlog waits for the store");
                self.backlog().has_failed = true;
            }
            // It ends.
            _ => {}
        }
    }

    fn recalled(&mut self, history: History, cx: &Context) {
        let end = ServerEvent::history(history.events.len(), history.is_complete);
        let form = self.form;
        let ready = |event: Arc<Delivery>| {
            Ready::Event(event.frame(form).ending_with(None), event.event().expires_at)
        };
        self.backlog().ready.extend(history.events.into_iter().map(ready));
        self.phase = Phase::Live;
        self.send(&end, cx);
        self.send_heartbeat(cx);
    }

    fn replayed(&mut self, page: Page, up_to: Checkpoint) {
        let backlog = self.backlog.get_or_insert_default();
        backlog.urgent_known = match page.urgent_end >= up_to.position {
            // What came since waits, as far as nothing was forgotten.
            true => backlog.urgent_gone.map_or(Position::MAX, |gone| gone - 1),
            false => page.urgent_end,
        };
        backlog.page = Some(page.next_limit);
        for event in page.events {
            // It may have been sent ahead while the page was read.
            if !self.sent.has(event.position()) || crate::failpoint::is_armed("replay_repeats") {
                backlog.events.add(event);
            }
        }
        (backlog.known, backlog.is_unchecked) = (page.end, false);
        let known = page.end.position;
        let before = backlog.events.first().filter(|first| *first <= known);
        self.sent.settle(before, known);
        if before.is_none() {
            self.reach(page.end);
        }
    }

    /// The stream goes on at `here`.
    fn lost(&mut self, reason: &str, here: Checkpoint, cx: &Context) {
        self.sent = Sent::at(here);
        self.phase = Phase::Live;
        self.backlog().events.remove(|event| event.position() <= here.position);
        self.reset(reason, cx);
        self.send_heartbeat(cx);
    }
}
