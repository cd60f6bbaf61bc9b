//! What happens to listeners and to the ways to them: each costs only itself, and misses nothing.

use std::time::Duration;

use crate::client::Pace;
use crate::proxy::{Direction, Ending, Faults, Proxy, Times};
use crate::run::{Plan, Run};
use crate::support::{DEADLINE, wait_until};

/// It reads a byte a second, then all the rest.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_a_byte_a_second() {
    let mut plan = Plan::new("client-slow", "nothing lost; the others notice nothing");
    plan.mix.bytes = 8_000;
    plan.promises.worst_delay = Some(Duration::from_secs(2));
    slow(plan, "listener reads a byte a second", Pace::Trickle(1, Duration::from_secs(1))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stalled() {
    let mut plan = Plan::new("client-stalled", "nothing lost; the others notice nothing");
    plan.mix.bytes = 8_000;
    plan.promises.worst_delay = Some(Duration::from_secs(2));
    slow(plan, "listener reads nothing", Pace::Stalled).await;
}

async fn slow(plan: Plan, what: &str, pace: Pace) {
    let mut run = Run::start(plan).await;
    let mut options = run.options(0, 0);
    options.listener.is_slow = true;
    let slow = run.listen_as(options).await;
    let begun = run.now();
    run.clients[slow].set_pace(pace);
    run.calm(8.0).await;
    let lags = run.world.nodes[0].metric("carillon_listener_lags_total").await;
    assert!(lags > 0.0, "node 0 never had more for the listener than it keeps");
    run.clients[slow].set_pace(Pace::Full);
    run.fault(what, begun);
    run.calm(1.0).await;
    run.finish().await.assert_untouched();
}

/// The connection stays open and carries nothing any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_open() {
    let mut run = Run::start(Plan::new("client-half-open", "nothing lost or repeated")).await;
    let (proxy, _) = listen_through_proxy(&mut run, 0, 3).await;
    let begun = run.now();
    proxy.faults.stall(Direction::Both);
    run.calm(8.0).await;
    assert!(run.streams_ended_since(begun) > 0, "the listener did not notice");
    run.fault("the way to a listener carries nothing", begun);
    run.calm(1.0).await;
    run.finish().await.assert_clean();
}

/// The stream is cut after each number of bytes: within its head, within each part of a frame, between frames.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cut_at_every_offset() {
    const LISTENERS: u64 = 8;
    let mut plan = Plan::new("client-cut-at-every-byte", "nothing lost or repeated");
    plan.mix.bytes = 20;
    let mut run = Run::start(plan).await;
    let begun = run.now();
    let mut cutting = Vec::new();
    let mut proxies = Vec::new();
    for first in 0..LISTENERS {
        let (proxy, _) = listen_through_proxy(&mut run, first as usize, 1).await;
        cutting.push(tokio::spawn(cut_at(proxy.faults.clone(), (first..1_000).step_by(LISTENERS as usize))));
        proxies.push(proxy);
    }
    for cutting in cutting {
        cutting.await.unwrap();
    }
    run.fault("streams cut after 0 to 999 bytes", begun);
    run.finish().await.assert_clean();
}

async fn cut_at(way: Faults, offsets: impl Iterator<Item = u64>) {
    for offset in offsets {
        let before = way.counts().cut;
        way.cut_after(Direction::ToClient, offset, Times::Always, Ending::Close);
        if before == 0 {
            way.cut(Ending::Close).await;
        }
        // The connection that was open when this was said may have been cut by what was said before.
        way.until("the stream is cut", |counts| counts.cut >= before + 2).await;
    }
    way.heal();
}

/// One more listener, on node 0 through a proxy first, then on the others up to so many nodes.
async fn listen_through_proxy(run: &mut Run, wants: usize, nodes: usize) -> (Proxy, usize) {
    let proxy = Proxy::start(&run.world.nodes[0].address).await;
    let mut options = run.options(0, wants);
    options.addresses[0] = proxy.address().to_string();
    options.addresses.truncate(nodes);
    options.pause = Duration::from_millis(5);
    let client = run.listen_as(options).await;
    (proxy, client)
}

/// Thousands come at once from a node that died. Who missed nothing reads nothing from the store.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reconnect_storm() {
    const LISTENERS: usize = 5_000;
    let mut plan =
        Plan::new("reconnect-storm", "nothing lost or repeated; no store reads by who missed nothing");
    plan.options = vec!["--streams-per-user", "10000"];
    plan.promises.descriptors_growth = LISTENERS as u64 + 100;
    plan.promises.lag_zero_within = DEADLINE;
    // They live on one node first, and then on another.
    plan.promises.memory_growth = LISTENERS as u64 * 25_000;
    let mut run = Run::without_listeners(plan).await;
    run.listen_many(LISTENERS, 0).await;
    for number in 0..3 {
        run.publish_one(&format!("before-{number}")).await;
    }
    let all_came = async || {
        run.clients.iter().all(|client| client.deliveries() >= 3 || client.listener.min_priority.is_some())
    };
    wait_until(DEADLINE, "everybody has what was published before", all_came).await;
    // A client that does not get these learns with the next heartbeat that they are behind it.
    run.calm(2.5).await;
    let begun = run.now();
    run.kill(0);
    let all_back = async || elsewhere(&run, "carillon_listeners").await >= LISTENERS as f64;
    wait_until(DEADLINE * 3, "all listen on other nodes", all_back).await;
    run.fault("node 0 killed under 5,000 listeners", begun);
    let reads = elsewhere(&run, "carillon_replay_reads_total").await;
    println!("{LISTENERS} listeners moved in {:?}; {reads} of them read from the store", run.now() - begun);
    assert_eq!(reads, 0.0, "who missed nothing read from the store");
    run.restart(0).await;
    run.finish().await.assert_clean();
}

/// A metric of all nodes but the first.
async fn elsewhere(run: &Run, metric: &str) -> f64 {
    run.world.nodes[1].metric(metric).await + run.world.nodes[2].metric(metric).await
}
