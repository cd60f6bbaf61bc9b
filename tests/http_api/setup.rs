//! A node with some people, calls to it, and streams read byte by byte.

use std::fmt::Display;
use std::time::{Duration, Instant};

use carillon::account::Role;
use carillon::sse_parser::{SseEvent, SseParser};
use reqwest::header::{HeaderMap, SET_COOKIE};
use reqwest::redirect::Policy;
use reqwest::{Client, Method, RequestBuilder, Response};
use serde_json::{Value, json};
use sqlx::Connection as _;
use tempfile::TempDir;

use crate::support::DEADLINE;
use crate::support::node::{Node, People};
use crate::support::servers::{RedisServer, postgres_url};

/// A node, and tokens of the people who use it.
pub struct Setup {
    pub node: Node,
    pub people: People,
    /// A listener.
    pub alice: String,
    /// Another.
    pub bob: String,
    /// A publisher besides `people.publisher`.
    pub rival: String,
    pub admin: String,
    store_url: String,
    client: Client,
    _folder: Option<TempDir>,
    _redis: Option<RedisServer>,
}

/// An event as the answer to its publisher names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    pub id: String,
    pub position: i64,
}

impl Setup {
    /// SQLite and everything else in the process.
    pub async fn embedded() -> Self {
        let folder = TempDir::new().unwrap();
        let store = format!("sqlite:{}", folder.path().join("carillon.sqlite").display());
        Self::start(&store, "memory:", Some(folder), None).await
    }

    /// Postgres, and a Redis of its own: channels and keys are the cluster's.
    pub async fn on_servers() -> Self {
        let redis = RedisServer::start(&[]).await;
        Self::start(&postgres_url().await, &redis.url(""), None, Some(redis)).await
    }

    async fn start(store: &str, bus: &str, folder: Option<TempDir>, redis: Option<RedisServer>) -> Self {
        let people = People::new(store).await;
        Self {
            alice: people.add("alice", Role::Listener).await,
            bob: people.add("bob", Role::Listener).await,
            rival: people.add("rival", Role::Publisher).await,
            admin: people.add("admin", Role::Admin).await,
            node: Node::start(store, bus, &[]).await,
            people,
            store_url: store.to_owned(),
            client: Client::builder().redirect(Policy::none()).timeout(DEADLINE).build().unwrap(),
            _folder: folder,
            _redis: redis,
        }
    }

    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.node.address))
    }

    pub fn get(&self, path: &str) -> RequestBuilder {
        self.request(Method::GET, path)
    }

    pub fn post(&self, path: &str) -> RequestBuilder {
        self.request(Method::POST, path)
    }

    pub fn put(&self, path: &str) -> RequestBuilder {
        self.request(Method::PUT, path)
    }

    pub fn delete(&self, path: &str) -> RequestBuilder {
        self.request(Method::DELETE, path)
    }

    /// Publishes as `people.publisher`.
    pub async fn publish(&self, event: &Value) -> Receipt {
        let request = self.post("/api/v1/events").bearer_auth(&self.people.publisher);
        receipt(&send(request.body(event.to_string())).await.expect(201).json())
    }

    /// Publishes `data` to everyone, which whatever was published before has then come ahead of.
    pub async fn publish_to_all(&self, data: &str) -> Receipt {
        self.publish(&json!({ "type": "test", "to": "everyone", "data": data })).await
    }

    /// Publishes several at once.
    pub async fn publish_batch(&self, events: &[Value]) -> Vec<Receipt> {
        let request = self.post("/api/v1/events/batch").bearer_auth(&self.people.publisher);
        let answer = send(request.json(&json!({ "events": events }))).await.expect(201);
        answer.json()["events"].as_array().unwrap().iter().map(receipt).collect()
    }

    /// A stream of the token's user; `query` stands behind the `?`.
    pub async fn stream(&self, token: &str, query: &str) -> Stream {
        Stream::open(self.get(&format!("/api/v1/stream?{query}")).bearer_auth(token)).await
    }

    /// Does something to the database behind the node's back.
    pub async fn execute(&self, sql: &'static str) {
        if self.store_url.starts_with("sqlite:") {
            let mut connection = sqlx::SqliteConnection::connect(&self.store_url).await.unwrap();
            sqlx::query(sql).execute(&mut connection).await.unwrap();
        } else {
            let mut connection = sqlx::PgConnection::connect(&self.store_url).await.unwrap();
            sqlx::query(sql).execute(&mut connection).await.unwrap();
        }
    }

    /// The `data` of what is in the inbox of the token's user, as listed.
    pub async fn inbox(&self, token: &str, query: &str) -> Vec<Value> {
        let answer = send(self.get(&format!("/api/v1/inbox?{query}")).bearer_auth(token)).await.expect(200);
        answer.json()["entries"].as_array().unwrap().iter().map(|entry| entry["data"].clone()).collect()
    }

    /// Signs in; gives the cookie as the browser sends it back.
    pub async fn sign_in(&self, name: &str) -> String {
        let request = self.post("/api/v1/session").json(&credentials(name));
        send(request).await.expect(204).cookie()
    }
}

/// What somebody of [`People`] signs in with.
pub fn credentials(name: &str) -> Value {
    json!({ "name": name, "password": format!("password of {name}") })
}

fn receipt(json: &Value) -> Receipt {
    let id = json["id"].as_str().unwrap().to_owned();
    Receipt { id, position: json["position"].as_i64().unwrap() }
}

/// A whole answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: String,
}

pub async fn send(request: RequestBuilder) -> Answer {
    let answer = request.send().await.unwrap();
    let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
    Answer { status, headers, body: answer.text().await.unwrap() }
}

impl Answer {
    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{self:?}");
        self
    }

    /// That this is a problem about `field` (empty: about none).
    #[track_caller]
    pub fn expect_problem(self, status: u16, field: &str) -> Self {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.header("content-type"), "application/problem+json", "{self:?}");
        let problem = self.json();
        assert_eq!(problem["status"], status, "{self:?}");
        assert_eq!(problem["field"].as_str().unwrap_or_default(), field, "{self:?}");
        assert!(problem["title"].is_string() && problem["detail"].is_string(), "{self:?}");
        self
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// A header; empty if it is not there.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The session's cookie as the browser sends it back.
    #[track_caller]
    pub fn cookie(&self) -> String {
        self.header(SET_COOKIE.as_str()).split(';').next().unwrap().to_owned()
    }
}

/// One connection to a stream. Whatever it reads is checked: each frame has data and says where to resume, in its last
/// line, save those of a history, which come before the first that does.
pub struct Stream {
    answer: Response,
    parser: SseParser,
    raw: Vec<u8>,
    /// Whether it ended without its encoding saying so.
    is_broken_off: bool,
    /// All events so far, the server's own too.
    pub events: Vec<SseEvent>,
}

impl Stream {
    /// Opens a stream and reads its first frame.
    pub async fn open(request: RequestBuilder) -> Self {
        // Streams outlast the client's timeout.
        let answer = request.timeout(Duration::from_secs(3600)).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        let mut stream = Self {
            answer,
            parser: SseParser::new(1 << 20),
            raw: Vec::new(),
            is_broken_off: false,
            events: Vec::new(),
        };
        while stream.cursor().is_empty() {
            assert!(stream.read().await, "the stream ended before its first frame");
        }
        stream
    }

    pub fn headers(&self) -> &HeaderMap {
        self.answer.headers()
    }

    /// All that was read.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.raw).unwrap()
    }

    /// What a browser would resume from.
    pub fn cursor(&self) -> &str {
        self.parser.last_event_id()
    }

    /// Reads until `holds`.
    #[track_caller]
    pub fn until(&mut self, what: impl Display, holds: impl Fn(&Self) -> bool) -> impl Future<Output = ()> {
        let at = std::panic::Location::caller();
        async move {
            // Heartbeats keep coming: what must end is the waiting for this, not for anything at all.
            let end = Instant::now() + DEADLINE;
            while !holds(self) {
                assert!(Instant::now() < end, "{at}: not within {DEADLINE:?}: {what}\n{}", self.text());
                assert!(self.read().await, "{at}: the stream ended before: {what}\n{}", self.text());
            }
        }
    }

    /// Reads until a publisher's event with this data has come.
    #[track_caller]
    pub fn until_data(&mut self, data: impl Into<Value>) -> impl Future<Output = ()> {
        let data = data.into();
        self.until(data.clone(), move |stream| stream.data().contains(&data))
    }

    /// Reads until as many publishers' events have come.
    #[track_caller]
    pub fn until_count(&mut self, count: usize) -> impl Future<Output = ()> {
        self.until(format!("{count} events"), move |stream| stream.data().len() >= count)
    }

    /// Reads until the server's own event `name` has come with this data.
    #[track_caller]
    pub fn until_notice(&mut self, name: &str, data: Value) -> impl Future<Output = ()> {
        let name = name.to_owned();
        self.until(format!("{name} {data}"), move |stream| stream.notices(&name).contains(&data))
    }

    /// Reads until the server ends the stream for good.
    pub async fn ends(&mut self) {
        self.read_to_its_end().await;
        assert!(!self.is_broken_off, "a stream that is over for good ends as its encoding says");
    }

    /// Reads until the server breaks the stream off: its client is to come back.
    pub async fn breaks_off(&mut self) {
        self.read_to_its_end().await;
        assert!(self.is_broken_off, "a client by fetch takes this for the end");
    }

    async fn read_to_its_end(&mut self) {
        let end = Instant::now() + DEADLINE;
        while self.read().await {
            assert!(Instant::now() < end, "the stream did not end within {DEADLINE:?}:\n{}", self.text());
        }
    }

    /// The `data` of publishers' events, as they came.
    pub fn data(&self) -> Vec<Value> {
        self.messages().map(|event| json_of(event)["data"].clone()).collect()
    }

    /// The `id:` in force and the event's own id, for each of the publishers' events.
    pub fn ids(&self) -> Vec<(String, String)> {
        self.messages().map(|e| (e.id.clone(), json_of(e)["id"].as_str().unwrap().to_owned())).collect()
    }

    /// The data of the server's own events with this name.
    pub fn notices(&self, name: &str) -> Vec<Value> {
        self.events.iter().filter(|event| event.event == name).map(json_of).collect()
    }

    fn messages(&self) -> impl Iterator<Item = &SseEvent> {
        self.events.iter().filter(|event| event.event == "message")
    }

    /// Reads what comes next; false when the server ended the stream.
    async fn read(&mut self) -> bool {
        let next = tokio::time::timeout(DEADLINE, self.answer.chunk()).await;
        let text = String::from_utf8_lossy(&self.raw);
        let next = next.unwrap_or_else(|_| panic!("nothing more came within {DEADLINE:?}, after:\n{text}"));
        self.is_broken_off = next.is_err();
        let Ok(Some(piece)) = next else { return false };
        self.events.extend(self.parser.feed(&piece).unwrap());
        self.raw.extend_from_slice(&piece);
        let frames = self.text().split_inclusive("\n\n").filter(|frame| frame.ends_with("\n\n"));
        for frame in frames.skip_while(|frame| !frame.contains("\nid: ")) {
            // A keep-alive stands in front of the frame after it.
            let lines: Vec<&str> = frame.lines().skip_while(|line| line.starts_with(':')).collect();
            assert!(lines.iter().any(|line| line.starts_with("data: ")), "{frame:?}");
            let ids: Vec<_> = (0..lines.len()).filter(|line| lines[*line].starts_with("id: ")).collect();
            assert_eq!(ids, [lines.len() - 2], "{frame:?}");
        }
        true
    }
}

fn json_of(event: &SseEvent) -> Value {
    serde_json::from_str(&event.data).unwrap()
}
