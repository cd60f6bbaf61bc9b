//! Removing what is old, in chunks: each is a transaction of its own that looks at a bounded number of rows, so that none
//! takes long, whatever has gathered, and what breaks off goes on where it was. One node does it at a time.

use super::{Backend, Result, Store};
use crate::event::{Millis, Position};

/// How many expired events are emptied together.
pub(super) const EXPIRED_AT_ONCE: u32 = 200;

/// What belongs to an event, and the events themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rows {
    Users,
    Topics,
    Receipts,
    Events,
}

impl Rows {
    /// What belongs to events.
    const OF_EVENTS: [Self; 3] = [Self::Users, Self::Topics, Self::Receipts];

    /// Their table. All have a `position`.
    pub(super) fn table(self) -> &'static str {
        match self {
            Self::Users => "event_users",
            Self::Topics => "event_topics",
            Self::Receipts => "receipts",
            Self::Events => "events",
        }
    }
}

/// One transaction of retention.
#[derive(Debug, Clone, Copy)]
pub(super) enum Chunk {
    /// Raises the floor over the oldest events that were committed before a time. Its rows are those events.
    Floor { before: Millis },
    /// Removes rows at or below the floor, from a position on.
    Below { rows: Rows, from: Position },
    /// Looks at the next marks at or below the floor; those that are not the last of their user go. Its rows are those
    /// looked at.
    Marks,
    /// Removes sessions that ended before a time.
    Sessions { before: Millis },
    /// The same of tokens.
    Tokens { before: Millis },
    /// Removes what belongs to the [`EXPIRED_AT_ONCE`] events that expired first, before a time, and have it still.
    OfExpired { rows: Rows, before: Millis },
    /// Removes the data of those events.
    Expired { before: Millis },
}

/// What a chunk did.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Done {
    /// How many rows.
    pub(super) rows: u64,
    /// Of [`Chunk::Below`]: nothing is left below this position.
    pub(super) last: Position,
}

impl Store {
    /// Removes the oldest events that were committed before `before`, at most `limit`, always a prefix of the log, with
    /// all that belongs to them; and sessions and tokens that ended before it. The floor rises first, and then what lies
    /// below goes in transactions of at most `limit` rows. One that fails leaves the rest to the next call. Gives how
    /// many events went: none as well while another node does it.
    pub async fn remove_before(&self, before: Millis, limit: u32) -> Result<u64> {
        let mut events = 0;
        if self.chunk(Chunk::Floor { before }, limit).await?.is_none() {
            return Ok(events);
        }
        for rows in Rows::OF_EVENTS {
            self.remove_below(rows, limit).await?;
        }
        events += self.remove_below(Rows::Events, limit).await?;
        for chunk in [Chunk::Marks, Chunk::Sessions { before }, Chunk::Tokens { before }] {
            self.repeated(chunk, limit).await?;
        }
        Ok(events)
    }

    /// Removes the data and the recipients of events that expired before `before`, of at most [`EXPIRED_AT_ONCE`], in
    /// transactions of at most `limit` rows. The events' own rows stay: they hold their place in the log, and their key.
    /// Gives how many events: none as well while another node does it.
    pub async fn empty_expired(&self, before: Millis, limit: u32) -> Result<u64> {
        for rows in Rows::OF_EVENTS {
            if self.repeated(Chunk::OfExpired { rows, before }, limit).await?.is_none() {
                return Ok(0);
            }
        }
        Ok(self.chunk(Chunk::Expired { before }, limit).await?.unwrap_or_default().rows)
    }

    async fn remove_below(&self, rows: Rows, limit: u32) -> Result<u64> {
        let (mut all, mut from) = (0, 0);
        while let Some(done) = self.chunk(Chunk::Below { rows, from }, limit).await? {
            all += done.rows;
            if rows != Rows::Events {
                metrics::counter!("carillon_retention_rows_total").increment(done.rows);
            }
            if done.rows < u64::from(limit) {
                break;
            }
            from = done.last;
        }
        Ok(all)
    }

    /// Does a chunk until there is nothing left for it. `None`: another node is at it.
    async fn repeated(&self, chunk: Chunk, limit: u32) -> Result<Option<()>> {
        while let Some(done) = self.chunk(chunk, limit).await? {
            metrics::counter!("carillon_retention_rows_total").increment(done.rows);
            if done.rows < u64::from(limit) {
                return Ok(Some(()));
            }
        }
        Ok(None)
    }

    /// `None`: another node is at it.
    async fn chunk(&self, chunk: Chunk, limit: u32) -> Result<Option<Done>> {
        match &self.0 {
            Backend::Postgres(store) => store.retention(chunk, limit).await,
            Backend::Sqlite(store) => store.retention(chunk, limit).await.map(Some),
        }
    }
}
