//! One suite for all backends of the bus, then what only Redis can get wrong.

mod support;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use bytes::Bytes;
use carillon::bus::message::Message;
use carillon::bus::{Bus, BusEvent, BusLimits};
use support::bus_member::{Member, name, own, quick};
use support::redis_groups::{RedisCluster, RedisSentinels};
use support::servers::{RedisServer, redis_url};
use support::{DEADLINE, wait_until};
use tokio::time::{sleep, timeout};

macro_rules! suite {
    ($($test:ident),* $(,)?) => {
        mod in_memory {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() { super::$test(&format!("memory:{}", uuid::Uuid::now_v7())).await })*
        }
        mod over_redis {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() { super::$test(&super::redis_url()).await })*
        }
        // One test each: they need a while to start.
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn over_redis_sentinel() {
            let servers = RedisSentinels::start_steady().await;
            $(eprintln!(stringify!($test)); $test(&servers.url()).await;)*
        }
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn over_redis_cluster() {
            let servers = RedisCluster::start_steady().await;
            $(eprintln!(stringify!($test)); $test(&servers.url()).await;)*
        }
    };
}

suite!(
    what_is_published_comes_once_and_in_order,
    only_subscribed_channels_are_heard,
    any_bytes_pass_unchanged,
    thousands_of_channels_are_subscribed,
    an_overrun_is_a_gap_that_is_reported,
    what_a_member_delivers_to_itself_comes_to_it_alone,
    a_member_that_left_disturbs_nobody,
);

async fn what_is_published_comes_once_and_in_order(url: &str) {
    let channel = name("channel");
    let (mut one, mut two, sender) = (Member::open(url), Member::open(url), Member::open(url));
    one.subscribe(&channel).await;
    two.subscribe(&channel).await;
    for batch in 0..50_u32 {
        let payloads: Vec<[u8; 4]> = (batch * 20..(batch + 1) * 20).map(u32::to_be_bytes).collect();
        let messages: Vec<(&str, &[u8])> =
            payloads.iter().map(|payload| (channel.as_str(), &payload[..])).collect();
        sender.publish(&messages).await;
    }
    // Its own messages reach a member, too.
    one.publish(&[(&channel, b"last")]).await;
    for member in [&mut one, &mut two] {
        for expected in 0..1_000_u32 {
            assert_eq!(
                member.message().await,
                (channel.clone(), Bytes::copy_from_slice(&expected.to_be_bytes()))
            );
        }
        assert_eq!(member.message().await.1, "last");
    }
}

async fn only_subscribed_channels_are_heard(url: &str) {
    // What is in braces keeps them on one server, so that there is an order between them.
    let [first, second, never] = ["first", "second", "never"].map(|what| name(&format!("{{order}}:{what}")));
    let (mut member, sender) = (Member::open(url), Member::open(url));
    member.subscribe(&first).await;
    member.subscribe(&second).await;
    // Of both at once, in the order in which they were sent.
    sender.publish(&[(&second, b"1"), (&never, b"2"), (&first, b"3")]).await;
    assert_eq!(member.message().await, (second.clone(), "1".into()));
    assert_eq!(member.message().await, (first.clone(), "3".into()));
    member.bus.unsubscribe(&first);
    let begun = Instant::now();
    loop {
        assert!(begun.elapsed() < DEADLINE, "the channel is still heard");
        sender.publish(&[(&first, b"given up"), (&second, b"round")]).await;
        if member.message().await.0 == second {
            break;
        }
        member.message().await;
    }
    for _ in 0..10 {
        sender.publish(&[(&first, b"given up"), (&second, b"round")]).await;
        assert_eq!(member.message().await.0, second);
    }
    member.subscribe(&first).await;
    sender.publish(&[(&first, b"again")]).await;
    assert_eq!(member.message().await, (first, "again".into()));
}

async fn any_bytes_pass_unchanged(url: &str) {
    let channel = name("\u{e4} channel\r\n");
    let mut member = Member::open(url);
    member.subscribe(&channel).await;
    let large: Vec<u8> = (0..2_000_000_u32).map(|n| n.to_le_bytes()[0]).collect();
    for payload in [&b""[..], b"\r\n$5\r\n+OK\r\n", &large] {
        member.publish(&[(&channel, payload)]).await;
        let (from, received) = member.message().await;
        assert!(from == channel && received == payload);
    }
}

async fn thousands_of_channels_are_subscribed(url: &str) {
    let (mut member, sender) = (Member::open(url), Member::open(url));
    let mut missing: BTreeSet<String> = (0..3_000).map(|n| name(&n.to_string())).collect();
    missing.iter().for_each(|channel| member.bus.subscribe(channel));
    let mut unheard = missing.clone();
    while !missing.is_empty() {
        if let BusEvent::Subscribed(channel) = member.next().await {
            assert!(missing.remove(&channel), "{channel} twice");
        }
    }
    for channel in &unheard {
        sender.publish(&[(channel, b"x")]).await;
    }
    while !unheard.is_empty() {
        let (channel, _) = member.message().await;
        assert!(unheard.remove(&channel));
    }
}

async fn an_overrun_is_a_gap_that_is_reported(url: &str) {
    overrun(url, BusLimits { queue: 16, deadline: DEADLINE, ..BusLimits::default() }).await;
    overrun(url, BusLimits { queue_bytes: 64, deadline: DEADLINE, ..BusLimits::default() }).await;
}

async fn overrun(url: &str, limits: BusLimits) {
    let channel = name("channel");
    let (mut slow, sender) = (Member::with(url, &limits), Member::open(url));
    slow.subscribe(&channel).await;
    for n in 0..500_u32 {
        sender.publish(&[(&channel, &n.to_be_bytes())]).await;
    }
    // All of it has been sent once this has come back.
    let mut witness = Member::open(url);
    witness.subscribe(&channel).await;
    sender.publish(&[(&channel, b"end")]).await;
    witness.message().await;
    let mut expected = 0_u32;
    loop {
        match slow.next().await {
            BusEvent::Message { payload, .. } => {
                assert_eq!(payload, Bytes::copy_from_slice(&expected.to_be_bytes()), "lost without a word");
                expected += 1;
            }
            BusEvent::Gap => break,
            _ => {}
        }
    }
    assert!((1..500).contains(&expected), "{expected} came before the gap");
    slow.until(&BusEvent::Restored).await;
    let after = async || {
        sender.publish(&[(&channel, b"after")]).await;
        true
    };
    wait_until(DEADLINE, "it goes on", after).await;
    while slow.message().await.1 != "after" {}
}

async fn what_a_member_delivers_to_itself_comes_to_it_alone(url: &str) {
    let channel = name("channel");
    let limits = BusLimits { queue: 16, deadline: DEADLINE, ..BusLimits::default() };
    let (mut one, mut other) = (Member::with(url, &limits), Member::open(url));
    other.subscribe(&channel).await;
    for number in 0..8 {
        one.bus.deliver_here(own(number));
    }
    for number in 0..8 {
        assert_eq!(one.own().await, Message::Heartbeat(number));
    }
    one.publish(&[(&channel, b"published")]).await;
    loop {
        match other.next().await {
            BusEvent::Message { payload, .. } => break assert_eq!(payload, "published"),
            BusEvent::Own(own) => panic!("another's: {own:?}"),
            _ => {}
        }
    }
    for number in 0..100 {
        one.bus.deliver_here(own(number));
    }
    one.until(&BusEvent::Gap).await;
    one.until(&BusEvent::Restored).await;
    one.bus.deliver_here(own(100));
    assert_eq!(one.own().await, Message::Heartbeat(100));
}

async fn a_member_that_left_disturbs_nobody(url: &str) {
    let channel = name("channel");
    let (mut leaving, mut staying) = (Member::open(url), Member::open(url));
    leaving.subscribe(&channel).await;
    staying.subscribe(&channel).await;
    drop(leaving);
    for n in 0..20_u8 {
        staying.publish(&[(&channel, &[n])]).await;
        assert_eq!(staying.message().await.1[..], [n]);
    }
}

#[tokio::test]
async fn urls_that_cannot_be_used_are_refused_without_revealing_the_password() {
    for url in ["", "http://localhost", "redis://:secret@localhost:99999", "redis://:secret@localhost/x"] {
        let refused = Bus::open(url, &BusLimits::default()).map(|_| ()).unwrap_err();
        assert!(!format!("{refused} {refused:?}").contains("secret"), "{refused}");
    }
}

#[tokio::test]
async fn redis_dies_and_comes_back_empty() {
    let mut server = RedisServer::start(&[]).await;
    let url = server.url("");
    let mut member = Member::with(&url, &quick());
    member.subscribe("channel").await;
    member.publish(&[("channel", b"x")]).await;
    for _ in 0..3 {
        server.kill();
        member.until(&BusEvent::Gap).await;
        let failed = async || member.bus.publish(&[("channel".into(), "lost".into())]).await.is_err();
        wait_until(DEADLINE, "publishing fails", failed).await;
        let begun = Instant::now();
        for _ in 0..100 {
            assert!(member.bus.publish(&[("channel".into(), "lost".into())]).await.is_err());
            sleep(Duration::from_millis(2)).await;
        }
        assert!(begun.elapsed() < DEADLINE / 2, "publishing waits for a bus that is down");
        // Wished for while it is down.
        member.bus.subscribe("new");
        server.restart().await;
        member.works_again(&url, "channel").await;
        member.publish(&[("new", b"x")]).await;
        assert_eq!(member.message().await.0, "new");
        member.bus.unsubscribe("new");
    }
}

#[tokio::test]
async fn who_is_alone_on_a_bus_in_this_process_knows_it() {
    let url = format!("memory:{}", name("bus"));
    let one = Member::open(&url);
    assert!(!one.bus.may_have_others());
    let other = Member::open(&url);
    assert!(one.bus.may_have_others() && other.bus.may_have_others());
    drop(other);
    assert!(!one.bus.may_have_others());
    let over_redis = Member::open(&redis_url());
    assert!(over_redis.bus.may_have_others(), "who else is on a server is not known");
}

#[tokio::test]
async fn what_a_member_delivers_to_itself_needs_no_redis() {
    let mut server = RedisServer::start(&[]).await;
    let mut member = Member::with(&server.url(""), &quick());
    member.subscribe("channel").await;
    server.kill();
    member.until(&BusEvent::Gap).await;
    member.bus.deliver_here(own(1));
    assert_eq!(member.own().await, Message::Heartbeat(1));
}

#[tokio::test]
async fn a_frozen_redis_is_noticed_by_its_silence() {
    let server = RedisServer::start(&[]).await;
    let url = server.url("");
    let mut member = Member::with(&url, &quick());
    member.subscribe("channel").await;
    member.publish(&[("channel", b"x")]).await;
    server.pause();
    member.until(&BusEvent::Gap).await;
    assert!(member.bus.publish(&[("channel".into(), "x".into())]).await.is_err());
    server.resume();
    member.works_again(&url, "channel").await;
}

/// Requests end with a notice on the bus: only the first are to wait for one that does not answer.
#[tokio::test]
async fn a_frozen_redis_keeps_nobody_waiting_again_and_again() {
    let server = RedisServer::start(&[]).await;
    let deadline = Duration::from_secs(1);
    let mut member = Member::with(&server.url(""), &BusLimits { deadline, ..quick() });
    member.subscribe("channel").await;
    member.publish(&[("channel", b"x")]).await;
    server.pause();
    assert!(member.bus.publish(&[("channel".into(), "x".into())]).await.is_err());
    // Longer than several attempts at a connection take.
    let (begun, mut calls) = (Instant::now(), 0);
    while begun.elapsed() < deadline * 4 {
        assert!(member.bus.publish(&[("channel".into(), "x".into())]).await.is_err());
        calls += 1;
        sleep(Duration::from_millis(5)).await;
    }
    // If each waited for the server, they would be four.
    assert!(calls >= 20, "only {calls} calls were answered");
    server.resume();
    member.until(&BusEvent::Gap).await;
    member.works_again(&server.url(""), "channel").await;
}

#[tokio::test]
async fn a_connection_ended_by_the_server_is_a_gap() {
    let server = RedisServer::start(&[]).await;
    let url = server.url("");
    let mut member = Member::with(&url, &quick());
    member.subscribe("channel").await;
    for kind in ["pubsub", "normal"] {
        server.ask(&["CLIENT", "KILL", "TYPE", kind]).await;
        if kind == "pubsub" {
            member.until(&BusEvent::Gap).await;
            member.works_again(&url, "channel").await;
        }
    }
    member.publish(&[("channel", b"x")]).await;
    assert_eq!(member.message().await.1, "x");
}

/// A server drops a subscriber whose output grows too large: what was in it is lost.
#[tokio::test]
async fn a_full_output_buffer_is_a_gap() {
    let server = RedisServer::start(&["--client-output-buffer-limit", "pubsub", "1kb", "1kb", "0"]).await;
    let url = server.url("");
    let (mut member, sender) = (Member::open(&url), Member::open(&url));
    member.subscribe("channel").await;
    let large = Bytes::from(vec![0; 100_000]);
    let messages = vec![("channel".to_owned(), large); 200];
    sender.bus.publish(&messages).await.unwrap();
    member.until(&BusEvent::Gap).await;
    // Back in the middle of it, it may have been dropped again: more than one gap may be reported.
    let again = BusEvent::Message { channel: "channel".into(), payload: "again".into() };
    let begun = Instant::now();
    loop {
        sender.bus.publish(&[("channel".into(), "again".into())]).await.unwrap();
        if timeout(Duration::from_secs(1), member.until(&again)).await.is_ok() {
            return;
        }
        assert!(begun.elapsed() < DEADLINE, "nothing comes again");
    }
}

#[tokio::test]
async fn a_redis_that_was_never_there_is_waited_for() {
    let mut server = RedisServer::start(&[]).await;
    let url = server.url("");
    server.kill();
    let mut member = Member::with(&url, &quick());
    member.bus.subscribe("channel");
    assert!(member.bus.publish(&[("channel".into(), "x".into())]).await.is_err());
    assert!(timeout(Duration::from_millis(300), member.events.recv()).await.is_err(), "nothing is restored");
    server.restart().await;
    member.works_again(&url, "channel").await;
}

/// Two clusters may share a Redis: what one says is not heard by the other.
#[tokio::test]
async fn namespaces_do_not_hear_each_other() {
    let server = RedisServer::start(&[]).await;
    let mut plain = Member::with(&server.url(""), &quick());
    let mut staging = Member::with(&server.url("/0?namespace=staging"), &quick());
    plain.subscribe("channel").await;
    staging.subscribe("channel").await;
    plain.publish(&[("channel", b"plain")]).await;
    staging.publish(&[("channel", b"staging")]).await;
    assert_eq!(plain.message().await, ("channel".into(), "plain".into()));
    assert_eq!(staging.message().await, ("channel".into(), "staging".into()));
}

#[tokio::test]
async fn what_nobody_wants_is_given_up_at_the_server() {
    let server = RedisServer::start(&[]).await;
    let mut member = Member::with(&server.url(""), &quick());
    member.subscribe("one").await;
    member.subscribe("two").await;
    let counts = async |one: u32, two: u32| {
        let answers = [("one", one), ("two", two)]
            .map(|(name, number)| format!("bulk-string('\"carillon:{name}\"'), int({number})"));
        let answer = server.ask(&["PUBSUB", "NUMSUB", "carillon:one", "carillon:two"]).await;
        answer == format!("array([{}])", answers.join(", "))
    };
    wait_until(DEADLINE, "both are subscribed", || counts(1, 1)).await;
    member.bus.unsubscribe("one");
    wait_until(DEADLINE, "one is given up", || counts(0, 1)).await;
    drop(member);
    wait_until(DEADLINE, "the connection ends", || counts(0, 0)).await;
}

/// The hub subscribes under its lock, and listeners come all the time: with very many topics as with few.
#[tokio::test]
async fn a_channel_more_costs_the_same_however_many_there_are() {
    let server = RedisServer::start(&[]).await;
    let mut member = Member::open(&server.url(""));
    subscribe_one_by_one(&mut member, "warm").await;
    let among_few = subscribe_one_by_one(&mut member, "few").await;
    let many: BTreeSet<String> = (0..30_000).map(|number| format!("many:{number}")).collect();
    many.iter().for_each(|channel| member.bus.subscribe(channel));
    let mut missing = many.len();
    while missing > 0 {
        missing -= usize::from(matches!(member.next().await, BusEvent::Subscribed(_)));
    }
    let among_many = subscribe_one_by_one(&mut member, "more").await;
    println!("{among_few} ns among few, {among_many} ns among many");
    assert!(among_many < among_few * 5, "{among_few} ns among few, {among_many} ns among many");
}

/// Subscribes to some channels, each when the one before is confirmed; the CPU time of this thread, in ns. All tasks of
/// a test run in one.
async fn subscribe_one_by_one(member: &mut Member, what: &str) -> u64 {
    let cpu = || {
        let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
        text.split_whitespace().next().unwrap().parse::<u64>().unwrap()
    };
    let before = cpu();
    for number in 0..100 {
        member.subscribe(&format!("{what}:{number}")).await;
    }
    cpu() - before
}
