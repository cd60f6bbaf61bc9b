//! Signing in and out. The page's form does the same: `pages/session.rs`.

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum_extra::extract::cookie::{Cookie, CookieJar};
use serde::Deserialize;

use super::auth::{SESSION_COOKIE, is_secure, session_cookie};
use super::body::JsonBody;
use super::problem::Problem;
use super::{App, Settings};
use crate::identity::{Accounts, REMEMBERED_LIFETIME, SESSION_LIFETIME, hash_secret};

/// What is needed to sign in.
#[derive(Deserialize)]
pub struct SignIn {
    /// Who.
    pub name: String,
    password: String,
    #[serde(default)]
    remember: bool,
    /// Where the page's form leads afterwards.
    #[serde(default)]
    pub next: String,
}

/// `POST /api/v1/session`
pub async fn sign_in(
    State(app): State<App>,
    headers: HeaderMap,
    jar: CookieJar,
    JsonBody(form): JsonBody<SignIn>,
) -> Result<Response, Problem> {
    let jar = begin(&app.accounts, app.settings, &headers, jar, &form).await?;
    Ok((StatusCode::NO_CONTENT, jar).into_response())
}

/// `DELETE /api/v1/session`
pub async fn sign_out(State(accounts): State<Accounts>, jar: CookieJar) -> Result<Response, Problem> {
    Ok((StatusCode::NO_CONTENT, end(&accounts, jar).await?).into_response())
}

/// Checks the password and gives a new session; the one before, if any, ends.
pub async fn begin(
    accounts: &Accounts,
    settings: Settings,
    headers: &HeaderMap,
    jar: CookieJar,
    form: &SignIn,
) -> Result<CookieJar, Problem> {
    let lifetime = if form.remember { REMEMBERED_LIFETIME } else { SESSION_LIFETIME };
    let user_agent =
        headers.get(header::USER_AGENT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let (secret, _) = accounts.sign_in(&form.name, &form.password, lifetime, user_agent).await?;
    let jar = end(accounts, jar).await?;
    let secure = is_secure(headers, settings.secure_cookies);
    Ok(jar.add(session_cookie(secret, form.remember.then_some(lifetime), secure)))
}

/// Ends the session of the cookie, with its streams on every node.
pub async fn end(accounts: &Accounts, jar: CookieJar) -> Result<CookieJar, Problem> {
    let Some(cookie) = jar.get(SESSION_COOKIE) else { return Ok(jar) };
    accounts.sign_out(&hash_secret(cookie.value())).await?;
    Ok(jar.remove(Cookie::build(SESSION_COOKIE).path("/")))
}
