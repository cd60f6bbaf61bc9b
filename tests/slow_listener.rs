//! A listener that reads one byte a second beside fast ones: it costs no memory, delays nobody and misses nothing.

mod support;

use std::time::Duration;

use carillon::account::Role;
use carillon::sse_parser::SseParser;
use serde_json::{Value, json};
use support::DEADLINE;
use support::listener::Listener;
use support::node::{Node, People};
use support::servers::{PostgresServer, RedisServer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{sleep, timeout};

/// Events in one batch, the bytes of each, and batches; and what the node may grow by meanwhile, once warm.
const BATCH: usize = 100;
const DATA: usize = 16 * 1024;
const BATCHES: usize = 30;
const MAX_GROWTH: u64 = 16 << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listener_that_reads_a_byte_a_second_costs_nothing_and_misses_nothing() {
    let (postgres, redis) = (PostgresServer::start(), RedisServer::start(&[]).await);
    let store_url = postgres.new_database().await;
    let people = People::new(&store_url).await;
    let slow_token = people.add("slow", Role::Listener).await;
    let fast_token = people.add("fast", Role::Listener).await;
    let node = Node::start(&store_url, &redis.url(""), &[]).await;
    let mut slow = connect(&node.address, &slow_token).await;
    let mut fast = Vec::new();
    for _ in 0..3 {
        fast.push(Listener::start(&[&node.address], &fast_token, "").await);
    }

    let mut ids = Vec::new();
    let mut received = Vec::new();
    let mut after_the_first = 0;
    let mut highest = 0;
    for batch in 0..BATCHES {
        ids.extend(publish_batch(&node, &people.publisher).await);
        for listener in &fast {
            listener.has_all(&ids).await;
        }
        // A byte between batches, and one every second where they take longer.
        read_one_byte(&mut slow, &mut received).await;
        highest = highest.max(node.memory());
        if batch == 9 {
            after_the_first = highest;
        }
    }
    for _ in 0..5 {
        sleep(Duration::from_secs(1)).await;
        read_one_byte(&mut slow, &mut received).await;
    }
    highest = highest.max(node.memory());
    let sent = (ids.len() * DATA) >> 20;
    let grown = highest.saturating_sub(after_the_first);
    println!(
        "slow listener: {sent} MiB published, node grew by {} KiB to {} MiB",
        grown >> 10,
        highest >> 20
    );
    assert!(grown < MAX_GROWTH, "the node grew by {grown} bytes");
    assert!(node.metric("carillon_listener_lags_total").await >= 1.0, "it never lagged: this proves nothing");
    for listener in &fast {
        assert_eq!(listener.log().received.len(), ids.len());
        assert_eq!(listener.log().connections, 1);
        listener.assert_once_and_in_order();
    }

    // It wakes up and reads what there is: everything, once, in order, on the same connection.
    let head = received.windows(4).position(|end| end == b"\r\n\r\n");
    assert_eq!(head, None, "it read faster than it should");
    let mut parser = SseParser::new(1 << 20);
    let mut came: Vec<String> = Vec::new();
    let mut is_body = false;
    while came.len() < ids.len() {
        let mut piece = vec![0; 1 << 16];
        let read = timeout(DEADLINE, slow.read(&mut piece)).await.expect("nothing more comes").unwrap();
        assert!(read > 0, "the slow listener was dropped after {} of {} events", came.len(), ids.len());
        received.extend_from_slice(&piece[..read]);
        if !is_body {
            let Some(end) = received.windows(4).position(|end| end == b"\r\n\r\n") else { continue };
            received.drain(..end + 4);
            is_body = true;
        }
        for event in parser.feed(&std::mem::take(&mut received)).unwrap() {
            // The stream's own: how it begins, and where it is.
            if ["carillon.connected", "carillon.position"].contains(&event.event.as_str()) {
                continue;
            }
            assert_eq!(event.event, "message", "{event:?}");
            let event: Value = serde_json::from_str(&event.data).unwrap();
            came.push(event["id"].as_str().unwrap().to_owned());
        }
    }
    assert!(came == ids, "something was lost, repeated or out of order");
}

/// Opens a stream with as little room in between as the system allows. HTTP/1.0, so that the body comes as it is.
async fn connect(address: &str, token: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(2_048).unwrap();
    let address = address.strip_prefix("http://").unwrap().parse().unwrap();
    let mut stream = socket.connect(address).await.unwrap();
    let request = format!("GET /api/v1/stream HTTP/1.0\r\nauthorization: Bearer {token}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

async fn read_one_byte(stream: &mut TcpStream, received: &mut Vec<u8>) {
    received.push(timeout(DEADLINE, stream.read_u8()).await.expect("nothing comes").unwrap());
}

/// Publishes a batch for everyone; gives the events' ids.
async fn publish_batch(node: &Node, token: &str) -> Vec<String> {
    let data = "x".repeat(DATA);
    let events = vec![json!({ "type": "test", "to": "everyone", "data": data }); BATCH];
    let request = reqwest::Client::new().post(format!("{}/api/v1/events/batch", node.address));
    let body = json!({ "events": events }).to_string();
    let answer = request.bearer_auth(token).body(body).send().await.unwrap();
    assert_eq!(answer.status(), 201);
    let answer: Value = answer.json().await.unwrap();
    answer["events"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| event["id"].as_str().unwrap().to_owned())
        .collect()
}
