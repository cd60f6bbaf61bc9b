//! Which requests become one append. An idle writer takes what is there at once; one that has just appended waits for
//! company, since an append costs much and an event in it little.

use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio::time::sleep_until;

use super::{PublishError, PublishLimits, Published};
use crate::event::NewEvent;

/// Events that are to be appended together, and who waits for them.
pub(super) struct Request {
    pub events: Vec<NewEvent>,
    pub reply: oneshot::Sender<Result<Vec<Published>, PublishError>>,
    /// When the node began with it.
    pub received: Instant,
    /// Its share of what may wait.
    pub _budget: OwnedSemaphorePermit,
}

impl Request {
    fn size(&self) -> Size {
        let recipients = self.events.iter().map(|event| event.audience.targets()).sum();
        Size { events: self.events.len(), recipients }
    }
}

/// What an append costs, by which it is bounded.
#[derive(Clone, Copy, Default)]
struct Size {
    events: usize,
    recipients: usize,
}

impl Size {
    fn with(self, other: Self) -> Self {
        Self { events: self.events + other.events, recipients: self.recipients + other.recipients }
    }
}

/// The requests of a node, as the writer takes them.
pub(super) struct Gatherer {
    inbox: mpsc::Receiver<Request>,
    /// Did not fit into the append before.
    held: Option<Request>,
    limits: PublishLimits,
    pace: Pace,
}

/// How many requests are company enough. What an event costs hardly falls any more beyond that, and with many publishers
/// who await their answers the next ones come while these are written.
const ENOUGH: usize = 8;
/// How many requests a wait must bring on average: one publisher that awaits each answer would only be held up.
const WORTH_WAITING: f64 = 0.5;
/// After how many appends without a wait it is tried again whether one brings anybody.
const TRY_AGAIN_AFTER: u32 = 16;

/// What is being gathered.
#[derive(Default)]
struct Batch {
    requests: Vec<Request>,
    size: Size,
    /// The next request did not fit.
    is_full: bool,
}

impl Gatherer {
    pub(super) fn new(inbox: mpsc::Receiver<Request>, limits: PublishLimits) -> Self {
        Self { inbox, held: None, pace: Pace::new(limits.append_wait), limits }
    }

    /// What is to be appended next, at least one request; `None` once there are no publishers.
    pub(super) async fn next(&mut self) -> Option<Vec<Request>> {
        let first = match self.held.take() {
            Some(request) => request,
            None => self.inbox.recv().await?,
        };
        let mut batch = Batch::default();
        self.add(&mut batch, first);
        self.add_waiting(&mut batch);
        if let Some(until) = self.pace.waits_until(Instant::now()) {
            let before = batch.requests.len();
            self.wait_for_company(&mut batch, until).await;
            self.pace.waited(batch.requests.len() - before);
        }
        Some(batch.requests)
    }

    /// An append took so long.
    pub(super) fn appended(&mut self, took: Duration) {
        self.pace.appended(took, Instant::now());
    }

    async fn wait_for_company(&mut self, batch: &mut Batch, until: Instant) {
        let end = sleep_until(until.into());
        tokio::pin!(end);
        while !batch.is_full && batch.requests.len() < ENOUGH {
            tokio::select! {
                () = &mut end => return,
                next = self.inbox.recv() => match next {
                    Some(next) => self.add(batch, next),
                    None => return,
                },
            }
            self.add_waiting(batch);
        }
    }

    fn add_waiting(&mut self, batch: &mut Batch) {
        while !batch.is_full {
            let Ok(next) = self.inbox.try_recv() else { return };
            self.add(batch, next);
        }
    }

    /// Adds a request, or holds it back for the next append; the first always fits.
    fn add(&mut self, batch: &mut Batch, request: Request) {
        let both = batch.size.with(request.size());
        let is_over = both.events > self.limits.append || both.recipients > self.limits.recipients;
        if is_over && !batch.requests.is_empty() {
            (self.held, batch.is_full) = (Some(request), true);
            return;
        }
        batch.size = both;
        batch.is_full = both.events >= self.limits.append || both.recipients >= self.limits.recipients;
        batch.requests.push(request);
    }
}

/// How long a request waits for others. Pure: time is passed in. (The runtime's timer counts whole milliseconds: a wait may end
/// that much later.)
struct Pace {
    /// The longest wait; zero: there is none.
    longest: Duration,
    /// How long an append takes, as a moving average, of each no more than `longest`.
    typical: Duration,
    /// When the last one ended.
    ended: Option<Instant>,
    /// How many requests a wait brought, as a moving average.
    company: f64,
    /// How many appends could have waited and did not, since the last that did.
    without_wait: u32,
}

impl Pace {
    fn new(longest: Duration) -> Self {
        Self { longest, typical: Duration::ZERO, ended: None, company: 1.0, without_wait: 0 }
    }

    fn appended(&mut self, took: Duration, now: Instant) {
        let took = took.min(self.longest);
        self.typical = if self.ended.is_some() { (self.typical * 7 + took) / 8 } else { took };
        self.ended = Some(now);
    }

    /// A wait has ended, and brought so many requests.
    fn waited(&mut self, came: usize) {
        self.company = (self.company * 3.0 + came as f64) / 4.0;
    }

    /// Until when a request that is there at `now` waits; `None` if it need not: the last append was long ago, or waiting
    /// brings nobody.
    fn waits_until(&mut self, now: Instant) -> Option<Instant> {
        let until = self.ended.map(|ended| ended + self.typical).filter(|until| *until > now)?;
        if self.company < WORTH_WAITING && self.without_wait < TRY_AGAIN_AFTER {
            self.without_wait += 1;
            return None;
        }
        self.without_wait = 0;
        Some(until)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::Semaphore;
    use uuid::Uuid;

    use super::*;
    use crate::event::{Audience, Expiry, Priority};

    const MS: Duration = Duration::from_millis(1);

    fn request(events: usize) -> Request {
        let event = NewEvent {
            id: Uuid::now_v7(),
            event_type: "test".parse().unwrap(),
            priority: Priority::Normal,
            audience: Audience::Everyone,
            data: "1".into(),
            expiry: Expiry::Never,
            keep_after_read: None,
            publisher: 1,
            idempotency: None,
            request: None,
        };
        let budget = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
        Request {
            events: vec![event; events],
            reply: oneshot::channel().0,
            received: Instant::now(),
            _budget: budget,
        }
    }

    fn sizes(requests: Option<Vec<Request>>) -> Vec<usize> {
        requests.unwrap().iter().map(|request| request.events.len()).collect()
    }

    /// A gatherer after an append, after which it waits for an hour.
    fn patient(inbox: mpsc::Receiver<Request>) -> Gatherer {
        let hour = Duration::from_secs(3_600);
        let limits = PublishLimits { append: 10, append_wait: hour, ..PublishLimits::default() };
        let mut gatherer = Gatherer::new(inbox, limits);
        gatherer.appended(hour);
        gatherer
    }

    #[test]
    fn a_request_waits_after_an_append_for_about_as_long_as_that_took() {
        let begun = Instant::now();
        let mut pace = Pace::new(5 * MS);
        assert_eq!(pace.waits_until(begun), None, "nothing was appended yet");
        pace.appended(2 * MS, begun);
        assert_eq!(pace.waits_until(begun + MS), Some(begun + 2 * MS));
        assert_eq!(pace.waits_until(begun + 2 * MS), None, "the writer was idle");
        for _ in 0..100 {
            pace.appended(100 * MS, begun);
        }
        let until = pace.waits_until(begun).unwrap();
        assert!(until > begun + 4 * MS && until <= begun + 5 * MS, "no longer than the bound");
        for _ in 0..30 {
            pace.appended(MS, begun);
        }
        assert!(pace.waits_until(begun).unwrap() < begun + 2 * MS, "it follows what appends take");
        let mut off = Pace::new(Duration::ZERO);
        off.appended(2 * MS, begun);
        assert_eq!(off.waits_until(begun), None);
    }

    #[test]
    fn who_publishes_alone_is_not_held_up() {
        let (mut pace, begun) = (Pace::new(MS), Instant::now());
        pace.appended(MS, begun);
        let mut waits = Vec::new();
        for _ in 0..100 {
            let is_waiting = pace.waits_until(begun).is_some();
            waits.push(is_waiting);
            if is_waiting {
                pace.waited(0);
            }
        }
        assert_eq!(waits[..4], [true, true, true, false]);
        assert_eq!(
            waits[4..].iter().filter(|is_waiting| **is_waiting).count(),
            5,
            "now and then it is tried"
        );
        while pace.waits_until(begun).is_none() {}
        pace.waited(3);
        assert!(pace.waits_until(begun).is_some(), "somebody came");
    }

    #[tokio::test]
    async fn an_idle_writer_takes_what_is_there_at_once() {
        let (requests, inbox) = mpsc::channel(10);
        let mut gatherer = Gatherer::new(inbox, PublishLimits::default());
        for events in 1..3 {
            requests.try_send(request(events)).ok().unwrap();
        }
        assert_eq!(sizes(gatherer.next().await), [1, 2]);
    }

    #[tokio::test]
    async fn the_wait_ends_when_there_is_company_enough() {
        let (requests, inbox) = mpsc::channel(100);
        let mut gatherer = patient(inbox);
        gatherer.limits.append = 100;
        requests.try_send(request(1)).ok().unwrap();
        let next = tokio::spawn(async move { sizes(gatherer.next().await) });
        for _ in 1..ENOUGH {
            tokio::task::yield_now().await;
            assert!(!next.is_finished(), "it did not wait for company");
            requests.send(request(1)).await.ok().unwrap();
        }
        assert_eq!(next.await.unwrap().len(), ENOUGH);
    }

    #[tokio::test]
    async fn the_wait_ends_when_the_append_is_full_and_the_rest_comes_next() {
        let (requests, inbox) = mpsc::channel(10);
        let mut gatherer = patient(inbox);
        for events in [4, 4, 4] {
            requests.try_send(request(events)).ok().unwrap();
        }
        assert_eq!(sizes(gatherer.next().await), [4, 4]);
        requests.try_send(request(6)).ok().unwrap();
        assert_eq!(sizes(gatherer.next().await), [4, 6]);
        requests.try_send(request(50)).ok().unwrap();
        assert_eq!(sizes(gatherer.next().await), [50], "a larger request goes whole");
        drop(requests);
        assert!(gatherer.next().await.is_none());
    }
}
