//! The inbox: what is listed, what of it is read, what has left it.

use std::cmp::Reverse;

use serde_json::{Value, json};
use uuid::Uuid;

use crate::setup::{Answer, Receipt, Setup, send};
use crate::support::DEADLINE;
use crate::support::wait_until;

const INBOX: &str = "/api/v1/inbox";
const PRIORITIES: [&str; 4] = ["low", "normal", "high", "urgent"];

async fn get(setup: &Setup, token: &str, path: &str) -> Answer {
    send(setup.get(&format!("{INBOX}{path}")).bearer_auth(token)).await
}

fn read_path(event: &Receipt) -> String {
    format!("{INBOX}/{}/read", event.id)
}

pub async fn pages_are_complete_and_do_not_overlap(setup: Setup) {
    let event =
        |n: usize| json!({ "type": "test", "priority": PRIORITIES[n * 7 % 4], "to": "everyone", "data": n });
    let receipts = setup.publish_batch(&(0..25).map(event).collect::<Vec<_>>()).await;
    let newest: Vec<usize> = (0..25).rev().collect();
    let mut by_priority = newest.clone();
    by_priority.sort_by_key(|n| Reverse(n * 7 % 4));

    for (order, expected) in [("", &newest), ("&order=newest", &newest), ("&order=priority", &by_priority)] {
        let mut after = String::new();
        let mut listed = Vec::new();
        let mut sizes = Vec::new();
        loop {
            let page =
                get(&setup, &setup.alice, &format!("?limit=10{order}{after}")).await.expect(200).json();
            let entries = page["entries"].as_array().unwrap();
            sizes.push(entries.len());
            listed.extend(entries.iter().map(|entry| entry["data"].as_u64().unwrap() as usize));
            let Some(next) = page["next"].as_str() else { break };
            after = format!("&after={next}");
        }
        assert_eq!(listed, *expected, "{order}");
        assert_eq!(sizes, [10, 10, 5]);
    }
    let first = get(&setup, &setup.alice, "?limit=1").await.expect(200).json();
    let entry = &first["entries"][0];
    assert_eq!(entry["id"], receipts[24].id);
    assert_eq!(entry["position"], receipts[24].position);
    assert_eq!((&entry["type"], &entry["to"]), (&json!("test"), &json!("everyone")));
    assert_eq!(entry["read_at"], Value::Null);
    // What is published while somebody turns pages moves nothing behind their place.
    setup.publish_to_all("in between").await;
    let next = first["next"].as_str().unwrap();
    assert_eq!(setup.inbox(&setup.alice, &format!("limit=2&after={next}")).await, [23, 22]);

    // A stream from a page's cursor goes on where the page was made.
    let mut stream =
        setup.stream(&setup.alice, &format!("cursor={}", first["cursor"].as_str().unwrap())).await;
    setup.publish_to_all("last").await;
    stream.until_data("last").await;
    assert_eq!(stream.data(), ["in between", "last"]);
}

/// The same everywhere, to the last digit: no parser of ours stands in between.
pub async fn data_is_shown_as_it_was_sent(setup: Setup) {
    let deep = format!("{}{}", "[".repeat(500), "]".repeat(500));
    let data = [r#"{"b":1,"a":1.10,"b":2}"#, "1e999", "123456789012345678901234567890", &deep];
    let mut stream = setup.stream(&setup.alice, "").await;
    for data in data {
        let body = format!(r#"{{"type":"test","to":"everyone","data":{data}}}"#);
        let request = setup.post("/api/v1/events").bearer_auth(&setup.people.publisher);
        let id = send(request.body(body)).await.expect(201).json()["id"].as_str().unwrap().to_owned();
        let shown = format!(r#""data":{data},"created_at""#);
        stream.until(data, |stream| stream.text().contains(&shown)).await;
        for path in ["?limit=1".to_owned(), format!("/{id}")] {
            let answer = get(&setup, &setup.alice, &path).await.expect(200);
            assert!(answer.body.contains(&shown), "{path}: {}", answer.body);
        }
    }
}

pub async fn filters_choose_what_is_listed(setup: Setup) {
    let of = |event_type: &str, priority: &str, to: Value| json!({ "type": event_type, "priority": priority, "to": to, "data": format!("{event_type} {priority} {to}") });
    let alice = json!({ "user": "alice" });
    let events = setup
        .publish_batch(&[
            of("a", "low", alice.clone()),
            of("b", "high", alice.clone()),
            of("c", "urgent", json!("everyone")),
            of("a", "urgent", json!({ "user": "bob" })),
            of("a", "high", json!({ "topic": "room/1" })),
            of("b", "low", json!({ "topic": "room/2" })),
        ])
        .await;
    let listed = async |query: &str| -> Vec<usize> {
        let entries = get(&setup, &setup.alice, &format!("?{query}")).await.expect(200).json();
        let place = |entry: &Value| events.iter().position(|event| entry["id"] == event.id.as_str()).unwrap();
        entries["entries"].as_array().unwrap().iter().map(place).collect()
    };
    assert_eq!(listed("").await, [2, 1, 0]);
    assert_eq!(listed("type=a").await, [0]);
    assert_eq!(listed("type=a&type=c").await, [2, 0]);
    assert_eq!(listed("min_priority=high").await, [2, 1]);
    assert_eq!(listed("min_priority=urgent&type=b").await, [0; 0]);
    assert_eq!(listed("topic=room/1").await, [4]);
    assert_eq!(listed("topic=room/1&topic=room/2&order=priority").await, [4, 5]);
    assert_eq!(listed("topic=room/3").await, [0; 0]);
    send(setup.put(&read_path(&events[1])).bearer_auth(&setup.alice)).await.expect(204);
    assert_eq!(listed("unread=true").await, [2, 0]);
    assert_eq!(listed("unread=false").await, [2, 1, 0]);
    assert_eq!(listed("unread=true&min_priority=high").await, [2]);

    // The text as it was written, in the type or in the data; what stands for more elsewhere is only itself.
    assert_eq!(listed("q=HIGH").await, [1]);
    assert_eq!(listed("q=urgent&type=c").await, [2]);
    assert_eq!(listed("topic=room/1&q=room%2F1").await, [4]);
    for nothing in ["q=%25", "q=h_gh", "q=a.*", "q=%27"] {
        assert_eq!(listed(nothing).await, [0; 0], "{nothing}");
    }

    let one = get(&setup, &setup.alice, &format!("/{}", events[1].id)).await.expect(200).json();
    assert_eq!((&one["id"], &one["type"]), (&json!(events[1].id), &json!("b")));
    assert!(one["read_at"].is_string(), "{one}");
}

pub async fn reading_is_each_users_own(setup: Setup) {
    let of = |event_type: &str, to: Value, data: &str| json!({ "type": event_type, "to": to, "data": data });
    let mut alice = setup.stream(&setup.alice, "").await;
    let mut bob = setup.stream(&setup.bob, "").await;
    let begin = alice.cursor().to_owned();
    let events = setup
        .publish_batch(&[
            of("a", json!("everyone"), "1"),
            of("a", json!("everyone"), "2"),
            of("b", json!("everyone"), "3"),
            of("b", json!({ "user": "bob" }), "bob's"),
        ])
        .await;
    alice.until_count(3).await;
    let counts = async |token: &str| get(&setup, token, "/counts").await.expect(200).json();
    assert_eq!(
        counts(&setup.alice).await,
        json!({ "unread": 3, "more": false, "by_type": { "a": 2, "b": 1 } })
    );

    // Not hers, or not there: the same answer, and nothing happens.
    let unknown = Receipt { id: Uuid::now_v7().to_string(), position: 0 };
    let no_id = Receipt { id: "no-id".into(), position: 0 };
    for foreign in [&events[3], &unknown, &no_id] {
        let path = read_path(foreign);
        get(&setup, &setup.alice, &format!("/{}", foreign.id)).await.expect_problem(404, "");
        send(setup.put(&path).bearer_auth(&setup.alice)).await.expect_problem(404, "");
        send(setup.delete(&path).bearer_auth(&setup.alice)).await.expect_problem(404, "");
    }

    let read = |event: &Receipt| setup.put(&read_path(event)).bearer_auth(&setup.alice);
    send(read(&events[1])).await.expect(204);
    let notice = |read: bool| json!({ "position": events[1].position, "read": read });
    alice.until_notice("carillon.read", notice(true)).await;
    let read_at = async || {
        get(&setup, &setup.alice, &format!("/{}", events[1].id)).await.expect(200).json()["read_at"].clone()
    };
    let first = read_at().await;
    assert!(first.is_string());
    send(read(&events[1])).await.expect(204);
    assert_eq!(read_at().await, first, "reading again keeps the first time");
    assert_eq!(
        counts(&setup.alice).await,
        json!({ "unread": 2, "more": false, "by_type": { "a": 1, "b": 1 } })
    );
    let mut replayed = setup.stream(&setup.alice, &format!("cursor={begin}")).await;
    replayed.until_data("3").await;
    assert_eq!(replayed.data(), ["1", "3"], "what was read is not replayed");

    send(setup.delete(&read_path(&events[1])).bearer_auth(&setup.alice)).await.expect(204);
    alice.until_notice("carillon.read", notice(false)).await;
    assert_eq!(read_at().await, Value::Null);
    let mut replayed = setup.stream(&setup.alice, &format!("cursor={begin}")).await;
    replayed.until_data("3").await;
    assert_eq!(replayed.data(), ["1", "2", "3"]);

    let up_to =
        |body: &str| setup.post("/api/v1/inbox/read-up-to").bearer_auth(&setup.alice).body(body.to_owned());
    for wrong in ["", "{}", "no JSON", r#"{"position":"1"}"#] {
        send(up_to(wrong)).await.expect_problem(400, "body");
    }
    send(up_to(r#"{"position":-1}"#)).await.expect_problem(400, "position");
    assert_eq!(counts(&setup.alice).await["unread"], 3);
    let mark = json!({ "position": events[1].position }).to_string();
    let number = send(up_to(&mark)).await.expect(200).json()["number"].as_i64().unwrap();
    alice.until_notice("carillon.read", json!({ "up_to": events[1].position })).await;
    assert_eq!(counts(&setup.alice).await, json!({ "unread": 1, "more": false, "by_type": { "b": 1 } }));
    let take_back = |number: &str, token: &str| {
        setup.delete(&format!("/api/v1/inbox/read-up-to/{number}")).bearer_auth(token)
    };
    send(take_back(&number.to_string(), &setup.bob)).await.expect_problem(404, "");
    send(take_back("none", &setup.alice)).await.expect_problem(404, "");
    send(take_back(&number.to_string(), &setup.alice)).await.expect(204);
    alice.until_notice("carillon.read", json!({ "read": false })).await;
    send(take_back(&number.to_string(), &setup.alice)).await.expect_problem(404, "");
    assert_eq!(counts(&setup.alice).await["unread"], 3);
    send(up_to(&mark)).await.expect(200);
    assert_eq!(counts(&setup.alice).await, json!({ "unread": 1, "more": false, "by_type": { "b": 1 } }));
    assert_eq!(setup.inbox(&setup.alice, "unread=true").await, ["3"]);
    assert_eq!(setup.inbox(&setup.alice, "").await, ["3", "2", "1"]);

    setup.publish_to_all("last").await;
    bob.until_data("last").await;
    assert!(bob.notices("carillon.read").is_empty(), "what alice reads is not bob's to know");
    assert_eq!(counts(&setup.bob).await["unread"], 5);

    // A user who has read it keeps it for as long as its publisher said.
    let event = json!({ "type": "test", "to": "everyone", "data": "brief", "keep_after_read": 0 });
    let brief = setup.publish(&event).await;
    send(read(&brief)).await.expect(204);
    get(&setup, &setup.alice, &format!("/{}", brief.id)).await.expect_problem(404, "");
    assert_eq!(setup.inbox(&setup.alice, "limit=1").await, ["last"]);
    assert_eq!(setup.inbox(&setup.bob, "limit=1").await, ["brief"]);
    send(setup.delete(&read_path(&brief)).bearer_auth(&setup.alice)).await.expect(204);
    assert_eq!(setup.inbox(&setup.alice, "limit=1").await, ["brief"], "she took the reading back");
}

pub async fn what_is_retracted_is_gone(setup: Setup) {
    let retract = |id: &str, token: &str| setup.delete(&format!("/api/v1/events/{id}")).bearer_auth(token);
    let mut alice = setup.stream(&setup.alice, "").await;
    let mut bob = setup.stream(&setup.bob, "").await;
    let begin = alice.cursor().to_owned();
    let mine = setup.publish(&json!({ "type": "test", "to": { "user": "alice" }, "data": "mine" })).await;
    let event = json!({ "type": "test", "to": "everyone", "data": "a rival's" });
    let answer = send(setup.post("/api/v1/events").bearer_auth(&setup.rival).body(event.to_string())).await;
    let rivals = answer.expect(201).json()["id"].as_str().unwrap().to_owned();
    alice.until_count(2).await;

    send(retract(&mine.id, &setup.rival)).await.expect_problem(404, "");
    send(retract(&mine.id, &setup.alice)).await.expect_problem(404, "");
    send(retract(&Uuid::now_v7().to_string(), &setup.admin)).await.expect_problem(404, "");
    send(retract("no-id", &setup.admin)).await.expect_problem(404, "");
    assert_eq!(setup.inbox(&setup.alice, "").await, ["a rival's", "mine"]);

    send(retract(&mine.id, &setup.people.publisher)).await.expect(204);
    alice.until_notice("carillon.retract", json!({ "position": mine.position })).await;
    send(retract(&mine.id, &setup.people.publisher)).await.expect_problem(404, "");
    get(&setup, &setup.alice, &format!("/{}", mine.id)).await.expect_problem(404, "");
    assert_eq!(setup.inbox(&setup.alice, "include_expired=true").await, ["a rival's"]);
    assert_eq!(get(&setup, &setup.alice, "/counts").await.json()["unread"], 1);

    send(retract(&rivals, &setup.admin)).await.expect(204);
    bob.until("the retraction", |stream| !stream.notices("carillon.retract").is_empty()).await;
    let positions = bob.notices("carillon.retract");
    assert!(!positions.contains(&json!({ "position": mine.position })), "it never was bob's: {positions:?}");

    setup.publish_to_all("last").await;
    let mut replayed = setup.stream(&setup.alice, &format!("cursor={begin}")).await;
    replayed.until_data("last").await;
    assert_eq!(replayed.data(), ["last"]);
    assert_eq!(setup.inbox(&setup.alice, "").await, ["last"]);
}

pub async fn what_has_expired_is_gone(setup: Setup) {
    let mut stream = setup.stream(&setup.alice, "").await;
    let begin = stream.cursor().to_owned();
    let brief = setup
        .publish(&json!({ "type": "test", "to": { "user": "alice" }, "data": "brief", "expires_in": 1.5 }))
        .await;
    let long = json!({ "type": "test", "to": "everyone", "data": "long", "expires_in": 3600 });
    setup.publish(&long).await;
    stream.until_data("long").await;
    assert_eq!(stream.data(), ["brief", "long"]);
    let past =
        json!({ "type": "test", "to": "everyone", "data": "past", "expires_at": "2001-01-01T00:00:00Z" });
    setup.publish(&past).await;

    stream.until_notice("carillon.expire", json!({ "position": brief.position })).await;
    wait_until(DEADLINE, "it leaves the inbox", async || setup.inbox(&setup.alice, "").await == ["long"])
        .await;
    assert_eq!(setup.inbox(&setup.alice, "include_expired=true").await, ["past", "long", "brief"]);
    assert_eq!(get(&setup, &setup.alice, "/counts").await.json()["unread"], 1);

    setup.publish_to_all("last").await;
    let mut replayed = setup.stream(&setup.alice, &format!("cursor={begin}")).await;
    for stream in [&mut stream, &mut replayed] {
        stream.until_data("last").await;
    }
    assert_eq!(replayed.data(), ["long", "last"]);
    assert_eq!(
        stream.data(),
        ["brief", "long", "last"],
        "what had ended before it was published never comes"
    );
}

/// A page looks at so many events and no more, whatever is asked for: it may hold nothing, and say where to go on. So do
/// counts, which say that there may be more.
pub async fn what_is_rare_is_found_page_by_page(setup: Setup) {
    let event = |n: usize| match n {
        0 => json!({ "type": "rare", "to": "everyone", "data": "needle" }),
        _ => json!({ "type": "test", "to": "everyone", "data": "hay" }),
    };
    for batch in 0..3 {
        let events: Vec<Value> = (0..700).map(|n| event(batch * 700 + n)).collect();
        setup.publish_batch(&events).await;
    }
    for (query, pages) in
        [("q=needle", 2), ("type=rare", 2), ("type=rare&order=priority", 2), ("type=rare&unread=true", 2)]
    {
        let (mut after, mut listed) = (String::new(), Vec::new());
        loop {
            let page = get(&setup, &setup.alice, &format!("?{query}{after}")).await.expect(200).json();
            listed.push(page["entries"].as_array().unwrap().len());
            let Some(next) = page["next"].as_str() else { break };
            after = format!("&after={next}");
        }
        assert_eq!((listed.len(), listed.iter().sum::<usize>()), (pages, 1), "{query}: {listed:?}");
    }
    let counts =
        async |query: &str| get(&setup, &setup.alice, &format!("/counts{query}")).await.expect(200).json();
    assert_eq!(counts("").await, json!({ "unread": 1_000, "more": true, "by_type": { "test": 1_000 } }));
    assert_eq!(counts("?type=rare").await, json!({ "unread": 0, "more": true, "by_type": {} }));
    let up_to = json!({ "position": i64::MAX });
    send(setup.post("/api/v1/inbox/read-up-to").bearer_auth(&setup.alice).json(&up_to)).await.expect(200);
    assert_eq!(counts("").await, json!({ "unread": 0, "more": false, "by_type": {} }));
    assert_eq!(setup.inbox(&setup.alice, "unread=true").await, [""; 0]);
}

/// A search looks at no more than 4 MiB of data.
pub async fn a_search_of_large_events_goes_on_where_it_ended(setup: Setup) {
    let data = "x".repeat(60_000);
    setup.publish_to_all("needle").await;
    let events = vec![json!({ "type": "test", "to": "everyone", "data": data }); 100];
    setup.publish_batch(&events).await;
    let first = get(&setup, &setup.alice, "?q=needle").await.expect(200).json();
    assert_eq!(first["entries"], json!([]));
    let next = first["next"].as_str().expect("there is more to look at");
    let second = get(&setup, &setup.alice, &format!("?q=needle&after={next}")).await.expect(200).json();
    assert_eq!((&second["entries"][0]["data"], &second["next"]), (&json!("needle"), &Value::Null));
}

pub async fn bad_parameters_are_named(setup: Setup) {
    for (query, field) in [
        ("type=a%20b", "type"),
        ("min_priority=most", "min_priority"),
        ("topic=/", "topic"),
        ("unread=maybe", "unread"),
        ("include_expired=1", "include_expired"),
        ("order=oldest", "order"),
        ("limit=0", "limit"),
        ("limit=201", "limit"),
        ("limit=ten", "limit"),
        ("limit=1&limit=2", "limit"),
        ("after=here", "after"),
        ("after=low--1", "after"),
        ("q=a%00", "q"),
        ("q=a%0Ab", "q"),
        (&format!("q={}", "x".repeat(101)), "q"),
    ] {
        get(&setup, &setup.alice, &format!("?{query}")).await.expect_problem(400, field);
    }
    get(&setup, &setup.alice, "/counts?topic=/").await.expect_problem(400, "topic");
    get(&setup, &setup.alice, "?limit=200&type=&after=").await.expect(200);
    for path in ["", "/counts", &format!("/{}", Uuid::now_v7())] {
        send(setup.get(&format!("{INBOX}{path}"))).await.expect_problem(401, "");
    }
}
