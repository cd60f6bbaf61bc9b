//! The writer: one task of a node appends what its publishers hand in. An append that has returned is on disk (the
//! contract of [`crate::store`]): only then are its publishers acknowledged, and after that it is announced.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use super::announcer::Announcements;
use super::gather::{Gatherer, Request};
use super::{PublishError, Published};
use crate::event::{AppliedCell, Checkpoint, Event, NewEvent};
use crate::failpoint::{self, is_armed};
use crate::store::{Appended, Store, StoreError, history_lost};

/// The log, as the writer sees it.
pub(super) struct Log {
    pub store: Store,
    /// How far this node's listeners are.
    pub applied: Arc<AppliedCell>,
    /// How many events were committed here.
    pub published: Arc<AtomicU64>,
}

impl Log {
    async fn append(&self, events: &[NewEvent]) -> Result<Appended, StoreError> {
        // A log that has lost its end gives positions out again: these events must not count as delivered.
        let applied = self.applied.get().filter(|_| !is_armed("compare_off"));
        let appended = self.store.append_after(events, applied.as_ref()).await?;
        if appended.is_new_epoch {
            history_lost();
        }
        Ok(appended)
    }
}

/// The one writer: appends what is gathered.
pub(super) async fn write(log: Log, mut requests: Gatherer, announcements: Announcements) {
    while let Some(batch) = requests.next().await {
        let began = Instant::now();
        if write_batch(&log, batch, &announcements).await {
            requests.appended(began.elapsed());
        }
    }
}

/// Appends requests and answers them; whether anything was appended.
async fn write_batch(log: &Log, mut batch: Vec<Request>, announcements: &Announcements) -> bool {
    let mut counts: Vec<usize> = batch.iter().map(|request| request.events.len()).collect();
    let mut events: Vec<NewEvent> =
        batch.iter_mut().flat_map(|request| std::mem::take(&mut request.events)).collect();
    metrics::counter!("carillon_appends_total").increment(1);
    metrics::histogram!("carillon_append_events").record(events.len() as f64);
    let mut outcome = log.append(&events).await;
    if let Err(StoreError::KeyReused(places)) = &outcome {
        // Others must not fail for it: they are appended without those requests.
        (batch, counts, events) = without(places, batch, counts, events);
        if batch.is_empty() {
            return false;
        }
        outcome = log.append(&events).await;
    }
    let appended = match outcome {
        Ok(appended) => appended,
        Err(error) => {
            metrics::counter!("carillon_append_failures_total").increment(1);
            for request in batch {
                // A publisher that has gone away needs no answer.
                let _ = request.reply.send(Err(error.clone().into()));
            }
            return false;
        }
    };
    failpoint::die("committed");
    let committed = Instant::now();
    let previous = Checkpoint { position: appended.previous, id: appended.previous_id };
    let (epoch, new) = (appended.epoch.clone(), committed_events(&appended, events));
    let mut outcomes = appended.events.into_iter();
    for (request, count) in batch.into_iter().zip(counts) {
        let took = committed.saturating_duration_since(request.received);
        metrics::histogram!("carillon_received_to_committed_seconds").record(took.as_secs_f64());
        let _ = request.reply.send(Ok(outcomes.by_ref().take(count).map(Published::from).collect()));
    }
    metrics::counter!("carillon_published_total").increment(new.len() as u64);
    log.published.fetch_add(new.len() as u64, Ordering::Relaxed);
    if !new.is_empty() {
        announcements.offer(epoch, previous, new, committed);
    }
    true
}

/// Answers the requests whose first events have these places, and gives the others: how many events each has, and those.
fn without(
    places: &[usize],
    batch: Vec<Request>,
    counts: Vec<usize>,
    events: Vec<NewEvent>,
) -> (Vec<Request>, Vec<usize>, Vec<NewEvent>) {
    let (mut requests, mut left, mut others) = (Vec::new(), Vec::new(), Vec::with_capacity(events.len()));
    let (mut events, mut place) = (events.into_iter(), 0);
    for (request, count) in batch.into_iter().zip(counts) {
        let its_events = events.by_ref().take(count);
        if places.contains(&place) {
            its_events.for_each(drop);
            let _ = request.reply.send(Err(PublishError::KeyReused));
        } else {
            others.extend(its_events);
            requests.push(request);
            left.push(count);
        }
        place += count;
    }
    (requests, left, others)
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
