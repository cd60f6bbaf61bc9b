//! What is asked of the log, made of scans: pages of a range, of an inbox.

use super::scan::{Scan, Scanned};
use super::{Backend, Found, InboxEntry, InboxOrder, InboxQuery, Page, Reader, Result, Store};
use crate::event::{Event, Position, Priority, Selector};

/// How many events a page of an inbox looks at in its first statement: as many as it wants and so many more, since
/// some have expired. Each of the following looks at [`GROWTH`] times as many.
const SPARE: u32 = 16;
const GROWTH: u32 = 4;

impl Store {
    /// Reads `(after, up_to]` for a node: everything that `selector` targets, or simply everything, whatever its state of
    /// reading; not what is retracted or expired. Audiences come whole.
    pub async fn read_for_node(
        &self,
        after: Position,
        up_to: Position,
        selector: Option<&Selector>,
        limit: u32,
    ) -> Result<Page> {
        let scan = match selector {
            Some(selector) => Scan::of(selector, after, up_to, limit),
            None => Scan::of_all(after, up_to, limit),
        };
        self.page(scan).await
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

    /// A page of `reader`'s inbox. It ends when it is full, when the inbox does, or with its budget: then it may be short
    /// or empty, and says from where to go on.
    pub async fn inbox(&self, reader: &Reader, query: &InboxQuery) -> Result<Found> {
        let mut reading = Reading {
            store: self,
            reader,
            query,
            entries: Vec::new(),
            events_left: query.budget.events,
            bytes_left: i64::from(query.budget.bytes),
        };
        // By priority, each is read for itself, from the highest down.
        let levels: Vec<Option<Priority>> = match query.order {
            InboxOrder::Newest => vec![None],
            InboxOrder::Priority => Priority::ALL.into_iter().rev().map(Some).collect(),
        };
        for level in levels {
            if let Some(looked_up_to) = reading.level(level).await? {
                return Ok(Found { entries: reading.entries, looked_up_to: Some(looked_up_to) });
            }
            if reading.is_full() {
                break;
            }
        }
        Ok(Found { entries: reading.entries, looked_up_to: None })
    }

    async fn page(&self, scan: Scan<'_>) -> Result<Page> {
        let scanned: Scanned<Event> = self.scan(&scan).await?;
        // Who stops at the limit knows nothing of what lies behind the last position looked at.
        let Scanned { found: events, last, is_cut, floor, after_id, end_id, .. } = scanned;
        let (end, end_id) = match last {
            Some(last) if is_cut => (last, end_id),
            _ if is_cut || scan.up_to <= scan.after => (scan.after, after_id),
            _ => (scan.up_to, end_id),
        };
        Ok(Page { events, end, floor, after_id, end_id })
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

/// A page of an inbox that is being read.
struct Reading<'a> {
    store: &'a Store,
    reader: &'a Reader,
    query: &'a InboxQuery,
    entries: Vec<InboxEntry>,
    events_left: u32,
    bytes_left: i64,
}

impl Reading<'_> {
    fn is_full(&self) -> bool {
        self.wanted() == 0
    }

    /// How many entries the page still takes.
    fn wanted(&self) -> u32 {
        self.query.limit.saturating_sub(u32::try_from(self.entries.len()).unwrap_or(u32::MAX))
    }

    /// Reads entries of one priority (`None`: of all) until the page is full, there are no more, or the budget is spent;
    /// then gives the last one looked at.
    async fn level(&mut self, level: Option<Priority>) -> Result<Option<(Priority, Position)>> {
        let priority = level.unwrap_or_default();
        let mut below = match self.query.after {
            Some((after, _)) if level.is_some() && priority > after => return Ok(None),
            Some((after, position)) if level.is_none() || priority == after => position,
            _ => Position::MAX,
        };
        let mut chunk = self.query.limit.saturating_add(SPARE);
        while !self.is_full() {
            if self.events_left == 0 || self.bytes_left <= 0 {
                return Ok(Some((priority, below)));
            }
            let scan = Scan {
                reader: Some(self.reader.user),
                newest_first: true,
                priority: level,
                unread_only: self.query.unread_only,
                include_expired: self.query.include_expired,
                text: self.query.text.as_deref(),
                most: self.wanted(),
                bytes: self.bytes_left,
                ..Scan::of(&self.reader.selector, 0, below.saturating_sub(1), chunk.min(self.events_left))
            };
            let scanned: Scanned<InboxEntry> = self.store.scan(&scan).await?;
            self.entries.extend(scanned.found);
            let looked_at = u32::try_from(scanned.looked_at).unwrap_or(u32::MAX);
            self.events_left = self.events_left.saturating_sub(looked_at);
            self.bytes_left -= scanned.bytes;
            let Some(last) = scanned.last.filter(|_| scanned.is_cut) else { break };
            below = last;
            chunk = chunk.saturating_mul(GROWTH);
        }
        Ok(None)
    }
}
