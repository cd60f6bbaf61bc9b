//! How the nodes are, for admins: once, or again and again.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::{FromRequestParts, State};
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream::unfold;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, timeout};

use super::App;
use super::auth::AdminCaller;
use super::problem::Problem;
use super::stream::{CROWDED_PAUSE, later, response};
use crate::account::{Role, SecretHash};
use crate::cluster::{ANNOUNCE_EVERY, Readiness, Status};
use crate::delivery::frame::ServerEvent;
use crate::delivery::taken::Framing;
use crate::store::Store;

/// The most streams of this kind on a node.
const MAX_STREAMS: usize = 32;
/// How often it is checked that a watching user still may watch.
const RECHECK_EVERY: Duration = Duration::from_secs(10);
/// How long that may take: a store that is away is when people watch.
const RECHECK_TIMEOUT: Duration = Duration::from_secs(1);

/// Room for those who watch. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Watchers(Arc<Semaphore>);

impl Default for Watchers {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(MAX_STREAMS)))
    }
}

/// `GET /api/v1/cluster`
pub async fn show(AdminCaller(..): AdminCaller, State(status): State<Arc<Status>>) -> impl IntoResponse {
    Json(status.all().await)
}

/// `GET /api/v1/cluster/stream`: the same every two seconds, as `carillon.nodes`. Like the other stream, it is not
/// refused for what is only for the moment.
pub async fn stream(State(app): State<App>, mut parts: Parts) -> Result<Response, Problem> {
    let secret = match AdminCaller::from_request_parts(&mut parts, &app).await {
        Ok(AdminCaller(_, secret)) => secret,
        Err(problem) if problem.status().is_server_error() => {
            return Ok(later(app.streams.retry(), "the store is not reachable"));
        }
        Err(problem) => return Err(problem),
    };
    let Ok(turn) = app.watchers.0.clone().try_acquire_owned() else {
        return Ok(later(CROWDED_PAUSE, "as many watch here as are allowed"));
    };
    let mut ticks = interval(ANNOUNCE_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let watch = Watch {
        status: app.status.clone(),
        readiness: app.readiness.clone(),
        store: app.store.clone(),
        secret,
        ticks,
        checked_at: Instant::now(),
        is_over: false,
        _turn: turn,
    };
    Ok(response(Body::from_stream(unfold(watch, Watch::next))))
}

/// Somebody who watches.
struct Watch {
    status: Arc<Status>,
    readiness: Arc<Readiness>,
    store: Store,
    secret: SecretHash,
    ticks: Interval,
    checked_at: Instant,
    is_over: bool,
    _turn: OwnedSemaphorePermit,
}

impl Watch {
    /// The next frame, when its time has come and the last one was taken; `None` when this node ends.
    async fn next(mut self) -> Option<(Result<Bytes, Infallible>, Self)> {
        if self.is_over {
            return None;
        }
        let readiness = self.readiness.clone();
        tokio::select! {
            biased;
            () = readiness.draining() => return None,
            () = readiness.stopped() => return None,
            _ = self.ticks.tick() => {}
        }
        self.is_over = !self.may_go_on().await;
        let event =
            if self.is_over { ServerEvent::signout() } else { ServerEvent::nodes(&*self.status.all().await) };
        // hyper makes the chunks here.
        Some((Ok(event.frame(None).framed(Framing::UntilClose)), self))
    }

    async fn may_go_on(&mut self) -> bool {
        if self.checked_at.elapsed() < RECHECK_EVERY {
            return true;
        }
        self.checked_at = Instant::now();
        match timeout(RECHECK_TIMEOUT, self.store.session_by_secret(&self.secret)).await {
            Ok(Ok(session)) => session.is_some_and(|session| session.user.role >= Role::Admin),
            // Nobody can be asked: as for the other streams, it is asked again the next time.
            Ok(Err(_)) | Err(_) => true,
        }
    }
}
