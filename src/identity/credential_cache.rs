//! What the store lately answered about sessions and tokens, in this process: most requests need not ask it again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use moka::policy::EvictionPolicy;
use moka::sync::Cache;

use super::{CACHED_FOR, Identity};
use crate::account::{Credential, SecretHash};

/// How many answers a node keeps, at about a kilobyte each; the least used leave first.
const MAX_CACHED: u64 = 100_000;

/// Identities by the hash of the secret that stands for them, each for [`CACHED_FOR`]. Clones share it.
///
/// What has ended is forgotten at once ([`Self::forget`]), and an answer that was asked for before that is not kept
/// after it.
#[derive(Clone)]
pub struct CredentialCache {
    identities: Cache<SecretHash, Identity>,
    /// What stands for a token: notices name tokens by their id.
    token_secrets: Cache<i64, SecretHash>,
    /// How often something was forgotten.
    forgotten: Arc<AtomicU64>,
}

/// Taken before the store is asked, and given back with its answer.
#[derive(Clone, Copy)]
pub struct Asked(u64);

impl CredentialCache {
    /// With nothing in it.
    pub fn new() -> Self {
        Self { identities: lru(), token_secrets: lru(), forgotten: Arc::default() }
    }

    /// Whom this secret stands for, if that is known.
    pub fn get(&self, secret: &SecretHash) -> Option<Identity> {
        self.identities.get(secret)
    }

    /// The store is about to be asked.
    pub fn asking(&self) -> Asked {
        Asked(self.forgotten.load(Ordering::SeqCst))
    }

    /// Keeps the store's answer.
    pub fn put(&self, secret: SecretHash, identity: &Identity, Asked(forgotten): Asked) {
        if let Credential::Token(id) = identity.credential {
            self.token_secrets.insert(id, secret);
        }
        self.identities.insert(secret, identity.clone());
        // `forget` counts first and removes then: either that is seen here, or its removal comes after this insertion.
        if self.forgotten.load(Ordering::SeqCst) != forgotten {
            self.identities.invalidate(&secret);
        }
    }

    /// These permit nothing any more.
    pub fn forget(&self, ended: &[Credential]) {
        self.forgotten.fetch_add(1, Ordering::SeqCst);
        for credential in ended {
            let secret = match credential {
                Credential::Session(secret) => Some(*secret),
                Credential::Token(id) => self.token_secrets.get(id),
            };
            if let Some(secret) = secret {
                self.identities.invalidate(&secret);
            }
        }
    }
}

/// Least recently used, not moka's own policy: that one may refuse a new answer to a full cache.
fn lru<K, V>() -> Cache<K, V>
where
    K: std::hash::Hash + Eq + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    Cache::builder()
        .max_capacity(MAX_CACHED)
        .eviction_policy(EvictionPolicy::lru())
        .time_to_live(CACHED_FOR)
        .build()
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::account::{Role, Scope, User};
    use crate::event::UserId;

    fn identity(credential: Credential) -> Identity {
        let user = User {
            id: UserId::from(1),
            name: "alice".into(),
            public_id: "p".into(),
            display_name: None,
            names: vec!["alice".into()],
            role: Role::Listener,
            created_at: 0,
            disabled_at: None,
        };
        let session = matches!(credential, Credential::Session(_)).then(Uuid::nil);
        Identity { user, credential, scopes: Some(vec![Scope::Listen]), session }
    }

    #[test]
    fn a_session_is_forgotten_by_its_secret_and_a_token_by_its_id() {
        let cache = CredentialCache::new();
        for (secret, credential) in [([1; 32], Credential::Session([1; 32])), ([2; 32], Credential::Token(7))]
        {
            cache.put(secret, &identity(credential), cache.asking());
            assert_eq!(cache.get(&secret).map(|identity| identity.credential), Some(credential));
            cache.forget(&[Credential::Token(8), Credential::Session([9; 32])]);
            assert!(cache.get(&secret).is_some(), "another's end forgets nothing of this one");
            cache.forget(&[credential]);
            assert!(cache.get(&secret).is_none());
        }
    }

    #[test]
    fn an_answer_from_before_the_end_is_not_kept_after_it() {
        let cache = CredentialCache::new();
        let credential = Credential::Token(7);
        let asked = cache.asking();
        cache.forget(&[credential]);
        cache.put([1; 32], &identity(credential), asked);
        assert!(cache.get(&[1; 32]).is_none());
        cache.put([1; 32], &identity(credential), cache.asking());
        assert!(cache.get(&[1; 32]).is_some(), "what is asked afterwards is kept");
    }
}
