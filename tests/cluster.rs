//! Three nodes on a real Postgres and Redis. What happens when a part of them goes away is in `tests/faults`.

#[path = "cluster/presence.rs"]
mod presence;
mod support;

use std::time::{Duration, Instant};

use carillon::account::Role;
use carillon::publishing::LiveKey;
use carillon::ttl::{Ttl, TtlLimits};
use serde_json::{Value, json};
use support::listener::Listener;
use support::node::{Node, People, event, publish};
use support::servers::{PostgresServer, RedisServer};
use support::{DEADLINE, wait_until};

/// Servers and nodes of one test's own.
struct Cluster {
    nodes: Vec<Node>,
    redis: RedisServer,
    _postgres: PostgresServer,
    people: People,
    alice: String,
    bob: String,
}

impl Cluster {
    async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// With these options for each node.
    async fn start_with(options: &[&str]) -> Self {
        let (postgres, redis) = (PostgresServer::start(), RedisServer::start(&[]).await);
        let store_url = postgres.new_database().await;
        let people = People::new(&store_url).await;
        let (alice, bob) =
            (people.add("alice", Role::Listener).await, people.add("bob", Role::Listener).await);
        let mut nodes = Vec::new();
        for _ in 0..3 {
            nodes.push(Node::start(&store_url, &redis.url(""), options).await);
        }
        Self { nodes, redis, _postgres: postgres, people, alice, bob }
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

/// A notice comes back over the bus as well, and is then ignored.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_node_notifies_takes_effect_there_once_and_without_redis() {
    let mut cluster = Cluster::start().await;
    let id = cluster.publish(0, &json!({ "user": "alice" })).await;
    let (here, elsewhere) = (
        Listener::start(&cluster.from(0), &cluster.alice, "").await,
        Listener::start(&cluster.from(1), &cluster.alice, "").await,
    );
    let client = reqwest::Client::new();
    let mark = async |is_read: bool| {
        let method = if is_read { reqwest::Method::PUT } else { reqwest::Method::DELETE };
        let url = format!("{}/api/v1/inbox/{id}/read", cluster.nodes[0].address);
        let answer = client.request(method, url).bearer_auth(&cluster.alice).send().await.unwrap();
        assert_eq!(answer.status(), 204);
    };
    let marks = |listener: &Listener| -> Vec<bool> {
        let log = listener.log();
        let read = log.notices.iter().filter(|(name, _)| name == "carillon.read");
        read.map(|(_, data)| data["read"].as_bool().unwrap()).collect()
    };
    mark(true).await;
    mark(false).await;
    wait_until(DEADLINE, "the other node is notified", async || marks(&elsewhere) == [true, false]).await;
    // What this brings comes after the notices on their way back.
    let last = cluster.publish(1, &json!("everyone")).await;
    here.has_all(&[last]).await;
    assert_eq!(marks(&here), [true, false]);
    cluster.redis.kill();
    mark(true).await;
    wait_until(DEADLINE, "it takes effect here", async || marks(&here) == [true, false, true]).await;
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

/// Every node reports all nodes; one that was killed or has left is soon reported no more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_node_reports_the_status_of_all() {
    let mut cluster = Cluster::start().await;
    cluster.people.add("root", Role::Admin).await;
    let client = reqwest::Client::builder().pool_max_idle_per_host(0).build().unwrap();
    let body = json!({ "name": "root", "password": "password of root" }).to_string();
    let answer =
        client.post(format!("{}/api/v1/session", cluster.nodes[0].address)).body(body).send().await.unwrap();
    let cookie = answer.headers()["set-cookie"].to_str().unwrap().split(';').next().unwrap().to_owned();
    let ask = async |address: &str| -> Value {
        let request = client.get(format!("{address}/api/v1/cluster")).header("cookie", &cookie);
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), 200);
        answer.json().await.unwrap()
    };
    // What the node reports of the nodes at these addresses, if it reports all of them and no other.
    let reported = async |by: &str, of: &[&str]| -> Option<Vec<Value>> {
        let cluster = ask(by).await;
        let address = |node: &Value| format!("http://{}", node["address"].as_str().unwrap());
        let nodes = cluster["nodes"].as_array().unwrap();
        let found = of.iter().map(|of| nodes.iter().find(|node| address(node) == *of).cloned());
        let found: Option<Vec<Value>> = found.collect();
        found.filter(|found| found.len() == nodes.len() && cluster["complete"] == true)
    };
    let addresses: Vec<String> = cluster.nodes.iter().map(|node| node.address.clone()).collect();
    let all: Vec<&str> = addresses.iter().map(String::as_str).collect();
    let _listener = Listener::start(&cluster.from(2), &cluster.alice, "").await;
    for by in &all {
        wait_until(DEADLINE, "all nodes report the listener on the third node", async || {
            let nodes = reported(by, &all).await;
            nodes.is_some_and(|nodes| {
                nodes.iter().map(|node| &node["listeners"]).eq([&json!(0), &json!(0), &json!(1)])
                    && nodes.iter().all(|node| node["reasons"] == json!([]))
            })
        })
        .await;
    }
    cluster.nodes[2].kill();
    wait_until(DEADLINE, "the killed node is gone", async || reported(all[0], &all[..2]).await.is_some())
        .await;

    let watch = client.get(format!("{}/api/v1/cluster/stream", all[1])).header("cookie", &cookie);
    let watching = watch.send().await.unwrap();
    // A node that is asked to stop leaves by itself, before its status would expire: that takes ten seconds.
    assert!(cluster.nodes[1].terminate());
    let left_at = Instant::now();
    wait_until(DEADLINE, "the other has left", async || reported(all[0], &all[..1]).await.is_some()).await;
    assert!(left_at.elapsed().as_secs() < 9, "it left when it ended");
    let watched = watching.text().await.expect("the stream ended as it should");
    assert!(watched.contains("event: carillon.nodes"), "{watched}");

    // Without the keys a node reports itself, and that there may be others.
    cluster.redis.kill();
    wait_until(DEADLINE, "the others are unknown", async || ask(all[0]).await["complete"] == false).await;
    let alone = ask(all[0]).await;
    assert_eq!(alone["nodes"].as_array().unwrap().len(), 1, "{alone}");
    assert_eq!(alone["nodes"][0]["name"], alone["reported_by"]);
    wait_until(DEADLINE, "the bus is seen to be away", async || {
        ask(all[0]).await["nodes"][0]["bus_ok"] == false
    })
    .await;
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

/// A token is revoked by somebody who is on no bus: each node reads it, and forgets its cached answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_ends_beside_the_nodes_ends_on_all_of_them() {
    let cluster = Cluster::start().await;
    let client = reqwest::Client::builder().timeout(DEADLINE).build().unwrap();
    let ask = async |node: &Node, path: &str| {
        let request = client.get(format!("{}/api/v1/{path}", node.address)).bearer_auth(&cluster.alice);
        request.send().await.unwrap()
    };
    let mut streams = Vec::new();
    for node in &cluster.nodes {
        let mut stream = ask(node, "stream").await;
        assert!(stream.chunk().await.unwrap().is_some(), "it begins");
        streams.push(stream);
    }
    let store = cluster.people.store();
    let alice = store.user_by_name("alice").await.unwrap().unwrap().0.id;
    let token = store.valid_tokens(Some(alice), None, 1).await.unwrap()[0].id;
    assert!(cluster.people.accounts().revoke_token(token, None).await.unwrap());
    for (node, stream) in cluster.nodes.iter().zip(streams) {
        assert!(stream.text().await.unwrap().contains("event: carillon.signout"));
        assert_eq!(ask(node, "inbox").await.status(), 401, "nothing cached lets it in again");
    }
}

/// The clock of Redis is ahead: the key of a living event ends, and the event stays until it ends by the database's clock.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_outlives_its_key_that_ended_early() {
    let cluster = Cluster::start().await;
    let alice = Listener::start(&cluster.from(0), &cluster.alice, "").await;
    let mut ending = event(&json!("everyone"), &json!({}));
    ending["expires_in"] = json!(5);
    let client = reqwest::Client::new();
    let id = publish(&client, &cluster.from(1), &cluster.people.publisher, &ending).await;
    alice.has_all(&[id]).await;
    let store = cluster.people.store();
    let state = store.log_state().await.unwrap();
    let expires_at = store.event_at(state.head).await.unwrap().unwrap().expires_at.unwrap();
    let key = LiveKey { epoch: state.epoch, position: state.head, expires_at }.to_string();
    let ttl = Ttl::open(&cluster.redis.url(""), &TtlLimits::default()).unwrap();
    let is_set = async || ttl.get(&key).await.unwrap().is_some();
    wait_until(DEADLINE, "the event has its key", is_set).await;
    ttl.put(&key, b"", Duration::from_millis(20)).await.unwrap();
    let has_ended = || alice.log().notices.iter().any(|(name, _)| name == "carillon.expire");
    wait_until(DEADLINE, "the event ends", async || has_ended()).await;
    assert!(store.log_state().await.unwrap().now >= expires_at, "it ended with its key");
}
