//! What an append costs Postgres. Run with `scripts/test --release --test store_conformance append_cost -- --ignored
//! --nocapture`; printed, not judged.

use std::time::Duration;

use sqlx::migrate::Migrator;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{Connection as _, PgConnection, PgPool};
use tokio::time::sleep;

use super::support::servers::PostgresServer;
use super::*;

/// Events of the first append, and appends of that size.
const SIZES: [(usize, usize); 5] = [(1, 2_000), (4, 1_000), (8, 750), (32, 300), (128, 100)];
const ROUNDS: usize = 3;

/// Lock, head, one insert, one insert of recipients.
const LEAN: &str = "
    create function lean(ids uuid[], types text[], priorities smallint[], payloads text[], publishers bigint[],
        recipients bigint[], recipient_places int[])
    returns table (head bigint, at bigint, positions bigint[])
    language plpgsql set plan_cache_mode to force_generic_plan as $$
    begin
        perform pg_advisory_xact_lock(7163384699738779502);
        at := carillon_now();
        select greatest(s.floor, (select max(e.position) from events e)) into head from log_state s;
        positions := array(select nextval('events_position') from generate_series(1, cardinality(ids)));
        insert into events (position, id, type, priority, audience, data, created_at, publisher)
            select e.p, e.id, e.t, e.r, 1, e.d, at, e.b
            from unnest(positions, ids, types, priorities, payloads, publishers) e(p, id, t, r, d, b);
        insert into event_users (user_id, position)
            select r.u, positions[r.o] from unnest(recipients, recipient_places) r(u, o);
        return next;
    end $$";

fn events(size: usize) -> Vec<NewEvent> {
    let data = format!("\"{}\"", "x".repeat(200));
    (0..size).map(|user| NewEvent { data: data.clone(), ..for_users(&[user as i64 % 1_000 + 1]) }).collect()
}

async fn lean(pool: &PgPool, events: &[NewEvent]) {
    sqlx::query("select * from lean($1, $2, $3, $4, $5, $6, $7)")
        .bind(events.iter().map(|e| e.id).collect::<Vec<_>>())
        .bind(events.iter().map(|e| e.event_type.as_str()).collect::<Vec<_>>())
        .bind(events.iter().map(|e| e.priority as i16).collect::<Vec<_>>())
        .bind(events.iter().map(|e| e.data.as_str()).collect::<Vec<_>>())
        .bind(events.iter().map(|e| e.publisher).collect::<Vec<_>>())
        .bind(events.iter().flat_map(|e| e.audience.user_ids().to_vec()).collect::<Vec<_>>())
        .bind((1..=events.len() as i32).collect::<Vec<_>>())
        .fetch_all(pool)
        .await
        .unwrap();
}

async fn before(pool: &PgPool, events: &[NewEvent]) {
    let nulls = vec![None::<i64>; events.len()];
    sqlx::query("select * from carillon_append($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)")
        .bind(events.iter().map(|e| e.id).collect::<Vec<_>>())
        .bind(events.iter().map(|e| e.event_type.as_str()).collect::<Vec<_>>())
        .bind(events.iter().map(|e| e.priority as i16).collect::<Vec<_>>())
        .bind(vec![1i16; events.len()])
        .bind(vec![None::<String>; events.len()])
        .bind(events.iter().map(|e| e.data.as_str()).collect::<Vec<_>>())
        .bind(&nulls)
        .bind(&nulls)
        .bind(&nulls)
        .bind(events.iter().map(|e| e.publisher).collect::<Vec<_>>())
        .bind(vec![None::<String>; events.len()])
        .bind(vec![None::<i32>; events.len()])
        .bind(events.iter().flat_map(|e| e.audience.user_ids().to_vec()).collect::<Vec<_>>())
        .bind((1..=events.len() as i64).collect::<Vec<_>>())
        .fetch_all(pool)
        .await
        .unwrap();
}

/// How long an append holds the log's lock: its statement does from beginning to end. As large as the default of
/// `CARILLON_MAX_RECIPIENTS` permits, and as large as it used to.
#[tokio::test]
#[ignore = "a measurement"]
async fn lock_held() {
    let server = PostgresServer::start();
    let store = Store::open(&server.new_database().await, &StoreLimits::default()).await.unwrap();
    store.migrate().await.unwrap();
    let wide = |count: usize, users: i64| -> Vec<NewEvent> {
        (0..count)
            .map(|_| NewEvent { data: "x".repeat(200), ..for_users(&(1..=users).collect::<Vec<_>>()) })
            .collect()
    };
    // A store with a million rows of recipients.
    for _ in 0..100 {
        append(&store, &wide(10, 1_000)).await;
    }
    println!(
        "ms that one append holds the lock, of 11 the median and the longest: events, recipients of each"
    );
    for (events, users) in
        [(1, 1_000), (10, 1_000), (500, 20), (1_000, 10), (25, 1_000), (100, 1_000), (1_000, 0)]
    {
        let mut times = Vec::new();
        for _ in 0..11 {
            let events = if users == 0 { vec![event(); events] } else { wide(events, users) };
            let events: Vec<NewEvent> =
                events.into_iter().map(|e| NewEvent { id: Uuid::now_v7(), ..e }).collect();
            let begun = std::time::Instant::now();
            append(&store, &events).await;
            times.push(begun.elapsed().as_secs_f64() * 1_000.0);
        }
        times.sort_by(f64::total_cmp);
        println!("{events:>5} {users:>5} {:>8.0} {:>8.0}", times[5], times[10]);
    }
}

/// Time on a processor, in nanoseconds.
fn used(pid: i32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/schedstat")).unwrap();
    text.split_whitespace().next().unwrap().parse().unwrap()
}

#[tokio::test]
#[ignore = "a measurement"]
async fn append_cost() {
    let server = PostgresServer::start();
    let before = of_before(&server.new_database().await, "force_custom_plan").await;
    let lean = of_before(&server.new_database().await, "auto").await;
    sqlx::raw_sql(LEAN).execute(&lean).await.unwrap();
    let new = server.new_database().await;
    let limits = StoreLimits { connections: carillon::store::PoolSizes::each(1), ..StoreLimits::default() };
    let store = Store::open(&new, &limits).await.unwrap();
    store.migrate().await.unwrap();
    add(&store, event()).await;
    let mut look = PgConnection::connect(&new).await.unwrap();
    let new_pid: i32 = sqlx::query_scalar(
        "select pid from pg_stat_activity
         where datname = current_database() and query like '%carillon_append_events%' and pid <> pg_backend_pid()",
    )
    .fetch_one(&mut look)
    .await
    .unwrap();
    let pids = [pid_of(&before).await, pid_of(&lean).await, new_pid];
    println!("µs of the backend's CPU an event, best of {ROUNDS}: events, before, lean, now, now/lean");
    for (size, appends) in SIZES {
        let mut best = [u64::MAX; 3];
        for _ in 0..ROUNDS {
            for (way, best) in best.iter_mut().enumerate() {
                let pid = pids[way];
                for _ in 0..20 {
                    one(way, size, [&before, &lean], &store).await;
                }
                let begin = used(pid);
                for _ in 0..appends {
                    one(way, size, [&before, &lean], &store).await;
                }
                // What the backend does after its answer belongs to it.
                sleep(Duration::from_millis(20)).await;
                *best = (*best).min((used(pid) - begin) / (appends * size) as u64);
            }
        }
        let [before, lean, now] = best.map(|nanos| nanos as f64 / 1_000.0);
        println!("{size:>4} {before:>8.1} {lean:>8.1} {now:>8.1} {:>6.2}", now / lean);
    }
}

/// A database with the schema of before, over one connection of a pool as the store's.
async fn of_before(url: &str, plans: &str) -> PgPool {
    let options: PgConnectOptions = url.parse().unwrap();
    let options = options.options([("plan_cache_mode", plans)]);
    let pool = PgPoolOptions::new().max_connections(1).connect_with(options).await.unwrap();
    let migrations = Migrator::new(std::path::Path::new("migrations/postgres")).await.unwrap();
    migrations.run_to(5, &pool).await.unwrap();
    pool
}

async fn pid_of(pool: &PgPool) -> i32 {
    sqlx::query_scalar("select pg_backend_pid()").fetch_one(pool).await.unwrap()
}

async fn one(way: usize, size: usize, pools: [&PgPool; 2], store: &Store) {
    let events = events(size);
    match way {
        0 => before(pools[0], &events).await,
        1 => lean(pools[1], &events).await,
        _ => drop(append(store, &events).await),
    }
}
