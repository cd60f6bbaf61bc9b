//! Streams that come and go by the thousand leave nothing in a node: no descriptor, no memory.

mod support;

use std::sync::Arc;

use carillon::account::Role;
use serde_json::json;
use support::node::{Node, People, publish};
use support::{DEADLINE, wait_until};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::{Barrier, Semaphore};
use tokio::task::JoinSet;
use tokio::time::timeout;

/// How many are open at once, and how many of them begin at once.
const AT_ONCE: usize = 2_000;
const BEGIN_AT_ONCE: usize = 100;
/// How many come and go before what they leave counts: by then a node has what it keeps for the next ones.
const WARM: usize = 2 * AT_ONCE;
/// How many come and go in all, unless `CARILLON_TEST_STREAMS` says otherwise.
const STREAMS: usize = 5 * AT_ONCE;
/// What the node may grow by meanwhile: it varies by some megabytes from one moment to the next.
const MAX_GROWTH: u64 = 8 << 20;
const USERS: usize = 4;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_that_came_and_went_leave_no_descriptor_and_no_memory() {
    let streams = std::env::var("CARILLON_TEST_STREAMS").map_or(STREAMS, |text| text.parse().unwrap());
    let folder = TempDir::new().unwrap();
    let store_url = format!("sqlite:{}", folder.path().join("carillon.sqlite").display());
    let people = People::new(&store_url).await;
    let mut tokens = Vec::new();
    for user in 0..USERS {
        tokens.push(people.add(&format!("user-{user}"), Role::Listener).await);
    }
    let node = Node::start(&store_url, "memory:", &["--streams-per-user", "1000"]).await;
    let (mut descriptors, mut memory) = (0, 0);
    for round in 0..streams / AT_ONCE {
        come_and_go(&node, &people.publisher, &tokens, round).await;
        wait_until(DEADLINE, "all have gone", async || node.metric("carillon_listeners").await == 0.0).await;
        if round * AT_ONCE < WARM {
            (descriptors, memory) = (open_files(&node), node.memory());
            continue;
        }
        wait_until(DEADLINE, "their descriptors are closed", async || open_files(&node) <= descriptors).await;
        let is_small = async || node.memory() < memory + MAX_GROWTH;
        wait_until(DEADLINE, "their memory is given back", is_small).await;
    }
    println!(
        "{streams} streams came and went; after the first {WARM} the node grew by {} KiB to {} MiB",
        (node.memory() as i64 - memory as i64) >> 10,
        node.memory() >> 20
    );
}

fn open_files(node: &Node) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", node.pid())).unwrap().count()
}

/// Opens streams, publishes an event that each gets, and ends them in several ways.
async fn come_and_go(node: &Node, publisher: &str, tokens: &[String], round: usize) {
    let begin = Arc::new(Semaphore::new(BEGIN_AT_ONCE));
    let all_listen = Arc::new(Barrier::new(AT_ONCE + 1));
    let mut clients = JoinSet::new();
    for number in 0..AT_ONCE {
        let address = node.address.strip_prefix("http://").unwrap().to_owned();
        // Some are on a topic of their own that nobody comes back to, and watch who else is there.
        let query = if number % 2 == 0 {
            format!("?topic=chat/{round}-{number}&presence=true")
        } else {
            String::new()
        };
        let token = &tokens[number % tokens.len()];
        let request = format!(
            "GET /api/v1/stream{query} HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {token}\r\n\r\n"
        );
        let (begin, all_listen) = (begin.clone(), all_listen.clone());
        clients.spawn(async move {
            let one_more = begin.acquire().await.unwrap();
            let mut client = TcpStream::connect(&address).await.unwrap();
            client.write_all(request.as_bytes()).await.unwrap();
            read_until(&mut client, "event: carillon.connected").await;
            drop(one_more);
            all_listen.wait().await;
            read_until(&mut client, &format!("event of round {round}\"")).await;
            end(client, number).await;
        });
    }
    all_listen.wait().await;
    let event = json!({ "type": "test", "to": "everyone", "data": format!("event of round {round}") });
    publish(&reqwest::Client::new(), &[&node.address], publisher, &event).await;
    while let Some(client) = clients.join_next().await {
        client.unwrap();
    }
}

async fn read_until(client: &mut TcpStream, text: &str) {
    let mut all = Vec::new();
    let came = async {
        while !String::from_utf8_lossy(&all).contains(text) {
            assert!(client.read_buf(&mut all).await.unwrap() > 0, "the stream ended");
        }
    };
    let is_there = timeout(DEADLINE, came).await.is_ok();
    assert!(is_there, "{text:?} does not come: {}", String::from_utf8_lossy(&all));
}

async fn end(mut client: TcpStream, number: usize) {
    match number % 3 {
        0 => drop(client),
        // It is reset.
        1 => client.set_zero_linger().unwrap(),
        // It sends no more, and waits until the node closes it, too.
        _ => {
            client.shutdown().await.unwrap();
            let mut rest = Vec::new();
            let ended = timeout(DEADLINE, client.read_to_end(&mut rest)).await;
            ended.expect("the node keeps a connection that its client has ended").unwrap();
        }
    }
}
