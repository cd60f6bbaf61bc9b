//! The stream itself.

use std::time::Duration;

use axum::Extension;
use axum::body::Body;
use axum::extract::{FromRequestParts, State};
use axum::http::request::Parts;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};

use super::App;
use super::auth::ListenerCaller;
use super::params::Params;
use super::problem::Problem;
use super::server::Connection;
use crate::delivery::frame::come_back_later;
use crate::delivery::hub::{Refused, Subscription};
use crate::delivery::stream::StreamRequest;
use crate::event::Invalid;

/// How long a stream waits for a node that has not yet seen the log.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a stream stays away that was one too many for its user.
pub const CROWDED_PAUSE: Duration = Duration::from_secs(5);

/// The most events of each topic that a stream may begin with.
const MAX_HISTORY: u32 = 100;

/// `GET /api/v1/stream`
///
/// Whatever is wrong for the moment is answered with an empty stream and a pause, since any status but 200 ends
/// an `EventSource` for good; whatever is wrong with the request is answered with a status.
pub async fn open(
    State(app): State<App>,
    Extension(connection): Extension<Connection>,
    mut parts: Parts,
) -> Result<Response, Problem> {
    let identity = match ListenerCaller::from_request_parts(&mut parts, &app).await {
        Ok(ListenerCaller(identity)) => identity,
        // The store's refusal, too: a database that is being restored has no tables for a moment.
        Err(problem) if problem.status().is_server_error() => {
            return Ok(later(app.streams.retry(), "the store is not reachable"));
        }
        Err(problem) => return Err(problem),
    };
    let Ok(params) = Params::from_request_parts(&mut parts, &app).await;
    let subscription = Subscription {
        reader: params.reader(&identity, &app.rules)?,
        name: identity.user.name.into(),
        wants_presence: params.flag("presence")?,
        credential: identity.credential,
        connection: connection.0,
    };
    if subscription.wants_presence && subscription.reader.selector.topics.is_empty() {
        return Err(Invalid::new("presence", "needs a topic").into());
    }
    // The header wins: a browser keeps it up to date, while the address stays as the page wrote it.
    let header = parts.headers.get("last-event-id").map(|value| value.to_str().unwrap_or("unreadable"));
    let resume = header.or(params.one("cursor")?).filter(|cursor| !cursor.is_empty());
    let history = history(&params, &subscription)?;
    let resume = resume.map(str::parse);
    let request = StreamRequest { subscription, resume, history, has_heartbeats: params.flag("alive")? };
    let begun = tokio::time::Instant::now();
    loop {
        match app.streams.open(request.clone()) {
            Ok(stream) => return Ok(response(Body::new(stream))),
            Err(Refused::TooManyStreams) => {
                // Some may be of connections that broke, which is noticed later.
                return Ok(later(CROWDED_PAUSE, "this user has as many streams here as are allowed"));
            }
            Err(Refused::NotReady) if begun.elapsed() < PATIENCE => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Err(Refused::NotReady) => {
                return Ok(later(app.streams.retry(), "this node has not yet seen the log"));
            }
        }
    }
}

/// How many events of each topic's history are wanted first.
fn history(params: &Params, subscription: &Subscription) -> Result<Option<u32>, Problem> {
    let must = format!("must be 1 to {MAX_HISTORY}");
    let history = params.parsed("history", &must)?;
    if history.is_some_and(|count| !(1..=MAX_HISTORY).contains(&count)) {
        return Err(Invalid::new("history", must).into());
    }
    // The short word for what is kept of a topic as its state.
    let last = params.parsed("last", "must be 1")?;
    let (name, wanted) = match (history, last) {
        (Some(_), Some(_)) => return Err(Invalid::new("last", "cannot go with history").into()),
        (None, Some(1)) => ("last", last),
        (None, Some(_)) => return Err(Invalid::new("last", "must be 1").into()),
        (wanted, None) => ("history", wanted),
    };
    if wanted.is_some() && subscription.reader.selector.topics.is_empty() {
        return Err(Invalid::new(name, "needs a topic").into());
    }
    Ok(wanted)
}

/// An empty stream, and a pause.
pub fn later(pause: Duration, reason: &'static str) -> Response {
    metrics::counter!("carillon_streams_put_off_total", "reason" => reason).increment(1);
    response(Body::from(come_back_later(pause, reason)))
}

/// The answer that holds a stream.
pub fn response(body: Body) -> Response {
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        (header::HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")),
    ];
    (headers, body).into_response()
}
