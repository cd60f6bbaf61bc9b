//! The log: order, completeness, idempotency, audiences, pages, retention.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use carillon::account::Role;
use carillon::event::{Audience, Expiry, Fingerprint, NewEvent, Position, Priority};
use carillon::store::Store;
use rand::RngExt as _;
use uuid::Uuid;

use super::*;

/// Appenders at once, and appends of each.
pub const APPENDERS: usize = 24;
const APPENDS: usize = 40;

pub async fn a_cursor_reader_beside_many_appenders_misses_nothing(store: &Store) {
    let (appended, missed) = appended_and_missed(store, || store.clone()).await;
    assert!(appended >= APPENDERS * APPENDS, "{appended}");
    assert_eq!(missed, 0, "of {appended}");
}

/// Appends from many tasks at once beside one reader that goes on from where it was; how many there were, and
/// how many the reader was never shown.
pub async fn appended_and_missed(store: &Store, appender: impl Fn() -> Store) -> (usize, usize) {
    let is_over = Arc::new(AtomicBool::new(false));
    let reader = tokio::spawn(follow(store.clone(), is_over.clone()));
    let appenders: Vec<_> = (0..APPENDERS).map(|_| tokio::spawn(append_often(appender()))).collect();
    let mut appended = BTreeSet::new();
    for appender in appenders {
        for position in appender.await.unwrap() {
            assert!(appended.insert(position), "{position} was given twice");
        }
    }
    is_over.store(true, Ordering::SeqCst);
    let seen = reader.await.unwrap();
    assert!(seen.is_subset(&appended));
    (appended.len(), appended.difference(&seen).count())
}

async fn append_often(store: Store) -> Vec<Position> {
    let mut positions = Vec::new();
    for _ in 0..APPENDS {
        let size = rand::rng().random_range(1..=4);
        let events: Vec<NewEvent> = (0..size).map(|_| event()).collect();
        let appended = append(&store, &events).await;
        assert!(appended.previous < appended.events[0].position);
        positions.extend(appended.events.iter().map(|event| event.position));
    }
    positions
}

async fn follow(store: Store, is_over: Arc<AtomicBool>) -> BTreeSet<Position> {
    let (mut after, mut seen) = (0, BTreeSet::new());
    loop {
        let was_over = is_over.load(Ordering::SeqCst);
        let head = store.log_state().await.unwrap().head;
        let page = store.read_for_node(after, head, Some(&node(&[], &[])), 500).await.unwrap();
        for event in page.events {
            assert!(event.position > after, "{} came again", event.position);
            assert!(seen.insert(event.position));
        }
        after = page.end;
        if was_over && after == head {
            return seen;
        }
    }
}

pub async fn an_append_keeps_its_order_and_returns_the_head_before(store: &Store) {
    assert_eq!(store.log_state().await.unwrap().head, 0);
    assert!(append(store, &[]).await.events.is_empty());
    let mut head = 0;
    for size in [1, 3, 1000] {
        let events: Vec<NewEvent> = (0..size).map(|_| event()).collect();
        let appended = append(store, &events).await;
        assert_eq!(appended.previous, head);
        let ids: Vec<Uuid> = appended.events.iter().map(|event| event.id).collect();
        assert_eq!(ids, events.iter().map(|event| event.id).collect::<Vec<_>>());
        assert!(appended.events.is_sorted_by(|a, b| a.position < b.position));
        assert!(appended.events.iter().all(|event| event.position > head && !event.is_repeat));
        head = appended.events.last().unwrap().position;
        assert_eq!(store.log_state().await.unwrap().head, head);
    }
}

pub async fn an_event_comes_back_as_it_was_given(store: &Store) {
    let now = store.log_state().await.unwrap().now;
    let long = format!("\"{}\"", "long ".repeat(20_000));
    let datas = ["null", "{ \"b\": 1.50, \"a\": \"ä\u{1f514}\\u0000 '\\\" \" }", "[]", &long];
    let audiences = [
        Audience::Everyone,
        Audience::users(vec![9, 4]),
        Audience::topic(topic("a/b")),
        Audience::of(vec![9, 4], vec![topic("b"), topic("a/b")]),
    ];
    let expiries = [Expiry::Never, Expiry::At(now + 60_000), Expiry::After(60_000)];
    for (index, data) in datas.iter().enumerate() {
        let given = NewEvent {
            event_type: event_type("order.paid"),
            priority: Priority::ALL[index],
            audience: audiences[index].clone(),
            data: (*data).into(),
            expiry: expiries[index % 3],
            keep_after_read: (index > 1).then_some(5_000),
            publisher: 77,
            ..event()
        };
        let appended = append(store, std::slice::from_ref(&given)).await.events[0].clone();
        assert!((now..now + 60_000).contains(&appended.created_at));
        let expires_at = match given.expiry {
            Expiry::Never => None,
            Expiry::At(at) => Some(at),
            Expiry::After(span) => Some(appended.created_at + span),
        };
        assert_eq!(appended.expires_at, expires_at);
        let found = store.event_at(appended.position).await.unwrap().unwrap();
        let expected = Event {
            position: appended.position,
            id: given.id,
            event_type: given.event_type,
            priority: given.priority,
            audience: given.audience,
            data: given.data,
            created_at: appended.created_at,
            expires_at,
            keep_after_read: given.keep_after_read,
            publisher: 77,
        };
        assert_eq!(found, expected);
    }
    assert_eq!(store.event_at(999_999).await.unwrap(), None);
}

fn with_key(key: &str, index: i32) -> NewEvent {
    NewEvent { idempotency: Some((key.into(), index)), ..event() }
}

pub async fn a_repeated_key_gives_the_first_event(store: &Store) {
    let first = append(store, &[with_key("k", 0), with_key("k", 1)]).await;
    let again = append(store, &[with_key("k", 0), with_key("k", 1)]).await;
    for (first, again) in first.events.iter().zip(&again.events) {
        assert_eq!(
            (again.id, again.position, again.created_at),
            (first.id, first.position, first.created_at)
        );
        assert!(again.is_repeat && !first.is_repeat);
    }
    let head = store.log_state().await.unwrap().head;
    assert_eq!(head, first.events[1].position);
    // New ones and repeats beside each other, and a key twice in one append.
    let mixed = append(store, &[event(), with_key("k", 1), with_key("n", 0), with_key("n", 0)]).await;
    let repeats: Vec<bool> = mixed.events.iter().map(|event| event.is_repeat).collect();
    assert_eq!(repeats, [false, true, false, true]);
    assert_eq!(mixed.events[1].id, first.events[1].id);
    assert_eq!(mixed.events[3].id, mixed.events[2].id);
    assert_eq!(mixed.previous, head);
    let other_publisher = NewEvent { publisher: 2, ..with_key("k", 0) };
    assert!(!append(store, &[other_publisher]).await.events[0].is_repeat);
    assert_eq!(replay(store, &reader(1, &[])).await.len(), 5);
}

/// A request is known by its fingerprint; rows without one, of programs before, match any.
pub async fn a_key_is_for_one_request(store: &Store) {
    let of = |key: &str, request: u8, count: i32| -> Vec<NewEvent> {
        let request = Some(Fingerprint { hash: [request; 32], length: 7 });
        (0..count).map(|index| NewEvent { request, ..with_key(key, index) }).collect()
    };
    append(store, &of("k", 1, 2)).await;
    append(store, &[with_key("old", 0)]).await;
    let head = store.log_state().await.unwrap().head;
    assert!(append(store, &of("k", 1, 2)).await.events.iter().all(|event| event.is_repeat));
    assert!(append(store, &[of("old", 1, 1), of("old", 2, 1)].concat()).await.events[1].is_repeat);
    for (events, places) in [
        (of("k", 2, 2), vec![0]),
        (of("k", 2, 3), vec![0]),
        ([of("k", 1, 2), of("new", 1, 3), of("k", 3, 1)].concat(), vec![5]),
        (
            [of("new", 1, 2), of("k", 2, 2), of("new", 2, 1), vec![event()], of("new", 3, 1)].concat(),
            vec![2, 4, 6],
        ),
    ] {
        let refused = store.append(&events).await.unwrap_err();
        assert!(
            matches!(&refused, StoreError::KeyReused(found) if *found == places),
            "{refused:?} {places:?}"
        );
    }
    let mut longer = of("k", 1, 1);
    longer[0].request = Some(Fingerprint { hash: [1; 32], length: 8 });
    assert!(matches!(store.append(&longer).await, Err(StoreError::KeyReused(_))));
    let other_publisher = NewEvent { publisher: 2, ..of("k", 9, 1).remove(0) };
    assert_eq!(append(store, &[other_publisher]).await.previous, head, "nothing of it was written");
}

pub async fn a_key_used_at_once_gives_one_event(store: &Store) {
    let all = (0..16).map(|_| {
        let store = store.clone();
        tokio::spawn(async move { append(&store, &[with_key("same", 0)]).await.events[0].clone() })
    });
    let mut outcomes = Vec::new();
    for task in all.collect::<Vec<_>>() {
        outcomes.push(task.await.unwrap());
    }
    assert_eq!(outcomes.iter().filter(|outcome| !outcome.is_repeat).count(), 1);
    assert!(outcomes.iter().all(|outcome| outcome.id == outcomes[0].id));
    assert_eq!(replay(store, &reader(1, &[])).await, [outcomes[0].position]);
}

pub async fn an_append_is_all_or_nothing(store: &Store) {
    let head = add(store, event()).await;
    let twice = for_users(&[1]);
    assert!(store.append(&[event(), twice.clone(), event(), twice]).await.is_err());
    assert_eq!(store.log_state().await.unwrap().head, head);
    assert_eq!(replay(store, &reader(1, &[])).await, [head]);
    assert!(add(store, event()).await > head);
}

pub async fn a_node_reads_what_its_listeners_need(store: &Store) {
    let everyone = add(store, event()).await;
    let both = add(store, for_users(&[3, 5])).await;
    let other = add(store, for_users(&[8])).await;
    let room = add(store, on_topic("room/1")).await;
    let elsewhere = add(store, on_topic("room/2")).await;
    let retracted = append(store, &[event()]).await.events[0].clone();
    store.retract(retracted.id, None).await.unwrap().unwrap();
    let head = store.log_state().await.unwrap().head;
    let read = async |users: &[UserId], topics: &[Topic]| {
        store.read_for_node(0, head, Some(&node(users, topics)), 100).await.unwrap().events
    };
    assert_eq!(positions(&read(&[], &[]).await), [everyone]);
    let events = read(&[3, 5, 3], &[topic("room/1")]).await;
    assert_eq!(positions(&events), [everyone, both, room]);
    assert_eq!(events[1].audience, Audience::users(vec![3, 5]));
    assert_eq!(positions(&read(&[8], &[topic("room")]).await), [everyone, other]);
    // Who listens for very many reads everything.
    let all = store.read_for_node(0, head, None, 100).await.unwrap();
    assert_eq!(positions(&all.events), [everyone, both, other, room, elsewhere]);
    assert_eq!(all.events[1].audience, Audience::users(vec![3, 5]));
    let page = store.read_for_node(both, room, Some(&node(&[3, 8], &[])), 100).await.unwrap();
    assert_eq!((positions(&page.events), page.end), (vec![other], room));
}

pub async fn a_reader_reads_what_is_theirs(store: &Store) {
    let typed = |name: &str, priority| NewEvent { event_type: event_type(name), priority, ..event() };
    let a = add(store, typed("a", Priority::Low)).await;
    let b = add(store, NewEvent { audience: Audience::users(vec![3]), ..typed("b", Priority::High) }).await;
    let c =
        add(store, NewEvent { audience: Audience::topic(topic("t")), ..typed("c", Priority::Urgent) }).await;
    add(store, for_users(&[4])).await;
    assert_eq!(replay(store, &reader(3, &["t"])).await, [a, b, c]);
    assert_eq!(replay(store, &reader(3, &[])).await, [a, b]);
    assert_eq!(replay(store, &reader(9, &["t", "x"])).await, [a, c]);
    assert_eq!(replay(store, &filtered(reader(3, &["t"]), &["b", "c"], None)).await, [b, c]);
    let high = |reader| filtered(reader, &[], Some(Priority::High));
    assert_eq!(replay(store, &high(reader(3, &["t"]))).await, [b, c]);
    store.mark(3, a, true).await.unwrap();
    assert_eq!(replay(store, &reader(3, &["t"])).await, [b, c]);
    assert!(replay(store, &high(reader(4, &[]))).await.is_empty());
    store.mark_read_up_to(3, b).await.unwrap();
    assert_eq!(replay(store, &reader(3, &["t"])).await, [c]);
    store.mark(3, b, false).await.unwrap();
    assert_eq!(replay(store, &reader(3, &["t"])).await, [b, c]);
}

pub async fn pages_end_where_they_say(store: &Store) {
    let mut events = Vec::new();
    for index in 0..120 {
        events.push(match index % 4 {
            0 => event(),
            1 => for_users(&[1, 2]),
            2 => on_topic("t"),
            _ => for_users(&[2]),
        });
    }
    append(store, &events).await;
    let head = store.log_state().await.unwrap().head;
    for (reader, expected) in [
        (reader(1, &["t"]), 90),
        (reader(1, &[]), 60),
        (reader(2, &[]), 90),
        (filtered(reader(2, &["t"]), &["absent"], None), 0),
    ] {
        for limit in [1, 7, 90, 1000] {
            let (mut after, mut found) = (0, Vec::new());
            while after < head {
                let page = store.read_for_reader(after, head, &reader, limit).await.unwrap();
                assert!(page.end > after && page.end <= head && page.events.len() <= limit as usize);
                assert!(page.events.iter().all(|e| e.position > after && e.position <= page.end));
                found.extend(positions(&page.events));
                after = page.end;
            }
            assert_eq!(found.len(), expected, "limit {limit} for {reader:?}");
            assert!(found.is_sorted_by(|a, b| a < b));
        }
    }
    let nothing = store.read_for_reader(head, head, &reader(1, &[]), 10).await.unwrap();
    assert_eq!((nothing.events.len(), nothing.end), (0, head));
}

pub async fn retraction_is_for_its_publisher_or_anybody_allowed(store: &Store) {
    let [first, second] = [7, 8].map(|publisher| NewEvent { publisher, ..for_users(&[3]) });
    append(store, &[first.clone(), second.clone()]).await;
    assert!(store.retract(first.id, Some(8)).await.unwrap().is_none());
    assert!(store.retract(Uuid::now_v7(), None).await.unwrap().is_none());
    let gone = store.retract(first.id, Some(7)).await.unwrap().unwrap();
    assert_eq!((gone.id, gone.audience), (first.id, first.audience));
    assert!(store.retract(first.id, Some(7)).await.unwrap().is_none(), "only once");
    assert!(store.retract(second.id, None).await.unwrap().is_some());
    assert!(replay(store, &reader(3, &[])).await.is_empty());
    assert!(store.inbox_event(3, first.id, true).await.unwrap().is_none());
}

pub async fn retention_removes_a_prefix_and_the_head_stays(store: &Store) {
    let me = store.create_user("me", "hash", Role::Listener).await.unwrap().id;
    let old = append(store, &(0..10).map(|_| for_users(&[me])).collect::<Vec<_>>()).await.events;
    store.mark(me, old[0].position, true).await.unwrap();
    let cut = old[9].created_at + 1;
    until_past(store, cut).await;
    let young = add(store, event()).await;
    assert_eq!(store.remove_before(old[0].created_at, 100).await.unwrap(), 0, "nothing is that old");
    assert_eq!(store.remove_before(cut, 4).await.unwrap(), 4);
    assert_eq!(store.log_state().await.unwrap().floor, old[3].position);
    let rest: Vec<Position> = old[4..].iter().map(|event| event.position).chain([young]).collect();
    assert_eq!(replay(store, &reader(me, &[])).await, rest);
    assert_eq!(store.remove_before(cut, 100).await.unwrap(), 6);
    assert_eq!(store.remove_before(i64::MAX, 100).await.unwrap(), 1);
    let state = store.log_state().await.unwrap();
    assert_eq!((state.floor, state.head), (young, young), "the head stays although nothing is left");
    let next = append(store, &[event()]).await;
    assert!(next.previous == young && next.events[0].position > young);
}
