//! Connections that leave hyper for a stream: what came before has arrived whole, the head is complete, nothing of a
//! connection stays behind.

mod support;

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::State;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Extension, Router};
use carillon::delivery::taken::{Framing, Taken};
use carillon::http::hand_over::HandOver;
use carillon::http::server::{self, ConnectionLimits, Ending};
use support::{DEADLINE, wait_until};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tower_http::set_header::SetResponseHeaderLayer;

/// More than the buffers of two sockets on one machine take.
const LARGE: usize = 24 << 20;
const STREAM: &str = "GET /stream HTTP/1.1\r\nhost: here\r\n\r\n";
const HELLO: &str = "GET /hello HTTP/1.1\r\nhost: here\r\n\r\n";
/// What `/stream` is answered with, apart from the date.
const HEAD: &str = "HTTP/1.1 200 OK\r\n\
    content-type: text/event-stream\r\n\
    x-of-handler: 1\r\n\
    x-of-handler: 2\r\n\
    x-of-layer: yes\r\n\
    date: now\r\n\
    connection: close\r\n\
    transfer-encoding: chunked\r\n\r\n";

/// What handlers do, and what became of it.
#[derive(Clone)]
struct Handlers {
    taken: mpsc::Sender<Taken>,
    /// A handler has begun, of a stream or of one that waits.
    begun: Arc<Notify>,
    go_on: Arc<Notify>,
    /// A handler that waited was dropped.
    handler_dropped: CancellationToken,
    /// What was to take a socket was dropped, called or not.
    take_dropped: CancellationToken,
}

struct Server {
    address: SocketAddr,
    ending: Ending,
    handlers: Handlers,
    taken: mpsc::Receiver<Taken>,
    serving: JoinHandle<()>,
}

impl Server {
    async fn start(max: usize) -> Self {
        let (sender, taken) = mpsc::channel(8);
        let handlers = Handlers {
            taken: sender,
            begun: Arc::default(),
            go_on: Arc::default(),
            handler_dropped: CancellationToken::new(),
            take_dropped: CancellationToken::new(),
        };
        let listener = server::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let limits = ConnectionLimits { max, ack_timeout: DEADLINE };
        let ending = Ending::default();
        let serving = tokio::spawn(server::serve(listener, router(handlers.clone()), limits, ending.clone()));
        Self { address, ending, handlers, taken, serving }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Sends this on a new connection.
    async fn send(&self, request: &str) -> TcpStream {
        let mut client = self.connect().await;
        client.write_all(request.as_bytes()).await.unwrap();
        client
    }

    async fn taken(&mut self) -> Taken {
        timeout(DEADLINE, self.taken.recv()).await.expect("nothing was handed over").unwrap()
    }

    /// Waits until a stream was given up without having been handed over.
    async fn gives_up(&mut self) {
        timeout(DEADLINE, self.handlers.take_dropped.cancelled()).await.expect("the stream was kept");
        assert!(self.taken.try_recv().is_err(), "a connection was handed over whose client had gone");
    }

    /// Waits until no task is left but that which accepts.
    async fn has_no_connection(&self) {
        let metrics = tokio::runtime::Handle::current().metrics();
        wait_until(DEADLINE, "connections ended", async || metrics.num_alive_tasks() == 1).await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

fn router(handlers: Handlers) -> Router {
    let layer = SetResponseHeaderLayer::overriding(
        HeaderName::from_static("x-of-layer"),
        HeaderValue::from_static("yes"),
    );
    Router::new()
        .route("/hello", get(|| async { "hello" }))
        .route("/stream", get(stream).post(stream))
        .route("/waiting", get(waiting))
        .route("/refused", get(refused))
        .route("/framed", get(framed))
        .route("/large", post(large))
        .route("/large-head", post(large_head))
        .layer(layer)
        .with_state(handlers)
}

fn hand_over(handlers: Handlers) -> HandOver {
    let guard = handlers.take_dropped.drop_guard();
    let sender = handlers.taken;
    HandOver::new(move |taken| {
        sender.try_send(taken).unwrap();
        drop(guard);
    })
}

async fn stream(State(handlers): State<Handlers>) -> Response {
    handlers.begun.notify_one();
    let mut response = Body::empty().into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.append("x-of-handler", HeaderValue::from_static("1"));
    headers.append("x-of-handler", HeaderValue::from_static("2"));
    response.extensions_mut().insert(hand_over(handlers));
    response
}

async fn waiting(State(handlers): State<Handlers>) -> Response {
    let guard = handlers.handler_dropped.clone().drop_guard();
    let hand_over = hand_over(handlers.clone());
    handlers.begun.notify_one();
    handlers.go_on.notified().await;
    guard.disarm();
    (Extension(hand_over), Body::empty()).into_response()
}

async fn refused(State(handlers): State<Handlers>) -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, Extension(hand_over(handlers)), "not now").into_response()
}

/// Says itself, and otherwise, how its answer is framed, and when it was made.
async fn framed(State(handlers): State<Handlers>) -> Response {
    let headers = [
        (header::DATE, "long ago"),
        (header::CONNECTION, "keep-alive"),
        (header::TRANSFER_ENCODING, "gzip"),
        (header::CONTENT_LENGTH, "5"),
    ];
    (headers, Extension(hand_over(handlers)), Body::from("12345")).into_response()
}

/// Answers at once, and reads what it was sent meanwhile.
async fn large(body: Body) -> Response {
    tokio::spawn(to_bytes(body, 1024));
    vec![b'x'; LARGE].into_response()
}

/// The same with all of it in a header: hyper reads the next request while it still writes this.
async fn large_head(body: Body) -> Response {
    tokio::spawn(to_bytes(body, 1024));
    ([("x-large", "x".repeat(LARGE))], Body::empty()).into_response()
}

/// A head, with its date replaced where it is one.
fn undated(head: &[u8]) -> String {
    let head = str::from_utf8(head).unwrap();
    let lines = head.split("\r\n").map(|line| match line.strip_prefix("date: ") {
        Some(date) if httpdate::parse_http_date(date).is_ok() => "date: now",
        _ => line,
    });
    lines.collect::<Vec<_>>().join("\r\n")
}

/// The next answer that hyper wrote, its head and its body.
async fn answer(client: &mut TcpStream, has_body: bool) -> (String, Vec<u8>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(timeout(DEADLINE, client.read_u8()).await.expect("no answer").unwrap());
    }
    let head = undated(&head);
    let length = head.split("\r\n").find_map(|line| line.strip_prefix("content-length: "));
    let length = length.filter(|_| has_body).map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    timeout(DEADLINE, client.read_exact(&mut body)).await.expect("no body").unwrap();
    (head, body)
}

async fn read_to_end(client: &mut TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    timeout(DEADLINE, client.read_to_end(&mut all)).await.expect("the connection was not closed").unwrap();
    all
}

/// Closes so that the other side gets an error.
fn reset(client: TcpStream) {
    socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
    drop(client);
}

/// Writes the head and this, as a reactor would: in a thread, to a socket that does not block.
fn write_in_a_thread(taken: Taken, rest: &'static [u8]) {
    std::thread::spawn(move || {
        let Taken { mut socket, head, slot, .. } = taken;
        assert_eq!(socket.write(&head).unwrap(), head.len());
        assert_eq!(socket.write(rest).unwrap(), rest.len());
        drop((socket, slot));
    });
}

#[tokio::test]
async fn heads_say_how_the_body_is_framed() {
    let mut server = Server::start(8).await;
    let of_10 = HEAD.replace("HTTP/1.1", "HTTP/1.0").replace("transfer-encoding: chunked\r\n", "");
    for (request, head, framing) in [
        (STREAM, HEAD, Framing::Chunked),
        ("GET /stream HTTP/1.1\r\nhost: here\r\nconnection: close\r\n\r\n", HEAD, Framing::Chunked),
        ("GET /stream HTTP/1.0\r\n\r\n", &of_10, Framing::UntilClose),
        ("GET /stream HTTP/1.0\r\nconnection: keep-alive\r\n\r\n", &of_10, Framing::UntilClose),
    ] {
        let mut client = server.send(request).await;
        let taken = server.taken().await;
        assert_eq!(undated(&taken.head), head);
        assert_eq!(taken.framing, framing);
        // Nothing but what is written now.
        let written = taken.head.clone();
        write_in_a_thread(taken, b"3\r\n:\n\n\r\n");
        assert_eq!(read_to_end(&mut client).await, [&written[..], b"3\r\n:\n\n\r\n"].concat());
    }
    let _client = server.send("GET /framed HTTP/1.1\r\nhost: here\r\n\r\n").await;
    let head = server.taken().await.head;
    let expected = "HTTP/1.1 200 OK\r\ndate: long ago\r\nx-of-layer: yes\r\n\
        connection: close\r\ntransfer-encoding: chunked\r\n\r\n";
    assert_eq!(undated(&head).replace("content-type: text/plain; charset=utf-8\r\n", ""), expected);
}

#[tokio::test]
async fn the_socket_keeps_its_options_and_does_not_block() {
    let mut server = Server::start(8).await;
    let _client = server.send(STREAM).await;
    let taken = server.taken().await;
    let socket = socket2::SockRef::from(&taken.socket);
    assert!(socket.tcp_nodelay().unwrap());
    assert_eq!(socket.tcp_user_timeout().unwrap(), Some(DEADLINE));
    assert!(socket.nonblocking().unwrap());
}

#[tokio::test]
async fn a_kept_alive_connection_is_handed_over_at_its_third_request() {
    for at_once in [false, true] {
        let mut server = Server::start(8).await;
        let mut client = server.connect().await;
        if at_once {
            client.write_all(format!("{HELLO}{HELLO}{STREAM}").as_bytes()).await.unwrap();
        }
        for _ in 0..2 {
            if !at_once {
                client.write_all(HELLO.as_bytes()).await.unwrap();
            }
            assert_eq!(answer(&mut client, true).await.1, b"hello");
        }
        if !at_once {
            client.write_all(STREAM.as_bytes()).await.unwrap();
        }
        let taken = server.taken().await;
        // Nothing of it stays in the runtime while the stream lives.
        server.has_no_connection().await;
        write_in_a_thread(taken, b"3\r\n:\n\n\r\n");
        assert_eq!(undated(&read_to_end(&mut client).await), format!("{HEAD}3\r\n:\n\n\r\n"));
    }
}

#[tokio::test]
async fn streams_that_came_and_went_leave_no_descriptor() {
    const STREAMS: usize = 2_000;
    let mut server = Server::start(8).await;
    for _ in 0..STREAMS {
        let client = server.send(STREAM).await;
        drop((server.taken().await, client));
    }
    // The other tests of this program have some, too.
    let open = std::fs::read_dir("/proc/self/fd").unwrap().count();
    assert!(open < STREAMS / 2, "{open} descriptors are open");
}

/// The answer before is still on its way out when the stream comes.
#[tokio::test]
async fn answers_before_a_stream_arrive_whole() {
    for path in ["/large", "/large-head"] {
        let mut server = Server::start(8).await;
        let (mut reader, mut writer) = server.connect().await.into_split();
        let before = format!("POST {path} HTTP/1.1\r\nhost: here\r\ncontent-length: 5\r\n\r\n");
        writer.write_all(before.as_bytes()).await.unwrap();
        let mut received = vec![0; 4096];
        timeout(DEADLINE, reader.read_exact(&mut received)).await.unwrap().unwrap();
        // hyper has more to write than the kernel takes. The rest of the request comes now, and another.
        writer.write_all(format!("12345{STREAM}").as_bytes()).await.unwrap();
        let forward = tokio::spawn(async move {
            let taken = server.taken().await;
            write_in_a_thread(taken, b"3\r\n:\n\n\r\n");
            server
        });
        // Time for what must not happen. A slow machine only proves less.
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(!forward.is_finished(), "{path}: handed over with an answer in hyper's buffer");
        timeout(DEADLINE, reader.read_to_end(&mut received)).await.unwrap().unwrap();
        forward.await.unwrap();
        let large = received.iter().filter(|byte| **byte == b'x').count();
        assert!(large >= LARGE, "{path}: only {large} bytes of the answer before");
        let stream = received.windows(15).rposition(|bytes| bytes == b"HTTP/1.1 200 OK").unwrap();
        assert_eq!(undated(&received[stream..]), format!("{HEAD}3\r\n:\n\n\r\n"), "{path}");
    }
}

#[tokio::test]
async fn a_client_that_goes_away_before_its_answers_are_written_gets_no_stream() {
    for closes in [true, false] {
        let mut server = Server::start(8).await;
        let mut client =
            server.send("POST /large-head HTTP/1.1\r\nhost: here\r\ncontent-length: 5\r\n\r\n").await;
        client.read_u8().await.unwrap();
        client.write_all(format!("12345{STREAM}").as_bytes()).await.unwrap();
        timeout(DEADLINE, server.handlers.begun.notified()).await.unwrap();
        if closes {
            drop(client);
        } else {
            reset(client);
        }
        server.gives_up().await;
        server.has_no_connection().await;
    }
}

#[tokio::test]
async fn what_is_sent_behind_the_head_disturbs_nothing() {
    let mut server = Server::start(8).await;
    let long = format!("{STREAM}{}", "x".repeat(20_000));
    for request in [
        &format!("{STREAM}stray bytes"),
        &format!("{STREAM}{HELLO}"),
        &long,
        "POST /stream HTTP/1.1\r\nhost: here\r\ncontent-length: 5\r\n\r\nhello",
        "POST /stream HTTP/1.1\r\nhost: here\r\ncontent-length: 5\r\n\r\nhel",
        "POST /stream HTTP/1.1\r\nhost: here\r\ncontent-length: 500000\r\n\r\nhello",
        "POST /stream HTTP/1.1\r\nhost: here\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        "POST /stream HTTP/1.1\r\nhost: here\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhel",
        "POST /stream HTTP/1.1\r\nhost: here\r\ncontent-length: 5\r\nexpect: 100-continue\r\n\r\n",
    ] {
        let mut client = server.send(request).await;
        let taken = server.taken().await;
        assert_eq!(undated(&taken.head), HEAD);
        // The socket stays open here: closed with bytes that nobody has read, it would take back what was sent.
        let (head, mut socket) = (taken.head, taken.socket);
        assert_eq!(socket.write(&head).unwrap(), head.len());
        let mut received = vec![0; head.len()];
        timeout(DEADLINE, client.read_exact(&mut received)).await.unwrap().unwrap();
        assert_eq!(received, head, "{request:.100}");
    }
}

#[tokio::test]
async fn a_client_may_go_away_at_any_step() {
    for closes in [true, false] {
        let go = |client: TcpStream| if closes { drop(client) } else { reset(client) };
        // Before its head is complete, on a new connection and on one that was used.
        let mut server = Server::start(1).await;
        go(server.send("GET /stream HTTP/1.1\r\nho").await);
        let mut client = server.send(HELLO).await;
        answer(&mut client, true).await;
        client.write_all(b"GET /stream HTTP/1.1\r\nho").await.unwrap();
        go(client);
        server.has_no_connection().await;
        assert!(!server.handlers.take_dropped.is_cancelled());

        // While the handler runs.
        let client = server.send("GET /waiting HTTP/1.1\r\nhost: here\r\n\r\n").await;
        timeout(DEADLINE, server.handlers.begun.notified()).await.unwrap();
        go(client);
        timeout(DEADLINE, server.handlers.handler_dropped.cancelled()).await.expect("the handler ran on");
        server.gives_up().await;

        // Right after it was handed over: whoever has the socket sees it.
        let mut server = Server::start(1).await;
        let client = server.send(STREAM).await;
        let taken = server.taken().await;
        go(client);
        taken.socket.set_nonblocking(false).unwrap();
        let (mut socket, slot) = (taken.socket, taken.slot);
        let read = tokio::task::spawn_blocking(move || socket.read(&mut [0; 8]));
        let read = timeout(DEADLINE, read).await.unwrap().unwrap();
        drop(slot);
        assert!(if closes { matches!(read, Ok(0)) } else { read.is_err() }, "{read:?}");
        // Its slot is free.
        assert_eq!(answer(&mut server.send(HELLO).await, true).await.1, b"hello");
    }
}

#[tokio::test]
async fn a_handler_may_take_its_time() {
    let mut server = Server::start(1).await;
    let _client = server.send("GET /waiting HTTP/1.1\r\nhost: here\r\n\r\n").await;
    timeout(DEADLINE, server.handlers.begun.notified()).await.unwrap();
    server.handlers.go_on.notify_one();
    server.taken().await;
}

#[tokio::test]
async fn a_socket_that_was_handed_over_holds_its_slot() {
    let mut server = Server::start(2).await;
    let (_first, _second) = (server.send(STREAM).await, server.send(STREAM).await);
    let (first, second) = (server.taken().await, server.taken().await);
    let mut third = server.send(HELLO).await;
    // Time for what must not happen.
    assert!(timeout(Duration::from_millis(300), third.read_u8()).await.is_err(), "three connections of two");
    drop(first);
    assert_eq!(answer(&mut third, true).await.1, b"hello");
    drop((third, second));
    let mut clients = Vec::new();
    for _ in 0..2 {
        let mut client = server.send(HELLO).await;
        assert_eq!(answer(&mut client, true).await.1, b"hello");
        clients.push(client);
    }
}

#[tokio::test]
async fn what_does_not_leave_stays_with_hyper() {
    let mut server = Server::start(8).await;
    let mut client = server.connect().await;
    // As a GET would be answered: of unknown length.
    client.write_all(b"HEAD /stream HTTP/1.1\r\nhost: here\r\n\r\n").await.unwrap();
    let (head, _) = answer(&mut client, false).await;
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && head.contains("text/event-stream"), "{head}");
    assert!(!head.contains("content-length") && !head.contains("connection"), "{head}");
    client.write_all(b"GET /refused HTTP/1.1\r\nhost: here\r\n\r\n").await.unwrap();
    let (head, body) = answer(&mut client, true).await;
    assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
    assert_eq!(body, b"not now");
    client.write_all(HELLO.as_bytes()).await.unwrap();
    assert_eq!(answer(&mut client, true).await.1, b"hello");
    server.gives_up().await;
}

#[tokio::test]
async fn draining_and_stopping_leave_a_stream_alone() {
    let mut server = Server::start(8).await;
    let mut idle = server.send(HELLO).await;
    answer(&mut idle, true).await;
    server.ending.draining.cancel();
    let mut client = server.send(STREAM).await;
    let taken = server.taken().await;
    assert_eq!(undated(&taken.head), HEAD);
    let mut last = server.send(HELLO).await;
    let (head, _) = answer(&mut last, true).await;
    assert_eq!(head.matches("connection: close").count(), 1, "{head}");

    server.ending.stop.cancel();
    assert_eq!(read_to_end(&mut idle).await, b"");
    // It waits for the slots, but not for ever.
    timeout(DEADLINE, &mut server.serving).await.expect("it waits for a stream").unwrap();
    write_in_a_thread(taken, b"3\r\n:\n\n\r\n");
    assert_eq!(undated(&read_to_end(&mut client).await), format!("{HEAD}3\r\n:\n\n\r\n"));
}

#[tokio::test]
async fn a_stream_that_comes_while_the_server_stops_is_handed_over() {
    let mut server = Server::start(8).await;
    let _client = server.send("GET /waiting HTTP/1.1\r\nhost: here\r\n\r\n").await;
    timeout(DEADLINE, server.handlers.begun.notified()).await.unwrap();
    server.ending.stop.cancel();
    server.handlers.go_on.notify_one();
    drop(server.taken().await);
    timeout(DEADLINE, &mut server.serving).await.expect("a slot was kept").unwrap();
}

/// The one that waits out the server's patience; all of it at once.
#[tokio::test]
async fn nobody_holds_a_connection_by_sending_or_reading_nothing() {
    let mut server = Server::start(8).await;
    let mut first = server.send("GET /stream HTTP/1.1\r\nho").await;
    let mut second = server.send(HELLO).await;
    answer(&mut second, true).await;
    second.write_all(b"GET /stream HTTP/1.1\r\nho").await.unwrap();
    let mut unread =
        server.send("POST /large-head HTTP/1.1\r\nhost: here\r\ncontent-length: 5\r\n\r\n").await;
    unread.read_u8().await.unwrap();
    unread.write_all(format!("12345{STREAM}").as_bytes()).await.unwrap();
    assert_eq!(read_to_end(&mut first).await, b"");
    assert_eq!(read_to_end(&mut second).await, b"");
    server.gives_up().await;
    server.has_no_connection().await;
}
