//! Reading what a stream missed, page by page.

use std::sync::Arc;

use bytes::Bytes;

use super::Streams;
use super::leave_order::leave_order;
use crate::delivery::frame::{Delivery, Form};
use crate::delivery::hub::Listener;
use crate::event::{Checkpoint, Cursor, Event, Millis, Position, Priority, id_digest};
use crate::failpoint::is_armed;
use crate::store::{Page, StoreError};

impl Streams {
    /// Reads the next page of a backlog, in the order in which it should leave.
    pub(super) async fn read(
        self: Arc<Self>,
        listener: Arc<Listener>,
        cursor: Cursor,
        up_to: Position,
        limit: u32,
        form: Form,
    ) -> Result<Backlog, StoreError> {
        // Never closed, so this only waits.
        let _turn = self.replays.acquire().await;
        // Another node may have been faster than this one, but none is ahead of the log.
        if cursor.furthest() > up_to && cursor.furthest() > self.store.log_state().await?.head {
            return Ok(Backlog::Lost("ahead"));
        }
        metrics::counter!("carillon_replay_reads_total").increment(1);
        let mut page = self.store.read_for_reader(cursor.position, up_to, &listener.reader, limit).await?;
        let floor = match page.floor {
            Some(floor) => floor,
            None => self.store.log_state().await?.floor,
        };
        if cursor.position < floor {
            return Ok(Backlog::Lost("retention"));
        }
        if !self.is_of_this_log(&cursor, &page, floor).await? {
            return Ok(Backlog::Lost("epoch"));
        }
        let is_new = |event: &Event| !cursor.has_seen(event.position) || is_armed("replay_repeats");
        page.events.retain(is_new);
        // Of large events, no more are read the next time than were of use.
        let next_limit = match self.bound(&mut page) {
            true => u32::try_from(page.events.len()).unwrap_or(u32::MAX),
            false => limit.saturating_mul(2).min(self.limits.replay_events),
        };
        let room = Cursor::MAX_OVERTAKEN.saturating_sub(cursor.overtaken.len());
        if page.end < up_to && room > 0 {
            let mut urgent = listener.reader.clone();
            let least = urgent.selector.min_priority.map_or(Priority::High, |p| p.max(Priority::High));
            urgent.selector.min_priority = Some(least);
            // The limit is of what is looked through, most of which is not urgent: as far as another page.
            let most = self.limits.replay_events;
            let mut ahead = self.store.read_for_reader(page.end, up_to, &urgent, most).await?;
            ahead.events.retain(is_new);
            ahead.events.truncate(room);
            self.bound(&mut ahead);
            page.events.append(&mut ahead.events);
        }
        let frame =
            |delivery: &Delivery, sent: &Cursor| delivery.frame(form).ending_with(Some(&self.written(sent)));
        Ok(Backlog::Page(Replay { next_limit, ..order(&cursor, page, frame) }))
    }

    /// Whether the event still stands in the log that the cursor names last. Nothing at or below the floor does.
    async fn is_of_this_log(
        &self,
        cursor: &Cursor,
        page: &Page,
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
    fn bound(&self, page: &mut Page) -> bool {
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

/// What a read of the backlog brings.
pub(super) enum Backlog {
    /// The next of it.
    Page(Replay),
    /// What came next is not in the log any more, or never was; why.
    Lost(&'static str),
}

/// A page of backlog, ready to leave.
pub(super) struct Replay {
    /// Frames, and when each ends.
    pub frames: Vec<(Bytes, Option<Millis>)>,
    pub end: Cursor,
    /// How many events to read for the next one.
    pub next_limit: u32,
}

/// Gives a cursor of [`leave_order`] the digest of the event that it names last. Where it names none, since what follows
/// the last one sent is not for this listener, it is moved back to that.
fn add_digest(sent: &mut Cursor, before: &Cursor, page: &Page) {
    let at = |position: Position| {
        let found = page.events.binary_search_by_key(&position, |event| event.position);
        found.ok().map(|index| Checkpoint::new(position, page.events[index].id))
    };
    let furthest = sent.furthest();
    if furthest == page.end {
        sent.digest = page.end().digest();
    } else if let Some(named) = at(furthest) {
        sent.digest = named.digest();
    } else if furthest == before.furthest() {
        sent.digest = before.digest;
    } else {
        let all_sent = page.events.partition_point(|event| event.position <= sent.position);
        if let Some(last) = all_sent.checked_sub(1).map(|index| &page.events[index]) {
            (sent.position, sent.digest) = (last.position, Some(id_digest(&last.id)));
        }
    }
}

fn order(cursor: &Cursor, page: Page, frame: impl Fn(&Delivery, &Cursor) -> Bytes) -> Replay {
    let places: Vec<_> = page.events.iter().map(|event| (event.position, event.priority)).collect();
    let mut order = leave_order(&cursor.epoch, &places, page.end, &cursor.overtaken);
    order.iter_mut().for_each(|(_, sent)| add_digest(sent, cursor, &page));
    let encode = |event| Delivery::new(&cursor.epoch, event);
    let page_end = page.end();
    let deliveries: Vec<_> = page.events.into_iter().map(encode).collect();
    let end = order.last().map_or_else(
        || {
            let mut end = cursor.clone();
            end.reach(page_end);
            end
        },
        |(_, cursor)| cursor.clone(),
    );
    let frames = order
        .into_iter()
        .map(|(index, cursor)| {
            let delivery = &deliveries[index];
            (frame(delivery, &cursor), delivery.event().expires_at)
        })
        .collect();
    Replay { frames, end, next_limit: 1 }
}
