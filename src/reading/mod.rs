//! What a user has, and what of it is read: each verb writes, then notifies the user's open pages.

use uuid::Uuid;

use crate::account::User;
use crate::bus::Notifier;
use crate::bus::message::{Notice, user_channel};
use crate::event::{Audience, Position, UserId};
use crate::identity::topic_rules::TopicRules;
use crate::store::{InboxEntry, InboxQuery, Reader, Store, StoreError, UnreadCounts};

/// The most unread events that are counted.
pub const MAX_COUNTED: u32 = 1_000;
/// The most events looked at to count them.
const MAX_LOOKED_AT: u32 = 2_000;

/// Everybody's inbox. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Inbox {
    store: Store,
    rules: TopicRules,
    notifier: Notifier,
}

/// A page of an inbox, and what to ask for next.
#[derive(Debug)]
pub struct InboxPage {
    /// The entries.
    pub entries: Vec<InboxEntry>,
    /// Ask for the page after this one with it.
    pub next: Option<String>,
    /// A stream from here continues the page without a gap.
    pub cursor: String,
}

impl Inbox {
    /// Kept in `store`, of topics by `rules`.
    pub fn new(store: Store, rules: TopicRules, notifier: Notifier) -> Self {
        Self { store, rules, notifier }
    }

    /// A page. The cursor is taken first: what comes in between is in both.
    pub async fn page(&self, reader: &Reader, query: &InboxQuery) -> Result<InboxPage, StoreError> {
        let limit = query.limit;
        // One more shows whether there is another page.
        let query = InboxQuery { limit: limit + 1, ..query.clone() };
        let state = self.store.log_state().await?;
        let found = self.store.inbox(reader, &query).await?;
        let mut entries = found.entries;
        let has_more = entries.len() > limit as usize;
        entries.truncate(limit as usize);
        let last = entries.last().filter(|_| has_more).map(|e| (e.event.priority, e.event.position));
        let next = last.or(found.looked_up_to).map(|(priority, position)| format!("{priority}-{position}"));
        Ok(InboxPage { entries, next, cursor: state.cursor().to_string() })
    }

    /// How many unread events a reader has, up to [`MAX_COUNTED`].
    pub async fn unread_counts(&self, reader: &Reader) -> Result<UnreadCounts, StoreError> {
        self.store.unread_counts(reader, MAX_COUNTED, MAX_LOOKED_AT).await
    }

    /// An event that is the user's. What is on a topic that they may not read is not there for them.
    pub async fn entry(&self, user: &User, id: Uuid) -> Result<Option<InboxEntry>, StoreError> {
        self.find(user, id, false).await
    }

    /// Marks an event read; `false` if the user has no such event.
    pub async fn mark_read(&self, user: &User, id: Uuid) -> Result<bool, StoreError> {
        self.mark(user, id, true).await
    }

    /// Marks an event unread, also one that left the user after reading; `false` if the user has no such event.
    pub async fn mark_unread(&self, user: &User, id: Uuid) -> Result<bool, StoreError> {
        self.mark(user, id, false).await
    }

    /// Marks everything up to `position` read; gives the number by which that can be taken back.
    pub async fn mark_read_up_to(&self, user: UserId, position: Position) -> Result<i64, StoreError> {
        let number = self.store.mark_read_up_to(user, position).await?;
        self.notify(user, Notice::ReadUpTo { user, up_to: position }).await;
        Ok(number)
    }

    /// Takes back the newest such marking, by its number; whether it was that.
    pub async fn take_back_read_up_to(&self, user: UserId, number: i64) -> Result<bool, StoreError> {
        let is_taken_back = self.store.take_back_read_up_to(user, number).await?;
        if is_taken_back {
            self.notify(user, Notice::ReadUpToTakenBack { user }).await;
        }
        Ok(is_taken_back)
    }

    async fn mark(&self, user: &User, id: Uuid, read: bool) -> Result<bool, StoreError> {
        let Some(entry) = self.find(user, id, !read).await? else { return Ok(false) };
        let (user, position) = (user.id, entry.event.position);
        if self.store.mark(user, position, read).await? {
            self.notify(user, Notice::Read { user, position, read }).await;
        }
        Ok(true)
    }

    async fn find(&self, user: &User, id: Uuid, also_left: bool) -> Result<Option<InboxEntry>, StoreError> {
        let may_read = |entry: &InboxEntry| match &entry.event.audience {
            Audience::Everyone => true,
            Audience::Of { users, topics } => {
                users.contains(&user.id) || topics.iter().any(|topic| self.rules.may_read(user, topic))
            }
        };
        Ok(self.store.inbox_event(user.id, id, also_left).await?.filter(may_read))
    }

    async fn notify(&self, user: UserId, notice: Notice) {
        self.notifier.notify(user_channel(user), notice).await;
    }
}
