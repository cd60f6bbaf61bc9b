//! The pool of connections to a server.

use super::*;

/// The ids of the connections to database 3, which only the keys under test use.
async fn connections(server: &RedisServer) -> BTreeSet<String> {
    let clients: String = server.query(&["CLIENT", "LIST", "TYPE", "NORMAL"]).await.unwrap();
    let of_keys = clients.lines().filter(|line| line.contains(" db=3 "));
    of_keys.map(|line| line.split(' ').next().unwrap().to_owned()).collect()
}

/// Many calls at once, each a write; none has ended yet.
fn burst(ttl: &Ttl, calls: usize) -> Vec<tokio::task::JoinHandle<bool>> {
    let put = |n: usize| {
        let ttl = ttl.clone();
        tokio::spawn(async move { ttl.put(&n.to_string(), b"value", LONG).await.is_ok() })
    };
    (0..calls).map(put).collect()
}

#[tokio::test]
async fn a_burst_beyond_the_pool_fails_without_waiting_for_the_server() {
    let server = RedisServer::start(&[]).await;
    let limits = TtlLimits { pool_size: 3, pool_wait: Duration::from_millis(50), ..patient() };
    let ttl = Ttl::open(&server.url("/3"), &limits).unwrap();
    ttl.put("first", b"value", LONG).await.unwrap();
    // Writes wait until it is over.
    server.query::<()>(&["CLIENT", "PAUSE", "600000", "WRITE"]).await.unwrap();
    let calls = burst(&ttl, 40);
    until("all that got no connection have failed", async || {
        calls.iter().filter(|call| call.is_finished()).count() == 37
    })
    .await;
    assert_eq!(connections(&server).await.len(), 3);
    server.query::<()>(&["CLIENT", "UNPAUSE"]).await.unwrap();
    let mut worked = 0;
    for call in calls {
        worked += usize::from(call.await.unwrap());
    }
    assert_eq!(worked, 3);
    // They are used again.
    let before = connections(&server).await;
    for key in ["1", "2", "3", "4"] {
        ttl.put(key, b"value", LONG).await.unwrap();
    }
    assert_eq!(connections(&server).await, before);
}

#[tokio::test]
async fn a_burst_at_a_frozen_server_waits_no_longer_than_the_deadline() {
    let server = RedisServer::start(&[]).await;
    let deadline = Duration::from_millis(500);
    let limits = TtlLimits { pool_size: 2, pool_wait: deadline, deadline, ..TtlLimits::default() };
    let ttl = Ttl::open(&server.url("/3"), &limits).unwrap();
    ttl.put("first", b"value", LONG).await.unwrap();
    server.pause();
    let begun = Instant::now();
    for call in burst(&ttl, 40) {
        assert!(!call.await.unwrap());
    }
    // One after the other, two at a time, they would take twenty deadlines.
    assert!(begun.elapsed() < deadline * 10, "{:?}", begun.elapsed());
    server.resume();
    until("it works again", async || ttl.put("key", b"value", LONG).await.is_ok()).await;
}

#[tokio::test]
async fn a_connection_that_fails_or_falls_silent_is_not_used_again() {
    let server = RedisServer::start(&[]).await;
    let ttl = Ttl::open(&server.url("/3"), &TtlLimits::default()).unwrap();
    ttl.put("key", b"value", LONG).await.unwrap();
    let first = connections(&server).await;
    assert_eq!(first.len(), 1);
    server.query::<()>(&["CLIENT", "PAUSE", "600000", "WRITE"]).await.unwrap();
    assert!(ttl.put("key", b"late", LONG).await.is_err());
    server.query::<()>(&["CLIENT", "UNPAUSE"]).await.unwrap();
    until("it works again", async || ttl.put("key", b"new", LONG).await.is_ok()).await;
    until("the silent one is closed", async || connections(&server).await.is_disjoint(&first)).await;
    // One that is free and broken is noticed before its use: no call fails for it.
    server.query::<i64>(&["CLIENT", "KILL", "TYPE", "NORMAL"]).await.unwrap();
    assert_eq!(ttl.get("key").await.unwrap().as_deref(), Some(&b"new"[..]));
}
