//! The way to Postgres: links that fall silent, servers that close, work that takes all its connections.

use std::net::SocketAddr;
use std::time::Duration;

use carillon::store::{Pool, PoolSizes, Store, StoreError, StoreLimits};
use serde_json::json;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;

use super::support::node::{self, Node, People};
use super::support::servers::postgres_url;
use super::support::{DEADLINE, wait_until};
use super::*;

const POOLS: [Pool; 4] = [Pool::Log, Pool::Authentication, Pool::Replay, Pool::Requests];

/// A relay whose connections can fall silent: nothing is forwarded any more, and nobody is told.
struct Link {
    address: SocketAddr,
    era: watch::Sender<Era>,
    _task: AbortOnDropHandle<()>,
}

/// What happens to the connections that there are, and to new ones.
#[derive(Clone, Copy, PartialEq)]
enum Era {
    /// Those made in the period of this number are forwarded.
    Forwards(u32),
    /// All are silent, new ones too.
    Silent,
    /// All are closed, new ones too.
    Closes,
}

impl Link {
    async fn to(url: &str) -> Self {
        let url = url::Url::parse(url).unwrap();
        let server = (url.host_str().unwrap().to_owned(), url.port().unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (era, now) = watch::channel(Era::Forwards(0));
        let task = AbortOnDropHandle::new(tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (mut client, _) = listener.accept().await.unwrap();
                let (mut now, server) = (now.clone(), server.clone());
                connections.spawn(async move {
                    let mine = *now.borrow_and_update();
                    let Ok(mut server) = TcpStream::connect(server).await else { return };
                    if matches!(mine, Era::Forwards(_)) {
                        tokio::select! {
                            _ = copy_bidirectional(&mut client, &mut server) => return,
                            _ = now.wait_for(|era| *era != mine) => {}
                        }
                    }
                    // Both stay open until then.
                    let _ = now.wait_for(|era| *era == Era::Closes).await;
                });
            }
        }));
        Self { address, era, _task: task }
    }

    /// The database's URL, by this way.
    fn through(&self, url: &str) -> String {
        let mut url = url::Url::parse(url).unwrap();
        url.set_port(Some(self.address.port())).unwrap();
        url.into()
    }
}

/// Whether each pool does its work.
async fn all_work(store: &Store) -> bool {
    for pool in POOLS {
        if store.on(pool).log_state().await.is_err() || store.on(pool).append(&[event()]).await.is_err() {
            return false;
        }
    }
    true
}

/// What is asked goes on being asked while nothing answers, by callers that do not wait for long.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_that_give_up_on_a_silent_link_leave_every_connection_usable() {
    let url = postgres_url().await;
    let link = Link::to(&url).await;
    let limits = StoreLimits {
        acquire_timeout: Duration::from_secs(3),
        statement_timeout: Duration::from_secs(1),
        ..StoreLimits::default()
    };
    let store = Store::open(&link.through(&url), &limits).await.unwrap();
    store.migrate().await.unwrap();
    let mut acknowledged = vec![add(&store, event()).await];
    for period in 1..=2 {
        // All connections there are, in use a moment ago.
        for store in POOLS.map(|pool| store.on(pool)) {
            let asked = (0..8).map(|_| store.log_state());
            assert!(futures_util::future::join_all(asked).await.iter().all(Result::is_ok));
        }
        link.era.send_replace(Era::Silent);
        let mut callers = JoinSet::new();
        for number in 0..80 {
            let store = store.on(POOLS[number % 4]);
            let patience = Duration::from_millis(10 + 20 * number as u64);
            callers.spawn(async move {
                tokio::time::timeout(patience, store.log_state()).await.is_ok_and(|done| done.is_ok())
            });
        }
        assert!(callers.join_all().await.iter().all(|answered| !answered), "a silent link answered");
        // The name has moved: new connections get through, those that there were never end.
        link.era.send_replace(Era::Forwards(period));
        wait_until(DEADLINE, "every pool works again", || all_work(&store)).await;
        acknowledged.push(add(&store, event()).await);
    }
    let found = replay(&store, &reader(1, &[])).await;
    assert!(acknowledged.iter().all(|position| found.contains(position)));
}

/// More callers than connections ask what takes long and go away: no more statements run than there are connections.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statements_of_callers_that_gave_up_stay_within_the_pool() {
    let url = postgres_url().await;
    let limits = StoreLimits { connections: PoolSizes::each(2), ..StoreLimits::default() };
    let store = Store::open(&url, &limits).await.unwrap();
    store.migrate().await.unwrap();
    let mut other = sqlx::PgConnection::connect(&url).await.unwrap();
    let mut held = other.begin().await.unwrap();
    sqlx::query("lock table receipts in access exclusive mode").execute(&mut *held).await.unwrap();
    for _ in 0..20 {
        let (reader, query) = (reader(1, &[]), query());
        let _ = tokio::time::timeout(Duration::from_millis(20), store.inbox(&reader, &query)).await;
    }
    assert_eq!(waiting_for_locks(&url).await, 2);
    held.rollback().await.unwrap();
    // They are used again, not made anew.
    let is_back = async || store.inbox(&reader(1, &[]), &query()).await.is_ok();
    wait_until(DEADLINE, "the inbox is read again", is_back).await;
}

fn query() -> InboxQuery {
    InboxQuery { limit: 10, ..InboxQuery::default() }
}

/// On a connection of its own: within a transaction the first answer is given again and again.
async fn waiting_for_locks(url: &str) -> i64 {
    let mut connection = sqlx::PgConnection::connect(url).await.unwrap();
    let waiting = "select count(*) from pg_stat_activity
        where datname = current_database() and wait_event_type = 'Lock' and application_name = 'carillon'";
    sqlx::query_scalar(waiting).fetch_one(&mut connection).await.unwrap()
}

/// As a proxy does whose server is away.
#[tokio::test]
async fn a_server_that_takes_connections_and_closes_them_is_not_available() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let _closing = AbortOnDropHandle::new(tokio::spawn(async move {
        loop {
            drop(listener.accept().await);
        }
    }));
    for mode in ["prefer", "disable", "require"] {
        let url = format!("postgres://postgres@127.0.0.1:{port}/x?sslmode={mode}");
        let limits = StoreLimits { acquire_timeout: Duration::from_secs(1), ..StoreLimits::default() };
        let store = Store::open(&url, &limits).await.unwrap();
        for _ in 0..5 {
            let failed = store.log_state().await;
            assert!(matches!(failed, Err(StoreError::Unavailable(_))), "{mode}: {failed:?}");
            let failed = store.migrate().await;
            assert!(matches!(failed, Err(StoreError::Unavailable(_))), "{mode}: {failed:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_publishes_meanwhile_goes_on_until_it_is_taken() {
    let url = postgres_url().await;
    let people = People::new(&url).await;
    let link = Link::to(&url).await;
    let node = Node::start(&link.through(&url), "memory:", &[]).await;
    link.era.send_replace(Era::Closes);
    let client = reqwest::Client::new();
    for _ in 0..5 {
        let event = node::event(&json!("everyone"), &json!(1));
        let publishing =
            client.post(format!("{}/api/v1/events", node.address)).bearer_auth(&people.publisher);
        let answer = publishing.body(event.to_string()).send().await.unwrap();
        assert_eq!(answer.status(), 503, "{}", answer.text().await.unwrap());
        assert!(answer.headers().contains_key("retry-after"));
    }
    let folder = TempDir::new().unwrap();
    let errors = folder.path().join("errors");
    let mut publishing = std::process::Command::new(&node.program)
        .args(["publish", "--type", "a", "--to", "everyone", "1"])
        .envs([("CARILLON_SERVER", &node.address), ("CARILLON_TOKEN", &people.publisher)])
        .stderr(std::fs::File::create(&errors).unwrap())
        .spawn()
        .unwrap();
    let is_refused = async || std::fs::read_to_string(&errors).unwrap().contains("(503); trying again");
    wait_until(DEADLINE, "the event was not taken", is_refused).await;
    link.era.send_replace(Era::Forwards(1));
    let publishing = tokio::task::spawn_blocking(move || publishing.wait().unwrap());
    assert!(publishing.await.unwrap().success());
}

/// Readers hold all connections of requests: everybody else has theirs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_readers_that_wait_hold_up_neither_publishing_nor_the_head_nor_readiness() {
    let url = postgres_url().await;
    let people = People::new(&url).await;
    let token = people.add("alice", Role::Listener).await;
    let node = Node::start(&url, "memory:", &[]).await;
    let client = reqwest::Client::new();
    let ask = |path: &str| client.get(format!("{}{path}", node.address)).bearer_auth(&token);
    assert_eq!(ask("/api/v1/inbox?limit=10").send().await.unwrap().status(), 200);

    let mut other = sqlx::PgConnection::connect(&url).await.unwrap();
    let mut held = other.begin().await.unwrap();
    sqlx::query("lock table receipts in access exclusive mode").execute(&mut *held).await.unwrap();
    let mut readers = JoinSet::new();
    // Some give up, all come again.
    for number in 0..50 {
        let request =
            ask("/api/v1/inbox?limit=10&unread=true").timeout(Duration::from_millis(500 * (1 + number % 8)));
        readers.spawn(async move {
            loop {
                let _ = request.try_clone().unwrap().send().await;
            }
        });
    }
    let connections = i64::from(PoolSizes::share(10).of(Pool::Requests));
    let all_wait = async || waiting_for_locks(&url).await >= connections;
    wait_until(DEADLINE, "readers hold all connections of requests", all_wait).await;
    let new_token = people.token("alice", &[carillon::account::Scope::Listen], None).await;
    for number in 0..20 {
        let event = node::event(&json!({ "user": "alice" }), &json!(number));
        let publishing =
            client.post(format!("{}/api/v1/events", node.address)).bearer_auth(&people.publisher);
        let answer = publishing.body(event.to_string()).send().await.unwrap();
        assert_eq!(answer.status(), 201, "{}", answer.text().await.unwrap());
        // The head poll is what it says.
        assert!(node.is_ready().await);
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    wait_until(DEADLINE, "readers still hold all connections of requests", all_wait).await;
    // A token that the node has not seen yet is recognised: it may not do this.
    let account = client.get(format!("{}/api/v1/account", node.address)).bearer_auth(new_token);
    assert_eq!(account.send().await.unwrap().status(), 403);
    readers.shutdown().await;
    held.rollback().await.unwrap();
}
