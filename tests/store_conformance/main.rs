//! One suite for both backends of the store, then what only Postgres can get wrong.

mod accounts;
mod append_cost;
mod endings;
mod history;
mod inbox;
mod large;
mod links;
mod log;
mod migration;
mod pgbouncer;
mod plans;
mod postgres;
mod retention;
mod selectors;
#[path = "../support/mod.rs"]
mod support;
mod users;

use carillon::account::Role;
use carillon::event::{
    Audience, Event, EventType, Expiry, NewEvent, Position, Priority, Selector, Topic, UserId,
};
use carillon::store::{Appended, InboxOrder, InboxQuery, Reader, Schema, Store, StoreError, StoreLimits};
use sqlx::Connection as _;
use tempfile::TempDir;
use uuid::Uuid;

/// A migrated store of the test's own.
struct Fresh {
    store: Store,
    url: String,
    _folder: Option<TempDir>,
}

async fn sqlite() -> Fresh {
    let folder = TempDir::new().unwrap();
    let url = format!("sqlite:{}", folder.path().join("test.sqlite").display());
    fresh(url, Some(folder)).await
}

async fn postgres_server() -> Fresh {
    fresh(support::servers::postgres_url().await, None).await
}

async fn fresh(url: String, folder: Option<TempDir>) -> Fresh {
    let store = Store::open(&url, &StoreLimits::default()).await.unwrap();
    store.migrate().await.unwrap();
    Fresh { store, url, _folder: folder }
}

macro_rules! suite {
    ($($module:ident::$test:ident),* $(,)?) => {
        mod on_sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() { let fresh = super::sqlite().await; super::$module::$test(&fresh.store).await })*
        }
        mod on_postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() { let fresh = super::postgres_server().await; super::$module::$test(&fresh.store).await })*
        }
    };
}

suite!(
    log::a_cursor_reader_beside_many_appenders_misses_nothing,
    log::an_append_keeps_its_order_and_returns_the_head_before,
    log::an_event_comes_back_as_it_was_given,
    log::a_repeated_key_gives_the_first_event,
    log::a_key_used_at_once_gives_one_event,
    log::a_key_is_for_one_request,
    log::an_append_is_all_or_nothing,
    log::a_node_reads_what_its_listeners_need,
    log::a_reader_reads_what_is_theirs,
    log::pages_end_where_they_say,
    log::retraction_is_for_its_publisher_or_anybody_allowed,
    log::retention_removes_a_prefix_and_the_head_stays,
    history::a_log_that_lost_what_was_applied_begins_a_new_epoch,
    history::an_append_belongs_to_the_epoch_that_it_begins,
    history::a_page_names_the_events_at_its_ends,
    inbox::both_orders_page_through_everything,
    inbox::filters_leave_out_the_rest,
    inbox::a_search_finds_text_as_it_was_written,
    inbox::a_page_looks_at_so_many_and_goes_on_from_there,
    inbox::a_page_walks_so_many_entries_of_indexes,
    inbox::a_search_looks_at_so_many_bytes,
    inbox::a_count_ends_where_it_says,
    inbox::a_new_users_mark_stands_at_the_head,
    inbox::reading_up_to_here_is_taken_back_exactly,
    inbox::reading_is_each_users_own,
    inbox::a_mark_reads_up_to_the_head_and_no_further,
    inbox::an_event_stays_after_reading_as_long_as_it_says,
    inbox::expired_events_leave_everything_that_does_not_ask_for_them,
    inbox::inbox_counts_and_replay_agree_whatever_was_read,
    selectors::every_read_and_the_index_agree_with_the_selector,
    accounts::users_have_names_of_their_own,
    accounts::a_new_password_ends_sessions,
    accounts::tokens_end_by_time_and_by_revocation,
    accounts::tokens_are_listed_while_they_are_valid,
    accounts::sessions_end_by_time_and_by_signing_out,
    accounts::sessions_are_distinguished_and_ended,
    accounts::the_use_of_a_session_is_noted_now_and_then,
    users::a_name_that_a_row_has_or_had_is_never_anothers,
    users::an_issuers_subject_is_one_user,
    users::names_are_text_compared_by_bytes,
    users::a_disabled_users_sessions_and_tokens_permit_nothing,
    users::sessions_begun_before_a_time_are_void_and_tokens_are_not,
    endings::whatever_ends_something_writes_it_down,
    endings::what_ended_by_itself_is_no_ending,
    endings::a_reader_beside_many_that_end_something_misses_nothing,
    endings::old_endings_are_removed_and_numbers_go_on,
);

/// Runs one statement on the database itself, behind the store's back.
async fn execute(url: &str, sql: &str) {
    let sql = sqlx::AssertSqlSafe(sql.to_owned());
    if url.starts_with("sqlite:") {
        let mut connection = sqlx::SqliteConnection::connect(url).await.unwrap();
        sqlx::query(sql).execute(&mut connection).await.unwrap();
    } else {
        let mut connection = sqlx::PgConnection::connect(url).await.unwrap();
        sqlx::query(sql).execute(&mut connection).await.unwrap();
    }
}

async fn a_schema_is_distinguished_from_others(fresh: Fresh) {
    let Fresh { store, url, .. } = &fresh;
    let (one, other) = tokio::join!(store.migrate(), store.migrate());
    one.and(other).unwrap();
    assert_eq!(store.schema().await.unwrap(), Schema::Current);
    execute(url, "update _sqlx_migrations set version = 9999 where version = 2").await;
    assert_eq!(store.schema().await.unwrap(), Schema::Unknown);
    assert!(store.migrate().await.is_err());
    execute(url, "delete from _sqlx_migrations where version = 9999").await;
    assert_eq!(store.schema().await.unwrap(), Schema::Older);
    execute(url, "delete from _sqlx_migrations").await;
    assert_eq!(store.schema().await.unwrap(), Schema::Empty);
}

/// A schema that is newer is used by the programs it names and by no others, and is not touched by them.
async fn a_newer_schema_names_who_may_use_it(fresh: Fresh) {
    let Fresh { store, url, .. } = &fresh;
    let copy = "insert into _sqlx_migrations (version, description, success, checksum, execution_time)
        select 9999, 'later', SUCCESS, checksum, 1 from _sqlx_migrations where version = 1";
    // One that is under way is later all the same.
    execute(url, &copy.replace("SUCCESS", "false")).await;
    assert_eq!(store.schema().await.unwrap(), Schema::Unknown, "it names nobody");
    assert!(store.migrate().await.is_err());
    execute(url, "insert into compatibility (version, compatible_from) values (9999, 9999)").await;
    assert_eq!(store.schema().await.unwrap(), Schema::Unknown, "it names only later programs");
    let mine = "update compatibility set compatible_from = (select max(version) from _sqlx_migrations where version < 9999)
        where version = 9999";
    execute(url, mine).await;
    assert_eq!(store.schema().await.unwrap(), Schema::Newer);
    store.migrate().await.unwrap();
    assert_eq!(store.schema().await.unwrap(), Schema::Newer);
    execute(url, "update _sqlx_migrations set checksum = checksum || checksum where version = 3").await;
    assert_eq!(store.schema().await.unwrap(), Schema::Unknown, "what this program knows was altered");
}

#[tokio::test]
async fn a_newer_schema_of_sqlite_names_who_may_use_it() {
    a_newer_schema_names_who_may_use_it(sqlite().await).await;
}

#[tokio::test]
async fn a_newer_schema_of_postgres_names_who_may_use_it() {
    a_newer_schema_names_who_may_use_it(postgres_server().await).await;
}

#[tokio::test]
async fn a_schema_of_sqlite_is_distinguished_from_others() {
    a_schema_is_distinguished_from_others(sqlite().await).await;
}

#[tokio::test]
async fn a_schema_of_postgres_is_distinguished_from_others() {
    a_schema_is_distinguished_from_others(postgres_server().await).await;
}

/// What programs of migration 5 and people by hand write gets what later programs need.
async fn rows_inserted_by_others_are_whole(fresh: Fresh) {
    let Fresh { store, url, .. } = &fresh;
    add(store, event()).await;
    let insert =
        "insert into users (name, password_hash, role, created_at) values ('raw', '', 'listener', 0)";
    execute(url, insert).await;
    let raw = store.user_by_name("raw").await.unwrap().unwrap().0;
    assert!(
        replay(store, &reader(raw.id, &[])).await.is_empty(),
        "what was there before is not unread for them"
    );
    assert_eq!((raw.names.as_slice(), raw.public_id.len()), (&["raw".to_owned()][..], 32));
    assert!(store.rename_user(raw.id, "cooked").await.unwrap());
    assert!(matches!(store.create_user("raw", "", Role::Listener).await, Err(StoreError::Taken(_))));
    execute(url, "update users set name = 'by hand' where name = 'cooked'").await;
    let (by_hand, _) = store.user_by_name("by hand").await.unwrap().unwrap();
    assert_eq!(by_hand.names, ["by hand", "cooked", "raw"]);
    let token = "insert into tokens (user_id, name, secret, scopes, created_at)
        select id, 'x', SECRET, 'listen', 0 from users";
    let secret = if url.starts_with("sqlite:") { "zeroblob(32)" } else { "decode(repeat('00', 32), 'hex')" };
    execute(url, &token.replace("SECRET", secret)).await;
    assert!(store.token_by_secret(&[0; 32]).await.unwrap().is_some());
    execute(url, "update users set disabled_at = 1").await;
    assert!(store.token_by_secret(&[0; 32]).await.unwrap().is_none());
    assert_eq!(
        store.endings_since(0, 10).await.unwrap().0.len(),
        1,
        "what is done by hand is read by nodes, too"
    );
}

#[tokio::test]
async fn rows_inserted_into_sqlite_by_others_are_whole() {
    rows_inserted_by_others_are_whole(sqlite().await).await;
}

#[tokio::test]
async fn rows_inserted_into_postgres_by_others_are_whole() {
    rows_inserted_by_others_are_whole(postgres_server().await).await;
}

#[tokio::test]
async fn a_url_of_another_kind_is_refused() {
    for url in ["", "mysql://x", "nonsense", "sqlite:", "postgres://host:notaport/x"] {
        assert!(Store::open(url, &StoreLimits::default()).await.is_err(), "{url:?}");
    }
}

/// An event for everyone; tests change what matters to them.
fn event() -> NewEvent {
    NewEvent {
        id: Uuid::now_v7(),
        event_type: "test".parse().unwrap(),
        priority: Priority::Normal,
        audience: Audience::Everyone,
        data: "{}".into(),
        expiry: Expiry::Never,
        keep_after_read: None,
        publisher: 1,
        idempotency: None,
        request: None,
    }
}

fn for_users(users: &[UserId]) -> NewEvent {
    NewEvent { audience: Audience::users(users.to_vec()), ..event() }
}

fn on_topic(name: &str) -> NewEvent {
    NewEvent { audience: Audience::topic(topic(name)), ..event() }
}

fn topic(name: &str) -> Topic {
    name.parse().unwrap()
}

fn event_type(name: &str) -> EventType {
    name.parse().unwrap()
}

async fn append(store: &Store, events: &[NewEvent]) -> Appended {
    store.append(events).await.unwrap()
}

/// Appends one event; gives its position.
async fn add(store: &Store, event: NewEvent) -> Position {
    append(store, &[event]).await.events[0].position
}

async fn user(store: &Store, name: &str) -> UserId {
    store.create_user(name, "hash", Role::Listener).await.unwrap().id
}

fn reader(user: UserId, topics: &[&str]) -> Reader {
    Reader { user, selector: Selector::of_user(user, topics.iter().map(|name| topic(name)).collect()) }
}

fn positions(events: &[Event]) -> Vec<Position> {
    events.iter().map(|event| event.position).collect()
}

/// The same, of these types (none: all) and this priority and higher.
fn filtered(reader: Reader, types: &[&str], min_priority: Option<Priority>) -> Reader {
    let types = types.iter().map(|name| event_type(name)).collect();
    Reader { selector: Selector { types, min_priority, ..reader.selector }, ..reader }
}

/// What a node reads whose listeners are these users, on these topics.
fn node(users: &[UserId], topics: &[Topic]) -> Selector {
    Selector { everyone: true, users: users.to_vec(), ..Selector::of_topics(topics.to_vec()) }
}

/// What a stream of `reader` would replay from the beginning.
async fn replay(store: &Store, reader: &Reader) -> Vec<Position> {
    let head = store.log_state().await.unwrap().head;
    let page = store.read_for_reader(0, head, reader, 10_000).await.unwrap();
    assert_eq!(page.end, head);
    positions(&page.events)
}

/// Waits until the database's clock has passed `time`.
async fn until_past(store: &Store, time: i64) {
    let is_past = async || store.log_state().await.unwrap().now > time;
    support::wait_until(support::DEADLINE, "the time passes", is_past).await;
}
