//! Publishing: drafts become events, one writer task per node commits them in batches and hands them to its own node's
//! sequencer, an announcer sends them to the others on the bus.
//!
//! While one append is in flight the next batch gathers, and for about as long again; an idle writer sends at once. The publisher is answered
//! as soon as the commit is known; what the bus does after that only changes how fast the event arrives.

mod announcer;
mod byte_budget;
mod gather;
mod live_key;
pub mod retention;
mod take_back;
mod writer;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::bus::Bus;
use crate::bus::message::MessageWriter;
use crate::event::{
    AppliedCell, Audience, Draft, Event, Fingerprint, Invalid, NewEvent, Position, Recipients, Topic, UserId,
};
use crate::identity::UserNames;
use crate::store::{AppendedEvent, Pool, Store, StoreError};
use crate::ttl::Ttl;
use announcer::Announcements;
use byte_budget::ByteBudget;
use gather::{Gatherer, Request};
pub use live_key::LiveKey;
pub use take_back::take_back;
use writer::Log;

/// The longest idempotency key, in bytes.
pub const MAX_KEY_LEN: usize = 128;

/// Bounds on publishing.
#[derive(Debug, Clone)]
pub struct PublishLimits {
    /// The most events in one request.
    pub batch: usize,
    /// The most events in one append; a larger request still goes whole.
    pub append: usize,
    /// How long the writer waits for company at most, after an append that ended a moment ago; zero: never.
    pub append_wait: Duration,
    /// The most recipients (users and topics) of one request, and of all requests in one append: they are written under
    /// the log's lock. At least [`crate::event::draft::MAX_RECIPIENTS`], so that every event fits.
    pub recipients: usize,
    /// How many requests may wait for the writer.
    pub queue: usize,
    /// How many bytes of events may wait for the writer or be with it.
    pub queue_bytes: u32,
    /// How many appends may wait to be announced; more are left to the other nodes' reconciling.
    pub announcements: usize,
    /// How many bytes of events may wait to be announced: a bus that does not answer holds them up.
    pub announcement_bytes: u32,
}

impl Default for PublishLimits {
    fn default() -> Self {
        Self {
            batch: 1_000,
            append: 500,
            append_wait: Duration::from_millis(3),
            recipients: 10_000,
            queue: 4_096,
            queue_bytes: 64 << 20,
            announcements: 1_024,
            announcement_bytes: 32 << 20,
        }
    }
}

/// Why something was not published.
#[derive(Debug, Clone, thiserror::Error)]
pub enum PublishError {
    /// A mistake in the request.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// Recipients that do not exist.
    #[error("{field}: no such user: {name}")]
    UnknownUser {
        /// Which of the drafts names them.
        index: usize,
        /// Where the name stands.
        field: String,
        /// The name.
        name: String,
    },
    /// The key came before, with another request: nothing was published.
    #[error("Idempotency-Key: came before with another request; a key names one request")]
    KeyReused,
    /// More recipients than one append may have.
    #[error("events: are for {count} recipients together: at most {limit} in one request")]
    TooManyRecipients {
        /// How many, each as often as it is named.
        count: usize,
        /// [`PublishLimits::recipients`].
        limit: usize,
    },
    /// More waits than this node takes on.
    #[error("too many publications are waiting")]
    Overloaded,
    /// The store did not take it. The outcome may be unknown; repeating with the same key is safe.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What a publisher calls a request, so that repeating it publishes nothing new.
#[derive(Debug, Clone)]
pub struct Key {
    /// 1 to 128 visible ASCII characters, the publisher's own.
    pub name: String,
    /// The request; without it the key repeats whatever it came with first.
    pub request: Option<Fingerprint>,
}

/// The acknowledgement of one event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Published {
    /// Its id; of the first event, if this one repeated an idempotency key.
    pub id: Uuid,
    /// Its position in the log.
    pub position: Position,
}

impl From<AppendedEvent> for Published {
    fn from(appended: AppendedEvent) -> Self {
        Self { id: appended.id, position: appended.position }
    }
}

/// What an event takes in memory, about.
fn size(data: &str, audience: &Audience) -> usize {
    data.len() + size_of::<UserId>() * audience.targets() + size_of::<Event>()
}

/// What a publisher stands on.
pub struct PublisherParts {
    /// The log.
    pub store: Store,
    /// Whom events may be for.
    pub names: UserNames,
    /// How far this node's listeners are.
    pub applied: Arc<AppliedCell>,
    /// Where appends are announced.
    pub bus: Bus,
    /// What writes the announcements.
    pub messages: MessageWriter,
    /// Where events that expire have their keys.
    pub ttl: Ttl,
}

/// One node's way into the log. Cheap to clone.
#[derive(Clone)]
pub struct Publisher {
    names: UserNames,
    requests: mpsc::Sender<Request>,
    budget: ByteBudget,
    published: Arc<AtomicU64>,
    max_recipients: usize,
}

impl Publisher {
    /// Starts the writer and the announcer in `tasks`: without either, the node is of no use.
    pub fn start(tasks: &mut JoinSet<()>, parts: PublisherParts, limits: &PublishLimits) -> Self {
        let PublisherParts { store, names, applied, bus, messages, ttl } = parts;
        let (requests, inbox) = mpsc::channel(limits.queue);
        let (announcements, committed) = mpsc::channel(limits.announcements);
        let budget = ByteBudget::new(limits.announcement_bytes);
        let announcements =
            Announcements { bus: bus.clone(), messages: messages.clone(), queue: announcements, budget };
        let published = Arc::new(AtomicU64::new(0));
        let log = Log { store: store.on(Pool::Log), applied, published: published.clone() };
        tasks.spawn(writer::write(log, Gatherer::new(inbox, limits.clone()), announcements));
        tasks.spawn(announcer::announce(bus, messages, ttl, committed));
        let budget = ByteBudget::new(limits.queue_bytes);
        Self { names, requests, budget, published, max_recipients: limits.recipients }
    }

    /// How many events this node has committed since it began.
    pub fn published(&self) -> u64 {
        self.published.load(Ordering::Relaxed)
    }

    /// Publishes drafts, all or nothing, in this order. Returns after the commit.
    pub async fn publish(
        &self,
        publisher: UserId,
        drafts: Vec<Draft>,
        key: Option<Key>,
    ) -> Result<Vec<Published>, PublishError> {
        let received = Instant::now();
        if let Some(key) = &key {
            check_key(&key.name)?;
        }
        let (count, limit) = (drafts.iter().map(recipients).sum(), self.max_recipients);
        if count > limit {
            return Err(PublishError::TooManyRecipients { count, limit });
        }
        let users = self.resolve(&drafts).await?;
        let mut events = Vec::with_capacity(drafts.len());
        for (index, draft) in drafts.into_iter().enumerate() {
            let index_in_request = i32::try_from(index).unwrap_or(i32::MAX);
            let idempotency = key.as_ref().map(|key| (key.name.clone(), index_in_request));
            events.push(NewEvent {
                id: Uuid::now_v7(),
                event_type: draft.event_type,
                priority: draft.priority,
                audience: audience(draft.to, &users, index)?,
                data: draft.data,
                expiry: draft.expiry,
                keep_after_read: draft.keep_after_read,
                publisher,
                idempotency,
                request: key.as_ref().and_then(|key| key.request),
            });
        }
        let bytes = events.iter().map(|event| size(&event.data, &event.audience)).sum();
        let budget = self.budget.take(bytes).ok_or(PublishError::Overloaded)?;
        let stopped = || StoreError::Unavailable("this node is stopping".into());
        let (reply, answer) = oneshot::channel();
        self.requests.try_send(Request { events, reply, received, _budget: budget }).map_err(|error| {
            match error {
                TrySendError::Full(_) => PublishError::Overloaded,
                TrySendError::Closed(_) => stopped().into(),
            }
        })?;
        answer.await.map_err(|_| stopped())?
    }

    /// The numbers of everybody named in `drafts`.
    async fn resolve(&self, drafts: &[Draft]) -> Result<HashMap<String, UserId>, PublishError> {
        let mut names: Vec<String> = drafts.iter().flat_map(|d| named(&d.to)).cloned().collect();
        names.sort_unstable();
        names.dedup();
        if names.is_empty() {
            return Ok(HashMap::new());
        }
        Ok(self.names.resolve(names).await?)
    }
}

/// How many users and topics a draft names.
fn recipients(draft: &Draft) -> usize {
    named(&draft.to).len() + usize::from(matches!(draft.to, Recipients::Topic(_)))
}

fn named(to: &Recipients) -> &[String] {
    match to {
        Recipients::User(name) => std::slice::from_ref(name),
        Recipients::Users(names) => names,
        Recipients::Everyone | Recipients::Topic(_) => &[],
    }
}

fn audience(to: Recipients, users: &HashMap<String, UserId>, index: usize) -> Result<Audience, PublishError> {
    let field = if matches!(to, Recipients::User(_)) { "to.user" } else { "to.users" };
    let number = |name: &String| {
        users.get(name).copied().ok_or_else(|| PublishError::UnknownUser {
            index,
            field: field.into(),
            name: name.clone(),
        })
    };
    Ok(match &to {
        Recipients::Everyone => Audience::Everyone,
        Recipients::Topic(topic) => Audience::topic(topic.parse::<Topic>()?),
        _ => Audience::users(named(&to).iter().map(number).collect::<Result<_, _>>()?),
    })
}

fn check_key(key: &str) -> Result<(), Invalid> {
    if key.is_empty() || key.len() > MAX_KEY_LEN || !key.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(Invalid::new("Idempotency-Key", "must be 1 to 128 visible ASCII characters"));
    }
    Ok(())
}

/// How long a publisher that was turned away should wait.
pub const RETRY_AFTER: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests;
