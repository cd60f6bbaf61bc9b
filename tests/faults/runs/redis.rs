//! What happens to Redis and to the ways there: deliveries are slower, nothing else.

use std::time::Duration;

use crate::proxy::{Direction, Ending};
use crate::resp::PushFault;
use crate::run::{Plan, Run};
use crate::support::{DEADLINE, wait_until};

/// What is told when the way over the bus is lost.
const GAPS: &str = "carillon_bus_gaps_total";

/// Without the bus a look at the log each second tells what is new: nobody waits much longer for anything.
fn plan(name: &'static str, promise: &'static str) -> Plan {
    let mut plan = Plan::new(name, promise);
    plan.promises.worst_delay = Some(Duration::from_secs(4));
    plan
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_and_started_empty() {
    let mut run = Run::start(plan("redis-killed", "nothing lost, no stream breaks")).await;
    let begun = run.now();
    run.world.redis.kill();
    run.until_counted(0..3, GAPS, 0.0).await;
    run.calm(10.0).await;
    run.world.redis.restart().await;
    run.fault("Redis killed", begun);
    run.calm(2.0).await;
    run.finish().await.assert_untouched();
}

/// Open connections, no answers: only silence tells. Health must not stay green.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frozen() {
    let run = Run::start(plan("redis-frozen", "nothing lost, no stream breaks, readiness red")).await;
    let begun = run.now();
    run.world.redis.pause();
    for node in &run.world.nodes {
        wait_until(DEADLINE, "the silence is noticed", async || !node.is_ready().await).await;
    }
    run.calm(14.0).await;
    run.world.redis.resume();
    run.fault("Redis frozen", begun);
    run.calm(1.0).await;
    run.finish().await.assert_untouched();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_node_cut_off() {
    let run = Run::start(plan("redis-cut-off", "nothing lost, no stream breaks")).await;
    let begun = run.now();
    let way = &run.world.to_redis[0].faults;
    way.refuse(true);
    way.cut(Ending::Reset).await;
    run.calm(6.0).await;
    let counts = way.counts();
    assert!(counts.cut > 0 && counts.refused > 0 && counts.open == 0, "{counts:?}");
    assert!(!run.world.nodes[0].is_ready().await, "node 0 counts as ready without the bus");
    way.heal();
    run.fault("node 0 cut off from Redis", begun);
    run.calm(1.0).await;
    run.finish().await.assert_untouched();
}

/// It still sends, and nothing comes back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscriber_half_open() {
    let run = Run::start(plan("redis-half-open", "nothing lost, no stream breaks")).await;
    let begun = run.now();
    run.world.to_redis[0].faults.stall(Direction::ToClient);
    run.until_counted(0..1, GAPS, 0.0).await;
    run.calm(8.0).await;
    run.world.to_redis[0].faults.resume();
    run.fault("nothing comes from Redis to node 0", begun);
    run.calm(1.0).await;
    run.finish().await.assert_untouched();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn subscribers_thrown_out() {
    let run = Run::start(plan("redis-client-kill", "nothing lost, no stream breaks")).await;
    let begun = run.now();
    let mut thrown_out = 0;
    for _ in 0..8 {
        let killed: u64 = run.world.redis.query(&["CLIENT", "KILL", "TYPE", "pubsub"]).await.unwrap();
        thrown_out += killed;
        run.calm(0.5).await;
    }
    run.fault("CLIENT KILL TYPE pubsub", begun);
    assert!(thrown_out >= 12, "only {thrown_out} subscribers were thrown out");
    run.until_counted(0..3, GAPS, 1.0).await;
    run.finish().await.assert_untouched();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tiny_output_buffer() {
    let mut plan = plan("redis-output-buffer", "nothing lost, no stream breaks");
    plan.mix.bytes = 16_000;
    let run = Run::start(plan).await;
    let begun = run.now();
    let limit = "client-output-buffer-limit";
    run.world.redis.ask(&["CONFIG", "SET", limit, "pubsub 8kb 8kb 1"]).await;
    // A subscriber that reads slowly is what the limit is for.
    run.world.to_redis.iter().for_each(|way| way.faults.stall(Direction::ToClient));
    run.calm(2.0).await;
    run.world.to_redis.iter().for_each(|way| way.faults.resume());
    run.calm(4.0).await;
    run.world.redis.ask(&["CONFIG", "SET", limit, "pubsub 32mb 8mb 60"]).await;
    run.fault("pubsub 8kb 8kb 1", begun);
    // This version has no metric for it.
    let log = run.world.redis.log();
    let thrown_out = log.matches("for overcoming of output buffer limits").count();
    assert!(thrown_out >= 3, "only {thrown_out} subscribers were thrown out");
    run.until_counted(0..3, GAPS, 0.0).await;
    run.finish().await.assert_untouched();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn emptied() {
    let mut plan = plan("redis-flushall", "nothing lost, no stream breaks");
    plan.mix.lifetime = Some(Duration::from_secs(4));
    let run = Run::start(plan).await;
    let begun = run.now();
    for _ in 0..4 {
        let keys: u64 = run.world.redis.query(&["DBSIZE"]).await.unwrap();
        assert!(keys > 0, "there is nothing to empty");
        run.world.redis.ask(&["FLUSHALL"]).await;
        run.calm(1.0).await;
    }
    run.fault("FLUSHALL", begun);
    run.finish().await.assert_untouched();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bus_that_drops_repeats_and_reorders() {
    let run = Run::start(plan("bus-lossy", "nothing lost, nothing repeated, order kept")).await;
    let begun = run.now();
    for (number, way) in run.world.to_redis.iter().enumerate() {
        let seed = run.seed() + number as u64;
        let fault = PushFault { drop_percent: 5, repeat_percent: 5, reorder_percent: 5, seed };
        way.faults.resp_pushes(fault);
    }
    run.calm(10.0).await;
    run.fault("5 % dropped, 5 % repeated, 5 % reordered", begun);
    for way in &run.world.to_redis {
        let pushes = way.faults.counts().pushes;
        assert!(pushes.dropped > 0 && pushes.repeated > 0 && pushes.reordered > 0, "{pushes:?}");
    }
    run.finish().await.assert_untouched();
}

/// Streams that are quiet for seconds, and a node that knows of new events well before it has them: what its
/// heartbeats say was sent must have been.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rare_events_behind_heartbeats() {
    let mut plan = plan("heartbeats", "a heartbeat names nothing that has not come");
    plan.mix.pause = Duration::from_secs(4);
    let mut run = Run::quiet(plan).await;
    let begun = run.now();
    let nothing = PushFault { drop_percent: 100, ..PushFault::default() };
    run.world.to_redis[0].faults.resp_pushes(nothing);
    run.world.to_postgres[0].faults.delay(Duration::from_millis(200));
    run.load();
    run.calm(15.0).await;
    run.note_fault("node 0 hears nothing and reads slowly", begun);
    assert!(run.acked_since(begun) >= 6, "hardly anything was published");
    assert!(run.keep_alives_since(begun) >= 12, "hardly any heartbeats");
    let read = run.world.nodes[0].metric("carillon_catch_up_reads_total").await;
    assert!(read >= 3.0, "node 0 read only {read} times what was new");
    run.finish().await.assert_untouched();
}
