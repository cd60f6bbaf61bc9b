//! What sockets take, in pieces of any size, and what overtakes what waits.

use super::*;
use crate::delivery::hub::Registration;
use crate::event::Cursor;

/// A stream in chunks, put together; `None`: not to its last chunk.
fn unchunked(mut bytes: &[u8]) -> (String, bool) {
    let mut text = Vec::new();
    while let Some(end) = bytes.windows(2).position(|pair| pair == b"\r\n") {
        let size = usize::from_str_radix(std::str::from_utf8(&bytes[..end]).unwrap(), 16).unwrap();
        let rest = &bytes[end + 2..];
        if size == 0 {
            assert_eq!(rest, b"\r\n");
            return (String::from_utf8(text).unwrap(), true);
        }
        text.extend_from_slice(&rest[..size]);
        assert_eq!(&rest[size..size + 2], b"\r\n");
        bytes = &rest[size + 2..];
    }
    assert!(bytes.is_empty());
    (String::from_utf8(text).unwrap(), false)
}

/// Whatever the socket takes at once: nothing is lost, repeated or torn.
#[tokio::test]
async fn a_stream_is_whole_wherever_its_writes_are_cut() {
    let mut lengths = Vec::new();
    for cut in 1..400 {
        let mut world = World::new(Limits::default()).await;
        world.framing = Framing::Chunked;
        let wire = TestWire::new();
        wire.state().room = cut;
        let stream = world.start_on(subscription(1, &[]), Wish::default(), wire).unwrap();
        let delivery = |position| {
            let event = Event {
                position,
                id: Uuid::nil(),
                event_type: "a".parse().unwrap(),
                priority: Priority::Normal,
                audience: Audience::Everyone,
                data: format!("\"{position}\""),
                created_at: 0,
                expires_at: None,
                keep_after_read: None,
                publisher: 1,
            };
            Arc::new(Delivery::new(&"e".parse().unwrap(), event))
        };
        for position in 1..=3 {
            let routes = vec![(position, Audience::Everyone)];
            world.hub.lock().apply(vec![delivery(position)], Some(routes), position);
            world.turn();
        }
        // Byte by byte from there on, then all.
        for _ in 0..5 {
            stream.wire.state().room = 1;
            world.table.is_writable(stream.place);
            world.turn();
        }
        stream.wire.state().room = usize::MAX;
        world.table.is_writable(stream.place);
        world.turn();
        assert_eq!(world.table.unsent(), 0);
        world.hub.end(&[Credential::Token(1)]);
        world.turn();
        let (text, is_ended) = unchunked(&stream.wire.state().written);
        assert_eq!(data_of(&text), ["1", "2", "3"], "cut after {cut} bytes");
        assert!(is_ended && !stream.is_open(), "signed out for good");
        lengths.push(text.len());
    }
    lengths.dedup();
    assert_eq!(lengths.len(), 1, "the same wherever it was cut");
}

#[tokio::test]
async fn a_socket_that_breaks_closes_or_says_too_much_ends_its_stream() {
    let mut world = World::new(Limits::default()).await;
    let mut open = Vec::new();
    for user in 1..=4 {
        open.push(world.start(subscription(user, &[]), Wish::default()).unwrap());
    }
    open[0].wire.state().is_broken = true;
    open[1].wire.state().is_half_closed = true;
    open[2].wire.state().sent = vec![b'x'; 64 * 1024 + 1];
    open[3].wire.state().sent = vec![b'x'; 1_000];
    for place in open.iter().map(|stream| stream.place).collect::<Vec<_>>() {
        world.table.is_readable(place);
    }
    world.publish("for those who are left").await;
    let left: Vec<bool> = open.iter().map(Stream::is_open).collect();
    assert_eq!(left, [false, false, false, true]);
    assert!(open[3].read().contains("for those who are left"));
    assert_eq!(world.hub.len(), 1);
}

/// More than may wait is forgotten and read again.
#[tokio::test]
async fn who_is_too_slow_catches_up_from_the_store() {
    let session = SessionLimits { queue_events: 5, ..SessionLimits::default() };
    let mut world = World::new(Limits { session, ..Limits::default() }).await;
    let (mut slow, mut fast) = (world.open(None).await, world.open(None).await);
    slow.wire.state().room = 10;
    let mut expected = Vec::new();
    for number in 0..50 {
        expected.push(number.to_string());
        world.publish(&number.to_string()).await;
    }
    assert_eq!(data_of(&fast.read()), expected);
    assert!(world.reads_wanted.is_empty(), "nothing is read before the socket takes something");
    slow.wire.state().room = usize::MAX;
    let all = world.until(&mut slow, "\"49\"").await;
    assert_eq!(data_of(&all), expected, "{all}");
}

/// The urgent leaves with the next write, whatever waits or is yet to be read before it.
#[tokio::test]
async fn the_urgent_overtakes_what_waits_and_what_is_yet_to_be_read() {
    for is_behind in [false, true] {
        let session = SessionLimits { queue_events: 20, write_bytes: 1, ..SessionLimits::default() };
        let reads = ReadLimits { replay_events: 10, ..ReadLimits::default() };
        let mut world = World::new(Limits { session, reads, ..Limits::default() }).await;
        let mut stream = world.open(None).await;
        stream.read();
        stream.wire.state().room = 0;
        let many = if is_behind { 200 } else { 10 };
        for number in 0..many {
            world.publish(&format!("n{number}")).await;
        }
        stream.wire.state().room = usize::MAX;
        stream.wire.state().writes = 0;
        let mut all = world.next_write(&mut stream).await;
        let first_ones = data_of(&all).len();
        world.publish_as("urgent", Priority::Urgent).await;
        all += &world.next_write(&mut stream).await;
        if !all.contains("urgent") {
            // What the socket was given before comes first.
            all += &world.next_write(&mut stream).await;
        }
        assert!(all.contains("urgent"), "{is_behind} {first_ones}: {all}");
        let cursor = all.rsplit("id: ").next().unwrap().trim().parse::<Cursor>().unwrap();
        assert_eq!(cursor.overtaken.len(), 1, "{cursor}");
        // Broken off here and resumed, the rest comes, and nothing twice.
        let seen: Vec<String> = data_of(&all).iter().map(|data| (*data).to_owned()).collect();
        let wish = Wish { resume: Some(Ok(cursor)), ..Wish::default() };
        let mut resumed = world.start(subscription(1, &[]), wish).unwrap();
        let last = format!("\"n{}\"", many - 1);
        let rest = world.until(&mut resumed, &last).await;
        stream.wire.state().writes = usize::MAX;
        let on = world.until(&mut stream, &last).await;
        for rest in [rest, on] {
            let mut got: Vec<String> = data_of(&rest).iter().map(|data| (*data).to_owned()).collect();
            got.extend(seen.iter().cloned());
            got.sort_unstable();
            let mut expected: Vec<String> = (0..many).map(|number| format!("n{number}")).collect();
            expected.push("urgent".into());
            expected.sort_unstable();
            assert_eq!(got, expected, "{is_behind}: {rest}");
        }
    }
}

/// However many urgent ones come, a cursor names no more than it may.
#[tokio::test]
async fn so_many_overtake_and_no_more() {
    let session = SessionLimits { queue_events: 20, write_bytes: 1, ..SessionLimits::default() };
    let reads = ReadLimits { replay_events: 10, ..ReadLimits::default() };
    let mut world = World::new(Limits { session, reads, ..Limits::default() }).await;
    let mut stream = world.open(None).await;
    stream.read();
    stream.wire.state().room = 0;
    let mut expected = Vec::new();
    for number in 0..100 {
        let priority = if number % 2 == 0 { Priority::Normal } else { Priority::Urgent };
        expected.push(number.to_string());
        world.publish_as(&number.to_string(), priority).await;
    }
    stream.wire.state().room = usize::MAX;
    let mut all = String::new();
    while data_of(&all).len() < 100 {
        all += &world.until(&mut stream, "data").await;
    }
    let cursors = all.lines().filter_map(|line| line.strip_prefix("id: "));
    let most = cursors.map(|id| id.parse::<Cursor>().unwrap().overtaken.len()).max().unwrap();
    assert!(most > 5 && most <= Cursor::MAX_OVERTAKEN, "{most}");
    let mut got: Vec<String> = data_of(&all).iter().map(|data| (*data).to_owned()).collect();
    got.sort_by_key(|data| data.parse::<u32>().unwrap());
    assert_eq!(got, expected);
}

/// A registration is a part of the hub for as long as it lives, however its stream ends.
#[tokio::test]
async fn nothing_is_left_of_streams_that_came_and_went() {
    let mut world = World::new(Limits::default()).await;
    let kept: Registration = world.hub.admit(&subscription(9, &["kept"])).unwrap();
    for round in 0..200 {
        let stream = world.start(subscription(round % 7, &["a", "b"]), Wish::default()).unwrap();
        world.table.remove(stream.place);
    }
    assert_eq!((world.table.len(), world.hub.len()), (0, 1));
    let concerns = |audience: Audience| world.hub.lock().concerns(&audience);
    assert!(!concerns(Audience::users((0..7).collect())) && !concerns(Audience::topic("a".parse().unwrap())));
    assert!(concerns(Audience::topic("kept".parse().unwrap())));
    drop(kept);
    assert!(!world.hub.lock().concerns(&Audience::Everyone));
}
