//! The store: the durable truth. It decides what was accepted and in which order.
//!
//! # Contract
//! - **Positions rise in commit order.** A reader that has seen position `p` never later finds an event at or
//!   below `p` that it was not shown. Holes are normal. `head` is final: everything at or below it is
//!   committed or will never exist, and it never falls, even when retention empties the log.
//! - **A position keeps its event.** Only retention removes rows of the log, always a prefix, and the floor rises in the
//!   same transaction or before; a retracted event keeps its row and id. So a row above the floor that is gone, or has
//!   another id than it had, means that the database has lost events: a replica was promoted that did not have them, or
//!   an older state was restored. Who asks with what was applied ([`Store::compare`], [`Store::append_after`]) then gets
//!   a new epoch, begun in the same transaction.
//! - **An append is all or nothing.** When `append` returns, its events are on disk. When it fails with
//!   [`StoreError::Unavailable`] the outcome is unknown to the caller, yet still all or nothing; repeating it
//!   with the same idempotency keys gives the first events.
//! - **Times are the database's**, taken after the log's lock.
//! - **Readers get only what is theirs**: every read for a user filters by audience, and leaves out what was
//!   retracted, has expired (unless asked for) or has left this user after reading.
//! - Reads are bounded by the `limit` they are given.
//!
//! Chosen by URL: `sqlite:path` or `postgres://…`. One conformance suite (`tests/store_conformance.rs`) runs
//! against both.

pub mod clock;
mod pools;
mod postgres;
mod reads;
mod retention;
mod rows;
mod scan;
mod schema;
mod sqlite;
mod types;

use std::fmt;
use std::time::Duration;

use uuid::Uuid;

use crate::account::{Credential, Ending, Role, Scope, SecretHash, Session, Token, User};
use crate::event::{Applied, Event, Millis, NewEvent, Position, UserId};
pub use pools::{MIN_CONNECTIONS, Pool, PoolSizes};
pub use schema::Schema;
pub use types::*;

/// How often it is noted that a session is in use.
pub const SEEN_EVERY: Duration = Duration::from_secs(300);

/// Connections to the database at most, unless it is said otherwise.
pub const DEFAULT_CONNECTIONS: u32 = 10;

/// Bounds on what the store may cost.
#[derive(Debug, Clone)]
pub struct StoreLimits {
    /// Connections held at once, for each kind of work.
    pub connections: PoolSizes,
    /// How long a call waits for a free connection.
    pub acquire_timeout: Duration,
    /// How long a statement may run (Postgres `statement_timeout`, SQLite `busy_timeout`).
    pub statement_timeout: Duration,
    /// How long an append waits for the log's lock (Postgres `lock_timeout`).
    pub lock_timeout: Duration,
}

impl Default for StoreLimits {
    fn default() -> Self {
        Self {
            connections: PoolSizes::share(DEFAULT_CONNECTIONS),
            acquire_timeout: Duration::from_secs(5),
            statement_timeout: Duration::from_secs(10),
            lock_timeout: Duration::from_secs(5),
        }
    }
}

/// Why a call to the store failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The database cannot be reached, timed out or is shutting down: try again later.
    #[error("the store is not available: {0}")]
    Unavailable(String),
    /// A name that must be unique is taken.
    #[error("{0} is taken")]
    Taken(&'static str),
    /// The URL or the schema is not one this program can use.
    #[error("{0}")]
    Unusable(String),
    /// Nodes of an older program could not read it.
    #[error("{} cannot be written yet: run 'carillon migrate --finish' once no older node is left", .0.name)]
    Form(Form),
    /// A pooler in front of the database gives each transaction another connection: somebody must set it up otherwise.
    #[error("{SHARED_SESSIONS}")]
    SharedSessions,
    /// Nothing was appended, because keys came with other requests. The places, from 0, of the first events of these.
    #[error("keys came with other requests")]
    KeyReused(Vec<usize>),
    /// The database refused the statement: a defect here, or a schema changed by hand.
    #[error("the store failed: {0}")]
    Failed(String),
}

/// What is wrong when a pooler shares sessions, and what to do.
pub const SHARED_SESSIONS: &str =
    "PgBouncer before the store must use pool_mode = session: it gives each transaction another connection";

/// A form of rows, cursors and messages; which are written is a number in the database, [`LogState::forms`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Form {
    /// Written if the database's number is this or higher.
    pub number: i32,
    /// What has this form.
    pub name: &'static str,
}

/// What a migration did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Migrated {
    /// How many migrations were added.
    pub added: usize,
    /// How many events that were there before were looked at, to bring them into their new form.
    pub filled: i64,
    /// Whether new forms are written since now.
    pub finished: bool,
}

/// The newest of the forms that this program writes.
pub const FORMS: i32 = 3;

/// Events for several topics, or for users and topics.
pub const TARGETS_FORM: Form =
    Form { number: 2, name: "an event for several topics, or for users and topics," };

/// Cursors with the digest of an event's id.
pub const DIGEST_FORM: Form = Form { number: 3, name: "a cursor with a digest" };

/// Logs and counts that a question found events lost, and began a new epoch.
pub fn history_lost() {
    tracing::error!("the log has lost events that were delivered: a new epoch begins");
    metrics::counter!("carillon_history_lost_total").increment(1);
}

/// The durable truth; see the module's contract. Cheap to clone.
#[derive(Clone)]
pub struct Store(Backend);

#[derive(Clone)]
enum Backend {
    Postgres(std::sync::Arc<postgres::PostgresStore>),
    Sqlite(sqlite::SqliteStore),
}

/// Passes a call on to whichever backend there is.
macro_rules! forward {
    ($self:ident.$verb:ident($($argument:expr),*)) => {
        match &$self.0 {
            Backend::Postgres(store) => store.$verb($($argument),*).await,
            Backend::Sqlite(store) => store.$verb($($argument),*).await,
        }
    };
}

type Result<T> = std::result::Result<T, StoreError>;

impl Store {
    /// Connects to the database at `url`. SQLite files are created; Postgres is reached on first use, so that
    /// a node can start before its database does.
    pub async fn open(url: &str, limits: &StoreLimits) -> Result<Self> {
        match url.split_once(':').map(|(scheme, _)| scheme) {
            Some("sqlite") => Ok(Self(Backend::Sqlite(sqlite::SqliteStore::open(url, limits).await?))),
            Some("postgres" | "postgresql") => {
                Ok(Self(Backend::Postgres(std::sync::Arc::new(postgres::PostgresStore::open(url, limits)?))))
            }
            _ => Err(unknown_scheme()),
        }
    }

    /// Whether there may be a store at `url`: a SQLite file that exists. A server is asked only when it is used. Fails
    /// when the URL is none; its errors quote nothing of it.
    pub fn may_exist(url: &str) -> Result<bool> {
        match url.split_once(':').map(|(scheme, _)| scheme) {
            Some("sqlite") => sqlite::exists(url),
            Some("postgres" | "postgresql") => {
                postgres::PostgresStore::open(url, &StoreLimits::default()).map(|_| true)
            }
            _ => Err(unknown_scheme()),
        }
    }

    /// The same store, whose calls wait for the connections of `pool` and take no others. At first it is
    /// [`Pool::Requests`].
    pub fn on(&self, pool: Pool) -> Self {
        Self(match &self.0 {
            Backend::Postgres(store) => Backend::Postgres(std::sync::Arc::new(store.on(pool))),
            Backend::Sqlite(store) => Backend::Sqlite(store.on(pool)),
        })
    }

    /// Whether this is the embedded database, which migrates by itself.
    pub fn is_embedded(&self) -> bool {
        matches!(self.0, Backend::Sqlite(_))
    }

    /// Compares the database's schema with what this program needs.
    pub async fn schema(&self) -> Result<Schema> {
        forward!(self.schema())
    }

    /// Brings the schema up to date, beside nodes of older programs; safe to run from several nodes at once. What broke
    /// off goes on where it was. One that is newer and may be used stays as it is. An empty one is finished as well, and
    /// so is the embedded one.
    pub async fn migrate(&self) -> Result<Migrated> {
        forward!(self.migrate())
    }

    /// Raises [`LogState::forms`] to all that this program writes; from then on older programs refuse to start. The
    /// schema must be up to date. Gives whether it was not finished before.
    pub async fn finish(&self) -> Result<bool> {
        forward!(self.finish())
    }

    /// Where the log stands: one indexed read.
    pub async fn log_state(&self) -> Result<LogState> {
        forward!(self.log_state())
    }

    /// Where the log stands, after comparing it with what was applied of it. If it has lost that, it begins a new epoch in
    /// the same transaction.
    pub async fn compare(&self, applied: &Applied) -> Result<LogState> {
        forward!(self.compare(applied))
    }

    /// The id of the event at `position`, whatever its state.
    pub async fn id_at(&self, position: Position) -> Result<Option<Uuid>> {
        forward!(self.id_at(position))
    }

    /// Writes events to the log, all or nothing, in this order. Fails with [`StoreError::KeyReused`] if the key of one came
    /// with another request; a request's first event has the index 0.
    pub async fn append(&self, events: &[NewEvent]) -> Result<Appended> {
        self.append_after(events, None).await
    }

    /// The same, after comparing the log with what was applied of it, as [`Self::compare`] does: the events belong to the
    /// epoch that is in force then.
    pub async fn append_after(&self, events: &[NewEvent], applied: Option<&Applied>) -> Result<Appended> {
        forward!(self.append(events, applied))
    }

    /// The event at `position`, whatever its state; for routing, never to be shown to anybody by itself.
    pub async fn event_at(&self, position: Position) -> Result<Option<Event>> {
        forward!(self.event_at(position))
    }

    /// One event by its id, if it is for `user` (on any topic) and neither retracted nor gone from them; with
    /// `also_left` those as well that have left them after reading. Expired ones are found.
    pub async fn inbox_event(&self, user: UserId, id: Uuid, also_left: bool) -> Result<Option<InboxEntry>> {
        forward!(self.inbox_event(user, id, also_left))
    }

    /// How many unread, unexpired events `reader` has: of the newest `look_at` that are not below a mark, at most `most`.
    pub async fn unread_counts(&self, reader: &Reader, most: u32, look_at: u32) -> Result<UnreadCounts> {
        forward!(self.unread_counts(reader, most, look_at))
    }

    /// Marks one event read or unread for `user`; reading again keeps the first time. The caller has checked
    /// that it is theirs. Gives whether anything changed.
    pub async fn mark(&self, user: UserId, position: Position, is_read: bool) -> Result<bool> {
        forward!(self.mark(user, position, is_read))
    }

    /// Marks everything up to `position` read for `user`; gives the number by which that can be taken back.
    pub async fn mark_read_up_to(&self, user: UserId, position: Position) -> Result<i64> {
        forward!(self.mark_read_up_to(user, position))
    }

    /// Takes back the marking that gave this `number`, if it is the newest of `user` and was not taken back yet: what
    /// it made read is unread again, save what the user has said something about since. Gives whether it was.
    pub async fn take_back_read_up_to(&self, user: UserId, number: i64) -> Result<bool> {
        forward!(self.take_back_read_up_to(user, number))
    }

    /// Takes an event back, if it exists, is not retracted yet and is `publisher`'s (`None`: anybody's).
    pub async fn retract(&self, id: Uuid, publisher: Option<UserId>) -> Result<Option<Event>> {
        forward!(self.retract(id, publisher))
    }

    /// Adds a user. `password_hash` is a PHC string. The name is taken if any user has or had it.
    pub async fn create_user(&self, name: &str, password_hash: &str, role: Role) -> Result<User> {
        forward!(self.create_user(name, password_hash, role))
    }

    /// Adds a user whom `issuer` calls `subject`, without a password. Taken is what [`Self::create_user`] says, and
    /// an issuer's subject that has a row.
    pub async fn create_outside_user(
        &self,
        issuer: &str,
        subject: &str,
        name: &str,
        role: Role,
    ) -> Result<User> {
        forward!(self.create_outside_user(issuer, subject, name, role))
    }

    /// The user whom `issuer` calls `subject`.
    pub async fn user_by_subject(&self, issuer: &str, subject: &str) -> Result<Option<User>> {
        forward!(self.user_by_subject(issuer, subject))
    }

    /// Gives a user another name; whether there was one. Former names stay theirs.
    pub async fn rename_user(&self, user: UserId, name: &str) -> Result<bool> {
        forward!(self.rename_user(user, name))
    }

    /// Sets what a user is called in pages (`None`: by their name); whether there was one.
    pub async fn set_display_name(&self, user: UserId, name: Option<&str>) -> Result<bool> {
        forward!(self.set_display_name(user, name))
    }

    /// Ends a user's sessions for good, and has their tokens permit nothing until [`Self::enable_user`]; gives what
    /// permitted something until now.
    pub async fn disable_user(&self, user: UserId) -> Result<Vec<Ending>> {
        forward!(self.disable_user(user))
    }

    /// Lets a disabled user's tokens permit again what they did, and the user sign in; whether they were disabled.
    pub async fn enable_user(&self, user: UserId) -> Result<bool> {
        forward!(self.enable_user(user))
    }

    /// Voids a user's sessions that began before `at`, by the database's clock, for good; gives those that had not
    /// ended. Never takes back what a later time has voided. Tokens stay.
    pub async fn set_not_before(&self, user: UserId, at: Millis) -> Result<Vec<Ending>> {
        forward!(self.set_not_before(user, at))
    }

    /// Removes a user with their sessions and tokens; gives what permitted something until now. Their names are never
    /// given out again, and events keep their number.
    pub async fn remove_user(&self, user: UserId) -> Result<Vec<Ending>> {
        forward!(self.remove_user(user))
    }

    /// What ended before its time after the ending `number`, in the order of commits, at most `limit`; and the number
    /// to ask with next. Every verb that ends something writes this with it.
    pub async fn endings_since(&self, number: i64, limit: u32) -> Result<(Vec<Ending>, i64)> {
        forward!(self.endings_since(number, limit))
    }

    /// The number of the last ending that is older than `age`; 0 if there is none.
    pub async fn last_ending_before(&self, age: Duration) -> Result<i64> {
        forward!(self.last_ending_before(age))
    }

    /// Removes endings older than `age`, at most `limit`; gives how many.
    pub async fn remove_old_endings(&self, age: Duration, limit: u32) -> Result<u64> {
        forward!(self.remove_old_endings(age, limit))
    }

    /// A user and their password's PHC string.
    pub async fn user_by_name(&self, name: &str) -> Result<Option<(User, String)>> {
        forward!(self.user_by_name(name))
    }

    /// Sets a password and ends the user's sessions, save `keep`; gives the hashes of those ended.
    pub async fn set_password(
        &self,
        user: UserId,
        password_hash: &str,
        keep: Option<&SecretHash>,
    ) -> Result<Vec<SecretHash>> {
        forward!(self.set_password(user, password_hash, keep))
    }

    /// Users by name, after `after` (empty: from the start), at most `limit`.
    pub async fn users(&self, after: &str, limit: u32) -> Result<Vec<User>> {
        forward!(self.users(after, limit))
    }

    /// The numbers of those of `names` that exist.
    pub async fn resolve_names(&self, names: &[String]) -> Result<Vec<(String, UserId)>> {
        forward!(self.resolve_names(names))
    }

    /// Adds a token for `user`.
    pub async fn create_token(
        &self,
        user: UserId,
        name: &str,
        secret: &SecretHash,
        scopes: &[Scope],
        lifetime: Option<Duration>,
    ) -> Result<Token> {
        forward!(self.create_token(user, name, secret, scopes, lifetime))
    }

    /// All tokens, or one user's, newest first, at most `limit`; revoked and expired ones too.
    pub async fn tokens(&self, user: Option<UserId>, limit: u32) -> Result<Vec<Token>> {
        forward!(self.tokens(user, limit))
    }

    /// Tokens that permit something, of all or of one user, newest first, below the number `before`, at most `limit`.
    pub async fn valid_tokens(
        &self,
        user: Option<UserId>,
        before: Option<i64>,
        limit: u32,
    ) -> Result<Vec<Token>> {
        forward!(self.valid_tokens(user, before, limit))
    }

    /// The token with this secret, if it is neither revoked nor expired, and its user not disabled.
    pub async fn token_by_secret(&self, secret: &SecretHash) -> Result<Option<Token>> {
        Ok(self.tokens_by_secrets(std::slice::from_ref(secret)).await?.pop().map(|(_, token)| token))
    }

    /// The same of several; those that there are, in no order.
    pub async fn tokens_by_secrets(&self, secrets: &[SecretHash]) -> Result<Vec<(SecretHash, Token)>> {
        forward!(self.tokens_by_secrets(secrets))
    }

    /// Revokes a token if it is `owner`'s (`None`: anybody's); gives its secret's hash if it was valid until now.
    pub async fn revoke_token(&self, id: i64, owner: Option<UserId>) -> Result<Option<SecretHash>> {
        forward!(self.revoke_token(id, owner))
    }

    /// Adds a session that ends `lifetime` from now; `None` if the user is gone or disabled, or sessions begun now are
    /// void.
    pub async fn create_session(
        &self,
        user: UserId,
        secret: &SecretHash,
        lifetime: Duration,
        user_agent: &str,
    ) -> Result<Option<Session>> {
        forward!(self.create_session(user, secret, lifetime, user_agent))
    }

    /// Sessions that have not ended, of all or of one user, the last used first, at most `limit`.
    pub async fn sessions(&self, user: Option<UserId>, limit: u32) -> Result<Vec<Session>> {
        forward!(self.sessions(user, limit))
    }

    /// Notes that these sessions are in use, save those noted less than `every` ago: so often is a session
    /// written at most.
    pub async fn touch_sessions(&self, secrets: &[SecretHash], every: Duration) -> Result<()> {
        forward!(self.touch_sessions(secrets, every))
    }

    /// The session with this secret, if it has not ended.
    pub async fn session_by_secret(&self, secret: &SecretHash) -> Result<Option<Session>> {
        Ok(self.sessions_by_secrets(std::slice::from_ref(secret)).await?.pop().map(|(_, session)| session))
    }

    /// The same of several; those that there are, in no order.
    pub async fn sessions_by_secrets(&self, secrets: &[SecretHash]) -> Result<Vec<(SecretHash, Session)>> {
        forward!(self.sessions_by_secrets(secrets))
    }

    /// Ends a session; gives whether there was one.
    pub async fn end_session(&self, secret: &SecretHash) -> Result<bool> {
        forward!(self.end_session(secret))
    }

    /// Ends a session of `user`'s by what it is called; gives its secret's hash if there was one.
    pub async fn end_session_by_id(&self, user: UserId, id: Uuid) -> Result<Option<SecretHash>> {
        forward!(self.end_session_by_id(user, id))
    }

    /// Ends all of `user`'s sessions but one; gives the hashes of those ended.
    pub async fn end_other_sessions(&self, user: UserId, keep: &SecretHash) -> Result<Vec<SecretHash>> {
        forward!(self.end_other_sessions(user, keep))
    }

    /// Those of `credentials` that permit nothing any more: revoked, expired, void, or of a disabled user.
    pub async fn ended_of(&self, credentials: &[Credential]) -> Result<Vec<Credential>> {
        forward!(self.ended_of(credentials))
    }
}

fn unknown_scheme() -> StoreError {
    StoreError::Unusable("the store's URL must begin with sqlite: or postgres://".into())
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_embedded() { "Store(sqlite)" } else { "Store(postgres)" })
    }
}
