//! A node on a store of its own, alice who listens, and somebody who publishes.

use carillon::account::Role;
use futures_util::future::join_all;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::client::{Client, Running};
use crate::relay::Relay;
use crate::support::DEADLINE;
use crate::support::node::{Node, People, publish, run};

/// Where a case takes place.
pub struct Place {
    pub node: Node,
    /// A token of hers.
    pub alice: String,
    people: People,
    store: String,
    _folder: TempDir,
}

impl Place {
    pub async fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let store = format!("sqlite:{}/store.sqlite", folder.path().display());
        let people = People::new(&store).await;
        let alice = people.add("alice", Role::Listener).await;
        let node = Node::start(&store, "memory:", &["--streams-per-user", "1000"]).await;
        Self { node, alice, people, store, _folder: folder }
    }

    /// A stream for each client, each by a relay of its own to `address`, and begun.
    pub async fn streams(&self, clients: &[Client], address: &str) -> Vec<(Running, Relay)> {
        let start = async |client: Client| {
            let relay = Relay::start(address).await;
            let stream = format!("{}/api/v1/stream", relay.address);
            let running = Running::start(client, &[stream], &self.alice).await;
            running.connected(0).await;
            (running, relay)
        };
        join_all(clients.iter().copied().map(start)).await
    }

    /// Publishes to everyone.
    pub async fn publish(&self, kind: &str, data: &Value) {
        let event = json!({ "type": kind, "to": "everyone", "data": data });
        publish(&reqwest::Client::new(), &[&self.node.address], &self.people.publisher, &event).await;
    }

    /// Publishes these numbers, one after the other.
    pub async fn publish_all(&self, numbers: &[i64]) {
        for number in numbers {
            self.publish("note", &json!(number)).await;
        }
    }

    /// Revokes alice's token.
    pub fn revoke_the_token(&self) {
        let program = std::path::Path::new(env!("CARGO_BIN_EXE_carillon"));
        let tokens = run(program, &self.store, &["token", "list"]);
        let of_alice = tokens.lines().find(|line| line.contains("\talice\t")).unwrap();
        run(program, &self.store, &["token", "revoke", of_alice.split('\t').next().unwrap()]);
    }

    /// Waits until the node has this many streams, or for long enough: who is missing shows in what they have got.
    pub async fn until_listeners(&self, count: usize) {
        let count = f64::from(u32::try_from(count).unwrap());
        let begun = std::time::Instant::now();
        while self.node.metric("carillon_listeners").await != count && begun.elapsed() < DEADLINE {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    }
}

/// What is wrong with whoever has not got exactly these numbers in this order. Whatever came twice would have come before
/// the last of them.
pub async fn failures_of(streams: &[(Running, Relay)], expected: &[i64]) -> Vec<String> {
    let mut failures = Vec::new();
    for (running, _) in streams {
        running.settled(|| running.numbers(0).last() == expected.last()).await;
        if running.numbers(0) != expected {
            failures.push(format!("{:?}: {:?}", running.client, running.numbers(0)));
        }
    }
    failures
}

impl Running {
    /// Waits until the stream has begun.
    pub async fn connected(&self, stream: usize) {
        self.settled(|| self.is_connected(stream)).await;
        assert!(self.is_connected(stream), "{:?} does not connect", self.client);
    }

    /// Waits for so many events.
    pub async fn has_events(&self, stream: usize, count: usize) {
        self.settled(|| self.events(stream).len() >= count).await;
    }

    /// Waits until it is so, or for long enough that it will not be: the caller looks.
    pub async fn settled(&self, is_so: impl Fn() -> bool) {
        let begun = std::time::Instant::now();
        while !is_so() && begun.elapsed() < DEADLINE {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    }

    /// The data of the events, as numbers, of a stream in the form `envelope`.
    pub fn numbers(&self, stream: usize) -> Vec<i64> {
        let events = self.events(stream);
        let number = |data: &str| serde_json::from_str::<Value>(data).ok()?["data"].as_i64();
        events.iter().map(|event| number(&event.data).unwrap_or(-1)).collect()
    }
}
