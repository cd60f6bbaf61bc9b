//! Three nodes on a real Postgres and Redis, and what happens when a part of them goes away.

mod support;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use carillon::store::Role;
use serde_json::{Value, json};
use support::listener::Listener;
use support::node::{Node, People, event, publish};
use support::redis_groups::{RedisCluster, RedisSentinels};
use support::servers::{PostgresServer, RedisServer};
use support::{DEADLINE, wait_until};
use tokio::task::JoinHandle;
use tokio::time::sleep;

/// Servers and nodes of one test's own.
struct Cluster {
    nodes: Vec<Node>,
    redis: RedisServer,
    postgres: PostgresServer,
    people: People,
    alice: String,
    bob: String,
}

impl Cluster {
    async fn start() -> Self {
        Self::with_bus(None).await
    }

    /// With the bus there, if it is given.
    async fn with_bus(bus: Option<String>) -> Self {
        let (postgres, redis) = (PostgresServer::start(), RedisServer::start(&[]).await);
        let bus = bus.unwrap_or_else(|| redis.url(""));
        let store_url = postgres.new_database().await;
        let people = People::new(&store_url).await;
        let (alice, bob) =
            (people.add("alice", Role::Listener).await, people.add("bob", Role::Listener).await);
        let mut nodes = Vec::new();
        for _ in 0..3 {
            nodes.push(Node::start(&store_url, &bus, &[]).await);
        }
        Self { nodes, redis, postgres, people, alice, bob }
    }

    /// The nodes' addresses, beginning with the one of this number.
    fn from(&self, first: usize) -> Vec<&str> {
        let mut addresses: Vec<&str> = self.nodes.iter().map(|node| node.address.as_str()).collect();
        addresses.rotate_left(first);
        addresses
    }

    async fn publish(&self, node: usize, to: &Value) -> String {
        let client = reqwest::Client::new();
        publish(&client, &[&self.nodes[node].address], &self.people.publisher, &event(to, &json!({}))).await
    }

    /// Publishers on every node that go on until told to stop.
    fn load(&self) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let publishers = (0..3).map(|number| {
            let addresses: Vec<String> = self.from(number).into_iter().map(str::to_owned).collect();
            tokio::spawn(publish_often(addresses, self.people.publisher.clone(), stop.clone()))
        });
        Load { publishers: publishers.collect(), stop }
    }

    /// Two listeners of each user, on each node.
    async fn listeners(&self) -> Vec<(&'static str, Listener)> {
        let mut listeners = Vec::new();
        for number in 0..3 {
            for (user, token) in [("alice", &self.alice), ("bob", &self.bob)] {
                for _ in 0..2 {
                    listeners.push((user, Listener::start(&self.from(number), token, "").await));
                }
            }
        }
        listeners
    }
}

/// What was acknowledged: when, and for whom (`None`: everyone).
type Acknowledged = HashMap<String, (Instant, Option<&'static str>)>;

struct Load {
    publishers: Vec<JoinHandle<Acknowledged>>,
    stop: Arc<AtomicBool>,
}

impl Load {
    async fn stop(self) -> Acknowledged {
        self.stop.store(true, Ordering::SeqCst);
        let mut all = Acknowledged::new();
        for publisher in self.publishers {
            all.extend(publisher.await.unwrap());
        }
        all
    }
}

async fn publish_often(addresses: Vec<String>, token: String, stop: Arc<AtomicBool>) -> Acknowledged {
    let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
    let client = reqwest::Client::new();
    let mut acknowledged = Acknowledged::new();
    for to in [None, Some("alice"), Some("bob")].into_iter().cycle() {
        if stop.load(Ordering::SeqCst) {
            break;
        }
        let recipients = to.map_or(json!("everyone"), |user| json!({ "user": user }));
        let id = publish(&client, &addresses, &token, &event(&recipients, &json!({}))).await;
        acknowledged.insert(id, (Instant::now(), to));
        sleep(Duration::from_millis(10)).await;
    }
    acknowledged
}

/// That each listener got all that was acknowledged for it, once and in order, and nothing else; gives the
/// longest time from an acknowledgement to an arrival.
async fn assert_all_arrived(acknowledged: &Acknowledged, listeners: &[(&'static str, Listener)]) -> Duration {
    let mut worst = Duration::ZERO;
    for (user, listener) in listeners {
        let is_theirs = |to: &Option<&'static str>| to.is_none_or(|to| to == *user);
        let mine = acknowledged.iter().filter(|(_, (_, to))| is_theirs(to));
        let ids: Vec<String> = mine.map(|(id, _)| id.clone()).collect();
        listener.has_all(&ids).await;
        listener.assert_once_and_in_order();
        let log = listener.log();
        assert_eq!(log.received.len(), ids.len(), "{user} got something else");
        assert!(!log.notices.iter().any(|(name, _)| name == "carillon.reset"), "{:?}", log.notices);
        for received in &log.received {
            worst = worst.max(received.at.saturating_duration_since(acknowledged[&received.id].0));
        }
    }
    worst
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_reaches_everyone_it_is_for_on_any_node_and_nobody_else() {
    let cluster = Cluster::start().await;
    let listeners = cluster.listeners().await;
    let mut everyone = Vec::new();
    let mut for_alice = Vec::new();
    for node in 0..3 {
        for_alice.push(cluster.publish(node, &json!({ "user": "alice" })).await);
        for_alice.push(cluster.publish(node, &json!({ "users": ["alice", "publisher"] })).await);
        everyone.push(cluster.publish(node, &json!("everyone")).await);
    }
    for (user, listener) in &listeners {
        // In order: what comes after the last one for everyone was not for them.
        listener.has_all(&everyone).await;
        if *user == "alice" {
            listener.has_all(&for_alice).await;
        }
        listener.assert_once_and_in_order();
        let expected = everyone.len() + if *user == "alice" { for_alice.len() } else { 0 };
        assert_eq!(listener.log().received.len(), expected, "{user}");
    }
}

/// A user's events travel only to the nodes where that user listens, and are no longer sent when they leave.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_users_channel_is_subscribed_only_where_the_user_is() {
    let cluster = Cluster::start().await;
    let alice = cluster.people.store().user_by_name("alice").await.unwrap().unwrap().0.id;
    let channel = format!("carillon:user:{alice}");
    let subscribers = async |expected: &str| {
        cluster.redis.ask(&["PUBSUB", "NUMSUB", &channel]).await.contains(&format!("int({expected})"))
    };
    let first = Listener::start(&cluster.from(0), &cluster.alice, "").await;
    let _bob = Listener::start(&cluster.from(1), &cluster.bob, "").await;
    wait_until(DEADLINE, "one node listens for alice", || subscribers("1")).await;
    let second = Listener::start(&cluster.from(2), &cluster.alice, "").await;
    wait_until(DEADLINE, "two nodes listen for alice", || subscribers("2")).await;
    drop(first);
    wait_until(DEADLINE, "one node listens for alice", || subscribers("1")).await;
    let id = cluster.publish(1, &json!({ "user": "alice" })).await;
    second.has_all(&[id]).await;
    drop(second);
    wait_until(DEADLINE, "no node listens for alice", || subscribers("0")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_dead_for_ten_seconds_under_load_delays_and_loses_nothing() {
    let mut cluster = Cluster::start().await;
    let listeners = cluster.listeners().await;
    let load = cluster.load();
    sleep(Duration::from_secs(2)).await;
    cluster.redis.kill();
    sleep(Duration::from_secs(9)).await;
    for node in &cluster.nodes {
        assert!(!node.is_ready().await, "a node without a bus says it is ready");
    }
    sleep(Duration::from_secs(1)).await;
    cluster.redis.restart().await;
    for node in &cluster.nodes {
        wait_until(DEADLINE, "the node is ready again", || node.is_ready()).await;
    }
    sleep(Duration::from_secs(1)).await;
    let acknowledged = load.stop().await;
    let worst = assert_all_arrived(&acknowledged, &listeners).await;
    println!("Redis dead for 10 s: {} events, worst delay {worst:?}", acknowledged.len());
    for (_, listener) in &listeners {
        assert_eq!(listener.log().connections, 1, "a stream broke because of the bus");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_master_behind_sentinel_delays_and_loses_nothing() {
    let mut servers = RedisSentinels::start().await;
    fails_over(servers.url(), || servers.servers[0].kill()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_master_of_a_redis_cluster_delays_and_loses_nothing() {
    let mut servers = RedisCluster::start().await;
    // The one that has the channel for everyone.
    let (global, _) = servers.place_of("carillon:global").await;
    fails_over(servers.url(), || servers.servers[global].kill()).await;
}

/// Under load, with `kill` in the middle of it.
async fn fails_over(bus: String, kill: impl FnOnce()) {
    let cluster = Cluster::with_bus(Some(bus)).await;
    let listeners = cluster.listeners().await;
    let load = cluster.load();
    sleep(Duration::from_secs(2)).await;
    kill();
    sleep(Duration::from_secs(8)).await;
    for node in &cluster.nodes {
        wait_until(DEADLINE, "the node is ready again", || node.is_ready()).await;
    }
    sleep(Duration::from_secs(1)).await;
    let acknowledged = load.stop().await;
    let worst = assert_all_arrived(&acknowledged, &listeners).await;
    println!("failover: {} events, worst delay {worst:?}", acknowledged.len());
    for (_, listener) in &listeners {
        assert_eq!(listener.log().connections, 1, "a stream broke because of the bus");
    }
}

/// Open connections, no answers: only silence tells. Health must not stay green.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_redis_turns_readiness_red_and_delivery_goes_on() {
    let cluster = Cluster::start().await;
    let listeners = cluster.listeners().await;
    let load = cluster.load();
    sleep(Duration::from_secs(1)).await;
    cluster.redis.pause();
    for node in &cluster.nodes {
        wait_until(DEADLINE, "the silence is noticed", async || !node.is_ready().await).await;
    }
    let while_frozen = cluster.publish(0, &json!("everyone")).await;
    for (_, listener) in &listeners {
        listener.has_all(std::slice::from_ref(&while_frozen)).await;
    }
    cluster.redis.resume();
    for node in &cluster.nodes {
        wait_until(DEADLINE, "the node is ready again", || node.is_ready()).await;
    }
    let mut acknowledged = load.stop().await;
    acknowledged.insert(while_frozen, (Instant::now(), None));
    let worst = assert_all_arrived(&acknowledged, &listeners).await;
    println!("Redis frozen: {} events, worst delay {worst:?}", acknowledged.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_listeners_of_a_killed_node_resume_on_another() {
    let mut cluster = Cluster::start().await;
    let listeners = cluster.listeners().await;
    let load = cluster.load();
    sleep(Duration::from_secs(2)).await;
    cluster.nodes[0].kill();
    sleep(Duration::from_secs(3)).await;
    let acknowledged = load.stop().await;
    let worst = assert_all_arrived(&acknowledged, &listeners).await;
    println!("node killed: {} events, worst delay {worst:?}", acknowledged.len());
    for (index, (_, listener)) in listeners.iter().enumerate() {
        assert_eq!(listener.log().connections, if index < 4 { 2 } else { 1 }, "listener {index}");
    }
}

/// A rolling restart: readiness red, streams told to come back, none refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_listeners_of_a_stopped_node_move_to_another() {
    let mut cluster = Cluster::start().await;
    let listeners = cluster.listeners().await;
    let load = cluster.load();
    sleep(Duration::from_secs(1)).await;
    for number in 0..2 {
        assert!(cluster.nodes[number].terminate(), "it ended with an error");
    }
    sleep(Duration::from_secs(1)).await;
    let acknowledged = load.stop().await;
    let worst = assert_all_arrived(&acknowledged, &listeners).await;
    println!("two nodes stopped in turn: {} events, worst delay {worst:?}", acknowledged.len());
    for (_, listener) in &listeners {
        assert_eq!(listener.log().refused, None);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_survives_a_crash_of_postgres() {
    let cluster = Cluster::start().await;
    let listeners = cluster.listeners().await;
    let load = cluster.load();
    for _ in 0..2 {
        sleep(Duration::from_secs(2)).await;
        cluster.postgres.restart_immediate();
    }
    cluster.postgres.stop_immediate();
    for node in &cluster.nodes {
        wait_until(DEADLINE, "a node without a store is not ready", async || !node.is_ready().await).await;
    }
    cluster.postgres.start_again();
    for node in &cluster.nodes {
        wait_until(DEADLINE, "the node is ready again", || node.is_ready()).await;
    }
    sleep(Duration::from_secs(1)).await;
    let acknowledged = load.stop().await;
    let worst = assert_all_arrived(&acknowledged, &listeners).await;
    println!("Postgres crashed three times: {} events, worst delay {worst:?}", acknowledged.len());
    // Whoever comes later finds all of it in the log, too.
    let late =
        Listener::start(&cluster.from(0), &cluster.alice, &format!("cursor={}", beginning(&cluster).await))
            .await;
    assert_all_arrived(&acknowledged, &[("alice", late)]).await;
}

/// A cursor from before the first event.
async fn beginning(cluster: &Cluster) -> String {
    format!("{}-0", cluster.people.store().log_state().await.unwrap().epoch)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn signing_out_on_one_node_ends_the_sessions_streams_on_all() {
    let mut cluster = Cluster::start().await;
    let client = reqwest::Client::builder().pool_max_idle_per_host(0).build().unwrap();
    let sign_in = async |name: &str| {
        let body = json!({ "name": name, "password": format!("password of {name}") }).to_string();
        let request = client.post(format!("{}/api/v1/session", cluster.nodes[0].address));
        let answer = request.header("content-type", "application/json").body(body).send().await.unwrap();
        assert_eq!(answer.status(), 204);
        answer.headers()["set-cookie"].to_str().unwrap().split(';').next().unwrap().to_owned()
    };
    let (alice, other, bob) = (sign_in("alice").await, sign_in("alice").await, sign_in("bob").await);
    let open = async |node: usize, cookie: &str| {
        let request = client.get(format!("{}/api/v1/stream", cluster.nodes[node].address));
        let answer = request.header("cookie", cookie).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        answer
    };
    let mut ending = Vec::new();
    let mut staying = Vec::new();
    for node in 0..3 {
        ending.push(open(node, &alice).await);
        staying.push(open(node, &bob).await);
        staying.push(open(node, &other).await);
    }
    let begun = Instant::now();
    let request = client.delete(format!("{}/api/v1/session", cluster.nodes[1].address));
    let answer =
        request.header("cookie", &alice).header("sec-fetch-site", "same-origin").send().await.unwrap();
    assert_eq!(answer.status(), 204);
    for stream in ending {
        let rest = tokio::time::timeout(DEADLINE, stream.text()).await.expect("the stream goes on").unwrap();
        assert!(rest.contains("event: carillon.signout"), "{rest}");
    }
    println!("signed out on three nodes within {:?}", begun.elapsed());
    let id = cluster.publish(2, &json!("everyone")).await;
    for stream in &mut staying {
        let mut text = String::new();
        while !text.contains(&id) {
            let piece = tokio::time::timeout(DEADLINE, stream.chunk()).await.expect("nothing comes");
            text += &String::from_utf8_lossy(&piece.unwrap().expect("another session's stream ended"));
        }
    }
    let status = async |node: usize, cookie: &str| {
        let request = client.get(format!("{}/api/v1/inbox", cluster.nodes[node].address));
        request.header("cookie", cookie).send().await.unwrap().status().as_u16()
    };
    for node in 0..3 {
        assert_eq!((status(node, &alice).await, status(node, &bob).await), (401, 200));
    }
    // Sessions are in the store: an empty Redis forgets none, and brings none back.
    cluster.redis.restart().await;
    for node in 0..3 {
        assert_eq!((status(node, &alice).await, status(node, &other).await), (401, 200));
    }
}
