//! Who gets what: the listeners' index and every read of both databases, held against `Selector::matches`.

use std::collections::BTreeSet;
use std::sync::Arc;

use carillon::account::Credential;
use carillon::delivery::hub::{Hub, HubLimits, inbox};
use carillon::delivery::request::Subscription;
use carillon::event::{Audience, Event, Position, Priority, Selector, UserId};
use carillon::store::{InboxOrder, InboxQuery, Reader, Store};
use proptest::prelude::*;
use proptest::sample::subsequence;
use proptest::test_runner::{Config, TestRunner};

use super::*;

const USERS: [UserId; 4] = [1, 2, 3, 4];
const TOPICS: [&str; 5] = ["a", "a/b", "B", "b", "z-9"];
const TYPES: [&str; 3] = ["note", "alert", "tick"];

#[derive(Debug, Clone)]
struct Case {
    events: Vec<(Audience, usize, Priority)>,
    selectors: Vec<Selector>,
    /// By user 1: read up to here, then these unread, then these read.
    up_to: Option<usize>,
    unread: Vec<usize>,
    read: Vec<usize>,
    limit: u32,
}

fn case() -> impl Strategy<Value = Case> {
    let priority = || prop::sample::select(Priority::ALL.to_vec());
    let users = || subsequence(USERS.to_vec(), 0..=USERS.len());
    let topics = || subsequence(TOPICS.map(topic).to_vec(), 0..=TOPICS.len());
    let audience = prop_oneof![
        1 => Just(Audience::Everyone),
        4 => (users(), topics()).prop_filter_map("nobody", |(users, topics)| {
            (users.len() + topics.len() > 0).then(|| Audience::of(users, topics))
        }),
    ];
    let event = (audience, 0..TYPES.len(), priority());
    let selector =
        (any::<bool>(), users(), topics(), subsequence(TYPES.to_vec(), 0..=2), prop::option::of(priority()))
            .prop_map(|(everyone, users, topics, types, min_priority)| Selector {
                everyone,
                users,
                types: types.into_iter().map(event_type).collect(),
                min_priority,
                ..Selector::of_topics(topics)
            });
    let places = || prop::collection::vec(0..30usize, 0..6);
    (
        prop::collection::vec(event, 1..30),
        prop::collection::vec(selector, 1..5),
        prop::option::of(0..30usize),
        places(),
        places(),
        1..12u32,
    )
        .prop_map(|(events, selectors, up_to, unread, read, limit)| Case {
            events,
            selectors,
            up_to,
            unread,
            read,
            limit,
        })
}

pub async fn every_read_and_the_index_agree_with_the_selector(store: &Store) {
    let mut runner = TestRunner::new(Config { cases: 40, failure_persistence: None, ..Config::default() });
    tokio::task::block_in_place(|| {
        let outcome = runner.run(&case(), |case| {
            tokio::runtime::Handle::current().block_on(agree(store, &case));
            Ok(())
        });
        outcome.unwrap();
    });
}

async fn agree(store: &Store, case: &Case) {
    store.remove_before(i64::MAX, 10_000).await.unwrap();
    let begin = store.log_state().await.unwrap().head;
    let new: Vec<NewEvent> = case
        .events
        .iter()
        .map(|(audience, kind, priority)| NewEvent {
            audience: audience.clone(),
            event_type: event_type(TYPES[*kind]),
            priority: *priority,
            ..event()
        })
        .collect();
    let places: Vec<Position> = append(store, &new).await.events.iter().map(|event| event.position).collect();
    let mut unread: BTreeSet<Position> = places.iter().copied().collect();
    let at = |index: &usize| places[index % places.len()];
    if let Some(up_to) = &case.up_to {
        store.mark_read_up_to(1, at(up_to)).await.unwrap();
        unread.retain(|position| *position > at(up_to));
    }
    for (indexes, is_read) in [(&case.unread, false), (&case.read, true)] {
        for position in indexes.iter().map(at) {
            store.mark(1, position, is_read).await.unwrap();
            if is_read {
                unread.remove(&position)
            } else {
                unread.insert(position)
            };
        }
    }
    for selector in &case.selectors {
        let wanted: Vec<Position> = places
            .iter()
            .zip(&new)
            .filter(|(_, e)| selector.matches(&e.audience, &e.event_type, e.priority))
            .map(|(position, _)| *position)
            .collect();
        let events = pages(store, begin, selector, None, case.limit).await;
        assert_eq!(positions(&events), wanted, "for a node: {selector:?}");
        for event in events {
            let given = &new[places.iter().position(|position| *position == event.position).unwrap()];
            assert_eq!(event.audience, given.audience);
        }
    }
    // A reader names themselves or nobody.
    for selector in &case.selectors {
        let users: Vec<UserId> = if selector.users.contains(&1) { vec![1] } else { Vec::new() };
        let reader = Reader { user: 1, selector: Selector { users, ..selector.clone() } };
        for_reader(store, begin, &reader, &places, &new, &unread, case.limit).await;
    }
}

/// What a stream replays, the inbox in both orders, the counts and the index of listeners.
async fn for_reader(
    store: &Store,
    begin: Position,
    reader: &Reader,
    places: &[Position],
    new: &[NewEvent],
    unread: &BTreeSet<Position>,
    limit: u32,
) {
    let selector = &reader.selector;
    let wanted: Vec<(Priority, Position)> = places
        .iter()
        .zip(new)
        .filter(|(_, e)| selector.matches(&e.audience, &e.event_type, e.priority))
        .map(|(position, e)| (e.priority, *position))
        .collect();
    let wanted_unread: Vec<Position> =
        wanted.iter().map(|(_, position)| *position).filter(|position| unread.contains(position)).collect();
    let replayed = pages(store, begin, selector, Some(reader), limit).await;
    assert_eq!(positions(&replayed), wanted_unread, "a replay: {reader:?}");
    for event in replayed {
        assert!(selector.targets(&event.audience), "{event:?} shows why it came");
        assert!(event.audience.user_ids().iter().all(|user| *user == 1), "{event:?} names nobody else");
        assert!(event.audience.topics().iter().all(|topic| selector.topics.contains(topic)));
    }
    let counts = store.unread_counts(reader, 100, 200).await.unwrap();
    assert_eq!((counts.unread as usize, counts.more), (wanted_unread.len(), false), "counts: {reader:?}");
    for order in [InboxOrder::Newest, InboxOrder::Priority] {
        let mut sorted = wanted.clone();
        match order {
            InboxOrder::Newest => sorted.sort_by_key(|(_, position)| std::cmp::Reverse(*position)),
            InboxOrder::Priority => sorted.sort_by_key(|entry| std::cmp::Reverse(*entry)),
        }
        for unread_only in [false, true] {
            let expected: Vec<Position> = sorted
                .iter()
                .map(|(_, position)| *position)
                .filter(|p| !unread_only || unread.contains(p))
                .collect();
            let (mut after, mut listed) = (None, Vec::new());
            loop {
                let query = InboxQuery { unread_only, order, after, limit, ..InboxQuery::default() };
                let page = store.inbox(reader, &query).await.unwrap().entries;
                let Some(last) = page.last() else { break };
                after = Some((last.event.priority, last.event.position));
                listed.extend(page.iter().map(|entry| entry.event.position));
            }
            assert_eq!(listed, expected, "{order:?}, unread {unread_only}: {reader:?}");
        }
    }
    index_agrees(reader, new);
}

/// The index leaves out nobody who is targeted. Every listener is one of everybody and of their user's.
fn index_agrees(reader: &Reader, new: &[NewEvent]) {
    let (_poll, inbox) = inbox().unwrap();
    let hub = Arc::new(Hub::new(&HubLimits::default(), vec![inbox], |_| {}));
    hub.lock().begin(&"e".parse().unwrap(), 0, 0);
    let subscription = Subscription {
        connection: Uuid::now_v7(),
        reader: Arc::new(reader.clone()),
        name: "one".into(),
        wants_presence: false,
        keep_alive_every: None,
        credential: Credential::Token(1),
        origin: None,
    };
    let _registration = hub.admit(&subscription).unwrap();
    for event in new {
        let is_concerned = hub.lock().concerns(&event.audience);
        assert!(is_concerned || !reader.selector.targets(&event.audience), "{reader:?}, {event:?}");
        let all = Selector { everyone: true, users: vec![1], ..reader.selector.clone() };
        assert_eq!(is_concerned, all.targets(&event.audience), "{reader:?}, {event:?}");
    }
}

async fn pages(
    store: &Store,
    mut after: Position,
    selector: &Selector,
    reader: Option<&Reader>,
    limit: u32,
) -> Vec<Event> {
    let head = store.log_state().await.unwrap().head;
    let mut events = Vec::new();
    while after < head {
        let page = match reader {
            None => store.read_for_node(after, head, Some(selector), limit).await.unwrap(),
            Some(reader) => store.read_for_reader(after, head, reader, limit).await.unwrap(),
        };
        assert!(page.end > after);
        events.extend(page.events);
        after = page.end;
    }
    events
}
