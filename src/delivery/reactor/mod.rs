//! Reactors: threads that own the sockets of streams. Each has one poll, a table of sessions that it alone touches, and an
//! inbox by which it is told what is for them. No event waits for a lock, a task or a buffer of a listener.

mod connection;
mod draining;
mod index;
mod table;
mod wheel;

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::backlog::Reads;
use super::hub::{Hub, Inbox, Message, Start, WAKER};
use super::session::{SessionLimits, TICK, Tick};
use crate::store::clock::Clock;
use connection::Connection;
use table::{Job, NewSession, Table};

/// How many events of its poll a reactor takes at once.
const EVENTS: usize = 1_024;
/// How often a reactor looks after streams that it closes one after the other.
const DRAIN_EVERY: Duration = Duration::from_millis(10);
/// The pause before a read that failed is tried again.
const RETRY_READ: Duration = Duration::from_millis(500);
/// How often a reactor says at most how much waits for its sockets.
const REPORT_EVERY: Duration = Duration::from_secs(1);

/// What all reactors of a node share.
#[derive(Clone)]
pub struct Shared {
    /// Who tells them.
    pub hub: Arc<Hub>,
    /// The database's time.
    pub clock: Arc<Clock>,
    /// Of sessions.
    pub limits: SessionLimits,
    /// What streams missed.
    pub reads: Arc<Reads>,
    /// How many events were handed to connections.
    pub delivered: Arc<AtomicU64>,
}

/// Starts a reactor for each of these, in threads of their own. Reads run on the runtime of the caller. Resolves when one
/// of them has ended, which should not be before [`Hub::stop`].
pub fn start(
    shared: &Shared,
    polls: Vec<(Poll, Arc<Inbox>)>,
) -> io::Result<impl Future<Output = ()> + use<>> {
    // Closed by whichever thread ends, also by a panic.
    let (running, mut ended) = mpsc::channel::<()>(1);
    metrics::gauge!("carillon_reactors").set(polls.len() as f64);
    for (number, (poll, inbox)) in polls.into_iter().enumerate() {
        let Shared { hub, clock, limits, delivered, .. } = shared.clone();
        let reactor = Reactor {
            number,
            poll,
            inbox,
            table: Table::new(hub, clock, limits, delivered),
            shared: shared.clone(),
            runtime: Handle::current(),
            begun: Instant::now(),
            reported: Instant::now(),
        };
        let running = Running(running.clone());
        std::thread::Builder::new().name(format!("reactor-{number}")).spawn(move || {
            let _running = running;
            reactor.run();
        })?;
    }
    Ok(async move {
        ended.recv().await;
    })
}

/// Says when its thread ends.
struct Running(mpsc::Sender<()>);

impl Drop for Running {
    fn drop(&mut self) {
        // If nobody takes it, another one has ended before.
        let _ = self.0.try_send(());
    }
}

struct Reactor {
    number: usize,
    poll: Poll,
    inbox: Arc<Inbox>,
    table: Table<TcpStream>,
    shared: Shared,
    runtime: Handle,
    begun: Instant,
    reported: Instant,
}

impl Reactor {
    fn run(mut self) {
        let mut events = Events::with_capacity(EVENTS);
        loop {
            if let Err(error) = self.poll.poll(&mut events, self.pause())
                && error.kind() != io::ErrorKind::Interrupted
            {
                return tracing::error!(%error, "a reactor cannot poll its sockets");
            }
            self.table.set_time(self.tick());
            for event in events.iter().filter(|event| event.token() != WAKER) {
                let place = u32::try_from(event.token().0).unwrap_or(u32::MAX);
                if event.is_writable() {
                    self.table.is_writable(place);
                }
                if event.is_readable() || event.is_read_closed() || event.is_error() {
                    self.table.is_readable(place);
                }
            }
            for message in self.inbox.take() {
                match message {
                    Message::Start(start) => self.start(*start),
                    Message::Stop => {
                        self.inbox.close();
                        return;
                    }
                    message => self.table.handle(message),
                }
            }
            self.table.sweep();
            self.table.flush();
            for job in self.table.take_jobs() {
                self.read(job);
            }
            self.report();
        }
    }

    /// How long there is nothing to do unless something comes.
    fn pause(&self) -> Option<Duration> {
        if self.table.is_busy() {
            return Some(Duration::ZERO);
        }
        if self.table.is_draining() {
            return Some(DRAIN_EVERY);
        }
        let next = self.table.next_tick()?;
        Some((TICK * next).saturating_sub(self.begun.elapsed()))
    }

    fn tick(&self) -> Tick {
        let ticks = self.begun.elapsed().as_millis() / TICK.as_millis();
        Tick::try_from(ticks).unwrap_or(Tick::MAX)
    }

    fn start(&mut self, start: Start) {
        let Start { id, subscription, wish, fence, registration, taken } = start;
        let wire = TcpStream::from_std(taken.socket);
        let connection = Connection::new(wire, taken.framing, Some(taken.slot));
        let new = NewSession { id, subscription, wish, fence, registration, connection, head: taken.head };
        let place = self.table.start(new);
        let Some(wire) = self.table.wire_mut(place) else { return };
        let interest = Interest::READABLE | Interest::WRITABLE;
        if let Err(error) = self.poll.registry().register(wire, Token(place as usize), interest) {
            tracing::warn!(%error, "a stream's socket cannot be polled");
            self.table.remove(place);
        }
    }

    fn read(&mut self, job: Job) {
        let Job { session, reader, want, has_failed } = job;
        let (hub, reads, number) = (self.shared.hub.clone(), self.shared.reads.clone(), self.number);
        let reading = self.runtime.spawn(async move {
            if has_failed {
                tokio::time::sleep(RETRY_READ).await;
            }
            let answer = reads.read(&reader, want).await;
            hub.found(number, session, answer);
        });
        self.table.set_reading(session, AbortOnDropHandle::new(reading));
    }

    fn report(&mut self) {
        if self.reported.elapsed() >= REPORT_EVERY {
            self.reported = Instant::now();
            let reactor = self.number.to_string();
            metrics::gauge!("carillon_reactor_sessions", "reactor" => reactor.clone())
                .set(self.table.len() as f64);
            metrics::gauge!("carillon_reactor_unsent_bytes", "reactor" => reactor)
                .set(self.table.unsent() as f64);
        }
    }
}

/// How long it took from applying events until the sockets had them, or what they took of them.
fn stage_written(took: Duration) {
    metrics::histogram!("carillon_applied_to_written_seconds").record(took.as_secs_f64());
}

#[cfg(test)]
mod tests;
