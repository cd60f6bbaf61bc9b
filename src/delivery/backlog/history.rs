//! What was last said on the topics of a stream that begins: its history.

use std::sync::Arc;

use super::{History, Reads};
use crate::delivery::frame::Delivery;
use crate::event::{Epoch, Event, Position, Priority, Selector};
use crate::store::{InboxOrder, InboxQuery, Reader, StoreError};

impl Reads {
    /// Reads the last `of_each` events of each of the reader's topics, up to a position: what comes after it is live.
    pub(super) async fn history(
        &self,
        reader: &Reader,
        epoch: &Epoch,
        up_to: Position,
        of_each: u32,
    ) -> Result<History, StoreError> {
        let mut newest_first: Vec<Event> = Vec::new();
        let mut is_complete = true;
        for topic in &reader.selector.topics {
            let selector = Selector {
                everyone: false,
                users: Vec::new(),
                topics: vec![topic.clone()],
                ..reader.selector.clone()
            };
            let reader = Reader { user: reader.user, selector };
            let query = InboxQuery {
                order: InboxOrder::Newest,
                after: Some((Priority::Urgent, up_to.saturating_add(1))),
                limit: of_each,
                ..InboxQuery::default()
            };
            metrics::counter!("carillon_replay_reads_total").increment(1);
            let found = self.store.inbox(&reader, &query).await?;
            newest_first.extend(found.entries.into_iter().map(|entry| entry.event));
            is_complete &= found.looked_up_to.is_none();
            // After each topic: what is held never exceeds the bound by more than one topic's.
            newest_first.sort_unstable_by_key(|event| std::cmp::Reverse(event.position));
            is_complete &= !self.bound_history(&mut newest_first);
        }
        let delivery = |event| Arc::new(Delivery::new(epoch, event));
        Ok(History { events: newest_first.into_iter().rev().map(delivery).collect(), is_complete })
    }

    /// Leaves out the oldest that are too many to be held for one stream (never the newest). Whether there were any.
    fn bound_history(&self, newest_first: &mut Vec<Event>) -> bool {
        let mut bytes = 0;
        let fits = newest_first.iter().take(self.limits.history_events).take_while(|event| {
            bytes += event.data.len() + 256;
            bytes <= self.limits.history_bytes
        });
        let keep = fits.count().max(1);
        let is_cut = keep < newest_first.len();
        newest_first.truncate(keep);
        is_cut
    }
}
