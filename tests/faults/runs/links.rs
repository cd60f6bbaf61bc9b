//! What happens to the way to Postgres while the database itself is well.

use std::time::Duration;

use reqwest::Client;
use serde_json::json;
use tokio::task::JoinSet;

use crate::proxy::Direction;
use crate::run::{Plan, Run};
use crate::support::{DEADLINE, wait_until};

/// Nothing answers, nothing ends, and those who ask wait only briefly and ask again. Then the name leads elsewhere: new
/// connections work, those that there were stay silent for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_and_then_moved() {
    let plan =
        Plan::new("postgres-link-silent", "nothing lost, no stream breaks, every node publishes again");
    let run = Run::start(plan).await;
    let begun = run.now();
    let mut callers = impatient_callers(&run);
    run.calm(1.0).await;
    run.world.to_postgres.iter().for_each(|way| way.faults.stall(Direction::Both));
    run.calm(0.5).await;
    let silent = run.now();
    run.calm(14.5).await;
    assert_eq!(run.acked_since(silent), 0, "a silent Postgres took events");
    for way in &run.world.to_postgres {
        way.faults.silence();
        way.faults.resume();
    }
    takes_events_everywhere(&run).await;
    run.outage("the link to Postgres silent, then its name moved", begun);
    callers.shutdown().await;
    run.calm(2.0).await;
    run.finish().await.assert_untouched();
}

/// The database moves and nobody is told: each connection in use falls silent, twenty times.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn moved_again_and_again() {
    let plan = Plan::new("postgres-moved", "nothing lost, no stream breaks, every node publishes again");
    let run = Run::start(plan).await;
    let begun = run.now();
    let mut callers = impatient_callers(&run);
    for moved in 0..20 {
        run.world.to_postgres[moved % 3].faults.silence();
        run.calm(0.8).await;
    }
    takes_events_everywhere(&run).await;
    run.outage("all connections to Postgres silent, twenty times", begun);
    callers.shutdown().await;
    run.calm(2.0).await;
    run.finish().await.assert_untouched();
}

/// Each node is asked all the time for what it reads and writes, by callers that give up after a moment.
fn impatient_callers(run: &Run) -> JoinSet<()> {
    let client = Client::new();
    let mut callers = JoinSet::new();
    for (node, number) in
        (0..run.world.nodes.len()).flat_map(|node| (0..16).map(move |number| (node, number)))
    {
        let address = &run.world.nodes[node].address;
        let request = match number % 4 {
            0 => client.get(format!("{address}/api/v1/inbox")).bearer_auth(run.world.token("alice")),
            1 => client.get(format!("{address}/api/v1/inbox/counts")).bearer_auth(run.world.token("bob")),
            // Nobody the node remembers: it looks the token up.
            2 => client.get(format!("{address}/api/v1/inbox")).bearer_auth("carillon-unknown"),
            // A name that is nobody's: it is looked up, and nothing is published.
            _ => client
                .post(format!("{address}/api/v1/events"))
                .bearer_auth(&run.world.people.publisher)
                .body(json!({ "type": "x", "to": { "user": "nobody" }, "data": 1 }).to_string()),
        };
        let request = request.timeout(Duration::from_millis(50 + 40 * number));
        callers.spawn(async move {
            loop {
                let _ = request.try_clone().expect("its body is text").send().await;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
    }
    callers
}

async fn takes_events_everywhere(run: &Run) {
    let client = Client::new();
    for node in &run.world.nodes {
        let takes = async || {
            // For nobody who listens: the run knows nothing of it.
            let event = json!({ "type": "probe", "to": { "user": "publisher" }, "data": 1 });
            let publishing = client.post(format!("{}/api/v1/events", node.address));
            let publishing = publishing.bearer_auth(&run.world.people.publisher).body(event.to_string());
            publishing.send().await.is_ok_and(|answer| answer.status() == 201)
        };
        wait_until(DEADLINE, "the node takes events again", takes).await;
        wait_until(DEADLINE, "the node is ready again", || node.is_ready()).await;
    }
}
