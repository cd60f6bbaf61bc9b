//! `carillon publish`: events over HTTP, from arguments or from standard input.

use std::io::Write as _;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use reqwest::StatusCode;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use tokio::time::Instant;
use uuid::Uuid;

use super::Misconfigured;
use super::client::{ClientArgs, Refusal, Servers, body, no_answer, pause, retry_after};
use super::lines::{BadLine, Batch, Form, Gatherer, standard_input};
use super::terminal::say;
use crate::event::{Draft, Invalid, Recipients};
use crate::publishing::MAX_KEY_LEN;

/// How long one request may take, the upload of a full batch included.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// The least time a last attempt is given.
const LEAST_TIMEOUT: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
pub(super) struct PublishArgs {
    /// The event's data, as JSON (or any text, with --text)
    #[arg(conflicts_with = "lines", allow_negative_numbers = true)]
    data: Option<String>,
    /// Publish what comes on standard input, one event per line: each line is an event as the API takes it, or
    /// the data of one if --type and --to are given. Lines are sent as they come, many at once if many come;
    /// empty ones are skipped
    #[arg(long)]
    lines: bool,
    /// The data is text, not JSON
    #[arg(long)]
    text: bool,
    /// What kind of event, such as order.paid
    #[arg(long = "type", value_name = "TYPE", requires = "to")]
    event_type: Option<String>,
    /// Whom it is for: everyone, user:NAME, users:NAME,NAME or topic:TOPIC
    #[arg(long, requires = "event_type")]
    to: Option<String>,
    /// How urgent: low, normal, high or urgent [default: normal]
    #[arg(long, requires = "event_type")]
    priority: Option<String>,
    /// Seconds after which it ends for everyone
    #[arg(long, value_name = "SECONDS", requires = "event_type")]
    expires_in: Option<u64>,
    /// The time at which it ends for everyone, such as 2030-01-31T12:00:00Z
    #[arg(long, value_name = "TIME", requires = "event_type", conflicts_with = "expires_in")]
    expires_at: Option<String>,
    /// Seconds after which it leaves a user who has read it [default: it stays]
    #[arg(long, value_name = "SECONDS", requires = "event_type")]
    keep_after_read: Option<u64>,
    /// Names this publication: repeating the command with the same key publishes nothing new
    #[arg(long, conflicts_with = "lines")]
    key: Option<String>,
    /// With --lines: the most events sent at once
    #[arg(long, env = "CARILLON_BATCH", default_value_t = 1000, value_parser = clap::value_parser!(u16).range(1..=1000))]
    batch: u16,
    /// How many seconds to go on trying when no server can take an event
    #[arg(long, value_name = "SECONDS", env = "CARILLON_RETRY_SECONDS", default_value_t = 60)]
    retry_seconds: u32,
    #[command(flatten)]
    client: ClientArgs,
}

/// Publishes what the arguments say.
pub(super) async fn run(args: PublishArgs) -> anyhow::Result<()> {
    let patience = Duration::from_secs(args.retry_seconds.into());
    let publisher = Publisher { servers: args.client.servers()?, patience };
    if args.lines {
        let form = args.form()?;
        let gatherer = Gatherer::new(standard_input(), form, args.batch.into());
        return Lines::new(publisher).publish(gatherer).await;
    }
    publish_one(publisher, &args).await
}

/// One event from the arguments.
async fn publish_one(mut publisher: Publisher, args: &PublishArgs) -> anyhow::Result<()> {
    let wrong = |what: &str| Misconfigured(what.to_owned());
    let Some(data) = &args.data else {
        return Err(wrong("nothing to publish: give the data as JSON, or --lines for standard input").into());
    };
    let beginning = args.beginning()?.ok_or_else(|| wrong("--type and --to are missing"))?;
    let data = if args.text { Value::from(data.as_str()).to_string() } else { data.clone() };
    if serde_json::from_str::<&RawValue>(&data).is_err() {
        return Err(wrong("the data is not JSON; to publish it as text, give --text").into());
    }
    let key = args.key.clone().unwrap_or_else(|| Uuid::now_v7().to_string());
    if !(1..=MAX_KEY_LEN).contains(&key.len()) || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(wrong("--key: must be 1 to 128 visible ASCII characters").into());
    }
    let body = Bytes::from(format!("{beginning}{data}}}"));
    let answer = publisher.send("/api/v1/events", &key, body, say).await.map_err(|error| match error {
        Unpublished::Refused(refusal) => anyhow::anyhow!("the event was not published: {refusal}"),
        Unpublished::GaveUp(why) => anyhow::anyhow!("the event was not acknowledged: {why}"),
    })?;
    let receipt: Receipt = serde_json::from_slice(&answer).context("the answer is not a node's")?;
    writeln!(std::io::stdout(), "{}\t{}", receipt.position, receipt.id)?;
    Ok(())
}

impl PublishArgs {
    /// What each line is.
    fn form(&self) -> Result<Form, Misconfigured> {
        Ok(match self.beginning()? {
            Some(beginning) if self.text => Form::Text(beginning),
            Some(beginning) => Form::Data(beginning),
            None if self.text => return Err(Misconfigured("--text needs --type and --to".into())),
            None => Form::Event,
        })
    }

    /// An event of these options as JSON, up to and including `"data":`. `None` if no type is given.
    fn beginning(&self) -> Result<Option<String>, Misconfigured> {
        let (Some(event_type), Some(to)) = (&self.event_type, &self.to) else { return Ok(None) };
        let to = recipients(to).map_err(|invalid| wrong_option(&invalid))?;
        let options = [
            ("type", Some(json!(event_type))),
            ("to", Some(json!(to))),
            ("priority", self.priority.as_ref().map(|priority| json!(priority))),
            ("expires_in", self.expires_in.map(|seconds| json!(seconds))),
            ("expires_at", self.expires_at.as_ref().map(|time| json!(time))),
            ("keep_after_read", self.keep_after_read.map(|seconds| json!(seconds))),
        ];
        let given = options.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
        let event = Value::Object(Map::from_iter(given)).to_string();
        // Checked as a node would, so that a mistake is reported before anything is read or sent.
        let checked = RawValue::from_string(event.clone()).map_err(|e| Misconfigured(e.to_string()))?;
        Draft::read(&checked, "", usize::MAX).map_err(|invalid| wrong_option(&invalid))?;
        Ok(Some(format!("{},\"data\":", event.strip_suffix('}').unwrap_or(&event))))
    }
}

fn wrong_option(invalid: &Invalid) -> Misconfigured {
    let option = invalid.field.split('.').next().unwrap_or_default().replace('_', "-");
    Misconfigured(format!("--{option}: {}", invalid.message))
}

/// Reads `--to`.
fn recipients(text: &str) -> Result<Recipients, Invalid> {
    let names = |list: &str| list.split(',').map(|name| name.trim().to_owned()).collect::<Vec<_>>();
    match text.split_once(':') {
        None if text == "everyone" => Ok(Recipients::Everyone),
        Some(("user", name)) if !name.is_empty() => Ok(Recipients::User(name.to_owned())),
        Some(("users", list)) if names(list).iter().all(|name| !name.is_empty()) => {
            Ok(Recipients::Users(names(list)))
        }
        Some(("topic", topic)) => Ok(Recipients::Topic(topic.to_owned())),
        _ => Err(Invalid::new("to", "must be everyone, user:NAME, users:NAME,NAME or topic:TOPIC")),
    }
}

/// What an accepted event got.
#[derive(Deserialize)]
struct Receipt {
    id: Uuid,
    position: i64,
}

/// Why something was not published.
enum Unpublished {
    /// It is wrong; trying again would not help.
    Refused(Refusal),
    /// Nobody took it in time. Whether it was published is not known.
    GaveUp(String),
}

/// Sends until somebody takes it.
struct Publisher {
    servers: Servers,
    patience: Duration,
}

impl Publisher {
    /// Posts `body`, with the same key at every attempt, so that it is published once. Gives the answer's body.
    /// `report` is called with the first failure.
    async fn send(
        &mut self,
        path: &str,
        key: &str,
        body: Bytes,
        report: impl Fn(&str),
    ) -> Result<Vec<u8>, Unpublished> {
        let until = Instant::now() + self.patience;
        let mut timeout = REQUEST_TIMEOUT;
        for failures in 0.. {
            let (why, asked) = match self.attempt(path, key, &body, timeout).await {
                Attempt::Done(answer) => return Ok(answer),
                Attempt::Refused(refusal) => return Err(Unpublished::Refused(refusal)),
                Attempt::Failed(why, asked) => (format!("{}: {why}", self.servers.current()), asked),
            };
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Unpublished::GaveUp(why));
            }
            if failures == 0 {
                report(&format!("{why}; trying again for up to {} seconds", self.patience.as_secs()));
            }
            self.servers.advance();
            let pause = pause(failures, self.servers.count(), asked, rand::random());
            tokio::time::sleep(pause.min(left)).await;
            let left = until.saturating_duration_since(Instant::now());
            timeout = REQUEST_TIMEOUT.min(left).max(LEAST_TIMEOUT);
        }
        Err(Unpublished::GaveUp("too many attempts".into()))
    }

    async fn attempt(&self, path: &str, key: &str, body: &Bytes, timeout: Duration) -> Attempt {
        let request = self
            .servers
            .http
            .post(format!("{}{path}", self.servers.current()))
            .header("idempotency-key", key)
            .header("content-type", "application/json")
            .timeout(timeout)
            .body(body.clone());
        let answer = match request.send().await {
            Ok(answer) => answer,
            Err(error) => return Attempt::Failed(no_answer(&error), None),
        };
        match answer.status() {
            status if status.is_success() => match self::body(answer).await {
                Ok(body) => Attempt::Done(body),
                Err(error) => Attempt::Failed(no_answer(&error), None),
            },
            StatusCode::REQUEST_TIMEOUT
            | StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT => {
                let asked = retry_after(&answer);
                Attempt::Failed(Refusal::read(answer).await.to_string(), asked)
            }
            _ => Attempt::Refused(Refusal::read(answer).await),
        }
    }
}

/// What became of one request.
enum Attempt {
    Done(Vec<u8>),
    Refused(Refusal),
    /// Why, and how long the server asked to wait.
    Failed(String, Option<Duration>),
}

/// Standard input on its way to the servers.
struct Lines {
    publisher: Publisher,
    bar: ProgressBar,
    /// How many events were acknowledged.
    events: u64,
    /// The last line that was.
    last: u64,
}

impl Lines {
    fn new(publisher: Publisher) -> Self {
        // Hidden where standard error is not a terminal.
        let bar = ProgressBar::new_spinner();
        if let Ok(style) =
            ProgressStyle::with_template("{spinner} {human_pos} events acknowledged, {per_sec}")
        {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(100));
        Self { publisher, bar, events: 0, last: 0 }
    }

    async fn publish(mut self, gatherer: Gatherer) -> anyhow::Result<()> {
        let result = tokio::select! {
            result = self.publish_all(gatherer) => result,
            _ = tokio::signal::ctrl_c() => Err("interrupted".into()),
        };
        self.bar.finish_and_clear();
        match result {
            Ok(()) => say(&format!("{} events acknowledged", self.events)),
            Err(what) => anyhow::bail!("{what}; {}", self.standing()),
        }
        Ok(())
    }

    async fn publish_all(&mut self, mut gatherer: Gatherer) -> Result<(), String> {
        let mut halves = Vec::new();
        loop {
            let next = match halves.pop() {
                Some(half) => Some(half),
                None => gatherer.next().await.map_err(|bad: BadLine| bad.to_string())?,
            };
            let Some(mut batch): Option<Batch> = next else { return Ok(()) };
            let body = batch.take_body();
            // A new key for each batch, and one for all attempts at it.
            let key = Uuid::now_v7().to_string();
            let bar = self.bar.clone();
            let report = |line: &str| bar.suspend(|| say(line));
            let answer = match self.publisher.send("/api/v1/events/batch", &key, body.clone(), report).await {
                Ok(answer) => answer,
                // Together they are more than a node takes at once, for their bytes or their recipients.
                Err(Unpublished::Refused(refusal)) if is_too_large(&refusal) && batch.len() > 1 => {
                    // The first is sent first.
                    halves.extend(batch.halves(&body).into_iter().flatten().rev());
                    continue;
                }
                Err(error) => return Err(not_published(&batch, error)),
            };
            check(&batch, &answer)?;
            self.events += batch.len() as u64;
            self.last = batch.span().1;
            self.bar.set_position(self.events);
        }
    }

    /// Which lines are safe, for somebody who has to go on from there.
    fn standing(&self) -> String {
        match self.last {
            0 => "no line was acknowledged".into(),
            last => format!("lines 1 to {last} were acknowledged; line {} and after were not", last + 1),
        }
    }
}

/// Whether a whole batch is refused for its size; the refusal of a single event names that event.
fn is_too_large(refusal: &Refusal) -> bool {
    refusal.status == 413 && refusal.field.as_deref().is_none_or(|field| field == "events")
}

/// Why a batch failed, with the input's line if one is at fault.
fn not_published(batch: &Batch, error: Unpublished) -> String {
    let (first, last) = batch.span();
    let refusal = match error {
        Unpublished::GaveUp(why) => return why,
        Unpublished::Refused(refusal) => refusal,
    };
    let field = refusal.field.as_deref().unwrap_or_default();
    match batch.line_of(field) {
        Some((line, rest)) => {
            let message = refusal
                .detail
                .strip_prefix(field)
                .map_or(refusal.detail.as_str(), |message| message.trim_start_matches(':').trim_start());
            let rest = if rest.is_empty() { String::new() } else { format!("{rest}: ") };
            format!("line {line}: {rest}{message} ({})", refusal.status)
        }
        None => format!("lines {first} to {last} were refused: {refusal}"),
    }
}

/// That the answer is a node's, and about all of the batch.
fn check(batch: &Batch, answer: &[u8]) -> Result<(), String> {
    #[derive(Deserialize)]
    struct Receipts {
        events: Vec<Receipt>,
    }
    match serde_json::from_slice::<Receipts>(answer) {
        Ok(receipts) if receipts.events.len() == batch.len() => Ok(()),
        _ => Err("the answer is not a node's: is --server right?".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    #[derive(Debug, clap::Parser)]
    struct Command {
        #[command(flatten)]
        publish: PublishArgs,
    }

    fn args(given: &[&str]) -> PublishArgs {
        Command::try_parse_from([&["publish"], given].concat()).unwrap().publish
    }

    #[test]
    fn recipients_are_read() {
        let cases = [
            ("everyone", json!("everyone")),
            ("user:alice", json!({ "user": "alice" })),
            ("users:alice, bob", json!({ "users": ["alice", "bob"] })),
            ("topic:room/7", json!({ "topic": "room/7" })),
        ];
        for (text, expected) in cases {
            assert_eq!(json!(recipients(text).unwrap()), expected, "{text}");
        }
        for text in ["", "alice", "user:", "users:", "users:a,,b", "group:a", "everyone:x"] {
            assert_eq!(recipients(text).unwrap_err().field, "to", "{text}");
        }
    }

    #[test]
    fn options_become_the_beginning_of_an_event() {
        let given = ["--type", "a", "--to", "user:x", "--priority", "high", "--expires-in", "5"];
        let beginning = args(&given).beginning().unwrap().unwrap();
        let event: Value = serde_json::from_str(&format!("{beginning}[1]}}")).unwrap();
        let expected =
            json!({ "type": "a", "to": { "user": "x" }, "priority": "high", "expires_in": 5, "data": [1] });
        assert_eq!(event, expected);
        assert_eq!(args(&["--lines"]).beginning().unwrap(), None);
    }

    #[test]
    fn a_wrong_option_is_named() {
        let cases = [
            (["--type", "a b", "--to", "everyone", "--batch", "1"], "--type: "),
            (["--type", "a", "--to", "nobody", "--batch", "1"], "--to: "),
            (["--type", "a", "--to", "topic:/", "--batch", "1"], "--to: "),
            (["--type", "a", "--to", "everyone", "--priority", "most"], "--priority: "),
            (["--type", "a", "--to", "everyone", "--expires-in", "0"], "--expires-in: "),
            (["--type", "a", "--to", "everyone", "--expires-at", "soon"], "--expires-at: "),
        ];
        for (given, expected) in cases {
            let error = args(&given).beginning().unwrap_err().0;
            assert!(error.starts_with(expected), "{error}");
        }
    }

    #[test]
    fn a_refusal_names_the_line_once() {
        let mut batch = Batch::of_lines(&[5, 6]);
        let _ = batch.take_body();
        let refused = |detail: &str, field: Option<&str>| {
            let refusal = Refusal { status: 400, detail: detail.into(), field: field.map(Into::into) };
            not_published(&batch, Unpublished::Refused(refusal))
        };
        let about = refused("events[1].type: is missing", Some("events[1].type"));
        assert_eq!(about, "line 6: type: is missing (400)");
        let whole = refused("events[0]: must be an object", Some("events[0]"));
        assert_eq!(whole, "line 5: must be an object (400)");
        assert_eq!(refused("too large", None), "lines 5 to 6 were refused: too large (400)");
    }
}
