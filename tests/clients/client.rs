//! The clients of the matrix, each in its default use, and what they have printed.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::chromium::{Browser, Tab};
use crate::firefox::Firefox;
use crate::install;
use crate::support::servers::signal;

/// Types of the tests' events, and the server's own events that a test waits for. An `EventSource` listens only to names
/// that it is given.
pub const NAMES: [&str; 5] = ["note", "alert", "carillon.connected", "carillon.reset", "carillon.signout"];

/// One of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Client {
    Chromium,
    Firefox,
    EventSource4,
    EventSource5,
    FetchEventSource,
    EventSourceParser,
    HttpxSse,
    SseclientPy,
    RequestsSse,
    AiohttpSse,
    ReqwestEventsource,
    LaunchDarkly,
    Curl,
}

/// One of each kind that is installed soon.
pub const SOME: [Client; 4] = [Client::Chromium, Client::EventSource5, Client::HttpxSse, Client::Curl];

/// All.
pub const ALL: [Client; 13] = [
    Client::Chromium,
    Client::Firefox,
    Client::EventSource4,
    Client::EventSource5,
    Client::FetchEventSource,
    Client::EventSourceParser,
    Client::HttpxSse,
    Client::SseclientPy,
    Client::RequestsSse,
    Client::AiohttpSse,
    Client::ReqwestEventsource,
    Client::LaunchDarkly,
    Client::Curl,
];

impl Client {
    /// Its program; `None` for a browser.
    fn program(self) -> Option<Command> {
        Some(match self {
            Self::Chromium | Self::Firefox => return None,
            Self::EventSource4 => install::node(&["eventsource.mjs", "eventsource4"]),
            Self::EventSource5 => install::node(&["eventsource.mjs", "eventsource5"]),
            Self::FetchEventSource => install::node(&["fetch-event-source.mjs"]),
            Self::EventSourceParser => install::node(&["eventsource-parser.mjs"]),
            Self::HttpxSse => install::python("httpx_sse_client.py"),
            Self::SseclientPy => install::python("sseclient_py.py"),
            Self::RequestsSse => install::python("requests_sse_client.py"),
            Self::AiohttpSse => install::python("aiohttp_sse.py"),
            Self::ReqwestEventsource => install::rust("reqwest-eventsource"),
            Self::LaunchDarkly => install::rust("eventsource-client"),
            Self::Curl => install::curl(),
        })
    }
}

impl Client {
    /// After how many bytes of a frame a cut may cost the event. One takes an id when its line has come: between that and
    /// the blank line the event is lost, and nothing that a node sends could prevent it.
    pub fn bytes_at_risk(self) -> usize {
        usize::from(self == Self::FetchEventSource)
    }
}

/// An event as a client handed it out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    pub event: String,
    pub data: String,
}

/// A client that runs, with one stream or many. Ends when dropped.
pub struct Running {
    pub client: Client,
    lines: Arc<Mutex<Vec<Value>>>,
    by: By,
}

enum By {
    Program(Child),
    Page(Arc<Page>, JoinHandle<()>),
}

impl Running {
    /// Opens these streams; a page signs in as alice, programs use the token.
    pub async fn start(client: Client, streams: &[String], token: &str) -> Self {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let by = if let Some(program) = client.program() {
            By::Program(start_program(program, streams, token, &lines))
        } else {
            let page = Arc::new(Page::open(client, streams).await);
            let polling = tokio::spawn(poll(page.clone(), lines.clone()));
            By::Page(page, polling)
        };
        Self { client, lines, by }
    }

    /// All it was given on this stream, the server's own events included.
    pub fn received(&self, stream: usize) -> Vec<Received> {
        let lines = self.lines.lock().unwrap();
        let own = lines.iter().filter(|line| line["stream"] == stream && line["data"].is_string());
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        own.map(|line| Received { event: text(&line["event"]), data: text(&line["data"]) }).collect()
    }

    /// The publishers' events on this stream.
    pub fn events(&self, stream: usize) -> Vec<Received> {
        let mut all = self.received(stream);
        all.retain(|received| !received.event.starts_with("carillon."));
        all
    }

    /// Whether the stream has begun.
    pub fn is_connected(&self, stream: usize) -> bool {
        self.received(stream).iter().any(|received| received.event == "carillon.connected")
    }

    /// Why the stream is over for good, if it is.
    pub fn end(&self, stream: usize) -> Option<String> {
        let lines = self.lines.lock().unwrap();
        let line = lines.iter().find(|line| line["stream"] == stream && line["end"].is_string())?;
        Some(line["end"].as_str().unwrap().to_owned())
    }

    /// Signs out on the page; programs have their token revoked by the test.
    pub async fn sign_out(&self) {
        if let By::Page(page, _) = &self.by {
            page.eval("fetch('/api/v1/session', { method: 'DELETE' }).then((answer) => answer.status)").await;
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        match &mut self.by {
            By::Program(process) => {
                // Not SIGKILL: a shell has children of its own to end.
                signal(process.id(), "TERM");
                let _ = process.wait();
            }
            By::Page(_, polling) => polling.abort(),
        }
    }
}

fn start_program(
    mut program: Command,
    streams: &[String],
    token: &str,
    lines: &Arc<Mutex<Vec<Value>>>,
) -> Child {
    let mut process = program
        .args(streams)
        .env("CARILLON_TOKEN", token)
        .env("CARILLON_NAMES", NAMES.join(","))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        // What they say while nodes are away is as expected.
        .stderr(if std::env::var("RUST_LOG").is_ok() { Stdio::inherit() } else { Stdio::null() })
        .spawn()
        .expect("run the tests with scripts/test");
    let (output, lines) = (process.stdout.take().unwrap(), lines.clone());
    std::thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            let line: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
            lines.lock().unwrap().push(line);
        }
    });
    process
}

/// A browser with one page.
enum Page {
    Chromium(Tab, #[allow(dead_code, reason = "ends when dropped")] Box<Browser>),
    Firefox(Firefox),
}

impl Page {
    async fn open(client: Client, streams: &[String]) -> Self {
        let address = url::Url::parse(&streams[0]).unwrap().join("/login").unwrap();
        let page = if client == Client::Firefox {
            Self::Firefox(Firefox::start(address.as_str()).await)
        } else {
            let browser = Browser::start().await;
            Self::Chromium(browser.open(address.as_str()).await, Box::new(browser))
        };
        let body = json!({ "name": "alice", "password": "password of alice" }).to_string();
        let signing_in = format!(
            "fetch('/api/v1/session', {{ method: 'POST', body: {} }}).then((answer) => answer.status)",
            json!(body)
        );
        assert_eq!(page.eval(&signing_in).await, 204);
        page.eval(&listening(streams)).await;
        page
    }

    async fn eval(&self, expression: &str) -> Value {
        match self {
            Self::Chromium(tab, _) => tab.eval(expression).await,
            Self::Firefox(firefox) => firefox.eval(expression).await,
        }
    }
}

/// What a page does without `carillon.js`.
fn listening(streams: &[String]) -> String {
    format!(
        "window.lines = [], {}.forEach((address, stream) => {{
            const source = new EventSource(address, {{ withCredentials: true }});
            for (const name of {}) {{
                source.addEventListener(name, ({{ type, data }}) => lines.push({{ stream, event: type, data }}));
            }}
            source.addEventListener('error', () => {{
                if (source.readyState === EventSource.CLOSED) lines.push({{ stream, end: 'closed' }});
            }});
            (window.sources ??= []).push(source);
        }}), null",
        json!(streams),
        json!([&["message"], &NAMES[..]].concat()),
    )
}

async fn poll(page: Arc<Page>, lines: Arc<Mutex<Vec<Value>>>) {
    loop {
        if let Value::Array(new) = page.eval("window.lines.splice(0)").await {
            lines.lock().unwrap().extend(new);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
