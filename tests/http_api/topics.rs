//! Topics: who may read and write them, by the default rules of a node.

use carillon::account::Scope;
use serde_json::{Value, json};

use crate::setup::{Answer, Setup, send};

const EVENTS: &str = "/api/v1/events";
const BATCH: &str = "/api/v1/events/batch";

fn on(topic: &str, data: &str) -> Value {
    json!({ "type": "test", "to": { "topic": topic }, "data": data })
}

async fn publish(setup: &Setup, token: &str, event: &Value) -> Answer {
    send(setup.post(EVENTS).bearer_auth(token).body(event.to_string())).await
}

pub async fn only_those_permitted_read_a_topic(setup: Setup) {
    let secret = setup.publish(&on("chat/room", "to make a cursor")).await;
    let begin = setup.stream(&setup.bob, "").await.cursor().to_owned();
    let receipt = publish(&setup, &setup.bob, &on("uploads/bob/1", "bob's own")).await.expect(201).json();
    let (id, topic) = (receipt["id"].as_str().unwrap(), "topic=uploads/bob/1");

    let alice =
        async |path: &str| send(setup.get(&format!("/api/v1/{path}")).bearer_auth(&setup.alice)).await;
    for path in [
        format!("stream?{topic}"),
        format!("stream?topic=chat/room&{topic}"),
        format!("stream?{topic}&cursor={begin}"),
        format!("stream?{topic}&history=10"),
        format!("stream?{topic}&last=1"),
        format!("stream?{topic}&presence=true"),
        format!("inbox?{topic}"),
        format!("inbox/counts?{topic}"),
    ] {
        alice(&path).await.expect_problem(403, "topic");
    }
    let resumed = setup.get(&format!("/api/v1/stream?{topic}")).header("last-event-id", &begin);
    send(resumed.bearer_auth(&setup.alice)).await.expect_problem(403, "topic");
    send(setup.get(&format!("/?{topic}")).header("cookie", setup.sign_in("alice").await)).await.expect(403);
    alice(&format!("inbox/{id}")).await.expect_problem(404, "");
    let read = format!("/api/v1/inbox/{id}/read");
    send(setup.put(&read).bearer_auth(&setup.alice)).await.expect_problem(404, "");
    send(setup.delete(&read).bearer_auth(&setup.alice)).await.expect_problem(404, "");
    alice(&format!("inbox/{}", secret.id)).await.expect(200);

    for (token, query) in [(&setup.bob, topic), (&setup.admin, topic), (&setup.admin, "topic=uploads")] {
        assert_eq!(setup.inbox(token, query).await.len(), usize::from(query == topic));
        let counts = send(setup.get(&format!("/api/v1/inbox/counts?{query}")).bearer_auth(token)).await;
        assert_eq!(counts.expect(200).json()["unread"], usize::from(query == topic));
    }
    let mut stream = setup.stream(&setup.bob, &format!("{topic}&cursor={begin}")).await;
    stream.until_data("bob's own").await;
    publish(&setup, &setup.bob, &on("uploads/bob/1", "live")).await.expect(201);
    stream.until_data("live").await;
    send(setup.get(&format!("/api/v1/inbox/{id}")).bearer_auth(&setup.bob)).await.expect(200);
    send(setup.put(&read).bearer_auth(&setup.bob)).await.expect(204);
    send(setup.delete(&read).bearer_auth(&setup.bob)).await.expect(204);
}

pub async fn only_those_permitted_publish_to_a_topic(setup: Setup) {
    for (token, topic) in [
        (&setup.alice, "logs/app"),
        (&setup.alice, "uploads"),
        (&setup.alice, "uploads/bob/1"),
        (&setup.people.publisher, "uploads/alice/1"),
    ] {
        publish(&setup, token, &on(topic, "no")).await.expect_problem(403, "to.topic");
    }
    for to in [json!("everyone"), json!({ "user": "bob" }), json!({ "users": ["alice"] })] {
        let event = json!({ "type": "test", "to": to });
        publish(&setup, &setup.alice, &event).await.expect_problem(403, "to");
    }
    let batch = async |token: &str, events: Value| {
        send(setup.post(BATCH).bearer_auth(token).body(json!({ "events": events }).to_string())).await
    };
    let (good, bad) = (on("chat/room", "no"), on("logs/app", "no"));
    batch(&setup.alice, json!([good, good, good, bad])).await.expect_problem(403, "events[3].to.topic");
    let user = json!({ "type": "test", "to": { "user": "alice" } });
    batch(&setup.alice, json!([good, user])).await.expect_problem(403, "events[1].to");
    let listen_only = setup.people.token("alice", &[Scope::Listen], None).await;
    publish(&setup, &listen_only, &good).await.expect_problem(403, "");
    let all = "topic=chat/room&topic=logs/app&topic=uploads/alice/1&topic=uploads/bob/1&topic=uploads";
    assert!(setup.inbox(&setup.admin, all).await.is_empty(), "nothing of it was written");

    let mine = publish(&setup, &setup.alice, &on("chat/room", "alice's")).await.expect(201).json();
    let cookie = setup.sign_in("bob").await;
    let form = setup.post(EVENTS).header("cookie", cookie).body(on("chat/room", "bob's").to_string());
    let bobs = send(form).await.expect(201).json();
    batch(&setup.alice, json!([on("chat", "1"), on("uploads/alice", "2")])).await.expect(201);
    publish(&setup, &setup.people.publisher, &on("logs/app", "3")).await.expect(201);
    publish(&setup, &setup.admin, &on("uploads/alice/1", "4")).await.expect(201);
    let retract = async |receipt: &Value, token: &str| {
        let path = format!("{EVENTS}/{}", receipt["id"].as_str().unwrap());
        send(setup.delete(&path).bearer_auth(token)).await
    };
    retract(&bobs, &setup.alice).await.expect_problem(404, "");
    retract(&mine, &listen_only).await.expect_problem(403, "");
    retract(&mine, &setup.alice).await.expect(204);
    assert_eq!(setup.inbox(&setup.alice, "topic=chat/room").await, ["bob's"]);
}

pub async fn a_topic_is_any_text_and_its_owner_keeps_it_under_a_new_name(setup: Setup) {
    let topic = "chat/Räume & Säle/日本 {x}*?#%;\\😀";
    let query = url::form_urlencoded::Serializer::new(String::new()).append_pair("topic", topic).finish();
    let mut stream = setup.stream(&setup.alice, &format!("{query}&presence=true")).await;
    publish(&setup, &setup.bob, &on(topic, "in any script")).await.expect(201);
    stream.until_data("in any script").await;
    let event: Value = serde_json::from_str(&stream.events.last().unwrap().data).unwrap();
    assert_eq!(event["topic"], topic);
    assert_eq!(setup.inbox(&setup.alice, &query).await, ["in any script"]);
    for wrong in ["chat/..", "chat//a", "chat/a\u{80}", &format!("chat/{}", "ä".repeat(126))] {
        publish(&setup, &setup.bob, &on(wrong, "no")).await.expect_problem(400, "to.topic");
    }

    let (alice, _) = setup.people.store().user_by_name("alice").await.unwrap().unwrap();
    let name = "Älice B./*{user}";
    assert!(setup.people.accounts().rename(&alice, name).await.unwrap());
    // The cache still has the former name; a new token does not.
    let token = setup.people.token(name, &[Scope::Publish, Scope::Listen], None).await;
    for own in ["uploads/alice/1", &format!("uploads/{}/1", alice.public_id)] {
        publish(&setup, &token, &on(own, "own")).await.expect(201);
        publish(&setup, &setup.bob, &on(own, "no")).await.expect_problem(403, "to.topic");
    }
    publish(&setup, &token, &on("uploads/bob/1", "no")).await.expect_problem(403, "to.topic");
    // Who holds a name is found by it in an address, whatever is in it.
    let encoded: String = url::form_urlencoded::byte_serialize(name.as_bytes()).collect();
    let path = format!("/api/v1/users/{}/sessions", encoded.replace('+', "%20"));
    let cookie = setup.sign_in("admin").await;
    send(setup.get(&path).header("cookie", &cookie)).await.expect(200);
    send(setup.get("/api/v1/users/alice/sessions").header("cookie", &cookie)).await.expect_problem(404, "");
    let to = json!({ "type": "test", "to": { "user": name }, "data": "by name" });
    publish(&setup, &setup.people.publisher, &to).await.expect(201);
    assert_eq!(setup.inbox(&token, "").await, ["by name"]);
}
