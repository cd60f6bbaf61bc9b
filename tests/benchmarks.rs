//! What it costs: run with `scripts/test --profile measure --test benchmarks -- --ignored --nocapture --test-threads 1`.
//!
//! Measurements are printed, not judged: they depend on the machine. What is compared is of one run on one machine.

mod support;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use carillon::account::Role;
use carillon::bus::BusEvent;
use serde_json::{Value, json};
use support::bus_member::Member;
use support::listener::{Listener, Received};
use support::node::{self, Node, People};
use support::servers::{PostgresServer, RedisServer};
use support::{DEADLINE, wait_until};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::sleep;

/// How long a rate is measured.
const SPAN: Duration = Duration::from_secs(10);
/// What every measured event carries.
const DATA_BYTES: usize = 200;

/// One node on a Postgres (with fsync) and a Redis of its own.
struct Setup {
    node: Node,
    people: People,
    redis: RedisServer,
    _postgres: PostgresServer,
}

impl Setup {
    async fn start() -> Self {
        let (postgres, redis) = (PostgresServer::start(), RedisServer::start(&[]).await);
        let store_url = postgres.new_database().await;
        let people = People::new(&store_url).await;
        let node = Node::start(&store_url, &redis.url(""), &["--streams-per-user", "100000"]).await;
        Self { node, people, redis, _postgres: postgres }
    }

    /// How many commands of each kind Redis carries out in a second.
    async fn commands_a_second(&self, span: Duration) -> BTreeMap<String, f64> {
        self.redis.ask(&["CONFIG", "RESETSTAT"]).await;
        sleep(span).await;
        let text: String = self.redis.query(&["INFO", "commandstats"]).await.unwrap();
        let read = |line: &str| {
            let (name, rest) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
            let calls: f64 = rest.split_once(',')?.0.parse().ok()?;
            Some((name.to_owned(), calls / span.as_secs_f64()))
        };
        text.lines().filter_map(read).collect()
    }

    /// Posts `body` from `in_flight` tasks for a while; answers a second.
    async fn posts_a_second(&self, path: &str, body: &Value, in_flight: usize) -> f64 {
        let stop = Arc::new(AtomicBool::new(false));
        let count = Arc::new(AtomicU64::new(0));
        let client = reqwest::Client::new();
        let tasks: Vec<_> = (0..in_flight)
            .map(|_| {
                let (stop, count) = (stop.clone(), count.clone());
                let request = client.post(format!("{}{path}", self.node.address));
                let request = request.bearer_auth(&self.people.publisher).body(body.to_string());
                tokio::spawn(async move {
                    while !stop.load(Ordering::Relaxed) {
                        let answer = request.try_clone().unwrap().send().await.unwrap();
                        assert_eq!(answer.status(), 201);
                        answer.bytes().await.unwrap();
                        count.fetch_add(1, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        sleep(Duration::from_secs(2)).await;
        let (begun, before) = (Instant::now(), count.load(Ordering::Relaxed));
        sleep(SPAN).await;
        let rate = (count.load(Ordering::Relaxed) - before) as f64 / begun.elapsed().as_secs_f64();
        stop.store(true, Ordering::Relaxed);
        for task in tasks {
            task.await.unwrap();
        }
        rate
    }

    /// Where streams are opened.
    fn address(&self) -> &str {
        self.node.address.strip_prefix("http://").unwrap()
    }

    /// Opens a stream, of which nothing is read yet.
    async fn open(&self, path: &str, token: &str) -> TcpStream {
        ask(TcpStream::connect(self.address()).await.unwrap(), path, token).await
    }

    /// Waits until so many streams are open in all.
    async fn has_listeners(&self, number: usize) {
        let all = async || self.node.metric("carillon_listeners").await as usize >= number;
        wait_until(DEADLINE, "all listen", all).await;
    }

    /// Opens streams that only count the events they get.
    async fn listen(&self, number: usize, token: &str, count: &Arc<AtomicU64>) -> Vec<JoinHandle<()>> {
        let mut tasks = Vec::with_capacity(number);
        for _ in 0..number {
            let stream = self.open("/api/v1/stream", token).await;
            tasks.push(tokio::spawn(count_events(stream, count.clone())));
        }
        self.has_listeners(number).await;
        tasks
    }

    /// Publishes so many events a second for a while, each for whom `to` says; how long each took from when it was due
    /// until it came to those of these listeners that it was for, in order.
    async fn delays(&self, listeners: &[Listener], rate: f64, to: impl Fn(u64) -> Value) -> Vec<Duration> {
        let (client, begun) = (reqwest::Client::new(), Instant::now());
        let before: Vec<_> = listeners.iter().map(|listener| listener.log().received.len()).collect();
        let (mut publishing, mut ids) = (JoinSet::new(), Vec::new());
        let mut ticks = tokio::time::interval(Duration::from_secs_f64(1.0 / rate));
        for number in 0..(rate * SPAN.as_secs_f64()) as u64 {
            let due = ticks.tick().await.into_std() - begun;
            let data = json!({ "due": due.as_nanos() as u64, "fill": "x".repeat(DATA_BYTES) });
            let (client, address) = (client.clone(), self.node.address.clone());
            let (token, event) = (self.people.publisher.clone(), node::event(&to(number), &data));
            publishing.spawn(async move { node::publish(&client, &[&address], &token, &event).await });
        }
        while let Some(id) = publishing.join_next().await {
            ids.push(id.unwrap());
        }
        let ids: HashSet<String> = ids.into_iter().collect();
        let here = || {
            let since = listeners.iter().zip(&before);
            let all = since.flat_map(|(listener, since)| listener.log().received[*since..].to_vec());
            all.filter(|received| ids.contains(&received.id)).collect::<Vec<_>>()
        };
        // An event is for one of them or for all of them.
        let expected = if to(0) == "everyone" { ids.len() * listeners.len() } else { ids.len() };
        wait_until(DEADLINE, "all arrive", async || here().len() >= expected).await;
        let delay = |received: &Received| {
            (received.at - begun).saturating_sub(Duration::from_nanos(received.data["due"].as_u64().unwrap()))
        };
        let mut delays: Vec<_> = here().iter().map(delay).collect();
        delays.sort_unstable();
        delays
    }
}

async fn ask(mut stream: TcpStream, path: &str, token: &str) -> TcpStream {
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

/// Streams that are read by a thread of their own: whom they keep waiting is the node, and not the other listeners here.
struct Crowd {
    runtime: Option<Runtime>,
    count: Arc<AtomicU64>,
}

impl Crowd {
    async fn gather(setup: &Setup, number: usize, token: &str) -> Self {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (address, token) = (setup.address().to_owned(), token.to_owned());
        let count = Arc::new(AtomicU64::new(0));
        let counted = count.clone();
        let before = setup.node.metric("carillon_listeners").await as usize;
        runtime.spawn(async move {
            for _ in 0..number {
                let stream = ask(TcpStream::connect(&address).await.unwrap(), "/api/v1/stream", &token).await;
                tokio::spawn(count_events(stream, counted.clone()));
            }
        });
        setup.has_listeners(before + number).await;
        Self { runtime: Some(runtime), count }
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn print_delays(what: &str, delays: &[Duration]) {
    let at = |part: f64| delays[((delays.len() - 1) as f64 * part) as usize].as_secs_f64() * 1e3;
    println!(
        "{what}: {} deliveries, p50 {:.1} ms, p99 {:.1} ms, worst {:.1} ms",
        delays.len(),
        at(0.5),
        at(0.99),
        at(1.0)
    );
}

/// Counts the beginnings of published events.
async fn count_events(mut stream: TcpStream, count: Arc<AtomicU64>) {
    const BEGINNING: &[u8] = b"data: {\"id\":";
    let mut piece = vec![0; 4096];
    let mut matched = 0;
    while let Ok(read @ 1..) = stream.read(&mut piece).await {
        let mut events = 0;
        for byte in &piece[..read] {
            matched =
                if *byte == BEGINNING[matched] { matched + 1 } else { usize::from(*byte == BEGINNING[0]) };
            if matched == BEGINNING.len() {
                (events, matched) = (events + 1, 0);
            }
        }
        count.fetch_add(events, Ordering::Relaxed);
    }
}

fn event() -> Value {
    json!({ "type": "figure", "to": "everyone", "data": "x".repeat(DATA_BYTES) })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement, not a check"]
async fn durable_publishes_a_second() {
    let setup = Setup::start().await;
    let cpu = setup.node.cpu_seconds();
    let single = setup.posts_a_second("/api/v1/events", &event(), 64).await;
    let appends = setup.node.metric("carillon_appends_total").await;
    let published = setup.node.metric("carillon_published_total").await;
    let cpu = (setup.node.cpu_seconds() - cpu) * 1e6 / published;
    println!(
        "single publishes, 64 in flight: {single:.0} events/s; {:.1} events an append; node {cpu:.0} us of CPU each",
        published / appends
    );
    let body = json!({ "events": vec![event(); 100] });
    let batches = setup.posts_a_second("/api/v1/events/batch", &body, 4).await;
    println!("batches of 100, 4 in flight: {:.0} events/s", batches * 100.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement, not a check"]
async fn deliveries_for_each_second_of_cpu() {
    const LISTENERS: u64 = 1_000;
    let setup = Setup::start().await;
    let token = setup.people.add("listener", Role::Listener).await;
    let count = Arc::new(AtomicU64::new(0));
    let listeners = setup.listen(LISTENERS as usize, &token, &count).await;
    for (what, events_a_post, posts) in [("one at a time", 1, 300), ("a hundred at a time", 100, 20)] {
        let body = json!({ "events": vec![event(); events_a_post] }).to_string();
        let (before, cpu) = (count.load(Ordering::Relaxed), setup.node.cpu_seconds());
        let (begun, client) = (Instant::now(), reqwest::Client::new());
        for number in 1..=posts {
            let request = client.post(format!("{}/api/v1/events/batch", setup.node.address));
            let answer =
                request.bearer_auth(&setup.people.publisher).body(body.clone()).send().await.unwrap();
            assert_eq!(answer.status(), 201);
            // The next only when all have it: no two events share a write unless published together.
            let expected = before + number * events_a_post as u64 * LISTENERS;
            wait_until(DEADLINE, "all arrive", async || count.load(Ordering::Relaxed) >= expected).await;
        }
        let (deliveries, cpu) = (count.load(Ordering::Relaxed) - before, setup.node.cpu_seconds() - cpu);
        println!(
            "{what}: {deliveries} deliveries to {LISTENERS} listeners; {:.0} for each second of the node's CPU, \
             {:.0} for each second",
            deliveries as f64 / cpu,
            deliveries as f64 / begun.elapsed().as_secs_f64()
        );
    }
    assert_eq!(setup.node.metric("carillon_listener_lags_total").await, 0.0, "this was not live delivery");
    listeners.iter().for_each(JoinHandle::abort);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement, not a check"]
async fn memory_of_an_idle_listener() {
    const LISTENERS: usize = 5_000;
    let setup = Setup::start().await;
    let token = setup.people.add("listener", Role::Listener).await;
    let count = Arc::new(AtomicU64::new(0));
    let warm = setup.listen(100, &token, &count).await;
    let before = setup.node.memory();
    let listeners = setup.listen(LISTENERS, &token, &count).await;
    sleep(Duration::from_secs(5)).await;
    let grown = setup.node.memory() - before;
    println!("{LISTENERS} idle listeners: {} bytes of the node's memory each", grown as usize / LISTENERS);
    listeners.iter().chain(&warm).for_each(JoinHandle::abort);
}

/// How long others wait when some of very many listeners read nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement, not a check"]
async fn beside_listeners_that_read_nothing() {
    const LISTENERS: usize = 5_000;
    const MUTE: usize = 100;
    const SAMPLE: usize = 100;
    let setup = Setup::start().await;
    let (token, mute_token) =
        (setup.people.add("listener", Role::Listener).await, setup.people.add("mute", Role::Listener).await);
    let _crowd = Crowd::gather(&setup, LISTENERS - MUTE - SAMPLE, &token).await;
    let mut sample = Vec::new();
    for _ in 0..SAMPLE {
        sample.push(Listener::start(&[&setup.node.address], &token, "").await);
    }
    let to = |_| json!("everyone");
    print_delays("5,000 listeners, of which 100 are not there yet", &setup.delays(&sample, 10.0, to).await);

    let mut mute = Vec::new();
    for _ in 0..MUTE {
        // With as little room in between as the system allows.
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(2_048).unwrap();
        let stream = socket.connect(setup.address().parse().unwrap()).await.unwrap();
        mute.push(ask(stream, "/api/v1/stream", &mute_token).await);
    }
    setup.has_listeners(LISTENERS).await;
    let event = json!({ "type": "figure", "to": { "user": "mute" }, "data": "x".repeat(16 << 10) });
    let body = json!({ "events": vec![event; 50] });
    let all_lag = async || {
        let request = reqwest::Client::new().post(format!("{}/api/v1/events/batch", setup.node.address));
        let answer =
            request.bearer_auth(&setup.people.publisher).body(body.to_string()).send().await.unwrap();
        assert_eq!(answer.status(), 201);
        setup.node.metric("carillon_listener_lags_total").await as usize >= MUTE
    };
    wait_until(DEADLINE, "all of them lag", all_lag).await;
    print_delays("5,000 listeners, of which 100 read nothing", &setup.delays(&sample, 10.0, to).await);
    assert_eq!(setup.node.metric("carillon_listeners").await as usize, LISTENERS, "some have gone");
}

/// How long events for single users take beside events for very many.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement, not a check"]
async fn users_beside_broadcasts() {
    const LISTENERS: usize = 10_000;
    const USERS: u64 = 100;
    let setup = Setup::start().await;
    let token = setup.people.add("listener", Role::Listener).await;
    let crowd = Crowd::gather(&setup, LISTENERS, &token).await;
    let mut users = Vec::new();
    for user in 0..USERS {
        let token = setup.people.add(&format!("user-{user}"), Role::Listener).await;
        users.push(Listener::start(&[&setup.node.address], &token, "").await);
    }
    let to = |number| json!({ "user": format!("user-{}", number % USERS) });
    print_delays("200 a second to one user each, nothing else", &setup.delays(&users, 200.0, to).await);
    let before = crowd.count.load(Ordering::Relaxed);
    let broadcasts = async {
        let client = reqwest::Client::new();
        let mut ticks = tokio::time::interval(Duration::from_millis(500));
        loop {
            ticks.tick().await;
            node::publish(&client, &[&setup.node.address], &setup.people.publisher, &event()).await;
        }
    };
    let delays = tokio::select! {
        delays = setup.delays(&users, 200.0, to) => delays,
        () = broadcasts => unreachable!("it goes on"),
    };
    print_delays("200 a second to one user each, and 2 to all of 10,000", &delays);
    let others = crowd.count.load(Ordering::Relaxed) - before;
    assert!(others > 0, "nothing was broadcast");
    println!("{others} deliveries to the others meanwhile");
}

/// How long it takes until one channel more is subscribed, on a node that has very many.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement, not a check"]
async fn a_channel_more_among_very_many() {
    const CHANNELS: usize = 32_000;
    const MORE_A_SECOND: u32 = 45;
    let redis = RedisServer::start(&[]).await;
    let mut member = Member::open(&redis.url(""));
    (0..CHANNELS).for_each(|number| member.bus.subscribe(&format!("idle:{number}")));
    for _ in 0..CHANNELS {
        while !matches!(member.next().await, BusEvent::Subscribed(_)) {}
    }
    let (begun, pause) = (Instant::now(), Duration::from_secs(1) / MORE_A_SECOND);
    let (mut asked, mut delays) = (HashMap::new(), Vec::new());
    let mut ticks = tokio::time::interval(pause);
    while begun.elapsed() < SPAN * 2 {
        tokio::select! {
            _ = ticks.tick() => {
                let channel = format!("new:{}", asked.len());
                member.bus.subscribe(&channel);
                asked.insert(channel, Instant::now());
            }
            event = member.next() => match event {
                BusEvent::Subscribed(channel) => delays.push(asked[&channel].elapsed()),
                event => panic!("{event:?}"),
            },
        }
    }
    delays.sort_unstable();
    let at = |part: f64| delays[((delays.len() - 1) as f64 * part) as usize].as_secs_f64() * 1e3;
    println!(
        "{CHANNELS} channels and {MORE_A_SECOND} more a second: subscribed after {:.1} ms (median), {:.1} ms (p99), \
         {:.1} ms (worst); {} of {} subscribed",
        at(0.5),
        at(0.99),
        at(1.0),
        delays.len(),
        asked.len()
    );
}

/// What presence costs Redis on topics that somebody listens to and nobody watches.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement, not a check"]
async fn commands_of_idle_topics() {
    const TOPICS: usize = 32_000;
    const TOPICS_A_STREAM: usize = 32;
    let setup = Setup::start().await;
    let token = setup.people.add("listener", Role::Listener).await;
    let idle = setup.commands_a_second(SPAN).await;
    let mut streams = Vec::new();
    for number in 0..TOPICS / TOPICS_A_STREAM {
        let topics = (0..TOPICS_A_STREAM).map(|topic| format!("topic=chat/{number}/{topic}"));
        let query = topics.collect::<Vec<_>>().join("&");
        streams.push(setup.open(&format!("/api/v1/stream?{query}"), &token).await);
        // The first is alone, so that its token is known, and then not all at once: of a storm some would be put off.
        if number % 50 == 0 {
            setup.has_listeners(streams.len()).await;
        }
    }
    sleep(SPAN * 2).await;
    let cpu = setup.node.cpu_seconds();
    let busy = setup.commands_a_second(SPAN * 3).await;
    let cpu = (setup.node.cpu_seconds() - cpu) / (SPAN * 3).as_secs_f64() * 100.0;
    let total = |commands: &BTreeMap<String, f64>| commands.values().sum::<f64>();
    println!("Redis commands a second without streams: {:.1} {idle:.1?}", total(&idle));
    println!(
        "with {TOPICS} idle topics: {:.1} {busy:.1?}; the node takes {cpu:.0} % of a core",
        total(&busy)
    );
}
