//! Publishing: drafts become events, one writer task per node commits them in batches, an announcer tells the bus.
//!
//! While one append is in flight the next batch gathers; an idle writer sends at once. The publisher is answered
//! as soon as the commit is known; what the bus does after that only changes how fast the event arrives.

pub mod retention;
mod take_back;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

pub use take_back::take_back;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::bus::{Bus, message};
use crate::event::{
    Audience, Cursor, Delivery, Draft, Epoch, Event, Invalid, Millis, NewEvent, Position, Recipients, Topic,
    UserId,
};
use crate::failpoint;
use crate::store::{Appended, AppendedEvent, Store, StoreError};
use crate::ttl::Ttl;

/// Before epoch and position in the name of the key that lives as long as an event.
pub const LIVE_KEY: &str = "event:";

/// The name of the key that lives as long as an event.
fn live_key(epoch: &Epoch, position: Position) -> String {
    format!("{LIVE_KEY}{}", Cursor::at(epoch.clone(), position))
}

/// The longest idempotency key, in bytes.
pub const MAX_KEY_LEN: usize = 128;

/// Bounds on publishing.
#[derive(Debug, Clone)]
pub struct PublishLimits {
    /// The most events in one request.
    pub batch: usize,
    /// The most events in one append; a larger request still goes whole.
    pub append: usize,
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
    /// More waits than this node takes on.
    #[error("too many publications are waiting")]
    Overloaded,
    /// The store did not take it. The outcome may be unknown; repeating with the same key is safe.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What a publisher is told.
pub type Published = AppendedEvent;

struct Request {
    events: Vec<NewEvent>,
    reply: oneshot::Sender<Result<Vec<Published>, StoreError>>,
    /// Its share of what may wait.
    _room: OwnedSemaphorePermit,
}

/// A bound on bytes held, of which everything held takes its share.
#[derive(Clone)]
struct Room {
    left: Arc<Semaphore>,
    all: u32,
}

impl Room {
    fn new(bytes: u32) -> Self {
        Self { left: Arc::new(Semaphore::new(bytes as usize)), all: bytes }
    }

    /// A share of this size, or of all there is if that is less; `None` if so much is not left.
    fn take(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let share = u32::try_from(bytes).unwrap_or(u32::MAX).min(self.all);
        self.left.clone().try_acquire_many_owned(share).ok()
    }
}

/// What an event takes in memory, about.
fn size(data: &str, audience: &Audience) -> usize {
    data.len() + size_of::<UserId>() * audience.targets() + size_of::<Event>()
}

/// One node's way into the log. Cheap to clone.
#[derive(Clone)]
pub struct Publisher {
    store: Store,
    requests: mpsc::Sender<Request>,
    room: Room,
    published: Arc<AtomicU64>,
}

impl Publisher {
    /// Starts the writer and the announcer in `tasks`: without either, the node is of no use. `applied` is
    /// the last position handed to this node's listeners, `epoch` the history in force, once the log was seen.
    pub fn start(
        tasks: &mut JoinSet<()>,
        store: Store,
        applied: Arc<AtomicI64>,
        bus: Bus,
        ttl: Ttl,
        epoch: watch::Receiver<Option<Epoch>>,
        limits: &PublishLimits,
    ) -> Self {
        let (requests, inbox) = mpsc::channel(limits.queue);
        let (announcements, committed) = mpsc::channel(limits.announcements);
        let announcements =
            Announcements { queue: announcements, room: Room::new(limits.announcement_bytes) };
        let published = Arc::new(AtomicU64::new(0));
        let log = Log { store: store.clone(), applied, epoch: epoch.clone(), published: published.clone() };
        tasks.spawn(write(log, inbox, announcements, limits.append));
        tasks.spawn(announce(epoch, bus, ttl, committed));
        Self { store, requests, room: Room::new(limits.queue_bytes), published }
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
        key: Option<String>,
    ) -> Result<Vec<Published>, PublishError> {
        if let Some(key) = &key {
            check_key(key)?;
        }
        let users = self.resolve(&drafts).await?;
        let mut events = Vec::with_capacity(drafts.len());
        for (index, draft) in drafts.into_iter().enumerate() {
            let place = i32::try_from(index).unwrap_or(i32::MAX);
            let idempotency = key.clone().map(|key| (key, place));
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
            });
        }
        let bytes = events.iter().map(|event| size(&event.data, &event.audience)).sum();
        let room = self.room.take(bytes).ok_or(PublishError::Overloaded)?;
        let stopped = || StoreError::Unavailable("this node is stopping".into());
        let (reply, answer) = oneshot::channel();
        self.requests.try_send(Request { events, reply, _room: room }).map_err(|error| match error {
            TrySendError::Full(_) => PublishError::Overloaded,
            TrySendError::Closed(_) => stopped().into(),
        })?;
        Ok(answer.await.map_err(|_| stopped())??)
    }

    /// The numbers of everybody named in `drafts`.
    async fn resolve(&self, drafts: &[Draft]) -> Result<HashMap<String, UserId>, PublishError> {
        let mut names: Vec<String> = drafts.iter().flat_map(|d| named(&d.to)).cloned().collect();
        names.sort_unstable();
        names.dedup();
        if names.is_empty() {
            return Ok(HashMap::new());
        }
        Ok(self.store.resolve_names(&names).await?.into_iter().collect())
    }
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

/// One append, committed.
struct Committed {
    previous: Position,
    events: Vec<Event>,
    /// Its share of what may wait.
    _room: OwnedSemaphorePermit,
}

/// The bounded way from the writer to the announcer.
struct Announcements {
    queue: mpsc::Sender<Committed>,
    room: Room,
}

impl Announcements {
    /// Has an append announced, unless too much waits already. Nothing is lost then: the next announcement
    /// shows the gap, and every node compares its place with the log's head.
    fn offer(&self, previous: Position, events: Vec<Event>) {
        let bytes = events.iter().map(|event| size(&event.data, &event.audience)).sum();
        let offered = self
            .room
            .take(bytes)
            .is_some_and(|room| self.queue.try_send(Committed { previous, events, _room: room }).is_ok());
        if !offered {
            metrics::counter!("carillon_announcements_skipped_total").increment(1);
        }
    }
}

/// The log, as the writer sees it.
struct Log {
    store: Store,
    /// The last position handed to this node's listeners.
    applied: Arc<AtomicI64>,
    epoch: watch::Receiver<Option<Epoch>>,
    /// How many events were committed here.
    published: Arc<AtomicU64>,
}

impl Log {
    async fn append(&self, events: &[NewEvent]) -> Result<Appended, StoreError> {
        let (epoch, applied) = (self.epoch.borrow().clone(), self.applied.load(Ordering::Acquire));
        let appended = self.store.append(events).await?;
        if let Some(epoch) = epoch.filter(|_| appended.previous < applied) {
            // It has lost its end. Whoever looks at the head later may find it grown past that place again, and
            // the new events up to there would count as delivered.
            tracing::error!("the log has lost events that were delivered: beginning a new epoch");
            metrics::counter!("carillon_history_lost_total").increment(1);
            if let Err(error) = self.store.renew_epoch(&epoch).await {
                tracing::error!(%error, "the epoch could not be renewed: new events may not be delivered");
            }
        }
        Ok(appended)
    }
}

/// The one writer: takes whatever waits, up to a bound, and appends it.
async fn write(log: Log, mut inbox: mpsc::Receiver<Request>, announcements: Announcements, append: usize) {
    let mut held: Option<Request> = None;
    loop {
        let Some(first) = (match held.take() {
            Some(request) => Some(request),
            None => inbox.recv().await,
        }) else {
            return;
        };
        let mut batch = vec![first];
        let mut size = batch[0].events.len();
        while size < append {
            let Ok(next) = inbox.try_recv() else { break };
            if size + next.events.len() > append {
                held = Some(next);
                break;
            }
            size += next.events.len();
            batch.push(next);
        }
        write_batch(&log, batch, &announcements).await;
    }
}

async fn write_batch(log: &Log, mut batch: Vec<Request>, announcements: &Announcements) {
    let counts: Vec<usize> = batch.iter().map(|request| request.events.len()).collect();
    let events: Vec<NewEvent> =
        batch.iter_mut().flat_map(|request| std::mem::take(&mut request.events)).collect();
    metrics::counter!("carillon_appends_total").increment(1);
    let appended = match log.append(&events).await {
        Ok(appended) => appended,
        Err(error) => {
            metrics::counter!("carillon_append_failures_total").increment(1);
            for request in batch {
                // A publisher that has gone away needs no answer.
                let _ = request.reply.send(Err(error.clone()));
            }
            return;
        }
    };
    failpoint::die("committed");
    let (previous, new) = (appended.previous, committed_events(&appended, events));
    let mut outcomes = appended.events.into_iter();
    for (request, count) in batch.into_iter().zip(counts) {
        let _ = request.reply.send(Ok(outcomes.by_ref().take(count).collect()));
    }
    metrics::counter!("carillon_published_total").increment(new.len() as u64);
    log.published.fetch_add(new.len() as u64, Ordering::Relaxed);
    if !new.is_empty() {
        announcements.offer(previous, new);
    }
}

/// Those that were written, as the log holds them.
fn committed_events(appended: &Appended, events: Vec<NewEvent>) -> Vec<Event> {
    let written = appended.events.iter().zip(events).filter(|(outcome, _)| !outcome.is_repeat);
    let mut events: Vec<Event> = written
        .map(|(outcome, new)| Event {
            position: outcome.position,
            id: outcome.id,
            event_type: new.event_type,
            priority: new.priority,
            audience: new.audience,
            data: new.data,
            created_at: outcome.created_at,
            expires_at: outcome.expires_at,
            keep_after_read: new.keep_after_read,
            publisher: new.publisher,
        })
        .collect();
    events.sort_unstable_by_key(|event| event.position);
    events
}

/// Tells the bus of each append, in order, and gives expiring events their keys.
async fn announce(
    epoch: watch::Receiver<Option<Epoch>>,
    bus: Bus,
    ttl: Ttl,
    mut committed: mpsc::Receiver<Committed>,
) {
    while let Some(Committed { previous, events, _room }) = committed.recv().await {
        failpoint::die("announcing");
        let epoch = epoch.borrow().clone();
        let (Some(epoch), Some(last)) = (&epoch, events.last().map(|event| event.position)) else {
            metrics::counter!("carillon_announcements_skipped_total").increment(1);
            continue;
        };
        let deliveries = events.iter().map(|event| Delivery::of(epoch, event)).collect();
        let messages = message::after_append(epoch, previous, last, deliveries);
        if let Err(error) = bus.publish(&messages).await {
            metrics::counter!("carillon_announcements_failed_total").increment(1);
            tracing::debug!(%error, "an announcement failed");
        }
        let keys: Vec<(String, Vec<u8>, Millis)> = events
            .iter()
            .filter_map(|e| Some((live_key(epoch, e.position), Vec::new(), e.expires_at?)))
            .collect();
        if !keys.is_empty() && ttl.put_until(&keys).await.is_err() {
            metrics::counter!("carillon_live_keys_failed_total").increment(keys.len() as u64);
        }
    }
}

/// How long a publisher that was turned away should wait.
pub const RETRY_AFTER: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests;
