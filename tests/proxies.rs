//! The proxies of `deploy/`, each before three nodes: what a listener behind one notices when nodes go.

mod support;

use std::io::Read as _;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use carillon::account::Role;
use serde_json::json;
use support::balancer::{Balancer, Proxy};
use support::listener::Listener;
use support::node::{Node, People, event, publish};
use support::servers::{postgres_url, redis_url};
use support::{DEADLINE, wait_until};

/// Three nodes, a proxy, and alice who listens behind it.
struct Place {
    proxy: Balancer,
    nodes: Vec<Node>,
    people: People,
    alice: String,
}

impl Place {
    /// With keep-alives so rare that only the proxy tells a node who has gone.
    async fn new(proxy: Proxy) -> Self {
        let store = postgres_url().await;
        let bus = format!("{}?namespace={}", redis_url(), uuid::Uuid::now_v7().simple());
        let people = People::new(&store).await;
        let alice = people.add("alice", Role::Listener).await;
        let mut nodes = Vec::new();
        for _ in 0..3 {
            nodes.push(Node::start(&store, &bus, &["--heartbeat-seconds", "300"]).await);
        }
        let addresses = [0, 1, 2].map(|index: usize| nodes[index].address.as_str());
        let proxy = Balancer::start_as(proxy, addresses).await;
        Self { proxy, nodes, people, alice }
    }

    async fn listener(&self) -> Listener {
        Listener::start(&[&self.proxy.address], &self.alice, "").await
    }

    /// Publishes to alice at the nodes that run; the event's id.
    async fn publish(&self) -> String {
        let event = event(&json!({ "user": "alice" }), &json!(null));
        let running = self.nodes.iter().filter(|node| node.pid_if_running().is_some());
        let addresses: Vec<&str> = running.map(|node| node.address.as_str()).collect();
        publish(&reqwest::Client::new(), &addresses, &self.people.publisher, &event).await
    }

    /// The nodes that have a stream.
    async fn with_streams(&self) -> Vec<usize> {
        let mut found = Vec::new();
        for (index, node) in self.nodes.iter().enumerate() {
            if node.pid_if_running().is_some() && node.metric("carillon_listeners").await > 0.0 {
                found.push(index);
            }
        }
        found
    }

    /// Waits until it is one, which its metrics say a little later.
    async fn node_with_the_stream(&self) -> usize {
        let is_one = async || self.with_streams().await.len() == 1;
        wait_until(DEADLINE, "one node has the stream", is_one).await;
        self.with_streams().await[0]
    }
}

/// All that a proxy must do, one after the other.
async fn serves_streams(proxy: Proxy) {
    let mut place = Place::new(proxy).await;
    let listener = place.listener().await;
    let mut published = Vec::new();

    // At once: each before the next is published, with nothing after it that would push it through a buffer.
    for _ in 0..5 {
        published.push(place.publish().await);
        listener.has_all(&published).await;
    }

    // The node behind the stream is killed.
    let node = place.node_with_the_stream().await;
    place.nodes[node].kill();
    published.push(place.publish().await);
    listener.has_all(&published).await;

    // All nodes are away. A status other than 200 would have the listener give up, as a browser does.
    let connections = listener.log().connections;
    place.nodes.iter_mut().for_each(Node::kill);
    let has_come_back = async || listener.log().connections >= connections + 2;
    wait_until(DEADLINE, "the listener asks while all nodes are away", has_come_back).await;
    let client = reqwest::Client::new();
    let stream = client.get(format!("{}/api/v1/stream", place.proxy.address)).send().await.unwrap();
    assert_eq!(stream.status(), 200);
    assert_eq!(stream.headers()["content-type"], "text/event-stream");
    let answer = stream.text().await.unwrap();
    let pause = answer.strip_prefix("retry: ").unwrap().strip_suffix("\n\n").unwrap();
    assert!((1000..10_000).contains(&pause.parse::<u32>().unwrap()), "{answer:?}");
    // Other requests are told the truth.
    let other = client.get(format!("{}/api/v1/inbox", place.proxy.address)).send().await.unwrap();
    assert!([502, 503, 504].contains(&other.status().as_u16()), "{}", other.status());

    for node in &mut place.nodes {
        node.restart().await;
    }
    published.push(place.publish().await);
    listener.has_all(&published).await;
    listener.assert_once_and_in_order();
    assert_eq!(listener.log().refused, None);

    // Who has gone is gone on the node, too, though nothing was sent that could fail.
    place.node_with_the_stream().await;
    drop(listener);
    wait_until(DEADLINE, "the stream is over", async || place.with_streams().await.is_empty()).await;

    speaks_http2(&mut place).await;
}

/// A listener over HTTP/2, and what it notices when its node is killed.
async fn speaks_http2(place: &mut Place) {
    let curl = Curl::start(&place.proxy.tls_address, &place.alice);
    let node = place.node_with_the_stream().await;
    let id = place.publish().await;
    wait_until(DEADLINE, "the event comes", async || curl.output().contains(&id)).await;
    assert!(curl.output().starts_with("HTTP/2 200"), "{}", curl.output());
    place.nodes[node].kill();
    // HAProxy and Caddy end the answer as if it were whole, nginx resets it: a client comes back after either.
    let ended = async || curl.process.lock().unwrap().try_wait().unwrap().is_some();
    wait_until(DEADLINE, "curl ends", ended).await;
}

/// curl with the stream open, and what it has printed.
struct Curl {
    process: Mutex<Child>,
    output: Arc<Mutex<Vec<u8>>>,
}

impl Curl {
    fn start(address: &str, token: &str) -> Self {
        let mut process = Command::new("curl")
            .args(["--silent", "--include", "--no-buffer", "--insecure", "--http2"])
            .args([
                "--header",
                &format!("Authorization: Bearer {token}"),
                &format!("{address}/api/v1/stream"),
            ])
            .stdout(Stdio::piped())
            .spawn()
            .expect("run the tests with scripts/test");
        let mut from = process.stdout.take().unwrap();
        let output = Arc::new(Mutex::new(Vec::new()));
        let shared = output.clone();
        std::thread::spawn(move || {
            let mut piece = [0; 4096];
            while let Ok(length @ 1..) = from.read(&mut piece) {
                shared.lock().unwrap().extend_from_slice(&piece[..length]);
            }
        });
        Self { process: Mutex::new(process), output }
    }

    fn output(&self) -> String {
        String::from_utf8_lossy(&self.output.lock().unwrap()).into_owned()
    }
}

impl Drop for Curl {
    fn drop(&mut self) {
        let process = self.process.get_mut().unwrap();
        let _ = process.kill();
        let _ = process.wait();
    }
}

/// Nothing is said for two minutes, not even a keep-alive.
async fn keeps_a_quiet_stream(proxy: Proxy) {
    let place = Place::new(proxy).await;
    let listener = place.listener().await;
    tokio::time::sleep(std::time::Duration::from_secs(120)).await;
    let id = place.publish().await;
    listener.has_all(&[id]).await;
    assert_eq!(listener.log().connections, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nginx_serves_streams() {
    serves_streams(Proxy::Nginx).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn haproxy_serves_streams() {
    serves_streams(Proxy::Haproxy).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn caddy_serves_streams() {
    serves_streams(Proxy::Caddy).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes two minutes"]
async fn a_quiet_stream_lives_behind_each() {
    let (nginx, haproxy, caddy) = (Proxy::Nginx, Proxy::Haproxy, Proxy::Caddy);
    tokio::join!(keeps_a_quiet_stream(nginx), keeps_a_quiet_stream(haproxy), keeps_a_quiet_stream(caddy));
}
