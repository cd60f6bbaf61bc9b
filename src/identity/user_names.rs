//! Which user a name stands for, as the store lately said: publishing asks for each event that names somebody.

use std::collections::HashMap;

use futures_util::FutureExt as _;
use moka::sync::Cache;

use super::lookup::{Found, Lookup, lru};
use crate::event::UserId;
use crate::store::{Store, StoreError};

/// Users' numbers by their present names. Clones share what is known.
///
/// What is forgotten late costs little: a former name still means the same user, and nobody reads what is for a user who
/// was removed.
#[derive(Clone)]
pub struct UserNames {
    numbers: Lookup<String, UserId>,
    /// What a user is called: notices name users by their number.
    names: Cache<UserId, String>,
}

impl UserNames {
    /// Of what is in `store`.
    pub fn new(store: &Store) -> Self {
        let names: Cache<UserId, String> = lru();
        let (store, by_number) = (store.clone(), names.clone());
        let numbers = Lookup::new(move |keys| {
            let (store, names) = (store.clone(), by_number.clone());
            async move { numbers(&store, &names, keys).await }.boxed()
        });
        Self { numbers, names }
    }

    /// The numbers of those of `names` that exist.
    pub async fn resolve(&self, names: Vec<String>) -> Result<HashMap<String, UserId>, StoreError> {
        self.numbers.get_all(names).await
    }

    /// This user is called otherwise now, or is gone.
    pub fn forget(&self, user: UserId) {
        self.numbers.forget(&self.names.get(&user));
    }
}

async fn numbers(store: &Store, names: &Cache<UserId, String>, keys: Vec<String>) -> Found<String, UserId> {
    let found = store.resolve_names(&keys).await?;
    // Before the answer is kept: who forgets the user must find the name.
    found.iter().for_each(|(name, user)| names.insert(*user, name.clone()));
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::account::Role;
    use crate::store::StoreLimits;

    #[tokio::test]
    async fn a_name_is_known_until_its_user_is_forgotten() {
        let store = Store::open("sqlite::memory:", &StoreLimits::default()).await.unwrap();
        store.migrate().await.unwrap();
        let mut users = Vec::new();
        for name in ["alice", "bob"] {
            users.push(store.create_user(name, "hash", Role::Listener).await.unwrap().id);
        }
        let names = UserNames::new(&store);
        let resolve = async |name: &str| names.resolve(vec![name.to_owned()]).await.unwrap().remove(name);
        assert_eq!((resolve("alice").await, resolve("bob").await), (Some(users[0]), Some(users[1])));
        assert_eq!(resolve("carol").await, None);
        let carol = store.create_user("carol", "hash", Role::Listener).await.unwrap().id;
        assert_eq!(resolve("carol").await, Some(carol), "that somebody is not there is not kept");
        store.rename_user(users[0], "alicia").await.unwrap();
        names.forget(users[1]);
        assert_eq!(resolve("alice").await, Some(users[0]), "another's change forgets nothing of this one");
        names.forget(users[0]);
        assert_eq!((resolve("alice").await, resolve("alicia").await), (None, Some(users[0])));
        store.remove_user(users[0]).await.unwrap();
        names.forget(users[0]);
        assert_eq!(resolve("alicia").await, None);
    }
}
