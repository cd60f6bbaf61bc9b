//! What is asked of the log, made of scans: pages of a range, of an inbox, of what a search finds.

use super::scan::{Scan, Scanned};
use super::{Backend, Found, InboxEntry, InboxOrder, InboxQuery, Page, Reader, Result, Store};
use crate::event::{Event, Position, Priority, Selector};

/// How many events a page of an inbox looks at in one statement: at first, and at most.
const LOOK_AT: (u32, u32) = (256, 16_384);

impl Store {
    /// Reads `(after, up_to]` for a node: everything that `selector` targets, whatever its state of reading; not what
    /// is retracted or expired. Audiences come whole.
    pub async fn read_for_node(
        &self,
        after: Position,
        up_to: Position,
        selector: &Selector,
        limit: u32,
    ) -> Result<Page> {
        self.page(Scan::of(selector, after, up_to, limit)).await
    }

    /// Reads `(after, up_to]` as a stream would replay it to `reader`: not what is retracted, expired or read. Of
    /// audiences only what is theirs.
    pub async fn read_for_reader(
        &self,
        after: Position,
        up_to: Position,
        reader: &Reader,
        limit: u32,
    ) -> Result<Page> {
        let scan = Scan::of(&reader.selector, after, up_to, limit);
        self.page(Scan { reader: Some(reader.user), unread_only: true, ..scan }).await
    }

    /// A page of `reader`'s inbox.
    pub async fn inbox(&self, reader: &Reader, query: &InboxQuery) -> Result<Vec<InboxEntry>> {
        Ok(self.entries(reader, query, None, None).await?.entries)
    }

    /// As [`Self::inbox`], of those entries that hold `text` in their type or in their data as it was written; the
    /// case of A to Z does not matter. Looks at no more than `look_at` events, and says where it ended if there
    /// were as many.
    pub async fn search_inbox(
        &self,
        reader: &Reader,
        query: &InboxQuery,
        text: &str,
        look_at: u32,
    ) -> Result<Found> {
        self.entries(reader, query, Some(text), Some(look_at)).await
    }

    async fn page(&self, scan: Scan<'_>) -> Result<Page> {
        let scanned: Scanned<Event> = self.scan(&scan).await?;
        // Who stops at the limit knows nothing of what lies behind the last position looked at.
        let is_cut = scan.limit.is_some_and(|limit| scanned.looked_at >= i64::from(limit));
        let Scanned { found: events, last, floor, after_id, end_id, .. } = scanned;
        let (end, end_id) = match last {
            Some(last) if is_cut => (last, end_id),
            _ if is_cut || scan.up_to <= scan.after => (scan.after, after_id),
            _ => (scan.up_to, end_id),
        };
        Ok(Page { events, end, floor, after_id, end_id })
    }

    /// By priority, each is read for itself, from the highest down. Looks at events until the page is full.
    async fn entries(
        &self,
        reader: &Reader,
        query: &InboxQuery,
        text: Option<&str>,
        look_at: Option<u32>,
    ) -> Result<Found> {
        let levels: Vec<Option<Priority>> = match query.order {
            InboxOrder::Newest => vec![None],
            InboxOrder::Priority => Priority::ALL.into_iter().rev().map(Some).collect(),
        };
        let (mut entries, mut left, mut last) = (Vec::new(), look_at, None);
        for level in levels {
            let mut below = match (query.after, level) {
                (Some((priority, _)), Some(level)) if level > priority => continue,
                (Some((priority, position)), level) if level.is_none_or(|level| level == priority) => {
                    position
                }
                _ => Position::MAX,
            };
            let mut chunk = LOOK_AT.0.max(query.limit).min(LOOK_AT.1);
            loop {
                let limit = left.map_or(chunk, |left| left.min(chunk));
                if limit == 0 {
                    return Ok(Found { entries, looked_up_to: last });
                }
                let scan = Scan {
                    reader: Some(reader.user),
                    newest_first: true,
                    priority: level,
                    unread_only: query.unread_only,
                    include_expired: query.include_expired,
                    text,
                    ..Scan::of(&reader.selector, 0, below.saturating_sub(1), limit)
                };
                let scanned: Scanned<InboxEntry> = self.scan(&scan).await?;
                entries.extend(scanned.found);
                if entries.len() >= query.limit as usize {
                    entries.truncate(query.limit as usize);
                    // Only who ran out of events to look at goes on from where that was.
                    return Ok(Found { entries, looked_up_to: None });
                }
                left = left.map(|left| left.saturating_sub(u32::try_from(scanned.looked_at).unwrap_or(left)));
                let Some(lowest) = scanned.last.filter(|_| scanned.looked_at >= i64::from(limit)) else {
                    break;
                };
                (below, last) = (lowest, Some((level.unwrap_or_default(), lowest)));
                chunk = (chunk * 2).min(LOOK_AT.1);
            }
        }
        Ok(Found { entries, looked_up_to: None })
    }

    async fn scan<T>(&self, scan: &Scan<'_>) -> Result<Scanned<T>>
    where
        T: From<super::rows::EventRow>,
    {
        if !scan.has_branches() {
            return Ok(Scanned::default());
        }
        match &self.0 {
            Backend::Postgres(store) => store.scan(scan).await,
            Backend::Sqlite(store) => store.scan(scan).await,
        }
    }
}
