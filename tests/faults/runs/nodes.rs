//! What happens to nodes: their listeners go on elsewhere.

use std::process::Command;
use std::time::{Duration, Instant};

use rand::RngExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::ledger::At;
use crate::run::{Plan, Run};
use crate::support::servers::signal;
use crate::support::{DEADLINE, wait_until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_random() {
    let mut run = Run::start(Plan::new("node-killed", "nothing lost or repeated")).await;
    for _ in 0..5 {
        let (begun, node) = (run.now(), run.draws.random_range(0..3));
        run.kill(node);
        let pause = run.draws.random_range(0.3..1.5);
        run.calm(pause).await;
        run.restart(node).await;
        run.fault(&format!("node {node} killed"), begun);
        run.calm(0.5).await;
    }
    // Nobody returns to a node that died: one that is killed again may have no listeners.
    assert!(run.streams_ended_since(At::ZERO) >= 4, "hardly any streams broke");
    run.finish().await.assert_clean();
}

/// The event is in the log and no bus ever announces it: only the head shows it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_between_commit_and_announcement() {
    dies_at("announcing", "node-killed-unannounced").await;
}

/// The publisher does not know; its retry finds the event it already published.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_between_commit_and_answer() {
    dies_at("committed", "node-killed-unanswered").await;
}

/// SIGABRT.
const ABORTED: i32 = 6;

async fn dies_at(failpoint: &str, name: &'static str) {
    let mut run = Run::start(Plan::new(name, "nothing lost, one key one event")).await;
    for node in 0..3 {
        let begun = run.now();
        let after = run.draws.random_range(5..30);
        let armed = vec![("FAILPOINTS".to_owned(), format!("{failpoint}={after}*off->return"))];
        run.world.nodes[node].variables = armed;
        // It may be at its end before it is ready.
        run.world.nodes[node].spawn();
        let ends = async || run.world.nodes[node].has_ended();
        wait_until(DEADLINE, "the node dies at its failpoint", ends).await;
        let signal = run.world.nodes[node].take_signal();
        assert_eq!(signal, Some(ABORTED), "it died of something else than its failpoint");
        run.calm(0.5).await;
        run.world.nodes[node].variables.clear();
        run.restart(node).await;
        run.fault(&format!("node {node} killed at {failpoint}"), begun);
    }
    run.finish().await.assert_clean();
}

/// A rolling restart: streams are asked to come back, none is refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn terminated_in_turn() {
    let mut run = Run::start(Plan::new("nodes-rolling", "nothing lost or repeated, none refused")).await;
    for node in 0..3 {
        let begun = run.now();
        assert!(run.terminate(node).await, "node {node} ended with an error");
        assert!(run.streams_ended_since(begun) > 0, "nobody listened on node {node}");
        run.calm(0.5).await;
        run.restart(node).await;
        run.fault(&format!("node {node} restarted"), begun);
        run.calm(0.5).await;
    }
    run.finish().await.assert_clean();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopped_for_half_a_minute() {
    let run = Run::start(Plan::new("node-stopped", "nothing lost or repeated")).await;
    let begun = run.now();
    signal(run.world.nodes[0].pid(), "STOP");
    run.calm(30.0).await;
    assert!(run.world.nodes[0].is_stopped());
    assert!(run.streams_ended_since(begun) > 0, "nobody noticed");
    signal(run.world.nodes[0].pid(), "CONT");
    run.fault("node 0 stopped", begun);
    run.calm(1.0).await;
    run.finish().await.assert_clean();
}

/// With the way to Postgres slow, a node is nearly always inside an append when it is stopped.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopped_inside_appends() {
    let mut plan = Plan::new("node-stopped-in-append", "nothing lost or repeated");
    plan.mix.pause = Duration::from_millis(5);
    let mut run = Run::start(plan).await;
    run.world.to_postgres.iter().for_each(|way| way.faults.delay(Duration::from_millis(10)));
    let mut inside = 0;
    for _ in 0..8 {
        let (begun, node) = (run.now(), run.draws.random_range(0..3));
        signal(run.world.nodes[node].pid(), "STOP");
        let pause = run.draws.random_range(0.2..1.0);
        run.calm(pause).await;
        assert!(run.world.nodes[node].is_stopped());
        let over = run.now();
        signal(run.world.nodes[node].pid(), "CONT");
        run.fault(&format!("node {node} stopped"), begun);
        run.calm(0.3).await;
        inside += run.count_attempts(|attempt| attempt.sent < begun && attempt.ended > over);
    }
    assert!(inside > 0, "no append was under way when a node was stopped");
    run.finish().await.assert_clean();
}

/// What is connected goes on; what cannot connect here does elsewhere.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn out_of_file_descriptors() {
    let run = Run::start(Plan::new("node-descriptors", "nothing lost, open streams go on")).await;
    let begun = run.now();
    let (pid, address) = (run.world.nodes[0].pid(), run.world.nodes[0].address.replace("http://", ""));
    limit(pid, "nofile", std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count() as u64 + 10);
    let mut idle = Vec::new();
    for _ in 0..40 {
        idle.push(TcpStream::connect(&address).await.unwrap());
    }
    let refused = async || run.world.nodes[0].metric("carillon_accept_failures_total").await > 0.0;
    // The metrics need a descriptor, too: some are given back for them.
    run.calm(4.0).await;
    idle.truncate(4);
    wait_until(DEADLINE, "the node counts what it could not accept", refused).await;
    limit(pid, "nofile", 20_000);
    drop(idle);
    run.fault("node 0 out of file descriptors", begun);
    run.calm(1.0).await;
    run.finish().await.assert_untouched();
}

/// An allocation that fails ends the process: like any other death.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn out_of_memory() {
    let mut plan = Plan::new("node-memory", "nothing lost or repeated");
    plan.mix.pause = Duration::from_millis(100);
    let mut run = Run::start(plan).await;
    let begun = run.now();
    let pid = run.world.nodes[0].pid();
    // Not the address space (`as`): an allocator has reserved more of that than it has memory.
    limit(pid, "data", data_size(pid));
    let mut uploads = Vec::new();
    let dies = Instant::now() + DEADLINE;
    while !run.world.nodes[0].has_ended() {
        assert!(Instant::now() < dies, "node 0 lives with {} bodies that never end", uploads.len());
        // One that is not read is abandoned.
        uploads.extend(timeout(Duration::from_secs(1), send_half_a_body(&run)).await.ok().flatten());
    }
    let signal = run.world.nodes[0].take_signal();
    assert_eq!(signal, Some(ABORTED), "it died of something else");
    run.restart(0).await;
    run.fault("node 0 gets no more memory and dies", begun);
    run.finish().await.assert_clean();
}

/// The private writable memory of a process, in bytes.
fn data_size(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmData:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

/// Begins a batch at node 0 and sends half of it; keeps the connection, if there is one.
async fn send_half_a_body(run: &Run) -> Option<TcpStream> {
    const HALF: usize = 2 << 20;
    let address = run.world.nodes[0].address.replace("http://", "");
    let mut connection = TcpStream::connect(address).await.ok()?;
    let head = format!(
        "POST /api/v1/events/batch HTTP/1.1\r\nHost: node\r\nAuthorization: Bearer {}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        run.world.people.publisher,
        2 * HALF
    );
    connection.write_all(head.as_bytes()).await.ok()?;
    connection.write_all(&vec![b' '; HALF]).await.ok()?;
    Some(connection)
}

fn limit(pid: u32, what: &str, most: u64) {
    let status =
        Command::new("prlimit").arg(format!("--pid={pid}")).arg(format!("--{what}={most}:")).status();
    assert!(status.expect("prlimit must be on the path").success());
}
