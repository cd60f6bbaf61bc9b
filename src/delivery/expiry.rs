//! Events that end while pages are open leave them at once: the key that lives as long as an event has ended.

use std::sync::Arc;

use tokio::sync::watch;

use super::frame::ServerEvent;
use super::hub::Hub;
use crate::event::{Cursor, Epoch};
use crate::publishing::LIVE_KEY;
use crate::store::Store;
use crate::ttl::Ttl;

/// Passes ended keys on to the streams, for as long as the node runs.
pub async fn watch_expirations(ttl: Ttl, hub: Arc<Hub>, store: Store, epoch: watch::Receiver<Option<Epoch>>) {
    let mut expired = ttl.expirations(LIVE_KEY);
    while let Some(key) = expired.recv().await {
        let Ok(Cursor { epoch: of, position, .. }) = key.parse() else { continue };
        if epoch.borrow().as_ref() != Some(&of) {
            continue;
        }
        let known = hub.lock().audience_of(position);
        let audience = match known {
            Some(audience) => audience,
            None => match store.event_at(position).await {
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
        guard.forget(&audience, position);
        guard.notify(&audience, ServerEvent::expire(position));
    }
    // The keys' watcher ends only with the process; waiting keeps this node's other tasks alive.
    std::future::pending::<()>().await;
}
