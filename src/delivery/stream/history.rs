//! What was last said on the topics of a stream that begins: its history.

use std::sync::Arc;

use bytes::Bytes;

use super::Streams;
use crate::delivery::frame::{Delivery, Form};
use crate::delivery::hub::{Fence, Listener};
use crate::event::{Event, Millis, Priority, Selector};
use crate::store::{InboxOrder, InboxQuery, Reader, StoreError};

/// The history of a stream's topics, ready to leave: the oldest first.
pub(super) struct History {
    /// Frames without an `id:` line, and when each ends.
    pub frames: Vec<(Bytes, Option<Millis>)>,
    /// Whether it is all that was asked for.
    pub is_complete: bool,
}

impl Streams {
    /// Reads the last `of_each` events of each of the listener's topics, up to the fence: what comes after it is live.
    pub(super) async fn history(
        self: Arc<Self>,
        listener: Arc<Listener>,
        fence: Fence,
        of_each: u32,
        form: Form,
    ) -> Result<History, StoreError> {
        // Never closed, so this only waits.
        let _turn = self.replays.acquire().await;
        let mut newest_first: Vec<Event> = Vec::new();
        let mut is_complete = true;
        for topic in &listener.reader.selector.topics {
            let selector = Selector {
                everyone: false,
                users: Vec::new(),
                topics: vec![topic.clone()],
                ..listener.reader.selector.clone()
            };
            let reader = Reader { user: listener.reader.user, selector };
            let query = InboxQuery {
                order: InboxOrder::Newest,
                after: Some((Priority::Urgent, fence.at.position.saturating_add(1))),
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
        let frame = |event: Event| {
            let expires_at = event.expires_at;
            (Delivery::new(&fence.epoch, event).frame(form).ending_with(None), expires_at)
        };
        Ok(History { frames: newest_first.into_iter().rev().map(frame).collect(), is_complete })
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
