//! Tokens and sessions.

use std::collections::HashSet;
use std::time::Duration;

use sqlx::Row;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use super::users::{token_is_valid, user, user_columns};
use super::{Failure, PostgresStore, millis};
use crate::account::{Credential, Scope, SecretHash, Session, Token};
use crate::event::UserId;
use crate::store::Result;

/// What must hold of a session's user `u` for the session `s` to permit anything before it expires.
macro_rules! session_holds {
    () => {
        "u.disabled_at is null and (u.not_before is null or s.created_at >= u.not_before)"
    };
}
macro_rules! token_columns {
    () => {
        concat!("t.id, t.name, t.scopes, t.created_at, t.expires_at, t.revoked_at, ", user_columns!())
    };
}

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
const TOKENS_BY_SECRETS: &str = concat!(
    "select t.secret, ",
    token_columns!(),
    " from tokens t join users u on u.id = t.user_id
      where t.secret = any($1) and u.disabled_at is null and ",
    token_is_valid!()
);
const VALID_TOKENS: &str = concat!(
    "select ",
    token_columns!(),
    " from tokens t join users u on u.id = t.user_id
      where ($1 is null or t.user_id = $1) and ($2 is null or t.id < $2) and u.disabled_at is null and ",
    token_is_valid!(),
    " order by t.id desc limit $3"
);
const REVOKE_TOKEN: &str = concat!(
    "update tokens t set revoked_at = carillon_now()
     where t.id = $1 and ($2 is null or t.user_id = $2) and ",
    token_is_valid!(),
    " returning t.secret"
);
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
         select $1, u.id, now, now + $3, $4, $5 from clock, users u
         where u.id = $2 and u.disabled_at is null and (u.not_before is null or u.not_before <= now)
         returning *
     )
     select ",
    session_columns!(),
    " from clock, s join users u on u.id = s.user_id"
);
const SESSIONS_BY_SECRETS: &str = concat!(
    "with clock as materialized (select carillon_now() as now) select s.secret, ",
    session_columns!(),
    " from clock, sessions s join users u on u.id = s.user_id
      where s.secret = any($1) and s.expires_at > clock.now and ",
    session_holds!()
);
const SESSIONS: &str = concat!(
    "with clock as materialized (select carillon_now() as now) select ",
    session_columns!(),
    " from clock, sessions s join users u on u.id = s.user_id
      where ($1 is null or s.user_id = $1) and s.expires_at > clock.now and ",
    session_holds!(),
    " order by coalesce(s.seen_at, s.created_at) desc, s.id limit $2"
);
const TOUCH_SESSIONS: &str = "
    with clock as materialized (select carillon_now() as now)
    update sessions set seen_at = clock.now from clock
    where secret = any($1) and coalesce(seen_at, created_at) <= clock.now - $2";
const ENDED_SESSIONS: &str = concat!(
    "select given.secret from unnest($1) as given(secret)
     where not exists (
         select from sessions s join users u on u.id = s.user_id
         where s.secret = given.secret and s.expires_at > (select carillon_now()) and ",
    session_holds!(),
    ")"
);
const ENDED_TOKENS: &str = concat!(
    "select given.id from unnest($1) as given(id)
     where not exists (
         select from tokens t join users u on u.id = t.user_id
         where t.id = given.id and u.disabled_at is null and ",
    token_is_valid!(),
    ")"
);

impl PostgresStore {
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

    pub(in crate::store) async fn tokens_by_secrets(
        &self,
        secrets: &[SecretHash],
    ) -> Result<Vec<(SecretHash, Token)>> {
        let query = sqlx::query(TOKENS_BY_SECRETS).bind(secrets);
        let rows = self.within(async |c| query.fetch_all(c).await).await?;
        Ok(rows
            .iter()
            .map(|row| with_secret(row, token))
            .collect::<sqlx::Result<_>>()
            .map_err(Failure::Sql)?)
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
    ) -> Result<Option<Session>> {
        let query = sqlx::query(CREATE_SESSION)
            .bind(secret.as_slice())
            .bind(user)
            .bind(millis(lifetime))
            .bind(user_agent)
            .bind(Uuid::from_bytes(rand::random()));
        let row = self.within(async |c| query.fetch_optional(c).await).await?;
        Ok(row.as_ref().map(session).transpose().map_err(Failure::Sql)?)
    }

    pub(in crate::store) async fn sessions_by_secrets(
        &self,
        secrets: &[SecretHash],
    ) -> Result<Vec<(SecretHash, Session)>> {
        let query = sqlx::query(SESSIONS_BY_SECRETS).bind(secrets);
        let rows = self.within(async |c| query.fetch_all(c).await).await?;
        Ok(rows
            .iter()
            .map(|row| with_secret(row, session))
            .collect::<sqlx::Result<_>>()
            .map_err(Failure::Sql)?)
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

        let mut ended = HashSet::new();
        if !secrets.is_empty() {
            let query = sqlx::query_scalar(ENDED_SESSIONS).bind(secrets);
            let gone: Vec<SecretHash> = self.within(async |c| query.fetch_all(c).await).await?;
            ended.extend(gone.into_iter().map(Credential::Session));
        }
        if !ids.is_empty() {
            let query = sqlx::query_scalar(ENDED_TOKENS).bind(ids);
            let gone: Vec<i64> = self.within(async |c| query.fetch_all(c).await).await?;
            ended.extend(gone.into_iter().map(Credential::Token));
        }
        Ok(credentials.iter().filter(|credential| ended.contains(credential)).copied().collect())
    }
}

/// What a row holds, with the secret's hash in it.
fn with_secret<T>(row: &PgRow, read: fn(&PgRow) -> sqlx::Result<T>) -> sqlx::Result<(SecretHash, T)> {
    Ok((row.try_get("secret")?, read(row)?))
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
