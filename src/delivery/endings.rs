//! Ends on this node what was ended anywhere: by a node whose notice was lost, on the command line, in the database.
//!
//! A task of its own at the head poll's pace: the log's head does not wait for a second query.

use std::sync::Arc;

use super::hub::Hub;
use crate::account::{Credential, Ending};
use crate::identity::{Accounts, CACHED_FOR};
use crate::store::{Store, StoreError};

/// How many endings are read at once.
const PAGE: u32 = 500;

/// Follows the store's endings.
pub struct Endings {
    store: Store,
    accounts: Accounts,
    hub: Arc<Hub>,
    /// The last ending that was carried out; `None` until the store was asked where to begin.
    last: Option<i64>,
}

impl Endings {
    /// Takes answers out of the cache of `accounts` and ends streams of `hub`.
    pub fn new(store: Store, accounts: Accounts, hub: Arc<Hub>) -> Self {
        Self { store, accounts, hub, last: None }
    }

    /// Carries out what has ended since this was last done. What fails is done the next time.
    pub async fn follow(&mut self) {
        if let Err(error) = self.read_on().await {
            metrics::counter!("carillon_ending_reads_failed_total").increment(1);
            tracing::debug!(%error, "what has ended could not be read");
        }
    }

    async fn read_on(&mut self) -> Result<(), StoreError> {
        let mut last = match self.last {
            Some(last) => last,
            // The first requests may have been answered before this.
            None => self.store.last_ending_before(CACHED_FOR).await?,
        };
        loop {
            let (endings, next) = self.store.endings_since(last, PAGE).await?;
            if !endings.is_empty() {
                let credentials: Vec<_> = endings.iter().map(Ending::credential).collect();
                end(&self.accounts, &self.hub, &credentials);
            }
            last = next;
            self.last = Some(last);
            if endings.len() < PAGE as usize {
                return Ok(());
            }
        }
    }
}

/// Ends here what was ended. First the cache: a stream that ends comes back at once, and must then be refused.
pub fn end(accounts: &Accounts, hub: &Hub, ended: &[Credential]) {
    accounts.forget(ended);
    hub.end(ended);
}
