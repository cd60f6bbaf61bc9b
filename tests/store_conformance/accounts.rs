//! Users, tokens and sessions.

use std::time::Duration;

use carillon::account::{Credential, Role, Scope, SecretHash};
use carillon::store::{Store, StoreError};

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
        store.create_session(me, &secret(number), LONG, "").await.unwrap().unwrap();
    }
    store.create_session(other, &secret(3), LONG, "").await.unwrap().unwrap();
    store.create_session(me, &secret(4), LONG, "").await.unwrap().unwrap();
    assert_eq!(store.set_password(me, "between", Some(&secret(4))).await.unwrap().len(), 2);
    assert!(store.session_by_secret(&secret(4)).await.unwrap().is_some(), "kept");
    for number in [1, 2] {
        store.create_session(me, &secret(number), LONG, "").await.unwrap().unwrap();
    }
    let mut ended = store.set_password(me, "second", None).await.unwrap();
    ended.sort_unstable();
    assert_eq!(ended, [secret(1), secret(2), secret(4)]);
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
    assert_eq!(store.ended_of(&ids).await.unwrap(), [ids[1]]);
    assert_eq!(store.revoke_token(lasting.id, Some(other)).await.unwrap(), None, "it is not theirs");
    assert_eq!(store.revoke_token(brief.id, None).await.unwrap(), None, "it has ended");
    assert_eq!(store.revoke_token(lasting.id, Some(me)).await.unwrap(), Some(secret(1)));
    assert_eq!(store.revoke_token(lasting.id, None).await.unwrap(), None, "it was valid only until now");
    assert!(store.token_by_secret(&secret(1)).await.unwrap().is_none());
    assert_eq!(store.ended_of(&ids).await.unwrap().len(), 2);
    let mine: Vec<String> =
        store.tokens(Some(me), 10).await.unwrap().into_iter().map(|token| token.name).collect();
    assert_eq!(mine, ["brief", "lasting"], "newest first, ended ones too");
    assert!(store.tokens(Some(me), 10).await.unwrap()[1].revoked_at.is_some());
    assert_eq!(store.tokens(None, 10).await.unwrap().len(), 3);
    assert_eq!(store.tokens(None, 1).await.unwrap().len(), 1);
}

pub async fn sessions_end_by_time_and_by_signing_out(store: &Store) {
    let me = user(store, "me").await;
    let session = store.create_session(me, &secret(1), LONG, "a browser").await.unwrap().unwrap();
    assert_eq!(session.user.id, me);
    assert_eq!(
        (session.user_agent.as_str(), session.expires_at),
        ("a browser", session.created_at + 600_000)
    );
    assert_eq!((session.seen_at, session.read_at >= session.created_at), (session.created_at, true));
    let mut found = store.session_by_secret(&secret(1)).await.unwrap().unwrap();
    assert!(found.read_at >= session.read_at);
    found.read_at = session.read_at;
    assert_eq!(found, session);
    let brief = store.create_session(me, &secret(2), Duration::from_millis(300), "").await.unwrap().unwrap();
    until_past(store, brief.expires_at).await;
    assert!(store.session_by_secret(&secret(2)).await.unwrap().is_none());
    let all = [1, 2, 7].map(|number| Credential::Session(secret(number)));
    let mut lapsed = store.ended_of(&all).await.unwrap();
    lapsed.sort_unstable();
    assert_eq!(lapsed, all[1..]);
    assert!(store.ended_of(&[]).await.unwrap().is_empty());
    assert!(store.end_session(&secret(1)).await.unwrap());
    assert!(!store.end_session(&secret(1)).await.unwrap());
    assert_eq!(store.ended_of(&all).await.unwrap().len(), 3);
}

pub async fn tokens_are_listed_while_they_are_valid(store: &Store) {
    let (me, other) = (user(store, "me").await, user(store, "other").await);
    let mut ids = Vec::new();
    for number in 1..=5 {
        let lifetime = (number == 1).then_some(Duration::from_millis(300));
        let token =
            store.create_token(me, "mine", &secret(number), &[Scope::Listen], lifetime).await.unwrap();
        ids.push(token.id);
        if let Some(end) = token.expires_at {
            until_past(store, end).await;
        }
    }
    let theirs = store.create_token(other, "theirs", &secret(9), &[Scope::Listen], Some(LONG)).await.unwrap();
    assert_eq!(store.revoke_token(ids[2], None).await.unwrap(), Some(secret(3)));
    let listed = async |user, before, limit| -> Vec<i64> {
        let tokens = store.valid_tokens(user, before, limit).await.unwrap();
        tokens.iter().map(|token| token.id).collect()
    };
    assert_eq!(listed(Some(me), None, 10).await, [ids[4], ids[3], ids[1]], "newest first");
    assert_eq!(listed(None, None, 2).await, [theirs.id, ids[4]]);
    assert_eq!(listed(None, Some(ids[4]), 2).await, [ids[3], ids[1]]);
    assert!(listed(None, Some(ids[1]), 2).await.is_empty());
}

pub async fn sessions_are_distinguished_and_ended(store: &Store) {
    let (me, other) = (user(store, "me").await, user(store, "other").await);
    let mut sessions = Vec::new();
    for number in 1..=4 {
        sessions.push(store.create_session(me, &secret(number), LONG, "").await.unwrap().unwrap());
        until_past(store, sessions.last().unwrap().created_at).await;
    }
    store.create_session(other, &secret(9), LONG, "").await.unwrap().unwrap();
    let brief = store.create_session(me, &secret(5), Duration::from_millis(300), "").await.unwrap().unwrap();
    until_past(store, brief.expires_at).await;
    let listed = async |user, limit| -> Vec<uuid::Uuid> {
        store.sessions(user, limit).await.unwrap().iter().map(|session| session.id).collect()
    };
    let ids: Vec<_> = sessions.iter().map(|session| session.id).collect();
    assert_eq!(listed(Some(me), 10).await, [ids[3], ids[2], ids[1], ids[0]]);
    assert_eq!(listed(Some(me), 2).await, [ids[3], ids[2]]);
    assert_eq!(listed(None, 10).await.len(), 5);
    // Who was seen last comes first.
    store.touch_sessions(&[secret(1)], Duration::ZERO).await.unwrap();
    assert_eq!(listed(Some(me), 1).await, [ids[0]]);

    assert_eq!(store.end_session_by_id(other, ids[0]).await.unwrap(), None, "it is not theirs");
    assert_eq!(store.end_session_by_id(me, ids[0]).await.unwrap(), Some(secret(1)));
    assert_eq!(store.end_session_by_id(me, ids[0]).await.unwrap(), None);
    assert!(store.session_by_secret(&secret(1)).await.unwrap().is_none());
    let mut ended = store.end_other_sessions(me, &secret(3)).await.unwrap();
    ended.retain(|hash| *hash != secret(5));
    ended.sort_unstable();
    assert_eq!(ended, [secret(2), secret(4)]);
    assert_eq!(listed(Some(me), 10).await, [ids[2]]);
    assert_eq!(listed(Some(other), 10).await.len(), 1);
}

pub async fn the_use_of_a_session_is_noted_now_and_then(store: &Store) {
    let me = user(store, "me").await;
    let seen = async |number| store.session_by_secret(&secret(number)).await.unwrap().unwrap().seen_at;
    let mut last = 0;
    for number in [1, 2] {
        last = store.create_session(me, &secret(number), LONG, "").await.unwrap().unwrap().seen_at;
    }
    until_past(store, last + 200).await;
    let both = [secret(1), secret(2), secret(7)];
    store.touch_sessions(&both, LONG).await.unwrap();
    assert_eq!(seen(2).await, last, "it was noted not so long ago");
    store.touch_sessions(&both, Duration::from_millis(200)).await.unwrap();
    assert!(seen(1).await > last && seen(2).await > last);
    store.touch_sessions(&[], Duration::ZERO).await.unwrap();
}
