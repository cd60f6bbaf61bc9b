//! What happens to a Redis of several servers: another takes over, and deliveries are slower until it has.

use std::time::Duration;

use crate::run::{Plan, Run};
use crate::support::redis_groups::{RedisCluster, RedisSentinels};

const PROMISE: &str = "nothing lost, no stream breaks";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_master_behind_sentinel_is_killed() {
    let mut redis = RedisSentinels::start().await;
    let run = Run::start(on("sentinel-master-killed", redis.url())).await;
    let begun = run.now();
    redis.servers[0].kill();
    redis.until_master(1).await;
    run.calm(4.0).await;
    run.fault("the master killed", begun);
    untouched(run).await;
}

/// The old master goes on serving the clients still connected, while the sentinels have put another in
/// charge: for a while there are publishers and listeners on both.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_master_behind_sentinel_is_isolated() {
    let redis = RedisSentinels::start().await;
    let run = Run::start(on("sentinel-master-isolated", redis.url())).await;
    let begun = run.now();
    redis.isolate_first().await;
    redis.until_master(1).await;
    run.calm(4.0).await;
    redis.rejoin_first().await;
    run.calm(2.0).await;
    run.fault("the master isolated", begun);
    untouched(run).await;
}

/// Of the three masters the one that carries the announcements.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_of_a_redis_cluster_is_killed() {
    let mut redis = RedisCluster::start().await;
    let (global, _) = redis.place_of("carillon:global").await;
    let run = Run::start(on("redis-cluster-master-killed", redis.url())).await;
    let begun = run.now();
    redis.servers[global].kill();
    redis.until_master(3 + global).await;
    run.calm(4.0).await;
    run.fault("a master killed", begun);
    untouched(run).await;
}

/// The slot of the announcements goes from master to master.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_of_a_redis_cluster_is_migrated() {
    let redis = RedisCluster::start().await;
    let (mut owner, slot) = redis.place_of("carillon:global").await;
    let run = Run::start(on("redis-cluster-slot-migrated", redis.url())).await;
    let begun = run.now();
    for _ in 0..3 {
        let next = (owner + 1) % 3;
        redis.migrate(slot, owner, next).await;
        owner = next;
        run.calm(1.5).await;
    }
    run.fault("the slot of the announcements migrated three times", begun);
    untouched(run).await;
}

fn on(name: &'static str, bus: String) -> Plan {
    let mut plan = Plan { bus: Some(bus), ..Plan::new(name, PROMISE) };
    plan.promises.worst_delay = Some(Duration::from_secs(4));
    plan
}

async fn untouched(run: Run) {
    // Each node noticed, and found the way back: it is ready again before the run ends.
    run.until_counted(0..3, "carillon_bus_gaps_total", 0.0).await;
    run.finish().await.assert_untouched();
}
