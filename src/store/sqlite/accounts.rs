//! Users, tokens and sessions.

use std::time::Duration;

use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;
use uuid::Uuid;

use super::{SqliteStore, failed, list, now};
use crate::account::{Credential, Role, Scope, SecretHash, Session, Token, User};
use crate::event::{Millis, UserId};
use crate::store::{Result, StoreError};

macro_rules! user_columns {
    () => {
        "u.id as user_id, u.name as user_name, u.role as user_role, u.created_at as user_created_at"
    };
}
macro_rules! tokens {
    () => {
        concat!(
            "select t.id, t.name, t.scopes, t.created_at, t.expires_at, t.revoked_at, ",
            user_columns!(),
            " from tokens t join users u on u.id = t.user_id "
        )
    };
}
macro_rules! is_valid {
    () => {
        concat!("revoked_at is null and (expires_at is null or expires_at > ", now!(), ")")
    };
}

const CREATE_USER: &str = concat!(
    "insert into users (name, password_hash, role, created_at) values (?1, ?2, ?3, ",
    now!(),
    ") returning id as user_id, name as user_name, role as user_role, created_at as user_created_at"
);
const USER_BY_NAME: &str =
    concat!("select ", user_columns!(), ", u.password_hash from users u where u.name = ?1");
const USERS: &str =
    concat!("select ", user_columns!(), " from users u where u.name > ?1 order by u.name limit ?2");
const CREATE_TOKEN: &str = concat!(
    "insert into tokens (user_id, name, secret, scopes, created_at, expires_at)
     values (?1, ?2, ?3, ?4, ",
    now!(),
    ", ",
    now!(),
    " + ?5) returning id"
);
const TOKEN_BY_ID: &str = concat!(tokens!(), "where t.id = ?1");
const TOKENS: &str = concat!(tokens!(), "where ?1 is null or t.user_id = ?1 order by t.id desc limit ?2");
const TOKEN_BY_SECRET: &str = concat!(tokens!(), "where t.secret = ?1 and ", is_valid!());
const VALID_TOKENS: &str = concat!(
    tokens!(),
    "where (?1 is null or t.user_id = ?1) and (?2 is null or t.id < ?2) and ",
    is_valid!(),
    " order by t.id desc limit ?3"
);
const REVOKE_TOKEN: &str = concat!(
    "update tokens set revoked_at = ",
    now!(),
    " where id = ?1 and (?2 is null or user_id = ?2) and ",
    is_valid!(),
    " returning secret"
);
const CREATE_SESSION: &str = concat!(
    "insert into sessions (secret, user_id, created_at, expires_at, user_agent, id) values (?1, ?2, ",
    now!(),
    ", ",
    now!(),
    " + ?3, ?4, ?5)"
);
macro_rules! sessions {
    () => {
        concat!(
            "select s.id as session_id, s.created_at, coalesce(s.seen_at, s.created_at) as seen_at,
                s.expires_at, s.user_agent, ",
            now!(),
            " as read_at, ",
            user_columns!(),
            " from sessions s join users u on u.id = s.user_id where s.expires_at > ",
            now!()
        )
    };
}
const SESSION_BY_SECRET: &str = concat!(sessions!(), " and s.secret = ?1");
const SESSIONS: &str =
    concat!(sessions!(), " and (?1 is null or s.user_id = ?1) order by seen_at desc, s.id limit ?2");
const TOUCH_SESSION: &str = concat!(
    "update sessions set seen_at = ",
    now!(),
    " where secret = ?1 and coalesce(seen_at, created_at) <= ",
    now!(),
    " - ?2"
);
const TOKEN_IS_VALID: &str = concat!("select count(*) from tokens where id = ?1 and ", is_valid!());

impl SqliteStore {
    pub(in crate::store) async fn create_user(
        &self,
        name: &str,
        password_hash: &str,
        role: Role,
    ) -> Result<User> {
        let query = sqlx::query(CREATE_USER).bind(name).bind(password_hash).bind(role.as_str());
        match query.fetch_one(&self.writer).await {
            Err(sqlx::Error::Database(error)) if error.is_unique_violation() => {
                Err(StoreError::Taken("the name"))
            }
            outcome => user(&outcome.map_err(failed)?),
        }
    }

    pub(in crate::store) async fn user_by_name(&self, name: &str) -> Result<Option<(User, String)>> {
        let row = sqlx::query(USER_BY_NAME).bind(name).fetch_optional(&self.readers).await.map_err(failed)?;
        row.map(|row| Ok((user(&row)?, row.try_get("password_hash").map_err(failed)?))).transpose()
    }

    pub(in crate::store) async fn set_password(
        &self,
        user: UserId,
        password_hash: &str,
        keep: Option<&SecretHash>,
    ) -> Result<Vec<SecretHash>> {
        let mut work = self.writer.begin_with("BEGIN IMMEDIATE").await.map_err(failed)?;
        sqlx::query("update users set password_hash = ?2 where id = ?1")
            .bind(user)
            .bind(password_hash)
            .execute(&mut *work)
            .await
            .map_err(failed)?;
        let ended: Vec<Vec<u8>> = sqlx::query_scalar(
            "delete from sessions where user_id = ?1 and (?2 is null or secret <> ?2) returning secret",
        )
        .bind(user)
        .bind(keep.map(SecretHash::as_slice))
        .fetch_all(&mut *work)
        .await
        .map_err(failed)?;
        work.commit().await.map_err(failed)?;
        Ok(hashes(ended))
    }

    pub(in crate::store) async fn users(&self, after: &str, limit: u32) -> Result<Vec<User>> {
        let query = sqlx::query(USERS).bind(after).bind(i64::from(limit));
        query.fetch_all(&self.readers).await.map_err(failed)?.iter().map(user).collect()
    }

    pub(in crate::store) async fn resolve_names(&self, names: &[String]) -> Result<Vec<(String, UserId)>> {
        sqlx::query_as("select name, id from users where name in (select value from json_each(?1))")
            .bind(list(names))
            .fetch_all(&self.readers)
            .await
            .map_err(failed)
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
        let id: i64 = sqlx::query_scalar(CREATE_TOKEN)
            .bind(user)
            .bind(name)
            .bind(secret.as_slice())
            .bind(scopes.join(","))
            .bind(lifetime.map(millis))
            .fetch_one(&self.writer)
            .await
            .map_err(failed)?;
        token(&sqlx::query(TOKEN_BY_ID).bind(id).fetch_one(&self.readers).await.map_err(failed)?)
    }

    pub(in crate::store) async fn tokens(&self, user: Option<UserId>, limit: u32) -> Result<Vec<Token>> {
        let query = sqlx::query(TOKENS).bind(user).bind(i64::from(limit));
        query.fetch_all(&self.readers).await.map_err(failed)?.iter().map(token).collect()
    }

    pub(in crate::store) async fn valid_tokens(
        &self,
        user: Option<UserId>,
        before: Option<i64>,
        limit: u32,
    ) -> Result<Vec<Token>> {
        let query = sqlx::query(VALID_TOKENS).bind(user).bind(before).bind(i64::from(limit));
        query.fetch_all(&self.readers).await.map_err(failed)?.iter().map(token).collect()
    }

    pub(in crate::store) async fn token_by_secret(&self, secret: &SecretHash) -> Result<Option<Token>> {
        let query = sqlx::query(TOKEN_BY_SECRET).bind(secret.as_slice());
        query.fetch_optional(&self.readers).await.map_err(failed)?.as_ref().map(token).transpose()
    }

    pub(in crate::store) async fn revoke_token(
        &self,
        id: i64,
        owner: Option<UserId>,
    ) -> Result<Option<SecretHash>> {
        let query = sqlx::query_scalar::<_, Vec<u8>>(REVOKE_TOKEN).bind(id).bind(owner);
        let revoked = query.fetch_all(&self.writer).await.map_err(failed)?;
        Ok(hashes(revoked).pop())
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
        query.execute(&self.writer).await.map_err(failed)?;
        let row = sqlx::query(SESSION_BY_SECRET).bind(secret.as_slice());
        session(&row.fetch_one(&self.readers).await.map_err(failed)?)
    }

    pub(in crate::store) async fn session_by_secret(&self, secret: &SecretHash) -> Result<Option<Session>> {
        let query = sqlx::query(SESSION_BY_SECRET).bind(secret.as_slice());
        query.fetch_optional(&self.readers).await.map_err(failed)?.as_ref().map(session).transpose()
    }

    pub(in crate::store) async fn sessions(&self, user: Option<UserId>, limit: u32) -> Result<Vec<Session>> {
        let query = sqlx::query(SESSIONS).bind(user).bind(i64::from(limit));
        query.fetch_all(&self.readers).await.map_err(failed)?.iter().map(session).collect()
    }

    pub(in crate::store) async fn touch_sessions(
        &self,
        secrets: &[SecretHash],
        every: Duration,
    ) -> Result<()> {
        let mut work = self.writer.begin_with("BEGIN IMMEDIATE").await.map_err(failed)?;
        for secret in secrets {
            let query = sqlx::query(TOUCH_SESSION).bind(secret.as_slice()).bind(millis(every));
            query.execute(&mut *work).await.map_err(failed)?;
        }
        work.commit().await.map_err(failed)
    }

    pub(in crate::store) async fn end_session(&self, secret: &SecretHash) -> Result<bool> {
        let query = sqlx::query("delete from sessions where secret = ?1").bind(secret.as_slice());
        Ok(query.execute(&self.writer).await.map_err(failed)?.rows_affected() > 0)
    }

    pub(in crate::store) async fn end_session_by_id(
        &self,
        user: UserId,
        id: Uuid,
    ) -> Result<Option<SecretHash>> {
        let end = "delete from sessions where user_id = ?1 and id = ?2 returning secret";
        let query = sqlx::query_scalar::<_, Vec<u8>>(end).bind(user).bind(id);
        Ok(hashes(query.fetch_all(&self.writer).await.map_err(failed)?).pop())
    }

    pub(in crate::store) async fn end_other_sessions(
        &self,
        user: UserId,
        keep: &SecretHash,
    ) -> Result<Vec<SecretHash>> {
        let end = "delete from sessions where user_id = ?1 and secret <> ?2 returning secret";
        let query = sqlx::query_scalar::<_, Vec<u8>>(end).bind(user).bind(keep.as_slice());
        Ok(hashes(query.fetch_all(&self.writer).await.map_err(failed)?))
    }

    pub(in crate::store) async fn ended_of(&self, credentials: &[Credential]) -> Result<Vec<Credential>> {
        let mut lapsed = Vec::new();
        for credential in credentials {
            let is_valid = match credential {
                Credential::Session(secret) => self.session_by_secret(secret).await?.is_some(),
                Credential::Token(id) => {
                    let query = sqlx::query_scalar::<_, i64>(TOKEN_IS_VALID).bind(id);
                    query.fetch_one(&self.readers).await.map_err(failed)? > 0
                }
            };
            if !is_valid {
                lapsed.push(*credential);
            }
        }
        Ok(lapsed)
    }
}

fn hashes(secrets: Vec<Vec<u8>>) -> Vec<SecretHash> {
    secrets.into_iter().filter_map(|secret| secret.try_into().ok()).collect()
}

fn millis(duration: Duration) -> Millis {
    duration.as_millis().try_into().unwrap_or(Millis::MAX / 2)
}

fn user(row: &SqliteRow) -> Result<User> {
    let read = || {
        let role: String = row.try_get("user_role")?;
        Ok(User {
            id: row.try_get("user_id")?,
            name: row.try_get("user_name")?,
            role: role
                .parse()
                .map_err(|error: crate::event::Invalid| sqlx::Error::Decode(Box::new(error)))?,
            created_at: row.try_get("user_created_at")?,
        })
    };
    read().map_err(failed)
}

fn token(row: &SqliteRow) -> Result<Token> {
    let user = user(row)?;
    let read = || {
        let scopes: String = row.try_get("scopes")?;
        Ok(Token {
            id: row.try_get("id")?,
            user,
            name: row.try_get("name")?,
            // A word that is not known permits nothing.
            scopes: scopes.split(',').filter_map(|word| word.parse().ok()).collect(),
            created_at: row.try_get("created_at")?,
            expires_at: row.try_get("expires_at")?,
            revoked_at: row.try_get("revoked_at")?,
        })
    };
    read().map_err(failed)
}

fn session(row: &SqliteRow) -> Result<Session> {
    let user = user(row)?;
    let read = || {
        Ok(Session {
            id: row.try_get("session_id")?,
            user,
            created_at: row.try_get("created_at")?,
            seen_at: row.try_get("seen_at")?,
            expires_at: row.try_get("expires_at")?,
            user_agent: row.try_get("user_agent")?,
            read_at: row.try_get("read_at")?,
        })
    };
    read().map_err(failed)
}
