//! What a node does by the clock: its heartbeat, looking after streams, permissions, expirations, retention.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use super::Node;
use super::figures::TELL_EVERY;
use crate::accounts::SEEN_EVERY;
use crate::bus::message::{Message, node_channel};
use crate::event::{Cursor, Millis};
use crate::publish::LIVE_KEY;
use crate::store::Credential;

/// How often streams are looked after.
const CARE_EVERY: Duration = Duration::from_secs(1);
/// How many credentials are checked by one question to the store.
const RECHECK_BATCH: usize = 500;
/// How many events retention removes at once.
const RETIRE_BATCH: u32 = 5_000;

pub(super) fn spawn(node: &Arc<Node>, tasks: &mut JoinSet<()>) {
    let limits = &node.limits;
    tasks.spawn(every(limits.heartbeat_every, node.clone(), heartbeat));
    tasks.spawn(every(CARE_EVERY, node.clone(), care));
    tasks.spawn(every(limits.recheck_every, node.clone(), recheck));
    tasks.spawn(every(SEEN_EVERY, node.clone(), note_use));
    tasks.spawn(every(limits.retire_every, node.clone(), retire));
    tasks.spawn(every(TELL_EVERY, node.clone(), tell));
    tasks.spawn(expirations(node.clone()));
}

async fn every<F: Future<Output = ()>>(period: Duration, node: Arc<Node>, job: fn(Arc<Node>) -> F) {
    let mut tick = interval(period);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        job(node.clone()).await;
    }
}

/// A message to itself through the bus: readiness rests on its coming back.
async fn heartbeat(node: Arc<Node>) {
    let count = u64::try_from(node.began.elapsed().as_millis()).unwrap_or(u64::MAX);
    let message = (node_channel(&node.name), Message::Heartbeat(count).encode());
    if let Err(error) = node.bus.publish(&[message]).await {
        tracing::debug!(%error, "the heartbeat could not be sent");
    }
}

/// The others know of a node by what it tells of itself.
async fn tell(node: Arc<Node>) {
    node.tell_figures().await;
}

async fn care(node: Arc<Node>) {
    let now = Instant::now();
    let listeners = node.hub.listeners();
    metrics::gauge!("carillon_listeners").set(listeners.len() as f64);
    listeners.iter().for_each(|listener| listener.care(now, &node.limits.care));
}

/// Sessions and tokens may end while the bus is down: the store is asked, too.
async fn recheck(node: Arc<Node>) {
    let mut credentials: Vec<Credential> = node.hub.listeners().iter().map(|l| l.credential).collect();
    credentials.sort_unstable();
    credentials.dedup();
    for batch in credentials.chunks(RECHECK_BATCH) {
        match node.store.lapsed(batch).await {
            Ok(lapsed) if lapsed.is_empty() => {}
            Ok(lapsed) => node.hub.end(&lapsed),
            Err(error) => tracing::warn!(%error, "permissions of open streams could not be checked"),
        }
    }
}

/// Whoever has a page open uses their session, though they ask for nothing.
pub(super) async fn note_use(node: Arc<Node>) {
    let session = |credential| if let Credential::Session(secret) = credential { Some(secret) } else { None };
    let mut secrets: Vec<_> =
        node.hub.listeners().iter().filter_map(|listener| session(listener.credential)).collect();
    secrets.sort_unstable();
    secrets.dedup();
    for batch in secrets.chunks(RECHECK_BATCH) {
        // Half the time: what this wrote the last time is as old as that, or a moment less.
        if let Err(error) = node.store.touch_sessions(batch, SEEN_EVERY / 2).await {
            tracing::debug!(%error, "the use of sessions was not noted");
        }
    }
}

async fn retire(node: Arc<Node>) {
    let retention = Millis::try_from(node.limits.retention.as_millis()).unwrap_or(Millis::MAX);
    // Asked for, not the node's idea of it: what is removed in error is gone.
    let before = match node.log_state().await {
        Ok(state) => state.now.saturating_sub(retention),
        Err(error) => return tracing::warn!(%error, "retention waits for the store"),
    };
    loop {
        match node.store.retire(before, RETIRE_BATCH).await {
            Ok(retired) => {
                metrics::counter!("carillon_retired_total").increment(retired);
                if retired < u64::from(RETIRE_BATCH) {
                    return;
                }
            }
            Err(error) => return tracing::warn!(%error, "retention waits for the store"),
        }
    }
}

/// An event's key ended: it leaves open pages at once.
async fn expirations(node: Arc<Node>) {
    let mut expired = node.ttl.expirations(LIVE_KEY);
    while let Some(key) = expired.recv().await {
        let Ok(Cursor { epoch, position, .. }) = key.parse() else { continue };
        if node.epoch.borrow().as_ref() != Some(&epoch) {
            continue;
        }
        let known = node.hub.lock().audience_of(position);
        let audience = match known {
            Some(audience) => audience,
            None => match node.store.event_at(position).await {
                Ok(Some(event)) => event.audience,
                Ok(None) => continue,
                Err(error) => {
                    // Pages also watch the time themselves, and every read filters.
                    tracing::debug!(%error, "an expiration could not be told");
                    continue;
                }
            },
        };
        let guard = node.hub.lock();
        guard.forget(&audience, position);
        guard.notify(&audience, "carillon.expire", &json!({ "position": position }));
    }
    // The keys' watcher ends only with the process; waiting keeps this node's other tasks alive.
    std::future::pending::<()>().await;
}
