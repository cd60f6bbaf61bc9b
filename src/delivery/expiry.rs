//! Events that end while pages are open leave them at once: the key that lives as long as an event has ended.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::frame::ServerEvent;
use super::hub::Hub;
use crate::event::Epoch;
use crate::publishing::LiveKey;
use crate::store::Store;
use crate::store::clock::Clock;
use crate::ttl::Ttl;

/// The shortest life of a key that ended early and is set again: a clock that runs fast must not keep all nodes busy.
const LEAST_LIFE: Duration = Duration::from_millis(100);

/// Passes ended keys on to the streams, for as long as the node runs.
pub async fn watch_expirations(
    ttl: Ttl,
    hub: Arc<Hub>,
    store: Store,
    clock: Arc<Clock>,
    epoch: watch::Receiver<Option<Epoch>>,
) {
    let mut expired = ttl.expirations(LiveKey::PREFIX);
    while let Some(name) = expired.recv().await {
        let Some(key) = LiveKey::read(&name) else { continue };
        if epoch.borrow().as_ref() != Some(&key.epoch) {
            continue;
        }
        let left = key.expires_at.saturating_sub(clock.now());
        if left > 0 {
            // A listener that is behind has not got the event yet, and it lives.
            arm_again(&ttl, &key, Duration::from_millis(left.unsigned_abs())).await;
            continue;
        }
        let known = hub.lock().audience_of(key.position);
        let audience = match known {
            Some(audience) => audience,
            None => match store.event_at(key.position).await {
                Ok(Some(event)) => event.audience,
                Ok(None) => continue,
                Err(error) => {
                    // Pages also watch the time themselves, and every read filters.
                    tracing::debug!(%error, "an expiration could not be passed on");
                    continue;
                }
            },
        };
        let guard = hub.lock();
        guard.forget(&audience, key.position);
        guard.notify(&audience, ServerEvent::expire(key.position));
    }
    // The keys' watcher ends only with the process; waiting keeps this node's other tasks alive.
    std::future::pending::<()>().await;
}

/// Sets a key again that ended before its event. For a span, not up to a time: the keys' clock is not the database's.
async fn arm_again(ttl: &Ttl, key: &LiveKey, left: Duration) {
    metrics::counter!("carillon_live_keys_early_total").increment(1);
    if ttl.put(&key.name(), &[], left.max(LEAST_LIFE)).await.is_err() {
        metrics::counter!("carillon_live_keys_failed_total").increment(1);
    }
}
