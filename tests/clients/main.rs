//! Clients that others wrote, each in its default use, against a node that breaks: the matrix of `docs/clients.md`.
//!
//! Each kind of case runs with some clients by default, and with all of them when ignored tests run.

#[allow(dead_code, reason = "the pages' tests use the rest")]
#[path = "../browser/chromium.rs"]
mod chromium;
mod client;
mod firefox;
mod install;
mod place;
mod relay;
#[path = "../support/mod.rs"]
mod support;

use client::{ALL, Client, Received, Running, SOME};
use futures_util::future::join_all;
use place::{Place, failures_of};
use relay::Relay;
use serde_json::{Value, json};
use support::DEADLINE;
use support::balancer::Balancer;
use support::wait_until;

/// The wire forms of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Envelope,
    Named,
    Plain,
    Data,
}

impl Form {
    const ALL: [Self; 4] = [Self::Envelope, Self::Named, Self::Plain, Self::Data];

    fn name(self) -> &'static str {
        match self {
            Self::Envelope => "envelope",
            Self::Named => "named",
            Self::Plain => "plain",
            Self::Data => "data",
        }
    }

    /// What a client hands out for an event of this type with this data.
    fn shows(self, kind: &str, data: &Value, received: &Received) -> bool {
        let name = if matches!(self, Self::Envelope | Self::Data) { "message" } else { kind };
        let is_named = received.event == name;
        let parsed = || serde_json::from_str::<Value>(&received.data).ok();
        let has_data = match (self, data) {
            (Self::Envelope | Self::Named, _) => {
                parsed().is_some_and(|event| event["data"] == *data && event["type"] == kind)
            }
            // Text goes as text, and a line end of any kind as a line end.
            (_, Value::String(text)) if !text.is_empty() => {
                received.data == text.replace("\r\n", "\n").replace('\r', "\n")
            }
            _ => parsed().is_some_and(|value| value == *data),
        };
        is_named && has_data
    }
}

/// What is hard to carry.
fn hard_data() -> Vec<Value> {
    // Two bytes, three, four; line ends of Unicode that are none of SSE; what looks like a field.
    let unicode = "Grüße, 世界 🌍 \u{2028}\u{2029}\u{85} data: x";
    vec![
        json!({ "text": unicode, "list": [1, null, true] }),
        json!(unicode),
        json!("one\ntwo\r\nthree\rfour\n\nevent: six"),
        json!(""),
        json!(17),
        json!(null),
        json!("é".repeat(30_000)),
    ]
}

/// Every form of what is hard to carry arrives through a network that delivers three bytes at a time.
async fn receives(clients: &[Client], forms: &[Form]) {
    let place = Place::new().await;
    let data = hard_data();
    let mut failures = Vec::new();
    for &form in forms {
        let check = async |client: Client| {
            let relay = Relay::with_pieces(&place.node.address, 3).await;
            let address = format!("{}/api/v1/stream?form={}", relay.address, form.name());
            (Running::start(client, &[address], &place.alice).await, relay)
        };
        let running = join_all(clients.iter().copied().map(check)).await;
        for (running, _) in &running {
            running.connected(0).await;
        }
        for (index, data) in data.iter().enumerate() {
            place.publish(["note", "alert"][index % 2], data).await;
        }
        for (running, _) in &running {
            running.has_events(0, data.len()).await;
            let events = running.events(0);
            let wrong: Vec<_> = data
                .iter()
                .enumerate()
                .filter(|(index, data)| {
                    !events
                        .get(*index)
                        .is_some_and(|event| form.shows(["note", "alert"][index % 2], data, event))
                })
                .map(|(index, data)| format!("{data} came as {:?}", events.get(index)))
                .collect();
            if !wrong.is_empty() || events.len() != data.len() {
                failures.push(format!(
                    "{:?}, {}: {} {wrong:.300?}",
                    running.client,
                    form.name(),
                    events.len()
                ));
            }
        }
    }
    assert_eq!(failures, Vec::<String>::new());
}

/// The node is killed; what is published before the clients are back is neither lost nor repeated.
async fn outlives_a_killed_node(clients: &[Client], has_received: bool) {
    let mut place = Place::new().await;
    let mut streams = place.streams(clients, &place.node.address).await;
    let mut expected = Vec::new();
    if has_received {
        expected.extend([1, 2, 3]);
        place.publish_all(&expected).await;
        for (running, _) in &streams {
            running.has_events(0, expected.len()).await;
        }
    }
    // Nobody comes back before everything is published.
    for (_, relay) in &mut streams {
        relay.away().await;
    }
    place.node.kill();
    place.node.restart().await;
    place.publish_all(&[4, 5, 6]).await;
    for (_, relay) in &mut streams {
        relay.back().await;
    }
    place.until_listeners(streams.len()).await;
    place.publish_all(&[7]).await;
    expected.extend([4, 5, 6, 7]);
    assert_eq!(failures_of(&streams, &expected).await, Vec::<String>::new());
}

/// All nodes behind the proxy are away until every client has asked for them.
async fn outlives_all_nodes(clients: &[Client]) {
    let mut place = Place::new().await;
    let balancer = Balancer::start([&place.node.address, &place.node.address, &place.node.address]).await;
    let streams = place.streams(clients, &balancer.address).await;
    place.publish_all(&[1]).await;
    for (running, _) in &streams {
        running.has_events(0, 1).await;
    }
    let requests: Vec<usize> = streams.iter().map(|(_, relay)| relay.requests()).collect();
    place.node.kill();
    let have_asked =
        async || streams.iter().zip(&requests).all(|((_, relay), before)| relay.requests() >= before + 2);
    wait_until(DEADLINE, "all clients have asked while all nodes are away", have_asked).await;
    place.node.restart().await;
    place.publish_all(&[2, 3]).await;
    place.until_listeners(streams.len()).await;
    place.publish_all(&[4]).await;
    assert_eq!(failures_of(&streams, &[1, 2, 3, 4]).await, Vec::<String>::new());
}

/// A client that is signed out gets `carillon.signout`, and does not go on asking.
async fn ends_when_signed_out(clients: &[Client]) {
    let place = Place::new().await;
    let streams = place.streams(clients, &place.node.address).await;
    place.publish_all(&[1]).await;
    for (running, _) in &streams {
        running.has_events(0, 1).await;
    }
    place.revoke_the_token();
    let mut failures = Vec::new();
    for (running, _) in &streams {
        running.sign_out().await;
    }
    for (running, _) in &streams {
        running.settled(|| running.end(0).is_some()).await;
        let has_signout = running.received(0).iter().any(|received| received.event == "carillon.signout");
        if running.end(0).is_none() || !has_signout {
            failures.push(format!("{:?}: signout {has_signout}, end {:?}", running.client, running.end(0)));
        }
    }
    assert_eq!(failures, Vec::<String>::new());
}

/// How many streams one process has at a time: an aiohttp session has 100 connections, Chromium 255.
const TOGETHER: usize = 100;

/// A connection is cut after every byte of an event's frame: each stream gets the event once, save where a client is known
/// to be wrong.
async fn is_cut_at_every_byte(clients: &[Client]) {
    let place = Place::new().await;
    let length = frame_length(&place).await;
    let mut failures = Vec::new();
    for &client in clients {
        let (mut lost, mut repeated) = (Vec::new(), Vec::new());
        let all: Vec<usize> = (1..=length).collect();
        for cuts in all.chunks(TOGETHER) {
            for (cut, events) in cut_at(&place, client, cuts).await {
                match events.iter().filter(|&&number| number == 1).count() {
                    0 => lost.push(cut),
                    1 => {}
                    _ => repeated.push(cut),
                }
            }
        }
        println!("{client:?}, cut after each of {length} bytes: lost {lost:?}, repeated {repeated:?}");
        if lost.len() > client.bytes_at_risk() || !repeated.is_empty() {
            failures.push(format!("{client:?} of {length} bytes: lost {lost:?}, repeated {repeated:?}"));
        }
    }
    assert_eq!(failures, Vec::<String>::new());
}

/// How many bytes an event takes on the wire, with what HTTP adds.
async fn frame_length(place: &Place) -> usize {
    const FAR: usize = 1 << 30;
    let streams = place.streams(&[Client::Curl], &place.node.address).await;
    let (running, relay) = &streams[0];
    relay.cut_after(FAR);
    place.publish_all(&[1]).await;
    running.has_events(0, 1).await;
    // The end of the chunk may come with the next frame.
    FAR - relay.before_the_cut().unwrap() + 2
}

/// A stream for each cut; the numbers that each got.
async fn cut_at(place: &Place, client: Client, cuts: &[usize]) -> Vec<(usize, Vec<i64>)> {
    let mut relays = Vec::new();
    for _ in cuts {
        relays.push(Relay::start(&place.node.address).await);
    }
    let streams: Vec<String> =
        relays.iter().map(|relay| format!("{}/api/v1/stream", relay.address)).collect();
    let running = Running::start(client, &streams, &place.alice).await;
    for stream in 0..cuts.len() {
        running.connected(stream).await;
    }
    let before: Vec<usize> = relays.iter().map(Relay::requests).collect();
    for (relay, cut) in relays.iter().zip(cuts) {
        relay.cut_after(*cut);
    }
    place.publish_all(&[1]).await;
    // Each cut has happened, or waits for the next frame.
    let are_back = async || {
        let mut all = relays.iter().zip(&before);
        all.all(|(relay, before)| relay.before_the_cut().is_some() || relay.requests() > *before)
    };
    wait_until(DEADLINE, "all streams are opened again", are_back).await;
    place.until_listeners(cuts.len()).await;
    place.publish_all(&[2]).await;
    let mut got = Vec::new();
    for (stream, cut) in cuts.iter().enumerate() {
        running.settled(|| running.numbers(stream).contains(&2)).await;
        got.push((*cut, running.numbers(stream)));
    }
    got
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn some_receive_what_is_hard_to_carry() {
    receives(&SOME, &[Form::Plain]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn some_outlive_a_killed_node() {
    tokio::join!(outlives_a_killed_node(&SOME, false), outlives_a_killed_node(&SOME, true));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn some_outlive_that_all_nodes_are_away() {
    outlives_all_nodes(&SOME).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn some_end_when_signed_out() {
    ends_when_signed_out(&SOME).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_is_cut_at_every_byte() {
    is_cut_at_every_byte(&[Client::EventSource5]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "installs all clients"]
async fn all_receive_what_is_hard_to_carry() {
    receives(&ALL, &Form::ALL).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "installs all clients"]
async fn all_outlive_a_node_killed_before_the_first_event() {
    outlives_a_killed_node(&ALL, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "installs all clients"]
async fn all_outlive_a_node_killed_after_some_events() {
    outlives_a_killed_node(&ALL, true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "installs all clients"]
async fn all_outlive_that_all_nodes_are_away() {
    outlives_all_nodes(&ALL).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "installs all clients"]
async fn all_end_when_signed_out() {
    ends_when_signed_out(&ALL).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "installs all clients"]
async fn all_are_cut_at_every_byte() {
    is_cut_at_every_byte(&ALL).await;
}
