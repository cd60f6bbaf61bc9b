//! What reads of an inbox cost in a large store: every filter and order, for users of every kind, on both stores; and
//! publishing beside those who read.
//!
//! Reads are measured in processor time, of this process and of the server: a machine that others use as well does not
//! change it much, and a quiet one takes about as long.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use carillon::account::Scope;
use serde_json::json;
use tokio::task::JoinSet;

use super::support::node::{self, Node, People};
use super::support::servers::PostgresServer;
use super::*;

/// Sizes to measure, in events, unless `CARILLON_TEST_EVENTS` names others (`100000,10000000`).
const SIZES: [i64; 2] = [100_000, 3_000_000];
/// What a read may take. Reported, not demanded: caches and neighbours have their part in it.
const BOUND: Duration = Duration::from_millis(50);
/// So many of the newest events have 16 KiB of data, the others a hundred bytes.
const LARGE_DATA: i64 = 3_000;
const TOPICS: usize = 40;

/// Who reads. All but the last were there before the first event.
const USERS: [&str; 7] = [
    "no mark",
    "mark in the middle",
    "no mark, the newest fifth read one by one",
    "mark at the head, a fiftieth left unread",
    "mark at the head",
    "mark at the head, the newest fifth read one by one before",
    "new",
];

/// One read, measured for each user.
struct Read {
    name: String,
    filter: Filter,
    order: InboxOrder,
    unread_only: bool,
    after: Option<(Priority, Position)>,
}

#[derive(Clone, Default)]
struct Filter {
    types: &'static [&'static str],
    topics: usize,
    min_priority: Option<Priority>,
    text: Option<&'static str>,
}

fn reads(events: i64) -> Vec<Read> {
    let filters = [
        ("", Filter::default()),
        ("type, one in 20", Filter { types: &["type.3"], ..Filter::default() }),
        ("type, only the oldest", Filter { types: &["rare"], ..Filter::default() }),
        ("min_priority=high", Filter { min_priority: Some(Priority::High), ..Filter::default() }),
        ("min_priority=normal", Filter { min_priority: Some(Priority::Normal), ..Filter::default() }),
        ("topic, one", Filter { topics: 1, ..Filter::default() }),
        ("topic, 32", Filter { topics: 32, ..Filter::default() }),
        ("q, nowhere", Filter { text: Some("nowhere"), ..Filter::default() }),
        ("q, of a type", Filter { types: &["type.3"], text: Some("nowhere"), ..Filter::default() }),
    ];
    let mut reads = Vec::new();
    for (filter_name, filter) in filters {
        for (order_name, order) in [("newest", InboxOrder::Newest), ("priority", InboxOrder::Priority)] {
            for unread_only in [false, true] {
                let name =
                    [filter_name, &format!("order={order_name}"), if unread_only { "unread" } else { "" }];
                let name: Vec<&str> = name.into_iter().filter(|part| !part.is_empty()).collect();
                let (name, filter) = (name.join(", "), filter.clone());
                reads.push(Read { name, filter, order, unread_only, after: None });
            }
        }
    }
    for (name, text) in [("far back", None), ("q, far back", Some("nowhere"))] {
        let filter = Filter { text, ..Filter::default() };
        let after = Some((Priority::Normal, events / 2));
        reads.push(Read { name: name.into(), filter, order: InboxOrder::Newest, unread_only: false, after });
    }
    reads
}

impl Filter {
    fn reader(&self, user: UserId) -> Reader {
        let topics: Vec<Topic> = (0..self.topics).map(|number| topic(&format!("topic-{number}"))).collect();
        let selector =
            if topics.is_empty() { Selector::of_user(user, topics) } else { Selector::of_topics(topics) };
        filtered(Reader { user, selector }, self.types, self.min_priority)
    }
}

async fn page(store: &Store, reader: &Reader, read: &Read) {
    let query = InboxQuery {
        unread_only: read.unread_only,
        text: read.filter.text.map(str::to_owned),
        order: read.order,
        after: read.after,
        limit: 51,
        ..InboxQuery::default()
    };
    store.inbox(reader, &query).await.unwrap();
}

async fn count(store: &Store, reader: &Reader) {
    store.unread_counts(reader, 1_000, 2_000).await.unwrap();
}

/// The least of three, so that a cold cache is not measured; what is far too much, once.
async fn cost(server: Option<&PostgresServer>, work: impl AsyncFn()) -> Duration {
    let mut best = Duration::MAX;
    for _ in 0..3 {
        let begin = processor_time(server);
        work().await;
        best = best.min(processor_time(server).saturating_sub(begin));
        if best > 10 * BOUND {
            break;
        }
    }
    best
}

/// What this process's threads have used so far, and the server's processes.
pub(super) fn processor_time(server: Option<&PostgresServer>) -> Duration {
    let own = std::fs::read_dir("/proc/self/task").unwrap().map(|task| task.unwrap().path());
    let servers = server
        .into_iter()
        .flat_map(PostgresServer::processes)
        .map(|pid| Path::new("/proc").join(pid.to_string()));
    let nanos = own.chain(servers).filter_map(|folder| {
        // A thread or process may have ended meanwhile.
        let text = std::fs::read_to_string(folder.join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(nanos.sum())
}

/// The statements that fill a store: in both databases' words, the same events.
fn filling(events: i64, is_postgres: bool) -> Vec<String> {
    let (numbers, now, id, text) = if is_postgres {
        (
            format!("n(g) as (select generate_series(1::bigint, {events}))"),
            "carillon_now()",
            "gen_random_uuid()",
            "(select string_agg(md5(g::text || i::text), '') from generate_series(1, 500) i)",
        )
    } else {
        (
            format!("recursive n(g) as (select 1 union all select g + 1 from n where g < {events})"),
            "cast(unixepoch('subsec') * 1000 as integer)",
            "randomblob(16)",
            "hex(randomblob(8000))",
        )
    };
    // Scattered, and the same each time.
    let pick = |salt: i64, of: i64| {
        format!("((g * {}) % 4294967296 / 4096 % {of})", 2_654_435_761_i64 + 2 * salt * 7_919)
    };
    let (kind, level, user) = (
        pick(1, 100),
        pick(2, 100),
        format!("case {} when 0 then {} + 1 else {} + 100 end", pick(3, 10), pick(4, 6), pick(5, 5_000)),
    );
    let topic = format!("'topic-' || {}", pick(6, TOPICS as i64));
    let recent = format!("g > {}", events - LARGE_DATA);
    vec![
        format!(
            "with {numbers}
            insert into events (position, id, type, priority, audience, topic, data, created_at, expires_at,
                keep_after_read, retracted_at, publisher)
            select g, {id}, case when g <= 100 then 'rare' else 'type.' || {kinds} end,
                case when {level} < 2 then 3 when {level} < 5 then 2 when {level} < 10 then 0 else 1 end,
                case when {kind} < 80 then 0 when {kind} between 90 and 94 then 2 else 1 end,
                case when {kind} between 90 and 94 then {topic} end,
                case when {recent} then '\"' || {text} || '\"' else '\"{filler}\"' end, {now} - 86400000,
                case when {ends} < 2 then {now} - 3600000 end, case when {keeps} < 5 then 3600000 end,
                case when {gone} < 1 then {now} end, 1
            from n",
            kinds = pick(7, 20),
            ends = pick(8, 100),
            keeps = pick(9, 100),
            gone = pick(10, 100),
            filler = "x".repeat(100),
        ),
        format!(
            "with {numbers} insert into event_users (user_id, position, priority)
            select {user}, g, nullif(e.priority, 1) from n join events e on e.position = g where e.audience = 1"
        ),
        format!(
            "with {numbers} insert into event_topics (topic, position, priority)
            select {topic}, g, nullif(e.priority, 1) from n join events e on e.position = g
            where e.audience = 2 or (e.audience = 1 and {kind} >= 95)"
        ),
        format!(
            "with {numbers} insert into receipts (user_id, position, is_read, at)
            select 3, g, true, {now} from n where g > {read_from} union all
            select 6, g, true, {now} from n where g > {read_from} union all
            select 4, g, false, {now} from n where {} = 0",
            pick(11, 50),
            read_from = events / 5 * 4,
        ),
        format!(
            "insert into read_marks (user_id, position, at)
            values (2, {}, {now}), (4, {events}, {now}), (5, {events}, {now}), (6, {events}, {now})",
            events / 2
        ),
    ]
}

async fn fill(url: &str, events: i64) {
    for statement in filling(events, !url.starts_with("sqlite:")) {
        execute(url, &statement).await;
    }
    if url.starts_with("sqlite:") {
        execute(url, "pragma wal_checkpoint(truncate)").await;
    } else {
        execute(url, &format!("select setval('events_position', {events})")).await;
        execute(url, "vacuum analyze").await;
    }
}

/// Fills a store and measures all reads; gives for each read the costliest user's.
async fn measure(
    label: &str,
    url: &str,
    events: i64,
    server: Option<&PostgresServer>,
) -> Vec<(String, Duration, &'static str)> {
    let limits = StoreLimits { statement_timeout: Duration::from_secs(300), ..StoreLimits::default() };
    let store = Store::open(url, &limits).await.unwrap();
    store.migrate().await.unwrap();
    for number in 1..USERS.len() {
        assert_eq!(user(&store, &format!("user-{number}")).await, number as UserId);
    }
    let begin = Instant::now();
    fill(url, events).await;
    eprintln!("{label}, {events} events: filled in {:.0?}", begin.elapsed());
    user(&store, "new").await;
    for number in 0..20 {
        add(&store, if number % 2 == 0 { event() } else { for_users(&[USERS.len() as UserId]) }).await;
    }
    let mut measured = Vec::new();
    for read in reads(events) {
        let mut worst = (Duration::ZERO, "");
        for (kind, id) in USERS.into_iter().zip(1..) {
            let reader = read.filter.reader(id);
            worst = worst.max((cost(server, async || page(&store, &reader, &read).await).await, kind));
        }
        eprintln!("{label}, {events}: {}: {:.1?}, {}", read.name, worst.0, worst.1);
        measured.push((read.name, worst.0, worst.1));
    }
    for topics in [0, 32] {
        let mut worst = (Duration::ZERO, "");
        for (kind, id) in USERS.into_iter().zip(1..) {
            let topics = (0..topics).map(|number| topic(&format!("topic-{number}"))).collect();
            let reader = Reader { user: id, selector: Selector::of_user(id, topics) };
            worst = worst.max((cost(server, async || count(&store, &reader).await).await, kind));
        }
        measured.push((format!("counts, {topics} topics"), worst.0, worst.1));
    }
    measured
}

fn sizes() -> Vec<i64> {
    match std::env::var("CARILLON_TEST_EVENTS") {
        Ok(sizes) => sizes.split(',').map(|size| size.trim().parse().unwrap()).collect(),
        Err(_) => SIZES.to_vec(),
    }
}

/// The dearest reads of the user who has read the newest fifth one by one.
fn dearest() -> Vec<String> {
    let topics: String = (0..32).map(|number| format!("&topic=topic-{number}")).collect();
    vec![
        format!("?unread=true{topics}"),
        format!("?unread=true&order=priority{topics}"),
        format!("/counts?{}", &topics[1..]),
        "?unread=true&order=priority&q=nowhere".into(),
        "?type=rare&order=priority".into(),
    ]
}

/// Events that are published one after the other.
const PUBLISHED: usize = 200;
const READERS: usize = 50;

/// Publishes to a node on a large store, first alone, then beside readers that do nothing but [`dearest`]; every event is
/// acknowledged. Prints how long they took.
async fn publishing(label: &str, url: &str, events: i64) {
    let people = People::new(url).await;
    let token = people.token("user-3", &[Scope::Listen], None).await;
    let node = Node::start(url, "memory:", &[]).await;
    let client = reqwest::Client::new();
    let publish = async || {
        let mut times = Vec::new();
        for number in 0..PUBLISHED {
            let event = node::event(&json!("everyone"), &json!(number));
            let request =
                client.post(format!("{}/api/v1/events", node.address)).bearer_auth(&people.publisher);
            let begun = Instant::now();
            let answer = request.body(event.to_string()).send().await.unwrap();
            assert_eq!(answer.status(), 201, "{}", answer.text().await.unwrap());
            times.push(begun.elapsed());
        }
        times.sort();
        (times[PUBLISHED / 2], times[PUBLISHED * 99 / 100])
    };
    let alone = publish().await;
    let [answered, refused] = [Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0))];
    let mut readers = JoinSet::new();
    for reader in 0..READERS {
        let requests: Vec<_> = dearest()
            .into_iter()
            .map(|read| client.get(format!("{}/api/v1/inbox{read}", node.address)).bearer_auth(&token))
            .collect();
        let (answered, refused) = (answered.clone(), refused.clone());
        readers.spawn(async move {
            for request in requests.iter().cycle().skip(reader) {
                let answer = request.try_clone().unwrap().send().await.unwrap();
                let status = answer.status();
                // Who waited too long for a connection is told to come again.
                assert!(status == 200 || status == 503, "{status}");
                let count = if status == 200 { &answered } else { &refused };
                count.fetch_add(1, Ordering::Relaxed);
                answer.bytes().await.unwrap();
            }
        });
    }
    let all_read = async || answered.load(Ordering::Relaxed) >= READERS as u64;
    support::wait_until(support::DEADLINE, "readers are at it", all_read).await;
    let begun = Instant::now();
    let before = answered.load(Ordering::Relaxed);
    let beside = publish().await;
    let rate = (answered.load(Ordering::Relaxed) - before) as f64 / begun.elapsed().as_secs_f64();
    let is_lost = readers.try_join_next().map(Result::unwrap).is_some();
    readers.shutdown().await;
    assert!(!is_lost, "a reader ended");
    println!(
        "{label}, {events} events: a publish, median and p99: {:.1?} and {:.1?} alone, {:.1?} and {:.1?} beside {READERS} readers, \
         who got {rate:.0} answers a second and were refused {} times",
        alone.0,
        alone.1,
        beside.0,
        beside.1,
        refused.load(Ordering::Relaxed),
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "large stores: scripts/test --all"]
async fn reads_of_large_stores() {
    let server = PostgresServer::start();
    let mut columns = Vec::new();
    for events in sizes() {
        let folder = TempDir::new().unwrap();
        let sqlite = format!("sqlite:{}", folder.path().join("large.sqlite").display());
        for (label, url) in [("SQLite", sqlite), ("Postgres", server.new_database().await)] {
            let server = (label == "Postgres").then_some(&server);
            columns.push((format!("{label}, {events}"), measure(label, &url, events, server).await));
            publishing(label, &url, events).await;
        }
    }
    let mut table = String::from("| read |");
    columns.iter().for_each(|(label, _)| write!(table, " {label}, ms | for |").unwrap());
    table += &format!("\n| --- |{}", " ---: | --- |".repeat(columns.len()));
    for row in 0..columns[0].1.len() {
        write!(table, "\n| {} |", columns[0].1[row].0).unwrap();
        for (_, measured) in &columns {
            let (_, time, kind) = &measured[row];
            write!(table, " {:.1} | {kind} |", time.as_secs_f64() * 1_000.0).unwrap();
        }
    }
    println!("{table}");
    let slow = columns.iter().flat_map(|(_, measured)| measured).filter(|(_, time, _)| *time > BOUND).count();
    println!("above {BOUND:?}: {slow}");
}
