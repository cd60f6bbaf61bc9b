//! What happens to Postgres: nothing new is taken, and nothing that was is lost.

use std::process::Command;
use std::time::Duration;

use carillon::identity::CACHED_FOR;
use rand::RngExt as _;
use sqlx::{Connection as _, PgConnection};
use tokio::time::sleep;

use crate::client::Pace;
use crate::ledger::Outcome;
use crate::proxy::{Direction, Ending, Moment, Times, contains};
use crate::run::{Plan, Run};
use crate::support::{DEADLINE, wait_until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn crashed_and_restarted() {
    let mut run =
        Run::start(Plan::new("postgres-crashed", "nothing acknowledged is lost, no stream breaks")).await;
    for _ in 0..3 {
        let begun = run.now();
        run.world.postgres.stop_immediate();
        run.calm(1.0).await;
        run.world.postgres.start_again();
        run.outage("Postgres crashed", begun);
        run.calm(2.0).await;
    }
    // A listener that comes later and asks for everything finds all of it in the log, too.
    let mut options = run.options(0, 0);
    options.cursor = Some(format!("{}-0", run.world.people.store().log_state().await.unwrap().epoch));
    options.listener.is_slow = true;
    run.listen_as(options).await;
    run.finish().await.assert_untouched();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frozen() {
    let run =
        Run::start(Plan::new("postgres-frozen", "nothing acknowledged is lost, no stream breaks")).await;
    let begun = run.now();
    run.world.postgres.signal("STOP");
    // What was on its way when it froze.
    run.calm(0.5).await;
    let frozen = run.now();
    run.calm(14.5).await;
    assert_eq!(run.acked_since(frozen), 0, "a frozen Postgres took events");
    run.world.postgres.signal("CONT");
    run.outage("Postgres frozen", begun);
    run.calm(2.0).await;
    run.finish().await.assert_untouched();
}

/// A client that comes while nobody can be recognised is asked to come back, not refused: an EventSource
/// would not return.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gone_while_listeners_come() {
    let mut run = Run::start(Plan::new("postgres-gone", "nothing lost, nobody refused")).await;
    for node in 0..3 {
        // The answer comes when the node has given up on the store.
        let mut patient = run.options(node, 0);
        patient.addresses.truncate(1);
        patient.open_within = Duration::from_secs(30);
        run.listen_as(patient).await;
    }
    let begun = run.now();
    run.clients.iter().for_each(|client| client.set_pace(Pace::Away));
    run.calm(0.5).await;
    run.world.postgres.stop_immediate();
    // Nodes remember for a while whom they have recognised.
    sleep(CACHED_FOR + Duration::from_secs(1)).await;
    run.clients.iter().for_each(|client| client.set_pace(Pace::Full));
    run.until_counted(0..3, "carillon_streams_put_off_total", 0.0).await;
    run.world.postgres.start_again();
    run.outage("Postgres gone while listeners come", begun);
    run.calm(1.0).await;
    run.finish().await.assert_clean();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backends_terminated() {
    let run =
        Run::start(Plan::new("postgres-terminated", "nothing acknowledged is lost, no stream breaks")).await;
    let begun = run.now();
    let mut terminated = 0;
    for _ in 0..25 {
        terminated += run.world.postgres.terminate_backends().await;
        run.calm(0.2).await;
    }
    run.outage("backends terminated every 200 ms", begun);
    assert!(terminated >= 75, "only {terminated} backends were terminated");
    run.finish().await.assert_untouched();
}

/// The append was sent, and committed or not: the answer never comes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cut_during_commit() {
    let mut run = Run::start(Plan::new("postgres-cut-in-commit", "one key one event, all or nothing")).await;
    let begun = run.now();
    for _ in 0..20 {
        let way = &run.world.to_postgres[run.draws.random_range(0..3)].faults;
        let moment = if run.draws.random() { Moment::Answered } else { Moment::AtOnce };
        // A parameter of every append.
        way.cut_when(Direction::ToServer, contains(b"note"), moment, Times::Once, Ending::Reset);
        run.calm(0.25).await;
    }
    run.fault("connections cut during COMMIT", begun);
    let cut: u64 = run.world.to_postgres.iter().map(|way| way.faults.counts().cut).sum();
    assert!(cut >= 10, "only {cut} connections were cut");
    let unknown = run.count_attempts(|attempt| matches!(attempt.outcome, Outcome::Unknown { .. }));
    assert!(unknown > 0, "every publisher was informed of its event's outcome");
    run.finish().await.assert_untouched();
}

/// Neither a transaction that stays open nor a dump that reads for long holds up the log.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_transaction_and_a_dump() {
    let mut plan = Plan::new("postgres-long-transaction", "nothing lost, no delay");
    plan.promises.overtaking = None;
    plan.promises.worst_delay = Some(Duration::from_secs(2));
    let run = Run::start(plan).await;
    let begun = run.now();
    let mut connection = PgConnection::connect(&run.world.store_url).await.unwrap();
    let mut transaction = connection.begin().await.unwrap();
    // It has a snapshot and has written: what it may hold up, it holds up.
    let holds = "create table foreign_table (); select count(*) from events";
    sqlx::raw_sql(holds).execute(&mut *transaction).await.unwrap();
    let mut acked_meanwhile = 0;
    for _ in 0..4 {
        let dumping = run.now();
        let bytes = dump(&run.world.store_url);
        assert!(bytes > 10_000, "the dump has {bytes} bytes");
        acked_meanwhile += run.acked_since(dumping);
        run.calm(1.0).await;
    }
    assert!(acked_meanwhile > 0, "nothing was published while Postgres was dumped");
    transaction.rollback().await.unwrap();
    run.fault("a foreign transaction stays open; pg_dump", begun);
    run.finish().await.assert_untouched();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_commits() {
    let mut plan = Plan::new("postgres-slow-commits", "nothing lost, order kept");
    plan.publishers = 12;
    let run = Run::start(plan).await;
    let begun = run.now();
    for setting in ["commit_delay = 100000", "commit_siblings = 0"] {
        run.world.postgres.execute(&format!("alter system set {setting}")).await;
    }
    run.world.postgres.execute("select pg_reload_conf()").await;
    run.calm(1.0).await;
    let slow = run.now();
    run.calm(5.0).await;
    let answer = run.median_answer_since(slow);
    assert!(answer >= Duration::from_millis(100), "half of all appends took at most {answer:?}");
    run.world.postgres.execute("alter system reset all").await;
    run.world.postgres.execute("select pg_reload_conf()").await;
    run.fault("each commit takes 100 ms longer", begun);
    run.finish().await.assert_untouched();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_way_there() {
    let run = Run::start(Plan::new("postgres-slow-way", "nothing lost, order kept")).await;
    let begun = run.now();
    run.world.to_postgres[0].faults.delay(Duration::from_millis(150));
    run.calm(6.0).await;
    let slow = || run.count_attempts(|attempt| attempt.ended - attempt.sent >= Duration::from_millis(300));
    wait_until(DEADLINE, "five appends took the slow way", async || slow() >= 5).await;
    run.fault("300 ms between node 0 and Postgres", begun);
    run.finish().await.assert_untouched();
}

/// How large a dump of the database is, in bytes.
fn dump(url: &str) -> usize {
    let output = Command::new("/usr/lib/postgresql/15/bin/pg_dump").arg(url).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout.len()
}
