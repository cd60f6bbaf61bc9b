//! Everybody's accounts, for admins: users, sessions, tokens.

use std::str::FromStr;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;

use super::account::{LISTED_SESSIONS, ShownSession, ShownToken};
use super::auth::AdminCaller;
use super::body::{JsonBody, PathOf, done};
use super::params::Params;
use super::problem::Problem;
use crate::account::{Role, Token, User};
use crate::event::{Invalid, rfc3339};
use crate::identity::{Accounts, random_secret};
use crate::store::{Store, StoreError};

/// How many users or tokens a page has when nothing is said.
pub const DEFAULT_PAGE: u32 = 100;
/// The most of them on a page.
const MAX_PAGE: u32 = 200;
/// How many characters a password has that is made here.
const PASSWORD_LEN: usize = 16;

/// A user as admins see them.
#[derive(Debug, Serialize)]
pub struct ShownUser {
    /// What others may see of the user, in topics for instance.
    id: String,
    name: String,
    role: &'static str,
    created_at: String,
}

impl From<&User> for ShownUser {
    fn from(user: &User) -> Self {
        Self {
            id: user.public_id.clone(),
            name: user.name.clone(),
            role: user.role.as_str(),
            created_at: rfc3339(user.created_at),
        }
    }
}

/// A page of something, and what to ask for next with `after`.
#[derive(Debug, Serialize)]
pub struct Listing<T> {
    /// What is on the page.
    pub shown: Vec<T>,
    /// Where the next one begins, if there may be one.
    pub next: Option<String>,
}

impl<T: Serialize> Listing<T> {
    fn json(self, name: &str) -> Json<Value> {
        Json(json!({ name: self.shown, "next": self.next }))
    }
}

/// Users by name, after the name `after`.
pub async fn users_after(store: &Store, after: &str, limit: u32) -> Result<Listing<ShownUser>, StoreError> {
    let users = store.users(after, limit).await?;
    let next = users.last().filter(|_| users.len() == limit as usize).map(|user| user.name.clone());
    Ok(Listing { shown: users.iter().map(ShownUser::from).collect(), next })
}

/// Valid tokens, newest first, after the number `after`.
pub async fn tokens_after(
    store: &Store,
    after: Option<i64>,
    limit: u32,
) -> Result<Listing<ShownToken>, StoreError> {
    let tokens: Vec<Token> = store.valid_tokens(None, after, limit).await?;
    let next = tokens.last().filter(|_| tokens.len() == limit as usize).map(|token| token.id.to_string());
    Ok(Listing { shown: tokens.iter().map(ShownToken::from).collect(), next })
}

fn limit(params: &Params) -> Result<u32, Problem> {
    let limit = params.parsed("limit", "must be a whole number")?.unwrap_or(DEFAULT_PAGE);
    if (1..=MAX_PAGE).contains(&limit) {
        return Ok(limit);
    }
    Err(Invalid::new("limit", format!("must be 1 to {MAX_PAGE}")).into())
}

/// `GET /api/v1/users`
pub async fn users(
    AdminCaller(..): AdminCaller,
    State(store): State<Store>,
    params: Params,
) -> Result<Json<Value>, Problem> {
    let after = params.one("after")?.unwrap_or_default();
    Ok(users_after(&store, after, limit(&params)?).await?.json("users"))
}

/// The body of [`create_user`].
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewUser {
    name: String,
    role: String,
}

/// `POST /api/v1/users`: the answer is the only one that holds the password.
pub async fn create_user(
    AdminCaller(admin, _): AdminCaller,
    State(accounts): State<Accounts>,
    JsonBody(new): JsonBody<NewUser>,
) -> Result<impl IntoResponse, Problem> {
    let role = Role::from_str(&new.role)?;
    let password = new_password();
    let user = accounts.create(&new.name, &password, role).await?;
    tracing::info!(admin = admin.user.name, user = user.name, role = role.as_str(), "a user was added");
    let mut shown = json!(ShownUser::from(&user));
    shown["password"] = json!(password);
    Ok((StatusCode::CREATED, Json(shown)))
}

/// `PUT /api/v1/users/{name}/password`: a new one, shown once. The user's sessions end; an admin who does this to
/// themselves keeps the one that asks.
pub async fn reset_password(
    AdminCaller(admin, secret): AdminCaller,
    State(store): State<Store>,
    State(accounts): State<Accounts>,
    PathOf(name): PathOf<String>,
) -> Result<Json<Value>, Problem> {
    let user = find(&store, &name).await?;
    let password = new_password();
    let keep = (user.id == admin.user.id).then_some(&secret);
    let ended = accounts.set_password(user.id, &password, keep).await?;
    tracing::info!(admin = admin.user.name, user = user.name, "a password was set anew");
    Ok(Json(json!({ "name": user.name, "password": password, "ended": ended })))
}

/// `GET /api/v1/users/{name}/sessions`
pub async fn sessions_of(
    AdminCaller(admin, _): AdminCaller,
    State(store): State<Store>,
    PathOf(name): PathOf<String>,
) -> Result<Json<Value>, Problem> {
    let user = find(&store, &name).await?;
    let sessions = store.sessions(Some(user.id), LISTED_SESSIONS).await?;
    let shown = sessions.iter().map(|session| ShownSession::of(session, admin.session));
    Ok(Json(json!({ "sessions": shown.collect::<Vec<_>>() })))
}

/// `GET /api/v1/sessions`: of all users, those used last.
pub async fn sessions(
    AdminCaller(admin, _): AdminCaller,
    State(store): State<Store>,
) -> Result<Json<Value>, Problem> {
    let sessions = store.sessions(None, LISTED_SESSIONS).await?;
    let shown = sessions.iter().map(|session| ShownSession::of(session, admin.session));
    Ok(Json(json!({ "sessions": shown.collect::<Vec<_>>() })))
}

/// `DELETE /api/v1/users/{name}/sessions/{id}`
pub async fn end_session(
    AdminCaller(admin, _): AdminCaller,
    State(store): State<Store>,
    State(accounts): State<Accounts>,
    PathOf((name, id)): PathOf<(String, Uuid)>,
) -> Result<StatusCode, Problem> {
    let user = find(&store, &name).await?;
    let ended = done(accounts.end_session(user.id, id).await?)?;
    tracing::info!(admin = admin.user.name, user = user.name, "a session was ended");
    Ok(ended)
}

/// `GET /api/v1/tokens`
pub async fn tokens(
    AdminCaller(..): AdminCaller,
    State(store): State<Store>,
    params: Params,
) -> Result<Json<Value>, Problem> {
    let after = params.parsed("after", "must be the number of a token")?;
    Ok(tokens_after(&store, after, limit(&params)?).await?.json("tokens"))
}

/// `DELETE /api/v1/tokens/{id}`
pub async fn revoke_token(
    AdminCaller(admin, _): AdminCaller,
    State(accounts): State<Accounts>,
    PathOf(id): PathOf<i64>,
) -> Result<StatusCode, Problem> {
    let revoked = done(accounts.revoke_token(id, None).await?)?;
    tracing::info!(admin = admin.user.name, token = id, "a token was revoked");
    Ok(revoked)
}

async fn find(store: &Store, name: &str) -> Result<User, Problem> {
    store.user_by_name(name).await?.map(|(user, _)| user).ok_or_else(Problem::not_found)
}

fn new_password() -> String {
    random_secret()[..PASSWORD_LEN].to_owned()
}
