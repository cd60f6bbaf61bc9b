//! The inbox: orders, pages, filters, and what each user has read.

use std::collections::BTreeMap;

use carillon::event::{Audience, Expiry, NewEvent, Position, Priority, Topic, UserId};
use carillon::store::{InboxEntry, InboxOrder, InboxQuery, ReadBudget, Reader, Store};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::*;

fn everything() -> InboxQuery {
    InboxQuery { limit: 1_000, ..InboxQuery::default() }
}

fn searching(text: &str) -> InboxQuery {
    InboxQuery { text: Some(text.to_owned()), ..everything() }
}

async fn inbox(store: &Store, reader: &Reader, query: &InboxQuery) -> Vec<InboxEntry> {
    store.inbox(reader, query).await.unwrap().entries
}

async fn places(store: &Store, reader: &Reader, query: &InboxQuery) -> Vec<Position> {
    inbox(store, reader, query).await.iter().map(|entry| entry.event.position).collect()
}

async fn unread(store: &Store, reader: &Reader) -> BTreeMap<String, i64> {
    let counts = store.unread_counts(reader, 1_000, 2_000).await.unwrap();
    assert!(counts.by_type.is_sorted_by(|a, b| a.1 >= b.1), "most first");
    assert_eq!((counts.unread, counts.more), (counts.by_type.iter().map(|(_, count)| count).sum(), false));
    counts.by_type.into_iter().map(|(name, count)| (name.as_str().to_owned(), count)).collect()
}

pub async fn both_orders_page_through_everything(store: &Store) {
    let mut events = Vec::new();
    for index in 0..60 {
        let base = [event(), for_users(&[1]), on_topic("t"), for_users(&[2])][index % 4].clone();
        events.push(NewEvent { priority: Priority::ALL[index % 3], ..base });
    }
    append(store, &events).await;
    let me = reader(1, &["t"]);
    for order in [InboxOrder::Newest, InboxOrder::Priority] {
        let all = inbox(store, &me, &InboxQuery { order, ..everything() }).await;
        assert_eq!(all.len(), 45);
        let rank = |entry: &InboxEntry| match order {
            InboxOrder::Newest => (Priority::Low, entry.event.position),
            InboxOrder::Priority => (entry.event.priority, entry.event.position),
        };
        assert!(all.is_sorted_by(|a, b| rank(a) > rank(b)));
        for limit in [1, 7, 45] {
            let (mut after, mut paged) = (None, Vec::new());
            loop {
                let page = inbox(store, &me, &InboxQuery { order, after, limit, ..everything() }).await;
                assert!(page.len() <= limit as usize);
                let Some(last) = page.last() else { break };
                after = Some((last.event.priority, last.event.position));
                paged.extend(page);
            }
            assert_eq!(paged, all, "{order:?} by {limit}");
        }
    }
}

pub async fn filters_leave_out_the_rest(store: &Store) {
    let typed = |base: NewEvent, name, priority| NewEvent { event_type: event_type(name), priority, ..base };
    let a = add(store, typed(event(), "a", Priority::Low)).await;
    let b = add(store, typed(for_users(&[1]), "b", Priority::High)).await;
    let c = add(store, typed(on_topic("t"), "b", Priority::Normal)).await;
    add(store, typed(for_users(&[2]), "b", Priority::High)).await;
    let me = reader(1, &["t"]);
    let of_me = |types: &[&str], min_priority| filtered(me.clone(), types, min_priority);
    assert_eq!(places(store, &me, &everything()).await, [c, b, a]);
    assert_eq!(places(store, &reader(1, &[]), &everything()).await, [b, a]);
    assert_eq!(places(store, &of_me(&["b"], None), &everything()).await, [c, b]);
    assert_eq!(places(store, &of_me(&["a", "b"], Some(Priority::Normal)), &everything()).await, [c, b]);
    assert_eq!(places(store, &of_me(&[], Some(Priority::High)), &everything()).await, [b]);
    let of_topic = Reader { selector: Selector::of_topics(vec![topic("t")]), ..me.clone() };
    assert_eq!(places(store, &of_topic, &everything()).await, [c]);
    store.mark(1, b, true).await.unwrap();
    assert_eq!(places(store, &me, &InboxQuery { unread_only: true, ..everything() }).await, [c, a]);
    let entries = inbox(store, &me, &everything()).await;
    let read: Vec<bool> = entries.iter().map(|entry| entry.read_at.is_some()).collect();
    assert_eq!(read, [false, true, false]);
    let mine = entries[1].event.id;
    assert_eq!(store.inbox_event(1, mine, false).await.unwrap().unwrap().event.position, b);
    assert!(store.inbox_event(2, mine, true).await.unwrap().is_none(), "it is not theirs");
}

pub async fn a_search_finds_text_as_it_was_written(store: &Store) {
    let with =
        |name: &str, data: &str| NewEvent { event_type: event_type(name), data: data.into(), ..event() };
    let umlaut = add(store, with("a", r#"{"name":"M\u00fcller 100%"}"#)).await;
    let plain = add(store, with("Order.Paid", r#"{"name":"MÜLLER_1"}"#)).await;
    let slash = add(store, NewEvent { priority: Priority::High, ..with("c", r#""a\\b ü""#) }).await;
    add(store, NewEvent { audience: Audience::users(vec![2]), ..with("c", r#""ORDER müller""#) }).await;
    let me = reader(1, &[]);
    for (text, found) in [
        ("order", vec![plain]),
        ("ORDER.paid", vec![plain]),
        ("m", vec![plain, umlaut]),
        ("100%", vec![umlaut]),
        ("%", vec![umlaut]),
        ("_", vec![plain]),
        (r"\u00FC", vec![umlaut]),
        (r"A\\B", vec![slash]),
        ("Ü", vec![plain]),
        ("ü", vec![slash]),
        ("'", vec![]),
        ("name\":\"M", vec![plain, umlaut]),
    ] {
        let page = store.inbox(&me, &searching(text)).await.unwrap();
        let places: Vec<_> = page.entries.iter().map(|entry| entry.event.position).collect();
        assert_eq!((places, page.looked_up_to), (found, None), "{text}");
    }
    let urgent_first = InboxQuery { order: InboxOrder::Priority, ..searching("a") };
    assert_eq!(places(store, &me, &urgent_first).await, [slash, plain, umlaut]);
    store.mark(1, plain, true).await.unwrap();
    let unread = InboxQuery { unread_only: true, ..searching("order") };
    assert!(inbox(store, &me, &unread).await.is_empty());
}

/// However rare what is asked for, and whatever leaves the others out: each page looks at so many and no more, and all
/// together find all.
pub async fn a_page_looks_at_so_many_and_goes_on_from_there(store: &Store) {
    const EVENTS: usize = 57;
    let mut events = Vec::new();
    for index in 0..EVENTS {
        let (kind, data) = if index % 19 == 3 { ("rare", "\"needle\"") } else { ("test", "\"hay\"") };
        let base = [event(), for_users(&[1]), on_topic("t")][index % 3].clone();
        let (event_type, priority) = (event_type(kind), Priority::ALL[index % 4]);
        events.push(NewEvent { event_type, data: data.into(), priority, ..base });
    }
    let added = append(store, &events).await.events;
    let me = reader(1, &["t"]);
    // Of user 2 all are read one by one, save the rare; user 3 has them read by a mark and left unread.
    for (event, new) in added.iter().zip(&events) {
        store.mark(2, event.position, new.event_type != event_type("rare")).await.unwrap();
    }
    store.mark_read_up_to(3, Position::MAX).await.unwrap();
    for event in &added {
        store.mark(3, event.position, false).await.unwrap();
    }
    let unread = |query: InboxQuery| InboxQuery { unread_only: true, ..query };
    let rare = |user| filtered(Reader { user, ..me.clone() }, &["rare"], None);
    for (name, reader, query) in [
        ("a text", me.clone(), searching("NEEDLE")),
        ("a type", rare(1), everything()),
        (
            "unread, of no mark",
            Reader { user: 2, selector: Selector::of_topics(vec![topic("t")]) },
            unread(everything()),
        ),
        ("a type, unread below a mark", rare(3), unread(everything())),
    ] {
        for order in [InboxOrder::Newest, InboxOrder::Priority] {
            let all = inbox(store, &reader, &InboxQuery { order, ..query.clone() }).await;
            assert!(!all.is_empty() && all.iter().all(|entry| entry.event.data.contains("needle")), "{name}");
            for (events, limit) in [(10, 2), (57, 1), (58, 2), (5, 5)] {
                let query = InboxQuery {
                    order,
                    limit,
                    budget: ReadBudget { events, ..ReadBudget::default() },
                    ..query.clone()
                };
                let (listed, pages) = page_through(store, &reader, &query).await;
                assert_eq!(listed, all, "{name}, {order:?}, {events}, {limit}");
                let least = all
                    .len()
                    .max(if reader.selector.everyone { EVENTS } else { EVENTS / 3 } / events as usize);
                assert!(pages >= least.min(EVENTS / events as usize), "{name}: {pages} pages of {events}");
            }
        }
    }
}

/// An event on many of a reader's topics stands in as many indexes: what is walked in them is bounded, too.
pub async fn a_page_walks_so_many_entries_of_indexes(store: &Store) {
    const EVENTS: usize = 20;
    let names: Vec<String> = (0..8).map(|number| format!("t/{number}")).collect();
    let topics: Vec<Topic> = names.iter().map(|name| topic(name)).collect();
    let to_all = NewEvent { audience: Audience::of(vec![1], topics), ..event() };
    let events: Vec<NewEvent> =
        (0..EVENTS).map(|_| NewEvent { id: Uuid::now_v7(), ..to_all.clone() }).collect();
    let added = append(store, &events).await.events;
    store.mark(1, added[0].position, true).await.unwrap();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let me = reader(1, &names);
    for unread_only in [false, true] {
        for order in [InboxOrder::Newest, InboxOrder::Priority] {
            let all = InboxQuery { order, unread_only, ..everything() };
            let budget = ReadBudget { events: 10, ..ReadBudget::default() };
            let (listed, pages) = page_through(store, &me, &InboxQuery { budget, ..all.clone() }).await;
            assert_eq!(listed, inbox(store, &me, &all).await);
            assert_eq!(listed.len(), EVENTS - usize::from(unread_only));
            // Nine entries for each event; a page walks two for each event that it may look at: twenty.
            assert!((EVENTS / 3..=EVENTS).contains(&pages), "{order:?}: {pages} pages");
        }
    }
    let counts = async |look_at| {
        let counts = store.unread_counts(&me, 1_000, look_at).await.unwrap();
        (counts.unread, counts.more)
    };
    assert_eq!(counts(2_000).await, (EVENTS as i64 - 1, false));
    let (unread, more) = counts(10).await;
    assert!((2..=3).contains(&unread) && more, "{unread}, {more}");
    // A stream's replay comes by every event all the same.
    assert_eq!(replay(store, &me).await.len(), EVENTS - 1);
    let (mut after, mut replayed) = (0, 0);
    let head = store.log_state().await.unwrap().head;
    while after < head {
        let page = store.read_for_reader(after, head, &me, 3).await.unwrap();
        assert!(page.end > after);
        (after, replayed) = (page.end, replayed + page.events.len());
    }
    assert_eq!(replayed, EVENTS - 1);
}

/// All entries of all pages, and how many pages there were.
async fn page_through(store: &Store, reader: &Reader, query: &InboxQuery) -> (Vec<InboxEntry>, usize) {
    let (mut after, mut listed, mut pages) = (None, Vec::new(), 0);
    loop {
        let page = store.inbox(reader, &InboxQuery { after, ..query.clone() }).await.unwrap();
        let is_full = page.entries.len() == query.limit as usize;
        let last = page.entries.last().map(|e| (e.event.priority, e.event.position));
        listed.extend(page.entries);
        pages += 1;
        after = if is_full { last } else { page.looked_up_to };
        if after.is_none() {
            return (listed, pages);
        }
    }
}

/// A search compares no more data than it may, and at least one event's.
pub async fn a_search_looks_at_so_many_bytes(store: &Store) {
    let with =
        |text: &str, size: usize| NewEvent { data: format!("\"{text}{}\"", "x".repeat(size)), ..event() };
    let events =
        [with("needle", 0), with("hay", 5_000), with("hay", 100), with("needle", 100), with("hay", 100)];
    let places: Vec<Position> =
        append(store, &events).await.events.iter().map(|event| event.position).collect();
    let me = reader(1, &[]);
    for order in [InboxOrder::Newest, InboxOrder::Priority] {
        let within = |bytes| InboxQuery {
            order,
            budget: ReadBudget { bytes, ..ReadBudget::default() },
            ..searching("needle")
        };
        let first = store.inbox(&me, &within(150)).await.unwrap();
        let found: Vec<Position> = first.entries.iter().map(|entry| entry.event.position).collect();
        // The second passes the bound, and is looked at; the third is not.
        assert_eq!((found, first.looked_up_to), (vec![places[3]], Some((Priority::Normal, places[3]))));
        for bytes in [1, 150, 5_000, 100_000] {
            let (listed, pages) = page_through(store, &me, &within(bytes)).await;
            let listed: Vec<Position> = listed.iter().map(|entry| entry.event.position).collect();
            assert_eq!(listed, [places[3], places[0]], "{bytes}");
            assert_eq!(pages > 1, bytes < 100_000, "{bytes}: {pages} pages");
        }
    }
}

/// Counts the newest, so many and no more, and says when there may be others.
pub async fn a_count_ends_where_it_says(store: &Store) {
    let of = |name: &str| NewEvent { event_type: event_type(name), ..event() };
    let mut added = Vec::new();
    for name in ["old", "a", "a", "b"] {
        added.push(add(store, of(name)).await);
    }
    let me = reader(1, &[]);
    let counts = async |most, look_at| {
        let counts = store.unread_counts(&me, most, look_at).await.unwrap();
        let by_type: Vec<(String, i64)> =
            counts.by_type.iter().map(|(name, count)| (name.as_str().to_owned(), *count)).collect();
        (counts.unread, counts.more, by_type)
    };
    let some = |types: &[(&str, i64)]| -> Vec<(String, i64)> {
        types.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
    };
    let all = some(&[("a", 2), ("b", 1), ("old", 1)]);
    assert_eq!(counts(4, 10).await, (4, false, all));
    assert_eq!(counts(3, 10).await, (3, true, some(&[("a", 2), ("b", 1)])));
    assert_eq!(counts(10, 3).await, (3, true, some(&[("a", 2), ("b", 1)])));
    store.mark(1, added[3], true).await.unwrap();
    store.mark(1, added[2], true).await.unwrap();
    assert_eq!(counts(10, 2).await, (0, true, Vec::new()), "what was read is looked at, too");
    store.mark_read_up_to(1, added[3]).await.unwrap();
    assert_eq!(counts(10, 1).await, (0, false, Vec::new()), "what is below the mark is not");
    store.mark(1, added[0], false).await.unwrap();
    assert_eq!(counts(10, 2).await, (1, false, some(&[("old", 1)])));
}

/// What was there before a user was is not unread for them, however the user came to be.
pub async fn a_new_users_mark_stands_at_the_head(store: &Store) {
    let nobody = user(store, "before all events").await;
    let before = add(store, event()).await;
    let own = user(store, "own").await;
    let outside = store.create_outside_user("issuer", "subject", "outside", Role::Listener).await.unwrap().id;
    assert!(matches!(store.create_user("own", "", Role::Listener).await, Err(StoreError::Taken(_))));
    let after = add(store, event()).await;
    for (user, unread) in [(nobody, vec![after, before]), (own, vec![after]), (outside, vec![after])] {
        let me = reader(user, &[]);
        assert_eq!(places_of_unread(store, &me).await, unread, "{user}");
        assert_eq!(self::unread(store, &me).await["test"] as usize, unread.len());
        assert_eq!(places(store, &me, &everything()).await, [after, before], "it is there all the same");
    }
    // The mark is theirs to take back single events from, and no "read up to here" that could be taken back.
    assert!(!store.take_back_read_up_to(own, 1).await.unwrap());
    store.mark(own, before, false).await.unwrap();
    assert_eq!(places_of_unread(store, &reader(own, &[])).await, [after, before]);
    // Retention empties the log; the head stays.
    store.remove_before(i64::MAX, 10).await.unwrap();
    let late = user(store, "late").await;
    let last = add(store, event()).await;
    assert_eq!(places_of_unread(store, &reader(late, &[])).await, [last]);
}

pub async fn reading_up_to_here_is_taken_back_exactly(store: &Store) {
    let mut places = Vec::new();
    for _ in 0..5 {
        places.push(add(store, event()).await);
    }
    let me = reader(1, &[]);
    let unread_places = async || {
        let mut listed = places_of_unread(store, &me).await;
        listed.reverse();
        listed
    };
    store.mark(1, places[0], true).await.unwrap();
    let first = store.mark_read_up_to(1, places[2]).await.unwrap();
    // What was unread for its own part, too, and what is said afterwards stays said.
    store.mark(1, places[1], false).await.unwrap();
    let second = store.mark_read_up_to(1, places[3]).await.unwrap();
    assert_eq!(unread_places().await, [places[4]]);
    assert!(!store.take_back_read_up_to(1, first).await.unwrap(), "it is not the newest");
    assert!(!store.take_back_read_up_to(2, second).await.unwrap(), "it is not theirs");
    assert_eq!(unread_places().await, [places[4]]);
    let later = add(store, event()).await;
    assert!(store.take_back_read_up_to(1, second).await.unwrap());
    assert_eq!(unread_places().await, [places[1], places[3], places[4], later]);
    for number in [first, second, second + 1, 0, -1, i64::MAX] {
        assert!(!store.take_back_read_up_to(1, number).await.unwrap(), "{number}");
    }
    // One that adds no mark, since there is one already, takes no mark away.
    let third = store.mark_read_up_to(1, places[1]).await.unwrap();
    assert_eq!(unread_places().await, [places[3], places[4], later]);
    assert!(store.take_back_read_up_to(1, third).await.unwrap());
    assert_eq!(unread_places().await, [places[1], places[3], places[4], later]);
}

async fn places_of_unread(store: &Store, me: &Reader) -> Vec<Position> {
    places(store, me, &InboxQuery { unread_only: true, ..everything() }).await
}

pub async fn reading_is_each_users_own(store: &Store) {
    let (one, two) = (user(store, "one").await, user(store, "two").await);
    let first = add(store, event()).await;
    let second = add(store, event()).await;
    assert!(store.mark(one, first, true).await.unwrap());
    let read_at = inbox(store, &reader(one, &[]), &everything()).await[1].read_at;
    assert!(read_at.is_some());
    assert!(!store.mark(one, first, true).await.unwrap(), "nothing changed");
    assert_eq!(
        inbox(store, &reader(one, &[]), &everything()).await[1].read_at,
        read_at,
        "the first time stays"
    );
    assert_eq!(unread(store, &reader(one, &[])).await, [("test".to_owned(), 1)].into());
    assert_eq!(unread(store, &reader(two, &[])).await, [("test".to_owned(), 2)].into());
    assert!(store.mark(one, first, false).await.unwrap());
    assert!(!store.mark(one, first, false).await.unwrap());
    assert_eq!(unread(store, &reader(one, &[])).await["test"], 2);
    store.mark_read_up_to(one, second).await.unwrap();
    assert!(unread(store, &reader(one, &[])).await.is_empty());
    assert!(store.mark(one, first, false).await.unwrap());
    let only_unread = InboxQuery { unread_only: true, ..everything() };
    assert_eq!(places(store, &reader(one, &[]), &only_unread).await, [first]);
    assert_eq!(places(store, &reader(two, &[]), &only_unread).await, [second, first]);
}

pub async fn a_mark_reads_up_to_the_head_and_no_further(store: &Store) {
    add(store, event()).await;
    store.mark_read_up_to(1, Position::MAX).await.unwrap();
    assert!(unread(store, &reader(1, &[])).await.is_empty());
    let later = add(store, event()).await;
    assert_eq!(unread(store, &reader(1, &[])).await["test"], 1, "what comes later has not been read");
    store.mark_read_up_to(1, later - 1).await.unwrap();
    assert_eq!(replay(store, &reader(1, &[])).await, [later]);
}

pub async fn an_event_stays_after_reading_as_long_as_it_says(store: &Store) {
    let staying = |keep_after_read| NewEvent { keep_after_read, ..event() };
    let at_once = add(store, staying(Some(0))).await;
    let soon = add(store, staying(Some(50))).await;
    let ever = add(store, staying(None)).await;
    let me = reader(1, &[]);
    store.mark(1, at_once, true).await.unwrap();
    store.mark(1, soon, true).await.unwrap();
    store.mark(1, ever, true).await.unwrap();
    let left = async || places(store, &me, &everything()).await == [ever];
    support::wait_until(support::DEADLINE, "what was read leaves", left).await;
    assert_eq!(places(store, &reader(2, &[]), &everything()).await, [ever, soon, at_once]);
    let id = store.event_at(soon).await.unwrap().unwrap().id;
    assert!(store.inbox_event(1, id, false).await.unwrap().is_none());
    assert!(store.inbox_event(1, id, true).await.unwrap().is_some(), "so that they can take it back");
    assert!(store.inbox_event(2, id, false).await.unwrap().is_some());
}

pub async fn expired_events_leave_everything_that_does_not_ask_for_them(store: &Store) {
    let short = NewEvent { expiry: Expiry::After(300), ..event() };
    let short = append(store, &[short, event()]).await.events;
    let me = reader(1, &[]);
    until_past(store, short[0].expires_at.unwrap()).await;
    let rest = [short[1].position];
    assert_eq!(replay(store, &me).await, rest);
    assert_eq!(places(store, &me, &everything()).await, rest);
    assert_eq!(unread(store, &me).await["test"], 1);
    let head = store.log_state().await.unwrap().head;
    let page = store.read_for_node(0, head, Some(&node(&[1], &[])), 10).await.unwrap();
    assert_eq!(positions(&page.events), rest);
    let asked = InboxQuery { include_expired: true, ..everything() };
    assert_eq!(places(store, &me, &asked).await, [short[1].position, short[0].position]);
    assert!(
        store.inbox_event(1, short[0].id, false).await.unwrap().is_some(),
        "asked for by name, it is found"
    );
}

/// Whatever is read, marked, taken back or published: three ways of asking what is unread give one answer, and
/// it is the one of a plain model.
pub async fn inbox_counts_and_replay_agree_whatever_was_read(store: &Store) {
    let seed = rand::rng().random();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let users: [UserId; 2] = [1, 2];
    let mut model: BTreeMap<UserId, BTreeMap<Position, bool>> =
        users.map(|user| (user, BTreeMap::new())).into();
    let mut log: Vec<(Position, uuid::Uuid, Vec<UserId>)> = Vec::new();
    // Of each user's newest marking: its number, and what it made read and nobody has spoken of since.
    let mut newest: BTreeMap<UserId, (i64, Vec<Position>)> = BTreeMap::new();
    for step in 0..150 {
        let user = users[random.random_range(0..2)];
        let place = (!log.is_empty()).then(|| log[random.random_range(0..log.len())].clone());
        match (random.random_range(0..11), place) {
            (0..4, _) | (_, None) => {
                let (new, to) = match random.random_range(0..3) {
                    0 => (event(), users.to_vec()),
                    1 => (for_users(&[user]), vec![user]),
                    _ => (on_topic("t"), users.to_vec()),
                };
                let added = append(store, &[new]).await.events[0].clone();
                to.iter().for_each(|user| _ = model.get_mut(user).unwrap().insert(added.position, true));
                log.push((added.position, added.id, to));
            }
            (4..7, Some((position, _, to))) if to.contains(&user) => {
                let is_read = random.random_bool(0.6);
                store.mark(user, position, is_read).await.unwrap();
                if let Some(is_unread) = model.get_mut(&user).unwrap().get_mut(&position) {
                    if let Some((_, made_read)) = newest.get_mut(&user).filter(|_| *is_unread == is_read) {
                        made_read.retain(|other| *other != position);
                    }
                    *is_unread = !is_read;
                }
            }
            (7..9, Some((position, ..))) => {
                let number = store.mark_read_up_to(user, position).await.unwrap();
                let mine = model.get_mut(&user).unwrap().range_mut(..=position);
                let made_read =
                    mine.filter_map(|(position, is_unread)| std::mem::take(is_unread).then_some(*position));
                newest.insert(user, (number, made_read.collect()));
            }
            (9, Some(_)) if newest.contains_key(&user) => {
                let (number, made_read) = newest.remove(&user).unwrap();
                assert!(store.take_back_read_up_to(user, number).await.unwrap());
                for position in made_read {
                    model.get_mut(&user).unwrap().entry(position).and_modify(|is_unread| *is_unread = true);
                }
            }
            (_, Some((position, id, _))) => {
                store.retract(id, None).await.unwrap();
                model.values_mut().for_each(|inbox| _ = inbox.remove(&position));
            }
        }
        for user in users {
            let me = reader(user, &["t"]);
            let expected: Vec<Position> = model[&user]
                .iter()
                .filter(|(_, is_unread)| **is_unread)
                .map(|(position, _)| *position)
                .collect();
            assert_eq!(replay(store, &me).await, expected, "step {step}, user {user}");
            let mut listed = places(store, &me, &InboxQuery { unread_only: true, ..everything() }).await;
            listed.reverse();
            assert_eq!(listed, expected, "step {step}, user {user}");
            let counted: i64 = unread(store, &me).await.values().sum();
            assert_eq!(counted as usize, expected.len(), "step {step}, user {user}");
            assert_eq!(places(store, &me, &everything()).await.len(), model[&user].len());
        }
    }
}
