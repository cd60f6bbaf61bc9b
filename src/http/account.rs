//! One's own account: sessions, tokens, password.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;

use super::auth::SessionCaller;
use super::body::{JsonBody, PathOf, done};
use super::problem::Problem;
use super::user_agent;
use crate::account::{Scope, Session, Token};
use crate::event::{Invalid, rfc3339};
use crate::identity::{AccountError, Accounts};
use crate::store::Store;

/// The most sessions listed: those used last.
pub const LISTED_SESSIONS: u32 = 200;
/// The most valid tokens of one user that are made here.
pub const MAX_TOKENS: u32 = 100;
/// The longest lifetime of a token, in days.
const MAX_DAYS: u32 = 3_650;
const SECONDS_OF_A_DAY: u64 = 86_400;

/// A session as it is shown.
#[derive(Debug, Serialize)]
pub struct ShownSession {
    id: Uuid,
    user: String,
    browser: String,
    created_at: String,
    seen_at: String,
    expires_at: String,
    /// Whether it is the one that asks.
    current: bool,
}

impl ShownSession {
    /// `session`, as the one called `asking` sees it.
    pub fn of(session: &Session, asking: Option<Uuid>) -> Self {
        Self {
            id: session.id,
            user: session.user.name.clone(),
            browser: user_agent::short(&session.user_agent),
            created_at: rfc3339(session.created_at),
            seen_at: rfc3339(session.seen_at),
            expires_at: rfc3339(session.expires_at),
            current: asking == Some(session.id),
        }
    }
}

/// A token as it is shown: without its secret.
#[derive(Debug, Serialize)]
pub struct ShownToken {
    id: i64,
    user: String,
    name: String,
    scopes: Vec<&'static str>,
    created_at: String,
    expires_at: Option<String>,
}

impl ShownToken {
    /// The same where whose it is goes without saying.
    pub fn of_the_reader(self) -> Self {
        Self { user: String::new(), ..self }
    }
}

impl From<&Token> for ShownToken {
    fn from(token: &Token) -> Self {
        Self {
            id: token.id,
            user: token.user.name.clone(),
            name: token.name.clone(),
            scopes: token.scopes.iter().map(|scope| scope.as_str()).collect(),
            created_at: rfc3339(token.created_at),
            expires_at: token.expires_at.map(rfc3339),
        }
    }
}

/// `GET /api/v1/account`
pub async fn show(SessionCaller(identity, _): SessionCaller) -> Json<Value> {
    let user = identity.user;
    Json(json!({
        "id": user.public_id, "name": user.name, "role": user.role.as_str(), "created_at": rfc3339(user.created_at),
    }))
}

/// `GET /api/v1/account/sessions`
pub async fn sessions(
    SessionCaller(identity, _): SessionCaller,
    State(store): State<Store>,
) -> Result<Json<Value>, Problem> {
    let sessions = store.sessions(Some(identity.user.id), LISTED_SESSIONS).await?;
    let shown = sessions.iter().map(|session| ShownSession::of(session, identity.session));
    Ok(Json(json!({ "sessions": shown.collect::<Vec<_>>() })))
}

/// `DELETE /api/v1/account/sessions/{id}`
pub async fn end_session(
    SessionCaller(identity, _): SessionCaller,
    State(accounts): State<Accounts>,
    PathOf(id): PathOf<Uuid>,
) -> Result<StatusCode, Problem> {
    done(accounts.end_session(identity.user.id, id).await?)
}

/// `DELETE /api/v1/account/sessions`: all but the one that asks.
pub async fn end_other_sessions(
    SessionCaller(identity, secret): SessionCaller,
    State(accounts): State<Accounts>,
) -> Result<Json<Value>, Problem> {
    let ended = accounts.end_other_sessions(identity.user.id, &secret).await?;
    Ok(Json(json!({ "ended": ended })))
}

/// `GET /api/v1/account/tokens`
pub async fn tokens(
    SessionCaller(identity, _): SessionCaller,
    State(store): State<Store>,
) -> Result<Json<Value>, Problem> {
    // Others may have been made on the command line; as many again are shown.
    let tokens = store.valid_tokens(Some(identity.user.id), None, 2 * MAX_TOKENS).await?;
    Ok(Json(json!({ "tokens": tokens.iter().map(ShownToken::from).collect::<Vec<_>>() })))
}

/// The body of [`create_token`].
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewToken {
    name: String,
    scopes: Vec<String>,
    days: Option<u32>,
}

/// `POST /api/v1/account/tokens`: the answer is the only one that holds the secret.
pub async fn create_token(
    SessionCaller(identity, _): SessionCaller,
    State(store): State<Store>,
    State(accounts): State<Accounts>,
    JsonBody(new): JsonBody<NewToken>,
) -> Result<impl IntoResponse, Problem> {
    let read = |text: &String| text.parse::<Scope>().map_err(|error| Invalid::new("scopes", error.message));
    let mut scopes = new.scopes.iter().map(read).collect::<Result<Vec<_>, _>>()?;
    scopes.dedup();
    if scopes.is_empty() || scopes.len() > 2 {
        return Err(Invalid::new("scopes", "must hold publish, listen or both").into());
    }
    if new.days.is_some_and(|days| !(1..=MAX_DAYS).contains(&days)) {
        return Err(Invalid::new("days", format!("must be 1 to {MAX_DAYS}, or left out")).into());
    }
    let user = identity.user.id;
    if store.valid_tokens(Some(user), None, MAX_TOKENS).await?.len() >= MAX_TOKENS as usize {
        let full = format!("there are {MAX_TOKENS} tokens already: revoke one first");
        return Err(Problem::new(StatusCode::CONFLICT, full));
    }
    let lifetime = new.days.map(|days| Duration::from_secs(u64::from(days) * SECONDS_OF_A_DAY));
    let (secret, token) = accounts.create_token(user, &new.name, &scopes, lifetime).await?;
    let mut shown = json!(ShownToken::from(&token));
    shown["secret"] = json!(secret);
    Ok((StatusCode::CREATED, Json(shown)))
}

/// `DELETE /api/v1/account/tokens/{id}`
pub async fn revoke_token(
    SessionCaller(identity, _): SessionCaller,
    State(accounts): State<Accounts>,
    PathOf(id): PathOf<i64>,
) -> Result<StatusCode, Problem> {
    done(accounts.revoke_token(id, Some(identity.user.id)).await?)
}

/// The body of [`set_password`].
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewPassword {
    old: String,
    new: String,
}

/// `PUT /api/v1/account/password`: ends all other sessions.
pub async fn set_password(
    SessionCaller(identity, secret): SessionCaller,
    State(accounts): State<Accounts>,
    JsonBody(body): JsonBody<NewPassword>,
) -> Result<Json<Value>, Problem> {
    let user =
        accounts.check_password(&identity.user.name, &body.old).await.map_err(|error| match error {
            // Not 401: the caller is signed in, and stays so.
            AccountError::WrongPassword => Invalid::new("old", "is wrong").into(),
            error => Problem::from(error),
        })?;
    let set = accounts.set_password(user.id, &body.new, Some(&secret)).await;
    let ended = set.map_err(|error| match error {
        AccountError::Invalid(invalid) => Invalid::new("new", invalid.message).into(),
        error => Problem::from(error),
    })?;
    Ok(Json(json!({ "ended": ended })))
}
