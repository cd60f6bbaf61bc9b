//! Reading what a stream missed, page by page.

use std::sync::Arc;

use super::{Found, Page, Reads};
use crate::delivery::frame::Delivery;
use crate::event::{Cursor, Event, Position, Priority, id_digest};
use crate::failpoint::is_armed;
use crate::store::{Page as StorePage, Reader, StoreError};

impl Reads {
    /// Reads the next page of a backlog, and what is urgent behind it.
    pub(super) async fn replay(
        &self,
        reader: &Reader,
        cursor: Cursor,
        up_to: Position,
        limit: u32,
    ) -> Result<Found, StoreError> {
        // Another node may have been faster than this one, but none is ahead of the log.
        if cursor.furthest() > up_to && cursor.furthest() > self.store.log_state().await?.head {
            return Ok(Found::Lost("ahead"));
        }
        metrics::counter!("carillon_replay_reads_total").increment(1);
        let mut page = self.store.read_for_reader(cursor.position, up_to, reader, limit).await?;
        let floor = match page.floor {
            Some(floor) => floor,
            None => self.store.log_state().await?.floor,
        };
        if cursor.position < floor {
            return Ok(Found::Lost("retention"));
        }
        if !self.is_of_this_log(&cursor, &page, floor).await? {
            return Ok(Found::Lost("epoch"));
        }
        let is_new = |event: &Event| !cursor.has_seen(event.position) || is_armed("replay_repeats");
        page.events.retain(is_new);
        // Of large events, no more are read the next time than were of use.
        let next_limit = match self.bound(&mut page) {
            true => u32::try_from(page.events.len()).unwrap_or(u32::MAX),
            false => limit.saturating_mul(2).min(self.limits.replay_events),
        };
        let mut urgent_end = page.end;
        let room = Cursor::MAX_OVERTAKEN.saturating_sub(cursor.overtaken.len());
        if page.end < up_to && room > 0 {
            let mut urgent = reader.clone();
            let least = urgent.selector.min_priority.map_or(Priority::High, |p| p.max(Priority::High));
            urgent.selector.min_priority = Some(least);
            // The limit is of what is looked through, most of which is not urgent: as far as another page.
            let most = self.limits.replay_events;
            let mut ahead = self.store.read_for_reader(page.end, up_to, &urgent, most).await?;
            ahead.events.retain(is_new);
            if let Some(more) = ahead.events.get(room) {
                ahead.end = more.position - 1;
                ahead.events.truncate(room);
            }
            self.bound(&mut ahead);
            urgent_end = ahead.end;
            page.events.append(&mut ahead.events);
        }
        let end = page.end();
        let delivery = |event| Arc::new(Delivery::new(&cursor.epoch, event));
        let events = page.events.into_iter().map(delivery).collect();
        Ok(Found::Page(Page { events, end, urgent_end, next_limit }))
    }

    /// Whether the event still stands in the log that the cursor names last. Nothing at or below the floor does.
    async fn is_of_this_log(
        &self,
        cursor: &Cursor,
        page: &StorePage,
        floor: Position,
    ) -> Result<bool, StoreError> {
        let (Some(digest), furthest) = (cursor.digest, cursor.furthest()) else { return Ok(true) };
        if furthest <= floor {
            return Ok(true);
        }
        let id = match cursor.overtaken.is_empty() {
            true => page.after_id,
            false => self.store.id_at(furthest).await?,
        };
        Ok(id.is_some_and(|id| id_digest(&id) == digest))
    }

    /// Keeps what may be held for one stream; the rest is read again when its turn comes. Whether there is one.
    fn bound(&self, page: &mut StorePage) -> bool {
        let mut bytes = 0;
        let fits = page.events.iter().take_while(|event| {
            bytes += event.data.len() + 256;
            bytes <= self.limits.replay_bytes
        });
        let keep = fits.count().max(1);
        let is_cut = keep < page.events.len();
        if is_cut {
            page.events.truncate(keep);
            let last = &page.events[keep - 1];
            (page.end, page.end_id) = (last.position, Some(last.id));
        }
        is_cut
    }
}
