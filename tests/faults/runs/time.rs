//! What has its time: expiry, reading, retention, and clocks that disagree.

use std::time::Duration;

use reqwest::Method;
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;

use crate::client::Pace;
use crate::ledger::{Ended, Ending};
use crate::run::{Plan, Run};
use crate::support::{DEADLINE, wait_until};

/// Events that end about when they are delivered: none may come after its end, whichever way it takes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn expiry_around_delivery() {
    let mut plan = Plan::new("expiry", "nothing comes after it expired (half a second)");
    plan.mix.lifetime = Some(Duration::from_millis(100));
    plan.promises.expiry_margin = Duration::from_millis(500);
    let mut run = Run::start(plan).await;
    let begun = run.now();
    for _ in 0..3 {
        run.kill(0);
        run.calm(0.5).await;
        run.restart(0).await;
    }
    run.fault("node 0 killed three times", begun);
    let (came, ended) = run.ended_events();
    assert!(came > 0 && ended > 0, "of those that expired {came} came, {ended} reached nobody");
    run.finish().await.assert_clean();
}

/// A user reads events while they are on their way to other tabs of theirs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reading_around_delivery() {
    let mut plan = Plan::new("read", "nothing comes after it was read (half a second)");
    plan.promises.read_margin = Duration::from_millis(500);
    let mut run = Run::start(plan).await;
    // A tab that is away now and then replays what was not read meanwhile.
    let away = run.listen(1, 0, Pace::Full).await;
    let begun = run.now();
    let client = reqwest::Client::new();
    let mut read = 0;
    for round in 0..40 {
        run.clients[away].set_pace(if round % 4 < 2 { Pace::Away } else { Pace::Full });
        read += read_what_is_new(&run, &client).await;
        run.calm(0.1).await;
    }
    let raced = run.deliveries_near_reading(Duration::from_millis(50));
    assert!(read >= 40 && raced >= 10, "{read} events were read, {raced} times just when they came");
    run.clients[away].set_pace(Pace::Full);
    run.fault("alice reads what has just come", begun);
    run.finish().await.assert_clean();
}

/// How many were read.
async fn read_what_is_new(run: &Run, client: &reqwest::Client) -> usize {
    let request = |method: Method, path: String| {
        let url = format!("{}/api/v1/inbox{path}", run.world.nodes[0].address);
        client.request(method, url).bearer_auth(run.world.token("alice"))
    };
    let page = request(Method::GET, "?unread=true&limit=5".into()).send().await.unwrap();
    let page: Value = page.json().await.unwrap();
    let entries = page["entries"].as_array().expect("entries");
    for entry in entries {
        let event_id = entry["id"].as_str().expect("an id").to_owned();
        let asked = run.now();
        let answer = request(Method::PUT, format!("/{event_id}/read")).send().await.unwrap();
        assert!(answer.status().is_success(), "{}", answer.status());
        let of = Ended::Read { user: "alice".into(), event_id };
        run.ledger.ending(Ending { asked, answered: Some(run.now()), of });
    }
    entries.len()
}

/// A listener that was away for longer than events are kept is notified; nothing is left out silently.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retention_passes_a_listener_who_is_away() {
    let mut plan = Plan::new("retention", "an explicit reset, never a silent gap");
    plan.promises.resets = true;
    let run = Run::start(plan).await;
    let begun = run.now();
    run.clients[0].set_pace(Pace::Away);
    let many = async || run.acked_since(begun) > 60;
    wait_until(DEADLINE, "there is something to remove", many).await;
    let store = run.world.people.store();
    let removed = store.remove_before(store.log_state().await.unwrap().now, 100_000).await.unwrap();
    assert!(removed > 50, "only {removed} events were removed");
    run.calm(1.0).await;
    run.clients[0].set_pace(Pace::Full);
    run.fault("a listener away while what it missed is removed", begun);
    run.calm(2.0).await;
    let outcome = run.finish().await;
    outcome.assert_clean();
    assert_eq!(outcome.verdict.measurements.resets, 1, "one listener is notified, and only that one");
}

/// Nodes whose clocks are 90 seconds apart: times come from the database.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clocks_that_disagree() {
    const LIBRARY: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1";
    assert!(std::path::Path::new(LIBRARY).exists(), "faketime must be installed");
    let mut plan = Plan::new("clocks", "nothing lost, nothing comes after it expired (1 s)");
    plan.mix.lifetime = Some(Duration::from_secs(4));
    let mut world = plan.world().await;
    for (node, offset) in world.nodes.iter_mut().zip(["-45s", "+0s", "+45s"]) {
        let variables =
            [("LD_PRELOAD", LIBRARY), ("FAKETIME", offset), ("FAKETIME_DONT_FAKE_MONOTONIC", "1")];
        node.variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    }
    world.start().await;
    let mut clocks = Vec::new();
    for node in &world.nodes {
        clocks.push(clock(&node.address).await);
    }
    let apart = (clocks[2] - clocks[0]).whole_seconds();
    assert!((85..=95).contains(&apart), "the clocks are {apart} s apart");
    let mut run = Run::over(world, plan);
    run.listen_everywhere().await;
    run.load();
    let begun = run.now();
    run.calm(8.0).await;
    run.fault("clocks 90 s apart", begun);
    run.finish().await.assert_untouched();
}

/// What time a node believes it is: it says so in each answer.
async fn clock(address: &str) -> OffsetDateTime {
    let answer = reqwest::get(format!("{address}/readyz")).await.unwrap();
    OffsetDateTime::parse(answer.headers()["date"].to_str().unwrap(), &Rfc2822).unwrap()
}
