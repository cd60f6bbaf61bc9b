//! Publishers: they log each attempt and what became of it, and repeat with the same key what was not answered.

use std::time::Duration;

use carillon::event::Priority;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use reqwest::Client;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::ledger::{Attempt, Audience, LedgerWriter, Outcome};

/// How long an answer may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// The pause before repeating.
const PAUSE: Duration = Duration::from_millis(100);
/// How often an event is tried at most.
const ATTEMPTS: usize = 400;

/// What is published, and how often.
#[derive(Debug, Clone)]
pub struct Mix {
    /// Whom for; drawn evenly, so a more frequent audience stands more often.
    pub audiences: Vec<Audience>,
    /// Of which types.
    pub types: Vec<String>,
    /// How urgent; drawn evenly.
    pub priorities: Vec<Priority>,
    /// How many bytes of data, about.
    pub bytes: usize,
    /// The pause of each publisher between two events.
    pub pause: Duration,
    /// The lifetime of one in three events, drawn up to this; `None`: no event expires.
    pub lifetime: Option<Duration>,
    /// One in so many events is not repeated when its outcome is unknown.
    pub gives_up: u32,
}

/// One event to publish.
#[derive(Debug, Clone)]
pub struct ToPublish {
    /// Its idempotency key.
    pub key: String,
    /// Whom for.
    pub audience: Audience,
    /// How urgent.
    pub priority: Priority,
    /// Of which type.
    pub event_type: String,
    /// When it ends.
    pub lifetime: Option<Duration>,
    /// How many bytes of padding.
    pub bytes: usize,
    /// How often it is tried.
    pub attempts: usize,
}

/// Publishes events through whichever node answers.
#[derive(Clone)]
pub struct Publisher {
    number: usize,
    client: Client,
    token: String,
    /// `http://host:port` of the nodes, its own first.
    addresses: Vec<String>,
    ledger: LedgerWriter,
}

impl Publisher {
    pub fn new(number: usize, token: &str, mut addresses: Vec<String>, ledger: &LedgerWriter) -> Self {
        let count = addresses.len();
        addresses.rotate_left(number % count);
        let client = Client::builder().timeout(ANSWER_WITHIN).build().unwrap();
        Self { number, client, token: token.to_owned(), addresses, ledger: ledger.clone() }
    }

    /// Publishes one event, again and again with its key until it is certain what became of it or the attempts
    /// are used up. Gives its id and position if it was acknowledged.
    pub async fn publish(&self, event: &ToPublish) -> Option<(String, i64)> {
        // The same moment in all attempts: it is the same event.
        let end = event
            .lifetime
            .map(|lifetime| (self.ledger.now() + lifetime, OffsetDateTime::now_utc() + lifetime));
        let body = body(event, end.map(|(_, at)| at));
        for address in self.addresses.iter().cycle().take(event.attempts) {
            let sent = self.ledger.now();
            let outcome = self.attempt(address, event, &body).await;
            self.ledger.attempt(Attempt {
                key: event.key.clone(),
                publisher: self.number,
                audience: event.audience.clone(),
                priority: event.priority,
                event_type: event.event_type.clone(),
                expires: end.map(|(at, _)| at),
                sent,
                ended: self.ledger.now(),
                outcome: outcome.clone(),
            });
            match outcome {
                Outcome::Acked { id, position } => return Some((id, position)),
                Outcome::Failed { .. } => return None,
                Outcome::Unknown { .. } => sleep(PAUSE).await,
            }
        }
        None
    }

    async fn attempt(&self, address: &str, event: &ToPublish, body: &str) -> Outcome {
        let request = self.client.post(format!("{address}/api/v1/events")).bearer_auth(&self.token);
        let answer = match request.header("idempotency-key", &event.key).body(body.to_owned()).send().await {
            Ok(answer) => answer,
            Err(error) => return Outcome::Unknown { why: format!("{error:#}") },
        };
        let status = answer.status().as_u16();
        match (status, answer.json::<Value>().await) {
            (201, Ok(receipt)) => Outcome::Acked {
                id: receipt["id"].as_str().expect("an id").to_owned(),
                position: receipt["position"].as_i64().expect("a position"),
            },
            (400..=499, answer) => Outcome::Failed { status, detail: format!("{answer:?}") },
            (_, answer) => Outcome::Unknown { why: format!("{status} {answer:?}") },
        }
    }
}

fn body(event: &ToPublish, ends: Option<OffsetDateTime>) -> String {
    let mut body = json!({
        "type": event.event_type,
        "priority": event.priority,
        "to": event.audience,
        "data": { "key": event.key, "padding": "x".repeat(event.bytes) },
    });
    if let Some(at) = ends {
        body["expires_at"] = at.format(&Rfc3339).unwrap().into();
    }
    body.to_string()
}

/// Publishers at work until asked to stop.
pub struct Load {
    go_on: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
}

impl Load {
    /// Starts one publisher after another with draws of its own.
    pub fn start(publishers: Vec<Publisher>, mix: &Mix, seed: u64) -> Self {
        let go_on = watch::Sender::new(true);
        let tasks = publishers.into_iter().map(|publisher| {
            let (mix, going) = (mix.clone(), go_on.subscribe());
            let draws = StdRng::seed_from_u64(seed.wrapping_add(publisher.number as u64));
            tokio::spawn(publish_on(publisher, mix, draws, going))
        });
        Self { tasks: tasks.collect(), go_on }
    }

    /// Has each finish what it is at.
    pub async fn stop(self) {
        self.go_on.send_replace(false);
        for task in self.tasks {
            task.await.unwrap();
        }
    }
}

async fn publish_on(publisher: Publisher, mix: Mix, mut draws: StdRng, go_on: watch::Receiver<bool>) {
    for count in 0_u64.. {
        if !*go_on.borrow() {
            return;
        }
        let expires = mix.lifetime.filter(|_| draws.random_ratio(1, 3));
        let gives_up = draws.random_ratio(1, mix.gives_up.max(1));
        let event = ToPublish {
            key: format!("p{}-{count}", publisher.number),
            audience: mix.audiences.choose(&mut draws).unwrap().clone(),
            priority: *mix.priorities.choose(&mut draws).unwrap(),
            event_type: mix.types.choose(&mut draws).unwrap().clone(),
            lifetime: expires.map(|most| most.mul_f64(draws.random_range(0.0..1.0))),
            bytes: draws.random_range(0..=mix.bytes),
            attempts: if gives_up { 1 } else { ATTEMPTS },
        };
        publisher.publish(&event).await;
        sleep(mix.pause.mul_f64(draws.random_range(0.5..1.5))).await;
    }
}
