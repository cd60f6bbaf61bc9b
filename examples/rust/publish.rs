//! Publishes each line of standard input as an event, for everyone or for a topic.
//!
//!     printf 'first\nsecond\n' | CARILLON_TOKEN=… cargo run --example publish -- [TOPIC]

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use reqwest::{Client, StatusCode};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use uuid::Uuid;

/// How long to go on trying. Keys are known as long as the event is kept, so this may be days.
const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let server = std::env::var("CARILLON_SERVER").unwrap_or_else(|_| "http://127.0.0.1:8080".into());
    let token = std::env::var("CARILLON_TOKEN").context("CARILLON_TOKEN is not set")?;
    let to = std::env::args().nth(1).map_or(json!("everyone"), |topic| json!({ "topic": topic }));
    let client = Client::builder().timeout(Duration::from_secs(15)).build()?;
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = lines.next_line().await? {
        let event = json!({ "type": "note", "to": to, "data": line });
        let receipt = publish(&client, &server, &token, &event).await?;
        println!("{} {}", receipt["position"], receipt["id"]);
    }
    Ok(())
}

/// Publishes an event; its id and position. Tries again until it is known to be in the log, once.
async fn publish(client: &Client, server: &str, token: &str, event: &Value) -> anyhow::Result<Value> {
    // If no answer comes, nobody knows whether the event is published. With the same key it is safe to ask again:
    // the second time gives the first event.
    let key = Uuid::now_v7().to_string();
    let give_up = Instant::now() + PATIENCE;
    let mut pause = Duration::from_millis(200);
    loop {
        let request =
            client.post(format!("{server}/api/v1/events")).bearer_auth(token).header("idempotency-key", &key);
        let problem = match request.json(event).send().await {
            Ok(answer) if answer.status().is_success() => match answer.json().await {
                Ok(receipt) => return Ok(receipt),
                Err(error) => error.to_string(),
            },
            Ok(answer) if may_pass(answer.status()) => answer.text().await.unwrap_or_default(),
            Ok(answer) => bail!("refused: {}", answer.text().await?),
            Err(error) => error.to_string(),
        };
        if Instant::now() > give_up {
            bail!("not acknowledged: {problem}");
        }
        // At random, so that many publishers do not come back all at once.
        tokio::time::sleep(pause.mul_f64(rand::random_range(0.5..1.0))).await;
        pause = (pause * 2).min(Duration::from_secs(10));
    }
}

/// Anything else that is no success means that the request is wrong.
fn may_pass(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 429 | 502 | 503 | 504)
}
