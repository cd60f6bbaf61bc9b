mod digest_tests;

use super::*;
use crate::account::Credential;
use crate::delivery::hub::{HubLimits, Subscription, SweepLimits};
use crate::event::Selector;
use crate::event::{Audience, Event, Expiry, NewEvent, Priority, Topic};
use crate::store::{Reader, StoreLimits};
use http_body_util::BodyExt as _;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// How long anything may take that should take a moment.
const DEADLINE: Duration = Duration::from_secs(30);

/// A log in memory, and the hub of a node that has applied all of it.
struct World {
    store: Store,
    hub: Arc<Hub>,
    clock: Arc<Clock>,
    streams: Arc<Streams>,
}

impl World {
    async fn new(limits: StreamLimits) -> Self {
        let store = Store::open("sqlite::memory:", &StoreLimits::default()).await.unwrap();
        store.migrate().await.unwrap();
        let hub = Arc::new(Hub::new(HubLimits::default(), |_| {}));
        let state = store.log_state().await.unwrap();
        hub.lock().begin(&state.epoch, state.floor, state.head);
        let clock = Arc::new(Clock::default());
        clock.set(state.now);
        let streams =
            Streams::new(hub.clone(), store.clone(), clock.clone(), limits, Duration::from_secs(15));
        Self { store, hub, clock, streams }
    }

    /// Appends an event for everyone; this node does not know of it yet.
    async fn append(&self, data: &str, expiry: Expiry) -> Event {
        self.append_to(Audience::Everyone, data, expiry).await
    }

    async fn append_to(&self, audience: Audience, data: &str, expiry: Expiry) -> Event {
        let new = NewEvent {
            id: Uuid::now_v7(),
            event_type: "test".parse().unwrap(),
            priority: Priority::Normal,
            audience,
            data: format!("\"{data}\""),
            expiry,
            keep_after_read: None,
            publisher: 1,
            idempotency: None,
            request: None,
        };
        let position = self.store.append(&[new]).await.unwrap().events[0].position;
        self.store.event_at(position).await.unwrap().unwrap()
    }

    async fn apply(&self, event: &Event) {
        let epoch = self.store.log_state().await.unwrap().epoch;
        let delivery = Arc::new(Delivery::new(&epoch, event.clone()));
        let routes = vec![(event.position, event.audience.clone())];
        self.hub.lock().apply(&[delivery], Some(routes), event.position);
    }

    async fn publish(&self, data: &str) -> Event {
        let event = self.append(data, Expiry::Never).await;
        self.apply(&event).await;
        event
    }

    /// Publishes on a topic.
    async fn say(&self, topic: &str, data: &str) -> Event {
        let event = self.append_to(Audience::topic(topic.parse().unwrap()), data, Expiry::Never).await;
        self.apply(&event).await;
        event
    }

    /// A stream that begins with the history of these topics.
    fn open_with_history(&self, topics: &[&str], of_each: u32) -> EventStream {
        self.streams.open(self.request_with_history(topics, of_each)).unwrap()
    }

    fn request_with_history(&self, topics: &[&str], of_each: u32) -> StreamRequest {
        let topics = topics.iter().map(|topic| topic.parse::<Topic>().unwrap()).collect();
        StreamRequest { history: Some(of_each), ..request(topics) }
    }

    async fn open(&self, positions: Option<&str>) -> EventStream {
        let epoch = self.store.log_state().await.unwrap().epoch;
        let resume = positions.map(|positions| format!("{epoch}-{positions}").parse());
        self.streams.open(StreamRequest { resume, ..request(vec![]) }).unwrap()
    }
}

/// What alice asks who listens to these topics.
fn request(topics: Vec<Topic>) -> StreamRequest {
    StreamRequest::new(Subscription {
        reader: Reader { user: 1, selector: Selector::of_user(1, topics) },
        name: "alice".into(),
        wants_presence: false,
        keep_alive_every: None,
        credential: Credential::Token(1),
        connection: CancellationToken::new(),
    })
}

/// Has the sweep find that a stream was quiet for long enough.
fn sweep(stream: &EventStream) {
    let limits = SweepLimits { keep_alive_every: Duration::ZERO, ..SweepLimits::default() };
    stream.listener.sweep(std::time::Instant::now(), &limits);
}

/// What the next write brings.
async fn next(stream: &mut EventStream) -> String {
    let frame = timeout(DEADLINE, stream.frame()).await.expect("nothing comes").unwrap().unwrap();
    String::from_utf8(frame.into_data().unwrap().to_vec()).unwrap()
}

/// Everything up to and with the write that brings `last`.
async fn until(stream: &mut EventStream, last: &str) -> String {
    let mut all = String::new();
    while !all.contains(last) {
        all += &next(stream).await;
    }
    all
}

/// Several clients keep an `id:` only of a frame with data, and take it before the frame has ended.
#[tokio::test]
async fn every_frame_has_data_and_ends_with_its_id() {
    let world = World::new(StreamLimits { replay_events: 2, ..StreamLimits::default() }).await;
    for data in ["1", "2", "3", "4"] {
        world.publish(data).await;
    }
    let epoch = world.store.log_state().await.unwrap().epoch;
    for resume in [None, Some(Ok(Cursor::at(epoch.clone(), 0))), Some("rubbish".parse())] {
        let mut stream =
            world.streams.open(StreamRequest { resume, has_heartbeats: true, ..request(vec![]) }).unwrap();
        let mut all = until(&mut stream, "\"live\":true").await;
        sweep(&stream);
        all += &next(&mut stream).await;
        world.publish("live").await;
        all += &until(&mut stream, "live\"").await;
        stream.listener.close(Closing::SignedOut);
        all += &until(&mut stream, "carillon.signout").await;
        let frames: Vec<&str> = all.strip_suffix("\n\n").unwrap().split("\n\n").collect();
        assert!(frames.len() >= 5, "{all}");
        for frame in &frames {
            let lines: Vec<&str> = frame.lines().collect();
            assert_eq!(lines.iter().filter(|line| line.starts_with("data: {")).count(), 1, "{frame}");
            assert!(lines.last().unwrap().starts_with(&format!("id: {epoch}-")), "{frame}");
        }
        let first: Vec<&str> = frames[0].lines().collect();
        assert_eq!((first[0], first[2]), ("event: carillon.connected", "retry: 1000"));
        let data: serde_json::Value = serde_json::from_str(&first[1]["data: ".len()..]).unwrap();
        data["connection"].as_str().unwrap().parse::<Uuid>().unwrap();
        assert!(first[3].ends_with(&format!("-{}", data["position"])), "{first:?}");
    }
}

/// A quiet stream's client would otherwise come back with a cursor that is older than what is kept.
#[tokio::test]
async fn a_keep_alive_is_a_comment_or_says_that_the_cursor_has_moved() {
    let world = World::new(StreamLimits::default()).await;
    let mut stream = world.open(None).await;
    until(&mut stream, "carillon.connected").await;
    for position in 1..=2 {
        sweep(&stream);
        assert_eq!(next(&mut stream).await, ":\n");
        world.say("another topic", "not for alice").await;
        sweep(&stream);
        let epoch = world.store.log_state().await.unwrap().epoch;
        let expected = format!(
            "event: carillon.position\ndata: {{\"position\":{position}}}\nid: {epoch}-{position}\n\n"
        );
        assert_eq!(next(&mut stream).await, expected);
    }
    let expiry = Expiry::At(world.clock.now() + 3_600_000);
    let event = world.append("passing", expiry).await;
    world.apply(&event).await;
    world.clock.set(world.clock.now() + 3_600_001);
    let mut cx = Context::from_waker(std::task::Waker::noop());
    assert!(stream.poll_next(&mut cx).is_pending());
    sweep(&stream);
    assert!(next(&mut stream).await.contains("\"position\":3"), "its cursor left with no frame");
}

/// The sweep looks once a second: a stream that wants to hear something each second does.
#[tokio::test]
async fn each_stream_is_quiet_for_its_own_time() {
    let world = World::new(StreamLimits::default()).await;
    let open = |seconds: Option<u64>| {
        let mut request = request(vec![]);
        request.subscription.keep_alive_every = seconds.map(Duration::from_secs);
        world.streams.open(request).unwrap()
    };
    let mut streams = [open(Some(1)), open(None), open(Some(300))];
    for stream in &mut streams {
        until(stream, "carillon.connected").await;
    }
    let opened = std::time::Instant::now();
    let mut cx = Context::from_waker(std::task::Waker::noop());
    for (after, expected) in
        [(900, [true, false, false]), (15_000, [true, true, false]), (301_000, [true; 3])]
    {
        for (stream, expected) in streams.iter_mut().zip(expected) {
            stream.listener.sweep(opened + Duration::from_millis(after), &SweepLimits::default());
            let said = stream.poll_next(&mut cx);
            assert_eq!(said.is_ready(), expected, "after {after} ms: {said:?}");
        }
    }
}

#[tokio::test]
async fn a_stream_has_its_own_pause_and_says_so() {
    let world = World::new(StreamLimits::default()).await;
    let retry = Some(Duration::from_millis(2_500));
    let request = StreamRequest { retry, has_heartbeats: true, ..request(vec![]) };
    let mut stream = world.streams.open(request).unwrap();
    let all = until(&mut stream, "carillon.alive").await;
    assert!(all.contains("\nretry: 2500\n") && all.contains("\"retry\":2.5"), "{all}");
}

#[tokio::test]
async fn a_cursor_beyond_the_log_gets_a_reset_and_what_comes_then_arrives() {
    for positions in ["999", "1+999", "9223372036854775807"] {
        let world = World::new(StreamLimits::default()).await;
        world.publish("before").await;
        let mut stream = world.open(Some(positions)).await;
        let reset = until(&mut stream, "\n\n").await + &until(&mut stream, "carillon.reset").await;
        assert!(reset.contains(r#""reason":"ahead""#), "{positions}: {reset}");
        world.publish("after").await;
        let rest = until(&mut stream, "after").await;
        assert!(rest.contains("-2\n\n"), "{positions}: {rest}");
    }
}

/// Another node was faster: that is no reason to begin again.
#[tokio::test]
async fn a_cursor_beyond_what_this_node_has_applied_is_resumed() {
    let world = World::new(StreamLimits::default()).await;
    let (first, second) =
        (world.append("first", Expiry::Never).await, world.append("second", Expiry::Never).await);
    let mut stream = world.open(Some("1")).await;
    let mut overtaken = world.open(Some("0+2")).await;
    for event in [&first, &second] {
        world.apply(event).await;
    }
    world.publish("third").await;
    let all = until(&mut stream, "third").await;
    assert!(!all.contains("reset") && !all.contains("first") && all.contains("second"), "{all}");
    let all = until(&mut overtaken, "third").await;
    assert!(!all.contains("reset") && all.contains("first") && !all.contains("second"), "{all}");
}

/// A slow client may leave it waiting for long.
#[tokio::test]
async fn what_expires_while_it_waits_for_the_socket_does_not_leave() {
    let world = World::new(StreamLimits { write_bytes: 1, ..StreamLimits::default() }).await;
    let now = world.store.log_state().await.unwrap().now;
    let (far, later) = (Expiry::At(now + 3_600_000), now + 3_600_001);
    let mut live = world.open(None).await;
    for (data, expiry) in [("first", Expiry::Never), ("passing", far), ("last", Expiry::Never)] {
        let event = world.append(data, expiry).await;
        world.apply(&event).await;
    }
    let mut replayed = world.open(Some("0")).await;
    for stream in [&mut live, &mut replayed] {
        world.clock.set(now);
        until(stream, "first").await;
        world.clock.set(later);
        let rest = until(stream, "last").await;
        assert!(!rest.contains("passing"), "{rest}");
    }
}

/// It may pass a slow listener between two pages, and this node learns of it later.
#[tokio::test]
async fn what_retention_removes_during_a_replay_gets_a_reset() {
    let world = World::new(StreamLimits { replay_events: 1, ..StreamLimits::default() }).await;
    for data in ["first", "second", "third", "fourth"] {
        world.publish(data).await;
    }
    let mut stream = world.open(Some("0")).await;
    let begin = until(&mut stream, "first").await;
    assert!(!begin.contains("second"), "{begin}");
    let far = world.store.log_state().await.unwrap().now + 1;
    assert_eq!(world.store.remove_before(far, 3).await.unwrap(), 3);
    let rest = until(&mut stream, "reset").await;
    assert!(rest.contains(r#""reason":"retention""#), "{rest}");
    world.publish("after").await;
    let rest = until(&mut stream, "after").await;
    assert!(rest.contains("-5\n\n"), "{rest}");

    assert_eq!(world.store.remove_before(far + 3_600_000, 3).await.unwrap(), 2);
    let mut empty = world.open(Some("1")).await;
    until(&mut empty, r#""reason":"retention""#).await;
}

#[tokio::test]
async fn a_replay_of_large_events_reads_no_more_than_it_holds() {
    let limits = StreamLimits { replay_bytes: 3_000, ..StreamLimits::default() };
    let world = World::new(limits).await;
    for number in 0..20 {
        world.publish(&format!("{number:01000}")).await;
    }
    let mut stream = world.open(Some("0")).await;
    let mut all = until(&mut stream, &format!("{:01000}", 0)).await;
    assert_eq!(stream.limit, 2, "as many as were of use");
    let mut most = 0;
    while !all.contains(&format!("{:01000}", 19)) {
        all += &next(&mut stream).await;
        most = most.max(stream.limit);
    }
    assert!(most <= 4, "{most} were read, of which 2 are held");
    assert_eq!(data_of(&all).len(), 20);
    for data in 0..300 {
        world.publish(&data.to_string()).await;
    }
    let mut small = world.open(Some("20")).await;
    small.limit = 1;
    let all = until(&mut small, "\"299\"").await;
    assert_eq!(data_of(&all).len(), 300);
    assert!(small.limit > 1, "it grows again");
}

/// The publishers' data in what a stream brought, in that order.
fn data_of(text: &str) -> Vec<&str> {
    let data = text
        .split("\n")
        .filter(|line| line.starts_with("data:"))
        .filter_map(|line| line.split_once("\"data\":\""));
    data.map(|(_, rest)| rest.split('"').next().unwrap()).collect()
}

#[tokio::test]
async fn history_comes_first_and_without_a_cursor() {
    let world = World::new(StreamLimits::default()).await;
    for (topic, data) in [("a", "a1"), ("b", "b1"), ("a", "a2"), ("c", "c1"), ("a", "a3")] {
        world.say(topic, data).await;
    }
    world.publish("for everyone").await;
    let mut stream = world.open_with_history(&["a", "b", "empty"], 2);
    world.say("a", "live").await;
    let all = until(&mut stream, "live").await;
    assert_eq!(data_of(&all), ["b1", "a2", "a3", "live"]);
    let (before, after) = all.split_once("event: carillon.history\n").unwrap();
    let (data, id) = after.split_once("\nid: ").unwrap();
    assert_eq!(data, "data: {\"complete\":true,\"events\":3}");
    assert!(before.starts_with("event: carillon.connected\n") && !before.contains("id: "), "{before}");
    assert!(id.split('\n').next().unwrap().ends_with("-6"), "{all}");
}

#[tokio::test]
async fn history_is_bounded_and_says_so() {
    let limits = StreamLimits { history_events: 5, history_bytes: 4_000, ..StreamLimits::default() };
    let world = World::new(limits).await;
    for number in 0..4 {
        world.say("a", &format!("a{number}")).await;
        world.say("b", &format!("b{number}")).await;
    }
    let mut stream = world.open_with_history(&["a", "b"], 4);
    let all = until(&mut stream, "\"complete\":false,\"events\":5").await;
    assert_eq!(data_of(&all), ["b1", "a2", "b2", "a3", "b3"], "the oldest are left out");
    world.say("large", &"x".repeat(3_000)).await;
    world.say("large", &"y".repeat(3_000)).await;
    let mut stream = world.open_with_history(&["a", "large"], 2);
    let all = until(&mut stream, "\"complete\":false,\"events\":1").await;
    assert!(all.contains("yyy") && !all.contains("xxx") && !all.contains("\"a3\""), "{all}");
}

/// What comes while the history is read waits in the queue, or is replayed from the fence if that is too much.
#[tokio::test]
async fn what_comes_while_history_is_read_follows_it_once() {
    for many in [3, 1_000] {
        let world = World::new(StreamLimits::default()).await;
        world.say("a", "before").await;
        let mut stream = world.open_with_history(&["a"], 10);
        let mut expected = vec!["before".to_owned()];
        for number in 0..many {
            expected.push(format!("during {number}"));
            world.say("a", &expected[number + 1]).await;
        }
        let all = until(&mut stream, expected.last().unwrap()).await;
        assert_eq!(data_of(&all), expected);
        assert_eq!(all.matches("carillon.history").count(), 1);
    }
}

/// Nothing that was put in front of history may carry a cursor, or a reconnect would leave the history out.
#[tokio::test]
async fn a_history_that_cannot_be_read_is_tried_again_and_gives_no_cursor_meanwhile() {
    let world = World::new(StreamLimits { concurrent_replays: 1, ..StreamLimits::default() }).await;
    world.say("a", "said").await;
    let turn = world.streams.replays.acquire().await.unwrap();
    let request = StreamRequest { has_heartbeats: true, ..world.request_with_history(&["a"], 1) };
    let mut stream = world.streams.open(request).unwrap();
    let begin = until(&mut stream, "carillon.alive").await;
    assert!(begin.contains("\"live\":false") && !begin.contains("id: "), "{begin}");
    stream.recalled(Err(StoreError::Unavailable("for a test".into())), fence_of(&stream), 1);
    drop(turn);
    let rest = until(&mut stream, "\"live\":true").await;
    assert_eq!(data_of(&rest), ["said"]);
    let mut cut_off = world.open_with_history(&["a"], 1);
    cut_off.listener.close(Closing::SignedOut);
    let last = until(&mut cut_off, "carillon.signout").await;
    assert!(!last.contains("id: "), "{last}");
}

fn fence_of(stream: &EventStream) -> Fence {
    match &stream.phase {
        Phase::Recalling(_, fence, _) => fence.clone(),
        _ => panic!("no history is being read"),
    }
}
