//! Who is on a topic, over several nodes.

use std::time::Duration;

use super::*;
use tokio::time::sleep;

const WATCH: &str = "topic=chat/room&presence=true";
/// The nodes' `--presence-seconds`, where the users of a killed node are to leave soon.
const LIFETIME: Duration = Duration::from_secs(6);

/// The presence notices that a listener received, in order: `[alice bob]`, `+carol`, `-carol`.
fn notices(listener: &Listener) -> Vec<String> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let log = listener.log();
    let notices = log.notices.iter().filter_map(|(name, data)| match name.as_str() {
        "carillon.presence" => {
            let users: Vec<_> = data["users"].as_array().unwrap().iter().map(text).collect();
            assert_eq!(data["count"], users.len());
            Some(format!("[{}]", users.join(" ")))
        }
        "carillon.join" => Some(format!("+{}", text(&data["user"]))),
        "carillon.leave" => Some(format!("-{}", text(&data["user"]))),
        _ => None,
    });
    notices.collect()
}

async fn until_notices(listener: &Listener, expected: &[&str]) {
    wait_until(DEADLINE, &format!("{expected:?} is received"), async || {
        notices(listener).len() >= expected.len()
    })
    .await;
    assert_eq!(notices(listener), expected);
}

async fn ask(cluster: &Cluster, node: usize) -> Result<Vec<String>, u16> {
    let address = format!("{}/api/v1/presence?topic=chat/room", cluster.nodes[node].address);
    let answer = reqwest::Client::new().get(address).bearer_auth(&cluster.alice).send().await.unwrap();
    if answer.status() != 200 {
        return Err(answer.status().as_u16());
    }
    let answer: Value = answer.json().await.unwrap();
    Ok(answer["users"].as_array().unwrap().iter().map(|name| name.as_str().unwrap().to_owned()).collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_comes_and_goes_on_one_node_is_reported_on_others() {
    let cluster = Cluster::start().await;
    let alice = Listener::start(&cluster.from(0), &cluster.alice, WATCH).await;
    until_notices(&alice, &["[alice]"]).await;
    let bob = Listener::start(&cluster.from(1), &cluster.bob, WATCH).await;
    until_notices(&alice, &["[alice]", "+bob"]).await;
    until_notices(&bob, &["[alice bob]"]).await;
    for node in 0..3 {
        assert_eq!(ask(&cluster, node).await.unwrap(), ["alice", "bob"], "node {node}");
    }
    // A reload, then another tab on a third node that outlasts the first: nobody left.
    drop(bob);
    sleep(Duration::from_millis(500)).await;
    let bob = Listener::start(&cluster.from(1), &cluster.bob, WATCH).await;
    until_notices(&bob, &["[alice bob]"]).await;
    let elsewhere = Listener::start(&cluster.from(2), &cluster.bob, WATCH).await;
    until_notices(&elsewhere, &["[alice bob]"]).await;
    drop(bob);
    sleep(Duration::from_secs(4)).await;
    assert_eq!(notices(&alice), ["[alice]", "+bob"]);
    assert_eq!(notices(&elsewhere), ["[alice bob]"]);
    drop(elsewhere);
    until_notices(&alice, &["[alice]", "+bob", "-bob"]).await;
    for node in 0..3 {
        assert_eq!(ask(&cluster, node).await.unwrap(), ["alice"], "node {node}");
    }
}

/// One of its users comes back on another node and has not left; the other is gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_of_a_killed_node_leave_unless_they_are_elsewhere() {
    let mut cluster = Cluster::start_with(&["--presence-seconds", "6"]).await;
    let carol = cluster.people.add("carol", Role::Listener).await;
    let alice = Listener::start(&cluster.from(0), &cluster.alice, WATCH).await;
    until_notices(&alice, &["[alice]"]).await;
    let bob = Listener::start(&cluster.from(1), &cluster.bob, WATCH).await;
    until_notices(&alice, &["[alice]", "+bob"]).await;
    // Comes back to the same address only, where nobody is.
    let carol = Listener::start(&cluster.from(1)[..1], &carol, WATCH).await;
    until_notices(&alice, &["[alice]", "+bob", "+carol"]).await;
    until_notices(&carol, &["[alice bob carol]"]).await;
    cluster.nodes[1].kill();
    let begun = Instant::now();
    until_notices(&alice, &["[alice]", "+bob", "+carol", "-carol"]).await;
    let took = begun.elapsed();
    println!("the user of a killed node left after {took:?}");
    assert!(took < LIFETIME * 2 + Duration::from_secs(3), "{took:?}");
    wait_until(DEADLINE, "bob has come back", async || bob.log().connections == 2).await;
    assert_eq!(ask(&cluster, 2).await.unwrap(), ["alice", "bob"]);
    sleep(LIFETIME).await;
    assert_eq!(notices(&alice), ["[alice]", "+bob", "+carol", "-carol"], "bob never left");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_leaves_because_redis_is_emptied_or_away() {
    let mut cluster = Cluster::start_with(&["--presence-seconds", "6"]).await;
    let alice = Listener::start(&cluster.from(0), &cluster.alice, WATCH).await;
    until_notices(&alice, &["[alice]"]).await;
    let bob = Listener::start(&cluster.from(1), &cluster.bob, WATCH).await;
    until_notices(&alice, &["[alice]", "+bob"]).await;
    let _third = Listener::start(&cluster.from(2), &cluster.bob, WATCH).await;
    for _ in 0..3 {
        assert_eq!(cluster.redis.query::<String>(&["FLUSHALL"]).await.unwrap(), "OK");
        wait_until(DEADLINE, "all is shared again", async || {
            ask(&cluster, 0).await == Ok(vec!["alice".into(), "bob".into()])
        })
        .await;
        sleep(LIFETIME / 2).await;
    }
    cluster.redis.kill();
    wait_until(DEADLINE, "who is there is not known", async || ask(&cluster, 0).await == Err(503)).await;
    sleep(LIFETIME).await;
    cluster.redis.restart().await;
    wait_until(DEADLINE, "all is shared again", async || {
        ask(&cluster, 2).await == Ok(vec!["alice".into(), "bob".into()])
    })
    .await;
    sleep(LIFETIME).await;
    assert_eq!(notices(&alice), ["[alice]", "+bob"]);
    assert_eq!(notices(&bob), ["[alice bob]"]);
}

/// Notices may be lost, both that somebody came and that they left: the tables are read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_not_heard_is_found_in_the_tables() {
    let cluster = Cluster::start_with(&["--presence-seconds", "6"]).await;
    let alice = Listener::start(&cluster.from(0), &cluster.alice, WATCH).await;
    until_notices(&alice, &["[alice]"]).await;
    // Written by a node that sends nothing about it, and renews it no more. A later version says more of each user.
    let ends = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap() + LIFETIME;
    let (table, ends) = ("carillon:table:presence:silent", ends.as_millis().to_string());
    let users = r#"[{"id": 4, "name": "dave", "status": "away"}]"#;
    cluster.redis.ask(&["HSET", table, "chat/room", users]).await;
    cluster.redis.ask(&["PEXPIREAT", table, &ends]).await;
    cluster.redis.ask(&["ZADD", "carillon:set:presence-nodes", &ends, "silent"]).await;
    until_notices(&alice, &["[alice]", "+dave"]).await;
    until_notices(&alice, &["[alice]", "+dave", "-dave"]).await;
}

/// Of topics that nobody watches nothing is read, and each node writes them as one table: what they cost is the same
/// for ten as for a thousand.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn topics_that_nobody_watches_cost_nothing() {
    const TOPICS: usize = 1_024;
    let cluster = Cluster::start_with(&["--presence-seconds", "6"]).await;
    let mut idle = Vec::new();
    for number in 0..TOPICS / 32 {
        let topics: Vec<_> = (0..32).map(|topic| format!("topic=chat/{number}/{topic}")).collect();
        idle.push(Listener::start(&cluster.from(0), &cluster.alice, &topics.join("&")).await);
    }
    let fields = async || {
        let tables: Vec<String> = cluster.redis.query(&["KEYS", "carillon:table:presence:*"]).await.unwrap();
        let [table] = &tables[..] else { return 0 };
        cluster.redis.query::<usize>(&["HLEN", table]).await.unwrap()
    };
    // One field more counts the writes.
    wait_until(DEADLINE, "all topics are shared", async || fields().await == TOPICS + 1).await;
    cluster.redis.ask(&["CONFIG", "RESETSTAT"]).await;
    sleep(LIFETIME * 2).await;
    assert_eq!(fields().await, TOPICS + 1, "the table was renewed");
    let text: String = cluster.redis.query(&["INFO", "commandstats"]).await.unwrap();
    let calls = |line: &str| line.split_once(":calls=")?.1.split_once(',')?.0.parse::<usize>().ok();
    let calls: usize = text.lines().filter_map(calls).sum();
    // What three nodes do with Redis at all. Entering and reading each topic would be tens of thousands.
    assert!(calls < TOPICS * 2, "{calls} commands in two lifetimes");
    // Who begins to watch one of them learns who is there.
    let bob = Listener::start(&cluster.from(1), &cluster.bob, "topic=chat/3/7&presence=true").await;
    until_notices(&bob, &["[alice bob]"]).await;
    // A table that was lost in part is written again.
    let tables: Vec<String> = cluster.redis.query(&["KEYS", "carillon:table:presence:*"]).await.unwrap();
    for table in &tables {
        cluster.redis.ask(&["DEL", table]).await;
    }
    let more = Listener::start(&cluster.from(0), &cluster.alice, "topic=chat/more").await;
    wait_until(DEADLINE, "all is written again", async || {
        let tables: Vec<String> = cluster.redis.query(&["KEYS", "carillon:table:presence:*"]).await.unwrap();
        let mut fields = 0;
        for table in &tables {
            fields += cluster.redis.query::<usize>(&["HLEN", table]).await.unwrap() - 1;
        }
        fields == TOPICS + 2
    })
    .await;
    assert_eq!(notices(&bob), ["[alice bob]"]);
    drop(more);
}
