//! What is asked of the store about all streams by the clock: whether what they rest on still permits anything. And it
//! is told that sessions are in use.

use std::sync::Arc;

use super::hub::Hub;
use crate::account::Credential;
use crate::store::{SEEN_EVERY, Store};

/// The sweep of a node's streams.
pub struct Sweep {
    /// Whose streams.
    pub hub: Arc<Hub>,
    /// Who is asked about credentials.
    pub store: Store,
}

impl Sweep {
    /// Sessions and tokens may end while the bus is down: the store is asked, too.
    pub async fn recheck(&self) {
        let mut last = None;
        loop {
            let page = self.hub.credentials_after(last).await;
            let Some(end) = page.last() else { return };
            last = Some(*end);
            match self.store.ended_of(&page).await {
                Ok(ended) if ended.is_empty() => {}
                Ok(ended) => self.hub.end(&ended),
                Err(error) => tracing::warn!(%error, "permissions of open streams could not be checked"),
            }
        }
    }

    /// A session with an open page is in use, though the page asks for nothing. Every [`SEEN_EVERY`].
    pub async fn note_use(&self) {
        let session = |credential: &Credential| {
            if let Credential::Session(secret) = credential { Some(*secret) } else { None }
        };
        let mut last = None;
        loop {
            let page = self.hub.credentials_after(last).await;
            let Some(end) = page.last() else { return };
            last = Some(*end);
            let secrets: Vec<_> = page.iter().filter_map(session).collect();
            // Half the time: what this wrote the last time is as old as that, or a moment less.
            if !secrets.is_empty()
                && let Err(error) = self.store.touch_sessions(&secrets, SEEN_EVERY / 2).await
            {
                tracing::debug!(%error, "the use of sessions was not noted");
            }
        }
    }
}
