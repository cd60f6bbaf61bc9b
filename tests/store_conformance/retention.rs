//! Retention: the floor first, then everything below it in chunks, beside whatever else goes on; and what has expired.

use std::sync::Arc;
use std::time::{Duration, Instant};

use carillon::event::Millis;
use carillon::publishing::retention::{Retention, RetentionLimits};
use carillon::store::clock::Clock;
use sqlx::Row as _;

use super::large::processor_time;
use super::support::servers::{PostgresServer, postgres_url};
use super::*;

/// An hour, and a little more.
const LONG_AGO: Millis = 3_700_000;

/// How many rows a table has.
async fn count(url: &str, table: &str) -> i64 {
    number(url, &format!("select count(*) from {table}")).await
}

async fn number(url: &str, sql: &str) -> i64 {
    let sql = sqlx::AssertSqlSafe(sql.to_owned());
    if url.starts_with("sqlite:") {
        let mut connection = sqlx::SqliteConnection::connect(url).await.unwrap();
        sqlx::query(sql).fetch_one(&mut connection).await.unwrap().get(0)
    } else {
        let mut connection = sqlx::PgConnection::connect(url).await.unwrap();
        sqlx::query(sql).fetch_one(&mut connection).await.unwrap().get(0)
    }
}

fn retention(store: &Store, keep: Duration, keep_expired: bool) -> Retention {
    let limits = RetentionLimits { keep, keep_expired };
    Retention::new(store.clone(), Arc::new(Clock::default()), limits)
}

/// Old events whose readers are so many that all of them cannot be removed within the database's time-out.
#[tokio::test]
async fn many_readers_do_not_stop_it() {
    let url = postgres_url().await;
    let migrating = Store::open(&url, &StoreLimits::default()).await.unwrap();
    migrating.migrate().await.unwrap();
    let events: Vec<NewEvent> = (0..300).map(|_| event()).collect();
    append(&migrating, &events).await;
    execute(
        &url,
        "insert into receipts (user_id, position, is_read, at)
            select u, e.position, true, 0 from events e, generate_series(1, 1500) u",
    )
    .await;
    let limits = StoreLimits { statement_timeout: Duration::from_millis(300), ..StoreLimits::default() };
    let store = Store::open(&url, &limits).await.unwrap();
    let retention = tokio::sync::Mutex::new(retention(&store, Duration::ZERO, false));
    let is_gone = async |table: &str| count(&url, table).await == 0;
    support::wait_until(support::DEADLINE, "everything is gone", async || {
        // As a node does, each minute.
        retention.lock().await.run().await;
        is_gone("events").await && is_gone("receipts").await
    })
    .await;
    let state = store.log_state().await.unwrap();
    assert_eq!(state.floor, state.head);
}

/// As much as used to stop it for ever, beside the marks of a million idle users. Prints what one run takes.
#[tokio::test]
#[ignore = "a large store: scripts/test --all"]
async fn five_thousand_events_that_three_thousand_users_have_read() {
    let server = PostgresServer::start();
    let url = server.new_database().await;
    let store = Store::open(&url, &StoreLimits::default()).await.unwrap();
    store.migrate().await.unwrap();
    for _ in 0..5 {
        let events: Vec<NewEvent> = (0..1_000).map(|_| event()).collect();
        append(&store, &events).await;
    }
    for statement in [
        "insert into receipts (user_id, position, is_read, at)
            select u, e.position, true, 0 from events e, generate_series(1, 3000) u",
        "insert into read_marks (user_id, position, at)
            select u, (select max(position) from events), 0 from generate_series(10000, 1009999) u",
        "vacuum analyze",
        "checkpoint",
    ] {
        execute(&url, statement).await;
    }
    // Each transaction that writes takes the next.
    let transaction = async || number(&url, "select pg_current_xact_id()::text::bigint").await;
    let (first, used, begun) = (transaction().await, processor_time(Some(&server)), Instant::now());
    retention(&store, Duration::ZERO, false).run().await;
    let (elapsed, used) = (begun.elapsed(), processor_time(Some(&server)) - used);
    println!(
        "one run: {:.0} s, {:.0} s of processor time, {} transactions",
        elapsed.as_secs_f64(),
        used.as_secs_f64(),
        transaction().await - first - 1
    );
    assert_eq!((count(&url, "events").await, count(&url, "receipts").await), (0, 0));
    assert_eq!(count(&url, "read_marks").await, 1_000_000, "the last of each user stays");
}

/// What was begun and broke off goes on, and another node waits for its turn.
#[tokio::test]
async fn one_node_removes_at_a_time() {
    let url = postgres_url().await;
    let store = Store::open(&url, &StoreLimits::default()).await.unwrap();
    store.migrate().await.unwrap();
    let events: Vec<NewEvent> = (0..50).map(|_| for_users(&[1, 2, 3])).collect();
    append(&store, &events).await;
    let mut other = sqlx::PgConnection::connect(&url).await.unwrap();
    sqlx::query("select pg_advisory_lock(7163384699738779504)").execute(&mut other).await.unwrap();
    assert_eq!(store.remove_before(i64::MAX, 10).await.unwrap(), 0, "the other is at it");
    assert_eq!(store.log_state().await.unwrap().floor, 0);
    other.close().await.unwrap();
    // The floor rose, and nothing else was done.
    execute(&url, "update log_state set floor = 30").await;
    assert_eq!(store.remove_before(0, 7).await.unwrap(), 30);
    assert_eq!((count(&url, "events").await, count(&url, "event_users").await), (20, 60));
    assert_eq!(store.remove_before(i64::MAX, 7).await.unwrap(), 7, "no more events than it is told");
}

/// Everything that belongs to an event goes with it, and a user's last mark stays until there is a later one.
async fn what_belongs_to_events_goes_with_them(fresh: Fresh) {
    let Fresh { store, url, .. } = &fresh;
    let mut old = Vec::new();
    for _ in 0..20 {
        old.push(
            add(store, NewEvent { audience: Audience::of(vec![1, 2], vec![topic("t")]), ..event() }).await,
        );
    }
    for user in [1, 2] {
        store.mark(user, old[0], true).await.unwrap();
    }
    // Of the first user two marks; of many others one at the same position.
    store.mark_read_up_to(1, old[3]).await.unwrap();
    store.mark_read_up_to(1, old[9]).await.unwrap();
    for user in 2..40 {
        store.mark_read_up_to(user, old[9]).await.unwrap();
    }
    assert_eq!(store.remove_before(i64::MAX, 12).await.unwrap(), 12);
    let left = async |table| count(url, table).await;
    assert_eq!((left("events").await, left("event_users").await, left("event_topics").await), (8, 16, 8));
    assert_eq!((left("receipts").await, left("read_marks").await), (0, 39));
    // Those that have been looked at are not looked at again.
    let looked_at = "select count(*) from read_marks m, log_state s
        where m.position < s.marks_position or m.position = s.marks_position and m.user_id <= s.marks_user";
    assert_eq!(number(url, looked_at).await, 39);
    // Back after a while: the old one goes once the new one is as old.
    store.mark_read_up_to(5, old[15]).await.unwrap();
    assert_eq!(store.remove_before(i64::MAX, 100).await.unwrap(), 8);
    assert_eq!((left("event_users").await, left("event_topics").await, left("read_marks").await), (0, 0, 39));
    let of_five = "select position from read_marks where user_id = 5";
    assert_eq!(number(url, of_five).await, old[15]);
}

#[tokio::test]
async fn what_belongs_to_events_goes_with_them_on_sqlite() {
    what_belongs_to_events_goes_with_them(sqlite().await).await;
}

#[tokio::test]
async fn what_belongs_to_events_goes_with_them_on_postgres() {
    what_belongs_to_events_goes_with_them(postgres_server().await).await;
}

/// An event that expired long ago keeps its row, by which its key and its place in the log are known, and nothing else.
async fn expired_events_are_emptied(fresh: Fresh) {
    let Fresh { store, url, .. } = &fresh;
    let now = store.log_state().await.unwrap().now;
    let ended = |audience: Audience, ago: Millis| NewEvent {
        audience,
        data: "\"secret\"".into(),
        expiry: Expiry::At(now - ago),
        idempotency: Some(("k".into(), 0)),
        publisher: ago,
        ..event()
    };
    let me = 1;
    let users = add(store, ended(Audience::users((1..=50).collect()), LONG_AGO)).await;
    let room = add(store, ended(Audience::topic(topic("t")), LONG_AGO + 1)).await;
    let everyone = add(store, ended(Audience::Everyone, LONG_AGO + 2)).await;
    let lately = add(store, ended(Audience::users(vec![me]), 1_000)).await;
    let living =
        add(store, NewEvent { data: "\"living\"".into(), expiry: Expiry::After(60_000), ..event() }).await;
    store.mark(me, users, true).await.unwrap();
    let listed = async || {
        let query = InboxQuery { include_expired: true, limit: 10, ..InboxQuery::default() };
        let entries = store.inbox(&reader(me, &["t"]), &query).await.unwrap();
        entries.entries.into_iter().map(|entry| entry.event.position).collect::<Vec<_>>()
    };
    retention(store, Duration::from_secs(86_400), true).run().await;
    assert_eq!(listed().await, [living, lately, everyone, room, users], "they are kept if it is wished");
    let mut chunks = 0;
    while store.empty_expired(now - 3_600_000, 7).await.unwrap() > 0 {
        chunks += 1;
    }
    assert!(chunks > 0);
    retention(store, Duration::from_secs(86_400), false).run().await;
    assert_eq!(listed().await, [living, lately]);
    assert_eq!(count(url, "event_users").await, 1);
    assert_eq!((count(url, "event_topics").await, count(url, "receipts").await), (0, 0));
    assert_eq!(count(url, "events where data like '%secret%'").await, 1);
    for position in [users, room, everyone] {
        let event = store.event_at(position).await.unwrap().expect("its row stays");
        assert_eq!(event.data, "null");
        assert!(store.inbox_event(me, event.id, true).await.unwrap().is_none());
    }
    let again = append(store, &[ended(Audience::users((1..=50).collect()), LONG_AGO)]).await;
    assert!(again.events[0].is_repeat && again.events[0].position == users, "its key is known");
}

#[tokio::test]
async fn expired_events_are_emptied_on_sqlite() {
    expired_events_are_emptied(sqlite().await).await;
}

#[tokio::test]
async fn expired_events_are_emptied_on_postgres() {
    expired_events_are_emptied(postgres_server().await).await;
}
