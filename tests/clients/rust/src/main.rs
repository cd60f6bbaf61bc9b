//! Crates `reqwest-eventsource` and `eventsource-client`: `clients LIBRARY ADDRESS…`.

use std::time::Duration;

use eventsource_client::{Client as _, ClientBuilder, Error as ClientError, ReconnectOptions, SSE};
use futures_util::StreamExt as _;
use futures_util::future::join_all;
use launchdarkly_sdk_transport::HyperTransport;
use reqwest_eventsource::{Error, Event, EventSource};
use serde_json::json;

/// Statuses that do not pass.
const REFUSED: [u16; 3] = [400, 401, 403];
/// A node says something every 15 seconds: three times that is a connection that died unnoticed.
const SILENCE: Duration = Duration::from_secs(45);

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let mut arguments = std::env::args().skip(1);
    let library = arguments.next().expect("a library");
    let token = std::env::var("CARILLON_TOKEN").expect("CARILLON_TOKEN");
    let streams = arguments.enumerate().map(|(stream, address)| {
        let (library, token) = (library.clone(), token.clone());
        async move {
            match library.as_str() {
                "reqwest-eventsource" => with_reqwest(stream, &address, &token).await,
                "eventsource-client" => with_client(stream, &address, &token).await,
                other => panic!("no such library: {other}"),
            }
        }
    });
    join_all(streams).await;
}

/// A status that is not 200 ends an `EventSource` of it, whatever it is: hence the loop.
async fn with_reqwest(stream: usize, address: &str, token: &str) {
    let client = reqwest::Client::builder().read_timeout(SILENCE).build().unwrap();
    let mut cursor = String::new();
    loop {
        let mut request = client.get(address).bearer_auth(token);
        if !cursor.is_empty() {
            request = request.header("last-event-id", &cursor);
        }
        let mut source = EventSource::new(request).unwrap();
        while let Some(event) = source.next().await {
            match event {
                Ok(Event::Open) => {}
                Ok(Event::Message(message)) => {
                    cursor.clone_from(&message.id);
                    show(stream, &message.event, &message.id, &message.data);
                }
                Err(Error::InvalidStatusCode(status, _)) if REFUSED.contains(&status.as_u16()) => {
                    return end(stream, &status);
                }
                // It reconnects by itself, except after another status.
                Err(error) => eprintln!("{error}"),
            }
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// It goes on after every status, 401 too: hence the match.
async fn with_client(stream: usize, address: &str, token: &str) {
    let transport = HyperTransport::builder()
        .connect_timeout(Duration::from_secs(5))
        .read_timeout(SILENCE)
        .build_http()
        .unwrap();
    let client = ClientBuilder::for_url(address)
        .unwrap()
        .header("Authorization", &format!("Bearer {token}"))
        .unwrap()
        .reconnect(ReconnectOptions::reconnect(true).retry_initial(true).build())
        .build_with_transport(transport);
    let mut events = client.stream();
    while let Some(event) = events.next().await {
        match event {
            Ok(SSE::Event(event)) => {
                show(stream, &event.event_type, event.id.as_deref().unwrap_or_default(), &event.data);
            }
            Ok(SSE::Connected(_) | SSE::Comment(_)) => {}
            Err(ClientError::UnexpectedResponse(answer, _)) if REFUSED.contains(&answer.status()) => {
                return end(stream, &answer.status());
            }
            Err(error) => eprintln!("{error}"),
        }
    }
    end(stream, &"the library gave up");
}

fn show(stream: usize, event: &str, id: &str, data: &str) {
    println!("{}", json!({ "stream": stream, "event": event, "id": id, "data": data }));
}

fn end(stream: usize, reason: &impl ToString) {
    println!("{}", json!({ "stream": stream, "end": reason.to_string() }));
}
