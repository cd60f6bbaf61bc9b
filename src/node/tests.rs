use super::*;
use crate::account::{Credential, Role};
use crate::delivery::hub::Subscription;
use crate::delivery::stream::StreamRequest;
use crate::event::Selector;
use crate::event::{Audience, Draft, Expiry, NewEvent, Priority, Recipients};
use crate::store::{Reader, StoreLimits};
use crate::ttl::TtlLimits;
use sqlx::Connection as _;
use std::time::Instant;
use tempfile::TempDir;
use uuid::Uuid;

/// How long anything may take that should take a moment.
const DEADLINE: Duration = Duration::from_secs(30);

/// A node with a database of its own.
struct World {
    node: Node,
    url: String,
    _folder: TempDir,
}

impl World {
    async fn new(limits: NodeLimits) -> Self {
        let world = Self::with_bus("memory:", limits).await;
        world.until("the node is ready", |node| node.services.readiness.unready().is_empty()).await;
        world
    }

    /// Its node may not be ready yet.
    async fn with_bus(bus_url: &str, limits: NodeLimits) -> Self {
        let folder = TempDir::new().unwrap();
        let url = format!("sqlite:{}", folder.path().join("test.sqlite").display());
        let store = Store::open(&url, &StoreLimits::default()).await.unwrap();
        store.migrate().await.unwrap();
        let ttl = Ttl::open("memory:", &TtlLimits::default()).unwrap();
        let rules = TopicRules::new(Vec::new());
        let node = Node::start(store, bus_url, ttl, rules, limits).unwrap();
        Self { node, url, _folder: folder }
    }

    async fn until(&self, what: &str, holds: impl Fn(&Node) -> bool) {
        let begun = Instant::now();
        while !holds(&self.node) {
            assert!(begun.elapsed() < DEADLINE, "not within {DEADLINE:?}: {what}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Does something to the database behind the node's back.
    async fn execute(&self, sql: &'static str) {
        let mut connection = sqlx::SqliteConnection::connect(&self.url).await.unwrap();
        sqlx::query(sql).execute(&mut connection).await.unwrap();
    }
}

impl World {
    fn clock(&self) -> &Clock {
        self.node.services.status.clock()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.node.stop();
    }
}

#[tokio::test]
async fn a_damaged_log_makes_the_node_unready_until_it_is_mended() {
    let world = World::new(NodeLimits::default()).await;
    world.execute("update log_state set floor = 'nonsense'").await;
    world.until("the damage is noticed", |node| !node.services.readiness.unready().is_empty()).await;
    world.execute("update log_state set floor = 0").await;
    world.until("the node is ready again", |node| node.services.readiness.unready().is_empty()).await;
}

/// Nothing listens at that address, and the head is read only once.
#[tokio::test]
async fn what_a_node_commits_it_delivers_without_the_bus() {
    let never = Duration::from_secs(3_600);
    let limits = NodeLimits { poll_every: never, poll_degraded: never, ..NodeLimits::default() };
    let world = World::with_bus("redis://127.0.0.1:1", limits).await;
    let applied = |node: &Node| node.hub.applied_cell().get();
    world.until("the node has seen the log", |node| applied(node).is_some()).await;
    let draft = Draft {
        event_type: "test".parse().unwrap(),
        priority: Priority::Normal,
        to: Recipients::Topic("a".into()),
        data: "1".into(),
        expiry: Expiry::Never,
        keep_after_read: None,
    };
    for _ in 0..3 {
        let published = world.node.services.publisher.publish(1, vec![draft.clone()], None).await.unwrap();
        let position = published[0].position;
        world.until("it is delivered", |node| applied(node).unwrap().at.position == position).await;
    }
}

#[tokio::test]
async fn a_session_with_an_open_stream_is_in_use() {
    let world = World::new(NodeLimits::default()).await;
    let (store, secret) = (&world.node.services.store, [1; 32]);
    let user = store.create_user("me", "hash", Role::Listener).await.unwrap().id;
    store.create_session(user, &secret, Duration::from_secs(600), "").await.unwrap();
    world.execute("update sessions set created_at = created_at - 200000").await;
    let subscription = Subscription {
        reader: Reader { user, selector: Selector::of_user(user, vec![]) },
        credential: Credential::Session(secret),
        connection: CancellationToken::new(),
        name: "me".into(),
        wants_presence: false,
        keep_alive_every: None,
    };
    let _stream = world.node.services.streams.open(StreamRequest::new(subscription)).unwrap();
    let (hub, store) = (world.node.hub.clone(), store.clone());
    Sweep { hub, store: store.clone(), limits: SweepLimits::default() }.note_use().await;
    let session = store.session_by_secret(&secret).await.unwrap().unwrap();
    assert!(session.seen_at - session.created_at >= 200_000, "{session:?}");
}

/// Nobody's own clock decides what is old.
#[tokio::test]
async fn retention_goes_by_the_databases_clock() {
    let retention_every = Duration::from_millis(20);
    let poll_every = Duration::from_secs(3_600);
    let world = World::new(NodeLimits { retention_every, poll_every, ..NodeLimits::default() }).await;
    let event = NewEvent {
        id: Uuid::now_v7(),
        event_type: "test".parse().unwrap(),
        priority: Priority::Normal,
        audience: Audience::Everyone,
        data: "1".into(),
        expiry: Expiry::Never,
        keep_after_read: None,
        publisher: 1,
        idempotency: None,
        request: None,
    };
    let position = world.node.services.store.append(&[event]).await.unwrap().events[0].position;
    let far = world.clock().now() + 100 * 365 * 86_400_000;
    world.clock().set(far);
    world.until("the node asks what time it is", |node| node.services.status.clock().now() < far).await;
    assert!(world.node.services.store.event_at(position).await.unwrap().is_some(), "it was removed as old");
}
