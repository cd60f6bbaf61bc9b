//! One suite for every backend of `Ttl`, then what only Redis can get wrong.
//!
//! Needs `CARILLON_TEST_REDIS_URL` (a Redis of version 6.2 or newer; its other keys are left alone) and, for
//! the outages, `redis-server` on the path.

mod pool;
mod sets;
#[path = "../support/mod.rs"]
mod support;
mod tables;

use std::collections::BTreeSet;
use std::time::{Duration, Instant, SystemTime};

use carillon::ttl::{RateDecision, TableChange, Ttl, TtlLimits};
use sets::*;
use support::redis_groups::{RedisCluster, RedisSentinels};
use support::servers::RedisServer;
use tables::*;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use uuid::Uuid;

/// How long anything may take to become true before it counts as never.
const PATIENCE: Duration = Duration::from_secs(20);
/// A lifetime that outlasts any test.
const LONG: Duration = Duration::from_secs(600);
const SHORT: Duration = Duration::from_millis(200);
/// How late a key may end: who reads two clocks may be held up between them.
const LATE: Duration = Duration::from_secs(1);

macro_rules! suite {
    ($($test:ident),* $(,)?) => {
        mod in_memory {
            $(#[tokio::test] async fn $test() { super::$test(|limits| super::memory(limits)).await })*
        }
        mod in_redis {
            $(#[tokio::test] async fn $test() { super::$test(|limits| super::redis(limits)).await })*
        }
        // One test each: they need a while to start.
        #[tokio::test]
        async fn behind_sentinel() {
            let servers = RedisSentinels::start_steady().await;
            $(eprintln!(stringify!($test)); $test(|limits| Ttl::open(&servers.url(), limits).unwrap()).await;)*
        }
        #[tokio::test]
        async fn in_redis_cluster() {
            let servers = RedisCluster::start_steady().await;
            $(eprintln!(stringify!($test)); $test(|limits| Ttl::open(&servers.url(), limits).unwrap()).await;)*
        }
    };
}

suite!(
    a_key_is_given_back_until_removed,
    a_key_ends_by_its_time,
    a_new_value_begins_a_new_lifetime,
    no_lifetime_is_no_key,
    many_keys_end_at_their_times,
    a_limit_allows_its_burst_and_then_one_each_interval,
    limits_are_independent_of_each_other_and_of_keys,
    takes_at_once_never_exceed_the_burst,
    odd_limits_are_survived,
    expirations_report_ended_keys_only,
    a_full_queue_of_expirations_loses_and_goes_on,
    members_are_those_who_entered_and_did_not_leave,
    a_member_ends_by_its_time_and_entering_again_begins_a_new_one,
    a_large_set_is_entered_at_once_and_read_as_far_as_asked,
    a_full_set_loses_those_that_end_first,
    sets_meet_neither_keys_nor_expirations,
    fields_are_those_written_and_not_removed,
    whoever_alone_writes_a_table_learns_that_it_was_lost,
    a_table_ends_as_a_whole_and_writing_or_renewing_it_begins_a_new_life,
    a_large_table_is_written_in_parts,
    tables_meet_neither_keys_nor_sets_nor_expirations,
);

fn memory(limits: &TtlLimits) -> Ttl {
    Ttl::open("memory:", limits).unwrap()
}

fn redis(limits: &TtlLimits) -> Ttl {
    // The machine may be busy with other tests; the deadline is put to the test with servers of our own.
    Ttl::open(&support::servers::redis_url(), limits).unwrap()
}

fn patient() -> TtlLimits {
    TtlLimits { deadline: PATIENCE, pool_wait: PATIENCE, pool_recycle: PATIENCE, ..TtlLimits::default() }
}

/// A name nobody else uses: the Redis is shared.
fn name(what: &str) -> String {
    format!("test:{}:{what}", Uuid::now_v7().simple())
}

fn now_millis() -> i64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis() as i64
}

async fn until(what: &str, mut is_true: impl AsyncFnMut() -> bool) {
    let started = Instant::now();
    while !is_true().await {
        assert!(started.elapsed() < PATIENCE, "never: {what}");
        sleep(Duration::from_millis(10)).await;
    }
}

async fn until_gone(ttl: &Ttl, key: &str) {
    until("the key ends", async || ttl.get(key).await.unwrap().is_none()).await;
}

async fn a_key_is_given_back_until_removed(open: impl Fn(&TtlLimits) -> Ttl) {
    let ttl = open(&patient());
    let key = name("key");
    assert_eq!(ttl.get(&key).await.unwrap(), None);
    let binary: Vec<u8> = (0..=255).chain([0, 13, 10, 255]).collect();
    for value in [&binary[..], b"", b"text"] {
        ttl.put(&key, value, LONG).await.unwrap();
        assert_eq!(ttl.get(&key).await.unwrap().as_deref(), Some(value));
    }
    assert_eq!(ttl.clone().get(&key).await.unwrap().as_deref(), Some(&b"text"[..]));
    ttl.remove(&key).await.unwrap();
    assert_eq!(ttl.get(&key).await.unwrap(), None);
    ttl.remove(&key).await.unwrap();
}

async fn a_key_ends_by_its_time(open: impl Fn(&TtlLimits) -> Ttl) {
    let ttl = open(&patient());
    let key = name("key");
    ttl.put(&key, b"value", SHORT).await.unwrap();
    // The server reads its clock at most once a turn.
    let end = Instant::now() + SHORT + LATE;
    let mut gone = 0;
    until("the key ends and stays away", async || {
        let asked = Instant::now();
        match ttl.get(&key).await.unwrap() {
            Some(_) => assert!(asked <= end && gone == 0, "given back after its time"),
            None => gone += 1,
        }
        gone > 20
    })
    .await;
}

async fn a_new_value_begins_a_new_lifetime(open: impl Fn(&TtlLimits) -> Ttl) {
    let ttl = open(&patient());
    let (longer, shorter, clock) = (name("longer"), name("shorter"), name("clock"));
    ttl.put(&longer, b"old", SHORT).await.unwrap();
    ttl.put(&longer, b"new", LONG).await.unwrap();
    ttl.put(&shorter, b"old", LONG).await.unwrap();
    ttl.put(&shorter, b"new", SHORT).await.unwrap();
    ttl.put(&clock, b"", SHORT).await.unwrap();
    until_gone(&ttl, &clock).await;
    until_gone(&ttl, &shorter).await;
    assert_eq!(ttl.get(&longer).await.unwrap().as_deref(), Some(&b"new"[..]));
    ttl.remove(&longer).await.unwrap();
}

async fn no_lifetime_is_no_key(open: impl Fn(&TtlLimits) -> Ttl) {
    let ttl = open(&patient());
    let key = name("key");
    ttl.put(&key, b"old", LONG).await.unwrap();
    ttl.put(&key, b"new", Duration::ZERO).await.unwrap();
    assert_eq!(ttl.get(&key).await.unwrap(), None);
    ttl.put(&key, b"for ever", Duration::MAX).await.unwrap();
    assert_eq!(ttl.get(&key).await.unwrap().as_deref(), Some(&b"for ever"[..]));
    ttl.remove(&key).await.unwrap();
}

async fn many_keys_end_at_their_times(open: impl Fn(&TtlLimits) -> Ttl) {
    let ttl = open(&patient());
    ttl.put_until(&[]).await.unwrap();
    let (prefix, now) = (name(""), now_millis());
    let mut keys: Vec<_> = (0..2500u32)
        .map(|n| (format!("{prefix}{n}"), n.to_be_bytes().to_vec(), now + LONG.as_millis() as i64))
        .collect();
    let past = [now - 1, now - 86_400_000, 0, -1, i64::MIN];
    keys.extend(past.iter().enumerate().map(|(n, at)| (format!("{prefix}past{n}"), vec![1], *at)));
    keys.push((format!("{prefix}soon"), vec![0, 255], now + 1500));
    keys.push((format!("{prefix}last"), vec![1], i64::MAX));
    ttl.put_until(&keys).await.unwrap();
    for n in [0u32, 999, 1000, 1999, 2000, 2499] {
        let value = ttl.get(&format!("{prefix}{n}")).await.unwrap();
        assert_eq!(value.as_deref(), Some(&n.to_be_bytes()[..]), "key {n}");
    }
    for n in 0..past.len() {
        assert_eq!(ttl.get(&format!("{prefix}past{n}")).await.unwrap(), None, "past {n}");
    }
    assert!(ttl.get(&format!("{prefix}last")).await.unwrap().is_some());
    until("the key ends", async || {
        let asked = now_millis();
        let value = ttl.get(&format!("{prefix}soon")).await.unwrap();
        assert!(
            value.is_none() || asked <= now + 1500 + LATE.as_millis() as i64,
            "given back after its time"
        );
        value.is_none()
    })
    .await;
    assert!(now_millis() >= now + 1500, "ended before its time");
    let ended: Vec<_> = keys.into_iter().map(|(key, value, _)| (key, value, 1)).collect();
    ttl.put_until(&ended).await.unwrap();
    assert_eq!(ttl.get(&format!("{prefix}0")).await.unwrap(), None, "a past time ends what was there");
}

async fn a_limit_allows_its_burst_and_then_one_each_interval(open: impl Fn(&TtlLimits) -> Ttl) {
    let ttl = open(&patient());
    let (key, every) = (name("limit"), Duration::from_secs(3));
    let began = Instant::now();
    for n in 0..3 {
        assert_eq!(ttl.take(&key, 3, every).await.unwrap(), RateDecision::Allowed, "take {n}");
    }
    let RateDecision::RetryAfter(wait) = ttl.take(&key, 3, every).await.unwrap() else {
        panic!("a fourth of three")
    };
    assert!(wait <= every && wait + began.elapsed() >= every, "{wait:?} to wait");
    until("another is allowed", async || ttl.take(&key, 3, every).await.unwrap() == RateDecision::Allowed)
        .await;
    let slack = Duration::from_millis(50);
    assert!(began.elapsed() + slack >= every, "allowed too soon");
    // Only one came back, and asking in vain cost nothing.
    assert!(matches!(ttl.take(&key, 3, every).await.unwrap(), RateDecision::RetryAfter(_)));
}

async fn limits_are_independent_of_each_other_and_of_keys(open: impl Fn(&TtlLimits) -> Ttl) {
    let ttl = open(&patient());
    let (one, two) = (name("one"), name("two"));
    ttl.put(&one, b"a key", LONG).await.unwrap();
    assert_eq!(ttl.take(&one, 1, LONG).await.unwrap(), RateDecision::Allowed);
    assert!(matches!(ttl.take(&one, 1, LONG).await.unwrap(), RateDecision::RetryAfter(_)));
    assert_eq!(ttl.take(&two, 1, LONG).await.unwrap(), RateDecision::Allowed);
    assert_eq!(ttl.get(&one).await.unwrap().as_deref(), Some(&b"a key"[..]));
    ttl.remove(&one).await.unwrap();
    assert!(matches!(ttl.take(&one, 1, LONG).await.unwrap(), RateDecision::RetryAfter(_)));
}

async fn takes_at_once_never_exceed_the_burst(open: impl Fn(&TtlLimits) -> Ttl) {
    let ttl = open(&patient());
    let key = name("limit");
    let takes: Vec<_> = (0..200)
        .map(|_| {
            let (ttl, key) = (ttl.clone(), key.clone());
            tokio::spawn(async move { ttl.take(&key, 20, LONG).await.unwrap() })
        })
        .collect();
    let mut allowed = 0;
    for take in takes {
        allowed += u32::from(take.await.unwrap() == RateDecision::Allowed);
    }
    assert_eq!(allowed, 20);
}

async fn odd_limits_are_survived(open: impl Fn(&TtlLimits) -> Ttl) {
    let ttl = open(&patient());
    let no_burst = name("no burst");
    assert_eq!(ttl.take(&no_burst, 0, LONG).await.unwrap(), RateDecision::Allowed);
    assert!(matches!(ttl.take(&no_burst, 0, LONG).await.unwrap(), RateDecision::RetryAfter(_)));
    let no_interval = name("no interval");
    for _ in 0..5 {
        assert_eq!(ttl.take(&no_interval, 1, Duration::ZERO).await.unwrap(), RateDecision::Allowed);
    }
    let (endless, slow) = (name("endless"), name("slow"));
    for _ in 0..5 {
        assert_eq!(
            ttl.take(&endless, u32::MAX, Duration::from_secs(1)).await.unwrap(),
            RateDecision::Allowed
        );
    }
    assert_eq!(ttl.take(&slow, 1, Duration::MAX).await.unwrap(), RateDecision::Allowed);
    assert!(matches!(ttl.take(&slow, 1, Duration::MAX).await.unwrap(), RateDecision::RetryAfter(_)));
}

/// Expirations under `prefix` once they are known to arrive; subscribing takes a moment.
async fn listening(ttl: &Ttl, prefix: &str) -> mpsc::Receiver<String> {
    let mut expirations = ttl.expirations(prefix);
    until_heard(ttl, prefix, &mut expirations).await;
    expirations
}

async fn until_heard(ttl: &Ttl, prefix: &str, expirations: &mut mpsc::Receiver<String>) {
    let started = Instant::now();
    loop {
        assert!(started.elapsed() < PATIENCE, "expirations are never heard");
        // It may be down at the time.
        let _ = ttl.put(&format!("{prefix}probe"), b"", Duration::from_millis(20)).await;
        if let Ok(heard) = timeout(Duration::from_millis(300), expirations.recv()).await {
            assert_eq!(heard.as_deref(), Some("probe"));
            return;
        }
    }
}

async fn expirations_report_ended_keys_only(open: impl Fn(&TtlLimits) -> Ttl) {
    let ttl = open(&patient());
    let (prefix, other) = (name("mine:"), name("other:"));
    let mut expirations = listening(&ttl, &prefix).await;
    let mut elsewhere = listening(&ttl, &other).await;
    ttl.put(&format!("{prefix}ends"), b"value", SHORT).await.unwrap();
    ttl.put(&format!("{prefix}stays"), b"value", LONG).await.unwrap();
    ttl.put(&format!("{prefix}removed"), b"value", SHORT * 10).await.unwrap();
    ttl.remove(&format!("{prefix}removed")).await.unwrap();
    ttl.put(&format!("{prefix}replaced"), b"value", SHORT * 10).await.unwrap();
    ttl.put(&format!("{prefix}replaced"), b"value", LONG).await.unwrap();
    ttl.put(&format!("{other}ends elsewhere"), b"value", SHORT).await.unwrap();
    ttl.take(&format!("{prefix}limit"), 1, SHORT).await.unwrap();
    // Ends well after all the others: what is not reported by then is not reported at all.
    let last = (format!("{prefix}last"), b"value".to_vec(), now_millis() + 4500);
    ttl.put_until(&[last]).await.unwrap();
    let reported = heard_until("last", &mut expirations).await;
    assert_eq!(reported, BTreeSet::from(["ends".into(), "last".into()]));
    let reported = heard_until("ends elsewhere", &mut elsewhere).await;
    assert_eq!(reported, BTreeSet::from(["ends elsewhere".into()]));
    ttl.remove(&format!("{prefix}stays")).await.unwrap();
    ttl.remove(&format!("{prefix}replaced")).await.unwrap();
}

async fn heard_until(last: &str, expirations: &mut mpsc::Receiver<String>) -> BTreeSet<String> {
    let mut reported = BTreeSet::new();
    while !reported.contains(last) {
        let heard = timeout(PATIENCE, expirations.recv()).await.expect("nothing more is heard").unwrap();
        reported.insert(heard);
    }
    // Left over from waiting for the subscription.
    reported.remove("probe");
    reported
}

async fn a_full_queue_of_expirations_loses_and_goes_on(open: impl Fn(&TtlLimits) -> Ttl) {
    let ttl = open(&TtlLimits { queue: 2, ..patient() });
    let prefix = name("");
    let mut expirations = listening(&ttl, &prefix).await;
    assert_eq!(expirations.max_capacity(), 2);
    let ends = now_millis() + 2000;
    let keys: Vec<_> = (0..50).map(|n| (format!("{prefix}{n}"), vec![], ends)).collect();
    ttl.put_until(&keys).await.unwrap();
    until("the queue is full", async || expirations.len() == 2).await;
    until("all have ended", async || {
        for (key, ..) in &keys {
            if ttl.get(key).await.unwrap().is_some() {
                return false;
            }
        }
        true
    })
    .await;
    let after = format!("{prefix}after");
    until("it goes on", async || {
        ttl.put(&after, b"", Duration::from_millis(20)).await.unwrap();
        let mut heard = false;
        while let Ok(Some(key)) = timeout(Duration::from_millis(100), expirations.recv()).await {
            heard |= key == "after";
        }
        heard
    })
    .await;
}

#[tokio::test]
async fn memory_stays_within_its_bound() {
    let ttl = memory(&TtlLimits { max_keys: 100, ..TtlLimits::default() });
    for n in 0..1000 {
        ttl.put(&n.to_string(), b"value", LONG).await.unwrap();
    }
    let mut held = BTreeSet::new();
    until("no more than the bound are held", async || {
        held.clear();
        for n in 0..1000 {
            if ttl.get(&n.to_string()).await.unwrap().is_some() {
                held.insert(n);
            }
        }
        held.len() <= 100
    })
    .await;
    assert!(held.contains(&999), "the newest is not the one to go");
    assert!(!held.contains(&0), "the oldest is");
}

#[test]
fn urls_that_cannot_be_used_are_refused_without_revealing_the_password() {
    let limits = TtlLimits::default();
    for url in
        ["http://user:secret@localhost", "redis://:secret@localhost:99999", "redis://:secret@localhost/x"]
    {
        let refused = Ttl::open(url, &limits).unwrap_err();
        assert!(!format!("{refused} {refused:?}").contains("secret"), "{refused}");
    }
}

#[tokio::test]
async fn redis_goes_away_and_comes_back() {
    let mut server = RedisServer::start(&[]).await;
    let limits = TtlLimits { deadline: Duration::from_millis(500), ..TtlLimits::default() };
    let ttl = Ttl::open(&server.url(""), &limits).unwrap();
    let mut expirations = listening(&ttl, "p:").await;
    ttl.put("key", b"value", LONG).await.unwrap();

    server.kill();
    // From the first call to one after several attempts at a connection.
    for _ in 0..20 {
        fails_within(&ttl, Duration::from_secs(2)).await;
        sleep(Duration::from_millis(20)).await;
    }
    server.restart().await;
    until("it works again", async || ttl.put("key", b"value", LONG).await.is_ok()).await;
    assert_eq!(ttl.get("key").await.unwrap().as_deref(), Some(&b"value"[..]));
    assert_eq!(ttl.take("limit", 1, LONG).await.unwrap(), RateDecision::Allowed);
    until_heard(&ttl, "p:", &mut expirations).await;
}

#[tokio::test]
async fn a_frozen_redis_is_noticed() {
    let server = RedisServer::start(&[]).await;
    let limits = TtlLimits { deadline: Duration::from_millis(500), ..TtlLimits::default() };
    let ttl = Ttl::open(&server.url(""), &limits).unwrap();
    let mut expirations = listening(&ttl, "p:").await;
    server.pause();
    for _ in 0..5 {
        fails_within(&ttl, Duration::from_secs(2)).await;
    }
    server.resume();
    until("it works again", async || ttl.put("key", b"value", LONG).await.is_ok()).await;
    until_heard(&ttl, "p:", &mut expirations).await;
}

/// Who asks has another answer: only the first are to wait for this one.
#[tokio::test]
async fn a_frozen_redis_keeps_nobody_waiting_again_and_again() {
    let server = RedisServer::start(&[]).await;
    let deadline = Duration::from_secs(1);
    let ttl = Ttl::open(&server.url(""), &TtlLimits { deadline, ..TtlLimits::default() }).unwrap();
    ttl.put("key", b"value", LONG).await.unwrap();
    server.pause();
    fails_within(&ttl, Duration::from_secs(5)).await;
    // Longer than several attempts at a connection take.
    let (begun, mut rounds) = (Instant::now(), 0);
    while begun.elapsed() < deadline * 4 {
        fails_within(&ttl, Duration::from_secs(5)).await;
        rounds += 1;
        sleep(Duration::from_millis(5)).await;
    }
    // If each of their five calls waited for the server, there would be one.
    assert!(rounds >= 5, "only {rounds} rounds of calls were answered");
    server.resume();
    until("it works again", async || ttl.put("key", b"value", LONG).await.is_ok()).await;
}

/// Every verb fails, each within the deadline (500 ms) and what a busy machine adds.
async fn fails_within(ttl: &Ttl, longest: Duration) {
    let started = Instant::now();
    assert!(ttl.get("key").await.is_err());
    assert!(started.elapsed() < longest, "failed after {:?}", started.elapsed());
    let started = Instant::now();
    assert!(ttl.take("limit", 1, LONG).await.is_err());
    assert!(started.elapsed() < longest, "failed after {:?}", started.elapsed());
    let started = Instant::now();
    assert!(ttl.enter("set", &names(&["member"]), LONG).await.is_err());
    assert!(ttl.leave("set", &names(&["member"])).await.is_err());
    assert!(ttl.members("set", 1).await.is_err());
    assert!(started.elapsed() < longest * 3, "failed after {:?}", started.elapsed());
}

#[tokio::test]
async fn redis_that_was_never_there_is_an_error_of_calls_not_of_open() {
    let mut server = RedisServer::start(&[]).await;
    server.kill();
    let ttl = Ttl::open(&server.url(""), &TtlLimits::default()).unwrap();
    let mut expirations = ttl.expirations("p:");
    fails_within(&ttl, Duration::from_secs(2)).await;
    server.restart().await;
    until_heard(&ttl, "p:", &mut expirations).await;
}

#[tokio::test]
async fn other_notifications_of_the_server_are_kept() {
    let server = RedisServer::start(&["--notify-keyspace-events", "Kg"]).await;
    let ttl = Ttl::open(&server.url("/3"), &TtlLimits::default()).unwrap();
    let _expirations = listening(&ttl, "p:").await;
    let flags = server.ask(&["CONFIG", "GET", "notify-keyspace-events"]).await;
    for flag in ["K", "g", "E", "x"] {
        assert!(flags.contains(flag), "{flag} is missing in {flags}");
    }
}

#[tokio::test]
async fn a_server_that_refuses_settings_is_used_as_it_is() {
    let arguments = ["--notify-keyspace-events", "Ex", "--rename-command", "CONFIG", ""];
    let server = RedisServer::start(&arguments).await;
    let ttl = Ttl::open(&server.url(""), &TtlLimits::default()).unwrap();
    listening(&ttl, "p:").await;
}

#[tokio::test]
async fn the_password_works_and_stays_a_secret() {
    let server = RedisServer::start(&["--requirepass", "right-secret"]).await;
    let limits = TtlLimits { deadline: PATIENCE, ..TtlLimits::default() };
    let right = server.url("").replace("redis://", "redis://:right-secret@");
    let ttl = Ttl::open(&right, &limits).unwrap();
    ttl.put("key", b"value", LONG).await.unwrap();
    let wrong = Ttl::open(&right.replace("right", "wrong"), &limits).unwrap();
    for _ in 0..2 {
        let error = wrong.get("key").await.unwrap_err();
        assert!(!format!("{error} {error:?} {wrong:?}").contains("secret"), "{error}");
    }
}

#[tokio::test]
async fn a_subscriber_leaves_with_its_receiver() {
    let server = RedisServer::start(&[]).await;
    let ttl = Ttl::open(&server.url(""), &TtlLimits::default()).unwrap();
    let subscribers = async || server.ask(&["PUBSUB", "NUMSUB", "__keyevent@0__:expired"]).await;
    let expirations = listening(&ttl, "p:").await;
    assert!(subscribers().await.contains("int(1)"), "{}", subscribers().await);
    drop(expirations);
    until("the subscription ends", async || subscribers().await.contains("int(0)")).await;
}
