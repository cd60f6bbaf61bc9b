//! Prints each event as a line of JSON, once, whatever happens to the connection or to the node.
//!
//!     CARILLON_TOKEN=… cargo run --example listen -- [TOPIC …]

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use anyhow::{Context as _, bail};
// Any parser of Server-Sent Events does that keeps to the standard: an event ends at a blank line, never before.
use carillon::sse_parser::{SseEvent, SseParser};
use reqwest::{Client, RequestBuilder, Response};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::time::{sleep, timeout};
use url::Url;

/// A node says something at least every 15 seconds: three times that is a connection that died unnoticed.
const SILENCE: Duration = Duration::from_secs(45);
/// How many ids to remember. Repeats are of the last few, not of last week.
const IDS_KEPT: usize = 10_000;
const MAX_EVENT_BYTES: usize = 16 << 20;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    // Any node will do; several, separated by commas, are tried in turn.
    let servers = std::env::var("CARILLON_SERVER").unwrap_or_else(|_| "http://127.0.0.1:8080".into());
    let token = std::env::var("CARILLON_TOKEN").context("CARILLON_TOKEN is not set")?;
    let topics = std::env::args().skip(1).map(|topic| ("topic", topic)).collect();
    let mut listener = Listener { client: Client::new(), token, topics, ..Listener::default() };
    for server in servers.split(',').cycle() {
        listener.follow(server).await?;
        // At random, so that not everybody comes back at once when a node goes.
        sleep(listener.pause.unwrap_or(Duration::from_secs(1)).mul_f64(rand::random_range(0.5..1.5))).await;
    }
    Ok(())
}

/// What outlives a connection.
#[derive(Default)]
struct Listener {
    client: Client,
    token: String,
    topics: Vec<(&'static str, String)>,
    /// Everything up to here was shown.
    cursor: String,
    seen: HashSet<String>,
    oldest_first: VecDeque<String>,
    pause: Option<Duration>,
}

impl Listener {
    /// One connection, to its end. An error means that coming back would not help.
    async fn follow(&mut self, server: &str) -> anyhow::Result<()> {
        let request = self.get(server, "stream", &self.topics)?.header("last-event-id", &self.cursor);
        let Ok(Ok(mut stream)) = timeout(SILENCE, request.send()).await else { return Ok(()) };
        match stream.status().as_u16() {
            200 => {}
            // The request is wrong, or the token is over.
            400 | 401 | 403 => bail!("refused: {}", stream.text().await?),
            _ => return Ok(()),
        }
        let mut parser = SseParser::new(MAX_EVENT_BYTES);
        while let Some(piece) = next_piece(&mut stream).await {
            let (events, is_new) = (parser.feed(&piece)?, self.cursor.is_empty());
            self.pause = parser.retry().map(Duration::from_millis).or(self.pause);
            for event in events {
                if let Err(error) = self.handle(server, &event).await {
                    eprintln!("{server}: {error}");
                    return Ok(());
                }
                // Only now: what failed comes again.
                self.cursor = event.id;
            }
            // From the first frame on: nothing is missed after it.
            if !parser.last_event_id().is_empty() {
                if is_new {
                    eprintln!("listening to {server}");
                }
                parser.last_event_id().clone_into(&mut self.cursor);
            }
        }
        Ok(())
    }

    async fn handle(&mut self, server: &str, event: &SseEvent) -> anyhow::Result<()> {
        match event.event.as_str() {
            "message" => self.show(&event.data)?,
            // What was missed cannot be told any more, but the inbox has what is still of interest.
            "carillon.reset" => {
                eprintln!("history was lost: {}: reading the inbox", event.data);
                self.read_inbox(server, &[]).await?;
                if !self.topics.is_empty() {
                    self.read_inbox(server, &self.topics.clone()).await?;
                }
            }
            // carillon.read, carillon.retract and carillon.expire are for those who show a list.
            _ => {}
        }
        Ok(())
    }

    /// Shows what the newest page has that was not seen: of some topics, or else for this user and everyone.
    async fn read_inbox(&mut self, server: &str, topics: &[(&str, String)]) -> anyhow::Result<()> {
        #[derive(Deserialize)]
        struct Page {
            entries: Vec<Box<RawValue>>,
        }
        let parameters = [topics, &[("limit", "200".into())]].concat();
        let request = self.get(server, "inbox", &parameters)?.timeout(SILENCE);
        let page: Page = request.send().await?.error_for_status()?.json().await?;
        page.entries.iter().rev().try_for_each(|entry| self.show(entry.get()))
    }

    fn get(&self, server: &str, what: &str, parameters: &[(&str, String)]) -> anyhow::Result<RequestBuilder> {
        let address = Url::parse_with_params(&format!("{server}/api/v1/{what}"), parameters)?;
        Ok(self.client.get(address).bearer_auth(&self.token))
    }

    /// Prints an event as it was written, unless it came before.
    fn show(&mut self, event: &str) -> anyhow::Result<()> {
        #[derive(Deserialize)]
        struct Event {
            id: String,
        }
        let Event { id } = serde_json::from_str(event)?;
        if !self.seen.insert(id.clone()) {
            return Ok(());
        }
        self.oldest_first.push_back(id);
        if self.oldest_first.len() > IDS_KEPT {
            self.oldest_first.pop_front().map(|id| self.seen.remove(&id));
        }
        println!("{event}");
        Ok(())
    }
}

/// What comes next, or nothing if the stream ended, broke, or was silent for too long.
async fn next_piece(stream: &mut Response) -> Option<bytes::Bytes> {
    timeout(SILENCE, stream.chunk()).await.ok()?.ok()?
}
