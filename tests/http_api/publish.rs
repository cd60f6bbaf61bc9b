//! Publishing: receipts, keys, mistakes, batches.

use carillon::account::{Role, Scope};
use reqwest::RequestBuilder;
use serde_json::{Value, json};

use crate::setup::{Answer, Setup, send};

const ONE: &str = "/api/v1/events";
const BATCH: &str = "/api/v1/events/batch";

fn event(data: &str) -> Value {
    json!({ "type": "test", "to": "everyone", "data": data })
}

fn post(setup: &Setup, path: &str, body: impl Into<reqwest::Body>) -> RequestBuilder {
    setup.post(path).bearer_auth(&setup.people.publisher).body(body)
}

async fn with_key(setup: &Setup, token: &str, key: &str, body: &Value) -> Answer {
    let path = if body.get("events").is_some() { BATCH } else { ONE };
    send(setup.post(path).bearer_auth(token).header("idempotency-key", key).body(body.to_string())).await
}

pub async fn a_repeated_key_publishes_once(setup: Setup) {
    let publisher = setup.people.publisher.clone();
    let mut stream = setup.stream(&setup.alice, "").await;

    let first = with_key(&setup, &publisher, "key", &event("once")).await.expect(201);
    assert!(first.json()["id"].is_string() && first.json()["position"].is_i64(), "{first:?}");
    let second = with_key(&setup, &publisher, "key", &event("once")).await.expect(201);
    assert_eq!(second.json(), first.json());
    let rival = with_key(&setup, &setup.rival, "key", &event("the rival's")).await.expect(201);
    assert_ne!(rival.json()["id"], first.json()["id"]);
    let other = with_key(&setup, &publisher, "another-key", &event("twice")).await.expect(201);
    assert_ne!(other.json()["id"], first.json()["id"]);

    let batch = json!({ "events": [event("of a batch"), event("of a batch too")] });
    let receipts = with_key(&setup, &publisher, "batch", &batch).await.expect(201).json();
    assert_eq!(with_key(&setup, &publisher, "batch", &batch).await.expect(201).json(), receipts);
    assert_ne!(receipts["events"][0]["id"], receipts["events"][1]["id"]);

    setup.publish_to_all("last").await;
    stream.until_data("last").await;
    assert_eq!(stream.data(), ["once", "the rival's", "twice", "of a batch", "of a batch too", "last"]);
    let ids: Vec<String> = stream.ids().into_iter().map(|(_, id)| id).collect();
    assert_eq!(ids[0], first.json()["id"].as_str().unwrap());

    for key in ["", " ", "a b", "ä", &"k".repeat(129)] {
        with_key(&setup, &publisher, key, &event("no")).await.expect_problem(400, "Idempotency-Key");
    }
    with_key(&setup, &publisher, &"k".repeat(128), &event("yes")).await.expect(201);
}

pub async fn a_key_is_for_one_request(setup: Setup) {
    let publisher = setup.people.publisher.clone();
    let refused = async |key: &str, body: &Value| {
        let answer = with_key(&setup, &publisher, key, body).await.expect_problem(422, "Idempotency-Key");
        assert!(answer.json()["detail"].as_str().unwrap().contains("another request"), "{answer:?}");
    };
    let one = event("one");
    let first = with_key(&setup, &publisher, "single", &one).await.expect(201).json();
    refused("single", &event("two")).await;
    refused("single", &json!({ "type": "test", "to": "everyone", "data": "one", "priority": "high" })).await;
    refused("single", &json!({ "type": "test", "to": { "user": "alice" }, "data": "one" })).await;
    refused("single", &json!({ "events": [one, event("two")] })).await;
    // Spaces and the order of fields are not another request.
    let spaced = r#"{ "data":"one", "to" : "everyone", "type":"test", "priority":null }"#;
    let request = setup.post(ONE).bearer_auth(&publisher).header("idempotency-key", "single").body(spaced);
    assert_eq!(send(request).await.expect(201).json(), first);

    let batch = |data: &[&str]| json!({ "events": data.iter().map(|data| event(data)).collect::<Vec<_>>() });
    let receipts = with_key(&setup, &publisher, "batch", &batch(&["a", "b"])).await.expect(201).json();
    for other in [&["a"][..], &["a", "c"], &["b", "a"], &["a", "b", "c"], &["c", "d"]] {
        refused("batch", &batch(other)).await;
    }
    refused("batch", &event("a")).await;
    assert_eq!(with_key(&setup, &publisher, "batch", &batch(&["a", "b"])).await.expect(201).json(), receipts);
    with_key(&setup, &setup.rival, "batch", &batch(&["the rival's"])).await.expect(201);

    // Of two that come together one is taken, and what comes beside them is not touched.
    let (left, right, beside) = (event("left"), event("right"), event("beside"));
    let together = (0..30).map(|number| {
        let body = [&left, &right, &beside][number % 3];
        let key = if number % 3 == 2 { format!("beside-{number}") } else { "together".into() };
        let publisher = &publisher;
        let setup = &setup;
        async move { (number % 3, with_key(setup, publisher, &key, body).await.status) }
    });
    let answers = futures_util::future::join_all(together).await;
    let all_are = |kind: usize, status: u16| answers.iter().filter(|a| a.0 == kind).all(|a| a.1 == status);
    assert!(all_are(2, 201), "{answers:?}");
    assert!(all_are(0, 201) && all_are(1, 422) || all_are(0, 422) && all_are(1, 201), "{answers:?}");
    let inbox = setup.inbox(&setup.alice, "limit=200").await;
    let count = |data: &str| inbox.iter().filter(|found| *found == data).count();
    assert_eq!((count("left") + count("right"), count("beside")), (1, 10));
    assert_eq!(inbox.len(), 1 + 2 + 1 + 1 + 10, "nothing of what was refused was written: {inbox:?}");
}

/// So that no append holds up those of others for long.
pub async fn a_request_for_too_many_recipients_is_refused(setup: Setup) {
    let mut names = Vec::new();
    for number in 0..4 {
        names.push(format!("user-{number}"));
        setup.people.add(&names[number], Role::Listener).await;
    }
    // A name may stand in an event more than once.
    let users: Vec<&String> = names.iter().cycle().take(1_000).collect();
    let for_many = json!({ "type": "test", "to": { "users": users }, "data": "many" });
    let batch = |count: usize| json!({ "events": vec![&for_many; count] });
    setup.publish(&for_many).await;
    let answer = send(post(&setup, BATCH, batch(11).to_string())).await.expect_problem(413, "events");
    let detail = answer.json()["detail"].as_str().unwrap().to_owned();
    assert!(detail.contains("11000") && detail.contains("10000"), "{detail}");
    assert_eq!(setup.inbox(&setup.people.token("user-0", &[Scope::Listen], None).await, "").await.len(), 1);
    send(post(&setup, BATCH, batch(10).to_string())).await.expect(201);
}

pub async fn every_mistake_is_answered_with_its_field(setup: Setup) {
    let name = |n: usize| format!(r#""{}""#, "x".repeat(n));
    let many = format!("[{}]", vec![r#""alice""#; 1_001].join(","));
    let cases = [
        (r#"{"to":"everyone"}"#.into(), "type"),
        (r#"{"type":null,"to":"everyone"}"#.into(), "type"),
        (r#"{"type":7,"to":"everyone"}"#.into(), "type"),
        (r#"{"type":"","to":"everyone"}"#.into(), "type"),
        (r#"{"type":"a b","to":"everyone"}"#.into(), "type"),
        (r#"{"type":"carillon.x","to":"everyone"}"#.into(), "type"),
        (format!(r#"{{"type":{},"to":"everyone"}}"#, name(65)), "type"),
        (r#"{"type":"a","to":"everyone","priority":"most"}"#.into(), "priority"),
        (r#"{"type":"a","to":"everyone","priority":3}"#.into(), "priority"),
        (r#"{"type":"a"}"#.into(), "to"),
        (r#"{"type":"a","to":"nobody"}"#.into(), "to"),
        (r#"{"type":"a","to":["alice"]}"#.into(), "to"),
        (r#"{"type":"a","to":{}}"#.into(), "to"),
        (r#"{"type":"a","to":{"team":"x"}}"#.into(), "to"),
        (r#"{"type":"a","to":{"user":7}}"#.into(), "to"),
        (r#"{"type":"a","to":{"users":"alice"}}"#.into(), "to"),
        (r#"{"type":"a","to":{"user":"alice","topic":"b"}}"#.into(), "to"),
        (r#"{"type":"a","to":{"users":[]}}"#.into(), "to.users"),
        (format!(r#"{{"type":"a","to":{{"users":{many}}}}}"#), "to.users"),
        (r#"{"type":"a","to":{"topic":""}}"#.into(), "to.topic"),
        (r#"{"type":"a","to":{"topic":"a//b"}}"#.into(), "to.topic"),
        (format!(r#"{{"type":"a","to":{{"topic":{}}}}}"#, name(256)), "to.topic"),
        (r#"{"type":"a","to":"everyone","colour":1}"#.into(), "colour"),
        (r#"{"type":"a","to":"everyone","expires_in":0}"#.into(), "expires_in"),
        (r#"{"type":"a","to":"everyone","expires_in":-1}"#.into(), "expires_in"),
        (r#"{"type":"a","to":"everyone","expires_in":"soon"}"#.into(), "expires_in"),
        (r#"{"type":"a","to":"everyone","expires_at":"soon"}"#.into(), "expires_at"),
        (r#"{"type":"a","to":"everyone","expires_at":"2030-01-31"}"#.into(), "expires_at"),
        (r#"{"type":"a","to":"everyone","expires_at":1900000000}"#.into(), "expires_at"),
        (
            r#"{"type":"a","to":"everyone","expires_in":9,"expires_at":"2030-01-01T00:00:00Z"}"#.into(),
            "expires_at",
        ),
        (r#"{"type":"a","to":"everyone","keep_after_read":-1}"#.into(), "keep_after_read"),
        (r#"{"type":"a","to":"everyone","data":1,"data":2}"#.into(), "data"),
        (r#"{"type":"a","type":"b","to":"everyone"}"#.into(), "type"),
        (r#"{"type":"a","to":"everyone""#.into(), "body"),
        (r#"{"type":"a","to":"everyone"} x"#.into(), "body"),
        ("".into(), "body"),
        ("no JSON".into(), "body"),
        ("[]".into(), "body"),
        ("null".into(), "body"),
    ];
    for (body, field) in cases {
        println!("{body:.100}");
        send(post(&setup, ONE, body.clone())).await.expect_problem(400, field);
        if field != "body" {
            let batch = format!(r#"{{"events":[{},{body}]}}"#, event("good"));
            send(post(&setup, BATCH, batch)).await.expect_problem(400, &format!("events[1].{field}"));
        }
    }
    send(post(&setup, ONE, b"\"\xff\"".to_vec())).await.expect_problem(400, "body");

    let to = |to: Value| json!({ "type": "a", "to": to }).to_string();
    send(post(&setup, ONE, to(json!({ "user": "nobody" })))).await.expect_problem(422, "to.user");
    send(post(&setup, ONE, to(json!({ "user": "" })))).await.expect_problem(422, "to.user");
    send(post(&setup, ONE, to(json!({ "user": "a\0b" })))).await.expect_problem(422, "to.user");
    let users = to(json!({ "users": ["alice", "nobody"] }));
    let answer = send(post(&setup, ONE, users)).await.expect_problem(422, "to.users");
    assert!(answer.json()["detail"].as_str().unwrap().contains("nobody"), "{answer:?}");

    assert!(setup.inbox(&setup.alice, "").await.is_empty(), "nothing of it was written");
}

pub async fn what_is_too_large_is_refused(setup: Setup) {
    let sized = |bytes: usize| event(&"x".repeat(bytes - 2));
    setup.publish(&sized(65_536)).await;
    send(post(&setup, ONE, sized(65_537).to_string())).await.expect_problem(413, "data");
    let batch = json!({ "events": [event("small"), sized(65_537)] });
    send(post(&setup, BATCH, batch.to_string())).await.expect_problem(413, "events[1].data");
    send(post(&setup, ONE, sized(400_000).to_string())).await.expect_problem(413, "");
    let name = json!({ "name": "x".repeat(17_000), "password": "" });
    send(setup.post("/api/v1/session").json(&name)).await.expect_problem(413, "");
    assert_eq!(setup.inbox(&setup.alice, "").await.len(), 1, "nothing else was written");
}

pub async fn only_publishers_publish(setup: Setup) {
    let publish = |token: &str| setup.post(ONE).bearer_auth(token).body(event("no").to_string());
    let nobody = setup.post(ONE).body(event("no").to_string());
    assert_eq!(send(nobody).await.expect_problem(401, "").header("www-authenticate"), "Bearer");
    send(publish("carillon_wrong")).await.expect_problem(401, "");
    send(publish("")).await.expect_problem(401, "");
    let basic = setup.post(ONE).header("authorization", "Basic cHVibGlzaGVy").body("{}");
    send(basic).await.expect_problem(401, "");
    send(publish(&setup.alice)).await.expect_problem(403, "to");
    let listen_only = setup.people.token("publisher", &[Scope::Listen], None).await;
    send(publish(&listen_only)).await.expect_problem(403, "");
    let cookie = setup.sign_in("alice").await;
    send(setup.post(ONE).header("cookie", cookie).body(event("no").to_string()))
        .await
        .expect_problem(403, "to");
    assert!(setup.inbox(&setup.alice, "").await.is_empty(), "nothing of it was written");
    let cookie = setup.sign_in("publisher").await;
    send(setup.post(ONE).header("cookie", cookie).body(event("yes").to_string())).await.expect(201);
    assert_eq!(setup.inbox(&setup.alice, "").await, ["yes"]);

    for (method, path) in [("GET", ONE), ("PUT", "/api/v1/inbox"), ("DELETE", BATCH), ("POST", "/")] {
        let request = setup.request(method.parse().unwrap(), path).bearer_auth(&setup.people.publisher);
        let answer = send(request).await.expect_problem(405, "");
        assert!(!answer.header("allow").is_empty(), "{answer:?}");
    }
    for path in [
        "/nothing",
        "/api/v1/nothing",
        "/metrics",
        "/static/nothing.js",
        "/static/%2e%2e%2fCargo.toml",
        "/static/%ff",
    ] {
        send(setup.get(path).bearer_auth(&setup.alice)).await.expect_problem(404, "");
    }
}

pub async fn a_batch_is_all_or_nothing(setup: Setup) {
    let publish = |events: &[Value]| post(&setup, BATCH, json!({ "events": events }).to_string());
    let numbered = |count: usize| (0..count).map(|n| event(&n.to_string())).collect::<Vec<_>>();

    send(publish(&numbered(1_001))).await.expect_problem(400, "events");
    send(publish(&[])).await.expect_problem(400, "events");
    for wrong in ["[]", "{}", r#"{"events":{}}"#, r#"{"events":[],"events":[]}"#, r#"{"events":[],"x":1}"#] {
        send(post(&setup, BATCH, wrong)).await.expect_problem(400, "events");
    }
    let mut one_is_bad = numbered(4);
    one_is_bad[2]["type"] = json!("carillon.x");
    send(publish(&one_is_bad)).await.expect_problem(400, "events[2].type");
    one_is_bad[2] = json!(7);
    send(publish(&one_is_bad)).await.expect_problem(400, "events[2]");
    let mut one_is_for_nobody = numbered(4);
    one_is_for_nobody[3]["to"] = json!({ "user": "nobody" });
    send(publish(&one_is_for_nobody)).await.expect_problem(422, "events[3].to.user");
    one_is_for_nobody[3]["to"] = json!({ "users": ["bob", "nobody"] });
    send(publish(&one_is_for_nobody)).await.expect_problem(422, "events[3].to.users");
    assert!(setup.inbox(&setup.alice, "").await.is_empty(), "nothing of it was written");

    let receipts = setup.publish_batch(&numbered(1_000)).await;
    assert_eq!(receipts.len(), 1_000);
    assert!(receipts.windows(2).all(|pair| pair[0].position < pair[1].position));
    assert_eq!(setup.inbox(&setup.alice, "limit=2").await, ["999", "998"]);
}
