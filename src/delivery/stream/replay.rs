//! Reading what a stream missed, page by page.

use std::sync::Arc;

use bytes::Bytes;

use super::Streams;
use super::leave_order::leave_order;
use crate::delivery::frame::{Delivery, Form};
use crate::delivery::hub::Listener;
use crate::event::{Cursor, Event, Millis, Position, Priority};
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
        Ok(Backlog::Page(Replay { next_limit, ..order(&cursor, page, form) }))
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
            page.end = page.events[keep - 1].position;
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

fn order(cursor: &Cursor, page: Page, form: Form) -> Replay {
    let places: Vec<_> = page.events.iter().map(|event| (event.position, event.priority)).collect();
    let order = leave_order(&cursor.epoch, &places, page.end, &cursor.overtaken);
    let encode = |event| Delivery::new(&cursor.epoch, event);
    let deliveries: Vec<_> = page.events.into_iter().map(encode).collect();
    let end = order.last().map_or_else(
        || Cursor {
            epoch: cursor.epoch.clone(),
            position: page.end,
            overtaken: cursor.overtaken.iter().copied().filter(|p| *p > page.end).collect(),
        },
        |(_, cursor)| cursor.clone(),
    );
    let frames = order
        .into_iter()
        .map(|(index, cursor)| {
            let delivery = &deliveries[index];
            (delivery.frame(form).ending_with(Some(&cursor)), delivery.event().expires_at)
        })
        .collect();
    Replay { frames, end, next_limit: 1 }
}
