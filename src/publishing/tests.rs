use super::*;
use crate::bus::BusLimits;
use crate::event::{Checkpoint, Expiry, Priority};
use crate::store::StoreLimits;
use crate::ttl::TtlLimits;
use sqlx::Connection as _;

fn draft(bytes: usize) -> Draft {
    Draft {
        event_type: "test".parse().unwrap(),
        priority: Priority::Normal,
        to: Recipients::Everyone,
        data: format!("\"{}\"", "x".repeat(bytes)),
        expiry: Expiry::Never,
        keep_after_read: None,
    }
}

async fn start(store_url: &str, limits: &PublishLimits) -> (Publisher, JoinSet<()>) {
    let store = Store::open(store_url, &StoreLimits::default()).await.unwrap();
    store.migrate().await.unwrap();
    start_at(store, 0, limits).await
}

/// The publisher of a node that has delivered everything up to `applied`.
async fn start_at(
    store: Store,
    at: impl Into<Checkpoint>,
    limits: &PublishLimits,
) -> (Publisher, JoinSet<()>) {
    let applied = Arc::new(AppliedCell::default());
    let history = store.log_state().await.unwrap().epoch;
    applied.set(&history, at.into());
    let (bus, _) = Bus::open("memory:", &BusLimits::default()).unwrap();
    let ttl = Ttl::open("memory:", &TtlLimits::default()).unwrap();
    let mut tasks = JoinSet::new();
    let epoch = tokio::sync::watch::channel(Some(history)).1;
    let messages = MessageWriter::new("n1", epoch);
    let names = UserNames::new(&store);
    let parts = PublisherParts { store, names, applied, bus, messages, ttl };
    (Publisher::start(&mut tasks, parts, limits), tasks)
}

#[tokio::test]
async fn without_its_writer_a_publisher_says_so_and_the_node_learns_of_it() {
    let (publisher, mut tasks) = start("sqlite::memory:", &PublishLimits::default()).await;
    publisher.publish(1, vec![draft(1)], None).await.unwrap();
    tasks.abort_all();
    assert!(tasks.join_next().await.is_some_and(|ended| ended.is_err()));
    while tasks.join_next().await.is_some() {}
    let refused = publisher.publish(1, vec![draft(1)], None).await.unwrap_err();
    assert!(matches!(refused, PublishError::Store(StoreError::Unavailable(_))), "{refused:?}");
}

#[tokio::test]
async fn what_waits_for_the_writer_is_bounded_in_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", folder.path().join("test.sqlite").display());
    let limits = PublishLimits { queue_bytes: 100_000, ..PublishLimits::default() };
    let (publisher, _tasks) = start(&url, &limits).await;
    // While another holds the file, nothing is written.
    let mut other = sqlx::SqliteConnection::connect(&url).await.unwrap();
    let held = other.begin_with("BEGIN IMMEDIATE").await.unwrap();
    let publish = |bytes| publisher.publish(1, vec![draft(bytes)], None);
    let mut waiting = tokio::task::JoinSet::new();
    for _ in 0..2 {
        let publisher = publisher.clone();
        waiting.spawn(async move { publisher.publish(1, vec![draft(40_000)], None).await });
    }
    while publisher.budget.left.available_permits() > 20_000 {
        tokio::task::yield_now().await;
    }
    assert!(matches!(publish(40_000).await, Err(PublishError::Overloaded)));
    held.rollback().await.unwrap();
    while let Some(published) = waiting.join_next().await {
        published.unwrap().unwrap();
    }
    publish(1_000_000).await.expect("what is larger than all room takes all of it");
}

#[tokio::test]
async fn what_waits_to_be_announced_is_bounded_in_bytes() {
    let (queue, mut committed) = mpsc::channel(100);
    let (bus, _events) = Bus::open("memory:bounded", &BusLimits::default()).unwrap();
    let _other = Bus::open("memory:bounded", &BusLimits::default()).unwrap();
    let messages = MessageWriter::new("n1", tokio::sync::watch::channel(None).1);
    let announcements = Announcements { bus, messages, queue, budget: ByteBudget::new(100_000) };
    let event = |position| Event {
        position,
        id: Uuid::now_v7(),
        event_type: "test".parse().unwrap(),
        priority: Priority::Normal,
        audience: Audience::users((0..1_000).collect()),
        data: "x".repeat(40_000),
        created_at: 0,
        expires_at: None,
        keep_after_read: None,
        publisher: 1,
    };
    for position in 1..=5 {
        announcements.offer(
            "e".parse().unwrap(),
            (position - 1).into(),
            vec![event(position)],
            Instant::now(),
        );
    }
    assert_eq!(committed.len(), 2);
    drop(committed.try_recv());
    announcements.offer("e".parse().unwrap(), 5.into(), vec![event(6)], Instant::now());
    assert_eq!(committed.len(), 2, "what was announced makes room");
}

/// It may have grown past that position again before anybody asks where it ends.
#[tokio::test]
async fn a_log_that_lost_what_was_delivered_gets_a_new_epoch() {
    let other = Checkpoint::new(1, Uuid::nil());
    for (applied, is_lost) in [(Checkpoint::from(1), false), (2.into(), true), (other, true)] {
        let store = Store::open("sqlite::memory:", &StoreLimits::default()).await.unwrap();
        store.migrate().await.unwrap();
        let (publisher, _tasks) = start_at(store.clone(), 0, &PublishLimits::default()).await;
        publisher.publish(1, vec![draft(1)], None).await.unwrap();
        let before = store.log_state().await.unwrap().epoch;
        let (publisher, _tasks) = start_at(store.clone(), applied, &PublishLimits::default()).await;
        publisher.publish(1, vec![draft(1), draft(1), draft(1)], None).await.unwrap();
        // Written after what it is about was looked at.
        publisher.publish(1, vec![draft(1)], None).await.unwrap();
        assert_eq!(store.log_state().await.unwrap().epoch != before, is_lost);
    }
}
