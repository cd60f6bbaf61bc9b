//! What only Postgres can get wrong: its log's lock, and its going away.

use std::cell::RefCell;
use std::time::Duration;

use carillon::store::{PoolSizes, Store, StoreError, StoreLimits};
use sqlx::Connection as _;

use super::support::log_lock::slow_commits;
use super::support::servers::{PostgresServer, postgres_url};
use super::*;

/// The control: the reader that misses nothing of the real log does miss events of one without the lock.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_lock_the_same_reader_misses_events() {
    let limits = StoreLimits { connections: PoolSizes::each(2), ..StoreLimits::default() };
    for with_lock in [true, false] {
        let url = postgres_url().await;
        let store = Store::open(&url, &limits).await.unwrap();
        store.migrate().await.unwrap();
        slow_commits(&url, with_lock).await;
        // As many nodes: each has one connection for its appends.
        let mut nodes = Vec::new();
        for _ in 0..log::APPENDERS {
            nodes.push(Store::open(&url, &limits).await.unwrap());
        }
        let nodes = RefCell::new(nodes);
        let node = || nodes.borrow_mut().pop().unwrap();
        let (appended, missed) = log::appended_and_missed(&store, node).await;
        println!("lock: {with_lock}; of {appended} events the reader missed {missed}");
        assert_eq!(missed == 0, with_lock, "of {appended} events the reader missed {missed}");
    }
}

#[tokio::test]
async fn an_append_waits_for_the_lock_only_so_long() {
    let url = postgres_url().await;
    let limits = StoreLimits { lock_timeout: Duration::from_millis(200), ..StoreLimits::default() };
    let store = Store::open(&url, &limits).await.unwrap();
    store.migrate().await.unwrap();
    let mut other = sqlx::PgConnection::connect(&url).await.unwrap();
    let lock = "select pg_advisory_lock(7163384699738779502)";
    sqlx::query(lock).execute(&mut other).await.unwrap();
    let outcome = store.append(&[event()]).await;
    assert!(matches!(outcome, Err(StoreError::Unavailable(_))), "{outcome:?}");
    other.close().await.unwrap();
    let position = add(&store, event()).await;
    assert_eq!(replay(&store, &reader(1, &[])).await, [position]);
}

#[tokio::test]
async fn a_server_that_goes_away_is_reported_and_what_was_acknowledged_is_there_again() {
    let server = PostgresServer::start();
    let url = server.new_database().await;
    let limits = StoreLimits { acquire_timeout: Duration::from_secs(1), ..StoreLimits::default() };
    let store = Store::open(&url, &limits).await.unwrap();
    store.migrate().await.unwrap();
    let mut acknowledged = Vec::new();
    for _ in 0..20 {
        acknowledged.push(add(&store, event()).await);
    }
    server.stop_immediate();
    for _ in 0..3 {
        assert!(matches!(store.log_state().await, Err(StoreError::Unavailable(_))));
        assert!(matches!(store.append(&[event()]).await, Err(StoreError::Unavailable(_))));
        assert!(matches!(store.schema().await, Err(StoreError::Unavailable(_))));
    }
    server.start_again();
    let is_back = async || store.log_state().await.is_ok();
    support::wait_until(support::DEADLINE, "the store is back", is_back).await;
    assert_eq!(replay(&store, &reader(1, &[])).await, acknowledged);
    assert!(add(&store, event()).await > acknowledged[19]);
}
