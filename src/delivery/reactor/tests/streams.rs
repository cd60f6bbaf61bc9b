//! A stream's life: how it begins, what it is told when nothing happens, and what it missed.

use super::*;
use crate::event::Cursor;

/// Several clients keep an `id:` only of a frame with data, and take it before the frame has ended.
#[tokio::test]
async fn every_frame_has_data_and_ends_with_its_id() {
    let reads = ReadLimits { replay_events: 2, ..ReadLimits::default() };
    let mut world = World::new(Limits { reads, ..Limits::default() }).await;
    for data in ["1", "2", "3", "4"] {
        world.publish(data).await;
    }
    let epoch = world.store.log_state().await.unwrap().epoch;
    for resume in [None, Some(Ok(Cursor::at(epoch.clone(), 0))), Some("rubbish".parse())] {
        let wish = Wish { resume, has_heartbeats: true, ..Wish::default() };
        let mut stream = world.start(subscription(1, &[]), wish).unwrap();
        let mut all = world.until(&mut stream, "\"live\":true").await;
        world.pass(Duration::from_secs(16));
        all += &world.until(&mut stream, "carillon.alive").await;
        world.publish("live").await;
        all += &world.until(&mut stream, "live\"").await;
        world.hub.end(&[Credential::Token(1)]);
        all += &world.until(&mut stream, "carillon.signout").await;
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
    let mut world = World::new(Limits::default()).await;
    let epoch = world.store.log_state().await.unwrap().epoch;
    let mut stream = world.open(None).await;
    stream.read();
    for position in 1..=2 {
        world.pass(Duration::from_secs(15));
        assert_eq!(stream.read(), ":\n");
        world.say("another topic", "not for alice").await;
        world.pass(Duration::from_secs(15));
        let expected = format!(
            "event: carillon.position\ndata: {{\"position\":{position}}}\nid: {epoch}-{position}\n\n"
        );
        assert_eq!(stream.read(), expected);
    }
    let expiry = Expiry::At(world.clock.now() + 3_600_000);
    let event = world.append("passing", expiry).await;
    world.clock.set(world.clock.now() + 3_600_001);
    world.apply(&event).await;
    assert_eq!(stream.read(), "");
    world.pass(Duration::from_secs(15));
    assert!(stream.read().contains("\"position\":3"), "its cursor left with no frame");
}

#[tokio::test]
async fn each_stream_is_quiet_for_its_own_time() {
    let mut world = World::new(Limits::default()).await;
    let mut streams = Vec::new();
    for seconds in [Some(1), None, Some(300)] {
        let keep_alive_every = seconds.map(Duration::from_secs);
        let wanted = Subscription { keep_alive_every, ..subscription(1, &[]) };
        streams.push(world.start(wanted, Wish::default()).unwrap());
    }
    streams.iter_mut().for_each(|stream| drop(stream.read()));
    for (millis, expected) in [
        (750, [false; 3]),
        (250, [true, false, false]),
        (1_000, [true, false, false]),
        (12_750, [true, false, false]),
        (500, [false, true, false]),
        (290_000, [true, true, true]),
    ] {
        world.pass(Duration::from_millis(millis));
        let said: Vec<bool> = streams.iter_mut().map(|stream| !stream.read().is_empty()).collect();
        assert_eq!(said, expected, "after {millis} ms more");
    }
}

#[tokio::test]
async fn a_stream_has_its_own_pause_and_says_so() {
    let mut world = World::new(Limits::default()).await;
    let retry = Some(Duration::from_millis(2_500));
    let wish = Wish { retry, has_heartbeats: true, ..Wish::default() };
    let all = world.start(subscription(1, &[]), wish).unwrap().read();
    assert!(all.contains("\nretry: 2500\n") && all.contains("\"retry\":2.5"), "{all}");
}

/// Not all at once, though all began together.
#[tokio::test]
async fn an_old_stream_ends_so_that_it_comes_back() {
    let session = SessionLimits { max_age: Duration::from_secs(1_000), ..SessionLimits::default() };
    let mut world = World::new(Limits { session, ..Limits::default() }).await;
    world.framing = Framing::Chunked;
    let mut streams = Vec::new();
    for user in 1..=100 {
        streams.push(world.start(subscription(user, &[]), Wish::default()).unwrap());
    }
    let mut open = Vec::new();
    for _ in 0..11 {
        world.pass(Duration::from_secs(10));
        world.tick += 3_560 / 11;
        open.push(streams.iter().filter(|stream| stream.is_open()).count());
    }
    world.pass(Duration::from_secs(200));
    assert!(open.iter().any(|count| (1..100).contains(count)) || open.contains(&100), "{open:?}");
    assert!(streams.iter().all(|stream| !stream.is_open()));
    assert!(streams.iter_mut().all(|stream| !stream.read().ends_with("0\r\n\r\n")), "broken off, not ended");
}

#[tokio::test]
async fn a_stream_that_takes_nothing_is_cut() {
    let mut world = World::new(Limits::default()).await;
    let (mut stalled, mut quiet) = (world.open(None).await, world.open(None).await);
    stalled.read();
    quiet.read();
    stalled.wire.state().room = 3;
    world.publish("one").await;
    world.pass(Duration::from_secs(599));
    stalled.wire.state().room = 1;
    world.table.is_writable(stalled.place);
    world.turn();
    world.pass(Duration::from_secs(599));
    assert!(stalled.is_open(), "a byte is progress");
    world.pass(Duration::from_secs(16));
    assert!(!stalled.is_open() && quiet.is_open());
    assert!(quiet.read().contains("one"));
}

#[tokio::test]
async fn a_cursor_beyond_the_log_gets_a_reset_and_what_comes_then_arrives() {
    for positions in ["999", "1+999", "9223372036854775807"] {
        let mut world = World::new(Limits::default()).await;
        world.publish("before").await;
        let mut stream = world.open(Some(positions)).await;
        let reset = world.until(&mut stream, "carillon.reset").await;
        assert!(reset.contains(r#""reason":"ahead""#), "{positions}: {reset}");
        world.publish("after").await;
        let rest = world.until(&mut stream, "after").await;
        assert!(rest.contains("-2\n\n"), "{positions}: {rest}");
    }
}

/// Another node was faster: that is no reason to begin again.
#[tokio::test]
async fn a_cursor_beyond_what_this_node_has_applied_is_resumed() {
    let mut world = World::new(Limits::default()).await;
    let (first, second) =
        (world.append("first", Expiry::Never).await, world.append("second", Expiry::Never).await);
    let mut stream = world.open(Some("1")).await;
    let mut overtaken = world.open(Some("0+2")).await;
    let mut all = world.until(&mut stream, "connected").await;
    let mut all_overtaken = world.until(&mut overtaken, "connected").await;
    while world.table.is_reading() {
        world.turn();
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    for event in [&first, &second] {
        world.apply(event).await;
    }
    world.publish("third").await;
    all += &world.until(&mut stream, "third").await;
    assert!(!all.contains("reset") && !all.contains("first") && all.contains("second"), "{all}");
    all_overtaken += &world.until(&mut overtaken, "third").await;
    let all = all_overtaken;
    assert!(!all.contains("reset") && all.contains("first") && !all.contains("second"), "{all}");
}

/// A slow client may leave it waiting for long.
#[tokio::test]
async fn what_expires_while_it_waits_for_the_socket_does_not_leave() {
    let session = SessionLimits { write_bytes: 1, ..SessionLimits::default() };
    let mut world = World::new(Limits { session, ..Limits::default() }).await;
    let now = world.store.log_state().await.unwrap().now;
    let (far, later) = (Expiry::At(now + 3_600_000), now + 3_600_001);
    let mut live = world.open(None).await;
    live.wire.state().writes = 0;
    for (data, expiry) in [("first", Expiry::Never), ("passing", far), ("last", Expiry::Never)] {
        let event = world.append(data, expiry).await;
        world.apply(&event).await;
    }
    let wire = TestWire::new();
    wire.state().writes = 0;
    let epoch = world.store.log_state().await.unwrap().epoch;
    let wish = Wish { resume: Some(format!("{epoch}-0").parse()), ..Wish::default() };
    let mut replayed = world.start_on(subscription(1, &[]), wish, wire).unwrap();
    for stream in [&mut live, &mut replayed] {
        world.clock.set(now);
        while !world.next_write(stream).await.contains("first") {}
        world.clock.set(later);
        stream.wire.state().writes = usize::MAX;
        let rest = world.until(stream, "last").await;
        assert!(!rest.contains("passing"), "{rest}");
    }
}

/// It may pass a slow listener between two pages, and this node learns of it later.
#[tokio::test]
async fn what_retention_removes_during_a_replay_gets_a_reset() {
    let reads = ReadLimits { replay_events: 1, ..ReadLimits::default() };
    let mut world = World::new(Limits { reads, ..Limits::default() }).await;
    for data in ["first", "second", "third", "fourth"] {
        world.publish(data).await;
    }
    let wire = TestWire::new();
    wire.state().writes = 0;
    let epoch = world.store.log_state().await.unwrap().epoch;
    let wish = Wish { resume: Some(format!("{epoch}-0").parse()), ..Wish::default() };
    let mut stream = world.start_on(subscription(1, &[]), wish, wire).unwrap();
    let mut begin = String::new();
    while !begin.contains("first") {
        begin += &world.next_write(&mut stream).await;
    }
    assert!(!begin.contains("third"), "{begin}");
    let far = world.store.log_state().await.unwrap().now + 1;
    assert_eq!(world.store.remove_before(far, 3).await.unwrap(), 3);
    stream.wire.state().writes = usize::MAX;
    let rest = world.until(&mut stream, "reset").await;
    assert!(rest.contains(r#""reason":"retention""#), "{rest}");
    world.publish("after").await;
    let rest = world.until(&mut stream, "after").await;
    assert!(rest.contains("-5\n\n"), "{rest}");

    assert_eq!(world.store.remove_before(far + 3_600_000, 3).await.unwrap(), 2);
    let mut empty = world.open(Some("1")).await;
    world.until(&mut empty, r#""reason":"retention""#).await;
}

#[tokio::test]
async fn a_replay_of_large_events_reads_no_more_than_it_holds() {
    let reads = ReadLimits { replay_bytes: 3_000, ..ReadLimits::default() };
    let mut world = World::new(Limits { reads, ..Limits::default() }).await;
    for number in 0..20 {
        world.publish(&format!("{number:01000}")).await;
    }
    let limits = |world: &World| -> Vec<u32> {
        let limit = |want: &crate::delivery::backlog::Want| match want {
            crate::delivery::backlog::Want::Replay { limit, .. } => Some(*limit),
            _ => None,
        };
        world.reads_wanted.iter().filter_map(limit).collect()
    };
    let mut stream = world.open(Some("0")).await;
    let mut all = String::new();
    while data_of(&all).len() < 20 {
        all += &world.until(&mut stream, "data").await;
    }
    let wanted = limits(&world);
    assert_eq!(wanted[..2], [200, 2], "as many as were of use");
    assert!(wanted[1..].iter().all(|limit| *limit <= 4), "{wanted:?}: of which 2 are held");
    for data in 0..300 {
        world.publish(&data.to_string()).await;
    }
    world.reads_wanted.clear();
    let mut small = world.open(Some("18")).await;
    let mut all = String::new();
    while data_of(&all).len() < 302 {
        all += &world.until(&mut small, "data").await;
    }
    let wanted = limits(&world);
    assert!(wanted.iter().min() < wanted.last(), "{wanted:?}: it grows again");
}

#[tokio::test]
async fn history_comes_first_and_without_a_cursor() {
    let mut world = World::new(Limits::default()).await;
    for (topic, data) in [("a", "a1"), ("b", "b1"), ("a", "a2"), ("c", "c1"), ("a", "a3")] {
        world.say(topic, data).await;
    }
    world.publish("for everyone").await;
    let mut stream = world.open_with_history(&["a", "b", "empty"], 2);
    world.say("a", "live").await;
    let all = world.until(&mut stream, "live").await;
    assert_eq!(data_of(&all), ["b1", "a2", "a3", "live"]);
    let (before, after) = all.split_once("event: carillon.history\n").unwrap();
    let (data, id) = after.split_once("\nid: ").unwrap();
    assert_eq!(data, "data: {\"complete\":true,\"events\":3}");
    assert!(before.starts_with("event: carillon.connected\n") && !before.contains("id: "), "{before}");
    assert!(id.split('\n').next().unwrap().ends_with("-6"), "{all}");
}

impl World {
    fn open_with_history(&mut self, topics: &[&str], of_each: u32) -> Stream {
        let wish = Wish { history: Some(of_each), ..Wish::default() };
        self.start(subscription(1, topics), wish).unwrap()
    }
}

#[tokio::test]
async fn history_is_bounded_and_says_so() {
    let reads = ReadLimits { history_events: 5, history_bytes: 4_000, ..ReadLimits::default() };
    let mut world = World::new(Limits { reads, ..Limits::default() }).await;
    for number in 0..4 {
        world.say("a", &format!("a{number}")).await;
        world.say("b", &format!("b{number}")).await;
    }
    let mut stream = world.open_with_history(&["a", "b"], 4);
    let all = world.until(&mut stream, "\"complete\":false,\"events\":5").await;
    assert_eq!(data_of(&all), ["b1", "a2", "b2", "a3", "b3"], "the oldest are left out");
    world.say("large", &"x".repeat(3_000)).await;
    world.say("large", &"y".repeat(3_000)).await;
    let mut stream = world.open_with_history(&["a", "large"], 2);
    let all = world.until(&mut stream, "\"complete\":false,\"events\":1").await;
    assert!(all.contains("yyy") && !all.contains("xxx") && !all.contains("\"a3\""), "{all}");
}

/// What comes while the history is read waits, or is replayed from the fence if that is too much.
#[tokio::test]
async fn what_comes_while_history_is_read_follows_it_once() {
    for many in [3, 1_000] {
        let mut world = World::new(Limits::default()).await;
        world.say("a", "before").await;
        let reads = world.reads.clone();
        let mut turns = Vec::new();
        for _ in 0..ReadLimits::default().concurrent_replays {
            turns.push(reads.turn().await);
        }
        let mut stream = world.open_with_history(&["a"], 10);
        let mut expected = vec!["before".to_owned()];
        for number in 0..many {
            expected.push(format!("during {number}"));
            world.say("a", &expected[number + 1]).await;
        }
        drop(turns);
        let all = world.until(&mut stream, expected.last().unwrap()).await;
        assert_eq!(data_of(&all), expected);
        assert_eq!(all.matches("carillon.history").count(), 1);
    }
}

/// Nothing that was put in front of history may carry a cursor, or a reconnect would leave the history out.
#[tokio::test]
async fn a_history_that_cannot_be_read_is_tried_again_and_gives_no_cursor_meanwhile() {
    let reads = ReadLimits { concurrent_replays: 1, ..ReadLimits::default() };
    let mut world = World::new(Limits { reads, ..Limits::default() }).await;
    world.say("a", "said").await;
    let reads = world.reads.clone();
    let turn = reads.turn().await;
    let wish = Wish { history: Some(1), has_heartbeats: true, ..Wish::default() };
    let mut stream = world.start(subscription(1, &["a"]), wish).unwrap();
    let begin = world.until(&mut stream, "carillon.alive").await;
    assert!(begin.contains("\"live\":false") && !begin.contains("id: "), "{begin}");
    let failed = Err(crate::store::StoreError::Unavailable("for a test".into()));
    world.hub.found(0, SessionKey { id: stream.id, place: stream.place }, failed);
    world.turn();
    drop(turn);
    let rest = world.until(&mut stream, "\"live\":true").await;
    assert_eq!(data_of(&rest), ["said"]);
    assert!(world.reads_wanted.len() >= 2, "it was asked again");
    let turn = reads.turn().await;
    let mut cut_off = world.open_with_history(&["a"], 1);
    world.hub.end(&[Credential::Token(1)]);
    let last = world.until(&mut cut_off, "carillon.signout").await;
    assert!(!last.contains("id: "), "{last}");
    drop(turn);
}

/// All are asked to go, one after the other, and those that take nothing are cut.
#[tokio::test]
async fn draining_closes_all_over_a_while() {
    let mut world = World::new(Limits::default()).await;
    let mut streams = Vec::new();
    for user in 0..40 {
        streams.push(world.start(subscription(user, &[]), Wish::default()).unwrap());
    }
    streams[7].wire.state().room = 0;
    world.publish("too much for one").await;
    world.hub.drain(Duration::from_secs(3));
    world.turn();
    let open = |streams: &[Stream]| streams.iter().filter(|stream| stream.is_open()).count();
    let at_first = open(&streams);
    assert!(at_first > 1, "not all at once");
    let begun = Instant::now();
    while open(&streams) > 1 {
        assert!(begun.elapsed() < DEADLINE);
        world.turn();
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(streams[7].is_open());
    world.hub.cut();
    world.turn();
    assert!(!streams[7].is_open() && world.hub.is_empty());
}
