//! The stream itself.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRequestParts, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use uuid::Uuid;

use super::App;
use super::auth::ListenerCaller;
use super::hand_over::HandOver;
use super::params::Params;
use super::problem::Problem;
use super::server::Peer;
use crate::delivery::frame::come_back_later;
use crate::delivery::hub::Refused;
use crate::delivery::request::{Origin, Subscription, Wish};
use crate::delivery::stream::Opening;
use crate::event::{Cursor, Invalid};
use crate::identity::Identity;
use crate::identity::topic_rules::TopicRules;

/// How long a stream waits for a node that has not yet seen the log.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a stream stays away that was one too many for its user.
pub const CROWDED_PAUSE: Duration = Duration::from_secs(5);

/// The parameters of a stream. Others are ignored, and named to the client: a refusal would end pages for good that came
/// with a newer version of some other node.
const PARAMETERS: [&str; 12] = [
    "account",
    "alive",
    "cursor",
    "form",
    "heartbeat",
    "history",
    "last",
    "min_priority",
    "presence",
    "retry",
    "topic",
    "type",
];
/// How many events of each topic a stream may begin with.
const HISTORY: RangeInclusive<u32> = 1..=100;
/// How long a client may be asked to wait before it reconnects, in milliseconds.
const RETRY_MILLIS: RangeInclusive<u32> = 100..=3_600_000;
/// How often a quiet stream may get a keep-alive, in seconds.
const KEEP_ALIVE_SECONDS: RangeInclusive<u32> = 1..=300;

/// `GET /api/v1/stream`
///
/// Whatever is wrong for the moment is answered with an empty stream and a pause, since any status but 200 ends
/// an `EventSource` for good; whatever is wrong with the request is answered with a status.
pub async fn open(State(app): State<App>, mut parts: Parts) -> Result<Response, Problem> {
    let Ok(params) = Params::from_request_parts(&mut parts, &app).await;
    let retry = retry(&params);
    let pause = retry.as_ref().ok().copied().flatten().unwrap_or(app.streams.retry());
    let identity = match ListenerCaller::from_request_parts(&mut parts, &app).await {
        Ok(ListenerCaller(identity)) => identity,
        // The store's refusal, too: a database that is being restored has no tables for a moment.
        Err(problem) if problem.status().is_server_error() => {
            return Ok(later(pause, "the store is not reachable"));
        }
        Err(problem) => return Err(problem),
    };
    let origin = origin(&app, &parts);
    let subscription = subscription(&params, identity, &app.rules, origin)?;
    let wish = Wish {
        resume: resume(&parts.headers, &params)?,
        history: history(&params, &subscription)?,
        has_heartbeats: params.flag("alive")?,
        form: params.one("form")?.map(str::parse).transpose()?.unwrap_or_default(),
        retry: retry?,
        ignored: params.other_than(&PARAMETERS),
    };
    let begun = tokio::time::Instant::now();
    loop {
        match app.streams.open(subscription.clone(), wish.clone()) {
            Ok(opening) => return Ok(handed_over(opening)),
            Err(Refused::TooManyStreams) => {
                // Some may be of connections that broke, which is noticed later.
                let pause = pause.max(CROWDED_PAUSE);
                return Ok(later(pause, "this user has as many streams here as are allowed"));
            }
            Err(Refused::NotReady) if begun.elapsed() < PATIENCE => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Err(Refused::NotReady) => return Ok(later(pause, "this node has not yet seen the log")),
        }
    }
}

/// Who listens, and to what.
fn subscription(
    params: &Params,
    identity: Identity,
    rules: &TopicRules,
    origin: Option<Origin>,
) -> Result<Subscription, Problem> {
    let seconds = params.within("heartbeat", KEEP_ALIVE_SECONDS)?;
    let subscription = Subscription {
        connection: Uuid::now_v7(),
        reader: Arc::new(params.reader(&identity, rules)?),
        name: identity.user.name.into(),
        wants_presence: params.flag("presence")?,
        keep_alive_every: seconds.map(|seconds| Duration::from_secs(seconds.into())),
        credential: identity.credential,
        origin,
    };
    if subscription.wants_presence && subscription.reader.selector.topics.is_empty() {
        return Err(Invalid::new("presence", "needs a topic").into());
    }
    Ok(subscription)
}

/// Where the stream comes from. Behind a proxy that is the proxy.
fn origin(app: &App, parts: &Parts) -> Option<Origin> {
    let user_agent = parts.headers.get(header::USER_AGENT).and_then(|value| value.to_str().ok());
    let Peer(address) = *parts.extensions.get()?;
    Some(Origin {
        address,
        user_agent: user_agent.map(|user_agent| app.user_agents.shared(user_agent)),
        since: app.status.clock().now(),
    })
}

/// How long the client is to wait before it reconnects.
fn retry(params: &Params) -> Result<Option<Duration>, Problem> {
    let millis = params.within("retry", RETRY_MILLIS)?;
    Ok(millis.map(|millis| Duration::from_millis(millis.into())))
}

/// The cursor to go on from. The header wins: a browser keeps it up to date, while the address stays as the page wrote
/// it.
fn resume(headers: &HeaderMap, params: &Params) -> Result<Option<Result<Cursor, Invalid>>, Problem> {
    let in_address = params.one("cursor")?;
    let values = headers.get_all("last-event-id").iter();
    // Proxies join headers that stand several times by commas.
    let texts = values.flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    let in_headers = Cursor::last_of(texts.map(|text| str::from_utf8(text).unwrap_or("no text")));
    // A client that writes a cursor into an address by hand leaves its plus signs, which stand for spaces there.
    Ok(in_headers.or_else(|| in_address.map(|cursor| cursor.replace(' ', "+").parse())))
}

/// How many events of each topic's history are wanted first.
fn history(params: &Params, subscription: &Subscription) -> Result<Option<u32>, Problem> {
    let history = params.within("history", HISTORY)?;
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

/// The answer that a reactor writes.
fn handed_over(opening: Opening) -> Response {
    let mut response = response(Body::empty());
    response.extensions_mut().insert(HandOver::new(move |taken| opening.start(taken)));
    response
}

/// The answer that holds a stream. A proxy that compresses would hold frames back until it has enough of them.
pub fn response(body: Body) -> Response {
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store, no-transform")),
        (header::HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")),
    ];
    (headers, body).into_response()
}
