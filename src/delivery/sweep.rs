//! What is done to all streams by the clock: keep-alives, ending those that are old or stalled, and asking the store
//! whether what they rest on still permits anything.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::hub::{Hub, SweepLimits};
use crate::account::Credential;
use crate::store::{SEEN_EVERY, Store};

/// How often streams are swept.
pub const SWEEP_EVERY: Duration = Duration::from_secs(1);
/// How many credentials are checked by one question to the store.
const RECHECK_BATCH: usize = 500;

/// The sweep of a node's streams.
pub struct Sweep {
    /// Whose streams.
    pub hub: Arc<Hub>,
    /// Who is asked about credentials.
    pub store: Store,
    /// When streams get what.
    pub limits: SweepLimits,
}

impl Sweep {
    /// Keep-alives, old age, no progress. Every [`SWEEP_EVERY`].
    pub fn sweep(&self) {
        let now = Instant::now();
        let listeners = self.hub.listeners();
        metrics::gauge!("carillon_listeners").set(listeners.len() as f64);
        listeners.iter().for_each(|listener| listener.sweep(now, &self.limits));
    }

    /// Sessions and tokens may end while the bus is down: the store is asked, too.
    pub async fn recheck(&self) {
        let mut credentials: Vec<Credential> = self.hub.listeners().iter().map(|l| l.credential).collect();
        credentials.sort_unstable();
        credentials.dedup();
        for batch in credentials.chunks(RECHECK_BATCH) {
            match self.store.ended_of(batch).await {
                Ok(ended) if ended.is_empty() => {}
                Ok(ended) => self.hub.end(&ended),
                Err(error) => tracing::warn!(%error, "permissions of open streams could not be checked"),
            }
        }
    }

    /// A session with an open page is in use, though the page asks for nothing. Every [`SEEN_EVERY`].
    pub async fn note_use(&self) {
        let session =
            |credential| if let Credential::Session(secret) = credential { Some(secret) } else { None };
        let mut secrets: Vec<_> =
            self.hub.listeners().iter().filter_map(|listener| session(listener.credential)).collect();
        secrets.sort_unstable();
        secrets.dedup();
        for batch in secrets.chunks(RECHECK_BATCH) {
            // Half the time: what this wrote the last time is as old as that, or a moment less.
            if let Err(error) = self.store.touch_sessions(batch, SEEN_EVERY / 2).await {
                tracing::debug!(%error, "the use of sessions was not noted");
            }
        }
    }
}
