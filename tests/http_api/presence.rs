//! Who is on a topic: as a listener is notified, and as a request is answered.

use std::collections::BTreeSet;
use std::time::Duration;

use carillon::account::{Role, Scope};
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use crate::setup::{Answer, Setup, Stream, send};
use crate::support::{DEADLINE, wait_until};

const WATCH: &str = "topic=chat/room&presence=true";

async fn ask(setup: &Setup, token: &str, query: &str) -> Answer {
    send(setup.get(&format!("/api/v1/presence?{query}")).bearer_auth(token)).await
}

fn present(users: &[&str]) -> Value {
    json!({ "topic": "chat/room", "users": users, "count": users.len() })
}

fn user(name: &str) -> Value {
    json!({ "topic": "chat/room", "user": name })
}

/// The names of the presence notices that a stream received, in order.
fn notices(stream: &Stream) -> Vec<&str> {
    let names = ["carillon.presence", "carillon.join", "carillon.leave"];
    stream.events.iter().map(|event| &*event.event).filter(|name| names.contains(name)).collect()
}

pub async fn who_is_there_is_reported_first_and_then_who_comes_and_goes(setup: Setup) {
    assert_eq!(ask(&setup, &setup.alice, "topic=chat/room").await.expect(200).json(), present(&[]));
    let mut alice = setup.stream(&setup.alice, WATCH).await;
    alice.until_notice("carillon.presence", present(&["alice"])).await;
    let mut bob = setup.stream(&setup.bob, &format!("{WATCH}&topic=chat/other")).await;
    alice.until_notice("carillon.join", user("bob")).await;
    bob.until_notice("carillon.presence", present(&["alice", "bob"])).await;
    let elsewhere = json!({ "topic": "chat/other", "users": ["bob"], "count": 1 });
    bob.until_notice("carillon.presence", elsewhere).await;
    let asked = ask(&setup, &setup.alice, "topic=chat/room").await.expect(200).json();
    assert_eq!(asked, present(&["alice", "bob"]));

    // A listener that does not ask for notices is there, too.
    let silent = setup.stream(&setup.admin, "topic=chat/room").await;
    alice.until_notice("carillon.join", user("admin")).await;
    bob.until_notice("carillon.join", user("admin")).await;
    drop(silent);
    alice.until_notice("carillon.leave", user("admin")).await;
    drop(bob);
    alice.until_notice("carillon.leave", user("bob")).await;
    let expected = ["presence", "join", "join", "leave", "leave"].map(|name| format!("carillon.{name}"));
    assert_eq!(notices(&alice), expected);
    let asked = ask(&setup, &setup.bob, "topic=chat/room").await.expect(200).json();
    assert_eq!(asked, present(&["alice"]));
    drop(alice);
    wait_until(DEADLINE, "nobody is there", async || {
        ask(&setup, &setup.bob, "topic=chat/room").await.json() == present(&[])
    })
    .await;
}

pub async fn who_reloads_or_has_another_tab_neither_joins_nor_leaves(setup: Setup) {
    let mut alice = setup.stream(&setup.alice, WATCH).await;
    alice.until_notice("carillon.presence", present(&["alice"])).await;
    let first = setup.stream(&setup.bob, WATCH).await;
    alice.until_notice("carillon.join", user("bob")).await;
    let second = setup.stream(&setup.bob, "topic=chat/room").await;
    drop(first);
    sleep(Duration::from_millis(600)).await;
    drop(second);
    sleep(Duration::from_millis(600)).await;
    let mut third = setup.stream(&setup.bob, WATCH).await;
    third.until_notice("carillon.presence", present(&["alice", "bob"])).await;
    // Longer than it takes to be notified of somebody who left.
    let nothing = alice.until("a leave", |stream| !stream.notices("carillon.leave").is_empty());
    assert!(timeout(Duration::from_secs(4), nothing).await.is_err());
    assert_eq!(notices(&alice), ["carillon.presence", "carillon.join"]);
    drop(third);
    alice.until_notice("carillon.leave", user("bob")).await;
}

/// Many at once are not reported one by one, and not all of very many are named.
pub async fn a_crowd_is_reported_as_a_whole(setup: Setup) {
    const CROWD: usize = 230;
    let (mut names, mut tokens) = (vec!["alice".to_owned()], Vec::new());
    for number in 0..CROWD {
        let name = format!("guest-{number:03}");
        // Nobody signs in with a password here, and hashing so many takes long.
        setup.people.store().create_user(&name, "no hash", Role::Listener).await.unwrap();
        tokens.push(setup.people.token(&name, &[Scope::Listen], None).await);
        names.push(name);
    }
    let mut alice = setup.stream(&setup.alice, WATCH).await;
    alice.until_notice("carillon.presence", present(&["alice"])).await;
    let mut crowd = Vec::new();
    for token in &tokens {
        crowd.push(setup.stream(token, "topic=chat/room").await);
    }
    wait_until(DEADLINE, "all are there", async || {
        ask(&setup, &setup.bob, "topic=chat/room").await.json()["count"] == CROWD + 1
    })
    .await;
    let asked = ask(&setup, &setup.bob, "topic=chat/room").await.json();
    assert_eq!(asked["users"], json!(names[..200]));
    // They go together, so this is not reported one by one; where their connections close in several turns, the last of
    // these may be.
    drop(crowd);
    alice.until("alice is alone", |stream| here(stream) == BTreeSet::from(["alice".to_owned()])).await;
    assert!(alice.notices("carillon.leave").len() < CROWD);
}

/// Who is on the topic, as a stream was told; of a crowd those who were named.
fn here(stream: &Stream) -> BTreeSet<String> {
    let mut here = BTreeSet::new();
    for event in &stream.events {
        let data: Value = serde_json::from_str(&event.data).unwrap_or_default();
        let user = || data["user"].as_str().unwrap_or_default().to_owned();
        match event.event.as_str() {
            "carillon.presence" => {
                let users = data["users"].as_array().into_iter().flatten();
                here = users.filter_map(Value::as_str).map(str::to_owned).collect();
                let unnamed = data["count"].as_u64().unwrap_or_default() as usize - here.len();
                here.extend((0..unnamed).map(|number| format!("unnamed {number}")));
            }
            "carillon.join" => drop(here.insert(user())),
            // One of those who were not named.
            "carillon.leave" if !here.remove(&user()) => {
                let unnamed = here.iter().find(|name| name.starts_with("unnamed")).cloned();
                unnamed.map(|name| here.remove(&name));
            }
            _ => {}
        }
    }
    here
}

pub async fn presence_has_its_rules(setup: Setup) {
    ask(&setup, &setup.alice, "").await.expect_problem(400, "topic");
    ask(&setup, &setup.alice, "topic=/").await.expect_problem(400, "topic");
    ask(&setup, &setup.alice, "topic=a&topic=b").await.expect_problem(400, "topic");
    ask(&setup, &setup.alice, "topic=uploads/bob/1").await.expect_problem(403, "topic");
    send(setup.get("/api/v1/presence?topic=a")).await.expect_problem(401, "");
    for (query, status, field) in [
        ("presence=true", 400, "presence"),
        ("topic=a&presence=1", 400, "presence"),
        ("topic=uploads/bob/1&presence=true", 403, "topic"),
    ] {
        let stream = setup.get(&format!("/api/v1/stream?{query}")).bearer_auth(&setup.alice);
        send(stream).await.expect_problem(status, field);
    }
    let mut unasked = setup.stream(&setup.alice, "topic=chat/room").await;
    let mut bob = setup.stream(&setup.bob, WATCH).await;
    bob.until_notice("carillon.presence", present(&["alice", "bob"])).await;
    setup.publish_to_all("last").await;
    unasked.until_data("last").await;
    assert!(notices(&unasked).is_empty());
}
