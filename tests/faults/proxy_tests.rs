//! Every fault of the proxy, proven with plain sockets on both sides of it, and with the servers it is for.

use std::io::ErrorKind;
use std::time::Duration;

use redis::{PushInfo, PushKind, Value};
use sqlx::Connection as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use super::proxy::{Direction, Ending, Moment, Proxy, Times, contains};
use super::resp::PushFault;
use super::support::DEADLINE;
use super::support::servers::{RedisServer, patient_redis, postgres_url};

/// A proxy, and the server behind it.
struct Hop {
    proxy: Proxy,
    listener: TcpListener,
}

impl Hop {
    async fn new(scheme: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = format!("{scheme}://{}", listener.local_addr().unwrap());
        Self { proxy: Proxy::start(&server).await, listener }
    }

    /// Both ends of a new connection.
    async fn connect(&self) -> (TcpStream, TcpStream) {
        let client = TcpStream::connect(self.proxy.address()).await.unwrap();
        let (server, _) = timeout(DEADLINE, self.listener.accept()).await.unwrap().unwrap();
        (client, server)
    }
}

async fn send(from: &mut TcpStream, bytes: &[u8]) {
    from.write_all(bytes).await.unwrap();
}

async fn assert_comes(to: &mut TcpStream, expected: &[u8]) {
    let mut bytes = vec![0; expected.len()];
    timeout(DEADLINE, to.read_exact(&mut bytes)).await.expect("nothing comes").unwrap();
    assert_eq!(bytes, expected);
}

/// All that comes until the end of the stream.
async fn all(to: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    timeout(DEADLINE, to.read_to_end(&mut bytes)).await.expect("the stream does not end")?;
    Ok(bytes)
}

async fn assert_reset(to: &mut TcpStream) {
    assert_eq!(all(to).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
}

fn megabytes(count: usize) -> Vec<u8> {
    (0..count << 20).map(|at| (at / 7) as u8).collect()
}

#[tokio::test]
async fn everything_passes_and_each_direction_ends_by_itself() {
    let hop = Hop::new("tcp").await;
    let (mut client, mut server) = hop.connect().await;
    let bytes = megabytes(3);
    let forth = async {
        send(&mut client, &bytes).await;
        client.shutdown().await.unwrap();
    };
    let ((), came) = tokio::join!(forth, all(&mut server));
    assert!(came.unwrap() == bytes);
    send(&mut server, b"the other way").await;
    drop(server);
    assert_eq!(all(&mut client).await.unwrap(), b"the other way");
    hop.proxy.faults.until("the connection ends", |counts| counts.open == 0).await;
    let counts = hop.proxy.faults.counts();
    assert_eq!((counts.connections, counts.cut), (1, 0));
    assert_eq!((counts.bytes_to_server, counts.bytes_to_client), (3 << 20, 13));
}

#[tokio::test]
async fn a_reset_passes_and_so_does_a_server_that_is_gone() {
    let hop = Hop::new("tcp").await;
    let (client, mut server) = hop.connect().await;
    client.set_zero_linger().unwrap();
    drop(client);
    assert_reset(&mut server).await;
    drop(hop.listener);
    let mut client = TcpStream::connect(hop.proxy.address()).await.unwrap();
    assert!(all(&mut client).await.is_err());
    assert_eq!(hop.proxy.faults.counts().unreachable, 1);
}

#[tokio::test]
async fn a_cut_closes_all_connections_and_no_later_one() {
    let hop = Hop::new("tcp").await;
    for ending in [Ending::Close, Ending::Reset] {
        let mut connections = [hop.connect().await, hop.connect().await];
        // With bytes on their way, a close without care would be a reset.
        hop.proxy.faults.stall(Direction::ToServer);
        for (client, _) in &mut connections {
            send(client, b"never read").await;
        }
        hop.proxy.faults.cut(ending).await;
        assert_eq!(hop.proxy.faults.counts().open, 0);
        hop.proxy.faults.resume();
        for (client, server) in &mut connections {
            match ending {
                Ending::Close => {
                    assert_eq!((all(client).await.unwrap(), all(server).await.unwrap()), (vec![], vec![]));
                }
                Ending::Reset => {
                    assert_reset(client).await;
                    assert_reset(server).await;
                }
            }
        }
    }
    assert_eq!(hop.proxy.faults.counts().cut, 4);
    let (mut client, mut server) = hop.connect().await;
    send(&mut client, b"again").await;
    assert_comes(&mut server, b"again").await;
}

#[tokio::test]
async fn refused_connections_are_reset_and_those_there_go_on() {
    let hop = Hop::new("tcp").await;
    let (mut client, mut server) = hop.connect().await;
    hop.proxy.faults.refuse(true);
    let refused = async || TcpStream::connect(hop.proxy.address()).await?.read(&mut [0]).await;
    assert_eq!(refused().await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    send(&mut client, b"still here").await;
    assert_comes(&mut server, b"still here").await;
    hop.proxy.faults.refuse(false);
    hop.connect().await;
    let counts = hop.proxy.faults.counts();
    assert_eq!((counts.connections, counts.refused), (3, 1));
}

#[tokio::test]
async fn a_stalled_direction_stands_still_and_the_other_goes_on() {
    let hop = Hop::new("tcp").await;
    let faults = &hop.proxy.faults;
    let (mut client, mut server) = hop.connect().await;
    for direction in [Direction::ToServer, Direction::ToClient] {
        faults.stall(direction);
        let (mut new_client, mut new_server) = hop.connect().await;
        let before = faults.counts();
        let forwarded = || {
            let now = faults.counts();
            (now.bytes_to_server - before.bytes_to_server, now.bytes_to_client - before.bytes_to_client)
        };
        let (stalled, flowing) = match direction {
            Direction::ToServer => ((&mut client, &mut server), (&mut new_server, &mut new_client)),
            _ => ((&mut server, &mut client), (&mut new_client, &mut new_server)),
        };
        send(stalled.0, b"waits").await;
        send(flowing.0, b"goes on").await;
        assert_comes(flowing.1, b"goes on").await;
        assert!([(0, 7), (7, 0)].contains(&forwarded()), "{:?}", forwarded());
        faults.resume();
        assert_comes(stalled.1, b"waits").await;
    }
}

#[tokio::test]
async fn what_is_silent_stays_so_and_what_comes_later_works() {
    let hop = Hop::new("tcp").await;
    let (mut client, mut server) = hop.connect().await;
    hop.proxy.faults.silence();
    let (mut new_client, mut new_server) = hop.connect().await;
    let before = hop.proxy.faults.counts();
    send(&mut client, b"waits").await;
    send(&mut server, b"waits").await;
    for _ in 0..3 {
        send(&mut new_client, b"goes on").await;
        assert_comes(&mut new_server, b"goes on").await;
    }
    let now = hop.proxy.faults.counts();
    assert_eq!(
        (now.bytes_to_server - before.bytes_to_server, now.bytes_to_client),
        (21, before.bytes_to_client)
    );
    hop.proxy.faults.heal();
    assert_comes(&mut server, b"waits").await;
    assert_comes(&mut client, b"waits").await;
}

#[tokio::test]
async fn a_stalled_connection_can_be_cut() {
    let hop = Hop::new("tcp").await;
    let (mut client, _server) = hop.connect().await;
    hop.proxy.faults.stall(Direction::Both);
    hop.proxy.faults.cut(Ending::Reset).await;
    assert_reset(&mut client).await;
}

#[tokio::test]
async fn a_delay_adds_to_the_latency_and_leaves_the_throughput() {
    const LATENCY: Duration = Duration::from_millis(200);
    let hop = Hop::new("tcp").await;
    let (mut client, mut server) = hop.connect().await;
    hop.proxy.faults.delay(LATENCY);
    let begun = Instant::now();
    send(&mut client, b"ping").await;
    assert_comes(&mut server, b"ping").await;
    assert!(begun.elapsed() >= LATENCY);
    send(&mut server, b"pong").await;
    assert_comes(&mut client, b"pong").await;
    assert!(begun.elapsed() >= 2 * LATENCY);
    // Piece after piece, each waiting for the one before it, this would take 50 s.
    let (begun, bytes) = (Instant::now(), megabytes(4));
    let back = async {
        send(&mut server, &bytes).await;
        server.shutdown().await.unwrap();
    };
    let ((), came) = tokio::join!(back, all(&mut client));
    assert!(came.unwrap() == bytes);
    assert!(begun.elapsed() >= LATENCY && begun.elapsed() < 50 * LATENCY, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_stream_is_cut_at_every_offset() {
    const FRAME: &[u8] = b"id: e-1\ndata: {}\n\n";
    let hop = Hop::new("tcp").await;
    for offset in 0..FRAME.len() {
        hop.proxy.faults.cut_after(Direction::ToClient, offset as u64, Times::Once, Ending::Close);
        let (mut client, mut server) = hop.connect().await;
        send(&mut client, b"GET").await;
        assert_comes(&mut server, b"GET").await;
        send(&mut server, FRAME).await;
        assert_eq!(all(&mut client).await.unwrap(), &FRAME[..offset]);
        assert_eq!(all(&mut server).await.unwrap(), b"");
    }
    let (mut client, mut server) = hop.connect().await;
    send(&mut server, FRAME).await;
    assert_comes(&mut client, FRAME).await;
    assert_eq!(hop.proxy.faults.counts().cut, FRAME.len() as u64);
}

#[tokio::test]
async fn who_reads_late_reads_all_that_went_before_the_cut() {
    const FORWARDED: usize = 256 << 10;
    let hop = Hop::new("tcp").await;
    hop.proxy.faults.cut_after(Direction::ToClient, FORWARDED as u64, Times::Once, Ending::Close);
    let (mut client, mut server) = hop.connect().await;
    // Bytes that the proxy has not read turn a close into a reset, which discards what is on its way.
    hop.proxy.faults.stall(Direction::ToServer);
    send(&mut client, b"never read").await;
    let bytes = megabytes(1);
    let (_, ()) = tokio::join!(
        server.write_all(&bytes),
        hop.proxy.faults.until("it is cut", |counts| (counts.cut, counts.open) == (1, 0))
    );
    assert!(all(&mut client).await.unwrap() == bytes[..FORWARDED]);
}

#[tokio::test]
async fn every_connection_is_cut_until_it_is_healed() {
    let hop = Hop::new("tcp").await;
    hop.proxy.faults.cut_after(Direction::ToServer, 70_000, Times::Always, Ending::Close);
    for _ in 0..3 {
        let (mut client, mut server) = hop.connect().await;
        let bytes = megabytes(1);
        let (_, came) = tokio::join!(client.write_all(&bytes), all(&mut server));
        assert!(came.unwrap() == bytes[..70_000]);
    }
    hop.proxy.faults.heal();
    let (mut client, mut server) = hop.connect().await;
    send(&mut client, &[7; 70_001]).await;
    assert_comes(&mut server, &[7; 70_001]).await;
}

#[tokio::test]
async fn a_connection_is_cut_when_something_was_forwarded() {
    let hop = Hop::new("tcp").await;
    let faults = &hop.proxy.faults;
    let (mut other, mut other_server) = hop.connect().await;
    let (mut client, mut server) = hop.connect().await;
    faults.cut_when(Direction::ToServer, contains(b"COMMIT"), Moment::AtOnce, Times::Once, Ending::Close);
    send(&mut client, b"BEGIN; COM").await;
    assert_comes(&mut server, b"BEGIN; COM").await;
    send(&mut client, b"MIT").await;
    assert_eq!(all(&mut server).await.unwrap(), b"MIT");
    assert_eq!(all(&mut client).await.unwrap(), b"");
    send(&mut other, b"COMMIT").await;
    assert_comes(&mut other_server, b"COMMIT").await;
    send(&mut other_server, b"done").await;
    assert_comes(&mut other, b"done").await;
    assert_eq!(faults.counts().cut, 1);
}

#[tokio::test]
async fn every_connection_is_cut_when_something_was_forwarded() {
    let hop = Hop::new("tcp").await;
    let seen = contains(b"COMMIT");
    hop.proxy.faults.cut_when(Direction::ToClient, seen, Moment::AtOnce, Times::Always, Ending::Close);
    let filler = vec![b'.'; 100_000];
    for _ in 0..3 {
        let (mut client, mut server) = hop.connect().await;
        send(&mut server, &filler).await;
        assert_comes(&mut client, &filler).await;
        send(&mut server, b"COMMIT").await;
        assert_eq!(all(&mut client).await.unwrap(), b"COMMIT");
    }
    assert_eq!(hop.proxy.faults.counts().cut, 3);
}

#[tokio::test]
async fn what_was_healed_swallows_no_answer() {
    let hop = Hop::new("tcp").await;
    let faults = &hop.proxy.faults;
    let (mut client, mut server) = hop.connect().await;
    faults.cut_when(Direction::ToServer, contains(b"COMMIT"), Moment::Answered, Times::Once, Ending::Reset);
    send(&mut client, b"COMMIT").await;
    assert_comes(&mut server, b"COMMIT").await;
    faults.heal();
    send(&mut server, b"done").await;
    assert_comes(&mut client, b"done").await;
}

#[tokio::test]
async fn an_answer_is_swallowed() {
    let hop = Hop::new("tcp").await;
    let faults = &hop.proxy.faults;
    let (mut client, mut server) = hop.connect().await;
    faults.cut_when(Direction::ToServer, contains(b"COMMIT"), Moment::Answered, Times::Once, Ending::Reset);
    send(&mut client, b"BEGIN").await;
    assert_comes(&mut server, b"BEGIN").await;
    send(&mut server, b"begun").await;
    assert_comes(&mut client, b"begun").await;
    send(&mut client, b"COMMIT").await;
    assert_comes(&mut server, b"COMMIT").await;
    send(&mut client, b" AND CHAIN").await;
    assert_comes(&mut server, b" AND CHAIN").await;
    send(&mut server, b"done").await;
    assert_reset(&mut client).await;
    let counts = faults.counts();
    assert_eq!((counts.cut, counts.bytes_to_client), (1, 5));
}

#[tokio::test]
async fn a_dropped_proxy_closes_everything() {
    let hop = Hop::new("tcp").await;
    let (mut client, mut server) = hop.connect().await;
    let (address, faults) = (hop.proxy.address(), hop.proxy.faults.clone());
    drop(hop);
    assert!(all(&mut client).await.is_ok_and(|bytes| bytes.is_empty()));
    assert!(all(&mut server).await.is_ok_and(|bytes| bytes.is_empty()));
    faults.until("nothing is open", |counts| counts.open == 0).await;
    assert_eq!(TcpStream::connect(address).await.unwrap_err().kind(), ErrorKind::ConnectionRefused);
}

#[tokio::test]
async fn postgres_commits_what_nobody_hears_of() {
    let url = postgres_url().await;
    let proxy = Proxy::start(&url).await;
    let mut direct = sqlx::PgConnection::connect(&url).await.unwrap();
    sqlx::query("create table ledger (entry text)").execute(&mut direct).await.unwrap();
    let mut client = sqlx::PgConnection::connect(&proxy.through(&url)).await.unwrap();
    let insert = "insert into ledger values ($1)";
    sqlx::query(insert).bind("confirmed").execute(&mut client).await.unwrap();
    let seen = contains(b"unconfirmed");
    proxy.faults.cut_when(Direction::ToServer, seen, Moment::Answered, Times::Once, Ending::Close);
    assert!(sqlx::query(insert).bind("unconfirmed").execute(&mut client).await.is_err());
    assert_eq!(proxy.faults.counts().cut, 1);
    let entries: Vec<String> =
        sqlx::query_scalar("select entry from ledger order by 1").fetch_all(&mut direct).await.unwrap();
    assert_eq!(entries, ["confirmed", "unconfirmed"]);
}

#[tokio::test]
async fn what_is_not_redis_is_not_taken_for_it() {
    let hop = Hop::new("redis").await;
    let (mut client, mut server) = hop.connect().await;
    send(&mut server, b"HTTP/1.1 200 OK\r\n").await;
    assert_reset(&mut client).await;
    assert_eq!(hop.proxy.faults.counts().malformed, 1);
}

/// A subscriber with RESP3 through a proxy, and Redis behind it.
struct Subscriber {
    server: RedisServer,
    proxy: Proxy,
    connection: redis::aio::MultiplexedConnection,
    messages: mpsc::Receiver<usize>,
}

impl Subscriber {
    async fn new() -> Self {
        let server = RedisServer::start(&[]).await;
        let proxy = Proxy::start(&server.url("")).await;
        let (sender, messages) = mpsc::channel(10_000);
        let received = move |push: PushInfo| {
            if let (PushKind::Message, [_, Value::BulkString(number)]) = (push.kind, &push.data[..]) {
                sender.try_send(std::str::from_utf8(number).unwrap().parse().unwrap()).unwrap();
            }
            Ok::<_, std::convert::Infallible>(())
        };
        let client = redis::Client::open(proxy.through(&server.url("?protocol=resp3"))).unwrap();
        let config = patient_redis().set_push_sender(received);
        let mut connection = client.get_multiplexed_async_connection_with_config(&config).await.unwrap();
        connection.subscribe("channel").await.unwrap();
        Self { server, proxy, connection, messages }
    }

    /// Publishes `0..count`, and gives what came once as much has come as must.
    async fn receives(&mut self, count: usize) -> Vec<usize> {
        let before = self.proxy.faults.counts().pushes;
        let client = redis::Client::open(self.server.url("")).unwrap();
        let mut publisher =
            client.get_multiplexed_async_connection_with_config(&patient_redis()).await.unwrap();
        let mut pipeline = redis::Pipeline::new();
        (0..count).for_each(|number| _ = pipeline.publish("channel", number));
        pipeline.exec_async(&mut publisher).await.unwrap();
        let seen = before.seen + count as u64;
        self.proxy.faults.until("all are published", |counts| counts.pushes.seen == seen).await;
        let after = self.proxy.faults.counts().pushes;
        let come = count as u64 + before.dropped + after.repeated - after.dropped - before.repeated;
        let mut came = Vec::new();
        for _ in 0..come {
            came.push(timeout(DEADLINE, self.messages.recv()).await.expect("one is lost").unwrap());
        }
        // An answer comes after all that was pushed before it.
        redis::cmd("PING").exec_async(&mut self.connection).await.unwrap();
        assert!(self.messages.try_recv().is_err(), "one came that was not sent");
        came
    }
}

#[tokio::test]
async fn redis_messages_are_dropped_repeated_and_reordered() {
    let mut subscriber = Subscriber::new().await;
    let faults = subscriber.proxy.faults.clone();
    assert_eq!(subscriber.receives(100).await, Vec::from_iter(0..100));
    let none = PushFault { seed: 7, ..PushFault::default() };

    faults.resp_pushes(PushFault { drop_percent: 50, ..none });
    let came = subscriber.receives(400).await;
    let dropped = faults.counts().pushes.dropped;
    assert!((120..280).contains(&dropped), "{dropped}");
    assert!(came.len() as u64 == 400 - dropped && came.is_sorted());

    faults.resp_pushes(PushFault { repeat_percent: 50, ..none });
    let mut came = subscriber.receives(400).await;
    assert_eq!(came.len() as u64, 400 + faults.counts().pushes.repeated);
    came.dedup();
    assert_eq!(came, Vec::from_iter(0..400));

    faults.resp_pushes(PushFault { reorder_percent: 50, ..none });
    let mut came = subscriber.receives(400).await;
    assert!(faults.counts().pushes.reordered > 0 && !came.is_sorted());
    came.sort_unstable();
    assert_eq!(came, Vec::from_iter(0..400));

    faults.heal();
    assert_eq!(subscriber.receives(100).await, Vec::from_iter(0..100));
}

#[tokio::test]
async fn the_last_message_is_only_late() {
    let mut subscriber = Subscriber::new().await;
    subscriber.proxy.faults.resp_pushes(PushFault { reorder_percent: 100, ..PushFault::default() });
    assert_eq!(subscriber.receives(1).await, [0]);
    assert_eq!(subscriber.proxy.faults.counts().pushes.late, 1);
}
