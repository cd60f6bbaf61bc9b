//! How Postgres reads a large store: the plan of each statement, as the server itself logs it while the store runs.

use std::collections::BTreeSet;
use std::time::Duration;

use carillon::account::Credential;
use carillon::event::{Applied, Checkpoint};
use serde_json::Value;

use super::support::servers::PostgresServer;
use super::*;

const EVENTS: Position = 1_000_000;
/// These grow with the log, or with what is done: none is ever read from one end to the other.
const LARGE: [&str; 7] =
    ["events", "event_users", "event_topics", "receipts", "endings", "sessions", "tokens"];
/// What a page or a count may look at, in all tables and indexes together.
const PAGE: u64 = 10_000;
/// The same, with all 2,000 events that one may look at, each with its receipt: a rare type, a search, a count.
const WHOLE_BUDGET: u64 = 25_000;

/// A store whose server logs how it ran each statement, and that server.
struct Explained {
    store: Store,
    server: PostgresServer,
    seen: usize,
    faults: Vec<String>,
}

/// What the plans of one read come to.
#[derive(Default)]
struct Cost {
    statements: usize,
    indexes: BTreeSet<String>,
    sequential: BTreeSet<String>,
    rows: u64,
    lookups: u64,
    blocks: u64,
    millis: f64,
}

impl Explained {
    async fn start() -> Self {
        let server = PostgresServer::start();
        let url = server.new_database().await;
        let limits = StoreLimits {
            statement_timeout: Duration::from_secs(300),
            connections: carillon::store::PoolSizes::each(1),
            ..Default::default()
        };
        Store::open(&url, &limits).await.unwrap().migrate().await.unwrap();
        execute_all(&url, include_str!("plans.sql")).await;
        // For itself: it cannot be part of a transaction. It also notes which pages need not be visited.
        execute_all(&url, "vacuum analyze").await;
        let settings = [
            "session_preload_libraries=auto_explain",
            "auto_explain.log_min_duration=0",
            "auto_explain.log_analyze=on",
            "auto_explain.log_buffers=on",
            "auto_explain.log_format=json",
        ];
        let options: Vec<String> = settings
            .iter()
            .map(|s| s.split_once('=').unwrap())
            .map(|(k, v)| format!("options[{k}]={v}"))
            .collect();
        let store = Store::open(&format!("{url}?{}", options.join("&")), &limits).await.unwrap();
        assert_eq!(store.log_state().await.unwrap().forms, carillon::store::FORMS);
        Self { store, server, seen: 0, faults: Vec::new() }
    }

    /// Runs `read` and prints what its plans cost; notes a scan of a large table, and more than `most` rows.
    async fn look(&mut self, name: &str, most: u64, read: impl AsyncFn(&Store)) {
        self.plans().await;
        read(&self.store).await;
        let mut cost = Cost::default();
        for plan in self.plans().await {
            cost.add_statement(&plan);
        }
        let Cost { statements, indexes, sequential, rows, lookups, blocks, millis } = cost;
        // In it stand the receipts of everybody who read an event; only retention removes them by that.
        if indexes.contains("receipts_position") && !name.starts_with("retention") {
            self.faults.push(format!("{name}: looks at receipts of others"));
        }
        let indexes = indexes.into_iter().collect::<Vec<_>>().join(", ");
        println!("| {name} | {statements} | {rows} | {lookups} | {blocks} | {millis:.1} | {indexes} |");
        if statements == 0 {
            self.faults.push(format!("{name}: no plan was logged"));
        }
        if !sequential.is_empty() {
            self.faults.push(format!("{name}: scans {sequential:?} from one end to the other"));
        }
        // Rows are averages, rounded: of look-ups that mostly find nothing there would be none.
        if rows.max(lookups) > most {
            self.faults.push(format!("{name}: {rows} rows, {lookups} look-ups, more than {most}"));
        }
    }

    /// Reads once for what the server must fetch from the disk, and once more as in [`Self::look`].
    async fn warm(&mut self, name: &str, most: u64, read: impl AsyncFn(&Store)) {
        read(&self.store).await;
        self.look(name, most, read).await;
    }

    /// The plans that were logged since the last call.
    async fn plans(&mut self) -> Vec<Value> {
        // The only connection takes the next statement when the one before has ended, and been logged. The first of
        // these may itself be logged later than its answer.
        for _ in 0..2 {
            let nothing = Applied { epoch: "aaaaaaaa".parse().unwrap(), at: Checkpoint::default() };
            self.store.compare(&nothing).await.unwrap();
        }
        let log = self.server.log();
        let new = log[self.seen..].to_owned();
        self.seen = log.len();
        let is_own = |plan: &Value| {
            let text = plan["Query Text"].as_str().unwrap();
            !text.starts_with("select * from carillon_log_state(")
        };
        // The lines of a message after its first begin with a tab.
        new.split("  plan:\n")
            .skip(1)
            .map(|rest| rest.lines().map_while(|line| line.strip_prefix('\t')).collect::<Vec<_>>().join("\n"))
            .map(|plan| serde_json::from_str(&plan).unwrap())
            .filter(is_own)
            .collect()
    }
}

impl Cost {
    fn add_statement(&mut self, plan: &Value) {
        self.statements += 1;
        let plan = &plan["Plan"];
        self.blocks += number(plan, "Shared Hit Blocks") + number(plan, "Shared Read Blocks");
        self.millis += plan["Actual Total Time"].as_f64().unwrap();
        self.add(plan);
    }

    fn add(&mut self, node: &Value) {
        let loops = number(node, "Actual Loops");
        if let Some(index) = node["Index Name"].as_str().filter(|_| loops > 0) {
            self.indexes.insert(index.to_owned());
        }
        let kind = node["Node Type"].as_str().unwrap();
        if let Some(table) = node["Relation Name"].as_str().filter(|_| kind.ends_with("Scan")) {
            // Averages over the loops, rounded.
            let rows = number(node, "Actual Rows")
                + number(node, "Rows Removed by Filter")
                + number(node, "Rows Removed by Index Recheck");
            self.rows += rows * loops;
            self.lookups += loops;
            if kind == "Seq Scan" && LARGE.contains(&table) {
                self.sequential.insert(table.to_owned());
            }
        }
        node["Plans"].as_array().into_iter().flatten().for_each(|child| self.add(child));
    }
}

fn number(node: &Value, name: &str) -> u64 {
    node[name].as_u64().unwrap_or(0)
}

async fn execute_all(url: &str, sql: &str) {
    let mut connection = sqlx::PgConnection::connect(url).await.unwrap();
    sqlx::raw_sql(sqlx::AssertSqlSafe(sql.to_owned())).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}

fn topics(count: usize) -> Vec<Topic> {
    (0..count).map(|number| topic(&format!("topic-{}", number * 5))).collect()
}

fn of(user: UserId) -> Reader {
    Reader { user, selector: Selector::of_user(user, topics(10)) }
}

fn query() -> InboxQuery {
    InboxQuery { limit: 51, ..InboxQuery::default() }
}

/// Who has read nearly everything, who the older half, and who has no mark.
const READERS: [(UserId, &str); 3] =
    [(100, "mark near the head"), (4_000, "mark in the middle"), (9_000, "no mark")];

async fn nodes(explained: &mut Explained) {
    let (few, many): (Vec<UserId>, Vec<UserId>) = ((1..=10).collect(), (1..=5_000).collect());
    for (users, count, size) in [(few, 5, "10 users, 5 topics"), (many, 200, "5,000 users, 200 topics")] {
        let selector = node(&users, &topics(count));
        for (after, distance) in [(EVENTS - 100, "near the head"), (0, "from far behind")] {
            explained
                .warm(&format!("node, {size}, {distance}"), PAGE, async |store| {
                    store.read_for_node(after, EVENTS, Some(&selector), 500).await.unwrap();
                })
                .await;
        }
    }
}

async fn replays(explained: &mut Explained) {
    for (user, mark) in READERS {
        for (after, distance) in [(EVENTS - 2_000, "near the head"), (0, "from the beginning")] {
            for (least, priority) in [(None, "all"), (Some(Priority::High), "high and urgent")] {
                let reader = filtered(of(user), &[], least);
                explained
                    .warm(&format!("replay, {mark}, {distance}, {priority}"), PAGE, async |store| {
                        store.read_for_reader(after, EVENTS, &reader, 500).await.unwrap();
                    })
                    .await;
            }
        }
    }
}

async fn inboxes(explained: &mut Explained) {
    let by_priority = InboxQuery { order: InboxOrder::Priority, ..query() };
    let unread = InboxQuery { unread_only: true, ..query() };
    let no_one = Reader { user: 9_000, selector: Selector::of_topics(topics(10)) };
    let typed = filtered(of(9_000), &["type.3"], None);
    let mut reads = vec![
        ("newest".to_owned(), of(9_000), query()),
        (
            "newest, far back".to_owned(),
            of(9_000),
            InboxQuery { after: Some((Priority::Normal, 1_000)), ..query() },
        ),
        ("by priority".to_owned(), of(9_000), by_priority.clone()),
        ("of one type".to_owned(), typed.clone(), query()),
        ("of one type, by priority".to_owned(), typed, by_priority),
        ("topics only".to_owned(), no_one, query()),
    ];
    for (user, mark) in READERS {
        reads.push((format!("unread, {mark}"), of(user), unread.clone()));
    }
    for (name, reader, query) in reads {
        explained
            .warm(
                &format!("inbox, {name}"),
                if name.contains("type") { WHOLE_BUDGET } else { PAGE },
                async |store| {
                    store.inbox(&reader, &query).await.unwrap();
                },
            )
            .await;
    }
    // With many topics no more is walked than with few.
    let many = Reader { user: 9_000, selector: Selector::of_user(9_000, topics(32)) };
    let of_none = filtered(many, &["none"], None);
    explained
        .warm("inbox, of no type, 32 topics", WHOLE_BUDGET, async |store| {
            store.inbox(&of_none, &query()).await.unwrap();
        })
        .await;
    explained
        .warm("inbox, search", WHOLE_BUDGET, async |store| {
            let query = InboxQuery { text: Some("nowhere".into()), ..query() };
            store.inbox(&of(9_000), &query).await.unwrap();
        })
        .await;
    let everyone = Reader { user: 9_000, selector: Selector { everyone: true, ..Selector::default() } };
    let read_by_all = InboxQuery { include_expired: true, ..query() };
    let id = explained.store.inbox(&everyone, &read_by_all).await.unwrap().entries[0].event.id;
    explained
        .warm("inbox, one event that all have read", 1_000, async |store| {
            drop(store.inbox_event(9_000, id, false).await.unwrap())
        })
        .await;
    for (user, mark) in READERS {
        explained
            .warm(&format!("counts, {mark}"), WHOLE_BUDGET, async |store| {
                store.unread_counts(&of(user), 1_000, 2_000).await.unwrap();
            })
            .await;
    }
}

async fn others(explained: &mut Explained) {
    explained.warm("log state", 5, async |store| drop(store.log_state().await.unwrap())).await;
    explained.warm("event at", 5, async |store| drop(store.event_at(500_000).await.unwrap())).await;
    explained
        .warm("endings since", 300, async |store| drop(store.endings_since(49_900, 100).await.unwrap()))
        .await;
    let age = Duration::from_secs(3_600);
    explained
        .warm("last ending before", 5, async |store| {
            store.last_ending_before(age).await.unwrap();
        })
        .await;
    let asked: Vec<Credential> = (1..=100).map(Credential::Token).collect();
    explained.warm("ended of 100", 300, async |store| drop(store.ended_of(&asked).await.unwrap())).await;
    explained
        .look("remove endings, 1,000", PAGE, async |store| {
            store.remove_old_endings(Duration::from_secs(1_800), 1_000).await.unwrap();
        })
        .await;
    let oldest = explained.store.event_at(1).await.unwrap().unwrap().created_at;
    explained
        .look("retention of 5,000 events", 100_000, async |store| {
            assert_eq!(store.remove_before(oldest + 86_400_000, 5_000).await.unwrap(), 5_000);
        })
        .await;
}

#[tokio::test]
#[ignore = "a large store: scripts/test --all"]
async fn plans_of_a_large_store() {
    let mut explained = Explained::start().await;
    println!("| read | statements | rows looked at | look-ups | blocks | ms | indexes |");
    println!("| --- | --- | --- | --- | --- | --- | --- |");
    nodes(&mut explained).await;
    replays(&mut explained).await;
    inboxes(&mut explained).await;
    others(&mut explained).await;
    assert!(explained.faults.is_empty(), "{:#?}", explained.faults);
}
