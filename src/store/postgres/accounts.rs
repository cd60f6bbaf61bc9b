//! Users, tokens and sessions.

use std::collections::HashSet;
use std::time::Duration;

use sqlx::Row;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use super::{Failure, PostgresStore, code, millis};
use crate::account::{Credential, Role, Scope, SecretHash, Session, Token, User};
use crate::event::UserId;
use crate::store::{Result, StoreError};

/// SQLSTATE: a value that must be unique is there already.
const UNIQUE_VIOLATION: &str = "23505";

macro_rules! user_columns {
    () => {
        "u.id as user_id, u.name as user_name, u.role as user_role, u.created_at as user_created_at"
    };
}
macro_rules! token_columns {
    () => {
        concat!("t.id, t.name, t.scopes, t.created_at, t.expires_at, t.revoked_at, ", user_columns!())
    };
}

const CREATE_USER: &str = concat!(
    "insert into users as u (name, password_hash, role, created_at) values ($1, $2, $3, carillon_now())
     returning ",
    user_columns!()
);
const USER_BY_NAME: &str =
    concat!("select ", user_columns!(), ", u.password_hash from users u where u.name = $1");
const USERS: &str =
    concat!("select ", user_columns!(), " from users u where u.name > $1 order by u.name limit $2");
const SET_PASSWORD: &str = "
    with changed as (update users set password_hash = $2 where id = $1)
    delete from sessions where user_id = $1 and ($3 is null or secret <> $3) returning secret";
const CREATE_TOKEN: &str = concat!(
    "with clock as materialized (select carillon_now() as now),
     t as (
         insert into tokens (user_id, name, secret, scopes, created_at, expires_at)
         select $1, $2, $3, $4, now, now + $5 from clock
         returning *
     )
     select ",
    token_columns!(),
    " from t join users u on u.id = t.user_id"
);
const TOKENS: &str = concat!(
    "select ",
    token_columns!(),
    " from tokens t join users u on u.id = t.user_id
      where $1 is null or t.user_id = $1 order by t.id desc limit $2"
);
const TOKEN_BY_SECRET: &str = concat!(
    "select ",
    token_columns!(),
    " from tokens t join users u on u.id = t.user_id
      where t.secret = $1 and t.revoked_at is null
          and (t.expires_at is null or t.expires_at > (select carillon_now()))"
);
const VALID_TOKENS: &str = concat!(
    "select ",
    token_columns!(),
    " from tokens t join users u on u.id = t.user_id
      where ($1 is null or t.user_id = $1) and ($2 is null or t.id < $2) and t.revoked_at is null
          and (t.expires_at is null or t.expires_at > (select carillon_now()))
      order by t.id desc limit $3"
);
const REVOKE_TOKEN: &str = "
    update tokens set revoked_at = carillon_now()
    where id = $1 and ($2 is null or user_id = $2)
        and revoked_at is null and (expires_at is null or expires_at > (select carillon_now()))
    returning secret";
macro_rules! session_columns {
    () => {
        concat!(
            "s.id as session_id, s.created_at, coalesce(s.seen_at, s.created_at) as seen_at, s.expires_at,
             s.user_agent, clock.now as read_at, ",
            user_columns!()
        )
    };
}
const CREATE_SESSION: &str = concat!(
    "with clock as materialized (select carillon_now() as now),
     s as (
         insert into sessions (secret, user_id, created_at, expires_at, user_agent, id)
         select $1, $2, now, now + $3, $4, $5 from clock
         returning *
     )
     select ",
    session_columns!(),
    " from clock, s join users u on u.id = s.user_id"
);
const SESSION_BY_SECRET: &str = concat!(
    "with clock as materialized (select carillon_now() as now) select ",
    session_columns!(),
    " from clock, sessions s join users u on u.id = s.user_id
      where s.secret = $1 and s.expires_at > clock.now"
);
const SESSIONS: &str = concat!(
    "with clock as materialized (select carillon_now() as now) select ",
    session_columns!(),
    " from clock, sessions s join users u on u.id = s.user_id
      where ($1 is null or s.user_id = $1) and s.expires_at > clock.now
      order by coalesce(s.seen_at, s.created_at) desc, s.id limit $2"
);
const TOUCH_SESSIONS: &str = "
    with clock as materialized (select carillon_now() as now)
    update sessions set seen_at = clock.now from clock
    where secret = any($1) and coalesce(seen_at, created_at) <= clock.now - $2";
const LAPSED_SESSIONS: &str = "
    select given.secret from unnest($1) as given(secret)
    where not exists (
        select from sessions s where s.secret = given.secret and s.expires_at > (select carillon_now()))";
const LAPSED_TOKENS: &str = "
    select given.id from unnest($1) as given(id)
    where not exists (
        select from tokens t where t.id = given.id and t.revoked_at is null
            and (t.expires_at is null or t.expires_at > (select carillon_now())))";

impl PostgresStore {
    pub(in crate::store) async fn create_user(
        &self,
        name: &str,
        password_hash: &str,
        role: Role,
    ) -> Result<User> {
        let query = sqlx::query(CREATE_USER).bind(name).bind(password_hash).bind(role.as_str());
        match self.within(async |c| query.fetch_one(c).await).await {
            Err(Failure::Sql(error)) if code(&error).as_deref() == Some(UNIQUE_VIOLATION) => {
                Err(StoreError::Taken("the name"))
            }
            outcome => Ok(user(&outcome?).map_err(Failure::Sql)?),
        }
    }

    pub(in crate::store) async fn user_by_name(&self, name: &str) -> Result<Option<(User, String)>> {
        if !is_storable(name) {
            return Ok(None);
        }
        let query = sqlx::query(USER_BY_NAME).bind(name);
        let row = self.within(async |c| query.fetch_optional(c).await).await?;
        let read = |row: &PgRow| Ok((user(row)?, row.try_get("password_hash")?));
        Ok(row.as_ref().map(read).transpose().map_err(Failure::Sql)?)
    }

    pub(in crate::store) async fn set_password(
        &self,
        user: UserId,
        password_hash: &str,
        keep: Option<&SecretHash>,
    ) -> Result<Vec<SecretHash>> {
        let keep = keep.map(SecretHash::as_slice);
        let query = sqlx::query_scalar(SET_PASSWORD).bind(user).bind(password_hash).bind(keep);
        Ok(self.within(async |c| query.fetch_all(c).await).await?)
    }

    pub(in crate::store) async fn users(&self, after: &str, limit: u32) -> Result<Vec<User>> {
        // No name has one, and text in Postgres cannot.
        let after = after.split('\0').next().unwrap_or_default();
        let query = sqlx::query(USERS).bind(after).bind(i64::from(limit));
        let rows = self.within(async |c| query.fetch_all(c).await).await?;
        Ok(rows.iter().map(user).collect::<sqlx::Result<_>>().map_err(Failure::Sql)?)
    }

    pub(in crate::store) async fn resolve_names(&self, names: &[String]) -> Result<Vec<(String, UserId)>> {
        let names: Vec<&str> = names.iter().map(String::as_str).filter(|name| is_storable(name)).collect();
        let query = sqlx::query_as("select name, id from users where name = any($1)").bind(names);
        Ok(self.within(async |c| query.fetch_all(c).await).await?)
    }

    pub(in crate::store) async fn create_token(
        &self,
        user: UserId,
        name: &str,
        secret: &SecretHash,
        scopes: &[Scope],
        lifetime: Option<Duration>,
    ) -> Result<Token> {
        let scopes: Vec<&str> = scopes.iter().map(|scope| scope.as_str()).collect();
        let query = sqlx::query(CREATE_TOKEN)
            .bind(user)
            .bind(name)
            .bind(secret.as_slice())
            .bind(scopes.join(","))
            .bind(lifetime.map(millis));
        let row = self.within(async |c| query.fetch_one(c).await).await?;
        Ok(token(&row).map_err(Failure::Sql)?)
    }

    pub(in crate::store) async fn tokens(&self, user: Option<UserId>, limit: u32) -> Result<Vec<Token>> {
        let query = sqlx::query(TOKENS).bind(user).bind(i64::from(limit));
        let rows = self.within(async |c| query.fetch_all(c).await).await?;
        Ok(rows.iter().map(token).collect::<sqlx::Result<_>>().map_err(Failure::Sql)?)
    }

    pub(in crate::store) async fn valid_tokens(
        &self,
        user: Option<UserId>,
        before: Option<i64>,
        limit: u32,
    ) -> Result<Vec<Token>> {
        let query = sqlx::query(VALID_TOKENS).bind(user).bind(before).bind(i64::from(limit));
        let rows = self.within(async |c| query.fetch_all(c).await).await?;
        Ok(rows.iter().map(token).collect::<sqlx::Result<_>>().map_err(Failure::Sql)?)
    }

    pub(in crate::store) async fn token_by_secret(&self, secret: &SecretHash) -> Result<Option<Token>> {
        let query = sqlx::query(TOKEN_BY_SECRET).bind(secret.as_slice());
        let row = self.within(async |c| query.fetch_optional(c).await).await?;
        Ok(row.as_ref().map(token).transpose().map_err(Failure::Sql)?)
    }

    pub(in crate::store) async fn revoke_token(
        &self,
        id: i64,
        owner: Option<UserId>,
    ) -> Result<Option<SecretHash>> {
        let query = sqlx::query_scalar(REVOKE_TOKEN).bind(id).bind(owner);
        Ok(self.within(async |c| query.fetch_optional(c).await).await?)
    }

    pub(in crate::store) async fn create_session(
        &self,
        user: UserId,
        secret: &SecretHash,
        lifetime: Duration,
        user_agent: &str,
    ) -> Result<Session> {
        let query = sqlx::query(CREATE_SESSION)
            .bind(secret.as_slice())
            .bind(user)
            .bind(millis(lifetime))
            .bind(user_agent)
            .bind(Uuid::from_bytes(rand::random()));
        let row = self.within(async |c| query.fetch_one(c).await).await?;
        Ok(session(&row).map_err(Failure::Sql)?)
    }

    pub(in crate::store) async fn session_by_secret(&self, secret: &SecretHash) -> Result<Option<Session>> {
        let query = sqlx::query(SESSION_BY_SECRET).bind(secret.as_slice());
        let row = self.within(async |c| query.fetch_optional(c).await).await?;
        Ok(row.as_ref().map(session).transpose().map_err(Failure::Sql)?)
    }

    pub(in crate::store) async fn sessions(&self, user: Option<UserId>, limit: u32) -> Result<Vec<Session>> {
        let query = sqlx::query(SESSIONS).bind(user).bind(i64::from(limit));
        let rows = self.within(async |c| query.fetch_all(c).await).await?;
        Ok(rows.iter().map(session).collect::<sqlx::Result<_>>().map_err(Failure::Sql)?)
    }

    pub(in crate::store) async fn touch_sessions(
        &self,
        secrets: &[SecretHash],
        every: Duration,
    ) -> Result<()> {
        let query = sqlx::query(TOUCH_SESSIONS).bind(secrets).bind(millis(every));
        self.within(async |c| query.execute(c).await).await?;
        Ok(())
    }

    pub(in crate::store) async fn end_session(&self, secret: &SecretHash) -> Result<bool> {
        let query = sqlx::query("delete from sessions where secret = $1").bind(secret.as_slice());
        Ok(self.within(async |c| query.execute(c).await).await?.rows_affected() > 0)
    }

    pub(in crate::store) async fn end_session_by_id(
        &self,
        user: UserId,
        id: Uuid,
    ) -> Result<Option<SecretHash>> {
        let end = "delete from sessions where user_id = $1 and id = $2 returning secret";
        let query = sqlx::query_scalar(end).bind(user).bind(id);
        Ok(self.within(async |c| query.fetch_optional(c).await).await?)
    }

    pub(in crate::store) async fn end_other_sessions(
        &self,
        user: UserId,
        keep: &SecretHash,
    ) -> Result<Vec<SecretHash>> {
        let end = "delete from sessions where user_id = $1 and secret <> $2 returning secret";
        let query = sqlx::query_scalar(end).bind(user).bind(keep.as_slice());
        Ok(self.within(async |c| query.fetch_all(c).await).await?)
    }

    pub(in crate::store) async fn ended_of(&self, credentials: &[Credential]) -> Result<Vec<Credential>> {
        let session = |c: &Credential| if let Credential::Session(secret) = c { Some(*secret) } else { None };
        let token = |c: &Credential| if let Credential::Token(id) = c { Some(*id) } else { None };
        let secrets: Vec<SecretHash> = credentials.iter().filter_map(session).collect();
        let ids: Vec<i64> = credentials.iter().filter_map(token).collect();

        let mut lapsed = HashSet::new();
        if !secrets.is_empty() {
            let query = sqlx::query_scalar(LAPSED_SESSIONS).bind(secrets);
            let gone: Vec<SecretHash> = self.within(async |c| query.fetch_all(c).await).await?;
            lapsed.extend(gone.into_iter().map(Credential::Session));
        }
        if !ids.is_empty() {
            let query = sqlx::query_scalar(LAPSED_TOKENS).bind(ids);
            let gone: Vec<i64> = self.within(async |c| query.fetch_all(c).await).await?;
            lapsed.extend(gone.into_iter().map(Credential::Token));
        }
        Ok(credentials.iter().filter(|credential| lapsed.contains(credential)).copied().collect())
    }
}

/// Whether text can be in the database at all: Postgres refuses a NUL, and what cannot be there is not there.
fn is_storable(text: &str) -> bool {
    !text.contains('\0')
}

fn user(row: &PgRow) -> sqlx::Result<User> {
    let role: &str = row.try_get("user_role")?;
    Ok(User {
        id: row.try_get("user_id")?,
        name: row.try_get("user_name")?,
        role: role.parse().map_err(|error| sqlx::Error::Decode(Box::<crate::event::Invalid>::new(error)))?,
        created_at: row.try_get("user_created_at")?,
    })
}

fn token(row: &PgRow) -> sqlx::Result<Token> {
    let scopes: &str = row.try_get("scopes")?;
    Ok(Token {
        id: row.try_get("id")?,
        user: user(row)?,
        name: row.try_get("name")?,
        // A word that is not known permits nothing.
        scopes: scopes.split(',').filter_map(|word| word.parse().ok()).collect(),
        created_at: row.try_get("created_at")?,
        expires_at: row.try_get("expires_at")?,
        revoked_at: row.try_get("revoked_at")?,
    })
}

fn session(row: &PgRow) -> sqlx::Result<Session> {
    Ok(Session {
        id: row.try_get("session_id")?,
        user: user(row)?,
        created_at: row.try_get("created_at")?,
        seen_at: row.try_get("seen_at")?,
        expires_at: row.try_get("expires_at")?,
        user_agent: row.try_get("user_agent")?,
        read_at: row.try_get("read_at")?,
    })
}
