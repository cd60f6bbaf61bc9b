//! A session in any order of events, reads and writes.

use std::collections::BTreeSet;

use super::*;
use crate::account::Credential;
use crate::delivery::backlog::{Found, Page, Want};
use crate::event::{Audience, Event, Priority, Selector};
use crate::store::{Reader, StoreError};
use proptest::prelude::*;
use uuid::Uuid;

/// What may happen next.
#[derive(Debug, Clone)]
enum Step {
    /// So many more events of the log are applied.
    Apply(usize),
    /// So many frames leave.
    Leave(usize),
    /// What is being read comes, or does not.
    Read(bool),
    /// The socket did not take all.
    Block,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        (1..6usize).prop_map(Step::Apply),
        (1..6usize).prop_map(Step::Leave),
        prop::bool::weighted(0.9).prop_map(Step::Read),
        Just(Step::Block),
    ];
    prop::collection::vec(step, 0..60)
}

/// A log of events for everyone, and one session that listens to it.
struct World {
    log: Vec<Arc<Delivery>>,
    applied: usize,
    session: Session,
    cx: Context,
    reading: Option<(Want, bool)>,
    sent: Vec<Position>,
    /// The last position of each priority.
    last: [Position; 4],
}

const PAGE: u32 = 5;

impl World {
    /// The session goes on from `cursor`, or begins behind the first `applied` events.
    fn new(log: &[(i64, Priority)], applied: usize, cursor: Option<Cursor>) -> Self {
        let epoch: Epoch = "e".parse().unwrap();
        let mut position = 0;
        let mut delivery = |(step, priority): &(i64, Priority)| {
            position += step;
            let event = Event {
                position,
                id: Uuid::from_u128(u128::from(position.unsigned_abs())),
                event_type: "a".parse().unwrap(),
                priority: *priority,
                audience: Audience::Everyone,
                data: "1".into(),
                created_at: 0,
                expires_at: None,
                keep_after_read: None,
                publisher: 1,
            };
            Arc::new(Delivery::new(&epoch, event).with_digest(true))
        };
        let log: Vec<_> = log.iter().map(&mut delivery).collect();
        let here = applied.checked_sub(1).map_or(Checkpoint::default(), |last| log[last].checkpoint());
        let limits = SessionLimits { queue_events: 8, page: PAGE, ..SessionLimits::default() };
        let cx = Context { epoch: epoch.clone(), applied: here, has_digests: true, now: 0, tick: 0, limits };
        let subscription = Subscription {
            connection: Uuid::nil(),
            reader: Arc::new(Reader { user: 1, selector: Selector::of_user(1, vec![]) }),
            name: "alice".into(),
            wants_presence: false,
            keep_alive_every: None,
            credential: Credential::Token(1),
            origin: None,
        };
        let wish = Wish { resume: cursor.map(Ok), ..Wish::default() };
        let fence = Fence { epoch, floor: 0, at: here, missed_nothing: false };
        let session = Session::new(subscription, wish, fence, &cx);
        Self { log, applied, session, cx, reading: None, sent: Vec::new(), last: [0; 4] }
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Apply(count) => {
                let end = (self.applied + count).min(self.log.len());
                for event in &self.log[self.applied..end] {
                    self.cx.applied = event.checkpoint();
                    self.session.offer(event, &self.cx);
                }
                self.applied = end;
            }
            Step::Leave(count) => {
                for _ in 0..*count {
                    self.leave();
                }
            }
            Step::Read(answers) => self.read(*answers),
            Step::Block => self.session.falls_behind(),
        }
    }

    /// Whether a frame left. Its cursor says exactly what was sent.
    fn leave(&mut self) -> bool {
        let Some(leaving) = self.session.next(&self.cx) else {
            self.reading = self.session.wants(&self.cx).or(self.reading.take());
            return false;
        };
        let text = std::str::from_utf8(leaving.chunk.body()).unwrap();
        if let Some((_, rest)) = text.split_once("\"position\":")
            && leaving.is_event
        {
            let position: Position = rest.split(',').next().unwrap().parse().unwrap();
            self.sent.push(position);
            let event = self.log.iter().find(|event| event.position() == position).unwrap();
            let last = &mut self.last[event.event().priority as usize];
            assert!(*last < position, "{position} after {last}, of the same priority");
            *last = position;
        }
        if let Some((_, id)) = text.split_once("\nid: ") {
            self.check(&id.trim_end().parse().unwrap(), text);
        }
        true
    }

    fn check(&self, cursor: &Cursor, text: &str) {
        let sent: BTreeSet<Position> = self.sent.iter().copied().collect();
        assert_eq!(sent.len(), self.sent.len(), "sent twice: {:?}", self.sent);
        assert!(cursor.overtaken.len() <= Cursor::MAX_OVERTAKEN);
        for event in &self.log {
            let position = event.position();
            assert_eq!(cursor.has_seen(position), sent.contains(&position), "{position}: {text}");
        }
        let furthest = self.log.iter().find(|event| event.position() == cursor.furthest());
        assert_eq!(cursor.digest, furthest.map(|event| event.digest()), "{cursor}");
    }

    fn read(&mut self, answers: bool) {
        let Some((Want::Replay { cursor, up_to, limit }, _)) = self.reading.take() else { return };
        let answer = match answers {
            true => Ok(self.page(&cursor, up_to, limit)),
            false => Err(StoreError::Unavailable("for a test".into())),
        };
        self.session.found(answer, &self.cx);
    }

    /// As the store would answer.
    fn page(&self, cursor: &Cursor, up_to: Checkpoint, limit: u32) -> Found {
        let behind =
            |event: &&Arc<Delivery>| event.position() > cursor.position && event.position() <= up_to.position;
        let all: Vec<_> = self.log.iter().filter(behind).cloned().collect();
        let count = all.len().min(limit as usize);
        let end = if count < all.len() { all[count - 1].checkpoint() } else { up_to };
        let (page, rest) = all.split_at(count);
        let room = Cursor::MAX_OVERTAKEN - cursor.overtaken.len();
        let is_new = |event: &&Arc<Delivery>| !cursor.has_seen(event.position());
        let urgent = |event: &&Arc<Delivery>| event.event().priority >= URGENT;
        let ahead: Vec<_> = rest.iter().filter(urgent).filter(is_new).cloned().collect();
        let urgent_end = match ahead.get(room) {
            _ if room == 0 => end.position,
            Some(more) => more.position() - 1,
            None => up_to.position,
        };
        let mut events: Vec<_> = page.iter().filter(is_new).cloned().collect();
        events.extend(ahead.into_iter().take(room));
        Found::Page(Page { events, end, urgent_end, next_limit: PAGE })
    }

    /// Until nothing more is to be done.
    fn finish(&mut self) {
        self.step(&Step::Apply(self.log.len()));
        for _ in 0..10_000 {
            if !self.leave() {
                if self.reading.is_none() {
                    return;
                }
                self.read(true);
            }
        }
        panic!("it does not come to an end");
    }
}

fn log() -> impl Strategy<Value = Vec<(i64, Priority)>> {
    prop::collection::vec((1..4i64, (0..4i16).prop_map(Priority::from_number)), 1..80)
}

proptest! {
    /// Whatever overtakes, lags, fails and is read again: each event leaves once, and every cursor is sound.
    #[test]
    fn every_cursor_names_exactly_what_was_sent(log in log(), at in 0..80usize, steps in steps()) {
        let applied = at.min(log.len());
        let cursor = "e-0".parse().unwrap();
        let mut world = World::new(&log, applied, Some(cursor));
        steps.iter().for_each(|step| world.step(step));
        world.finish();
        let mut sent = world.sent.clone();
        sent.sort_unstable();
        let all: Vec<Position> = world.log.iter().map(|event| event.position()).collect();
        prop_assert_eq!(sent, all);
    }

    /// Broken off anywhere and resumed with the last cursor, here or where less was applied: all the same.
    #[test]
    fn a_resumed_session_goes_on_where_the_first_one_was(
        log in log(),
        before in steps(),
        after in steps(),
        at in 0..80usize,
    ) {
        let mut first = World::new(&log, 0, Some("e-0".parse().unwrap()));
        before.iter().for_each(|step| first.step(step));
        let cursor = first.session.cursor(&first.cx);
        let applied = at.min(log.len());
        let mut second = World::new(&log, applied, Some(cursor.clone()));
        // What the first one sent counts; this one sends the rest.
        second.sent = first.log.iter().map(|e| e.position()).filter(|p| cursor.has_seen(*p)).collect();
        after.iter().for_each(|step| second.step(step));
        second.finish();
        let mut sent = second.sent.clone();
        sent.sort_unstable();
        let all: Vec<Position> = second.log.iter().map(|event| event.position()).collect();
        prop_assert_eq!(sent, all);
    }
}

/// With nothing in the way what is live leaves in the order of positions, whatever its priority.
#[test]
fn who_keeps_up_gets_events_in_order() {
    let log = [(1, Priority::Low), (1, Priority::Urgent), (1, Priority::Normal)];
    let mut world = World::new(&log, 0, None);
    while world.leave() {}
    world.step(&Step::Apply(3));
    while world.leave() {}
    assert_eq!(world.sent, [1, 2, 3]);
}
