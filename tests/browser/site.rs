//! What the tests look at: nodes, the people who use them, and a browser.

use carillon::account::Role;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::chromium::{Browser, Tab};
use crate::publish_to;
use crate::support::balancer::Balancer;
use crate::support::node::{Node, People, publish};
use crate::support::servers::{postgres_url, redis_url};

/// Nodes and a browser. Alice and bob are listeners, paula is a publisher, root an admin.
pub struct Site {
    /// Where the browser goes: a balancer, or the only node.
    pub address: String,
    pub nodes: Vec<Node>,
    pub people: People,
    pub browser: Browser,
    /// Of the embedded store.
    pub folder: Option<TempDir>,
    _balancer: Option<Balancer>,
}

impl Site {
    /// One embedded node.
    pub async fn start() -> Self {
        let folder = TempDir::new().unwrap();
        let store = format!("sqlite:{}/store.sqlite", folder.path().display());
        let people = people(&store).await;
        let node = Node::start(&store, "memory:", &["--heartbeat-seconds", "1"]).await;
        let (address, browser) = (node.address.clone(), Browser::start().await);
        Self { address, nodes: vec![node], people, browser, folder: Some(folder), _balancer: None }
    }

    /// Three nodes behind nginx.
    pub async fn on_cluster() -> Self {
        let store = postgres_url().await;
        let bus = format!("{}?namespace={}", redis_url(), uuid::Uuid::now_v7().simple());
        let people = people(&store).await;
        let mut nodes = Vec::new();
        for _ in 0..3 {
            nodes.push(Node::start(&store, &bus, &[]).await);
        }
        let balancer = Balancer::start([0, 1, 2].map(|index: usize| nodes[index].address.as_str())).await;
        let (address, browser) = (balancer.address.clone(), Browser::start().await);
        Self { address, nodes, people, browser, folder: None, _balancer: Some(balancer) }
    }

    /// The address of a page.
    pub fn at(&self, path: &str) -> String {
        format!("{}{path}", self.address)
    }

    /// A blank page of the site: the sign-in page, which runs nothing of its own.
    pub async fn tab(&self) -> Tab {
        self.browser.open(&self.at("/login")).await
    }

    pub async fn publish(&self, data: impl Into<Value>) {
        publish_to(&self.address, &self.people, data.into()).await;
    }

    /// Publishes what is given, to alice if it does not say to whom; gives its id.
    pub async fn send(&self, mut event: Value) -> String {
        let members = event.as_object_mut().unwrap();
        members.entry("to").or_insert(json!({ "user": "alice" }));
        members.entry("type").or_insert(json!("test"));
        publish(&reqwest::Client::new(), &[&self.address], &self.people.publisher, &event).await
    }

    /// A request with the publisher's token, which must succeed.
    pub async fn ask(&self, method: reqwest::Method, path: &str, body: Option<&Value>) {
        let mut request =
            reqwest::Client::new().request(method, self.at(path)).bearer_auth(&self.people.publisher);
        if let Some(body) = body {
            request = request.body(body.to_string());
        }
        let status = request.send().await.unwrap().status();
        assert!(status.is_success(), "{path}: {status}");
    }

    /// A page that somebody who has signed in sees.
    pub async fn page(&self, name: &str, path: &str) -> Tab {
        let tab = self.tab().await;
        tab.sign_in(name).await;
        tab.go(&self.at(path)).await;
        tab
    }
}

async fn people(store: &str) -> People {
    let people = People::new(store).await;
    for (name, role) in [
        ("alice", Role::Listener),
        ("bob", Role::Listener),
        ("paula", Role::Publisher),
        ("root", Role::Admin),
    ] {
        people.add(name, role).await;
    }
    people
}
