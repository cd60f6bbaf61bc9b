//! What the tests share: servers, nodes as real processes, and listeners that log what they receive.
#![allow(dead_code, reason = "each test program uses a part of it")]

pub mod balancer;
pub mod bus_member;
pub mod listener;
pub mod log_lock;
pub mod node;
pub mod redis_groups;
pub mod servers;

use std::future::Future;
use std::time::{Duration, Instant};

/// How long anything may take that should take a moment.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Waits until `condition` holds; fails the test with `what` if it does not within `deadline`.
pub async fn wait_until<F: Future<Output = bool>>(deadline: Duration, what: &str, condition: impl Fn() -> F) {
    let begun = Instant::now();
    while !condition().await {
        assert!(begun.elapsed() < deadline, "not within {deadline:?}: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
