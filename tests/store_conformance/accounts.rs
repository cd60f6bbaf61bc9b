//! Users, tokens and sessions.

use std::time::Duration;

use carillon::store::{Credential, Role, Scope, SecretHash, Store, StoreError};

use super::*;

const LONG: Duration = Duration::from_secs(600);

fn secret(number: u8) -> SecretHash {
    [number; 32]
}

pub async fn users_have_names_of_their_own(store: &Store) {
    let made = store.create_user("bob", "first", Role::Publisher).await.unwrap();
    assert!(matches!(store.create_user("bob", "x", Role::Admin).await, Err(StoreError::Taken(_))));
    for name in ["alice", "carol", "Zoe"] {
        user(store, name).await;
    }
    let (found, hash) = store.user_by_name("bob").await.unwrap().unwrap();
    assert_eq!((found, hash.as_str()), (made.clone(), "first"));
    assert!(store.user_by_name("Bob").await.unwrap().is_none());
    let (mut after, mut names) = (String::new(), Vec::new());
    loop {
        let page = store.users(&after, 3).await.unwrap();
        let Some(last) = page.last() else { break };
        after.clone_from(&last.name);
        names.extend(page.into_iter().map(|user| user.name));
    }
    assert_eq!(names, ["Zoe", "alice", "bob", "carol"], "by bytes, on every backend");
    let asked = ["carol", "nobody", "bob", "bob"].map(str::to_owned);
    let mut resolved = store.resolve_names(&asked).await.unwrap();
    resolved.sort();
    resolved.dedup();
    assert_eq!(resolved.len(), 2);
    assert_eq!(resolved[0], ("bob".to_owned(), made.id));
}

pub async fn a_new_password_ends_sessions(store: &Store) {
    let (me, other) = (user(store, "me").await, user(store, "other").await);
    for number in [1, 2] {
        store.create_session(me, &secret(number), LONG).await.unwrap();
    }
    store.create_session(other, &secret(3), LONG).await.unwrap();
    let mut ended = store.set_password(me, "second").await.unwrap();
    ended.sort_unstable();
    assert_eq!(ended, [secret(1), secret(2)]);
    assert_eq!(store.user_by_name("me").await.unwrap().unwrap().1, "second");
    assert!(store.session_by_secret(&secret(1)).await.unwrap().is_none());
    assert!(store.session_by_secret(&secret(3)).await.unwrap().is_some());
}

pub async fn tokens_end_by_time_and_by_revocation(store: &Store) {
    let (me, other) = (user(store, "me").await, user(store, "other").await);
    let both = [Scope::Publish, Scope::Listen];
    let lasting = store.create_token(me, "lasting", &secret(1), &both, None).await.unwrap();
    let brief = store
        .create_token(me, "brief", &secret(2), &[Scope::Listen], Some(Duration::from_millis(300)))
        .await
        .unwrap();
    store.create_token(other, "other", &secret(3), &both, Some(LONG)).await.unwrap();
    assert_eq!((lasting.scopes.as_slice(), lasting.user.id, lasting.expires_at), (&both[..], me, None));
    assert_eq!(brief.expires_at, Some(brief.created_at + 300));
    assert_eq!(store.token_by_secret(&secret(1)).await.unwrap(), Some(lasting.clone()));
    until_past(store, brief.expires_at.unwrap()).await;
    assert!(store.token_by_secret(&secret(2)).await.unwrap().is_none());
    assert!(store.token_by_secret(&secret(9)).await.unwrap().is_none());
    let ids = [lasting.id, brief.id].map(Credential::Token);
    assert_eq!(store.lapsed(&ids).await.unwrap(), [ids[1]]);
    assert!(store.revoke_token(lasting.id).await.unwrap());
    assert!(!store.revoke_token(lasting.id).await.unwrap(), "it was valid only until now");
    assert!(store.token_by_secret(&secret(1)).await.unwrap().is_none());
    assert_eq!(store.lapsed(&ids).await.unwrap().len(), 2);
    let mine: Vec<String> =
        store.tokens(Some(me), 10).await.unwrap().into_iter().map(|token| token.name).collect();
    assert_eq!(mine, ["brief", "lasting"], "newest first, ended ones too");
    assert!(store.tokens(Some(me), 10).await.unwrap()[1].revoked_at.is_some());
    assert_eq!(store.tokens(None, 10).await.unwrap().len(), 3);
    assert_eq!(store.tokens(None, 1).await.unwrap().len(), 1);
}

pub async fn sessions_end_by_time_and_by_word(store: &Store) {
    let me = user(store, "me").await;
    let session = store.create_session(me, &secret(1), LONG).await.unwrap();
    assert_eq!(session.user.id, me);
    assert_eq!(store.session_by_secret(&secret(1)).await.unwrap(), Some(session));
    let brief = store.create_session(me, &secret(2), Duration::from_millis(300)).await.unwrap();
    until_past(store, brief.expires_at).await;
    assert!(store.session_by_secret(&secret(2)).await.unwrap().is_none());
    let all = [1, 2, 7].map(|number| Credential::Session(secret(number)));
    let mut lapsed = store.lapsed(&all).await.unwrap();
    lapsed.sort_unstable();
    assert_eq!(lapsed, all[1..]);
    assert!(store.lapsed(&[]).await.unwrap().is_empty());
    assert!(store.end_session(&secret(1)).await.unwrap());
    assert!(!store.end_session(&secret(1)).await.unwrap());
    assert_eq!(store.lapsed(&all).await.unwrap().len(), 3);
}
