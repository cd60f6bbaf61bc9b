//! HTTP: every route on this page. The only place that knows status codes.

mod account;
mod admin;
mod auth;
mod body;
mod cluster;
mod events;
mod examples;
pub mod hand_over;
pub mod health;
mod inbox;
mod pages;
mod params;
mod presence;
mod problem;
pub mod server;
mod session;
mod stream;
mod unread;
mod user_agent;

use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, FromRef};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::middleware;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{delete, get, post, put};
use tower::ServiceBuilder;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::compression::CompressionLayer;
use tower_http::csrf::CsrfLayer;
use tower_http::set_header::SetResponseHeaderLayer;

use crate::bus::Notifier;
use crate::cluster::{Readiness, Status};
use crate::delivery::presence::Presence;
use crate::delivery::stream::Streams;
use crate::identity::Accounts;
use crate::identity::topic_rules::TopicRules;
use crate::publishing::Publisher;
use crate::reading::Inbox;
use crate::store::Store;
use cluster::Watchers;
use examples::Uploads;
use pages::Pages;
use problem::Problem;
use user_agent::UserAgents;

/// Pages run only what we serve ourselves; nothing inline, nothing framed.
const CSP: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
    connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";
/// The most bytes of a request that is not a publication.
const MAX_SMALL_BODY: usize = 16 * 1024;
/// What an event may have around its data, in bytes; the longest names of a thousand recipients fit.
const EVENT_OVERHEAD: usize = 264 * 1024;
/// The most bytes of a batch.
const MAX_BATCH_BYTES: usize = 16 * 1024 * 1024;

/// What handlers need to know of the configuration.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// The most bytes of an event's data.
    pub max_data_bytes: usize,
    /// The most events in one batch.
    pub max_batch: usize,
    /// Cookies are always marked Secure.
    pub secure_cookies: bool,
    /// The examples are there.
    pub examples: bool,
}

/// The parts of a node that handlers call.
#[derive(Clone)]
pub struct Services {
    /// Who asks, and what they may do.
    pub accounts: Accounts,
    /// What users have read.
    pub inbox: Inbox,
    /// The way into the log.
    pub publisher: Publisher,
    /// The streams.
    pub streams: Arc<Streams>,
    /// Who is on a topic.
    pub presence: Arc<Presence>,
    /// The status of all nodes.
    pub status: Arc<Status>,
    /// Whether this node should get listeners.
    pub readiness: Arc<Readiness>,
    /// What is listed as it is stored.
    pub store: Store,
    /// Who may read and write which topics.
    pub rules: TopicRules,
    /// Notifies open pages of changes.
    pub notifier: Notifier,
}

/// The state of all handlers; each takes only its part. Cheap to clone: every request does, some several times.
#[derive(Clone)]
pub struct App(Arc<AppParts>);

/// What [`App`] shares.
pub struct AppParts {
    services: Services,
    pages: Pages,
    settings: Settings,
    watchers: Watchers,
    uploads: Uploads,
    user_agents: UserAgents,
}

impl std::ops::Deref for App {
    type Target = AppParts;

    fn deref(&self) -> &AppParts {
        &self.0
    }
}

impl std::ops::Deref for AppParts {
    type Target = Services;

    fn deref(&self) -> &Services {
        &self.services
    }
}

/// Lets handlers take these parts of [`App`].
macro_rules! parts {
    ($($part:ty: $($field:ident).+),* $(,)?) => {
        $(impl FromRef<App> for $part {
            fn from_ref(app: &App) -> Self {
                app.$($field).+.clone()
            }
        })*
    };
}

parts!(
    Accounts: services.accounts,
    Inbox: services.inbox,
    Publisher: services.publisher,
    Arc<Presence>: services.presence,
    Arc<Status>: services.status,
    Arc<Readiness>: services.readiness,
    Store: services.store,
    TopicRules: services.rules,
    Notifier: services.notifier,
    Pages: pages,
    Settings: settings,
);

/// All routes of a node.
pub fn router(services: Services, settings: Settings) -> Result<Router, minijinja::Error> {
    let pages = Pages::load(settings.examples)?;
    let (watchers, uploads) = (Watchers::default(), Uploads::default());
    let user_agents = UserAgents::default();
    let app = App(Arc::new(AppParts { services, pages, settings, watchers, uploads, user_agents }));
    let publishing = Router::new()
        .route("/api/v1/events", post(events::publish))
        .layer(DefaultBodyLimit::max(settings.max_data_bytes + EVENT_OVERHEAD))
        .route(
            "/api/v1/events/batch",
            post(events::publish_batch).layer(DefaultBodyLimit::max(MAX_BATCH_BYTES)),
        );
    let examples = Router::new()
        .route("/examples", get(pages::examples::index))
        .route("/examples/chat", get(pages::examples::chat))
        .route("/examples/upload", get(pages::examples::upload))
        .route("/examples/upload/{id}", put(examples::upload))
        .route("/examples/log", get(pages::examples::log))
        .route("/examples/stream", get(pages::examples::stream));
    let pages = Router::new()
        .merge(if settings.examples { examples } else { Router::new() })
        .route("/", get(pages::inbox::show))
        .route("/cluster", get(pages::cluster::show))
        .route("/account", get(pages::account::show))
        .route("/publish", get(pages::publish::show))
        .route("/login", get(pages::session::show).post(pages::session::sign_in))
        .route("/logout", post(pages::session::sign_out))
        .route("/static/{name}", get(pages::files::current))
        .route("/static/{version}/{name}", get(pages::files::versioned))
        .layer(CompressionLayer::new());
    let rest = Router::new()
        .merge(pages)
        .route("/api/v1/session", post(session::sign_in).delete(session::sign_out))
        .route("/api/v1/events/{id}", delete(events::retract))
        .route("/api/v1/stream", get(stream::open))
        .route("/api/v1/presence", get(presence::show))
        .route("/api/v1/inbox", get(inbox::list))
        .route("/api/v1/inbox/counts", get(inbox::counts))
        .route("/api/v1/inbox/read-up-to", post(inbox::read_up_to))
        .route("/api/v1/inbox/read-up-to/{number}", delete(inbox::take_back_read_up_to))
        .route("/api/v1/inbox/{id}", get(inbox::show))
        .route("/api/v1/inbox/{id}/read", put(inbox::read).delete(inbox::unread))
        .merge(management())
        .route("/healthz", get(health::healthz))
        .route("/readyz", get(health::readyz))
        .layer(DefaultBodyLimit::max(MAX_SMALL_BODY));
    let foreign = |_| Problem::forbidden("this request comes from another site").into_response();
    Ok(publishing
        .merge(rest)
        .fallback(pages::missing)
        .method_not_allowed_fallback(|| async {
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, "this address does not know this method")
        })
        // All in one, the outermost first: each layer of its own would be one more box for each request.
        .layer(
            ServiceBuilder::new()
                .layer(middleware::from_fn(unread::discard_unread))
                .layer(SetResponseHeaderLayer::if_not_present(
                    HeaderName::from_static("cache-control"),
                    HeaderValue::from_static("no-store"),
                ))
                .layer(header("referrer-policy", "same-origin"))
                .layer(header("x-content-type-options", "nosniff"))
                .layer(header("content-security-policy", CSP))
                .layer(CatchPanicLayer::custom(panicked))
                .layer(CsrfLayer::new().with_rejection_response(foreign)),
        )
        .with_state(app))
}

/// One's own account; and for admins the nodes and everybody's accounts.
fn management() -> Router<App> {
    Router::new()
        .route("/api/v1/account", get(account::show))
        .route("/api/v1/account/password", put(account::set_password))
        .route("/api/v1/account/sessions", get(account::sessions).delete(account::end_other_sessions))
        .route("/api/v1/account/sessions/{id}", delete(account::end_session))
        .route("/api/v1/account/tokens", get(account::tokens).post(account::create_token))
        .route("/api/v1/account/tokens/{id}", delete(account::revoke_token))
        .route("/api/v1/cluster", get(cluster::show))
        .route("/api/v1/cluster/stream", get(cluster::stream))
        .route("/api/v1/users", get(admin::users).post(admin::create_user))
        .route("/api/v1/users/{name}/password", put(admin::reset_password))
        .route("/api/v1/users/{name}/sessions", get(admin::sessions_of))
        .route("/api/v1/users/{name}/sessions/{id}", delete(admin::end_session))
        .route("/api/v1/sessions", get(admin::sessions))
        .route("/api/v1/tokens", get(admin::tokens))
        .route("/api/v1/tokens/{id}", delete(admin::revoke_token))
}

/// A defect of ours. The panic itself is in the log.
fn panicked(_: Box<dyn std::any::Any + Send>) -> Response {
    metrics::counter!("carillon_panics_total").increment(1);
    Problem::defect().into_response()
}

fn header(name: &'static str, value: &'static str) -> SetResponseHeaderLayer<HeaderValue> {
    SetResponseHeaderLayer::overriding(HeaderName::from_static(name), HeaderValue::from_static(value))
}
