//! Who is asking: a session cookie or a bearer token.

use axum::extract::{FromRef, FromRequestParts};
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use axum_extra::extract::cookie::{Cookie, CookieJar, SameSite};

use super::params::Params;
use super::problem::Problem;
use crate::account::{Credential, Role, SecretHash};
use crate::identity::{Accounts, Identity};

/// The name of the session's cookie.
pub const SESSION_COOKIE: &str = "carillon_session";

/// The parameter by which a page says whose it is. Its cookie may have become another's: somebody else signed in with
/// the same browser. What the page asks for, and does, is then refused.
const ACCOUNT: &str = "account";

/// Somebody who may call the API. A request that says who it is, and wrongly, is refused and never anonymous.
#[derive(Debug)]
pub struct Caller(pub Identity);

/// A [`Caller`] who may listen and read.
#[derive(Debug)]
pub struct ListenerCaller(pub Identity);

/// A [`Caller`] who may publish. Whom to is asked of each event.
#[derive(Debug)]
pub struct PublisherCaller(pub Identity);

/// A [`Caller`] who is signed in, with the hash of the session's secret. Accounts are managed so and not by tokens:
/// one that leaked must not be good for another.
#[derive(Debug)]
pub struct SessionCaller(pub Identity, pub SecretHash);

/// A [`SessionCaller`] who is an admin.
#[derive(Debug)]
pub struct AdminCaller(pub Identity, pub SecretHash);

impl<S> FromRequestParts<S> for Caller
where
    S: Send + Sync,
    Accounts: FromRef<S>,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let accounts = Accounts::from_ref(state);
        let identity = match bearer(&parts.headers)? {
            Some(token) => accounts.by_token(token).await?,
            None => match CookieJar::from_headers(&parts.headers).get(SESSION_COOKIE) {
                Some(cookie) => accounts.by_session(cookie.value()).await?,
                None => None,
            },
        };
        let identity = identity.ok_or_else(Problem::unauthorized)?;
        let Ok(params) = Params::from_request_parts(parts, state).await;
        match params.one(ACCOUNT)? {
            Some(account) if account != identity.user.name => Err(Problem::somebody_else()),
            _ => Ok(Self(identity)),
        }
    }
}

impl<S> FromRequestParts<S> for ListenerCaller
where
    S: Send + Sync,
    Accounts: FromRef<S>,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Caller(identity) = Caller::from_request_parts(parts, state).await?;
        if identity.may_listen() {
            Ok(Self(identity))
        } else {
            Err(Problem::forbidden("this token may not listen"))
        }
    }
}

impl<S> FromRequestParts<S> for PublisherCaller
where
    S: Send + Sync,
    Accounts: FromRef<S>,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Caller(identity) = Caller::from_request_parts(parts, state).await?;
        if identity.may_send() {
            Ok(Self(identity))
        } else {
            Err(Problem::forbidden("this token may not publish"))
        }
    }
}

impl<S> FromRequestParts<S> for SessionCaller
where
    S: Send + Sync,
    Accounts: FromRef<S>,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Caller(identity) = Caller::from_request_parts(parts, state).await?;
        match identity.credential {
            Credential::Session(secret) => Ok(Self(identity, secret)),
            Credential::Token(_) => Err(Problem::in_person()),
        }
    }
}

impl<S> FromRequestParts<S> for AdminCaller
where
    S: Send + Sync,
    Accounts: FromRef<S>,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let SessionCaller(identity, secret) = SessionCaller::from_request_parts(parts, state).await?;
        if identity.user.role >= Role::Admin {
            Ok(Self(identity, secret))
        } else {
            Err(Problem::forbidden("this needs the role admin"))
        }
    }
}

/// The token of `Authorization: Bearer …` (RFC 6750 §2.1).
fn bearer(headers: &HeaderMap) -> Result<Option<&str>, Problem> {
    let Some(value) = headers.get(AUTHORIZATION) else { return Ok(None) };
    let token = value.to_str().ok().and_then(|text| {
        let (scheme, token) = text.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
    });
    token
        .map(Some)
        .ok_or_else(|| Problem::new(StatusCode::UNAUTHORIZED, "Authorization must be 'Bearer' and a token"))
}

/// The cookie for a new session; `max_age` if it is to outlive the browser.
pub fn session_cookie(secret: String, max_age: Option<std::time::Duration>, secure: bool) -> Cookie<'static> {
    let mut cookie = Cookie::new(SESSION_COOKIE, secret);
    cookie.set_http_only(true);
    cookie.set_same_site(SameSite::Lax);
    cookie.set_secure(secure);
    cookie.set_path("/");
    if let Some(age) = max_age {
        cookie.set_max_age(time::Duration::try_from(age).unwrap_or(time::Duration::DAY));
    }
    cookie
}

/// Whether the browser came over TLS, as far as the proxy in front says.
pub fn is_secure(headers: &HeaderMap, always: bool) -> bool {
    always || headers.get("x-forwarded-proto").is_some_and(|proto| proto == "https")
}
