//! Signing in and out, by API and by form.

use std::sync::Arc;

use axum::extract::rejection::FormRejection;
use axum::extract::{Form, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};
use axum_extra::extract::cookie::{Cookie, CookieJar};
use serde::Deserialize;

use super::auth::{SESSION_COOKIE, is_secure, session_cookie};
use super::body::JsonBody;
use super::pages::Pages;
use super::problem::Problem;
use super::{App, Settings};
use crate::accounts::{Accounts, REMEMBERED_LIFETIME, SESSION_LIFETIME, hash_secret};
use crate::event::Invalid;
use crate::node::Node;

/// What is needed to sign in.
#[derive(Deserialize)]
pub struct SignIn {
    name: String,
    password: String,
    #[serde(default)]
    remember: bool,
    #[serde(default)]
    next: String,
}

/// `POST /api/v1/session`
pub async fn sign_in(
    State(app): State<App>,
    headers: HeaderMap,
    jar: CookieJar,
    JsonBody(form): JsonBody<SignIn>,
) -> Result<Response, Problem> {
    let jar = begin(&app.accounts, &app.node, app.settings, &headers, jar, &form).await?;
    Ok((StatusCode::NO_CONTENT, jar).into_response())
}

/// `DELETE /api/v1/session`
pub async fn sign_out(
    State(accounts): State<Accounts>,
    State(node): State<Arc<Node>>,
    jar: CookieJar,
) -> Result<Response, Problem> {
    Ok((StatusCode::NO_CONTENT, end(&accounts, &node, jar).await?).into_response())
}

/// `POST /login`, from the page's form.
pub async fn sign_in_form(
    State(app): State<App>,
    headers: HeaderMap,
    jar: CookieJar,
    form: Result<Form<SignIn>, FormRejection>,
) -> Response {
    let Ok(Form(form)) = form else {
        return app.pages.error(&Invalid::new("form", "must hold a name and a password").into());
    };
    match begin(&app.accounts, &app.node, app.settings, &headers, jar, &form).await {
        Ok(jar) => (jar, Redirect::to(local_path(&form.next))).into_response(),
        Err(problem) => {
            let page = app.pages.login(Some(problem.detail()), &form.name, local_path(&form.next));
            (problem.status(), problem.retry_after(), page).into_response()
        }
    }
}

/// `POST /logout`, from the page's form.
pub async fn sign_out_form(
    State(accounts): State<Accounts>,
    State(node): State<Arc<Node>>,
    State(pages): State<Pages>,
    jar: CookieJar,
) -> Response {
    match end(&accounts, &node, jar).await {
        Ok(jar) => (jar, Redirect::to("/login")).into_response(),
        Err(problem) => pages.error(&problem).into_response(),
    }
}

/// Checks the password and gives a new session; the one before, if any, ends.
async fn begin(
    accounts: &Accounts,
    node: &Node,
    settings: Settings,
    headers: &HeaderMap,
    jar: CookieJar,
    form: &SignIn,
) -> Result<CookieJar, Problem> {
    let lifetime = if form.remember { REMEMBERED_LIFETIME } else { SESSION_LIFETIME };
    let user_agent =
        headers.get(header::USER_AGENT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let (secret, _) = accounts.sign_in(&form.name, &form.password, lifetime, user_agent).await?;
    let jar = end(accounts, node, jar).await?;
    let secure = is_secure(headers, settings.secure_cookies);
    Ok(jar.add(session_cookie(secret, form.remember.then_some(lifetime), secure)))
}

/// Ends the session of the cookie, with its streams on every node.
async fn end(accounts: &Accounts, node: &Node, jar: CookieJar) -> Result<CookieJar, Problem> {
    let Some(cookie) = jar.get(SESSION_COOKIE) else { return Ok(jar) };
    let ended = accounts.sign_out(&hash_secret(cookie.value())).await?;
    node.end(&[ended]).await;
    Ok(jar.remove(Cookie::build(SESSION_COOKIE).path("/")))
}

/// A path on this host, or `/`: never another host, whatever a link said.
pub fn local_path(next: &str) -> &str {
    let is_local = next.starts_with('/')
        && !next.starts_with("//")
        && !next.contains(['\\', '\r', '\n', '\t'])
        && next.bytes().all(|b| b.is_ascii_graphic());
    if is_local { next } else { "/" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn next_is_only_ever_a_local_path() {
        for good in ["/", "/a/b?c=d#e"] {
            assert_eq!(local_path(good), good);
        }
        let bad =
            ["", "a", "//evil", "/\\evil", "https://evil", "/\t/evil", "/a\r\nx: y", "\\\\evil", "/ä", " /"];
        for next in bad {
            assert_eq!(local_path(next), "/", "{next:?}");
        }
    }
}
