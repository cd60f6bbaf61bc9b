//! Listeners: real TCP, resuming with their cursor, logging all they live through. Written from the outside: an
//! HTTP request by hand, a parser proven on the standard's rules, no code of the server's stream.

use std::collections::HashSet;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use carillon::sse_parser::{SseEvent, SseParser};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

use crate::ledger::{Delivery, LedgerWriter, Listener, SENTINEL, What};

/// How long a connection may take to be answered, as a rule.
pub const OPEN_WITHIN: Duration = Duration::from_secs(3);
/// How long a stream may be silent; nodes under test send a heartbeat each second.
const SILENCE: Duration = Duration::from_secs(5);
/// The pause before reconnecting, as a rule.
pub const PAUSE: Duration = Duration::from_millis(100);
/// What the system keeps for a listener that reads slowly.
const SMALL_BUFFER: u32 = 4096;
/// The most bytes of one event.
const MAX_EVENT: usize = 1 << 20;

/// How a listener reads.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Pace {
    /// Whatever there is.
    Full,
    /// So many bytes, then a pause.
    Trickle(usize, Duration),
    /// Nothing, with the connection open.
    Stalled,
    /// Not connected.
    Away,
}

/// How a listener connects.
#[derive(Debug, Clone)]
pub struct Options {
    /// What it asks for, and who it is.
    pub listener: Listener,
    /// The header that says who it is.
    pub credential: String,
    /// `host:port` of each node it may use, the first first.
    pub addresses: Vec<String>,
    /// What it resumes from at first.
    pub cursor: Option<String>,
    /// How it reads at first.
    pub pace: Pace,
    /// The pause before reconnecting, about.
    pub pause: Duration,
    /// How long a connection may take to be answered.
    pub open_within: Duration,
}

/// A listener at work, until dropped.
pub struct Client {
    /// What it asks for.
    pub listener: Listener,
    pace: watch::Sender<Pace>,
    state: Arc<Mutex<State>>,
    _task: AbortOnDropHandle<()>,
}

/// What a listener knows of itself.
#[derive(Debug, Default)]
struct State {
    /// What it would resume from.
    cursor: Option<String>,
    /// The keys of sentinels that came.
    sentinels: HashSet<String>,
    /// How many events came, repeats included.
    deliveries: usize,
    /// Why it gave up: what was answered instead of a stream.
    refused: Option<u16>,
}

impl Client {
    /// Begins to listen.
    pub fn start(options: Options, ledger: &LedgerWriter) -> Self {
        let state = Arc::new(Mutex::new(State { cursor: options.cursor.clone(), ..State::default() }));
        let (pace, pace_now) = watch::channel(options.pace);
        let listener = options.listener.clone();
        ledger.listener(listener.clone());
        let live = Life { options, ledger: ledger.clone(), state: state.clone(), pace: pace_now };
        Self { listener, pace, state, _task: AbortOnDropHandle::new(tokio::spawn(live.run())) }
    }

    /// From now on it reads like this.
    pub fn set_pace(&self, pace: Pace) {
        self.pace.send_replace(pace);
    }

    /// Whether the stream has begun at least once: it knows where to resume.
    pub fn has_begun(&self) -> bool {
        self.state.lock().unwrap().cursor.is_some()
    }

    /// Whether it has got all of these sentinels.
    pub fn has_sentinels(&self, keys: &[String]) -> bool {
        let state = self.state.lock().unwrap();
        keys.iter().all(|key| state.sentinels.contains(key))
    }

    /// Whether it reads, or tries to.
    pub fn is_listening(&self) -> bool {
        self.refused().is_none() && !matches!(*self.pace.borrow(), Pace::Away | Pace::Stalled)
    }

    /// How many events came, repeats included.
    pub fn deliveries(&self) -> usize {
        self.state.lock().unwrap().deliveries
    }

    /// The status on which it gave up, as a browser does.
    pub fn refused(&self) -> Option<u16> {
        self.state.lock().unwrap().refused
    }
}

struct Life {
    options: Options,
    ledger: LedgerWriter,
    state: Arc<Mutex<State>>,
    pace: watch::Receiver<Pace>,
}

impl Life {
    async fn run(mut self) {
        let addresses = self.options.addresses.clone();
        for (connection, address) in (1..).zip(addresses.iter().cycle()) {
            if self.pace.wait_for(|pace| *pace != Pace::Away).await.is_err() {
                return;
            }
            let cursor = self.state.lock().unwrap().cursor.clone();
            let opened = timeout(
                self.options.open_within,
                open(address, &self.query(), &self.options, cursor.as_deref()),
            )
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
            let status = opened.as_ref().ok().map(|(status, ..)| *status);
            let note = What::Opened { address: address.clone(), cursor_sent: cursor, status };
            self.ledger.heard(self.options.listener.id, connection, self.ledger.now(), note);
            match opened {
                Ok((200, stream, rest)) => {
                    let why = self.follow(connection, stream, &rest).await;
                    self.ledger.heard(
                        self.options.listener.id,
                        connection,
                        self.ledger.now(),
                        What::Closed { why },
                    );
                }
                // Anything else ends an EventSource for good.
                Ok((status, ..)) => {
                    self.state.lock().unwrap().refused = Some(status);
                    return;
                }
                Err(_) => {}
            }
            sleep(self.options.pause.mul_f64(rand::random_range(0.5..1.5))).await;
        }
    }

    fn query(&self) -> String {
        let listener = &self.options.listener;
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        listener.topics.iter().for_each(|topic| _ = query.append_pair("topic", topic));
        listener.types.iter().for_each(|wanted| _ = query.append_pair("type", wanted));
        if let Some(least) = listener.min_priority {
            query.append_pair("min_priority", &least.to_string());
        }
        query.finish()
    }

    /// Reads a stream until it ends; why it did.
    async fn follow(&mut self, connection: u32, mut stream: TcpStream, rest: &[u8]) -> String {
        let mut parser = SseParser::new(MAX_EVENT);
        let mut stamped = String::new();
        self.log(connection, &mut parser, &mut stamped, rest);
        let mut piece = vec![0; 16 * 1024];
        let mut silent_since = Instant::now();
        loop {
            let pace = *self.pace.borrow_and_update();
            let room = match pace {
                Pace::Full => piece.len(),
                Pace::Trickle(bytes, _) => bytes,
                Pace::Away => return "went away".into(),
                Pace::Stalled => {
                    if self.pace.changed().await.is_err() {
                        return "given up".into();
                    }
                    silent_since = Instant::now();
                    continue;
                }
            };
            tokio::select! {
                changed = self.pace.changed() => if changed.is_err() { return "given up".into() },
                read = stream.read(&mut piece[..room]) => match read {
                    Ok(0) => return "the server ended it".into(),
                    Err(error) => return error.kind().to_string(),
                    Ok(read) => {
                        silent_since = Instant::now();
                        self.log(connection, &mut parser, &mut stamped, &piece[..read]);
                        if let Pace::Trickle(_, pause) = pace {
                            sleep(pause).await;
                        }
                    }
                },
                () = tokio::time::sleep_until(silent_since + SILENCE) => return "silence".into(),
            }
        }
    }

    fn log(&self, connection: u32, parser: &mut SseParser, stamped: &mut String, piece: &[u8]) {
        let (at, listener) = (self.ledger.now(), self.options.listener.id);
        let events = parser.feed(piece).expect("no event is that large");
        let mut state = self.state.lock().unwrap();
        for event in events {
            stamped.clone_from(&event.id);
            let what = parse(event);
            if let What::Delivery(delivery) = &what {
                state.deliveries += 1;
                if delivery.key.starts_with(SENTINEL) {
                    state.sentinels.insert(delivery.key.to_string());
                }
            }
            self.ledger.heard(listener, connection, at, what);
        }
        if parser.last_event_id() != stamped {
            parser.last_event_id().clone_into(stamped);
            self.ledger.heard(listener, connection, at, What::Stamp { raw_id: stamped.clone() });
        }
        if !stamped.is_empty() {
            state.cursor = Some(stamped.clone());
        }
    }
}

/// Reads an event of the stream.
fn parse(event: SseEvent) -> What {
    let data: Value = serde_json::from_str(&event.data).expect("data is JSON");
    if event.event != "message" {
        return What::Notice { name: event.event, data, raw_id: event.id };
    }
    let text = |name: &str| data[name].as_str().unwrap_or_else(|| panic!("{name} is missing: {data}"));
    What::Delivery(Delivery {
        raw_id: event.id,
        event_id: text("id").into(),
        position: data["position"].as_i64().expect("a position"),
        key: data["data"]["key"].as_str().expect("the publisher's key").into(),
        priority: text("priority").parse().expect("a priority"),
        event_type: text("type").into(),
    })
}

/// Asks for a stream, in HTTP/1.0: its end is the connection's end, and a cut one looks like any other. Gives the
/// status, the connection and what was already read of the body.
async fn open(
    address: &str,
    query: &str,
    options: &Options,
    cursor: Option<&str>,
) -> io::Result<(u16, TcpStream, Vec<u8>)> {
    let address = address.parse().map_err(io::Error::other)?;
    let socket = TcpSocket::new_v4()?;
    if options.listener.is_slow {
        // What the system would take in its place never waits in the node.
        socket.set_recv_buffer_size(SMALL_BUFFER)?;
    }
    let mut stream = socket.connect(address).await?;
    let credential = &options.credential;
    let resume = cursor.map(|cursor| format!("Last-Event-ID: {cursor}\r\n")).unwrap_or_default();
    let request = format!("GET /api/v1/stream?{query} HTTP/1.0\r\n{credential}\r\n{resume}\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut head = Vec::new();
    let end = loop {
        if let Some(end) = head.windows(4).position(|four| four == b"\r\n\r\n") {
            break end + 4;
        }
        if head.len() > MAX_EVENT || stream.read_buf(&mut head).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    };
    let status = std::str::from_utf8(&head[..end]).ok().and_then(|head| head.split(' ').nth(1)?.parse().ok());
    let status = status.ok_or(io::ErrorKind::InvalidData)?;
    Ok((status, stream, head.split_off(end)))
}
