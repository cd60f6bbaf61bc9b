use super::*;
use crate::event::{Priority, Selector};
use proptest::prelude::*;
use std::collections::VecDeque;
use uuid::Uuid;

const LOCAL_USER: i64 = 1;

fn epoch() -> Epoch {
    "e".parse().unwrap()
}

fn event(position: Position, audience: Audience) -> Event {
    Event {
        position,
        id: Uuid::from_u128(u128::try_from(position).unwrap()),
        event_type: "a".parse().unwrap(),
        priority: Priority::Normal,
        audience,
        data: "1".into(),
        created_at: 0,
        expires_at: None,
        keep_after_read: None,
        publisher: 1,
    }
}

fn delivery(position: Position, audience: Audience) -> Arc<Delivery> {
    Arc::new(Delivery::new(&epoch(), event(position, audience)))
}

fn copy_of(event: &Event) -> EventCopy {
    EventCopy {
        position: event.position,
        id: event.id,
        event_type: event.event_type.clone(),
        priority: event.priority,
        data: event.data.clone(),
        created_at: event.created_at,
        expires_at: event.expires_at,
        keep_after_read: event.keep_after_read,
        publisher: event.publisher,
    }
}

fn concerns(audience: &Audience) -> bool {
    Selector::of_user(LOCAL_USER, Vec::new()).targets(audience)
}

/// The position with the id of its event.
fn at(position: Position) -> Checkpoint {
    Checkpoint::new(position, event(position, Audience::Everyone).id)
}

fn read(after: Position, up_to: Position) -> Output {
    Output::Read { after: at(after), up_to: at(up_to) }
}

fn announcement(previous: Position, events: &[Event], last: Position) -> Announcement {
    let (carried, elsewhere): (Vec<_>, Vec<_>) =
        events.iter().cloned().partition(|event| event.audience == Audience::Everyone);
    let elsewhere = elsewhere.into_iter().map(|event| (event.position, event.audience)).collect();
    Announcement { previous, previous_id: at(previous).id, last, last_id: at(last).id, elsewhere, carried }
}

fn applied_events(outputs: &[Output]) -> Vec<Position> {
    let events = |o: &Output| match o {
        Output::Apply { events, .. } => events.iter().map(|e| e.position()).collect(),
        Output::Read { .. } => vec![],
    };
    outputs.iter().flat_map(events).collect()
}

#[test]
fn a_following_announcement_is_applied_at_once_holes_and_all() {
    let mut sequencer = Sequencer::new(SequencerLimits::default(), epoch(), at(10));
    sequencer.announcement(announcement(10, &[event(15, Audience::Everyone)], 17), 0);
    assert_eq!(applied_events(&sequencer.advance(0, concerns)), [15]);
    assert_eq!(sequencer.applied(), at(17));
}

#[test]
fn a_gap_is_given_time_and_then_read_only_up_to_what_has_come() {
    let mut sequencer = Sequencer::new(SequencerLimits::default(), epoch(), at(10));
    sequencer.announcement(announcement(12, &[event(13, Audience::Everyone)], 13), 0);
    assert_eq!(sequencer.advance(0, concerns), []);
    assert_eq!(sequencer.advance(29, concerns), []);
    assert_eq!(sequencer.advance(30, concerns), [read(10, 12)]);
    assert_eq!(sequencer.advance(31, concerns), [], "one read at a time");
    let page = sequencer.page(vec![delivery(11, Audience::Everyone)], at(12)).unwrap();
    assert_eq!(applied_events(&[page]), [11]);
    assert_eq!(applied_events(&sequencer.advance(32, concerns)), [13]);
}

/// A node that announces nothing costs the others one read for all it keeps to itself, and no waiting again and again.
#[test]
fn many_gaps_are_one_read() {
    let mut sequencer = Sequencer::new(SequencerLimits::default(), epoch(), at(0));
    let everyone = |position| [event(position, Audience::Everyone)];
    for position in [2, 4, 6] {
        sequencer.announcement(announcement(position - 1, &everyone(position), position), position as Moment);
    }
    sequencer.announcement(announcement(7, &everyone(8), 8), 36);
    assert_eq!(sequencer.advance(31, concerns), []);
    assert_eq!(sequencer.advance(36, concerns), [read(0, 5)]);
    let page = (1..6).map(|position| delivery(position, Audience::Everyone)).collect();
    let page = sequencer.page(page, at(5)).unwrap();
    assert_eq!(applied_events(&[page]), [1, 2, 3, 4, 5]);
    assert_eq!(applied_events(&sequencer.advance(37, concerns)), [6]);
    // What is missing before the last one has not had its time yet.
    assert_eq!(sequencer.advance(65, concerns), []);
    assert_eq!(sequencer.advance(66, concerns), [read(6, 7)]);
}

#[test]
fn what_was_missing_may_come_while_the_store_is_read() {
    let mut sequencer = Sequencer::new(SequencerLimits::default(), epoch(), at(0));
    let everyone = |position| [event(position, Audience::Everyone)];
    sequencer.announcement(announcement(1, &everyone(2), 2), 0);
    assert_eq!(sequencer.advance(30, concerns), [read(0, 1)]);
    sequencer.announcement(announcement(0, &everyone(1), 1), 31);
    assert_eq!(applied_events(&sequencer.advance(31, concerns)), [1, 2]);
    assert_eq!(sequencer.page(vec![delivery(1, Audience::Everyone)], at(1)), None);
    sequencer.announcement(announcement(2, &everyone(3), 3), 32);
    assert_eq!(applied_events(&sequencer.advance(32, concerns)), [3]);
}

#[test]
fn a_missing_copy_is_read_and_one_for_nobody_here_is_not() {
    let mut sequencer = Sequencer::new(SequencerLimits::default(), epoch(), at(0));
    sequencer.announcement(announcement(0, &[event(1, Audience::users(vec![9]))], 1), 0);
    assert_eq!(sequencer.advance(0, concerns).len(), 1);
    assert_eq!(sequencer.applied(), at(1));
    sequencer.announcement(announcement(1, &[event(2, Audience::users(vec![LOCAL_USER]))], 2), 0);
    assert_eq!(sequencer.advance(0, concerns), [read(1, 2)]);
}

#[test]
fn a_failed_read_is_tried_again_later() {
    let mut sequencer = Sequencer::new(SequencerLimits::default(), epoch(), at(0));
    sequencer.degraded(true);
    sequencer.head(at(5), 0);
    assert_eq!(sequencer.advance(0, concerns), [read(0, 5)]);
    sequencer.read_failed(10);
    assert!(sequencer.is_waiting());
    assert_eq!(sequencer.advance(100, concerns), []);
    assert_eq!(sequencer.advance(210, concerns), [read(0, 5)]);
}

/// A promoted replica gave positions out again, and has grown past what was applied: the store is asked.
#[test]
fn an_announcement_of_another_history_is_not_applied() {
    let other = |announcement: Announcement| Announcement { previous_id: Some(Uuid::nil()), ..announcement };
    let mut sequencer = Sequencer::new(SequencerLimits::default(), epoch(), at(10));
    assert!(!sequencer.announcement(other(announcement(10, &[event(11, Audience::Everyone)], 11)), 40));
    assert_eq!(sequencer.advance(40, concerns), [read(10, 11)]);
    sequencer.read_failed(40);
    // It goes on from further back, and may bring what was lost here.
    sequencer.announcement(announcement(8, &[event(12, Audience::Everyone)], 12), 300);
    assert_eq!(sequencer.advance(300, concerns), [read(10, 12)]);
    assert_eq!(sequencer.applied(), at(10));
    // One that ends where this node is shows it at once.
    let ends_here = announcement(9, &[event(10, Audience::Everyone)], 10);
    assert!(!sequencer.announcement(ends_here.clone(), 301));
    assert!(sequencer.announcement(Announcement { last_id: Some(Uuid::nil()), ..ends_here }, 301));
    // An older program does not say what went before.
    let older = Announcement { previous_id: None, last_id: None, ..announcement(10, &[], 12) };
    sequencer.announcement(older, 302);
    assert!(applied_events(&sequencer.advance(302, concerns)).is_empty());
    assert_eq!(sequencer.applied(), 12.into());
}

/// The read began after a position that was applied in another history than what came meanwhile.
#[test]
fn a_read_that_was_overtaken_is_not_used() {
    let mut sequencer = Sequencer::new(SequencerLimits::default(), epoch(), at(0));
    sequencer.announcement(announcement(4, &[event(5, Audience::Everyone)], 5), 0);
    assert_eq!(sequencer.advance(30, concerns), [read(0, 4)]);
    sequencer.announcement(announcement(0, &[event(2, Audience::Everyone)], 2), 31);
    assert_eq!(applied_events(&sequencer.advance(31, concerns)), [2]);
    let page = (1..=4).map(|position| delivery(position, Audience::Everyone)).collect();
    assert_eq!(sequencer.page(page, at(4)), None);
    assert_eq!(sequencer.advance(32, concerns), [read(2, 4)]);
}

#[test]
fn what_waits_is_bounded_and_nothing_is_lost_by_it() {
    let limits = SequencerLimits { pending: 2, copies: 2, ..SequencerLimits::default() };
    let mut sequencer = Sequencer::new(limits, epoch(), at(0));
    for position in 2..9 {
        sequencer.copy(copy_of(&event(position, Audience::users(vec![LOCAL_USER]))));
        sequencer
            .announcement(announcement(position - 1, &[event(position, Audience::Everyone)], position), 0);
    }
    assert_eq!((sequencer.pending.len(), sequencer.copies.len()), (2, 2));
    assert_eq!(sequencer.lag(), 8, "the head is remembered, so the rest will be read");
}

#[test]
fn what_waits_is_bounded_in_bytes_too() {
    let size = size(&event(1, Audience::Everyone));
    let copies = size * 3 / size_of::<EventCopy>();
    assert!(copies < 18);
    let limits = SequencerLimits { bytes: size * 3, ..SequencerLimits::default() };
    let mut sequencer = Sequencer::new(limits, epoch(), at(0));
    for position in 2..20 {
        sequencer.copy(copy_of(&event(position, Audience::users(vec![LOCAL_USER]))));
        let large = [event(position, Audience::Everyone), event(position, Audience::Everyone)];
        sequencer.announcement(announcement(position - 1, &large, position), 0);
        assert!(sequencer.pending.len() == 1 && sequencer.copies.len() <= copies);
    }
    assert_eq!(sequencer.lag(), 19, "the head is remembered, so the rest will be read");
    let limits = SequencerLimits { bytes: 1, ..SequencerLimits::default() };
    let mut sequencer = Sequencer::new(limits, epoch(), at(0));
    sequencer.announcement(announcement(0, &[event(1, Audience::Everyone)], 1), 0);
    assert_eq!(applied_events(&sequencer.advance(0, concerns)), [1], "one may always wait");
}

/// What happens to one message on the way.
#[derive(Debug, Clone)]
enum Fate {
    Arrive { delay: usize },
    Lose,
    Repeat { delay: usize },
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        5 => (0..6usize).prop_map(|delay| Fate::Arrive { delay }),
        1 => Just(Fate::Lose),
        1 => (0..9usize).prop_map(|delay| Fate::Repeat { delay }),
    ]
}

#[derive(Debug, Clone)]
enum Message {
    Copy(EventCopy),
    Announcement(Announcement),
}

/// The log, and the messages a publisher sends about it.
fn history(batches: &[Vec<(i64, u8)>]) -> (Vec<Event>, Vec<Message>) {
    let (mut log, mut messages, mut at) = (Vec::new(), Vec::new(), 0);
    for batch in batches {
        let previous = at;
        let mut events = Vec::new();
        for (step, whom) in batch {
            at += step;
            let audience = match whom % 3 {
                0 => Audience::Everyone,
                1 => Audience::users(vec![LOCAL_USER]),
                _ => Audience::users(vec![2]),
            };
            events.push(event(at, audience));
        }
        let copied = events.iter().filter(|event| event.audience != Audience::Everyone);
        messages.extend(copied.map(|event| Message::Copy(copy_of(event))));
        messages.push(Message::Announcement(announcement(previous, &events, at)));
        log.extend(events);
    }
    (log, messages)
}

/// Carries out what the sequencer says, with a store that answers late, in pages, and sometimes not at all.
struct World {
    log: Vec<Event>,
    committed: Position,
    received: Vec<Position>,
    applied: Position,
    answers: VecDeque<(usize, Position, Position)>,
    page: usize,
    fail_every: usize,
    reads: usize,
}

impl World {
    fn carry_out(&mut self, outputs: Vec<Output>, step: usize) {
        for output in outputs {
            match output {
                Output::Apply { events, routes, applied } => {
                    let applied = applied.position;
                    if let Some(routes) = routes {
                        let expected: Vec<_> = self.positions_in(self.applied, applied, |_| true);
                        assert_eq!(routes.iter().map(|r| r.0).collect::<Vec<_>>(), expected);
                    }
                    assert!(applied > self.applied);
                    self.applied = applied;
                    let wanted = events.iter().filter(|e| concerns(&e.event().audience));
                    self.received.extend(wanted.map(|e| e.position()));
                }
                Output::Read { after, up_to } => {
                    let (after, up_to) = (after.position, up_to.position);
                    assert!(after < up_to && up_to <= self.committed, "reads only what is final");
                    self.answers.push_back((step + 2, after, up_to));
                }
            }
        }
    }

    fn positions_in(&self, after: Position, up_to: Position, f: impl Fn(&Event) -> bool) -> Vec<Position> {
        let range = self.log.iter().filter(|e| e.position > after && e.position <= up_to);
        range.filter(|e| f(e)).map(|e| e.position).collect()
    }

    fn answer(&mut self, sequencer: &mut Sequencer, step: usize, now: Moment) {
        let Some((due, after, up_to)) = self.answers.front().copied() else { return };
        if due > step {
            return;
        }
        self.answers.pop_front();
        self.reads += 1;
        if self.reads.is_multiple_of(self.fail_every) {
            return sequencer.read_failed(now);
        }
        let found = self.positions_in(after, up_to, |e| concerns(&e.audience));
        let end = if found.len() > self.page { found[self.page - 1] } else { up_to };
        let events = self.log.iter().filter(|e| found.contains(&e.position) && e.position <= end);
        let events = events.map(|e| Arc::new(Delivery::new(&epoch(), e.clone()))).collect();
        let output = sequencer.page(events, at(end));
        self.carry_out(output.into_iter().collect(), step);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever the bus does: everything for a listener here arrives, once, in order.
    #[test]
    fn nothing_is_lost_repeated_or_disordered(
        batches in prop::collection::vec(prop::collection::vec((1..4i64, any::<u8>()), 1..5), 1..30),
        fates in prop::collection::vec(fate(), 150),
        page in 1..4usize,
        fail_every in 2..6usize,
        pending in 1..8usize,
        bytes in 1..8_000usize,
    ) {
        let (log, messages) = history(&batches);
        let head = log.last().unwrap().position;
        let mut arrivals: BTreeMap<usize, Vec<Message>> = BTreeMap::new();
        for (sent, message) in messages.into_iter().enumerate() {
            match fates[sent % fates.len()] {
                Fate::Lose => {}
                Fate::Arrive { delay } => arrivals.entry(sent + delay).or_default().push(message),
                Fate::Repeat { delay } => {
                    arrivals.entry(sent).or_default().push(message.clone());
                    arrivals.entry(sent + delay).or_default().push(message);
                }
            }
        }
        let limits = SequencerLimits { pending, copies: pending * 2, bytes, ..SequencerLimits::default() };
        let mut sequencer = Sequencer::new(limits, epoch(), at(0));
        let mut world = World {
            log, committed: head, received: vec![], applied: 0,
            answers: VecDeque::new(), page, fail_every, reads: 0,
        };
        let mut step = 0;
        while world.applied < head {
            prop_assert!(step < 20_000, "stuck at {} of {}", world.applied, head);
            let now = step as Moment * 10;
            for message in arrivals.remove(&step).unwrap_or_default() {
                match message {
                    Message::Copy(copy) => sequencer.copy(copy),
                    Message::Announcement(announcement) => {
                        prop_assert!(!sequencer.announcement(announcement, now));
                    }
                }
            }
            world.answer(&mut sequencer, step, now);
            if step % 100 == 99 {
                sequencer.head(at(head), now);
            }
            let outputs = sequencer.advance(now, concerns);
            world.carry_out(outputs, step);
            step += 1;
        }
        let expected = world.positions_in(0, head, |e| concerns(&e.audience));
        prop_assert_eq!(&world.received, &expected);
    }
}
