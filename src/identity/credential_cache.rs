//! Who sessions and tokens stand for, as the store lately said: most requests need not ask it again.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use moka::sync::Cache;
use tokio::sync::Semaphore;

use super::Identity;
use super::lookup::{Found, Lookup, lru};
use crate::account::{Credential, SecretHash, Session, Token};
use crate::store::{SEEN_EVERY, Store, StoreError};

/// How many notes that a session is in use are written at once on one node; the others are made the next time.
const CONCURRENT_NOTES: usize = 4;

/// Identities by the hash of the secret that stands for them. What has ended is forgotten at once. Clones share it.
#[derive(Clone)]
pub(super) struct CredentialCache {
    sessions: Lookup<SecretHash, Identity>,
    tokens: Lookup<SecretHash, Identity>,
    /// What stands for a token: notices name tokens by their id.
    token_secrets: Cache<i64, SecretHash>,
}

impl CredentialCache {
    /// Of what is in `store`.
    pub(super) fn new(store: &Store) -> Self {
        let (of_sessions, of_tokens) = (store.clone(), store.clone());
        let used = SessionUse { store: store.clone(), noting: Arc::new(Semaphore::new(CONCURRENT_NOTES)) };
        let token_secrets: Cache<i64, SecretHash> = lru();
        let secrets = token_secrets.clone();
        Self {
            sessions: Lookup::new(move |keys| {
                let (store, used) = (of_sessions.clone(), used.clone());
                async move { sessions(&store, &used, keys).await }.boxed()
            }),
            tokens: Lookup::new(move |keys| {
                let (store, secrets) = (of_tokens.clone(), secrets.clone());
                async move { tokens(&store, &secrets, keys).await }.boxed()
            }),
            token_secrets,
        }
    }

    /// Who holds this session, if it has not ended.
    pub(super) async fn by_session(&self, secret: &SecretHash) -> Result<Option<Identity>, StoreError> {
        self.sessions.get(secret).await
    }

    /// Whose token this is, if it is valid.
    pub(super) async fn by_token(&self, secret: &SecretHash) -> Result<Option<Identity>, StoreError> {
        self.tokens.get(secret).await
    }

    /// These permit nothing any more.
    pub(super) fn forget(&self, ended: &[Credential]) {
        let session = |c: &Credential| if let Credential::Session(secret) = c { Some(*secret) } else { None };
        let token =
            |c: &Credential| if let Credential::Token(id) = c { self.token_secrets.get(id) } else { None };
        let (sessions, tokens): (Vec<_>, Vec<_>) =
            (ended.iter().filter_map(session).collect(), ended.iter().filter_map(token).collect());
        self.sessions.forget(&sessions);
        self.tokens.forget(&tokens);
    }
}

async fn sessions(store: &Store, used: &SessionUse, keys: Vec<SecretHash>) -> Found<SecretHash, Identity> {
    let found = store.sessions_by_secrets(&keys).await?;
    let identity = |(secret, session): (SecretHash, Session)| {
        used.note(&session, secret);
        let Session { id, user, .. } = session;
        let credential = Credential::Session(secret);
        (secret, Identity { user, credential, scopes: None, session: Some(id) })
    };
    Ok(found.into_iter().map(identity).collect())
}

async fn tokens(
    store: &Store,
    secrets: &Cache<i64, SecretHash>,
    keys: Vec<SecretHash>,
) -> Found<SecretHash, Identity> {
    let found = store.tokens_by_secrets(&keys).await?;
    let identity = |(secret, token): (SecretHash, Token)| {
        // Before the answer is kept: who forgets the token must find it.
        secrets.insert(token.id, secret);
        let Token { id, user, scopes, .. } = token;
        let credential = Credential::Token(id);
        (secret, Identity { user, credential, scopes: Some(scopes), session: None })
    };
    Ok(found.into_iter().map(identity).collect())
}

/// Notes that sessions are in use.
#[derive(Clone)]
struct SessionUse {
    store: Store,
    noting: Arc<Semaphore>,
}

impl SessionUse {
    /// Notes it now and then, without the request waiting for it.
    fn note(&self, session: &Session, secret: SecretHash) {
        if Duration::from_millis(u64::try_from(session.read_at - session.seen_at).unwrap_or(0)) < SEEN_EVERY {
            return;
        }
        let Ok(turn) = self.noting.clone().try_acquire_owned() else { return };
        let store = self.store.clone();
        tokio::spawn(async move {
            if let Err(error) = store.touch_sessions(&[secret], SEEN_EVERY).await {
                tracing::debug!(%error, "the use of a session was not noted");
            }
            drop(turn);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::account::{Role, Scope};
    use crate::store::StoreLimits;

    /// A store with a session and a token, the numbers of their secrets, and the token's id.
    async fn store() -> (Store, [SecretHash; 2], i64) {
        let store = Store::open("sqlite::memory:", &StoreLimits::default()).await.unwrap();
        store.migrate().await.unwrap();
        let user = store.create_user("alice", "hash", Role::Listener).await.unwrap().id;
        let (session, token) = ([1; 32], [2; 32]);
        store.create_session(user, &session, Duration::from_secs(600), "").await.unwrap().unwrap();
        let id = store.create_token(user, "t", &token, &[Scope::Listen], None).await.unwrap().id;
        (store, [session, token], id)
    }

    #[tokio::test]
    async fn a_session_is_forgotten_by_its_secret_and_a_token_by_its_id() {
        let (store, [session, token], id) = store().await;
        let cache = CredentialCache::new(&store);
        assert_eq!(
            cache.by_session(&session).await.unwrap().unwrap().credential,
            Credential::Session(session)
        );
        assert_eq!(cache.by_token(&token).await.unwrap().unwrap().credential, Credential::Token(id));
        assert!(cache.by_token(&session).await.unwrap().is_none(), "a session is no token");
        store.end_session(&session).await.unwrap();
        store.revoke_token(id, None).await.unwrap();
        cache.forget(&[Credential::Token(id + 1), Credential::Session([9; 32])]);
        assert!(
            cache.by_session(&session).await.unwrap().is_some(),
            "another's end forgets nothing of this one"
        );
        assert!(cache.by_token(&token).await.unwrap().is_some());
        cache.forget(&[Credential::Token(id), Credential::Session(session)]);
        assert!(cache.by_session(&session).await.unwrap().is_none());
        assert!(cache.by_token(&token).await.unwrap().is_none());
    }
}
