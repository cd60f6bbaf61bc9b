//! Users, and what of theirs has ended.

use std::time::Duration;

use sqlx::postgres::{PgArguments, PgRow};
use sqlx::{Postgres, Row};

use super::{Failure, PostgresStore, code, millis};
use crate::account::{Ending, Role, SecretHash, User};
use crate::event::{Millis, UserId};
use crate::store::{Result, StoreError};

/// SQLSTATE: a value that must be unique is there already.
const UNIQUE_VIOLATION: &str = "23505";

macro_rules! user_columns {
    () => {
        "u.id as user_id, u.name as user_name, u.role as user_role, u.created_at as user_created_at, u.public_id,
         u.display_name, u.disabled_at,
         array(select n.name from user_names n where n.user_id = u.id and n.name <> u.public_id) as user_names"
    };
}
/// What must hold of a token `t` for it to permit what its user may do.
macro_rules! token_is_valid {
    () => {
        "t.revoked_at is null and (t.expires_at is null or t.expires_at > (select carillon_now()))"
    };
}
pub(super) use {token_is_valid, user_columns};

// Its names are written by a trigger, after what the statement itself can see.
const CREATE_USER: &str = "
    insert into users (name, password_hash, role, issuer, subject, created_at)
    values ($1, $2, $3, $4, $5, carillon_now()) returning id";
const USER_BY_ID: &str = concat!("select ", user_columns!(), " from users u where u.id = $1");
const USER_BY_SUBJECT: &str =
    concat!("select ", user_columns!(), " from users u where u.issuer = $1 and u.subject = $2");
const USER_BY_NAME: &str =
    concat!("select ", user_columns!(), ", u.password_hash from users u where u.name = $1");
const USERS: &str =
    concat!("select ", user_columns!(), " from users u where u.name > $1 order by u.name limit $2");
const SET_PASSWORD: &str = "
    with changed as (update users set password_hash = $2 where id = $1)
    delete from sessions where user_id = $1 and ($3 is null or secret <> $3) returning secret";
// What the user's sessions and tokens are, before a trigger ends them with the change.
macro_rules! ended {
    () => {
        concat!(
            "with ended as materialized (
                 select s.secret, null::bigint as token_id from sessions s
                 where s.user_id = $1 and s.expires_at > (select carillon_now())
                 union all
                 select t.secret, t.id from tokens t where t.user_id = $1 and ",
            token_is_valid!(),
            ")"
        )
    };
}
const DISABLE_USER: &str = concat!(
    ended!(),
    ", changed as (
         update users set disabled_at = carillon_now() where id = $1 and disabled_at is null returning id)
     select ended.secret, ended.token_id from changed, ended"
);
const SET_NOT_BEFORE: &str = "
    with ended as materialized (
        select s.secret, null::bigint as token_id from sessions s
        where s.user_id = $1 and s.created_at < $2 and s.expires_at > (select carillon_now())),
    changed as (update users set not_before = greatest(not_before, $2) where id = $1 returning id)
    select ended.secret, ended.token_id from changed, ended";
const REMOVE_USER: &str = concat!(
    ended!(),
    ", gone_sessions as (delete from sessions where user_id = $1),
       gone_tokens as (delete from tokens where user_id = $1),
       gone as (delete from users where id = $1)
     select ended.secret, ended.token_id from ended"
);
// One row at least, so that the newest number is always known.
const ENDINGS_SINCE: &str = "
    select newest.number as newest, e.number, e.secret, e.token_id
    from (select coalesce(max(number), 0) as number from endings) newest
    left join endings e on e.number > $1
    order by e.number limit $2";
// By the index over times: the greatest number would be looked for among all that are younger.
const LAST_ENDING_BEFORE: &str = "
    select coalesce((
        select number from endings where at < (select carillon_now()) - $1 order by at desc limit 1), 0)";
// As a list, so that each is looked up: a join may scan the table.
const REMOVE_OLD_ENDINGS: &str = "
    delete from endings where number = any(array(
        select number from endings where at < (select carillon_now()) - $1 order by at limit $2))";

impl PostgresStore {
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
        let read = async |c: &mut sqlx::PgConnection| {
            let id = insert.fetch_one(&mut *c).await?;
            user(&sqlx::query(USER_BY_ID).bind(id).fetch_one(c).await?)
        };
        self.within(read).await.map_err(taken)
    }

    pub(in crate::store) async fn user_by_subject(
        &self,
        issuer: &str,
        subject: &str,
    ) -> Result<Option<User>> {
        if !is_storable(issuer) || !is_storable(subject) {
            return Ok(None);
        }
        let query = sqlx::query(USER_BY_SUBJECT).bind(issuer).bind(subject);
        let row = self.within(async |c| query.fetch_optional(c).await).await?;
        Ok(row.as_ref().map(user).transpose().map_err(Failure::Sql)?)
    }

    pub(in crate::store) async fn rename_user(&self, user: UserId, name: &str) -> Result<bool> {
        let query = sqlx::query("update users set name = $2 where id = $1").bind(user).bind(name);
        let changed = self.within(async |c| query.execute(c).await).await.map_err(taken)?;
        Ok(changed.rows_affected() > 0)
    }

    pub(in crate::store) async fn set_display_name(&self, user: UserId, name: Option<&str>) -> Result<bool> {
        let query = sqlx::query("update users set display_name = $2 where id = $1").bind(user).bind(name);
        Ok(self.within(async |c| query.execute(c).await).await?.rows_affected() > 0)
    }

    pub(in crate::store) async fn disable_user(&self, user: UserId) -> Result<Vec<Ending>> {
        self.endings_of(sqlx::query(DISABLE_USER).bind(user)).await
    }

    pub(in crate::store) async fn enable_user(&self, user: UserId) -> Result<bool> {
        let enable = "update users set disabled_at = null where id = $1 and disabled_at is not null";
        let query = sqlx::query(enable).bind(user);
        Ok(self.within(async |c| query.execute(c).await).await?.rows_affected() > 0)
    }

    pub(in crate::store) async fn set_not_before(&self, user: UserId, at: Millis) -> Result<Vec<Ending>> {
        self.endings_of(sqlx::query(SET_NOT_BEFORE).bind(user).bind(at)).await
    }

    pub(in crate::store) async fn remove_user(&self, user: UserId) -> Result<Vec<Ending>> {
        self.endings_of(sqlx::query(REMOVE_USER).bind(user)).await
    }

    async fn endings_of(&self, query: sqlx::query::Query<'_, Postgres, PgArguments>) -> Result<Vec<Ending>> {
        let rows = self.within(async |c| query.fetch_all(c).await).await?;
        Ok(rows.iter().map(ending).collect::<sqlx::Result<_>>().map_err(Failure::Sql)?)
    }

    pub(in crate::store) async fn endings_since(
        &self,
        number: i64,
        limit: u32,
    ) -> Result<(Vec<Ending>, i64)> {
        let query = sqlx::query(ENDINGS_SINCE).bind(number).bind(i64::from(limit));
        let rows = self.within(async |c| query.fetch_all(c).await).await?;
        let read = || {
            let (mut endings, mut next) = (Vec::with_capacity(rows.len()), number);
            for row in &rows {
                match row.try_get("number")? {
                    Some(number) => {
                        endings.push(ending(row)?);
                        next = number;
                    }
                    None => next = number.min(row.try_get("newest")?),
                }
            }
            Ok((endings, next))
        };
        Ok(read().map_err(Failure::Sql)?)
    }

    pub(in crate::store) async fn last_ending_before(&self, age: Duration) -> Result<i64> {
        let query = sqlx::query_scalar(LAST_ENDING_BEFORE).bind(millis(age));
        Ok(self.within(async |c| query.fetch_one(c).await).await?)
    }

    pub(in crate::store) async fn remove_old_endings(&self, age: Duration, limit: u32) -> Result<u64> {
        let query = sqlx::query(REMOVE_OLD_ENDINGS).bind(millis(age)).bind(i64::from(limit));
        Ok(self.within(async |c| query.execute(c).await).await?.rows_affected())
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
}

/// A name that another row has or had is no failure of the database.
fn taken(failure: Failure) -> StoreError {
    match &failure {
        Failure::Sql(error) if code(error).as_deref() == Some(UNIQUE_VIOLATION) => {
            StoreError::Taken("the name")
        }
        _ => failure.into(),
    }
}

/// Whether text can be in the database at all: Postgres refuses a NUL, and what cannot be there is not there.
fn is_storable(text: &str) -> bool {
    !text.contains('\0')
}

pub(super) fn user(row: &PgRow) -> sqlx::Result<User> {
    let role: &str = row.try_get("user_role")?;
    Ok(User {
        id: row.try_get("user_id")?,
        name: row.try_get("user_name")?,
        role: role.parse().map_err(|error| sqlx::Error::Decode(Box::<crate::event::Invalid>::new(error)))?,
        public_id: row.try_get("public_id")?,
        display_name: row.try_get("display_name")?,
        names: in_order(row.try_get("user_names")?),
        created_at: row.try_get("user_created_at")?,
        disabled_at: row.try_get("disabled_at")?,
    })
}

fn in_order(mut names: Vec<String>) -> Vec<String> {
    names.sort_unstable();
    names
}

fn ending(row: &PgRow) -> sqlx::Result<Ending> {
    Ok(Ending { secret: row.try_get("secret")?, token: row.try_get("token_id")? })
}
