//! Another Postgres takes over: a standby of the first, which may lack what was committed last. Positions are then given
//! out again, under the same epoch until somebody notices.

use std::time::Duration;

use sqlx::{Connection as _, PgConnection};

use super::controls::{armed, control, verdict};
use crate::checker::Check;
use crate::client::Pace;
use crate::failover::Failover;
use crate::proxy::{Ending, Proxy};
use crate::run::{Outcome, Plan, Run};
use crate::support::servers::PostgresServer;
use crate::support::{DEADLINE, wait_until};

const LOST: &str = "nothing lost but what the standby lacks; an explicit reset";
const KEPT: &str = "nothing lost, no reset";
/// More than a sequence may be ahead of its standby's last event: positions are certainly given out twice.
const BEHIND: usize = 100;

/// How the standby takes over.
#[derive(Clone, Copy, PartialEq)]
enum Takeover {
    /// It stopped receiving a while before the primary died.
    Behind,
    /// The primary stopped in order and sent all that it had.
    InOrder,
    /// The primary acknowledged nothing that the standby had not written, and died.
    Synchronous,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn asynchronous_with_nodes_up() {
    let mut plan = Plan::new("postgres-failover-behind", LOST);
    plan.promises.resets = true;
    fail_over(plan, Takeover::Behind, true, true).await.assert_clean();
}

/// Listeners come back when the new log has grown past their cursors.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn asynchronous_with_nodes_down() {
    let mut plan = Plan::new("postgres-failover-behind-down", LOST);
    plan.promises.resets = true;
    fail_over(plan, Takeover::Behind, false, true).await.assert_clean();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn asynchronous_with_nothing_lost() {
    fail_over(Plan::new("postgres-failover-in-order", KEPT), Takeover::InOrder, true, true)
        .await
        .assert_untouched();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn synchronous_with_nodes_up() {
    fail_over(Plan::new("postgres-failover-synchronous", KEPT), Takeover::Synchronous, true, true)
        .await
        .assert_untouched();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn synchronous_with_nodes_down() {
    let plan = Plan::new("postgres-failover-synchronous-down", KEPT);
    fail_over(plan, Takeover::Synchronous, false, true).await.assert_clean();
}

/// Nobody compares the log with what was delivered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_comparison_of_histories() {
    for are_up in [true, false] {
        let mut plan = control("control-history");
        plan.promises.resets = true;
        plan.promises.lag_zero_within = Duration::from_secs(5);
        verdict(&fail_over(plan, Takeover::Behind, are_up, false).await, false, &[Check::C1]);
    }
}

async fn fail_over(plan: Plan, takeover: Takeover, are_up: bool, is_compared: bool) -> Outcome {
    let world = armed(&plan, "compare_off", is_compared).await;
    let way = Proxy::start(&world.postgres.url()).await;
    let standby = PostgresServer::standby_of(way.address().port());
    if takeover == Takeover::Synchronous {
        world.postgres.execute("alter system set synchronous_standby_names = '*'").await;
        world.postgres.execute("select pg_reload_conf()").await;
    }
    let primary = world.postgres.url();
    let is_streaming = async || {
        count(&primary, "select count(*) from pg_stat_replication where state = 'streaming'").await == 1
    };
    wait_until(DEADLINE, "the standby receives", is_streaming).await;
    let mut run = Run::over(world, plan);
    run.listen_everywhere().await;
    run.load();
    run.calm(1.5).await;
    if takeover == Takeover::Behind {
        let behind = run.now();
        way.faults.refuse(true);
        way.faults.cut(Ending::Reset).await;
        wait_until(DEADLINE, "the standby is behind", async || run.acked_since(behind) >= BEHIND).await;
        run.calm(0.5).await;
    }
    if !are_up {
        run.clients.iter().for_each(|client| client.set_pace(Pace::Away));
        (0..run.world.nodes.len()).for_each(|node| run.kill(node));
    }
    let begun = run.now();
    match takeover {
        Takeover::InOrder => run.world.postgres.stop_in_order(),
        Takeover::Behind | Takeover::Synchronous => run.world.postgres.stop_immediate(),
    }
    standby.promote();
    let url = standby.own(&run.world.store_url);
    let head = count(&url, "select max(position) from events").await;
    run.world.to_postgres.iter().for_each(|way| way.faults.lead_to(standby.port()));
    let promoted = run.now();
    if !are_up {
        for node in 0..run.world.nodes.len() {
            run.restart(node).await;
        }
    }
    wait_until(DEADLINE, "events are taken again", async || run.acked_since(promoted) > 0).await;
    println!("no event was taken for {:?}", run.now() - begun);
    run.outage("a standby of Postgres takes over", begun);
    // The new log grows past all that was delivered of the old one.
    wait_until(DEADLINE, "the log grows", async || run.acked_since(promoted) >= 4 * BEHIND).await;
    run.clients.iter().for_each(|client| client.set_pace(Pace::Full));
    run.calm(2.0).await;
    // What was in the first log when it died: nobody else is led there.
    run.world.postgres.start_again();
    let failover = Failover::look(&run.world.store_url, head).await;
    let lost = (failover.lost(), run.ledger.look(|ledger| failover.lost_acknowledged(ledger)));
    match takeover {
        Takeover::Behind => assert!(lost.1 >= BEHIND, "{lost:?} were lost"),
        Takeover::InOrder => assert_eq!(lost.0, 0),
        // What waited for the standby was committed, and nobody saw it.
        Takeover::Synchronous => assert_eq!(lost.1, 0),
    }
    run.failover = Some(failover);
    run.finish().await
}

async fn count(url: &str, statement: &'static str) -> i64 {
    let mut connection = PgConnection::connect(url).await.unwrap();
    let count = sqlx::query_scalar(statement).fetch_one(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    count
}
