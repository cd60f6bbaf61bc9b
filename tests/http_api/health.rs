//! Health, metrics, and how a node ends.

use std::time::Instant;

use reqwest::StatusCode;
use serde_json::json;

use crate::setup::{Setup, send};
use crate::support::DEADLINE;
use crate::support::listener::Listener;
use crate::support::servers::signal;
use crate::support::wait_until;

pub async fn a_node_reports_its_health_and_metrics(setup: Setup) {
    send(setup.get("/healthz")).await.expect(200);
    let ready = send(setup.get("/readyz")).await.expect(200);
    assert_eq!(ready.json(), json!({ "ready": true, "reasons": [] }));

    setup.publish_to_all("1").await;
    setup.publish_to_all("2").await;
    let published = async || setup.node.metric("carillon_published_total").await == 2.0;
    wait_until(DEADLINE, "what was published is counted", published).await;
    send(setup.get("/metrics")).await.expect_problem(404, "");
    let other = setup.node.metrics.replace("/metrics", "/healthz");
    assert_eq!(reqwest::get(other).await.unwrap().status(), StatusCode::NOT_FOUND);
}

pub async fn asked_to_stop_a_node_ends_well(setup: Setup) {
    let address = setup.node.address.clone();
    let mut stream = setup.stream(&setup.alice, "").await;
    // It comes back as soon as its connection ends, and must never meet a refusal that ends it for good.
    let listener = Listener::start(&[&address], &setup.bob, "").await;
    let published = setup.publish_to_all("last").await;
    listener.has_all(&[published.id]).await;
    stream.until_data("last").await;

    // While it drains it answers, but nobody is to send another request into the end of the connection.
    signal(setup.node.pid(), "TERM");
    let begun = Instant::now();
    loop {
        let answer = send(setup.get("/readyz")).await;
        if answer.status == 503 {
            break assert_eq!(answer.header("connection"), "close");
        }
        assert!(begun.elapsed() < DEADLINE, "it does not say that it is draining");
    }
    let mut node = setup.node;
    let (sender, ended) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || sender.send(node.terminate()));
    stream.breaks_off().await;
    assert!(stream.notices("carillon.signout").is_empty());
    let ended_well = tokio::time::timeout(DEADLINE, ended).await.expect("the node ends").unwrap();
    assert!(ended_well);
    assert_eq!(listener.log().refused, None);
    assert!(reqwest::get(format!("{address}/healthz")).await.is_err(), "nobody listens there any more");
}
