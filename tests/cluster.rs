//! Three nodes on a real Postgres and Redis. What happens when a part of them goes away is in `tests/ledger`.

#[path = "cluster/presence.rs"]
mod presence;
mod support;

use std::time::Instant;

use carillon::store::Role;
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
