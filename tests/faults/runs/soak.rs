//! Random faults, one after another and sometimes two at once, for as long as `CARILLON_SOAK_SECONDS` says:
//! `CARILLON_SOAK_SECONDS=3600 scripts/test --test faults -- --ignored --nocapture soak`.

use std::time::Duration;

use rand::RngExt as _;
use rand::seq::IndexedRandom as _;
use tokio::time::Instant;

use crate::client::Pace;
use crate::proxy::{Direction, Ending, Moment, Times, contains};
use crate::resp::PushFault;
use crate::run::{Plan, Run};
use crate::support::servers::signal;

/// What is done next.
#[derive(Debug, Clone, Copy)]
enum Deed {
    KillNode,
    StopNode,
    TerminateNode,
    KillRedis,
    FreezeRedis,
    EmptyRedis,
    ThrowOutSubscribers,
    CutOffFromRedis,
    HalfOpenSubscriber,
    LossyBus,
    CrashPostgres,
    FreezePostgres,
    TerminateBackends,
    CutDuringCommit,
    SlowWayToPostgres,
    StallListeners,
}

const DEEDS: [Deed; 16] = [
    Deed::KillNode,
    Deed::StopNode,
    Deed::TerminateNode,
    Deed::KillRedis,
    Deed::FreezeRedis,
    Deed::EmptyRedis,
    Deed::ThrowOutSubscribers,
    Deed::CutOffFromRedis,
    Deed::HalfOpenSubscriber,
    Deed::LossyBus,
    Deed::CrashPostgres,
    Deed::FreezePostgres,
    Deed::TerminateBackends,
    Deed::CutDuringCommit,
    Deed::SlowWayToPostgres,
    Deed::StallListeners,
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "runs for as long as CARILLON_SOAK_SECONDS says"]
async fn soak() {
    let seconds = std::env::var("CARILLON_SOAK_SECONDS").map_or(60, |text| text.parse().unwrap());
    let mut plan = Plan::new("soak", "nothing lost or repeated, order kept");
    plan.mix.lifetime = Some(Duration::from_secs(20));
    // A hop that is held up holds up what has left the cluster before its end.
    plan.promises.expiry_margin = Duration::from_secs(10);
    let mut run = Run::start(plan).await;
    let end = Instant::now() + Duration::from_secs(seconds);
    while Instant::now() < end {
        // What a proxy does goes on while something else happens.
        if run.draws.random_ratio(1, 3) {
            lossy_bus(&mut run);
        }
        let deed = *DEEDS.choose(&mut run.draws).unwrap();
        let (begun, node) = (run.now(), run.draws.random_range(0..3));
        println!("{:.1} s: {deed:?} {node}", begun.as_secs_f64());
        perform(&mut run, deed, node).await;
        run.note_fault(&format!("{deed:?} {node}"), begun);
        run.world.heal_proxies();
        let pause = run.draws.random_range(0.0..2.0);
        run.calm(pause).await;
    }
    run.finish().await.assert_clean();
}

async fn perform(run: &mut Run, deed: Deed, node: usize) {
    let seconds = run.draws.random_range(0.2..4.0);
    match deed {
        Deed::KillNode => {
            run.kill(node);
            run.calm(seconds).await;
            run.restart(node).await;
        }
        Deed::TerminateNode => {
            assert!(run.terminate(node).await, "node {node} ended with an error");
            run.restart(node).await;
        }
        Deed::StopNode => {
            let pid = run.world.nodes[node].pid();
            signal(pid, "STOP");
            run.calm(seconds).await;
            signal(pid, "CONT");
        }
        Deed::KillRedis => {
            run.world.redis.kill();
            run.calm(seconds).await;
            run.world.redis.restart().await;
        }
        Deed::FreezeRedis => {
            run.world.redis.pause();
            run.calm(seconds).await;
            run.world.redis.resume();
        }
        Deed::EmptyRedis => drop(run.world.redis.ask(&["FLUSHALL"]).await),
        Deed::ThrowOutSubscribers => drop(run.world.redis.ask(&["CLIENT", "KILL", "TYPE", "pubsub"]).await),
        Deed::CrashPostgres => {
            run.world.postgres.stop_immediate();
            run.calm(seconds).await;
            run.world.postgres.start_again();
        }
        Deed::FreezePostgres => {
            run.world.postgres.signal("STOP");
            run.calm(seconds).await;
            run.world.postgres.signal("CONT");
        }
        Deed::TerminateBackends => _ = run.world.postgres.terminate_backends().await,
        Deed::StallListeners => {
            run.clients.iter().step_by(3).for_each(|client| client.set_pace(Pace::Stalled));
            run.calm(seconds).await;
            run.clients.iter().for_each(|client| client.set_pace(Pace::Full));
        }
        Deed::CutOffFromRedis
        | Deed::HalfOpenSubscriber
        | Deed::LossyBus
        | Deed::CutDuringCommit
        | Deed::SlowWayToPostgres => on_the_way(run, deed, node, seconds).await,
    }
}

async fn on_the_way(run: &mut Run, deed: Deed, node: usize, seconds: f64) {
    let (redis, postgres) = (&run.world.to_redis[node].faults, &run.world.to_postgres[node].faults);
    match deed {
        Deed::CutOffFromRedis => {
            redis.refuse(true);
            redis.cut(Ending::Reset).await;
        }
        Deed::HalfOpenSubscriber => redis.stall(Direction::ToClient),
        Deed::CutDuringCommit => {
            let seen = contains(b"note");
            postgres.cut_when(Direction::ToServer, seen, Moment::Answered, Times::Always, Ending::Reset);
        }
        Deed::SlowWayToPostgres => postgres.delay(Duration::from_millis(50)),
        _ => lossy_bus(run),
    }
    run.calm(seconds).await;
}

fn lossy_bus(run: &mut Run) {
    for way in &run.world.to_redis {
        let seed = run.draws.random();
        way.faults.resp_pushes(PushFault { drop_percent: 10, repeat_percent: 10, reorder_percent: 10, seed });
    }
}
