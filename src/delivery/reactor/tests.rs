//! A reactor's table with a hub, a log in memory and sockets that take what a test allows.

mod digests;
mod routing;
mod size;
mod streams;
mod writing;

use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream as StdStream};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use super::table::NewSession;
use super::*;
use crate::account::Credential;
use crate::delivery::backlog::ReadLimits;
use crate::delivery::frame::Delivery;
use crate::delivery::hub::{HubLimits, Refused, SessionKey, inbox};
use crate::delivery::request::{Subscription, Wish};
use crate::delivery::session::Fence;
use crate::delivery::taken::{Framing, Taken};
use crate::event::{Audience, Event, Expiry, NewEvent, Position, Priority, Selector, Topic, UserId};
use crate::store::{Reader, Store, StoreLimits};
use tokio::sync::Semaphore;
use uuid::Uuid;

/// How long anything may take that should take a moment.
const DEADLINE: Duration = Duration::from_secs(30);

/// A socket that takes what it is allowed to.
#[derive(Clone)]
struct TestWire(Arc<Mutex<WireState>>);

struct WireState {
    written: Vec<u8>,
    /// How many bytes it still takes.
    room: usize,
    /// How many more times it takes something.
    writes: usize,
    is_broken: bool,
    is_open: bool,
    /// What its client sends.
    sent: Vec<u8>,
    is_half_closed: bool,
}

impl TestWire {
    fn new() -> Self {
        Self(Arc::new(Mutex::new(WireState {
            written: Vec::new(),
            room: usize::MAX,
            writes: usize::MAX,
            is_broken: false,
            is_open: true,
            sent: Vec::new(),
            is_half_closed: false,
        })))
    }

    fn state(&self) -> MutexGuard<'_, WireState> {
        self.0.lock().unwrap()
    }
}

/// What a table has of it: dropped, it is closed.
struct TableEnd(TestWire);

impl Drop for TableEnd {
    fn drop(&mut self) {
        self.0.state().is_open = false;
    }
}

impl Write for TableEnd {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut state = self.0.state();
        if state.is_broken {
            return Err(ErrorKind::ConnectionReset.into());
        }
        let taken = bytes.len().min(state.room);
        if taken == 0 || state.writes == 0 {
            return Err(ErrorKind::WouldBlock.into());
        }
        state.room -= taken;
        state.writes -= 1;
        state.written.extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    fn write_vectored(&mut self, slices: &[io::IoSlice<'_>]) -> io::Result<usize> {
        let joined: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
        self.write(&joined)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Read for TableEnd {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let mut state = self.0.state();
        if state.sent.is_empty() {
            return if state.is_half_closed { Ok(0) } else { Err(ErrorKind::WouldBlock.into()) };
        }
        let count = into.len().min(state.sent.len());
        into[..count].copy_from_slice(&state.sent[..count]);
        state.sent.drain(..count);
        Ok(count)
    }
}

/// A log in memory, and the one reactor of a node that has applied all of it.
struct World {
    store: Store,
    hub: Arc<Hub>,
    clock: Arc<Clock>,
    reads: Arc<Reads>,
    inbox: Arc<Inbox>,
    _poll: Poll,
    table: Table<TableEnd>,
    tick: Tick,
    framing: Framing,
    /// The last read that was wanted, and how many there were.
    reads_wanted: Vec<crate::delivery::backlog::Want>,
}

/// Bounds of a world.
#[derive(Default, Clone)]
struct Limits {
    hub: HubLimits,
    session: SessionLimits,
    reads: ReadLimits,
}

impl World {
    async fn new(limits: Limits) -> Self {
        let store = Store::open("sqlite::memory:", &StoreLimits::default()).await.unwrap();
        store.migrate().await.unwrap();
        let state = store.log_state().await.unwrap();
        let (poll, inbox) = inbox().unwrap();
        let hub = Arc::new(Hub::new(&limits.hub, vec![inbox.clone()], |_| {}));
        hub.lock().begin(&state.epoch, state.floor, state.head);
        let clock = Arc::new(Clock::default());
        clock.set(state.now);
        let reads = Arc::new(Reads::new(store.clone(), limits.reads));
        let session = SessionLimits { page: reads.page(), ..limits.session };
        let table = Table::new(hub.clone(), clock.clone(), session, Arc::default());
        let reads_wanted = Vec::new();
        let framing = Framing::UntilClose;
        Self { store, hub, clock, reads, inbox, _poll: poll, table, tick: 0, framing, reads_wanted }
    }

    /// Appends an event; this node does not know of it yet.
    async fn append_to(&self, audience: Audience, data: &str, priority: Priority, expiry: Expiry) -> Event {
        let new = NewEvent {
            id: Uuid::now_v7(),
            event_type: "test".parse().unwrap(),
            priority,
            audience,
            data: format!("\"{data}\""),
            expiry,
            keep_after_read: None,
            publisher: 1,
            idempotency: None,
            request: None,
        };
        let position = self.store.append(&[new]).await.unwrap().events[0].position;
        self.store.event_at(position).await.unwrap().unwrap()
    }

    async fn append(&self, data: &str, expiry: Expiry) -> Event {
        self.append_to(Audience::Everyone, data, Priority::Normal, expiry).await
    }

    /// The node learns of it.
    async fn apply(&mut self, event: &Event) {
        let epoch = self.store.log_state().await.unwrap().epoch;
        let delivery = Arc::new(Delivery::new(&epoch, event.clone()).with_digest(self.hub.has_digests()));
        let here = delivery.checkpoint();
        let here = if self.hub.has_digests() { here } else { here.position.into() };
        let routes = vec![(event.position, event.audience.clone())];
        self.hub.lock().apply(vec![delivery], Some(routes), here);
        self.turn();
    }

    async fn publish(&mut self, data: &str) -> Event {
        self.publish_as(data, Priority::Normal).await
    }

    async fn publish_as(&mut self, data: &str, priority: Priority) -> Event {
        let event = self.append_to(Audience::Everyone, data, priority, Expiry::Never).await;
        self.apply(&event).await;
        event
    }

    /// Publishes on a topic.
    async fn say(&mut self, topic: &str, data: &str) -> Event {
        let audience = Audience::topic(topic.parse().unwrap());
        let event = self.append_to(audience, data, Priority::Normal, Expiry::Never).await;
        self.apply(&event).await;
        event
    }

    fn start(&mut self, subscription: Subscription, wish: Wish) -> Result<Stream, Refused> {
        let wire = TestWire::new();
        self.start_on(subscription, wish, wire)
    }

    fn start_on(
        &mut self,
        subscription: Subscription,
        wish: Wish,
        wire: TestWire,
    ) -> Result<Stream, Refused> {
        // What came before is not for it.
        self.turn();
        let registration = self.hub.admit(&subscription)?;
        self.hub.start(subscription, wish, registration, taken());
        let mut stream = Stream { wire: wire.clone(), read: 0, place: 0, id: 0 };
        for message in self.inbox.take() {
            match message {
                Message::Start(start) => {
                    let Start { id, subscription, wish, fence, registration, .. } = *start;
                    let connection = Connection::new(TableEnd(wire.clone()), self.framing, None);
                    let head = "".into();
                    let new = NewSession { id, subscription, wish, fence, registration, connection, head };
                    (stream.place, stream.id) = (self.table.start(new), id);
                }
                other => self.table.handle(other),
            }
        }
        self.turn();
        Ok(stream)
    }

    /// A stream of alice that goes on from these positions.
    async fn open(&mut self, positions: Option<&str>) -> Stream {
        let epoch = self.store.log_state().await.unwrap().epoch;
        let resume = positions.map(|positions| format!("{epoch}-{positions}").parse());
        self.start(subscription(1, &[]), Wish { resume, ..Wish::default() }).unwrap()
    }

    /// Everything that can be done now.
    fn turn(&mut self) {
        self.table.set_time(self.tick);
        for message in self.inbox.take() {
            self.table.handle(message);
        }
        self.table.sweep();
        loop {
            self.table.flush();
            for job in self.table.take_jobs() {
                self.reads_wanted.push(job.want.clone());
                let (hub, reads, session) = (self.hub.clone(), self.reads.clone(), job.session);
                let reading = tokio::spawn(async move {
                    let answer = reads.read(&job.reader, job.want).await;
                    hub.found(0, session, answer);
                });
                self.table.set_reading(session, AbortOnDropHandle::new(reading));
            }
            if !self.table.is_busy() {
                return;
            }
        }
    }

    /// Time passes.
    fn pass(&mut self, span: Duration) {
        self.tick += u32::try_from(span.as_millis() / TICK.as_millis()).unwrap();
        self.turn();
    }

    /// What a stream has not read yet, once it contains `last`.
    async fn until(&mut self, stream: &mut Stream, last: &str) -> String {
        let begun = Instant::now();
        let mut all = String::new();
        loop {
            all += &stream.read();
            if all.contains(last) {
                return all;
            }
            assert!(begun.elapsed() < DEADLINE, "{last} does not come: {all}");
            self.table.is_writable(stream.place);
            self.turn();
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// The next write of a stream that takes one at a time.
    async fn next_write(&mut self, stream: &mut Stream) -> String {
        stream.wire.state().writes = 1;
        let begun = Instant::now();
        loop {
            let text = stream.read();
            if !text.is_empty() {
                stream.wire.state().writes = 0;
                return text;
            }
            assert!(begun.elapsed() < DEADLINE, "nothing comes");
            self.table.is_writable(stream.place);
            self.turn();
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

/// A stream, as its client sees it.
struct Stream {
    wire: TestWire,
    read: usize,
    place: u32,
    id: u64,
}

impl Stream {
    /// What has come since this was last asked.
    fn read(&mut self) -> String {
        let state = self.wire.state();
        let text = String::from_utf8(state.written[self.read..].to_vec()).unwrap();
        self.read = state.written.len();
        text
    }

    fn is_open(&self) -> bool {
        self.wire.state().is_open
    }
}

fn subscription(user: UserId, topics: &[&str]) -> Subscription {
    let topics = topics.iter().map(|topic| topic.parse::<Topic>().unwrap()).collect();
    Subscription {
        connection: Uuid::now_v7(),
        reader: Arc::new(Reader { user, selector: Selector::of_user(user, topics) }),
        name: format!("user {user}").into(),
        wants_presence: false,
        keep_alive_every: None,
        credential: Credential::Token(user),
        origin: None,
    }
}

/// A connection, of which nothing is used.
fn taken() -> Taken {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let socket = StdStream::connect(listener.local_addr().unwrap()).unwrap();
    let slot = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
    Taken { socket, head: "".into(), framing: Framing::Chunked, slot }
}

/// The publishers' data in what a stream brought, in that order.
fn data_of(text: &str) -> Vec<&str> {
    let data = text
        .split('\n')
        .filter(|line| line.starts_with("data:"))
        .filter_map(|line| line.split_once("\"data\":\""));
    data.map(|(_, rest)| rest.split('"').next().unwrap()).collect()
}
