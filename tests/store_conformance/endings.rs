//! What has ended before its time, as nodes read it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use carillon::account::{Ending, Scope, SecretHash};

use super::*;

const LONG: Duration = Duration::from_secs(600);
const LISTEN: [Scope; 1] = [Scope::Listen];

fn secret(number: u8) -> SecretHash {
    [number; 32]
}

/// What is new since the number, which goes on.
async fn news(store: &Store, number: &mut i64) -> Vec<Ending> {
    let (endings, next) = store.endings_since(*number, 100).await.unwrap();
    assert!(next >= *number);
    *number = next;
    endings
}

pub async fn whatever_ends_something_writes_it_down(store: &Store) {
    let me = user(store, "me").await;
    let mut ids = Vec::new();
    for number in 1..=9 {
        ids.push(store.create_session(me, &secret(number), LONG, "").await.unwrap().unwrap());
    }
    let mut tokens = Vec::new();
    for number in 21..=23 {
        tokens.push(store.create_token(me, "mine", &secret(number), &LISTEN, None).await.unwrap().id);
    }
    let session = |number| Ending { secret: secret(number), token: None };
    let token =
        |at: usize| Ending { secret: secret(21 + u8::try_from(at).unwrap()), token: Some(tokens[at]) };
    let mut number = store.last_ending_before(Duration::ZERO).await.unwrap();
    assert_eq!(number, 0);
    assert!(news(store, &mut number).await.is_empty());

    assert!(store.end_session(&secret(1)).await.unwrap());
    assert_eq!(news(store, &mut number).await, [session(1)]);
    assert!(!store.end_session(&secret(1)).await.unwrap());
    store.end_session_by_id(me, ids[1].id).await.unwrap();
    assert_eq!(news(store, &mut number).await, [session(2)]);
    store.revoke_token(tokens[0], None).await.unwrap();
    store.revoke_token(tokens[0], None).await.unwrap();
    assert_eq!(news(store, &mut number).await, [token(0)]);
    let sorted = async |number: &mut i64| {
        let mut endings = news(store, number).await;
        endings.sort_unstable_by_key(|ending| ending.secret);
        endings
    };
    store.end_other_sessions(me, &secret(3)).await.unwrap();
    assert_eq!(sorted(&mut number).await, [4, 5, 6, 7, 8, 9].map(session));
    store.create_session(me, &secret(4), LONG, "").await.unwrap().unwrap();
    store.set_password(me, "new", Some(&secret(4))).await.unwrap();
    assert_eq!(news(store, &mut number).await, [session(3)]);
    let kept = store.session_by_secret(&secret(4)).await.unwrap().unwrap();
    store.set_not_before(me, kept.created_at + 1).await.unwrap();
    assert_eq!(news(store, &mut number).await, [session(4)]);
    until_past(store, kept.created_at).await;
    store.create_session(me, &secret(5), LONG, "").await.unwrap().unwrap();
    store.disable_user(me).await.unwrap();
    assert_eq!(sorted(&mut number).await, [session(5), token(1), token(2)]);
    store.enable_user(me).await.unwrap();
    assert!(news(store, &mut number).await.is_empty());
    store.create_session(me, &secret(6), LONG, "").await.unwrap().unwrap();
    store.remove_user(me).await.unwrap();
    assert_eq!(sorted(&mut number).await, [session(6), token(1), token(2)]);

    // Page by page it is the same.
    let (mut paged, mut at) = (Vec::new(), 0);
    loop {
        let (page, next) = store.endings_since(at, 4).await.unwrap();
        at = next;
        paged.extend(page.iter().copied());
        if page.len() < 4 {
            break;
        }
    }
    assert_eq!((paged.len(), at), (17, number));
    // A number from beyond the end, as after a restored backup, comes back to it.
    assert_eq!(store.endings_since(number + 1_000, 4).await.unwrap(), (Vec::new(), number));
}

pub async fn what_ended_by_itself_is_no_ending(store: &Store) {
    let me = user(store, "me").await;
    let brief = Duration::from_millis(300);
    let session = store.create_session(me, &secret(1), brief, "").await.unwrap().unwrap();
    let token = store.create_token(me, "brief", &secret(2), &LISTEN, Some(brief)).await.unwrap();
    until_past(store, session.expires_at.max(token.expires_at.unwrap())).await;
    store.end_session(&secret(1)).await.unwrap();
    store.revoke_token(token.id, None).await.unwrap();
    let now = store.log_state().await.unwrap().now;
    store.remove_before(now + 1, 10).await.unwrap();
    assert!(store.tokens(Some(me), 10).await.unwrap().is_empty(), "retention took it");
    assert_eq!(store.endings_since(0, 10).await.unwrap(), (Vec::new(), 0));
}

pub async fn a_reader_beside_many_that_end_something_misses_nothing(store: &Store) {
    const WRITERS: u8 = 4;
    const EACH: u8 = 40;
    let me = user(store, "me").await;
    let of = |writer: u8, number: u8| -> SecretHash {
        let mut secret = [writer; 32];
        secret[0] = number;
        secret
    };
    for writer in 0..WRITERS {
        for number in 0..EACH {
            store.create_session(me, &of(writer, number), LONG, "").await.unwrap().unwrap();
        }
    }
    let is_over = Arc::new(AtomicBool::new(false));
    let reading = tokio::spawn({
        let (store, is_over) = (store.clone(), is_over.clone());
        async move {
            let (mut number, mut found) = (0, Vec::new());
            loop {
                let was_over = is_over.load(Ordering::Acquire);
                let endings = news(&store, &mut number).await;
                if was_over && endings.is_empty() {
                    return found;
                }
                found.extend(endings.into_iter().map(|ending| ending.secret));
            }
        }
    });
    let writing: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let store = store.clone();
            tokio::spawn(async move {
                for number in 0..EACH {
                    assert!(store.end_session(&of(writer, number)).await.unwrap());
                }
            })
        })
        .collect();
    for writer in writing {
        writer.await.unwrap();
    }
    is_over.store(true, Ordering::Release);
    let mut found = reading.await.unwrap();
    found.sort_unstable();
    found.dedup();
    assert_eq!(found.len(), usize::from(WRITERS) * usize::from(EACH));
}

pub async fn old_endings_are_removed_and_numbers_go_on(store: &Store) {
    let me = user(store, "me").await;
    let mut number = 0;
    for session in 1..=3 {
        store.create_session(me, &secret(session), LONG, "").await.unwrap().unwrap();
        store.end_session(&secret(session)).await.unwrap();
    }
    assert_eq!(news(store, &mut number).await.len(), 3);
    assert_eq!(store.last_ending_before(LONG).await.unwrap(), 0, "none is so old");
    assert_eq!(store.remove_old_endings(LONG, 10).await.unwrap(), 0);
    let now = store.log_state().await.unwrap().now;
    until_past(store, now + 1).await;
    assert_eq!(store.last_ending_before(Duration::ZERO).await.unwrap(), number);
    assert_eq!(store.remove_old_endings(Duration::ZERO, 2).await.unwrap(), 2);
    assert_eq!(store.endings_since(0, 10).await.unwrap().0, [Ending { secret: secret(3), token: None }]);
    assert_eq!(store.remove_old_endings(Duration::ZERO, 2).await.unwrap(), 1);
    store.create_session(me, &secret(4), LONG, "").await.unwrap().unwrap();
    store.end_session(&secret(4)).await.unwrap();
    assert_eq!(news(store, &mut number).await, [Ending { secret: secret(4), token: None }]);
    assert_eq!(number, 4, "no number is used again");
}
