//! Postgres behind PgBouncer: in session mode it is as good as Postgres itself, in others it is recognised.

use std::time::Duration;

use carillon::store::{SHARED_SESSIONS, Store, StoreError, StoreLimits};

use super::support::node::{self, Node, People};
use super::support::servers::{PgBouncer, postgres_url};
use super::support::{DEADLINE, wait_until};
use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_session_mode_it_is_a_store_as_any_other() {
    let url = postgres_url().await;
    let bouncer = PgBouncer::start(&url, "session").await;
    let limits = StoreLimits { lock_timeout: Duration::from_millis(200), ..StoreLimits::default() };
    let store = Store::open(&bouncer.url(), &limits).await.unwrap();
    store.migrate().await.unwrap();
    let mut positions = Vec::new();
    for _ in 0..20 {
        positions.push(add(&store, event()).await);
    }
    assert_eq!(replay(&store, &reader(1, &[])).await, positions);
    // What a connection begins with holds for it.
    let mut other = sqlx::PgConnection::connect(&url).await.unwrap();
    sqlx::query("select pg_advisory_lock(7163384699738779502)").execute(&mut other).await.unwrap();
    let outcome = store.append(&[event()]).await;
    assert!(matches!(outcome, Err(StoreError::Unavailable(_))), "{outcome:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_modes_are_recognised_with_the_first_call() {
    for mode in ["transaction", "statement"] {
        let bouncer = PgBouncer::start(&postgres_url().await, mode).await;
        let store = Store::open(&bouncer.url(), &StoreLimits::default()).await.unwrap();
        let failed = store.schema().await;
        assert!(matches!(failed, Err(StoreError::SharedSessions)), "{mode}: {failed:?}");
        let failed = store.migrate().await;
        assert!(matches!(failed, Err(StoreError::SharedSessions)), "{mode}: {failed:?}");
        let is_usable = async || store.migrate().await.is_ok();
        bouncer.set_mode("session");
        wait_until(DEADLINE, "the store is used in session mode", is_usable).await;
        add(&store, event()).await;
    }
}

/// A node says what is wrong when the mode is changed beneath it, and goes on when it is changed back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_names_it_in_its_readiness_and_log() {
    let url = postgres_url().await;
    let people = People::new(&url).await;
    let bouncer = PgBouncer::start(&url, "session").await;
    let folder = TempDir::new().unwrap();
    let mut node = Node::new(&bouncer.url(), "memory:", &[]);
    node.log = Some(folder.path().join("log"));
    node.restart().await;
    let client = reqwest::Client::new();
    let everyone = serde_json::json!("everyone");
    let event = node::event(&everyone, &serde_json::json!(1));
    node::publish(&client, &[&node.address], &people.publisher, &event).await;

    bouncer.set_mode("transaction");
    let readiness =
        async || reqwest::get(format!("{}/readyz", node.address)).await.unwrap().text().await.unwrap();
    let is_named = async || {
        // Statements of several connections at once are what it mixes up.
        let asked = (0..8).map(|_| {
            client.get(format!("{}/api/v1/inbox", node.address)).bearer_auth(&people.publisher).send()
        });
        futures_util::future::join_all(asked).await;
        readiness().await.contains(SHARED_SESSIONS)
    };
    wait_until(DEADLINE, "readiness names PgBouncer", is_named).await;
    let log = std::fs::read_to_string(folder.path().join("log")).unwrap();
    assert!(log.contains(SHARED_SESSIONS), "{log}");
    let publishing = client.post(format!("{}/api/v1/events", node.address)).bearer_auth(&people.publisher);
    assert_eq!(publishing.body(event.to_string()).send().await.unwrap().status(), 503);

    bouncer.set_mode("session");
    wait_until(DEADLINE, "the node is ready again", || node.is_ready()).await;
    node::publish(&client, &[&node.address], &people.publisher, &event).await;
}
