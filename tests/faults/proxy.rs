//! A TCP proxy in front of one server of any kind, which breaks the network between it and its clients on request.

mod pump;

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;
use url::Url;

use self::pump::{Pump, Swallow};
use super::resp::{PushCounts, PushFault};
use super::support::DEADLINE;

/// How long what a peer still sends is taken after its connection was closed: closing with bytes unread would send
/// RST in place of FIN.
const LINGER: Duration = Duration::from_secs(1);

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the client to the server.
    ToServer,
    /// From the server to the client.
    ToClient,
    /// Either.
    Both,
}

impl Direction {
    fn covers(self, one: Self) -> bool {
        self == Self::Both || self == one
    }
}

/// How both peers of a connection learn that it was cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// FIN, after all that was forwarded: the peer reads every byte of it, and then the end.
    Close,
    /// RST, which overtakes: the peer may read less than was forwarded, and then an error.
    Reset,
}

/// How often a fault that waits for its moment happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Times {
    /// To the first connection it fits.
    Once,
    /// To every connection it fits.
    Always,
}

/// When a connection is cut that has forwarded what was waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// At once: the rest of a message may not have been forwarded.
    AtOnce,
    /// When the other peer next sends something, of which nothing is forwarded: it has acted, and nobody knows.
    Answered,
}

/// What has happened so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Connections taken from clients.
    pub connections: u64,
    /// Of them, those closed at once because of [`Faults::refuse`].
    pub refused: u64,
    /// Of them, those closed because the server took no connection.
    pub unreachable: u64,
    /// Of them, those that are open.
    pub open: u64,
    /// Of them, those that a fault cut.
    pub cut: u64,
    /// Of them, those closed because the server did not speak Redis' protocol.
    pub malformed: u64,
    /// Bytes forwarded to the server.
    pub bytes_to_server: u64,
    /// Bytes forwarded to clients.
    pub bytes_to_client: u64,
    /// Messages pushed by Redis.
    pub pushes: PushCounts,
}

/// The proxy. Dropped, it closes everything.
pub struct Proxy {
    /// What can be done to its connections.
    pub faults: Faults,
    address: SocketAddr,
    _task: AbortOnDropHandle<()>,
}

impl Proxy {
    /// Starts one in front of the server named by a URL of any scheme with host and port. With `redis:`, messages
    /// pushed to subscribers can be dropped, repeated and reordered.
    pub async fn start(server: &str) -> Self {
        let url = Url::parse(server).unwrap();
        let host = (url.host_str().expect("a host"), url.port_or_known_default().expect("a port"));
        let upstream = tokio::net::lookup_host(host).await.unwrap().next().expect("an address");
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            upstream: watch::Sender::new(upstream),
            is_redis: url.scheme() == "redis",
            rules: watch::Sender::new(Rules::default()),
            cut_after: Mutex::default(),
            cut: Mutex::new(watch::Sender::new(None)),
            counts: watch::Sender::new(Counts::default()),
        });
        let task = AbortOnDropHandle::new(tokio::spawn(accept(listener, shared.clone())));
        Self { faults: Faults(shared), address, _task: task }
    }

    /// Where it listens, on 127.0.0.1.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A URL of the server's, through the proxy.
    pub fn through(&self, url: &str) -> String {
        let mut url = Url::parse(url).unwrap();
        url.set_host(Some("127.0.0.1")).unwrap();
        url.set_port(Some(self.address.port())).unwrap();
        url.into()
    }
}

/// Switches a proxy's faults while it runs. Cheap to clone. What is switched holds for the connections there are and
/// for new ones, unless the fault says otherwise.
#[derive(Clone)]
pub struct Faults(Arc<Shared>);

impl Faults {
    /// Closes all connections; when it returns, they are closed.
    pub async fn cut(&self, ending: Ending) {
        let cut = std::mem::replace(&mut *lock(&self.0.cut), watch::Sender::new(None));
        cut.send_replace(Some(ending));
        // Every connection holds a receiver until it is closed.
        cut.closed().await;
    }

    /// New connections go to the server at this port of the loopback.
    pub fn lead_to(&self, port: u16) {
        self.0.upstream.send_modify(|upstream| upstream.set_port(port));
    }

    /// Whether new connections are reset at once.
    pub fn refuse(&self, on: bool) {
        self.0.rules.send_modify(|rules| rules.refuses = on);
    }

    /// Neither reads nor forwards any more in this direction; connections stay open, and even their end is not
    /// noticed. The buffers of the system still take some megabytes from the sender.
    pub fn stall(&self, direction: Direction) {
        self.0.rules.send_modify(|rules| {
            rules.stalls_to_server |= direction.covers(Direction::ToServer);
            rules.stalls_to_client |= direction.covers(Direction::ToClient);
        });
    }

    /// The connections there are forward nothing any more, in both directions; they stay open, and even their end is not
    /// noticed. New ones work: so it is when a name has moved to another address. [`Self::heal`] ends it.
    pub fn silence(&self) {
        let last = self.counts().connections;
        self.0.rules.send_modify(|rules| rules.silent_up_to = last);
    }

    /// Goes on after [`Self::stall`], in both directions, with all that has been waiting.
    pub fn resume(&self) {
        self.0.rules.send_modify(|rules| (rules.stalls_to_server, rules.stalls_to_client) = (false, false));
    }

    /// Forwards everything, in each direction, this much later than it came. Up to 8 MiB are under way at a time
    /// in each direction of a connection.
    pub fn delay(&self, latency: Duration) {
        self.0.rules.send_modify(|rules| rules.delay = latency);
    }

    /// Cuts the next connection, or every new one, when exactly this many bytes have been forwarded in this
    /// direction; with 0, when there is a first byte to forward. [`Ending::Close`] lets the peer read exactly these
    /// bytes. A later call takes the place of an earlier one.
    pub fn cut_after(&self, direction: Direction, bytes: u64, times: Times, ending: Ending) {
        *lock(&self.0.cut_after) = Some(CutAfter { direction, bytes, times, ending });
    }

    /// Cuts a connection when `seen` holds for what it has forwarded in this direction since this call: it is asked
    /// after every piece, and given this piece and up to 4 KiB that went before it. See [`contains`]. A later call
    /// takes the place of an earlier one.
    ///
    /// A Postgres client sends the text of a statement only once per connection: look for a parameter.
    pub fn cut_when(
        &self,
        direction: Direction,
        seen: impl Fn(&[u8]) -> bool + Send + Sync + 'static,
        moment: Moment,
        times: Times,
        ending: Ending,
    ) {
        let seen = Box::new(seen);
        let cut_when =
            Arc::new(CutWhen { direction, seen, moment, times, ending, claimed: Mutex::default() });
        self.0.rules.send_modify(|rules| rules.cut_when = Some(cut_when));
    }

    /// Does this to the messages that Redis pushes. Same seed, same messages on the same connection, and the same
    /// faults on them.
    pub fn resp_pushes(&self, fault: PushFault) {
        assert!(self.0.is_redis, "only a proxy in front of redis: looks at messages");
        let sum = fault.drop_percent + fault.repeat_percent + fault.reorder_percent;
        assert!(sum <= 100, "one message has at most one fault: {fault:?}");
        self.0.rules.send_modify(|rules| rules.pushes = Some(fault));
    }

    /// Ends every fault: what was stalled flows again, and nothing waits for its moment any more.
    pub fn heal(&self) {
        *lock(&self.0.cut_after) = None;
        self.0.rules.send_replace(Rules::default());
    }

    /// What has happened so far.
    pub fn counts(&self) -> Counts {
        *self.0.counts.borrow()
    }

    /// Waits until what has happened fits `condition`; fails the test with `what` if it does not in time.
    pub async fn until(&self, what: &str, condition: impl Fn(&Counts) -> bool) {
        let mut counts = self.0.counts.subscribe();
        if timeout(DEADLINE, counts.wait_for(condition)).await.is_err() {
            panic!("not within {DEADLINE:?}: {what}: {:?}", self.counts());
        }
    }
}

/// For [`Faults::cut_when`]: whether these bytes have been forwarded, however they were chunked.
pub fn contains(pattern: &[u8]) -> impl Fn(&[u8]) -> bool + Send + Sync + 'static {
    let pattern = pattern.to_vec();
    move |forwarded| forwarded.windows(pattern.len()).any(|window| window == pattern)
}

/// What the handle, the listener and all connections know.
struct Shared {
    upstream: watch::Sender<SocketAddr>,
    is_redis: bool,
    rules: watch::Sender<Rules>,
    /// For connections to come.
    cut_after: Mutex<Option<CutAfter>>,
    /// Notifies the open connections that they are cut. Those to come get another one.
    cut: Mutex<watch::Sender<Option<Ending>>>,
    counts: watch::Sender<Counts>,
}

/// The faults that connections look at as they go.
#[derive(Clone, Default)]
struct Rules {
    refuses: bool,
    stalls_to_server: bool,
    stalls_to_client: bool,
    /// The number of the last connection that is silent.
    silent_up_to: u64,
    delay: Duration,
    cut_when: Option<Arc<CutWhen>>,
    pushes: Option<PushFault>,
}

/// See [`Faults::cut_after`].
#[derive(Clone, Copy)]
struct CutAfter {
    direction: Direction,
    bytes: u64,
    times: Times,
    ending: Ending,
}

type Predicate = Box<dyn Fn(&[u8]) -> bool + Send + Sync>;

/// See [`Faults::cut_when`].
struct CutWhen {
    direction: Direction,
    seen: Predicate,
    moment: Moment,
    times: Times,
    ending: Ending,
    claimed: Mutex<bool>,
}

impl CutWhen {
    /// Whether the connection that asks is to be cut, now that it has forwarded what was waited for.
    fn claim(&self) -> bool {
        let was_claimed = std::mem::replace(&mut *lock(&self.claimed), true);
        self.times == Times::Always || !was_claimed
    }
}

/// Why a connection ended.
enum End {
    /// Both peers were done.
    Finished,
    /// One of the peers reset it.
    Broken,
    /// A fault.
    Cut(Ending),
    /// Not Redis' protocol.
    Malformed,
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    // Dropped with this task, and all connections with it.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((client, _)) => {
                    if let Some(connection) = Connection::new(&shared, client) {
                        connections.spawn(connection.run());
                    }
                }
                // Out of file descriptors, most likely.
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

/// One client's connection, and the one to the server behind it.
struct Connection {
    shared: Arc<Shared>,
    number: u64,
    client: TcpStream,
    cut: watch::Receiver<Option<Ending>>,
    cut_after: Option<CutAfter>,
    open: Open,
}

impl Connection {
    /// Nothing if it is refused.
    fn new(shared: &Arc<Shared>, client: TcpStream) -> Option<Self> {
        let refuses = shared.rules.borrow().refuses;
        shared.counts.send_modify(|counts| {
            counts.connections += 1;
            counts.refused += u64::from(refuses);
        });
        if refuses {
            let _ = client.set_zero_linger();
            return None;
        }
        let number = shared.counts.borrow().connections;
        let cut = lock(&shared.cut).subscribe();
        let mut waiting = lock(&shared.cut_after);
        let cut_after = *waiting;
        if cut_after.is_some_and(|cut| cut.times == Times::Once) {
            *waiting = None;
        }
        drop(waiting);
        let (shared, open) = (shared.clone(), Open::new(shared.clone()));
        Some(Self { shared, number, client, cut, cut_after, open })
    }

    async fn run(mut self) {
        let upstream = *self.shared.upstream.borrow();
        let mut connecting = pin!(TcpStream::connect(upstream));
        let connected = tokio::select! {
            connected = &mut connecting => connected.ok(),
            // The server may have taken the connection already, and is to see the right end of it.
            _ = until_cut(&mut self.cut) => timeout(LINGER, connecting).await.ok().and_then(Result::ok),
        };
        let Some(mut server) = connected else {
            self.shared.counts.send_modify(|counts| counts.unreachable += 1);
            return self.close(None, End::Broken).await;
        };
        let _ = (self.client.set_nodelay(true), server.set_nodelay(true));
        let swallow = Swallow::default();
        let (from_client, to_client) = self.client.split();
        let (from_server, to_server) = server.split();
        let forth = (Direction::ToServer, from_client, to_server);
        let back = (Direction::ToClient, from_server, to_client);
        let forth = Pump::new(&self.shared, forth, self.number, self.cut_after, &swallow);
        let back = Pump::new(&self.shared, back, self.number, self.cut_after, &swallow);
        let end = tokio::select! {
            biased;
            ending = until_cut(&mut self.cut) => End::Cut(ending),
            ended = async { tokio::try_join!(forth.run(), back.run()) } => ended.err().unwrap_or(End::Finished),
        };
        self.close(Some(server), end).await;
    }

    async fn close(self, server: Option<TcpStream>, end: End) {
        let Self { shared, client, cut, open, .. } = self;
        let mut sockets: Vec<TcpStream> = [client].into_iter().chain(server).collect();
        let closes = match end {
            End::Finished | End::Cut(Ending::Close) => true,
            End::Broken | End::Malformed | End::Cut(Ending::Reset) => false,
        };
        for socket in &sockets {
            let socket = socket2::SockRef::from(socket);
            // Fails only if the peer has ended it already.
            let _ = if closes {
                socket.shutdown(std::net::Shutdown::Write)
            } else {
                socket.set_linger(Some(Duration::ZERO))
            };
        }
        if !closes {
            sockets.clear();
        }
        shared.counts.send_modify(|counts| {
            counts.cut += u64::from(matches!(end, End::Cut(_)));
            counts.malformed += u64::from(matches!(end, End::Malformed));
        });
        drop((open, cut));
        let discarded = sockets.into_iter().map(|socket| timeout(LINGER, discard(socket)));
        futures_util::future::join_all(discarded).await;
    }
}

/// Counts a connection among the open ones until dropped.
struct Open(Arc<Shared>);

impl Open {
    fn new(shared: Arc<Shared>) -> Self {
        shared.counts.send_modify(|counts| counts.open += 1);
        Self(shared)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.counts.send_modify(|counts| counts.open -= 1);
    }
}

/// Waits until connections are cut; returns how.
async fn until_cut(cut: &mut watch::Receiver<Option<Ending>>) -> Ending {
    match cut.wait_for(Option::is_some).await.map(|ending| *ending) {
        Ok(Some(ending)) => ending,
        // The proxy is gone, and this task with it.
        _ => std::future::pending().await,
    }
}

/// Takes what still comes.
async fn discard(mut socket: TcpStream) {
    let mut bytes = [0; 4096];
    while socket.read(&mut bytes).await.is_ok_and(|read| read > 0) {}
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap()
}
