//! Users, and what of theirs has ended.

use std::time::Duration;

use sqlx::sqlite::{SqliteArguments, SqliteRow};
use sqlx::{Row as _, Sqlite};

use super::{SqliteStore, failed, list, now};
use crate::account::{Ending, Role, SecretHash, User};
use crate::event::{Millis, UserId};
use crate::store::{Result, StoreError};

macro_rules! user_columns {
    () => {
        "u.id as user_id, u.name as user_name, u.role as user_role, u.created_at as user_created_at, u.public_id,
         u.display_name, u.disabled_at, (
             select json_group_array(n.name) from user_names n where n.user_id = u.id and n.name <> u.public_id
         ) as user_names"
    };
}
/// What must hold of a token for it to permit what its user may do.
macro_rules! is_valid {
    () => {
        concat!("revoked_at is null and (expires_at is null or expires_at > ", now!(), ")")
    };
}
pub(super) use {is_valid, user_columns};

const CREATE_USER: &str = concat!(
    "insert into users (name, password_hash, role, issuer, subject, created_at) values (?1, ?2, ?3, ?4, ?5, ",
    now!(),
    ") returning id"
);
const USER_BY_ID: &str = concat!("select ", user_columns!(), " from users u where u.id = ?1");
const USER_BY_SUBJECT: &str =
    concat!("select ", user_columns!(), " from users u where u.issuer = ?1 and u.subject = ?2");
// What the user's sessions and tokens are, before a trigger ends them with the change.
const ENDED_OF_USER: &str = concat!(
    "select secret, null as token_id from sessions where user_id = ?1 and created_at < ?2 and expires_at > ",
    now!(),
    " union all select secret, id from tokens where ?3 and user_id = ?1 and ",
    is_valid!()
);
// One row at least, so that the newest number is always known.
const ENDINGS_SINCE: &str = "
    select newest.number as newest, e.number, e.secret, e.token_id
    from (select coalesce(max(number), 0) as number from endings) newest
    left join endings e on e.number > ?1
    order by e.number limit ?2";
const LAST_ENDING_BEFORE: &str = concat!(
    "select coalesce((select number from endings where at < ",
    now!(),
    " - ?1 order by at desc limit 1), 0)"
);
const REMOVE_OLD_ENDINGS: &str = concat!(
    "delete from endings where number in (select number from endings where at < ",
    now!(),
    " - ?1 order by at limit ?2)"
);
const USER_BY_NAME: &str =
    concat!("select ", user_columns!(), ", u.password_hash from users u where u.name = ?1");
const USERS: &str =
    concat!("select ", user_columns!(), " from users u where u.name > ?1 order by u.name limit ?2");
impl SqliteStore {
    pub(in crate::store) async fn create_user(
        &self,
        name: &str,
        password_hash: &str,
        role: Role,
    ) -> Result<User> {
        self.insert_user(name, password_hash, role, None).await
    }

    pub(in crate::store) async fn create_outside_user(
        &self,
        issuer: &str,
        subject: &str,
        name: &str,
        role: Role,
    ) -> Result<User> {
        // No password has this hash.
        self.insert_user(name, "", role, Some((issuer, subject))).await
    }

    async fn insert_user(
        &self,
        name: &str,
        password_hash: &str,
        role: Role,
        outside: Option<(&str, &str)>,
    ) -> Result<User> {
        let (issuer, subject) = outside.unzip();
        let insert = sqlx::query_scalar::<_, UserId>(CREATE_USER)
            .bind(name)
            .bind(password_hash)
            .bind(role.as_str())
            .bind(issuer)
            .bind(subject);
        let id = insert.fetch_one(&self.writer).await.map_err(taken)?;
        // Its names and its public id are written by a trigger, after what the statement returns.
        user(&sqlx::query(USER_BY_ID).bind(id).fetch_one(&self.readers).await.map_err(failed)?)
    }

    pub(in crate::store) async fn user_by_subject(
        &self,
        issuer: &str,
        subject: &str,
    ) -> Result<Option<User>> {
        let query = sqlx::query(USER_BY_SUBJECT).bind(issuer).bind(subject);
        query.fetch_optional(&self.readers).await.map_err(failed)?.as_ref().map(user).transpose()
    }

    pub(in crate::store) async fn rename_user(&self, user: UserId, name: &str) -> Result<bool> {
        let query = sqlx::query("update users set name = ?2 where id = ?1").bind(user).bind(name);
        Ok(query.execute(&self.writer).await.map_err(taken)?.rows_affected() > 0)
    }

    pub(in crate::store) async fn set_display_name(&self, user: UserId, name: Option<&str>) -> Result<bool> {
        let query = sqlx::query("update users set display_name = ?2 where id = ?1").bind(user).bind(name);
        Ok(query.execute(&self.writer).await.map_err(failed)?.rows_affected() > 0)
    }

    pub(in crate::store) async fn disable_user(&self, user: UserId) -> Result<Vec<Ending>> {
        let disable =
            concat!("update users set disabled_at = ", now!(), " where id = ?1 and disabled_at is null");
        self.end_by(user, Millis::MAX, true, [sqlx::query(disable).bind(user)]).await
    }

    pub(in crate::store) async fn enable_user(&self, user: UserId) -> Result<bool> {
        let enable = "update users set disabled_at = null where id = ?1 and disabled_at is not null";
        let query = sqlx::query(enable).bind(user);
        Ok(query.execute(&self.writer).await.map_err(failed)?.rows_affected() > 0)
    }

    pub(in crate::store) async fn set_not_before(&self, user: UserId, at: Millis) -> Result<Vec<Ending>> {
        let set = "update users set not_before = max(coalesce(not_before, ?2), ?2) where id = ?1";
        self.end_by(user, at, false, [sqlx::query(set).bind(user).bind(at)]).await
    }

    pub(in crate::store) async fn remove_user(&self, user: UserId) -> Result<Vec<Ending>> {
        let work = [
            sqlx::query("delete from sessions where user_id = ?1").bind(user),
            sqlx::query("delete from tokens where user_id = ?1").bind(user),
            sqlx::query("delete from users where id = ?1").bind(user),
        ];
        self.end_by(user, Millis::MAX, true, work).await
    }

    /// Does `work`, by which the user's sessions that began before `before` end, and `also_tokens` their tokens; gives
    /// these, or none if the last of `work` changed nothing.
    async fn end_by<const N: usize>(
        &self,
        user: UserId,
        before: Millis,
        also_tokens: bool,
        work: [sqlx::query::Query<'_, Sqlite, SqliteArguments>; N],
    ) -> Result<Vec<Ending>> {
        let mut transaction = self.writer.begin_with("BEGIN IMMEDIATE").await.map_err(failed)?;
        let ended = sqlx::query(ENDED_OF_USER).bind(user).bind(before).bind(also_tokens);
        let ended = ended.fetch_all(&mut *transaction).await.map_err(failed)?;
        let mut changed = 0;
        for query in work {
            changed = query.execute(&mut *transaction).await.map_err(failed)?.rows_affected();
        }
        transaction.commit().await.map_err(failed)?;
        if changed == 0 { Ok(Vec::new()) } else { ended.iter().map(ending).collect() }
    }

    pub(in crate::store) async fn endings_since(
        &self,
        number: i64,
        limit: u32,
    ) -> Result<(Vec<Ending>, i64)> {
        let query = sqlx::query(ENDINGS_SINCE).bind(number).bind(i64::from(limit));
        let rows = query.fetch_all(&self.readers).await.map_err(failed)?;
        let (mut endings, mut next) = (Vec::with_capacity(rows.len()), number);
        for row in &rows {
            match row.try_get("number").map_err(failed)? {
                Some(number) => {
                    endings.push(ending(row)?);
                    next = number;
                }
                None => next = number.min(row.try_get("newest").map_err(failed)?),
            }
        }
        Ok((endings, next))
    }

    pub(in crate::store) async fn last_ending_before(&self, age: Duration) -> Result<i64> {
        let query = sqlx::query_scalar(LAST_ENDING_BEFORE).bind(millis(age));
        query.fetch_one(&self.readers).await.map_err(failed)
    }

    pub(in crate::store) async fn remove_old_endings(&self, age: Duration, limit: u32) -> Result<u64> {
        let query = sqlx::query(REMOVE_OLD_ENDINGS).bind(millis(age)).bind(i64::from(limit));
        Ok(query.execute(&self.writer).await.map_err(failed)?.rows_affected())
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
}

/// A name that another row has or had is no failure of the database.
fn taken(error: sqlx::Error) -> StoreError {
    match &error {
        sqlx::Error::Database(database) if database.is_unique_violation() => StoreError::Taken("the name"),
        _ => failed(error),
    }
}

pub(super) fn hashes(secrets: Vec<Vec<u8>>) -> Vec<SecretHash> {
    secrets.into_iter().filter_map(|secret| secret.try_into().ok()).collect()
}

pub(super) fn millis(duration: Duration) -> Millis {
    duration.as_millis().try_into().unwrap_or(Millis::MAX / 2)
}

pub(super) fn user(row: &SqliteRow) -> Result<User> {
    let read = || {
        let role: String = row.try_get("user_role")?;
        let names: String = row.try_get("user_names")?;
        let mut names: Vec<String> =
            serde_json::from_str(&names).map_err(|error| sqlx::Error::Decode(Box::new(error)))?;
        names.sort_unstable();
        Ok(User {
            id: row.try_get("user_id")?,
            name: row.try_get("user_name")?,
            role: role
                .parse()
                .map_err(|error: crate::event::Invalid| sqlx::Error::Decode(Box::new(error)))?,
            public_id: row.try_get("public_id")?,
            display_name: row.try_get("display_name")?,
            names,
            created_at: row.try_get("user_created_at")?,
            disabled_at: row.try_get("disabled_at")?,
        })
    };
    read().map_err(failed)
}

fn ending(row: &SqliteRow) -> Result<Ending> {
    let secret: Vec<u8> = row.try_get("secret").map_err(failed)?;
    let wrong = |_| StoreError::Failed("a secret's hash has 32 bytes".into());
    Ok(Ending { secret: secret.try_into().map_err(wrong)?, token: row.try_get("token_id").map_err(failed)? })
}
