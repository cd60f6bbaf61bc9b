//! Tokens and sessions.

use std::time::Duration;

use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;
use uuid::Uuid;

use super::users::{hashes, is_valid, millis, user, user_columns};
use super::{SqliteStore, failed, list, now};
use crate::account::{Credential, Scope, SecretHash, Session, Token};
use crate::event::UserId;
use crate::store::{Result, StoreError};

macro_rules! tokens {
    () => {
        concat!(
            "select t.secret, t.id, t.name, t.scopes, t.created_at, t.expires_at, t.revoked_at, ",
            user_columns!(),
            " from tokens t join users u on u.id = t.user_id "
        )
    };
}
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
const TOKENS_BY_SECRETS: &str = concat!(
    tokens!(),
    "where t.secret in (select unhex(value) from json_each(?1)) and u.disabled_at is null and ",
    is_valid!()
);
const VALID_TOKENS: &str = concat!(
    tokens!(),
    "where (?1 is null or t.user_id = ?1) and (?2 is null or t.id < ?2) and u.disabled_at is null and ",
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
    "insert into sessions (secret, user_id, created_at, expires_at, user_agent, id)
     select ?1, u.id, clock.now, clock.now + ?3, ?4, ?5 from users u, (select ",
    now!(),
    " as now) clock
     where u.id = ?2 and u.disabled_at is null and (u.not_before is null or u.not_before <= clock.now)"
);
macro_rules! sessions {
    () => {
        concat!(
            "select s.secret, s.id as session_id, s.created_at, coalesce(s.seen_at, s.created_at) as seen_at,
                s.expires_at, s.user_agent, ",
            now!(),
            " as read_at, ",
            user_columns!(),
            " from sessions s join users u on u.id = s.user_id
             where u.disabled_at is null and (u.not_before is null or s.created_at >= u.not_before) and s.expires_at > ",
            now!()
        )
    };
}
const SESSIONS_BY_SECRETS: &str =
    concat!(sessions!(), " and s.secret in (select unhex(value) from json_each(?1))");
const SESSIONS: &str =
    concat!(sessions!(), " and (?1 is null or s.user_id = ?1) order by seen_at desc, s.id limit ?2");
const TOUCH_SESSION: &str = concat!(
    "update sessions set seen_at = ",
    now!(),
    " where secret = ?1 and coalesce(seen_at, created_at) <= ",
    now!(),
    " - ?2"
);
const TOKEN_IS_VALID: &str = concat!(
    "select count(*) from tokens t join users u on u.id = t.user_id
     where t.id = ?1 and u.disabled_at is null and ",
    is_valid!()
);

impl SqliteStore {
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

    pub(in crate::store) async fn tokens_by_secrets(
        &self,
        secrets: &[SecretHash],
    ) -> Result<Vec<(SecretHash, Token)>> {
        let query = sqlx::query(TOKENS_BY_SECRETS).bind(hex_list(secrets));
        let rows = query.fetch_all(&self.readers).await.map_err(failed)?;
        rows.iter().map(|row| with_secret(row, token)).collect()
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
    ) -> Result<Option<Session>> {
        let query = sqlx::query(CREATE_SESSION)
            .bind(secret.as_slice())
            .bind(user)
            .bind(millis(lifetime))
            .bind(user_agent)
            .bind(Uuid::from_bytes(rand::random()));
        query.execute(&self.writer).await.map_err(failed)?;
        // It may have ended already.
        Ok(self.sessions_by_secrets(&[*secret]).await?.pop().map(|(_, session)| session))
    }

    pub(in crate::store) async fn sessions_by_secrets(
        &self,
        secrets: &[SecretHash],
    ) -> Result<Vec<(SecretHash, Session)>> {
        let query = sqlx::query(SESSIONS_BY_SECRETS).bind(hex_list(secrets));
        let rows = query.fetch_all(&self.readers).await.map_err(failed)?;
        rows.iter().map(|row| with_secret(row, session)).collect()
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
        let mut ended = Vec::new();
        for credential in credentials {
            let is_valid = match credential {
                Credential::Session(secret) => !self.sessions_by_secrets(&[*secret]).await?.is_empty(),
                Credential::Token(id) => {
                    let query = sqlx::query_scalar::<_, i64>(TOKEN_IS_VALID).bind(id);
                    query.fetch_one(&self.readers).await.map_err(failed)? > 0
                }
            };
            if !is_valid {
                ended.push(*credential);
            }
        }
        Ok(ended)
    }
}

/// Hashes for `json_each`, which holds no bytes.
fn hex_list(secrets: &[SecretHash]) -> String {
    let hex = |secret: &SecretHash| secret.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    list(&secrets.iter().map(hex).collect::<Vec<_>>())
}

/// What a row holds, with the secret's hash in it.
fn with_secret<T>(row: &SqliteRow, read: fn(&SqliteRow) -> Result<T>) -> Result<(SecretHash, T)> {
    let secret: Vec<u8> = row.try_get("secret").map_err(failed)?;
    let secret = secret.try_into().map_err(|_| StoreError::Failed("a secret's hash is not one".into()))?;
    Ok((secret, read(row)?))
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
