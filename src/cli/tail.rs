//! `carillon tail`: a listener in the terminal.

use std::collections::{HashSet, VecDeque};
use std::io::{self, Write as _};
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;
use futures_util::StreamExt as _;
use reqwest::header::CONTENT_TYPE;
use reqwest::{Response, StatusCode};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::time::timeout;
use url::Url;

use super::Misconfigured;
use super::client::{ClientArgs, Refusal, Servers, no_answer, pause, retry_after};
use super::terminal::{harmless, say};
use crate::event::{Cursor, EventType, Priority, Topic};
use crate::sse_parser::{SseEvent, SseParser};

/// How long a server may take to begin a stream; a node that starts waits for its store before it does.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);
/// The pause before reconnecting, until a server says another.
const DEFAULT_RETRY: Duration = Duration::from_secs(1);
/// The most bytes of one event.
const MAX_EVENT: usize = 16 * 1024 * 1024;
/// How many ids are kept to drop repeats.
const IDS_KEPT: usize = 10_000;

#[derive(Debug, Args)]
pub(super) struct TailArgs {
    /// Only events of this type; may be repeated
    #[arg(long = "type", value_name = "TYPE")]
    types: Vec<EventType>,
    /// Only events of this priority and higher: low, normal, high or urgent
    #[arg(long, value_name = "PRIORITY")]
    min_priority: Option<Priority>,
    /// Also events for this topic; may be repeated
    #[arg(long = "topic", value_name = "TOPIC")]
    topics: Vec<Topic>,
    /// Begin with the last events of each topic, so many (up to 100); not when going on from a cursor
    #[arg(
        long,
        value_name = "NUMBER",
        requires = "topics",
        value_parser = clap::value_parser!(u8).range(1..=100)
    )]
    history: Option<u8>,
    /// Also print, on standard error, who is on the topics, who comes and who leaves
    #[arg(long, requires = "topics")]
    presence: bool,
    /// Go on from here instead of from now
    #[arg(long)]
    cursor: Option<Cursor>,
    /// Go on from the cursor in this file, if it exists, and keep it there. After a crash the last events may be
    /// shown again, never left out. With --cursor, that is where to begin
    #[arg(long, value_name = "PATH", env = "CARILLON_CURSOR_FILE")]
    cursor_file: Option<PathBuf>,
    /// Show each event as JSON on one line
    #[arg(long)]
    json: bool,
    /// End after this many events
    #[arg(long)]
    count: Option<NonZeroU64>,
    /// Also print, on standard error, what was read elsewhere, taken back or has expired
    #[arg(long, short)]
    verbose: bool,
    /// Seconds of silence after which a connection counts as dead; at least three of the nodes' heartbeats
    #[arg(
        long,
        value_name = "SECONDS",
        env = "CARILLON_SILENCE_SECONDS",
        default_value_t = 45,
        value_parser = clap::value_parser!(u16).range(1..)
    )]
    silence_seconds: u16,
    #[command(flatten)]
    client: ClientArgs,
}

/// Listens until enough events came or nobody reads the output.
pub(super) async fn run(args: TailArgs) -> anyhow::Result<()> {
    let mut servers = args.client.servers()?;
    let mut tail = Tail::new(args)?;
    let mut failures = 0;
    loop {
        let lost = match tail.connect(&servers).await? {
            Ended::Enough => return Ok(()),
            Ended::Lost(lost) => lost,
        };
        if lost.had_begun {
            failures = 0;
        }
        tail.report_once(&format!("{}: {}; reconnecting", servers.current(), lost.why));
        servers.advance();
        let asked = lost.asked.unwrap_or_default().max(tail.retry);
        tokio::time::sleep(pause(failures, servers.count(), Some(asked), rand::random())).await;
        failures = failures.saturating_add(1);
    }
}

/// How a connection ended, if not by an error that ends everything.
enum Ended {
    /// All that was wanted came, or nobody reads any more.
    Enough,
    Lost(Lost),
}

struct Lost {
    why: String,
    /// The stream had begun.
    had_begun: bool,
    /// How long the server asked to wait.
    asked: Option<Duration>,
}

/// What outlives a connection.
struct Tail {
    args: TailArgs,
    /// Everything up to here was shown.
    cursor: String,
    /// The cursor in the file.
    saved: String,
    seen: Recent,
    shown: u64,
    retry: Duration,
    /// The last line about the connection: repeated failures are reported once.
    reported: String,
}

impl Tail {
    fn new(args: TailArgs) -> anyhow::Result<Self> {
        let saved = args.cursor_file.as_deref().map(read_cursor).transpose()?.flatten().unwrap_or_default();
        let cursor = args.cursor.as_ref().map_or_else(|| saved.clone(), ToString::to_string);
        let (seen, retry) = (Recent::default(), DEFAULT_RETRY);
        Ok(Self { args, cursor, saved, seen, shown: 0, retry, reported: String::new() })
    }

    fn report_once(&mut self, line: &str) {
        if self.reported != line {
            say(line);
            line.clone_into(&mut self.reported);
        }
    }

    /// Opens a stream on the current server and follows it to its end.
    async fn connect(&mut self, servers: &Servers) -> anyhow::Result<Ended> {
        let lost = |why: String, asked| Ok(Ended::Lost(Lost { why, had_begun: false, asked }));
        let mut request = servers.http.get(self.address(servers.current())?);
        if !self.cursor.is_empty() {
            request = request.header("last-event-id", &self.cursor);
        }
        let answer = match timeout(ANSWER_TIMEOUT, request.send()).await {
            Err(_) => return lost("no answer in time".into(), None),
            Ok(Err(error)) => return lost(no_answer(&error), None),
            Ok(Ok(answer)) => answer,
        };
        match answer.status() {
            StatusCode::OK => self.follow(answer, servers.current()).await,
            StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT => self.refused_for_now(answer).await,
            status if status.is_server_error() => self.refused_for_now(answer).await,
            _ => bail!("{}: {}", servers.current(), Refusal::read(answer).await),
        }
    }

    async fn refused_for_now(&self, answer: Response) -> anyhow::Result<Ended> {
        let asked = retry_after(&answer);
        let why = Refusal::read(answer).await.to_string();
        Ok(Ended::Lost(Lost { why, had_begun: false, asked }))
    }

    fn address(&self, server: &str) -> anyhow::Result<Url> {
        let mut address = Url::parse(&format!("{server}/api/v1/stream"))?;
        let types = self.args.types.iter().map(|t| ("type", t.as_str()));
        let topics = self.args.topics.iter().map(|t| ("topic", t.as_str()));
        let priority = self.args.min_priority.iter().map(|p| ("min_priority", p.as_str()));
        let history = self.args.history.map(|count| count.to_string());
        let history = history.iter().map(|count| ("history", count.as_str()));
        let presence = self.args.presence.then_some(("presence", "true"));
        let pairs: Vec<_> = types.chain(topics).chain(priority).chain(history).chain(presence).collect();
        if !pairs.is_empty() {
            address.query_pairs_mut().extend_pairs(pairs);
        }
        Ok(address)
    }

    /// Shows what the stream brings.
    async fn follow(&mut self, answer: Response, server: &str) -> anyhow::Result<Ended> {
        let content_type = answer.headers().get(CONTENT_TYPE).and_then(|t| t.to_str().ok()).unwrap_or("");
        if !content_type.starts_with("text/event-stream") {
            bail!("{server}: the answer is not a node's: is --server right?");
        }
        let silence = Duration::from_secs(self.args.silence_seconds.into());
        let mut parser = SseParser::new(MAX_EVENT);
        let mut pieces = answer.bytes_stream();
        let mut had_begun = false;
        let why = loop {
            let piece = match timeout(silence, pieces.next()).await {
                Err(_) => break format!("nothing came for {} seconds", silence.as_secs()),
                Ok(None) if !had_begun => break "the server is not ready".to_owned(),
                Ok(None) => break "connection ended".to_owned(),
                Ok(Some(Err(error))) => break format!("connection lost ({})", no_answer(&error)),
                Ok(Some(Ok(piece))) => piece,
            };
            let events = parser.feed(&piece).with_context(|| server.to_owned())?;
            // All that is asked for is needed: another node may know it, as during an upgrade.
            if let Some(names) = events.iter().find_map(ignored) {
                break format!("it does not know {names}");
            }
            if !had_begun && !parser.last_event_id().is_empty() {
                had_begun = true;
                self.report_once(&format!("connected to {server}"));
            }
            if let Some(retry) = parser.retry() {
                self.retry = Duration::from_millis(retry);
            }
            if !self.show(events, parser.last_event_id())? {
                return Ok(Ended::Enough);
            }
        };
        Ok(Ended::Lost(Lost { why, had_begun, asked: None }))
    }

    /// Shows events that came together, and moves the cursor behind them, to `end`. Whether to go on.
    fn show(&mut self, events: Vec<SseEvent>, end: &str) -> anyhow::Result<bool> {
        let mut output = String::new();
        let (mut failed, mut end) = (None, end.to_owned());
        for event in events {
            if event.event != "message" {
                failed = self.notice(&event).err();
            } else if let Some(line) = self.line(&event.data) {
                output.push_str(&line);
                output.push('\n');
                self.shown += 1;
            }
            if failed.is_some() || self.is_enough() {
                end = event.id;
                break;
            }
        }
        let mut stdout = io::stdout().lock();
        match stdout.write_all(output.as_bytes()).and_then(|()| stdout.flush()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(false),
            result => result.context("standard output")?,
        }
        // Only now: what was not shown must come again.
        if !end.is_empty() {
            self.cursor = end;
            self.save()?;
        }
        failed.map_or(Ok(!self.is_enough()), Err)
    }

    fn is_enough(&self) -> bool {
        self.args.count.is_some_and(|count| self.shown >= count.get())
    }

    /// One of the server's own events; an error if it ends everything.
    fn notice(&self, event: &SseEvent) -> anyhow::Result<()> {
        match event.event.as_str() {
            "carillon.reset" => say(&reset(&event.data)),
            "carillon.signout" => bail!("signed out: the token was revoked, or has ended"),
            "carillon.connected" | "carillon.position" => {}
            "carillon.presence" | "carillon.join" | "carillon.leave" => say(&presence(event)),
            name if self.args.verbose => say(&format!("{} {}", harmless(name), harmless(&event.data))),
            _ => {}
        }
        Ok(())
    }

    /// An event as a line; `None` if it was shown before.
    fn line(&mut self, data: &str) -> Option<String> {
        let Ok(event) = serde_json::from_str::<Shown<'_>>(data) else {
            say("something came that is not an event; it is left out");
            return None;
        };
        if !self.seen.is_new(&event.id) {
            return None;
        }
        // Line breaks can stand only between tokens, where a space means the same.
        Some(if self.args.json { harmless(&data.replace('\n', " ")) } else { event.to_string() })
    }

    fn save(&mut self) -> anyhow::Result<()> {
        if let Some(path) = self.args.cursor_file.as_deref().filter(|_| self.saved != self.cursor) {
            write_cursor(path, &self.cursor)
                .with_context(|| format!("the cursor file {} cannot be written", path.display()))?;
            self.saved.clone_from(&self.cursor);
        }
        Ok(())
    }
}

/// What is shown of an event.
#[derive(Deserialize)]
struct Shown<'a> {
    id: String,
    #[serde(rename = "type")]
    event_type: String,
    priority: String,
    to: String,
    topic: Option<String>,
    #[serde(borrow)]
    data: &'a RawValue,
    created_at: String,
}

impl std::fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}  ", harmless(&self.created_at))?;
        if self.priority != "normal" {
            write!(f, "[{}] ", harmless(&self.priority))?;
        }
        let to = self.topic.as_ref().unwrap_or(&self.to);
        let data = self.data.get().replace(['\r', '\n'], " ");
        write!(f, "{}  {}  {}", harmless(&self.event_type), harmless(to), harmless(&data))
    }
}

/// The parameters that the server says it does not know.
fn ignored(event: &SseEvent) -> Option<String> {
    #[derive(Deserialize)]
    struct Connected {
        ignored: Vec<String>,
    }
    let connected =
        (event.event == "carillon.connected").then(|| serde_json::from_str::<Connected>(&event.data).ok());
    connected.flatten().map(|connected| harmless(&connected.ignored.join(", ")))
}

/// What a `carillon.reset` means to somebody who waits for events.
fn reset(data: &str) -> String {
    #[derive(Deserialize)]
    struct Reset {
        reason: String,
    }
    let reason = serde_json::from_str(data).map_or_else(|_| data.to_owned(), |reset: Reset| reset.reason);
    let meaning = match reason.as_str() {
        "epoch" => "the server's log was restored or replaced since",
        "ahead" => "the server's log has lost the end that the cursor speaks of",
        "retention" => "they are older than what the server keeps",
        "unreadable" => "the server cannot read the cursor",
        other => &harmless(other),
    };
    format!("events may be missing: {meaning}")
}

/// What the stream says of who is on a topic.
fn presence(event: &SseEvent) -> String {
    #[derive(Deserialize)]
    struct Presence {
        topic: String,
        user: Option<String>,
        #[serde(default)]
        users: Vec<String>,
        count: Option<usize>,
    }
    let line = match serde_json::from_str::<Presence>(&event.data) {
        Ok(Presence { topic, user: Some(user), .. }) if event.event == "carillon.join" => {
            format!("{topic}: {user} came")
        }
        Ok(Presence { topic, user: Some(user), .. }) => format!("{topic}: {user} left"),
        Ok(Presence { topic, users, count, .. }) => {
            let unnamed = count.unwrap_or_default().saturating_sub(users.len());
            let more = if unnamed > 0 { format!(" and {unnamed} more") } else { String::new() };
            format!("{topic}: here are {}{more}", users.join(", "))
        }
        Err(_) => format!("{} {}", event.event, event.data),
    };
    harmless(&line)
}

/// The last ids: some more than [`IDS_KEPT`] would be of no use, since a stream repeats only its end.
#[derive(Debug, Default)]
struct Recent {
    order: VecDeque<String>,
    ids: HashSet<String>,
}

impl Recent {
    fn is_new(&mut self, id: &str) -> bool {
        if !self.ids.insert(id.to_owned()) {
            return false;
        }
        self.order.push_back(id.to_owned());
        if self.order.len() > IDS_KEPT
            && let Some(oldest) = self.order.pop_front()
        {
            self.ids.remove(&oldest);
        }
        true
    }
}

/// The cursor in the file; `None` if there is no file. Anything else in it is an error: to go on from now
/// instead would leave out events and not say so.
fn read_cursor(path: &Path) -> Result<Option<String>, Misconfigured> {
    let wrong = |what: String| Misconfigured(format!("the cursor file {} {what}", path.display()));
    match std::fs::read_to_string(path) {
        Ok(text) => match text.trim().parse::<Cursor>() {
            Ok(cursor) => Ok(Some(cursor.to_string())),
            Err(_) => Err(wrong("holds no cursor; remove it to begin from now".into())),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(wrong(format!("cannot be read: {error}"))),
    }
}

/// Replaces the file as a whole, so that a crash leaves the old cursor or the new one.
fn write_cursor(path: &Path, cursor: &str) -> io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".{}.tmp", std::process::id()));
    std::fs::write(&beside, format!("{cursor}\n"))?;
    std::fs::rename(&beside, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_what_matters_and_cannot_move_the_cursor() {
        let show = |json: &str| serde_json::from_str::<Shown<'_>>(json).unwrap().to_string();
        let normal = r#"{"id":"1","position":7,"type":"a","priority":"normal","to":"you","data":{"n":1},"created_at":"T"}"#;
        assert_eq!(show(normal), "T  a  you  {\"n\":1}");
        let urgent = "{\"id\":\"1\",\"type\":\"a\\u001b[2J\",\"priority\":\"urgent\",\"to\":\"topic\",\
            \"topic\":\"room/7\",\"data\":\n\"\u{9b}2J\u{202e}\",\"created_at\":\"T\"}";
        assert_eq!(show(urgent), "T  [urgent] a\\u001b[2J  room/7  \"\\u009b2J\\u202e\"");
    }

    #[test]
    fn resets_are_explained() {
        assert!(reset(r#"{"reason":"retention","cursor":"a-1"}"#).contains("older than"));
        assert_eq!(reset(r#"{"reason":"\u001b"}"#), "events may be missing: \\u001b");
    }

    #[test]
    fn presence_is_shown_in_words() {
        let line = |name: &str, data: &str| {
            presence(&SseEvent { event: name.into(), data: data.into(), id: String::new() })
        };
        let crowd = r#"{"topic":"a/b","users":["alice","bob"],"count":5}"#;
        assert_eq!(line("carillon.presence", crowd), "a/b: here are alice, bob and 3 more");
        assert_eq!(line("carillon.join", r#"{"topic":"a/b","user":"carol"}"#), "a/b: carol came");
        assert_eq!(
            line("carillon.leave", r#"{"topic":"a/b","user":"\u001bcarol"}"#),
            "a/b: \\u001bcarol left"
        );
        assert_eq!(line("carillon.join", "nonsense"), "carillon.join nonsense");
    }

    #[test]
    fn repeats_are_known_for_a_while() {
        let mut recent = Recent::default();
        assert!(recent.is_new("a") && !recent.is_new("a"));
        for number in 0..IDS_KEPT {
            assert!(recent.is_new(&number.to_string()));
        }
        assert!(recent.is_new("a"));
        assert_eq!((recent.order.len(), recent.ids.len()), (IDS_KEPT, IDS_KEPT));
    }

    #[test]
    fn a_cursor_file_is_read_back_and_never_half() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cursor");
        assert_eq!(read_cursor(&path).unwrap(), None);
        write_cursor(&path, "e-7+9").unwrap();
        write_cursor(&path, "e-8").unwrap();
        assert_eq!(read_cursor(&path).unwrap().as_deref(), Some("e-8"));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        std::fs::write(&path, "").unwrap();
        assert!(read_cursor(&path).unwrap_err().0.contains("holds no cursor"));
    }
}
