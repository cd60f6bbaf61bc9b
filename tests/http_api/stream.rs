//! Streams: how they begin, what they carry and to whom, how they go on.

use std::collections::HashSet;

use carillon::sse_parser::SseEvent;
use serde_json::{Value, json};

use crate::setup::{Setup, Stream, send};
use crate::support::{DEADLINE, wait_until};

const STREAM: &str = "/api/v1/stream";

fn event(to: &Value, data: &str) -> Value {
    json!({ "type": "test", "to": to, "data": data })
}

/// A stream of the token's user from `cursor` on.
async fn resume(setup: &Setup, token: &str, cursor: &str) -> Stream {
    Stream::open(setup.get(STREAM).bearer_auth(token).header("last-event-id", cursor)).await
}

/// As `cursor` stands in an address: a plus sign there is a space.
fn in_query(cursor: &str) -> String {
    format!("cursor={}", cursor.replace('+', "%2B"))
}

/// The publishers' data, whatever its order.
fn sorted(stream: &Stream) -> Vec<String> {
    let mut data: Vec<String> = stream.data().iter().map(|data| data.as_str().unwrap().to_owned()).collect();
    data.sort_unstable();
    data
}

pub async fn a_stream_begins_with_its_cursor(setup: Setup) {
    let mut stream = setup.stream(&setup.alice, "").await;
    let header = |name: &str| stream.headers()[name].to_str().unwrap();
    assert_eq!(header("content-type"), "text/event-stream");
    assert_eq!(header("cache-control"), "no-store, no-transform");
    assert_eq!(header("x-accel-buffering"), "no");
    let lines: Vec<&str> = stream.text().split('\n').collect();
    assert_eq!(lines[0], "event: carillon.connected");
    assert!(lines[1].starts_with("data: {"), "{lines:?}");
    assert!(lines[2].strip_prefix("retry: ").unwrap().parse::<u64>().unwrap() > 0, "{lines:?}");
    assert_eq!(lines[3..5], [&format!("id: {}", stream.cursor()), ""]);
    let connected = stream.notices("carillon.connected").remove(0);
    assert!(stream.cursor().ends_with(&format!("-{}", connected["position"])), "{connected}");
    assert!(connected.get("ignored").is_none(), "{connected}");
    let other = setup.stream(&setup.alice, "").await.notices("carillon.connected").remove(0);
    assert_ne!(connected["connection"], other["connection"]);

    let receipt = setup
        .publish(&json!({
            "type": "order.paid", "priority": "high", "to": {"users": ["alice", "bob"]},
            "data": {"text": "two\nlines", "number": 1.10}, "expires_at": "2100-01-31T12:00:00+02:00",
        }))
        .await;
    stream.until_count(1).await;
    let event = stream.events.last().unwrap();
    let json: Value = serde_json::from_str(&event.data).unwrap();
    assert_eq!(json["id"], receipt.id);
    assert_eq!(json["position"], receipt.position);
    assert_eq!(json["type"], "order.paid");
    assert_eq!(json["priority"], "high");
    assert_eq!(json["to"], "you", "whom else it went to is not theirs to know");
    assert_eq!(json["data"], json!({ "text": "two\nlines", "number": 1.10 }));
    assert_eq!(json["expires_at"], "2100-01-31T10:00:00Z");
    assert!(json["created_at"].as_str().unwrap().ends_with('Z'));
    assert!(!stream.text().contains("bob"), "{}", stream.text());
    assert!(event.id.contains(&format!("-{}.", receipt.position)));

    for (query, field) in [
        ("type=a%20b", "type"),
        ("type=a&type=carillon.x", "type"),
        ("min_priority=most", "min_priority"),
        ("min_priority=low&min_priority=high", "min_priority"),
        ("topic=a//b", "topic"),
        (&["topic=a"; 33].join("&"), "topic"),
        ("cursor=a-1&cursor=a-2", "cursor"),
        ("form=xml", "form"),
        ("form=plain&form=data", "form"),
        ("retry=99", "retry"),
        ("retry=3600001", "retry"),
        ("heartbeat=0", "heartbeat"),
        ("heartbeat=301", "heartbeat"),
        ("heartbeat=1.5", "heartbeat"),
    ] {
        send(setup.get(&format!("{STREAM}?{query}")).bearer_auth(&setup.alice))
            .await
            .expect_problem(400, field);
    }
    send(setup.get(STREAM)).await.expect_problem(401, "");
    send(setup.get(STREAM).bearer_auth("carillon_wrong")).await.expect_problem(401, "");
}

pub async fn filters_hold_live_and_in_a_replay(setup: Setup) {
    let query = "type=a&type=b&min_priority=high&topic=room/1&topic=room/2";
    let mut live = setup.stream(&setup.alice, query).await;
    let begin = live.cursor().to_owned();
    let of = |event_type: &str, priority: &str, to: Value, data: &str| json!({ "type": event_type, "priority": priority, "to": to, "data": data });
    setup
        .publish_batch(&[
            of("a", "high", json!("everyone"), "1"),
            of("c", "urgent", json!("everyone"), "another type"),
            of("b", "normal", json!("everyone"), "too low"),
            of("b", "urgent", json!({ "user": "alice" }), "2"),
            of("a", "urgent", json!({ "topic": "room/1" }), "3"),
            of("b", "high", json!({ "topic": "room/2" }), "4"),
            of("a", "urgent", json!({ "topic": "room/3" }), "another topic"),
            of("a", "high", json!({ "users": ["alice", "bob"] }), "5"),
        ])
        .await;
    live.until_data("5").await;
    assert_eq!(live.data(), ["1", "2", "3", "4", "5"]);

    let mut replayed = setup.stream(&setup.alice, &format!("{query}&{}", in_query(&begin))).await;
    replayed.until_count(5).await;
    setup.publish(&of("a", "high", json!("everyone"), "6")).await;
    for stream in [&mut live, &mut replayed] {
        stream.until_data("6").await;
        assert_eq!(sorted(stream), ["1", "2", "3", "4", "5", "6"]);
    }
}

pub async fn nobody_gets_what_is_not_theirs(setup: Setup) {
    let mut alice = setup.stream(&setup.alice, "").await;
    let mut bob = setup.stream(&setup.bob, "topic=room").await;
    let begin = alice.cursor().to_owned();
    setup.publish(&event(&json!({ "user": "bob" }), "bob's")).await;
    setup.publish(&event(&json!({ "users": ["bob", "admin"] }), "bob's and the admin's")).await;
    setup.publish(&event(&json!({ "topic": "room" }), "the room's")).await;
    setup.publish(&event(&json!({ "user": "alice" }), "alice's")).await;
    setup.publish_to_all("everyone's").await;
    alice.until_data("everyone's").await;
    bob.until_data("everyone's").await;
    assert_eq!(alice.data(), ["alice's", "everyone's"]);
    assert_eq!(bob.data(), ["bob's", "bob's and the admin's", "the room's", "everyone's"]);

    let mut alice = resume(&setup, &setup.alice, &begin).await;
    let mut bob = setup.stream(&setup.bob, &format!("topic=room&{}", in_query(&begin))).await;
    let mut without_topic = resume(&setup, &setup.bob, &begin).await;
    setup.publish_to_all("the last").await;
    for stream in [&mut alice, &mut bob, &mut without_topic] {
        stream.until_data("the last").await;
    }
    assert_eq!(alice.data(), ["alice's", "everyone's", "the last"]);
    assert_eq!(bob.data(), ["bob's", "bob's and the admin's", "the room's", "everyone's", "the last"]);
    assert_eq!(without_topic.data(), ["bob's", "bob's and the admin's", "everyone's", "the last"]);
}

pub async fn what_cannot_be_resumed_is_reported_and_goes_on(setup: Setup) {
    let mut live = setup.stream(&setup.alice, "").await;
    // Without the digest.
    let fresh = live.cursor().split('.').next().unwrap().to_owned();
    setup.publish_to_all("before").await;
    live.until_data("before").await;
    let (epoch, position) = fresh.split_once('-').unwrap();
    let long = format!("{fresh}{}", "+9".repeat(1_000));
    let cases = [
        ("rubbish", "unreadable"),
        (&format!("{fresh}+"), "unreadable"),
        (&long, "unreadable"),
        (&format!("another-{position}"), "epoch"),
        (&format!("{epoch}-99999999"), "ahead"),
        (&format!("{fresh}+99999999"), "ahead"),
    ];
    for (cursor, reason) in cases {
        let by_header = resume(&setup, &setup.alice, cursor).await;
        let by_query = setup.stream(&setup.alice, &in_query(cursor)).await;
        for mut stream in [by_header, by_query] {
            stream.until("a reset", |stream| !stream.notices("carillon.reset").is_empty()).await;
            let reset = stream.notices("carillon.reset").remove(0);
            assert_eq!(reset["reason"], reason, "{cursor:.50}");
            assert_eq!(reset["cursor"], stream.cursor(), "{cursor:.50}");
            let after = format!("after {cursor:.50}");
            setup.publish_to_all(&after).await;
            stream.until_data(after.as_str()).await;
            assert_eq!(stream.data().last().unwrap(), &after);
            assert!(!stream.data().contains(&json!("before")), "{cursor:.50}");
        }
    }
    let not_text = setup.get(STREAM).bearer_auth(&setup.alice).header("last-event-id", &b"\xff"[..]);
    let mut stream = Stream::open(not_text).await;
    stream.until("a reset", |stream| !stream.notices("carillon.reset").is_empty()).await;
    assert_eq!(stream.notices("carillon.reset")[0]["reason"], "unreadable");
}

pub async fn resuming_gives_exactly_what_was_missed(setup: Setup) {
    let mut stream = setup.stream(&setup.alice, "").await;
    let begin = stream.cursor().to_owned();
    for data in ["1", "2"] {
        setup.publish_to_all(data).await;
        stream.until_data(data).await;
    }
    let [(after_1, _), (after_2, _)] = &stream.ids()[..] else { panic!("{}", stream.text()) };
    let (after_1, after_2) = (after_1.clone(), after_2.clone());
    drop(stream);
    setup.publish_to_all("3").await;
    setup.publish(&event(&json!({ "user": "bob" }), "not alice's")).await;
    setup.publish(&event(&json!({ "user": "alice" }), "4")).await;

    let mut missed_all = resume(&setup, &setup.alice, &begin).await;
    let mut by_header = resume(&setup, &setup.alice, &after_1).await;
    let mut by_query = setup.stream(&setup.alice, &in_query(&after_1)).await;
    let both = || setup.get(&format!("{STREAM}?{}", in_query(&after_1))).bearer_auth(&setup.alice);
    let mut header_wins = Stream::open(both().header("last-event-id", &after_2)).await;
    let mut empty_header = Stream::open(both().header("last-event-id", "")).await;
    let several = [&begin, &after_2, "rubbish", ""].into_iter();
    let several = several.fold(both(), |request, cursor| request.header("last-event-id", cursor));
    let mut last_of_several = Stream::open(several).await;
    let joined = format!("{begin},{after_2}, rubbish, \u{e9}");
    let mut last_of_joined = Stream::open(both().header("last-event-id", joined.as_bytes())).await;
    let mut before: [&mut Stream; 7] = [
        &mut missed_all,
        &mut by_header,
        &mut by_query,
        &mut header_wins,
        &mut empty_header,
        &mut last_of_several,
        &mut last_of_joined,
    ];
    for stream in &mut before {
        stream.until_data("4").await;
    }
    let mut from_now = setup.stream(&setup.alice, "").await;
    setup.publish_to_all("5").await;
    let expected: [(&mut Stream, &[&str]); 8] = [
        (&mut missed_all, &["1", "2", "3", "4", "5"]),
        (&mut by_header, &["2", "3", "4", "5"]),
        (&mut by_query, &["2", "3", "4", "5"]),
        (&mut header_wins, &["3", "4", "5"]),
        (&mut from_now, &["5"]),
        (&mut empty_header, &["2", "3", "4", "5"]),
        (&mut last_of_several, &["3", "4", "5"]),
        (&mut last_of_joined, &["3", "4", "5"]),
    ];
    for (stream, data) in expected {
        stream.until_data("5").await;
        assert_eq!(stream.data(), data);
    }
    // Nothing was missed: nothing comes twice.
    let mut again = resume(&setup, &setup.alice, by_query.cursor()).await;
    setup.publish_to_all("6").await;
    again.until_data("6").await;
    assert_eq!(again.data(), ["6"]);
}

pub async fn the_urgent_overtake_in_a_backlog(setup: Setup) {
    let mut live = setup.stream(&setup.alice, "").await;
    let begin = live.cursor().to_owned();
    let of = |priority: &str, data: String| json!({ "type": "test", "priority": priority, "to": "everyone", "data": data });
    let mut backlog: Vec<Value> = (0..300).map(|n| of("low", format!("low {n:03}"))).collect();
    backlog.push(of("urgent", "urgent".into()));
    let mut all: HashSet<String> = setup.publish_batch(&backlog).await.into_iter().map(|r| r.id).collect();
    live.until_count(all.len()).await;

    // Cut where nothing, where something and where much of it had come; resumed by header and by address.
    // Once with its plus signs as they are, which are spaces there.
    for (cut, by_header) in
        [(0, true), (1, true), (2, false), (3, false), (150, true), (299, false), (300, true)]
    {
        let mut first = resume(&setup, &setup.alice, &begin).await;
        first.until_count(cut.max(1)).await;
        assert_eq!(first.data()[0], "urgent", "all low ones were there before it");
        let mut got = first.ids();
        got.truncate(cut);
        let cursor = got.last().map_or(begin.as_str(), |(cursor, _)| cursor).to_owned();
        drop(first);

        let mut second = if by_header {
            resume(&setup, &setup.alice, &cursor).await
        } else {
            assert!(cut != 2 || cursor.contains('+'), "{cursor}");
            let query = if cut == 2 { format!("cursor={cursor}") } else { in_query(&cursor) };
            setup.stream(&setup.alice, &query).await
        };
        second.until_count(all.len() - cut).await;
        let last = setup.publish_to_all(&format!("after the cut at {cut}")).await;
        second.until_data(format!("after the cut at {cut}")).await;
        all.insert(last.id);
        got.extend(second.ids());
        let distinct: HashSet<String> = got.iter().map(|(_, id)| id.clone()).collect();
        assert_eq!(distinct, all, "cut at {cut}: nothing is lost");
        assert_eq!(got.len(), all.len(), "cut at {cut}: nothing comes twice");
        assert!(second.notices("carillon.reset").is_empty());
    }
}

/// Live, in a replay and as history.
pub async fn each_form_carries_every_event(setup: Setup) {
    // Type, data, and how the data is sent by itself. Two types are also names of an EventSource's own events.
    let cases = [
        ("error", json!("two\nlines\r\nand\rmore\n"), "two\nlines\nand\nmore\n"),
        ("open", json!(""), "\"\""),
        ("a.b", json!({ "n": [1, "x\ny"] }), "{\"n\":[1,\"x\\ny\"]}"),
        ("message", json!("é\u{2028}"), "é\u{2028}"),
    ];
    let of_publishers = |stream: &Stream| -> Vec<SseEvent> {
        let events = stream.events.iter().filter(|event| !event.event.starts_with("carillon."));
        events.cloned().collect()
    };
    let forms = ["", "envelope", "named", "plain", "data"];
    let mut streams = Vec::new();
    for form in forms {
        streams.push((form, setup.stream(&setup.alice, &format!("topic=t&form={form}")).await));
    }
    let cursor = in_query(streams[0].1.cursor());
    let to = json!({ "topic": "t" });
    let events = cases.iter().map(|(name, data, _)| json!({ "type": name, "to": to, "data": data }));
    setup.publish_batch(&events.collect::<Vec<_>>()).await;
    streams[0].1.until_count(cases.len()).await;
    for form in forms {
        for begin in [&cursor, "history=4"] {
            let stream = setup.stream(&setup.alice, &format!("topic=t&form={form}&{begin}")).await;
            streams.push((form, stream));
        }
    }
    for (form, stream) in &mut streams {
        stream.until("all of it", |stream| of_publishers(stream).len() >= cases.len()).await;
        let events = of_publishers(stream);
        assert_eq!(events.len(), cases.len(), "{}", stream.text());
        for (event, (name, data, text)) in events.iter().zip(&cases) {
            let is_named = matches!(*form, "named" | "plain");
            assert_eq!(event.event, if is_named { name } else { "message" }, "{form}");
            if matches!(*form, "plain" | "data") {
                assert_eq!(event.data, *text, "{form}");
            } else {
                let envelope: Value = serde_json::from_str(&event.data).unwrap();
                assert_eq!((&envelope["type"], &envelope["data"]), (&json!(name), data), "{form}");
            }
        }
    }
}

/// A 400 would end pages for good that another node, with a newer version, served.
pub async fn parameters_that_nobody_knows_are_ignored_and_named(setup: Setup) {
    let long = "x".repeat(65);
    let query = format!(
        "topics=a&topic=b&topics=c&%3Cx%22&{long}=1&alive=false&account=alice&type=&retry=200&heartbeat=9"
    );
    let stream = setup.stream(&setup.alice, &query).await;
    assert_eq!(stream.notices("carillon.connected")[0]["ignored"], json!(["topics", "<x\""]));
    let many: Vec<String> = (0..100).map(|number| format!("p{number}")).collect();
    let stream = setup.stream(&setup.alice, &many.join("&")).await;
    assert_eq!(stream.notices("carillon.connected")[0]["ignored"], json!(many[..32]));
}

/// Each stream has its own pauses, and a bad one is named.
pub async fn a_stream_says_how_long_it_is_quiet_and_when_to_come_back(setup: Setup) {
    let mut stream = setup.stream(&setup.alice, "alive=true&retry=100&heartbeat=300").await;
    assert!(stream.text().contains("\nretry: 100\n"), "{}", stream.text());
    stream.until("it is alive", |stream| !stream.notices("carillon.alive").is_empty()).await;
    let alive = stream.notices("carillon.alive").remove(0);
    assert_eq!((&alive["retry"], &alive["heartbeat"]), (&json!(0.1), &json!(300.0)));
}

/// Any status but 200 ends an `EventSource` for good.
pub async fn what_cannot_be_served_for_the_moment_is_no_refusal(setup: Setup) {
    let is_a_pause = async |token: &str| {
        let answer = send(setup.get(STREAM).bearer_auth(token)).await.expect(200);
        assert_eq!(answer.header("content-type"), "text/event-stream");
        let lines: Vec<&str> = answer.body.lines().collect();
        assert!(lines[0].strip_prefix("retry: ").is_some_and(|pause| pause.parse() != Ok(0)), "{answer:?}");
        assert!(lines[1].starts_with(": ") && lines.len() == 2 && answer.body.ends_with('\n'), "{answer:?}");
    };
    let mut streams = Vec::new();
    for _ in 0..64 {
        streams.push(setup.stream(&setup.alice, "").await);
    }
    is_a_pause(&setup.alice).await;
    drop(streams.pop());
    let is_let_in = async || {
        let answer = setup.get(STREAM).bearer_auth(&setup.alice).send().await.unwrap();
        let mut answer = answer.error_for_status().unwrap();
        answer.chunk().await.unwrap().is_some_and(|first| first.starts_with(b"event: "))
    };
    wait_until(DEADLINE, "there is room again", is_let_in).await;

    // As in a database that is just being restored.
    setup.execute("alter table tokens rename to not_yet_there").await;
    is_a_pause(&setup.bob).await;
    setup.execute("alter table not_yet_there rename to tokens").await;
    setup.stream(&setup.bob, "").await;
}

pub async fn asked_to_a_stream_says_aloud_that_it_lives(setup: Setup) {
    const ALIVE: &str = "carillon.alive";
    let mut quiet = setup.stream(&setup.alice, "").await;
    let begin = quiet.cursor().to_owned();
    setup.publish_to_all("missed").await;
    // Until then it would be no backlog but come live, a moment after the other stream is.
    quiet.until("the node has it", |quiet| quiet.data() == ["missed"]).await;

    let mut stream = setup.stream(&setup.alice, &format!("alive=true&{}", in_query(&begin))).await;
    let is_live = |stream: &Stream| stream.notices(ALIVE).last().is_some_and(|alive| alive["live"] == true);
    stream.until("it is live", is_live).await;
    let alive = stream.notices(ALIVE).pop().unwrap();
    assert!(alive["heartbeat"].as_f64().unwrap() > 0.0 && alive["retry"].as_f64().unwrap() > 0.0, "{alive}");
    assert_eq!(stream.data(), ["missed"]);
    let message = stream.events.iter().position(|event| event.event == "message").unwrap();
    let live = stream.events.iter().rposition(|event| event.event == ALIVE).unwrap();
    assert!(message < live, "it is not live before the backlog has been sent");
    assert_eq!(stream.events[live].id, stream.cursor(), "its id is where to go on from");
    let time = alive["time"].as_str().unwrap();
    assert!(time.starts_with("20") && time.ends_with('Z'), "{alive}");

    let known = stream.notices(ALIVE).len();
    stream.until("a heartbeat", move |stream| stream.notices(ALIVE).len() > known).await;
    assert!(quiet.notices(ALIVE).is_empty(), "only to those who asked");
    send(setup.get(&format!("{STREAM}?alive=loudly")).bearer_auth(&setup.alice))
        .await
        .expect_problem(400, "alive");
}
