//! One's own account: sessions, tokens, password.

use carillon::account::Scope;
use reqwest::Method;
use serde_json::{Value, json};

use crate::setup::{Setup, Stream, credentials, send};
use crate::support::{DEADLINE, wait_until};

const ACCOUNT: &str = "/api/v1/account";
const SESSIONS: &str = "/api/v1/account/sessions";
const TOKENS: &str = "/api/v1/account/tokens";
const PASSWORD: &str = "/api/v1/account/password";
const FIREFOX: &str = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0";

/// What somebody is shown with a list's name, such as `sessions`.
async fn listed(setup: &Setup, cookie: &str, path: &str) -> Vec<Value> {
    let answer = send(setup.get(path).header("cookie", cookie)).await.expect(200);
    answer.json()[path.rsplit('/').next().unwrap()].as_array().unwrap().clone()
}

async fn stream_of(setup: &Setup, cookie: &str) -> Stream {
    Stream::open(setup.get("/api/v1/stream").header("cookie", cookie)).await
}

async fn ends_signed_out(mut stream: Stream) {
    stream.ends().await;
    assert_eq!(stream.events.last().unwrap().event, "carillon.signout");
}

pub async fn an_account_is_managed_by_who_is_signed_in(setup: Setup) {
    let cookie = setup.sign_in("alice").await;
    let me = send(setup.get(ACCOUNT).header("cookie", &cookie)).await.expect(200).json();
    assert_eq!((&me["name"], &me["role"]), (&json!("alice"), &json!("listener")));
    assert!(me["created_at"].as_str().unwrap().ends_with('Z'), "{me}");
    for (method, path) in [
        (Method::GET, ACCOUNT),
        (Method::GET, SESSIONS),
        (Method::DELETE, SESSIONS),
        (Method::DELETE, "/api/v1/account/sessions/01a1fd2a-0970-73fc-a268-f63855a93fd0"),
        (Method::GET, TOKENS),
        (Method::POST, TOKENS),
        (Method::DELETE, "/api/v1/account/tokens/1"),
        (Method::PUT, PASSWORD),
    ] {
        send(setup.request(method.clone(), path)).await.expect_problem(401, "");
        for token in [&setup.alice, &setup.admin] {
            send(setup.request(method.clone(), path).bearer_auth(token)).await.expect_problem(403, "");
        }
        // A page of one account does nothing to another's.
        let other = format!("{path}?account=bob");
        send(setup.request(method, &other).header("cookie", &cookie)).await.expect_problem(401, "account");
    }
    assert_eq!(listed(&setup, &cookie, SESSIONS).await.len(), 1);
}

pub async fn sessions_are_distinguished_and_ended(setup: Setup) {
    let here = setup.sign_in("alice").await;
    let there = setup.post("/api/v1/session").header("user-agent", FIREFOX).json(&credentials("alice"));
    let there = send(there).await.expect(204).cookie();
    let bob = setup.sign_in("bob").await;
    let sessions = listed(&setup, &here, SESSIONS).await;
    assert_eq!(sessions.len(), 2, "only one's own: {sessions:?}");
    let (current, others): (Vec<_>, Vec<_>) = sessions.iter().partition(|s| s["current"] == true);
    let (current, other) = (current[0], others[0]);
    assert_eq!(other["browser"], "Firefox on Linux");
    for time in ["created_at", "seen_at", "expires_at"] {
        assert!(other[time].as_str().unwrap().ends_with('Z'), "{other}");
    }
    let shown = serde_json::to_string(&sessions).unwrap();
    let secret = there.split('=').nth(1).unwrap();
    let hash = carillon::identity::hex(&carillon::identity::hash_secret(secret));
    assert!(!shown.contains(secret) && !shown.contains(&hash), "{shown}");

    let one = |session: &Value| format!("{SESSIONS}/{}", session["id"].as_str().unwrap());
    // Nobody ends another's, and what is not there cannot be ended.
    let (stream_here, stream_there) = (stream_of(&setup, &here).await, stream_of(&setup, &there).await);
    for path in [one(other), format!("{SESSIONS}/nonsense"), format!("{SESSIONS}/{}", uuid::Uuid::now_v7())] {
        send(setup.delete(&path).header("cookie", &bob)).await.expect_problem(404, "");
    }
    send(setup.delete(&one(other)).header("cookie", &here)).await.expect(204);
    ends_signed_out(stream_there).await;
    send(setup.get(ACCOUNT).header("cookie", &there)).await.expect_problem(401, "");
    send(setup.delete(&one(other)).header("cookie", &here)).await.expect_problem(404, "");

    // That it is in use is noted, if that was not done lately.
    let late = setup.sign_in("rival").await;
    setup.execute("update sessions set created_at = created_at - 400000").await;
    let is_seen = async || {
        let session = &listed(&setup, &late, SESSIONS).await[0];
        let age = |name: &str| {
            let format = &time::format_description::well_known::Rfc3339;
            time::OffsetDateTime::parse(session[name].as_str().unwrap(), format).unwrap()
        };
        age("seen_at") - age("created_at") > time::Duration::seconds(300)
    };
    wait_until(DEADLINE, "the use is noted", is_seen).await;

    let more = [setup.sign_in("alice").await, setup.sign_in("alice").await];
    let streams = [stream_of(&setup, &more[0]).await, stream_of(&setup, &more[1]).await];
    let ended = send(setup.delete(SESSIONS).header("cookie", &here)).await.expect(200);
    assert_eq!(ended.json(), json!({ "ended": 2 }));
    for (stream, cookie) in streams.into_iter().zip(&more) {
        ends_signed_out(stream).await;
        send(setup.get(ACCOUNT).header("cookie", cookie)).await.expect_problem(401, "");
    }
    assert_eq!(listed(&setup, &here, SESSIONS).await[0]["id"], current["id"]);
    send(setup.get(ACCOUNT).header("cookie", &bob)).await.expect(200);
    // One's own, too: that is signing out.
    send(setup.delete(&one(current)).header("cookie", &here)).await.expect(204);
    ends_signed_out(stream_here).await;
    send(setup.get(ACCOUNT).header("cookie", &here)).await.expect_problem(401, "");
}

pub async fn tokens_are_made_shown_once_and_revoked(setup: Setup) {
    let (cookie, bob) = (setup.sign_in("rival").await, setup.sign_in("bob").await);
    let make = |body: Value| setup.post(TOKENS).header("cookie", &cookie).body(body.to_string());
    for (body, field) in [
        (json!({ "name": "", "scopes": ["listen"] }), "name"),
        (json!({ "name": "x".repeat(101), "scopes": ["listen"] }), "name"),
        (json!({ "name": "a", "scopes": [] }), "scopes"),
        (json!({ "name": "a", "scopes": ["admin"] }), "scopes"),
        (json!({ "name": "a", "scopes": ["listen", "publish", "listen"] }), "scopes"),
        (json!({ "name": "a", "scopes": ["listen"], "days": 0 }), "days"),
        (json!({ "name": "a", "scopes": ["listen"], "days": 3651 }), "days"),
        (json!({ "name": "a", "scopes": ["listen"], "days": "ten" }), "body"),
        (json!({ "name": "a", "scopes": ["listen"], "role": "admin" }), "body"),
        (json!({ "scopes": ["listen"] }), "body"),
    ] {
        send(make(body)).await.expect_problem(400, field);
    }
    let before = listed(&setup, &cookie, TOKENS).await.len();
    let made = send(make(json!({ "name": "shop", "scopes": ["publish", "listen"], "days": 7 }))).await;
    let made = made.expect(201).json();
    let secret = made["secret"].as_str().unwrap().to_owned();
    assert!(secret.starts_with("carillon_") && made["expires_at"].is_string(), "{made}");
    let lasting = send(make(json!({ "name": "for ever", "scopes": ["listen"] }))).await.expect(201).json();
    assert_eq!(lasting["expires_at"], Value::Null);

    let tokens = listed(&setup, &cookie, TOKENS).await;
    assert_eq!(tokens.len(), before + 2);
    assert_eq!(
        (&tokens[0]["name"], &tokens[1]["name"], &tokens[1]["scopes"]),
        (&json!("for ever"), &json!("shop"), &json!(["publish", "listen"])),
        "newest first"
    );
    let shown = serde_json::to_string(&tokens).unwrap();
    assert!(!shown.contains("secret") && !shown.contains(&secret), "{shown}");

    // What the role does not permit, its token does not either.
    let event = json!({ "type": "test", "to": "everyone", "data": 1 }).to_string();
    let publish = || setup.post("/api/v1/events").bearer_auth(&secret).body(event.clone());
    send(publish()).await.expect(201);
    let stream = setup.stream(&secret, "").await;
    let one = format!("{TOKENS}/{}", made["id"]);
    for path in [one.as_str(), "/api/v1/account/tokens/nonsense", "/api/v1/account/tokens/999999"] {
        send(setup.delete(path).header("cookie", &bob)).await.expect_problem(404, "");
    }
    send(setup.delete(&one).header("cookie", &cookie)).await.expect(204);
    // At once, though the last answer about it was cached a moment ago.
    send(publish()).await.expect_problem(401, "");
    ends_signed_out(stream).await;
    send(setup.delete(&one).header("cookie", &cookie)).await.expect_problem(404, "");
    assert_eq!(listed(&setup, &cookie, TOKENS).await.len(), before + 1);

    let user = setup.people.store().user_by_name("rival").await.unwrap().unwrap().0.id;
    for number in 0..100 - (before + 1) {
        let hash = carillon::identity::hash_secret(&format!("{number}"));
        setup.people.store().create_token(user, "many", &hash, &[Scope::Listen], None).await.unwrap();
    }
    send(make(json!({ "name": "too many", "scopes": ["listen"] }))).await.expect_problem(409, "");
    send(setup.delete(&format!("{TOKENS}/{}", lasting["id"])).header("cookie", &cookie)).await.expect(204);
    send(make(json!({ "name": "the last", "scopes": ["listen"] }))).await.expect(201);
}

pub async fn a_new_password_needs_the_old_and_ends_other_sessions(setup: Setup) {
    let (here, there) = (setup.sign_in("alice").await, setup.sign_in("alice").await);
    let (stream_there, mut stream_here) = (stream_of(&setup, &there).await, stream_of(&setup, &here).await);
    let old = "password of alice";
    let set = |old: &str, new: &str| {
        setup.put(PASSWORD).header("cookie", &here).json(&json!({ "old": old, "new": new }))
    };
    send(set("a guess", "a new password")).await.expect_problem(400, "old");
    send(set(old, "short")).await.expect_problem(400, "new");
    send(set(old, &"x".repeat(513))).await.expect_problem(400, "new");
    send(setup.put(PASSWORD).header("cookie", &here).body("{}")).await.expect_problem(400, "body");
    send(setup.get(ACCOUNT).header("cookie", &there)).await.expect(200);

    assert_eq!(send(set(old, "a new password")).await.expect(200).json(), json!({ "ended": 1 }));
    ends_signed_out(stream_there).await;
    send(setup.get(ACCOUNT).header("cookie", &there)).await.expect_problem(401, "");
    send(setup.get(ACCOUNT).header("cookie", &here)).await.expect(200);
    setup.publish_to_all("still here").await;
    stream_here.until_data("still here").await;
    let sign_in = |password: &str| {
        setup.post("/api/v1/session").json(&json!({ "name": "alice", "password": password }))
    };
    send(sign_in(old)).await.expect_problem(401, "");
    send(sign_in("a new password")).await.expect(204);

    // Guessing the old one is slowed as signing in is, and by the same count.
    let mut tries = 0;
    let refused = loop {
        let answer = send(set("a guess", "another password")).await;
        if answer.status == 429 {
            break answer;
        }
        answer.expect_problem(400, "old");
        tries += 1;
        assert!(tries < 20, "guessing goes on for ever");
    };
    assert!(refused.header("retry-after").parse::<u64>().unwrap() >= 1, "{refused:?}");
    send(sign_in("a new password")).await.expect_problem(429, "");
}
