//! The stream itself.

use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::body::Body;
use axum::extract::{FromRequestParts, State};
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::App;
use super::auth::ListenerCaller;
use super::params::Params;
use super::problem::Problem;
use super::server::Connection;
use crate::event::Cursor;
use crate::hub::{Refused, Subscription};
use crate::node::Node;
use crate::node::stream::come_back_later;

/// How long a stream waits for a node that has not yet seen the log.
const PATIENCE: Duration = Duration::from_secs(10);

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
        Err(problem) if problem.status() == StatusCode::SERVICE_UNAVAILABLE => return Ok(later(&app.node)),
        Err(problem) => return Err(problem),
    };
    let Ok(params) = Params::from_request_parts(&mut parts, &app).await;
    let subscription = Subscription {
        reader: params.reader(identity.user.id)?,
        filter: params.filter()?,
        credential: identity.credential,
        connection: connection.0,
    };
    // The header wins: a browser keeps it up to date, while the address stays as the page wrote it.
    let header = parts.headers.get("last-event-id").map(|value| value.to_str().unwrap_or("unreadable"));
    let resume = header.or(params.one("cursor")?).filter(|cursor| !cursor.is_empty());
    let resume = resume.map(|cursor| if cursor.len() > Cursor::MAX_LEN { "unreadable" } else { cursor });
    let begun = tokio::time::Instant::now();
    loop {
        match app.node.streams.open(subscription.clone(), resume) {
            Ok(stream) => return Ok(response(Body::new(stream))),
            Err(Refused::TooManyStreams) => {
                let detail = "this user has as many streams here as are allowed";
                return Err(Problem::new(StatusCode::TOO_MANY_REQUESTS, detail));
            }
            Err(Refused::NotReady) if begun.elapsed() < PATIENCE => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Err(Refused::NotReady) => return Ok(later(&app.node)),
        }
    }
}

fn later(node: &Arc<Node>) -> Response {
    response(Body::from(come_back_later(node.streams.retry())))
}

fn response(body: Body) -> Response {
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        (header::HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")),
    ];
    (headers, body).into_response()
}
