//! The pages: rendered on the server, with templates embedded in the program. One file for each page.

pub mod account;
pub mod cluster;
pub mod examples;
pub mod files;
pub mod inbox;
pub mod publish;
pub mod session;
mod summary;
mod texts;

use std::sync::Arc;

use axum::extract::{FromRef, FromRequestParts, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{Html, IntoResponse, Redirect, Response};
use minijinja::value::Kwargs;
use minijinja::{Environment, Value, context};
use rust_embed::RustEmbed;
use url::form_urlencoded;

use super::auth::ListenerCaller;
use super::problem::Problem;
use crate::account::Role;
use crate::identity::{Accounts, Identity};
use texts::{LANGUAGE, Texts};

#[derive(RustEmbed)]
#[folder = "templates/"]
struct Templates;

/// The templates, ready to render. Cheap to clone.
#[derive(Clone)]
pub struct Pages(Arc<Environment<'static>>);

impl Pages {
    /// Reads the embedded templates. `examples`: whether there are any.
    pub fn load(examples: bool) -> Result<Self, minijinja::Error> {
        let mut environment = Environment::new();
        environment.add_global("has_examples", examples);
        environment.add_global("lang", LANGUAGE);
        environment.add_function("t", |id: &str, arguments: Kwargs| Texts::get().markup(id, &arguments));
        environment.add_function("asset", |name: &str| Value::from_safe_string(files::address(name)));
        for name in Templates::iter() {
            let file = Templates::get(&name).map(|file| file.data.into_owned()).unwrap_or_default();
            let source = String::from_utf8_lossy(&file).into_owned();
            environment.add_template_owned(name.into_owned(), source)?;
        }
        Ok(Self(Arc::new(environment)))
    }

    /// The sign-in page; after an attempt that failed, with the reason.
    fn login(&self, refused: Option<&Problem>, name: &str, next: &str) -> Response {
        let error = refused.map(|problem| explain_refused_sign_in(problem.status()));
        self.render("login.html", context! { error, name, next })
    }

    /// A page that says what went wrong, and what to do next.
    pub fn error(&self, problem: &Problem) -> Response {
        let status = problem.status();
        let (title, advice) = explain(status);
        let values = context! { status => status.as_u16(), title, advice, message => problem.detail() };
        (status, problem.retry_after(), self.render("error.html", values)).into_response()
    }

    /// A page for a user who is signed in; `here` is its address, for the navigation.
    fn page(&self, template: &str, here: &str, identity: &Identity, values: Value) -> Response {
        let role = identity.user.role;
        let user = context! {
            name => &identity.user.name,
            role => role.as_str(),
            may_publish => role >= Role::Publisher,
            is_admin => role >= Role::Admin,
        };
        self.render(template, context! { here, user, ..values })
    }

    fn render(&self, name: &str, values: Value) -> Response {
        match self.0.get_template(name).and_then(|template| template.render(values)) {
            Ok(html) => Html(html).into_response(),
            Err(error) => {
                tracing::error!(%error, name, "a page could not be rendered");
                StatusCode::INTERNAL_SERVER_ERROR.into_response()
            }
        }
    }
}

/// What a status means to the reader of a page, and what to do about it.
fn explain(status: StatusCode) -> (&'static str, &'static str) {
    let text = |id| Texts::get().plain(id);
    match status {
        StatusCode::BAD_REQUEST => (text("error.bad_request"), text("error.bad_request.advice")),
        StatusCode::FORBIDDEN => (text("error.forbidden"), text("error.forbidden.advice")),
        StatusCode::NOT_FOUND => (text("error.not_found"), text("error.not_found.advice")),
        StatusCode::SERVICE_UNAVAILABLE => (text("error.unavailable"), text("error.unavailable.advice")),
        _ if status.is_server_error() => (text("error.server"), text("error.server.advice")),
        _ => (text("error.other"), text("error.other.advice")),
    }
}

/// Why nobody was signed in, for the sign-in page.
fn explain_refused_sign_in(status: StatusCode) -> &'static str {
    let text = |id| Texts::get().plain(id);
    match status {
        StatusCode::UNAUTHORIZED => text("login.wrong"),
        StatusCode::TOO_MANY_REQUESTS => text("login.too_many"),
        _ if status.is_server_error() => text("login.unavailable"),
        _ => text("login.failed"),
    }
}

/// The user who asks for a page. Without a session the answer leads to the sign-in page, and from there back.
pub struct Visitor(pub Identity);

impl Visitor {
    /// The visitor, if they have at least this role.
    fn with_role(self, role: Role) -> Result<Identity, Problem> {
        if self.0.user.role >= role {
            return Ok(self.0);
        }
        Err(Problem::forbidden(&format!("this page needs the role {}", role.as_str())))
    }

    /// As [`Self::with_role`], and in person: a token may not manage accounts, nor see what there is to manage.
    fn signed_in(self, role: Role) -> Result<Identity, Problem> {
        let identity = self.with_role(role)?;
        if identity.session.is_some() { Ok(identity) } else { Err(Problem::in_person()) }
    }
}

impl<S> FromRequestParts<S> for Visitor
where
    S: Send + Sync,
    Accounts: FromRef<S>,
    Pages: FromRef<S>,
{
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Response> {
        match ListenerCaller::from_request_parts(parts, state).await {
            Ok(ListenerCaller(identity)) => Ok(Self(identity)),
            Err(problem) if problem.status() == StatusCode::UNAUTHORIZED => {
                let address = parts.uri.to_string();
                let next: String = form_urlencoded::byte_serialize(address.as_bytes()).collect();
                Err(Redirect::to(&format!("/login?next={next}")).into_response())
            }
            Err(problem) => Err(Pages::from_ref(state).error(&problem)),
        }
    }
}

/// What is at no address: a page for people, a problem for programs.
pub async fn missing(State(pages): State<Pages>, headers: HeaderMap, uri: Uri) -> Response {
    let accepts = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let problem = Problem::not_found();
    if accepts.contains("text/html") && !uri.path().starts_with("/api/") {
        pages.error(&problem)
    } else {
        problem.into_response()
    }
}
