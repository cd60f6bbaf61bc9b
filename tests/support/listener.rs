//! Listeners that connect, resume and log as a browser would.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use carillon::sse_parser::SseParser;
use futures_util::StreamExt as _;
use serde_json::Value;
use tokio::task::JoinHandle;

use super::{DEADLINE, wait_until};

/// One event as it came.
#[derive(Debug, Clone)]
pub struct Received {
    /// The event's own id.
    pub id: String,
    /// Its place in the log.
    pub position: i64,
    /// The publisher's data.
    pub data: Value,
    /// When it came.
    pub at: Instant,
    /// Which of the listener's connections brought it, counted from 1.
    pub connection: usize,
}

/// What a listener has seen so far.
#[derive(Debug, Default)]
pub struct Log {
    /// The events, as they came, repeats included.
    pub received: Vec<Received>,
    /// The server's own events: name and data.
    pub notices: Vec<(String, Value)>,
    /// How often it has connected.
    pub connections: usize,
    /// What it would resume from.
    pub cursor: String,
    /// A status other than 200, after which a browser gives up.
    pub refused: Option<u16>,
}

/// Listens until dropped, reconnecting to the next address whenever the connection ends.
pub struct Listener {
    log: Arc<Mutex<Log>>,
    task: JoinHandle<()>,
}

impl Listener {
    /// Connects to the first of `addresses` that answers and waits until the stream has begun.
    pub async fn start(addresses: &[&str], token: &str, query: &str) -> Self {
        let log = Arc::new(Mutex::new(Log::default()));
        let addresses = addresses.iter().map(|a| format!("{a}/api/v1/stream?{query}")).collect();
        let task = tokio::spawn(listen(addresses, token.to_owned(), log.clone()));
        let listener = Self { log, task };
        wait_until(DEADLINE, "the stream begins", async || {
            let log = listener.log();
            !log.cursor.is_empty() || log.refused.is_some()
        })
        .await;
        listener
    }

    /// What it has seen.
    pub fn log(&self) -> std::sync::MutexGuard<'_, Log> {
        self.log.lock().unwrap()
    }

    /// Waits until all of these events have come.
    pub async fn has_all(&self, ids: &[String]) {
        let all_came = async || {
            let log = self.log();
            let came: std::collections::HashSet<&str> = log.received.iter().map(|r| r.id.as_str()).collect();
            ids.iter().all(|id| came.contains(id.as_str()))
        };
        wait_until(DEADLINE, "every acknowledged event arrives", all_came).await;
    }

    /// That every event came once and in the order of the log.
    pub fn assert_once_and_in_order(&self) {
        let log = self.log();
        let mut seen = HashMap::new();
        for (index, received) in log.received.iter().enumerate() {
            if let Some(before) = seen.insert(received.id.clone(), index) {
                panic!("{received:?} came before as {:?}", log.received[before]);
            }
        }
        for pair in log.received.windows(2) {
            assert!(pair[0].position < pair[1].position, "{:?} before {:?}", pair[0], pair[1]);
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn listen(addresses: Vec<String>, token: String, log: Arc<Mutex<Log>>) {
    let client = reqwest::Client::builder().connect_timeout(Duration::from_secs(2)).build().unwrap();
    for address in addresses.iter().cycle() {
        let cursor = log.lock().unwrap().cursor.clone();
        let mut request = client.get(address).bearer_auth(&token);
        if !cursor.is_empty() {
            request = request.header("last-event-id", cursor);
        }
        if let Ok(answer) = request.send().await {
            if answer.status() != 200 {
                log.lock().unwrap().refused = Some(answer.status().as_u16());
                return;
            }
            log.lock().unwrap().connections += 1;
            follow(answer, &log).await;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn follow(answer: reqwest::Response, log: &Mutex<Log>) {
    let mut parser = SseParser::new(1 << 20);
    let mut pieces = answer.bytes_stream();
    while let Some(Ok(piece)) = pieces.next().await {
        let at = Instant::now();
        let events = parser.feed(&piece).unwrap();
        let mut log = log.lock().unwrap();
        for event in events {
            let data: Value = serde_json::from_str(&event.data).unwrap();
            if event.event == "message" {
                let received = Received {
                    id: data["id"].as_str().unwrap().to_owned(),
                    position: data["position"].as_i64().unwrap(),
                    data: data["data"].clone(),
                    at,
                    connection: log.connections,
                };
                log.received.push(received);
            } else {
                log.notices.push((event.event, data));
            }
        }
        if !parser.last_event_id().is_empty() {
            parser.last_event_id().clone_into(&mut log.cursor);
        }
    }
}
