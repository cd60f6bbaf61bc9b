//! What was last said on a topic, at the beginning of its stream.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use crate::setup::{Receipt, Setup, Stream, send};
use crate::support::{DEADLINE, wait_until};

const STREAM: &str = "/api/v1/stream";

async fn say(setup: &Setup, topic: &str, data: impl Into<Value>) -> Receipt {
    setup.publish(&json!({ "type": "test", "to": { "topic": topic }, "data": data.into() })).await
}

/// Waits until the node has handed out all that was published: what it has not yet is no history, but comes live.
async fn settled(setup: &Setup) {
    let mut stream = setup.stream(&setup.bob, "").await;
    setup.publish_to_all("settled").await;
    stream.until_data("settled").await;
}

/// That the history held so many events, and all there were.
#[track_caller]
fn assert_history(stream: &Stream, events: usize) {
    assert_eq!(stream.notices("carillon.history"), [json!({ "events": events, "complete": true })]);
}

pub async fn who_joins_gets_what_was_last_said_and_then_what_is_said(setup: Setup) {
    for number in 1..=5 {
        say(&setup, "chat/room", number).await;
        say(&setup, "chat/other", 100 + number).await;
    }
    setup.publish_to_all("everyone's, which is no topic's").await;
    let read = say(&setup, "chat/room", 6).await;
    let mark = setup.put(&format!("/api/v1/inbox/{}/read", read.id)).bearer_auth(&setup.alice);
    send(mark).await.expect(204);
    settled(&setup).await;
    let mut stream = setup.stream(&setup.alice, "topic=chat/room&history=3").await;
    assert_eq!(stream.data(), [4, 5, 6], "the oldest first, what was read among them");
    assert_history(&stream, 3);
    assert!(stream.ids().iter().all(|(place, _)| place.is_empty()), "{}", stream.text());
    let begin = stream.cursor().to_owned();
    say(&setup, "chat/room", 7).await;
    stream.until_count(4).await;
    assert_eq!(stream.data(), [4, 5, 6, 7]);
    assert_history(&stream, 3);

    let mut resumed = Stream::open(
        setup
            .get(&format!("{STREAM}?topic=chat/room&history=3"))
            .bearer_auth(&setup.alice)
            .header("last-event-id", begin),
    )
    .await;
    resumed.until_count(1).await;
    assert_eq!(resumed.data(), [7], "from where the history ended");

    let all = setup.stream(&setup.alice, "topic=chat/room&topic=chat/other&history=100").await;
    assert_eq!(all.data(), [1, 101, 2, 102, 3, 103, 4, 104, 5, 105, 6, 7]);
    let none = setup.stream(&setup.alice, "topic=chat/nobody&history=1&alive=true").await;
    assert_history(&none, 0);
    assert_eq!(none.notices("carillon.alive")[0]["live"], false);
    let chosen = setup.stream(&setup.alice, "topic=chat/room&history=1&type=another").await;
    assert_history(&chosen, 0);
}

pub async fn the_last_of_each_topic_is_its_state(setup: Setup) {
    for (topic, percent) in [("uploads/alice/1", 10), ("uploads/alice/2", 20), ("uploads/alice/1", 90)] {
        let event = json!({ "type": "progress", "to": { "topic": topic }, "data": percent });
        let request = setup.post("/api/v1/events").bearer_auth(&setup.alice);
        send(request.body(event.to_string())).await.expect(201);
    }
    settled(&setup).await;
    let stream = setup.stream(&setup.alice, "topic=uploads/alice/1&topic=uploads/alice/2&last=1").await;
    assert_eq!(stream.data(), [20, 90]);
    assert_history(&stream, 2);
}

pub async fn what_nobody_may_see_any_more_is_no_history(setup: Setup) {
    let retracted = say(&setup, "chat/room", "retracted").await;
    let passing =
        json!({ "type": "test", "to": { "topic": "chat/room" }, "data": "passing", "expires_in": 1 });
    setup.publish(&passing).await;
    let left =
        json!({ "type": "test", "to": { "topic": "chat/room" }, "data": "left", "keep_after_read": 0 });
    let left = setup.publish(&left).await;
    say(&setup, "chat/room", "stays").await;
    let retract =
        setup.delete(&format!("/api/v1/events/{}", retracted.id)).bearer_auth(&setup.people.publisher);
    send(retract).await.expect(204);
    let mark = setup.put(&format!("/api/v1/inbox/{}/read", left.id)).bearer_auth(&setup.alice);
    send(mark).await.expect(204);
    wait_until(DEADLINE, "one has expired", async || {
        !setup.inbox(&setup.alice, "topic=chat/room").await.contains(&json!("passing"))
    })
    .await;
    settled(&setup).await;
    let alice = setup.stream(&setup.alice, "topic=chat/room&history=100").await;
    assert_eq!(alice.data(), ["stays"]);
    let bob = setup.stream(&setup.bob, "topic=chat/room&history=100").await;
    assert_eq!(bob.data(), ["left", "stays"], "reading is each user's own");
}

pub async fn who_resumes_gets_no_history(setup: Setup) {
    say(&setup, "chat/room", "before").await;
    let begin = setup.stream(&setup.alice, "").await.cursor().to_owned();
    say(&setup, "chat/room", "missed").await;
    let address = format!("{STREAM}?topic=chat/room&history=10");
    let by_header = setup.get(&address).header("last-event-id", &begin);
    let by_address = setup.get(&format!("{address}&cursor={begin}"));
    for request in [by_header, by_address] {
        let mut stream = Stream::open(request.bearer_auth(&setup.alice)).await;
        stream.until_data("missed").await;
        assert_eq!(stream.data(), ["missed"]);
        assert!(stream.notices("carillon.history").is_empty());
    }
    // A cursor that means nothing is reported, too: the page reads the inbox then.
    let unreadable = setup.get(&format!("{address}&cursor=nonsense")).bearer_auth(&setup.alice);
    let mut stream = Stream::open(unreadable).await;
    stream.until("a reset", |stream| !stream.notices("carillon.reset").is_empty()).await;
    assert!(stream.notices("carillon.history").is_empty() && stream.data().is_empty());
}

/// A listener that joins at any moment gets the last ones from some number on, each once and in order.
pub async fn nothing_is_lost_or_doubled_while_events_are_published(setup: Setup) {
    const EVENTS: usize = 300;
    const STREAMS: usize = 30;
    let published = AtomicUsize::new(0);
    let publishing = async {
        for number in 0..EVENTS {
            say(&setup, "chat/room", number).await;
            published.store(number, Ordering::Relaxed);
        }
    };
    let joining = async {
        let mut streams = Vec::new();
        for number in 0..STREAMS {
            let is_turn = async || published.load(Ordering::Relaxed) >= number * (EVENTS - 1) / STREAMS;
            wait_until(DEADLINE, "the next one's turn", is_turn).await;
            streams.push(setup.stream(&setup.alice, "topic=chat/room&history=20").await);
        }
        streams
    };
    let (streams, ()) = tokio::join!(joining, publishing);
    let mut begins = BTreeSet::new();
    for mut stream in streams {
        stream.until_data(EVENTS - 1).await;
        let received: Vec<usize> = stream.data().iter().map(|data| data.as_u64().unwrap() as usize).collect();
        let of_history = stream.notices("carillon.history")[0]["events"].as_u64().unwrap() as usize;
        assert!(of_history == 20 || received[0] == 0, "{of_history} before {received:?}");
        assert_eq!(received, (received[0]..EVENTS).collect::<Vec<_>>());
        begins.insert(received[0]);
    }
    assert!(begins.len() > 3, "they joined at different moments: {begins:?}");
}

pub async fn bad_parameters_of_history_are_named(setup: Setup) {
    for (query, field) in [
        ("history=5", "history"),
        ("last=1", "last"),
        ("topic=a&history=0", "history"),
        ("topic=a&history=101", "history"),
        ("topic=a&history=-1", "history"),
        ("topic=a&history=all", "history"),
        ("topic=a&history=1&history=2", "history"),
        ("topic=a&last=2", "last"),
        ("topic=a&last=true", "last"),
        ("topic=a&history=5&last=1", "last"),
    ] {
        send(setup.get(&format!("{STREAM}?{query}")).bearer_auth(&setup.alice))
            .await
            .expect_problem(400, field);
    }
}
