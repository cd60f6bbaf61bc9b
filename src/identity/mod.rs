//! Accounts: passwords, sessions and tokens. Secrets are random, handed out once and kept only as hashes.

mod credential_cache;
mod lookup;
pub mod topic_rules;
mod user_names;

use std::sync::Arc;
use std::time::Duration;

use argon2::Argon2;
use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rand::RngExt as _;
use sha2::{Digest as _, Sha256};
use tokio::sync::Semaphore;
use uuid::Uuid;

use self::credential_cache::CredentialCache;
use crate::account::{Credential, Ending, Role, Scope, SecretHash, Session, Token, User};
use crate::bus::Notifier;
use crate::bus::message::{GLOBAL, Notice};
use crate::event::name::check_name;
use crate::event::{Invalid, Millis, UserId};
use crate::store::{Store, StoreError};
use crate::ttl::{RateDecision, Ttl};
pub use user_names::UserNames;

/// How long a session lasts that is not to be remembered.
pub const SESSION_LIFETIME: Duration = Duration::from_secs(12 * 3600);
/// How long a remembered session lasts.
pub const REMEMBERED_LIFETIME: Duration = Duration::from_secs(30 * 86_400);
/// How long a node keeps what the store answered about a session, a token or a name. It is the longest delay of a revocation whose
/// ending the node could not read; a stream that was opened by such an answer ends at the next check after that. The
/// two together stay below 30 s.
pub const CACHED_FOR: Duration = Duration::from_secs(15);
/// The longest password, in bytes: hashing costs time for each.
const MAX_PASSWORD_LEN: usize = 512;
/// The shortest password that may be set, in bytes.
const MIN_PASSWORD_LEN: usize = 8;
/// How many passwords are hashed at once on one node; each takes about 20 MB and most of a core for a moment.
const CONCURRENT_HASHES: usize = 2;
/// Attempts to sign in to one account at once, and the time for another.
const SIGN_IN_BURST: u32 = 10;
const SIGN_IN_EVERY: Duration = Duration::from_secs(6);
/// The most characters kept of what a browser calls itself.
const MAX_USER_AGENT: usize = 256;
/// The most names that one user may have had: every request's identity carries them.
const MAX_NAMES: usize = 32;
/// What every token begins with, so that a leaked one is recognised.
const TOKEN_PREFIX: &str = "carillon_";

/// Why an account could not do something.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AccountError {
    /// A mistake in what was given.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// Wrong name or password.
    #[error("the name or the password is wrong")]
    WrongPassword,
    /// Too many attempts; allowed again after this.
    #[error("too many attempts to sign in")]
    TooManyAttempts(Duration),
    /// The store did not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Who is asking, and on what grounds.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Who.
    pub user: User,
    /// On what grounds.
    pub credential: Credential,
    /// What a token permits; `None` for a session, which permits what the role does.
    pub scopes: Option<Vec<Scope>>,
    /// What the session is called where it is shown, if it is one.
    pub session: Option<Uuid>,
}

impl Identity {
    /// Whether this permits publishing to users and to everyone. Of topics, the rules decide.
    pub fn may_publish(&self) -> bool {
        self.user.role >= Role::Publisher && self.may_send()
    }

    /// Whether this permits publishing to any audience that the user may publish to.
    pub fn may_send(&self) -> bool {
        self.has(Scope::Publish)
    }

    /// Whether this permits streams and the inbox.
    pub fn may_listen(&self) -> bool {
        self.has(Scope::Listen)
    }

    fn has(&self, scope: Scope) -> bool {
        self.scopes.as_ref().is_none_or(|scopes| scopes.contains(&scope))
    }
}

/// The accounts of the cluster, as one node sees them. Cheap to clone.
#[derive(Clone)]
pub struct Accounts {
    store: Store,
    /// Limits on attempts to sign in.
    ttl: Ttl,
    notifier: Notifier,
    cache: CredentialCache,
    names: UserNames,
    hashing: Arc<Semaphore>,
}

impl Accounts {
    /// Accounts kept in `store`, with attempts to sign in limited in `ttl`. What ends is written, then sent by `notifier`.
    pub fn new(store: Store, ttl: Ttl, notifier: Notifier) -> Self {
        let hashing = Arc::new(Semaphore::new(CONCURRENT_HASHES));
        let (cache, names) = (CredentialCache::new(&store), UserNames::new(&store));
        Self { store, ttl, notifier, cache, names, hashing }
    }

    /// Adds a user.
    pub async fn create(&self, name: &str, password: &str, role: Role) -> Result<User, AccountError> {
        check_name("name", name)?;
        let hash = self.hash(password).await?;
        Ok(self.store.create_user(name, &hash, role).await?)
    }

    /// Gives a user another name. It keeps what its former names permit.
    pub async fn rename(&self, user: &User, name: &str) -> Result<bool, AccountError> {
        check_name("name", name)?;
        if user.names.len() >= MAX_NAMES && !user.is_called(name) {
            return Err(
                Invalid::new("name", format!("has changed too often: at most {MAX_NAMES} names")).into()
            );
        }
        let is_there = self.store.rename_user(user.id, name).await?;
        self.changed(user.id).await;
        Ok(is_there)
    }

    /// Ends a user's sessions, and has their tokens permit nothing until [`Self::enable`]; gives how many it were.
    pub async fn disable(&self, user: UserId) -> Result<usize, StoreError> {
        Ok(self.ended(self.store.disable_user(user).await?).await)
    }

    /// Takes back [`Self::disable`], save that sessions have ended; whether the user was disabled.
    pub async fn enable(&self, user: UserId) -> Result<bool, StoreError> {
        self.store.enable_user(user).await
    }

    /// Voids a user's sessions that began before `at`, by the database's clock; gives how many it were.
    pub async fn end_sessions_before(&self, user: UserId, at: Millis) -> Result<usize, StoreError> {
        Ok(self.ended(self.store.set_not_before(user, at).await?).await)
    }

    /// Removes a user for good, with their sessions and tokens.
    pub async fn remove(&self, user: UserId) -> Result<(), StoreError> {
        self.ended(self.store.remove_user(user).await?).await;
        self.changed(user).await;
        Ok(())
    }

    /// Sets a password; gives how many sessions ended by it: all but `keep`.
    pub async fn set_password(
        &self,
        user: UserId,
        password: &str,
        keep: Option<&SecretHash>,
    ) -> Result<usize, AccountError> {
        let hash = self.hash(password).await?;
        Ok(self.sessions_ended(self.store.set_password(user, &hash, keep).await?).await)
    }

    /// Checks a password and begins a session for a browser that calls itself `user_agent`; gives its secret.
    pub async fn sign_in(
        &self,
        name: &str,
        password: &str,
        lifetime: Duration,
        user_agent: &str,
    ) -> Result<(String, Session), AccountError> {
        let user = self.check_password(name, password).await?;
        let secret = random_secret();
        let user_agent: String =
            user_agent.chars().filter(|c| !c.is_control()).take(MAX_USER_AGENT).collect();
        let session =
            self.store.create_session(user.id, &hash_secret(&secret), lifetime, &user_agent).await?;
        // Disabled while the password was checked.
        session.map(|session| (secret, session)).ok_or(AccountError::WrongPassword)
    }

    /// Whose password this is. Attempts are limited for each name.
    pub async fn check_password(&self, name: &str, password: &str) -> Result<User, AccountError> {
        let attempts = format!("sign-in:{}", hex(&hash_secret(name)));
        match self.ttl.take(&attempts, SIGN_IN_BURST, SIGN_IN_EVERY).await {
            Ok(RateDecision::RetryAfter(pause)) => return Err(AccountError::TooManyAttempts(pause)),
            Ok(RateDecision::Allowed) => {}
            // Hashing is slow and bounded: that limits guessing while the keys are away.
            Err(error) => tracing::warn!(%error, "sign-ins are not limited by name now"),
        }
        let found = self.store.user_by_name(name).await?;
        let (user, hash) = found.map_or((None, unknown_user_hash()), |(user, hash)| (Some(user), hash));
        // The same work for a name that does not exist, so that the time reveals nothing.
        let is_right = self.verify(password, hash).await;
        user.filter(|user| is_right && user.disabled_at.is_none()).ok_or(AccountError::WrongPassword)
    }

    /// Ends a session, with its streams on every node.
    pub async fn sign_out(&self, secret: &SecretHash) -> Result<(), StoreError> {
        self.store.end_session(secret).await?;
        self.sessions_ended(vec![*secret]).await;
        Ok(())
    }

    /// Ends one of a user's sessions by its id; whether there was one.
    pub async fn end_session(&self, user: UserId, id: Uuid) -> Result<bool, StoreError> {
        let ended = self.store.end_session_by_id(user, id).await?;
        Ok(self.sessions_ended(ended.into_iter().collect()).await > 0)
    }

    /// Ends all of a user's sessions but `keep`; gives how many.
    pub async fn end_other_sessions(&self, user: UserId, keep: &SecretHash) -> Result<usize, StoreError> {
        Ok(self.sessions_ended(self.store.end_other_sessions(user, keep).await?).await)
    }

    async fn sessions_ended(&self, secrets: Vec<SecretHash>) -> usize {
        self.ended(secrets.into_iter().map(|secret| Ending { secret, token: None }).collect()).await
    }

    /// These have ended: nothing is to be cached of them, and their streams end. Gives how many there are.
    async fn ended(&self, endings: Vec<Ending>) -> usize {
        let credentials: Vec<_> = endings.iter().map(Ending::credential).collect();
        self.forget(&credentials);
        self.notifier.notify_ended(&credentials).await;
        credentials.len()
    }

    /// This user is called otherwise now, or is gone.
    async fn changed(&self, user: UserId) {
        self.names.forget(user);
        self.notifier.notify(GLOBAL.to_owned(), Notice::UserChanged(user)).await;
    }

    /// Takes what is cached of these out of this node's cache.
    pub fn forget(&self, ended: &[Credential]) {
        self.cache.forget(ended);
    }

    /// Who holds this session, if it has not ended.
    pub async fn by_session(&self, secret: &str) -> Result<Option<Identity>, StoreError> {
        self.cache.by_session(&hash_secret(secret)).await
    }

    /// Adds a token; gives its secret.
    pub async fn create_token(
        &self,
        user: UserId,
        name: &str,
        scopes: &[Scope],
        lifetime: Option<Duration>,
    ) -> Result<(String, Token), AccountError> {
        if name.is_empty() || name.len() > 100 || name.chars().any(char::is_control) {
            return Err(Invalid::new("name", "must have 1 to 100 characters").into());
        }
        let secret = format!("{TOKEN_PREFIX}{}", random_secret());
        let token = self.store.create_token(user, name, &hash_secret(&secret), scopes, lifetime).await?;
        Ok((secret, token))
    }

    /// Revokes a token if it is `owner`'s (`None`: anybody's), with its streams on every node; whether it was valid.
    pub async fn revoke_token(&self, id: i64, owner: Option<UserId>) -> Result<bool, StoreError> {
        let Some(secret) = self.store.revoke_token(id, owner).await? else { return Ok(false) };
        self.ended(vec![Ending { secret, token: Some(id) }]).await;
        Ok(true)
    }

    /// Whose token this is, if it is valid.
    pub async fn by_token(&self, secret: &str) -> Result<Option<Identity>, StoreError> {
        self.cache.by_token(&hash_secret(secret)).await
    }

    /// Users by their names.
    pub fn names(&self) -> &UserNames {
        &self.names
    }

    async fn hash(&self, password: &str) -> Result<String, AccountError> {
        if !(MIN_PASSWORD_LEN..=MAX_PASSWORD_LEN).contains(&password.len()) {
            return Err(Invalid::new("password", "must have 8 to 512 characters").into());
        }
        let password = password.to_owned();
        let hash = move || Argon2::default().hash_password(password.as_bytes()).map(|hash| hash.to_string());
        let hashed = self.off_the_runtime(hash).await;
        let failed = || StoreError::Failed("the password could not be hashed".into());
        Ok(hashed.and_then(Result::ok).ok_or_else(failed)?)
    }

    async fn verify(&self, password: &str, hash: String) -> bool {
        if password.len() > MAX_PASSWORD_LEN {
            return false;
        }
        let password = password.to_owned();
        let verify = move || {
            PasswordHash::new(&hash)
                .is_ok_and(|hash| Argon2::default().verify_password(password.as_bytes(), &hash).is_ok())
        };
        self.off_the_runtime(verify).await.unwrap_or(false)
    }

    /// Hashing is meant to be slow: it gets threads of its own, few at a time. `None` if it panicked.
    async fn off_the_runtime<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let _turn = self.hashing.acquire().await;
        tokio::task::spawn_blocking(work).await.ok()
    }
}

/// What is checked in vain for a name that does not exist.
fn unknown_user_hash() -> String {
    static HASH: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    HASH.get_or_init(|| {
        Argon2::default()
            .hash_password(b"nobody has this password")
            .map_or_else(|_| String::new(), |h| h.to_string())
    })
    .clone()
}

/// 256 random bits as text.
pub fn random_secret() -> String {
    URL_SAFE_NO_PAD.encode(rand::rng().random::<[u8; 32]>())
}

/// The form in which a secret is kept. Plain SHA-256 is enough: secrets are random, not chosen by people.
pub fn hash_secret(secret: &str) -> SecretHash {
    Sha256::digest(secret.as_bytes()).into()
}

/// Bytes as lowercase hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
