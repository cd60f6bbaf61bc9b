//! What goes into the store and comes out of it.

use uuid::Uuid;

use crate::event::{
    Checkpoint, Cursor, Epoch, Event, EventType, Millis, Position, Priority, Selector, UserId,
};

/// Where the log stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogState {
    /// The history's name.
    pub epoch: Epoch,
    /// Everything at or below it was removed by retention.
    pub floor: Position,
    /// Everything at or below it is committed or will never exist.
    pub head: Position,
    /// The id of the event at the head; `None` if retention has removed it.
    pub head_id: Option<Uuid>,
    /// The database's clock.
    pub now: Millis,
    /// Which forms of rows, cursors and messages are written: 1 until `carillon migrate --finish`, then [`super::FORMS`].
    pub forms: i32,
    /// Whether this question found that the log has lost events, and began the epoch.
    pub is_new_epoch: bool,
}

impl LogState {
    /// The head, with the event there.
    pub fn head(&self) -> Checkpoint {
        Checkpoint { position: self.head, id: self.head_id }
    }

    /// A cursor at the head, in the form that is written.
    pub fn cursor(&self) -> Cursor {
        let cursor = Cursor::at(self.epoch.clone(), self.head());
        if self.forms < super::DIGEST_FORM.number { cursor.without_digest() } else { cursor }
    }
}

/// The outcome of one append.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Appended {
    /// The history that the events belong to.
    pub epoch: Epoch,
    /// Whether this append found that the log has lost events, and began the epoch.
    pub is_new_epoch: bool,
    /// The head just before this append.
    pub previous: Position,
    /// The id of the event at `previous`; `None` if retention has removed it.
    pub previous_id: Option<Uuid>,
    /// One for each event given, in the same order.
    pub events: Vec<AppendedEvent>,
}

/// What became of one event of an append.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppendedEvent {
    /// Its place in the log.
    pub position: Position,
    /// Its id; of the first event, if this one repeated an idempotency key.
    pub id: Uuid,
    /// When it was committed.
    pub created_at: Millis,
    /// When it ends for everyone.
    pub expires_at: Option<Millis>,
    /// Whether it repeated an idempotency key: nothing was written for it.
    pub is_repeat: bool,
}

/// Part of the log: events in position order, and the position up to which the read was complete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// In position order.
    pub events: Vec<Event>,
    /// Every matching event at or below it (and above where the read began) is in `events`.
    pub end: Position,
    /// Everything at or below it had been removed by retention, and may be missing here. Given only if
    /// anything was found.
    pub floor: Option<Position>,
    /// The id of the event that stands where the read began.
    pub after_id: Option<Uuid>,
    /// The id of the event at `end`.
    pub end_id: Option<Uuid>,
}

impl Page {
    /// Up to where it is complete, with the event there.
    pub fn end(&self) -> Checkpoint {
        Checkpoint { position: self.end, id: self.end_id }
    }

    /// Whether the log has the event after which the read began, as far as that can be known: at or below the floor there
    /// is none.
    pub fn follows(&self, after: Checkpoint) -> bool {
        after.id.is_none()
            || after.id == self.after_id
            || self.floor.is_some_and(|floor| floor >= after.position)
    }
}

/// Who reads, and what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reader {
    /// Whose reading counts: what left this user after reading is not shown.
    pub user: UserId,
    /// Which events are wanted; of users it names this one or nobody.
    pub selector: Selector,
}

/// The order of an inbox page.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum InboxOrder {
    /// Highest position first.
    #[default]
    Newest,
    /// Highest priority first, newest first within one priority.
    Priority,
}

/// How much one page of an inbox may look at, found or not. What it costs depends on this and not on the size of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadBudget {
    /// Events; and twice as many entries of indexes, of which an event on several of the reader's topics has several.
    pub events: u32,
    /// Bytes of their data, if it is searched for a text. The event that passes them is looked at.
    pub bytes: u32,
}

impl Default for ReadBudget {
    fn default() -> Self {
        Self { events: 2_000, bytes: 4 << 20 }
    }
}

/// A question for an inbox.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InboxQuery {
    /// Only unread ones.
    pub unread_only: bool,
    /// Also those that have expired (never retracted ones).
    pub include_expired: bool,
    /// Only those that hold this text in their type or in their data as it was written; the case of A to Z does not
    /// matter.
    pub text: Option<String>,
    /// In which order.
    pub order: InboxOrder,
    /// The last entry of the page before: continue after it.
    pub after: Option<(Priority, Position)>,
    /// At most this many.
    pub limit: u32,
    /// Looks at no more than this.
    pub budget: ReadBudget,
}

/// An event as it stands for one user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InboxEntry {
    /// The event.
    pub event: Event,
    /// When the user read it, if so.
    pub read_at: Option<Millis>,
}

/// What was found in an inbox.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// The entries that fit.
    pub entries: Vec<InboxEntry>,
    /// The last entry looked at, if the budget ended there: behind it there may be more.
    pub looked_up_to: Option<(Priority, Position)>,
}

/// How much of an inbox is unread.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UnreadCounts {
    /// How many events.
    pub unread: i64,
    /// Whether there may be more than were counted.
    pub more: bool,
    /// How many of each type, most first; together they are [`Self::unread`].
    pub by_type: Vec<(EventType, i64)>,
}
