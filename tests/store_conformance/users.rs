//! Who users are: their names, their issuer, and when nothing of theirs permits anything.

use std::time::Duration;

use carillon::account::{Credential, Ending, Scope, SecretHash, User};

use super::*;

const LONG: Duration = Duration::from_secs(600);
const LISTEN: [Scope; 1] = [Scope::Listen];

fn secret(number: u8) -> SecretHash {
    [number; 32]
}

async fn by_name(store: &Store, name: &str) -> Option<User> {
    store.user_by_name(name).await.unwrap().map(|(user, _)| user)
}

async fn is_taken(store: &Store, name: &str) -> bool {
    matches!(store.create_user(name, "", Role::Listener).await, Err(StoreError::Taken(_)))
}

pub async fn a_name_that_a_row_has_or_had_is_never_anothers(store: &Store) {
    let alice = store.create_user("alice", "hash", Role::Publisher).await.unwrap();
    let bob = store.create_user("bob", "hash", Role::Listener).await.unwrap();
    assert_eq!((alice.names.as_slice(), alice.display_name.as_deref()), (&["alice".to_owned()][..], None));
    assert!(alice.public_id.len() >= 32 && alice.public_id != bob.public_id);

    assert!(store.rename_user(alice.id, "zoe").await.unwrap());
    assert!(store.set_display_name(alice.id, Some("Zoë")).await.unwrap());
    let zoe = by_name(store, "zoe").await.unwrap();
    assert_eq!((zoe.id, &zoe.public_id, zoe.role), (alice.id, &alice.public_id, alice.role));
    assert_eq!(
        (zoe.names.clone(), zoe.display_name.as_deref()),
        (vec!["alice".into(), "zoe".into()], Some("Zoë"))
    );
    assert!(zoe.is_called("alice") && zoe.is_called("zoe") && zoe.is_called(&alice.public_id));
    assert!(!zoe.is_called("bob") && !zoe.is_called("Zoë"));

    assert!(by_name(store, "alice").await.is_none());
    // Neither a former name nor what others know a row by becomes another's name.
    for name in ["alice", "zoe", &alice.public_id] {
        assert!(is_taken(store, name).await, "{name}");
        assert!(matches!(store.rename_user(bob.id, name).await, Err(StoreError::Taken(_))), "{name}");
    }
    assert_eq!(by_name(store, "bob").await, Some(bob.clone()), "what failed changed nothing");
    // A row may take back what was its own.
    assert!(store.rename_user(alice.id, "alice").await.unwrap());
    assert_eq!(by_name(store, "alice").await.unwrap().names, ["alice", "zoe"]);

    store.remove_user(alice.id).await.unwrap();
    for name in ["alice", "zoe", &alice.public_id] {
        assert!(is_taken(store, name).await, "{name}");
    }
    assert!(!store.rename_user(alice.id, "nobody").await.unwrap());
    assert!(!is_taken(store, "nobody").await, "it was not given out");
}

pub async fn an_issuers_subject_is_one_user(store: &Store) {
    let own = store.create_user("own", "hash", Role::Listener).await.unwrap();
    let one = store.create_outside_user("https://one", "7", "seven", Role::Listener).await.unwrap();
    let two = store.create_outside_user("https://two", "7", "other seven", Role::Publisher).await.unwrap();
    store.create_user("another own", "hash", Role::Listener).await.unwrap();
    let again = store.create_outside_user("https://one", "7", "seven again", Role::Listener).await;
    assert!(matches!(again, Err(StoreError::Taken(_))), "{again:?}");
    assert!(!is_taken(store, "seven again").await, "a row that was refused reserves nothing");
    assert!(store.rename_user(one.id, "eight").await.unwrap());
    let found =
        async |issuer, subject| store.user_by_subject(issuer, subject).await.unwrap().map(|user| user.id);
    assert_eq!(found("https://one", "7").await, Some(one.id));
    assert_eq!(found("https://two", "7").await, Some(two.id));
    for (issuer, subject) in
        [("https://one", "8"), ("https://three", "7"), ("", ""), ("", "own"), ("a\0", "\0")]
    {
        assert_eq!(found(issuer, subject).await, None, "{issuer} {subject}");
    }
    assert!(own.id != one.id && by_name(store, "eight").await.is_some());
}

pub async fn names_are_text_compared_by_bytes(store: &Store) {
    let composed = "Zoë";
    let decomposed = "Zoe\u{308}";
    let all = [composed, decomposed, "zoë", "日本 😀", "a/b", "..", "%", "\u{202e}x", " x", &"ä".repeat(127)];
    for name in all {
        let made = store.create_user(name, "hash", Role::Listener).await.unwrap();
        assert_eq!(made.name, name);
        assert_eq!(by_name(store, name).await, Some(made), "{name}");
    }
    let mut listed: Vec<String> =
        store.users("", 100).await.unwrap().into_iter().map(|user| user.name).collect();
    let mut sorted = listed.clone();
    sorted.sort_unstable();
    assert_eq!(listed, sorted, "by bytes, on every backend");
    listed.retain(|name| !all.contains(&name.as_str()));
    assert!(listed.is_empty(), "{listed:?}");
    assert_eq!(store.resolve_names(&[composed.to_owned(), "x".to_owned()]).await.unwrap().len(), 1);
    assert!(by_name(store, "Zo").await.is_none() && by_name(store, "a\0").await.is_none());
}

pub async fn a_disabled_users_sessions_and_tokens_permit_nothing(store: &Store) {
    let (me, other) = (user(store, "me").await, user(store, "other").await);
    store.create_session(me, &secret(1), LONG, "").await.unwrap().unwrap();
    let token = store.create_token(me, "mine", &secret(2), &LISTEN, None).await.unwrap();
    let revoked = store.create_token(me, "gone", &secret(3), &LISTEN, None).await.unwrap();
    store.revoke_token(revoked.id, None).await.unwrap();
    store.create_session(other, &secret(4), LONG, "").await.unwrap().unwrap();
    let all = [Credential::Session(secret(1)), Credential::Session(secret(4)), Credential::Token(token.id)];
    assert!(store.ended_of(&all).await.unwrap().is_empty());

    let mut ended = store.disable_user(me).await.unwrap();
    ended.sort_unstable_by_key(|ending| ending.secret);
    let of_me =
        [Ending { secret: secret(1), token: None }, Ending { secret: secret(2), token: Some(token.id) }];
    assert_eq!(ended, of_me);
    assert!(store.disable_user(me).await.unwrap().is_empty(), "they were disabled");
    let disabled_at = by_name(store, "me").await.unwrap().disabled_at;
    assert!(disabled_at.is_some());
    // Not even one that was begun beside it.
    assert!(store.create_session(me, &secret(5), LONG, "").await.unwrap().is_none());
    assert!(store.session_by_secret(&secret(1)).await.unwrap().is_none());
    assert!(store.session_by_secret(&secret(5)).await.unwrap().is_none());
    assert!(store.token_by_secret(&secret(2)).await.unwrap().is_none());
    assert!(store.sessions(Some(me), 10).await.unwrap().is_empty());
    assert!(store.valid_tokens(Some(me), None, 10).await.unwrap().is_empty());
    assert_eq!(store.tokens(Some(me), 10).await.unwrap().len(), 2);
    let mut gone = store.ended_of(&all).await.unwrap();
    gone.sort_unstable();
    assert_eq!(gone, [all[0], all[2]]);
    assert!(store.session_by_secret(&secret(4)).await.unwrap().is_some(), "of another user");

    assert!(store.enable_user(me).await.unwrap());
    assert!(!store.enable_user(me).await.unwrap());
    assert_eq!(by_name(store, "me").await.unwrap().disabled_at, None);
    assert!(store.token_by_secret(&secret(2)).await.unwrap().is_some());
    for number in [1, 5] {
        assert!(store.session_by_secret(&secret(number)).await.unwrap().is_none(), "sessions end for good");
    }
    store.create_session(me, &secret(6), LONG, "").await.unwrap().unwrap();
    assert!(store.session_by_secret(&secret(6)).await.unwrap().is_some());
}

pub async fn sessions_begun_before_a_time_are_void_and_tokens_are_not(store: &Store) {
    let me = user(store, "me").await;
    let old = store.create_session(me, &secret(1), LONG, "").await.unwrap().unwrap();
    let token = store.create_token(me, "mine", &secret(2), &LISTEN, None).await.unwrap();
    until_past(store, old.created_at).await;
    let new = store.create_session(me, &secret(3), LONG, "").await.unwrap().unwrap();
    let ended = store.set_not_before(me, new.created_at).await.unwrap();
    assert_eq!(ended, [Ending { secret: secret(1), token: None }]);
    let all = [Credential::Session(secret(1)), Credential::Session(secret(3)), Credential::Token(token.id)];
    assert_eq!(store.ended_of(&all).await.unwrap(), all[..1]);
    // An earlier time voids nothing more, and gives nothing back.
    assert!(store.set_not_before(me, 1).await.unwrap().is_empty());
    assert_eq!(store.ended_of(&all).await.unwrap(), all[..1]);
    // One that lies ahead holds for sessions that begin before it.
    let later = new.created_at + 600_000;
    assert_eq!(store.set_not_before(me, later).await.unwrap(), [Ending { secret: secret(3), token: None }]);
    assert!(store.create_session(me, &secret(4), LONG, "").await.unwrap().is_none());
    assert!(store.session_by_secret(&secret(4)).await.unwrap().is_none());
    assert!(store.token_by_secret(&secret(2)).await.unwrap().is_some());
}
