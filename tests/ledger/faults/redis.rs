//! What happens to Redis and to the ways there: deliveries are slower, nothing else.

use crate::proxy::{Direction, Ending};
use crate::resp::PushFault;
use crate::run::{Plan, Run};
use crate::support::{DEADLINE, wait_until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_and_started_empty() {
    let mut run = Run::start(Plan::new("redis-killed", "nothing lost, no stream breaks")).await;
    let begun = run.now();
    run.world.redis.kill();
    run.calm(10.0).await;
    run.world.redis.restart().await;
    run.fault("Redis killed", begun);
    run.calm(2.0).await;
    let outcome = run.finish().await;
    outcome.assert_clean();
    outcome.assert_no_outage();
}

/// Open connections, no answers: only silence tells. Health must not stay green.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frozen() {
    let run = Run::start(Plan::new("redis-frozen", "nothing lost, no stream breaks, readiness red")).await;
    let begun = run.now();
    run.world.redis.pause();
    for node in &run.world.nodes {
        wait_until(DEADLINE, "the silence is noticed", async || !node.is_ready().await).await;
    }
    run.calm(14.0).await;
    run.world.redis.resume();
    run.fault("Redis frozen", begun);
    run.calm(1.0).await;
    let outcome = run.finish().await;
    outcome.assert_clean();
    outcome.assert_no_outage();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_node_cut_off() {
    let run = Run::start(Plan::new("redis-cut-off", "nothing lost, no stream breaks")).await;
    let begun = run.now();
    let way = &run.world.to_redis[0].faults;
    way.refuse(true);
    way.cut(Ending::Reset).await;
    run.calm(6.0).await;
    way.heal();
    run.fault("node 0 cut off from Redis", begun);
    run.calm(1.0).await;
    let outcome = run.finish().await;
    outcome.assert_clean();
    outcome.assert_no_outage();
}

/// It still sends, and nothing comes back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscriber_half_open() {
    let run = Run::start(Plan::new("redis-half-open", "nothing lost, no stream breaks")).await;
    let begun = run.now();
    run.world.to_redis[0].faults.stall(Direction::ToClient);
    run.calm(8.0).await;
    run.world.to_redis[0].faults.resume();
    run.fault("nothing comes from Redis to node 0", begun);
    run.calm(1.0).await;
    let outcome = run.finish().await;
    outcome.assert_clean();
    outcome.assert_no_outage();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn subscribers_thrown_out() {
    let run = Run::start(Plan::new("redis-client-kill", "nothing lost, no stream breaks")).await;
    let begun = run.now();
    for _ in 0..8 {
        run.world.redis.ask(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
        run.calm(0.5).await;
    }
    run.fault("CLIENT KILL TYPE pubsub", begun);
    let outcome = run.finish().await;
    outcome.assert_clean();
    outcome.assert_no_outage();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tiny_output_buffer() {
    let mut plan = Plan::new("redis-output-buffer", "nothing lost, no stream breaks");
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
    let closed = run.world.redis.ask(&["INFO", "stats"]).await;
    let outcome = run.finish().await;
    assert!(
        !closed.contains("client_output_buffer_limit_disconnections:0\\r"),
        "nobody was thrown out: {closed}"
    );
    outcome.assert_clean();
    outcome.assert_no_outage();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn emptied() {
    let mut plan = Plan::new("redis-flushall", "nothing lost, no stream breaks");
    plan.mix.lifetime = Some(std::time::Duration::from_secs(4));
    let run = Run::start(plan).await;
    let begun = run.now();
    for _ in 0..4 {
        run.world.redis.ask(&["FLUSHALL"]).await;
        run.calm(1.0).await;
    }
    run.fault("FLUSHALL", begun);
    let outcome = run.finish().await;
    outcome.assert_clean();
    outcome.assert_no_outage();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bus_that_drops_repeats_and_reorders() {
    let run = Run::start(Plan::new("bus-lossy", "nothing lost, nothing repeated, order kept")).await;
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
    let outcome = run.finish().await;
    outcome.assert_clean();
    outcome.assert_no_outage();
}
