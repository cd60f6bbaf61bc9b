//! Very many sessions without sockets: that each gets what is for it and leaves nothing, and what a million cost.

use std::sync::atomic::Ordering;

use super::*;
use crate::delivery::request::Origin;
use crate::delivery::session::Session;
use crate::event::Epoch;

/// As in the program.
#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// The topic of some of them.
const BUSY: &str = "busy";

/// A socket that takes everything. It has no memory, so that only sessions count.
struct Sink;

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn write_vectored(&mut self, slices: &[io::IoSlice<'_>]) -> io::Result<usize> {
        Ok(slices.iter().map(|slice| slice.len()).sum())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Read for Sink {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(ErrorKind::WouldBlock.into())
    }
}

/// Sessions of as many users, on one reactor.
struct Crowd {
    hub: Arc<Hub>,
    inbox: Arc<Inbox>,
    _poll: Poll,
    table: Table<Sink>,
    epoch: Epoch,
    delivered: Arc<AtomicU64>,
    position: Position,
}

impl Crowd {
    fn gather(count: usize, subscription_of: impl Fn(UserId) -> Subscription) -> Self {
        let (poll, inbox) = inbox().unwrap();
        let hub = Arc::new(Hub::new(&HubLimits::default(), vec![inbox.clone()], |_| {}));
        let epoch: Epoch = "e".parse().unwrap();
        hub.lock().begin(&epoch, 0, 0);
        let delivered = Arc::new(AtomicU64::new(0));
        let table = Table::new(hub.clone(), Arc::default(), SessionLimits::default(), delivered.clone());
        let mut crowd = Self { hub, inbox, _poll: poll, table, epoch, delivered, position: 0 };
        crowd.turn();
        for user in 1..=count as u64 {
            let subscription = subscription_of(user as UserId);
            let registration = crowd.hub.admit(&subscription).unwrap();
            let at = Default::default();
            let fence = Fence { epoch: crowd.epoch.clone(), floor: 0, at, missed_nothing: true };
            let connection = Connection::new(Sink, Framing::Chunked, None);
            let (id, wish, head) = (user, Wish::default(), "".into());
            crowd.table.start(NewSession { id, subscription, wish, fence, registration, connection, head });
            if user % 1_024 == 0 {
                crowd.turn();
            }
        }
        // All are due at the first tick, by which each learns when it is due next.
        crowd.table.set_time(1);
        crowd.turn();
        crowd
    }

    fn turn(&mut self) {
        for message in self.inbox.take() {
            self.table.handle(message);
        }
        self.table.sweep();
        while self.table.is_busy() {
            self.table.flush();
        }
    }

    /// Hands an event on, from the hub to the sockets; to how many.
    fn route(&mut self, audience: Audience) -> u64 {
        self.position += 1;
        let event = Event {
            position: self.position,
            id: Uuid::now_v7(),
            event_type: "a".parse().unwrap(),
            priority: Priority::Normal,
            audience: audience.clone(),
            data: format!("\"{}\"", "x".repeat(200)),
            created_at: 0,
            expires_at: None,
            keep_after_read: None,
            publisher: 1,
        };
        let before = self.delivered.load(Ordering::Relaxed);
        let delivery = Arc::new(Delivery::new(&self.epoch, event));
        let routes = vec![(self.position, audience)];
        self.hub.lock().apply(vec![delivery], Some(routes), self.position);
        self.turn();
        self.delivered.load(Ordering::Relaxed) - before
    }

    /// Says how long an event takes to all whom it is for.
    fn measure(&mut self, whom: &str, times: u64, each: usize, to: impl Fn(u64) -> Audience) {
        let begun = Instant::now();
        let deliveries: u64 = (0..times).map(|number| self.route(to(number))).sum();
        let took = begun.elapsed().as_secs_f64() * 1e6;
        assert_eq!(deliveries, times * each as u64, "{whom}");
        let (event, delivery) = (took / times as f64, took / deliveries as f64);
        println!("an event {whom}: {event:.1} µs; a delivery {delivery:.3} µs");
    }

    fn leave(&mut self) {
        self.table.handle(Message::Cut);
        assert_eq!((self.table.len(), self.hub.len()), (0, 0));
    }
}

/// The first so many are on the busy topic.
fn of_a_user(on_topic: usize) -> impl Fn(UserId) -> Subscription {
    move |user| subscription(user, if user as usize <= on_topic { &[BUSY] } else { &[] })
}

/// With all that a stream may have that says where it comes from, and a topic that few others are on.
fn of_a_browser() -> impl Fn(UserId) -> Subscription {
    let agent = |version: usize| {
        let text =
            format!("Mozilla/5.0 (X11; Linux x86_64; rv:{version}.0) Gecko/20100101 Firefox/{version}.0");
        Arc::<str>::from(text)
    };
    let agents: Vec<_> = (100..150).map(agent).collect();
    move |user| {
        let user_agent = Some(agents[user as usize % agents.len()].clone());
        let origin = Origin { address: [10, 0, 0, 1].into(), user_agent, since: 0 };
        Subscription { origin: Some(origin), ..subscription(user, &[&format!("chat/{}", user / 10)]) }
    }
}

#[test]
fn a_crowd_gets_what_is_for_it_and_leaves_nothing() {
    let mut crowd = Crowd::gather(3_000, of_a_user(500));
    assert_eq!(crowd.route(Audience::Everyone), 3_000);
    assert_eq!(crowd.route(Audience::topic(BUSY.parse().unwrap())), 500);
    assert_eq!(crowd.route(Audience::users(vec![2_999])), 1);
    crowd.leave();
    let left = crowd.hub.lock().interests().unwrap();
    assert!(left.users.is_empty() && left.topics.is_empty(), "{left:?}");
    assert_eq!(crowd.route(Audience::Everyone), 0);
}

#[test]
#[ignore = "a measurement"]
fn a_million_sessions() {
    const SESSIONS: usize = 1_000_000;
    const ON_TOPIC: usize = 50_000;
    let before = memory();
    let mut crowd = Crowd::gather(SESSIONS, of_a_user(ON_TOPIC));
    println!("a session of a user of its own: {} bytes", (memory() - before) / SESSIONS);
    let (session, subscription) = (size_of::<Session>(), size_of::<Subscription>());
    println!("of it the state of the session {session}, what it is subscribed to {subscription}");
    crowd.measure("to all", 5, SESSIONS, |_| Audience::Everyone);
    // Far apart from each other, so that no cache knows the next.
    let user = |number: u64| (number * 7_919 % SESSIONS as u64 + 1) as UserId;
    crowd.measure("to one user", 100_000, 1, |number| Audience::users(vec![user(number)]));
    crowd.measure("to a topic of 50,000", 50, ON_TOPIC, |_| Audience::topic(BUSY.parse().unwrap()));
    let begun = Instant::now();
    crowd.leave();
    println!("all of them leave: {:.0} ms", begun.elapsed().as_secs_f64() * 1e3);
}

#[test]
#[ignore = "a measurement"]
fn a_million_sessions_of_browsers() {
    const SESSIONS: usize = 1_000_000;
    let before = memory();
    let mut crowd = Crowd::gather(SESSIONS, of_a_browser());
    println!(
        "a session with address, user agent and one topic of ten listeners: {} bytes",
        (memory() - before) / SESSIONS
    );
    let begun = Instant::now();
    crowd.leave();
    println!("all of them leave: {:.0} ms", begun.elapsed().as_secs_f64() * 1e3);
}

/// The resident memory of this process, in bytes.
fn memory() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<usize>().unwrap() * 1_024
}
