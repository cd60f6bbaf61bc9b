//! The pages: rendered on the server, with templates and files embedded in the program.

use std::sync::Arc;

use axum::extract::rejection::PathRejection;
use axum::extract::{OriginalUri, Path, State};
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse, Redirect, Response};
use minijinja::{Environment, context};
use rust_embed::RustEmbed;
use url::form_urlencoded;

use super::auth::ListenerCaller;
use super::inbox;
use super::params::Params;
use super::problem::Problem;
use super::session::local_path;
use crate::event::Audience;
use crate::event::frame::rfc3339;
use crate::store::{InboxEntry, Reader, Store};

#[derive(RustEmbed)]
#[folder = "templates/"]
struct Templates;

#[derive(RustEmbed)]
#[folder = "static/"]
struct Files;

/// The templates, ready to render. Cheap to clone.
#[derive(Clone)]
pub struct Pages(Arc<Environment<'static>>);

impl Pages {
    /// Reads the embedded templates.
    pub fn load() -> Result<Self, minijinja::Error> {
        let mut environment = Environment::new();
        for name in Templates::iter() {
            let file = Templates::get(&name).map(|file| file.data.into_owned()).unwrap_or_default();
            let source = String::from_utf8_lossy(&file).into_owned();
            environment.add_template_owned(name.into_owned(), source)?;
        }
        Ok(Self(Arc::new(environment)))
    }

    /// The sign-in page.
    pub fn login(&self, error: Option<&str>, name: &str, next: &str) -> Response {
        self.render("login.html", context! { error, name, next })
    }

    /// A page that says what went wrong.
    pub fn error(&self, problem: &Problem) -> Response {
        let status = problem.status();
        let title = status.canonical_reason().unwrap_or("Error");
        let values = context! { status => status.as_u16(), title, message => problem.detail() };
        (status, problem.retry_after(), self.render("error.html", values)).into_response()
    }

    fn render(&self, name: &str, values: minijinja::Value) -> Response {
        match self.0.get_template(name).and_then(|template| template.render(values)) {
            Ok(html) => Html(html).into_response(),
            Err(error) => {
                tracing::error!(%error, name, "a page could not be rendered");
                StatusCode::INTERNAL_SERVER_ERROR.into_response()
            }
        }
    }
}

/// `GET /login`
pub async fn login(State(pages): State<Pages>, params: Params) -> Response {
    let next = params.one("next").ok().flatten().unwrap_or("/");
    pages.login(None, "", local_path(next))
}

/// `GET /`: the inbox.
pub async fn home(
    State(pages): State<Pages>,
    State(store): State<Store>,
    OriginalUri(uri): OriginalUri,
    params: Params,
    caller: Result<ListenerCaller, Problem>,
) -> Response {
    let identity = match caller {
        Ok(ListenerCaller(identity)) => identity,
        Err(problem) if problem.status() == StatusCode::UNAUTHORIZED => {
            let next: String = form_urlencoded::byte_serialize(uri.to_string().as_bytes()).collect();
            return Redirect::to(&format!("/login?next={next}")).into_response();
        }
        Err(problem) => return pages.error(&problem),
    };
    let reader = Reader { user: identity.user.id, topics: Vec::new() };
    let read = async {
        let page = inbox::page(&store, identity.user.id, &params).await?;
        let counts = store.unread_counts(&reader, 1_000).await?;
        Ok::<_, Problem>((page, counts.iter().map(|(_, count)| count).sum::<i64>()))
    };
    let (page, unread) = match read.await {
        Ok(read) => read,
        Err(problem) => return pages.error(&problem),
    };
    let filter = context! {
        type => params.one("type").ok().flatten().unwrap_or_default(),
        min_priority => params.one("min_priority").ok().flatten().unwrap_or_default(),
        unread => params.flag("unread").unwrap_or_default(),
    };
    let values = context! {
        user => context! { name => identity.user.name, role => identity.user.role.as_str() },
        cursor => page.cursor,
        unread,
        next => page.next,
        filter,
        entries => page.entries.iter().map(entry).collect::<Vec<_>>(),
    };
    pages.render("inbox.html", values)
}

fn entry(entry: &InboxEntry) -> minijinja::Value {
    let event = &entry.event;
    let (to, topic) = match &event.audience {
        Audience::Everyone => ("everyone", None),
        Audience::Users(_) => ("you", None),
        Audience::Topic(topic) => ("topic", Some(topic.as_str())),
    };
    let value: Option<serde_json::Value> = serde_json::from_str(&event.data).ok();
    let data =
        value.and_then(|v| serde_json::to_string_pretty(&v).ok()).unwrap_or_else(|| event.data.clone());
    context! {
        id => event.id.to_string(),
        position => event.position,
        type => event.event_type.as_str(),
        priority => event.priority.as_str(),
        to, topic, data,
        created_at => rfc3339(event.created_at),
        expires_at => event.expires_at.map(rfc3339),
        read_at => entry.read_at.map(rfc3339),
    }
}

/// `GET /static/{name}`
pub async fn file(name: Result<Path<String>, PathRejection>) -> Response {
    let Ok(Path(name)) = name else { return Problem::not_found().into_response() };
    let kinds = [
        ("css", "text/css; charset=utf-8"),
        ("js", "text/javascript; charset=utf-8"),
        ("svg", "image/svg+xml"),
    ];
    let kind = kinds.iter().find(|(end, _)| name.rsplit('.').next() == Some(end));
    match (Files::get(&name), kind) {
        (Some(file), Some((_, kind))) => {
            ([(header::CONTENT_TYPE, *kind), (header::CACHE_CONTROL, "no-cache")], file.data.into_owned())
                .into_response()
        }
        _ => Problem::not_found().into_response(),
    }
}
