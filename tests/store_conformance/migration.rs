//! From the schema of the program before to this one, beside programs that go on working.

use carillon::store::{Schema, StoreError};
use sqlx::migrate::Migrator;
use sqlx::{Connection as _, PgConnection};

use super::support::servers::postgres_url;
use super::*;

/// What the program before sends.
const APPEND_OF_BEFORE: &str = "
    select position, is_repeat from carillon_append(
        array[gen_random_uuid(), gen_random_uuid(), gen_random_uuid()], '{a,a,a}', '{1,3,0}', '{0,1,2}',
        '{null,null,room/1}', '{1,2,3}', '{null,null,null}', '{null,null,null}', '{null,null,null}', '{1,1,1}',
        KEYS, '{0,1,2}', '{7,8}', '{2,2}')";

async fn append_as_before(connection: &mut PgConnection, key: Option<&str>) -> Vec<(i64, bool)> {
    let keys = key.map_or("'{null,null,null}'".into(), |key| format!("'{{{key},{key},{key}}}'"));
    let statement = sqlx::AssertSqlSafe(APPEND_OF_BEFORE.replace("KEYS", &keys));
    sqlx::query_as(statement).fetch_all(connection).await.unwrap()
}

/// A database as the program of migration 5 has it, with some events.
async fn before() -> (String, PgConnection) {
    let url = postgres_url().await;
    let mut connection = PgConnection::connect(&url).await.unwrap();
    let migrations = Migrator::new(std::path::Path::new("migrations/postgres")).await.unwrap();
    migrations.run_to(5, &mut connection).await.unwrap();
    for _ in 0..10 {
        append_as_before(&mut connection, None).await;
    }
    (url, connection)
}

async fn number(connection: &mut PgConnection, sql: &str) -> i64 {
    sqlx::query_scalar(sqlx::AssertSqlSafe(sql.to_owned())).fetch_one(connection).await.unwrap()
}

const COMPATIBLE_FROM: &str =
    "select compatible_from from compatibility where version = (select max(version) from _sqlx_migrations)";

#[tokio::test]
async fn what_was_there_is_filled_and_programs_before_go_on_until_it_is_finished() {
    let (url, mut connection) = before().await;
    let store = Store::open(&url, &StoreLimits::default()).await.unwrap();
    assert_eq!(store.schema().await.unwrap(), Schema::Older);
    assert!(store.finish().await.is_err(), "first it must be brought up to date");
    let done = store.migrate().await.unwrap();
    assert!(done.added > 0 && done.filled >= 30 && !done.finished, "{done:?}");
    assert_eq!(store.schema().await.unwrap(), Schema::Current);
    assert_eq!(store.log_state().await.unwrap().forms, 1);
    assert_eq!(number(&mut connection, COMPATIBLE_FROM).await, 5);

    // A program before appends and repeats as it did; a new one reads all of it.
    let first = append_as_before(&mut connection, Some("k")).await;
    let again = append_as_before(&mut connection, Some("k")).await;
    assert!(
        first.iter().zip(&again).all(|(one, two)| one.0 == two.0 && !one.1 && two.1),
        "{first:?} {again:?}"
    );
    assert_eq!(replay(&store, &reader(7, &["room/1"])).await.len(), 33);
    assert_eq!(replay(&store, &reader(9, &["room/1"])).await.len(), 22);
    let urgent = filtered(reader(8, &["room/1"]), &[], Some(Priority::High));
    assert_eq!(replay(&store, &urgent).await.len(), 11, "priorities beside users were filled");

    let mixture = NewEvent { audience: Audience::of(vec![7], vec![topic("room/1")]), ..event() };
    let refused = store.append(std::slice::from_ref(&mixture)).await.unwrap_err();
    assert!(
        matches!(refused, StoreError::Form(_)) && refused.to_string().contains("migrate --finish"),
        "{refused}"
    );

    assert!(store.finish().await.unwrap());
    assert!(!store.finish().await.unwrap(), "it was finished");
    assert_eq!(store.log_state().await.unwrap().forms, carillon::store::FORMS);
    assert!(number(&mut connection, COMPATIBLE_FROM).await > 5, "programs before do not start any more");
    let position = add(&store, mixture).await;
    assert_eq!(replay(&store, &reader(7, &["room/1"])).await.last(), Some(&position));
    assert_eq!(store.migrate().await.unwrap(), carillon::store::Migrated::default());
}

#[tokio::test]
async fn a_run_that_broke_goes_on_where_it_was() {
    let (url, mut connection) = before().await;
    let store = Store::open(&url, &StoreLimits::default()).await.unwrap();
    store.migrate().await.unwrap();
    for broken in [
        // In the middle of filling, and while an index was made.
        "delete from event_topics where position > 12",
        "update fills set filled = 12",
        "update pg_index set indisvalid = false where indexrelid = 'events_expiring'::regclass",
        "delete from _sqlx_migrations where version between 12 and 15",
    ] {
        sqlx::query(broken).execute(&mut connection).await.unwrap();
    }
    assert_eq!(store.schema().await.unwrap(), Schema::Older);
    // Several nodes at once.
    let (one, two) = tokio::join!(store.migrate(), store.migrate());
    assert_eq!(one.unwrap().filled + two.unwrap().filled, 2 * 18);
    assert_eq!(store.schema().await.unwrap(), Schema::Current);
    assert_eq!(replay(&store, &reader(9, &["room/1"])).await.len(), 20);
    let valid = "select count(*) from pg_index where indexrelid = 'events_expiring'::regclass and indisvalid";
    assert_eq!(number(&mut connection, valid).await, 1);
}

/// A transaction that uses a table for long holds up the table's change, and by that nobody else: the change
/// gives way and is tried again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_of_a_table_in_use_gives_way() {
    let (url, mut connection) = before().await;
    let mut reading = PgConnection::connect(&url).await.unwrap();
    let mut held = reading.begin().await.unwrap();
    sqlx::query("select count(*) from event_users").execute(&mut *held).await.unwrap();
    let store = Store::open(&url, &StoreLimits::default()).await.unwrap();
    let migrating = tokio::spawn(async move { store.migrate().await });
    let waits = "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'";
    let mut other = PgConnection::connect(&url).await.unwrap();
    let is_waiting = async || number(&mut PgConnection::connect(&url).await.unwrap(), waits).await > 0;
    support::wait_until(support::DEADLINE, "the change waits for its lock", is_waiting).await;
    // Behind it in the queue, yet answered while the reader still holds the table.
    sqlx::query("select * from event_users limit 1").execute(&mut other).await.unwrap();
    append_as_before(&mut connection, None).await;
    held.rollback().await.unwrap();
    migrating.await.unwrap().unwrap();
}

/// A plan without sequential scans looks so expensive that Postgres compiles it: 55 ms for each call, also for a row that
/// is inserted by hand.
#[tokio::test]
async fn no_function_is_compiled_at_each_call() {
    let url = postgres_url().await;
    Store::open(&url, &StoreLimits::default()).await.unwrap().migrate().await.unwrap();
    let mut connection = PgConnection::connect(&url).await.unwrap();
    const FUNCTIONS: &str = "select count(*) from pg_proc where proconfig @> '{enable_seqscan=off}'";
    assert!(number(&mut connection, FUNCTIONS).await >= 5);
    let compiled = format!("{FUNCTIONS} and not proconfig @> '{{jit=off}}'");
    assert_eq!(number(&mut connection, &compiled).await, 0);
}
