//! Random runs that are right, by a small model of a node, and what must be found when one thing goes wrong.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use carillon::event::Priority;
use proptest::prelude::*;
use proptest::sample::Index;

use super::small::{Run, ms, user};
use crate::checker::Check;
use crate::ledger::{Audience, Heard, Listener, Outcome, What};

/// Milliseconds from one event to the next.
const TICK: u64 = 100;

#[derive(Debug, Clone)]
struct Planned {
    audience: Audience,
    priority: Priority,
    event_type: usize,
    gap: i64,
    lifetime: Option<u64>,
    outcome: u8,
}

/// What a listener does at one tick.
#[derive(Debug, Clone, Copy)]
enum Step {
    Stay,
    Heartbeat,
    Cut,
    /// Connects; the connection breaks after so many events of the backlog.
    Try(usize),
    Connect,
}

fn audience() -> impl Strategy<Value = Audience> {
    prop_oneof![
        3 => Just(Audience::Everyone),
        2 => (0..3).prop_map(|n| user(&format!("u{n}"))),
        1 => Just(Audience::Users(vec!["u0".into(), "u2".into()])),
        1 => (0..2).prop_map(|n| Audience::Topic(format!("t{n}"))),
    ]
}

fn planned() -> impl Strategy<Value = Planned> {
    let lifetime = prop::option::weighted(0.2, 50..400u64);
    (audience(), 0..4i16, 0..2usize, 1..4i64, lifetime, 0..8u8).prop_map(
        |(audience, priority, event_type, gap, lifetime, outcome)| {
            let priority = Priority::from_number(priority);
            Planned { audience, priority, event_type, gap, lifetime, outcome }
        },
    )
}

fn listener() -> impl Strategy<Value = (Listener, Vec<Step>)> {
    let types = prop::option::weighted(0.2, 0..2usize);
    let least = prop::option::weighted(0.3, 0..4i16);
    let step = prop_oneof![
        4 => Just(Step::Stay),
        1 => Just(Step::Heartbeat),
        1 => Just(Step::Cut),
        1 => (0..4usize).prop_map(Step::Try),
        1 => Just(Step::Connect),
    ];
    (0..3, 0..2, types, least, prop::collection::vec(step, 30)).prop_map(
        |(name, topic, types, least, plan)| {
            let listener = Listener {
                user: format!("u{name}"),
                topics: vec![format!("t{topic}")],
                types: types.into_iter().map(|n| format!("type{n}")).collect(),
                min_priority: least.map(Priority::from_number),
                ..Listener::default()
            };
            (listener, plan)
        },
    )
}

/// A run that is right. Two listeners without filters are connected throughout, and two events of a user's come
/// last, so that there is always something to go wrong.
fn run() -> impl Strategy<Value = Run> {
    let events = prop::collection::vec(planned(), 1..24);
    (events, prop::collection::vec(listener(), 0..6)).prop_map(|(mut events, mut listeners)| {
        for gap in [1, 2] {
            events.push(Planned {
                audience: user("u0"),
                priority: Priority::Normal,
                event_type: 0,
                gap,
                lifetime: None,
                outcome: 0,
            });
        }
        for name in ["u0", "u1"] {
            let always = Listener { user: name.into(), ..Listener::default() };
            listeners.insert(0, (always, vec![Step::Connect]));
        }
        let mut model = Model::default();
        model.run.promises.expiry_margin = ms(20);
        model.run.promises.deliver_within = ms(40);
        model.play(&events, listeners);
        model.run
    })
}

/// An event that is stored.
#[derive(Debug, Clone)]
struct Stored {
    key: String,
    position: i64,
    priority: Priority,
    expires: Option<u64>,
    event_type: String,
    audience: Audience,
}

/// What the model knows of a listener: what it has seen, and whether it is connected.
#[derive(Debug, Default, Clone)]
struct Reader {
    position: Option<i64>,
    ahead: BTreeSet<i64>,
    is_connected: bool,
}

impl Reader {
    fn has_seen(&self, position: i64) -> bool {
        self.position.is_some_and(|seen| position <= seen) || self.ahead.contains(&position)
    }

    fn reach(&mut self, position: i64) -> String {
        self.position = self.position.max(Some(position));
        self.cursor().unwrap_or_default()
    }

    fn cursor(&mut self) -> Option<String> {
        let position = self.position?;
        self.ahead.retain(|ahead| *ahead > position);
        Some(self.ahead.iter().fold(format!("e-{position}"), |cursor, ahead| format!("{cursor}+{ahead}")))
    }
}

#[derive(Default)]
struct Model {
    run: Run,
    log: Vec<Stored>,
    head: i64,
}

impl Model {
    fn play(&mut self, events: &[Planned], listeners: Vec<(Listener, Vec<Step>)>) {
        let mut readers = vec![Reader::default(); listeners.len()];
        let plans: Vec<_> = listeners
            .into_iter()
            .map(|(listener, plan)| {
                self.run.listener(listener);
                plan
            })
            .collect();
        for (number, at) in (0..=events.len()).zip((0..).step_by(TICK as usize)) {
            for (id, reader) in readers.iter_mut().enumerate() {
                self.step(id, reader, plans[id].get(number).copied().unwrap_or(Step::Stay), at);
            }
            if let Some(planned) = events.get(number) {
                self.publish(&format!("k{number}"), planned, at + 10);
                self.live(&mut readers, at + 12);
            }
        }
        let at = events.len() as u64 * TICK + 50;
        for (id, reader) in readers.iter_mut().enumerate().filter(|(_, reader)| !reader.is_connected) {
            self.connect(id, reader, usize::MAX, at);
        }
        self.run.ledger.healed = Some(ms(at + 1));
        let sentinel =
            Planned { audience: Audience::Everyone, lifetime: None, outcome: 0, ..events[0].clone() };
        self.publish("sentinel-1", &sentinel, at + 2);
        self.live(&mut readers, at + 5);
    }

    fn step(&mut self, id: usize, reader: &mut Reader, step: Step, at: u64) {
        match step {
            Step::Heartbeat if reader.is_connected => {
                let raw_id = reader.reach(self.head);
                self.run.stamp(id, at, &raw_id);
            }
            Step::Cut if reader.is_connected => {
                reader.is_connected = false;
                self.run.closed(id, at);
            }
            Step::Try(events) if !reader.is_connected => self.connect(id, reader, events, at),
            Step::Connect if !reader.is_connected => self.connect(id, reader, usize::MAX, at),
            _ => {}
        }
    }

    fn publish(&mut self, key: &str, planned: &Planned, at: u64) {
        let outcome = match planned.outcome {
            6 => Outcome::Failed { status: 422, detail: String::new() },
            // Of unknown outcome, one is stored and one is not.
            5 | 7 => Outcome::Unknown { why: "cut".into() },
            _ => Outcome::Acked { id: format!("id of {key}"), position: self.head + planned.gap },
        };
        let expires = planned.lifetime.map(|lifetime| at + lifetime);
        let event_type = format!("type{}", planned.event_type);
        let attempt = self.run.attempt(key, at, planned.audience.clone(), outcome);
        attempt.priority = planned.priority;
        attempt.event_type = event_type.clone();
        attempt.expires = expires.map(ms);
        if planned.outcome < 6 {
            self.head += planned.gap;
            let (position, priority, audience) = (self.head, planned.priority, planned.audience.clone());
            self.log.push(Stored { key: key.to_owned(), position, priority, expires, event_type, audience });
        }
    }

    /// The newest event goes to all who are connected; a reader that has it does not get it again.
    fn live(&mut self, readers: &mut [Reader], at: u64) {
        let Some(event) = self.log.last().cloned() else { return };
        for (id, reader) in readers.iter_mut().enumerate().filter(|(_, reader)| reader.is_connected) {
            if self.is_for(id, &event) && !reader.has_seen(event.position) {
                let raw_id = reader.reach(event.position);
                self.deliver(id, &event, at, raw_id);
            }
        }
    }

    fn is_for(&self, id: usize, event: &Stored) -> bool {
        self.run.ledger.listeners[id].is_entitled(&event.audience, &event.event_type, event.priority)
    }

    fn deliver(&mut self, id: usize, event: &Stored, at: u64, raw_id: String) {
        let mut delivery = self.run.delivery(&event.key, &raw_id);
        delivery.position = event.position;
        self.run.heard(id, at, What::Delivery(delivery));
    }

    /// Connects and sends the backlog, higher priorities first; breaks off after `events` of it.
    fn connect(&mut self, id: usize, reader: &mut Reader, events: usize, at: u64) {
        let cursor = reader.cursor();
        self.run.opened(id, at, cursor.as_deref());
        let first = cursor.unwrap_or_else(|| reader.reach(self.head));
        self.run.stamp(id, at, &first);
        let waits = |event: &&Stored| {
            self.is_for(id, event)
                && !reader.has_seen(event.position)
                && event.expires.is_none_or(|end| end > at)
        };
        let mut backlog: Vec<Stored> = self.log.iter().filter(waits).cloned().collect();
        let mut unsent: BTreeSet<i64> = backlog.iter().map(|event| event.position).collect();
        backlog.sort_by_key(|event| (Reverse(event.priority), event.position));
        for event in backlog.iter().take(events) {
            unsent.remove(&event.position);
            reader.ahead.insert(event.position);
            let raw_id = reader.reach(unsent.first().map_or(self.head, |next| next - 1));
            self.deliver(id, event, at + 1, raw_id);
        }
        reader.is_connected = events >= backlog.len();
        if reader.is_connected {
            reader.reach(self.head);
        } else {
            self.run.closed(id, at + 2);
        }
    }
}

/// One thing that goes wrong.
#[derive(Debug, Clone, Copy)]
enum Mistake {
    Drop,
    Repeat,
    Swap,
    Misdeliver,
    StampAhead,
    DeliverExpired,
    SecondId,
}

/// Where a mistake may be made: an index into what was heard.
fn places(run: &Run, is_place: impl Fn(usize, &Heard, &str) -> bool) -> Vec<usize> {
    let heard = run.ledger.heard.iter().enumerate();
    heard
        .filter_map(|(index, heard)| match &heard.what {
            What::Delivery(delivery) => is_place(index, heard, &delivery.key).then_some(index),
            _ => None,
        })
        .collect()
}

fn priority_and_position(what: &What) -> Option<(Priority, i64)> {
    if let What::Delivery(delivery) = what { Some((delivery.priority, delivery.position)) } else { None }
}

/// What a listener lived through next.
fn next(run: &Run, index: usize) -> Option<usize> {
    let (heard, after) = (&run.ledger.heard[index], &run.ledger.heard[index + 1..]);
    after.iter().position(|other| other.listener == heard.listener).map(|place| index + 1 + place)
}

/// One of the places where it is a mistake.
fn place(mistake: Mistake, run: &Run, pick: Index) -> usize {
    let attempt = |key: &str| run.ledger.attempts.iter().find(|attempt| attempt.key == key).unwrap();
    let lasts = |key: &str| attempt(key).expires.is_none();
    let is_acked = |key: &str| matches!(attempt(key).outcome, Outcome::Acked { .. });
    let disorders = |index: usize, heard: &Heard| {
        let then = next(run, index).and_then(|next| priority_and_position(&run.ledger.heard[next].what));
        priority_and_position(&heard.what)
            .zip(then)
            .is_some_and(|(first, then)| first.1 < then.1 && then.0 <= first.0)
    };
    let places = match mistake {
        Mistake::Drop => places(run, |_, _, key| lasts(key) && is_acked(key)),
        Mistake::Repeat => places(run, |_, _, _| true),
        Mistake::Swap => places(run, |index, heard, _| disorders(index, heard)),
        Mistake::Misdeliver => places(run, |_, _, key| attempt(key).audience == user("u0")),
        Mistake::StampAhead => places(run, |_, _, key| lasts(key)),
        Mistake::DeliverExpired => places(run, |_, heard, _| heard.at > ms(100)),
        Mistake::SecondId => places(run, |_, _, key| is_acked(key)),
    };
    *pick.get(&places)
}

/// Makes the mistake somewhere; gives the check that must find it.
fn make(mistake: Mistake, run: &mut Run, pick: Index) -> Check {
    let place = place(mistake, run, pick);
    let mut copy = run.ledger.heard[place].clone();
    let What::Delivery(delivery) = &mut copy.what else { panic!("a place is a delivery") };
    match mistake {
        Mistake::Drop => {
            run.ledger.heard.remove(place);
            Check::C1
        }
        Mistake::Repeat => {
            run.ledger.heard.insert(place + 1, copy);
            Check::C2
        }
        Mistake::Swap => {
            let other = next(run, place).unwrap();
            run.ledger.heard[place].what = run.ledger.heard[other].what.clone();
            run.ledger.heard[other].what = copy.what;
            Check::C3
        }
        Mistake::Misdeliver => {
            // The first listener is u1's, and always connected.
            (copy.listener, copy.connection) = (0, 1);
            run.ledger.heard.insert(place, copy);
            Check::C5
        }
        Mistake::StampAhead => {
            copy.what = What::Stamp { raw_id: format!("e-{}", delivery.position) };
            run.ledger.heard.insert(place, copy);
            Check::C4
        }
        Mistake::DeliverExpired => {
            let published = run.ledger.attempts.iter_mut().find(|attempt| attempt.key == *delivery.key);
            published.unwrap().expires = Some(copy.at - ms(21));
            Check::C6
        }
        Mistake::SecondId => {
            delivery.event_id = "another".into();
            run.ledger.heard[place] = copy;
            Check::C7
        }
    }
}

proptest! {
    #[test]
    fn what_is_right_passes(run in run()) {
        let verdict = run.check();
        prop_assert!(verdict.is_clean(), "{}", verdict);
        prop_assert_eq!(verdict.measurements.lost + verdict.measurements.raw_repeats, 0);
    }

    #[test]
    fn one_mistake_is_found(
        right in run(),
        mistake in prop::sample::select(vec![
            Mistake::Drop,
            Mistake::Repeat,
            Mistake::Swap,
            Mistake::Misdeliver,
            Mistake::StampAhead,
            Mistake::DeliverExpired,
            Mistake::SecondId,
        ]),
        pick in any::<Index>(),
    ) {
        let mut wrong = right;
        let expected = make(mistake, &mut wrong, pick);
        let verdict = wrong.check();
        prop_assert!(verdict.count(expected) > 0, "{:?} was not found by {}:\n{}", mistake, expected, verdict);
    }
}
