//! Controls: with one safeguard taken out, the checker must find what it guards against. Beside each, the same run
//! with the safeguard in place, which must be clean.

use std::time::Duration;

use sqlx::{Connection as _, PgConnection};

use crate::checker::Check;
use crate::client::Pace;
use crate::proxy::{Direction, Ending, Proxy, Times};
use crate::resp::PushFault;
use crate::run::{Outcome, Plan, Run};
use crate::support::log_lock::slow_commits;
use crate::world::World;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_logs_lock() {
    for with_lock in [true, false] {
        let mut plan = control("control-lock");
        plan.publishers = 24;
        plan.mix.pause = Duration::from_millis(1);
        let run = Run::quiet(plan).await;
        slow_commits(&run.world.store_url, with_lock).await;
        let outcome = under_load(run).await;
        verdict(&outcome, with_lock, &[Check::C1]);
    }
}

/// The bus brings one node nothing at all, and nobody publishes there; only the look at the log's head shows that there is
/// something.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_look_at_the_head() {
    for is_on in [true, false] {
        let mut plan = control("control-reconcile");
        plan.nodes_without_publishers = 1;
        let world = armed(&plan, "reconcile_off", is_on).await;
        let mut run = Run::over(world, plan);
        run.listen_everywhere().await;
        let nothing = PushFault { drop_percent: 100, ..PushFault::default() };
        run.world.to_redis[0].faults.resp_pushes(nothing);
        run.load();
        run.calm(3.0).await;
        let outcome = run.finish_as_it_is().await;
        verdict(&outcome, is_on, &[Check::C1, Check::C9]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cursor_no_further_than_what_was_sent() {
    for is_sound in [true, false] {
        let plan = control("control-cursor");
        let world = armed(&plan, "cursor_ahead", is_sound).await;
        let mut run = Run::over(world, plan);
        run.listen_everywhere().await;
        let outcome = under_load(run).await;
        verdict(&outcome, is_sound, &[Check::C4]);
    }
}

/// A backlog of which the urgent left first, cut off in the middle.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_filter_of_what_was_sent_ahead() {
    for is_on in [true, false] {
        let plan = control("control-repeats");
        let world = armed(&plan, "replay_repeats", is_on).await;
        let mut run = Run::over(world, plan);
        let proxy = Proxy::start(&run.world.nodes[0].address).await;
        let mut options = run.options(0, 0);
        options.addresses = vec![proxy.address().to_string()];
        let listener = run.listen_as(options).await;
        run.clients[listener].set_pace(Pace::Away);
        run.load();
        run.calm(4.0).await;
        // Each connection carries a part of the backlog.
        proxy.faults.cut_after(Direction::ToClient, 15_000, Times::Always, Ending::Close);
        run.clients[listener].set_pace(Pace::Full);
        proxy.faults.until("the backlog is cut several times", |counts| counts.cut >= 4).await;
        proxy.faults.heal();
        let outcome = run.finish().await;
        verdict(&outcome, is_on, &[Check::C2]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_filter_of_users_in_a_replay() {
    for is_on in [true, false] {
        let run = Run::quiet(control("control-users")).await;
        if !is_on {
            let_everybody_replay_everything(&run.world.store_url).await;
        }
        let outcome = with_one_away(run).await;
        verdict(&outcome, is_on, &[Check::C5]);
    }
}

/// The replay's filter asks the table of recipients: with everybody in it, it lets everything through.
async fn let_everybody_replay_everything(url: &str) {
    let statement = "
        create function let_all_in() returns trigger language plpgsql as $$
        begin
            if pg_trigger_depth() = 1 then
                insert into event_users (user_id, position)
                    select id, new.position from users on conflict do nothing;
            end if;
            return null;
        end $$;
        create trigger let_all_in after insert on event_users for each row execute function let_all_in()";
    let mut connection = PgConnection::connect(url).await.unwrap();
    sqlx::raw_sql(statement).execute(&mut connection).await.unwrap();
}

pub(super) fn control(name: &'static str) -> Plan {
    Plan::new(name, "the checker finds what a missing safeguard lets through")
}

/// A cluster whose nodes have this failpoint, unless the safeguard is to be on.
pub(super) async fn armed(plan: &Plan, failpoint: &str, is_on: bool) -> World {
    let mut world = plan.world().await;
    if !is_on {
        let armed = ("FAILPOINTS".to_owned(), format!("{failpoint}=return"));
        world.nodes.iter_mut().for_each(|node| node.variables = vec![armed.clone()]);
    }
    world.start().await;
    world
}

async fn under_load(mut run: Run) -> Outcome {
    run.load();
    run.calm(4.0).await;
    run.finish().await
}

async fn with_one_away(mut run: Run) -> Outcome {
    run.load();
    run.calm(1.0).await;
    run.clients[1].set_pace(Pace::Away);
    run.calm(2.0).await;
    run.clients[1].set_pace(Pace::Full);
    run.calm(1.0).await;
    run.finish().await
}

#[track_caller]
pub(super) fn verdict(outcome: &Outcome, is_on: bool, found: &[Check]) {
    if is_on {
        outcome.assert_clean();
    } else {
        found.iter().for_each(|check| outcome.assert_finds(*check));
    }
}
