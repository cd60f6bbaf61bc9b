use super::*;
use proptest::prelude::*;

fn epoch() -> Epoch {
    "e".parse().unwrap()
}

fn event(position: Position, audience: Audience) -> Event {
    Event {
        position,
        id: Uuid::now_v7(),
        event_type: "a.b".parse().unwrap(),
        priority: Priority::High,
        audience,
        data: "{\"x\": \"\\n\", \"y\":1e400}".into(),
        created_at: 1_767_225_600_123,
        expires_at: Some(2),
        keep_after_read: Some(5),
        publisher: 1,
    }
}

fn topic(name: &str) -> Topic {
    name.parse().unwrap()
}

/// The writer of a node that knows the epoch, for programs of this form.
fn writer(forms: i32) -> MessageWriter {
    let writer = MessageWriter::new("n1", watch::channel(Some(epoch())).1);
    writer.set_forms(forms);
    writer
}

fn after_append(previous: impl Into<Checkpoint>, events: Vec<Event>) -> Vec<(String, Bytes)> {
    writer(2).after_append(&epoch(), previous, events)
}

fn read(bytes: &[u8]) -> Message {
    Received::decode(bytes).unwrap().message
}

fn announcements(messages: &[(String, Bytes)]) -> Vec<Announcement> {
    let global = messages.iter().filter(|(channel, _)| channel == GLOBAL);
    global.map(|(_, bytes)| if let Message::Announcement(a) = read(bytes) { a } else { panic!() }).collect()
}

fn channels(messages: &[(String, Bytes)]) -> Vec<&str> {
    messages.iter().map(|(channel, _)| channel.as_str()).collect()
}

#[test]
fn every_message_round_trips_and_no_part_of_one_is_a_message() {
    let all = vec![
        event(3, Audience::Everyone),
        event(4, Audience::of(vec![7, 8], vec![topic("room/1")])),
        event(6, Audience::topic(topic("room/1"))),
        event(7, Audience::Everyone),
    ];
    let before = Checkpoint::new(2, Uuid::now_v7());
    let messages = after_append(before, all.clone());
    assert_eq!(channels(&messages), ["user:7", "user:8", "topic:room/1", "topic:room/1", GLOBAL]);
    let received = Received::decode(&messages[0].1).unwrap();
    assert_eq!((&*received.sender, received.epoch), ("n1", Some(epoch())));
    let Message::Copy(copy) = received.message else { panic!() };
    assert_eq!(copy.addressed_to(all[1].audience.clone()), all[1]);
    let header = messages[0].1.split(|byte| *byte == b'\n').next().unwrap();
    assert!(!String::from_utf8_lossy(header).contains("room"), "a copy names no audience");
    let announcement = announcements(&messages).remove(0);
    assert_eq!(announcement.previous(), before);
    assert_eq!(announcement.last(), Checkpoint::new(7, all[3].id));
    assert_eq!(announcement.carried, [all[0].clone(), all[3].clone()]);
    let elsewhere: Vec<_> = all[1..3].iter().map(|event| (event.position, event.audience.clone())).collect();
    assert_eq!(announcement.elsewhere, elsewhere);
    let joined = vec!["alice".into()];
    let presence = Notice::Presence { topic: topic("a"), joined, left: vec![] };
    let ended = Notice::Ended(vec![Credential::Session([9; 32]), Credential::Token(4)]);
    let mut all: Vec<Bytes> = messages.into_iter().map(|(_, bytes)| bytes).collect();
    for notice in [presence, ended].map(Message::Notice) {
        let bytes = writer(2).encode(&notice).unwrap();
        assert_eq!(read(&bytes), notice);
        all.push(bytes);
    }
    for bytes in all {
        for cut in 0..bytes.len() {
            assert_eq!(Received::decode(&bytes[..cut]), Err(Unreadable::Malformed), "cut at {cut}");
        }
        let longer = [&bytes[..], b"x"].concat();
        assert_eq!(Received::decode(&longer), Err(Unreadable::Malformed));
    }
}

#[test]
fn what_a_newer_program_sends_is_distinguished_from_broken_bytes() {
    assert_eq!(Received::decode(b"3 whatever comes then"), Err(Unreadable::Version(3)));
    for broken in [&b""[..], b"2", b"2 ", b"x {}\n", b"-2 {}\n", b"99999999999 {}\n", b"2 {\"sender\":1}\n"] {
        assert_eq!(Received::decode(broken), Err(Unreadable::Malformed), "{broken:?}");
    }
    let newer = b"2 {\"sender\":\"n\",\"later\":[1],\"mac\":3,\"body\":{\"heartbeat\":7}}\nmac";
    assert_eq!(read(newer), Message::Heartbeat(7), "unknown members and a mac are skipped");
    assert_eq!(Received::decode(&newer[..newer.len() - 1]), Err(Unreadable::Malformed));
}

#[test]
fn a_node_knows_its_own_messages_by_how_they_begin() {
    let notice = || Message::Notice(Notice::ReadUpToTakenBack { user: 1 });
    let mut all: Vec<Bytes> = vec![writer(2).encode(&notice()).unwrap()];
    let (of, epoch_unknown) = ("n1", watch::channel(None).1);
    let without_epoch = MessageWriter::new(of, epoch_unknown);
    without_epoch.set_forms(2);
    all.extend([notice(), Message::Heartbeat(7)].iter().map(|m| without_epoch.encode(m).unwrap()));
    let events = vec![event(3, Audience::users(vec![7])), event(4, Audience::Everyone)];
    all.extend(after_append(2, events).into_iter().map(|(_, bytes)| bytes));
    assert_eq!(all.len(), 5);
    for bytes in all {
        assert!(Received::is_from("n1", &bytes), "{bytes:?}");
        for other in ["n", "n11", "n2", ""] {
            assert!(!Received::is_from(other, &bytes), "{bytes:?} is not from {other}");
        }
        assert!(!Received::is_from("n1", &bytes[..15]), "what is cut off");
    }
    // What a publisher writes is no name of a node.
    let data = "{\"sender\":\"n2\"}".into();
    let messages = after_append(2, vec![Event { data, ..event(3, Audience::Everyone) }]);
    assert!(!Received::is_from("n2", &messages[0].1));
    assert!(!Received::is_from("n1", &writer(1).encode(&notice()).unwrap()), "version 1 does not say");
}

#[test]
fn what_a_node_delivers_to_itself_carries_every_event() {
    let all = vec![event(3, Audience::users(vec![7])), event(5, Audience::Everyone)];
    let before = Checkpoint::new(2, Uuid::now_v7());
    let own = writer(1).own_append(&epoch(), before, all.clone());
    assert_eq!((&*own.sender, own.epoch.clone()), ("n1", Some(epoch())));
    assert!(own.size() > all.iter().map(|event| event.data.len()).sum::<usize>());
    let Message::Announcement(announcement) = own.message else { panic!() };
    assert_eq!((announcement.previous(), announcement.last()), (before, Checkpoint::new(5, all[1].id)));
    assert_eq!((announcement.carried, announcement.elsewhere), (all, vec![]));
}

#[test]
fn bytes_of_the_bus_can_neither_end_a_frame_nor_break_a_topic() {
    let bytes = after_append(0, vec![event(1, Audience::topic(topic("a")))]);
    let text = |index: usize| String::from_utf8(bytes[index].1.to_vec()).unwrap();
    for line_break in ["\n", "\r"] {
        let broken = text(0).replace("1e400", &format!("1e40{line_break}"));
        assert_eq!(Received::decode(broken.as_bytes()), Err(Unreadable::Malformed));
    }
    let broken = text(1).replace("[\"a\"]", "[\"a//b\"]");
    assert_ne!(broken, text(1));
    assert_eq!(Received::decode(broken.as_bytes()), Err(Unreadable::Malformed));
}

/// One that fell off the bus took with it what followed in the same append.
#[test]
fn an_event_for_many_is_carried_once() {
    let many = Audience::users((0..1_000).collect());
    let few = Audience::users((0..MAX_COPIES as UserId).collect());
    let all = vec![event(1, many.clone()), event(2, few), event(3, many), event(4, Audience::Everyone)];
    let messages = after_append(0, all.clone());
    assert_eq!(messages.len(), MAX_COPIES + 1);
    let announcement = announcements(&messages).remove(0);
    assert_eq!(announcement.carried, [all[0].clone(), all[2].clone(), all[3].clone()]);
    assert_eq!(announcement.elsewhere, [(2, all[1].audience.clone())]);
}

#[test]
fn each_event_is_judged_by_itself_against_what_is_left() {
    let large = |position, audience| Event { data: "1".repeat(60_000), ..event(position, audience) };
    let many = Audience::users((0..1_000).collect());
    let mut all: Vec<Event> = (1..=50).map(|position| large(position, many.clone())).collect();
    all.push(event(51, Audience::users(vec![1])));
    all.push(event(52, Audience::Everyone));
    let messages = after_append(0, all);
    let sent: usize = messages.iter().map(|(_, bytes)| bytes.len()).sum();
    assert!(sent <= MAX_CARRIED + MAX_COPIED + MAX_NAMED, "{sent} bytes");
    let announcement = announcements(&messages).remove(0);
    let carried: Vec<_> = announcement.carried.iter().map(|event| event.position).collect();
    assert_eq!(carried, (1..=17).chain([52]).collect::<Vec<_>>(), "a small one still fits");
    assert_eq!(announcement.elsewhere.len(), 34, "whom each concerns is named all the same");
    assert_eq!(channels(&messages), ["user:1", GLOBAL]);
    let everyone = (1..=50).map(|position| large(position, Audience::Everyone)).collect();
    let announcement = announcements(&after_append(0, everyone)).remove(0);
    assert_eq!((announcement.carried.len(), announcement.elsewhere.len()), (17, 33));
}

/// Audiences are bounded, too: between two announcements lies what is read from the store.
#[test]
fn what_cannot_be_named_is_a_gap_for_itself_only() {
    let name = |number: usize| topic(&format!("{}/{number}", "x".repeat(240)));
    let many = Audience::of(vec![], (0..1_000).map(name).collect());
    let mut all: Vec<Event> = (1..=6).map(|position| event(position, many.clone())).collect();
    all.insert(5, event(6, Audience::Everyone));
    all[6].position = 7;
    all.push(event(8, many));
    let announced = announcements(&after_append(0, all));
    let spans: Vec<_> = announced.iter().map(|a| (a.previous, a.last)).collect();
    assert!(
        spans.len() > 1 && spans[spans.len() - 1] == (8, 8),
        "{spans:?}: the last shows the gap before it"
    );
    let positions: Vec<_> = announced.iter().flat_map(|a| &a.carried).map(|event| event.position).collect();
    assert!(positions.contains(&6) && !positions.contains(&7), "{positions:?}");
    assert!(spans.windows(2).all(|pair| pair[0].1 < pair[1].0), "{spans:?}");
    assert!(
        announced.iter().all(|a| a.previous == 0 || a.previous_id.is_some()),
        "each says what it follows"
    );
}

#[test]
fn an_event_holds_nothing_of_what_came_with_it() {
    let all = vec![event(1, Audience::Everyone), event(2, Audience::Everyone)];
    let (_, bytes) = after_append(0, all).remove(0);
    let Message::Announcement(announcement) = read(&bytes) else { panic!() };
    assert!(bytes.is_unique(), "an event shares the announcement's bytes");
    assert_eq!(announcement.carried[0].data.capacity(), announcement.carried[0].data.len());
}

/// What programs of version 1 read and write.
#[test]
fn version_1_is_written_while_such_programs_run() {
    let all = vec![event(3, Audience::Everyone), event(4, Audience::users(vec![7]))];
    let messages = writer(1).after_append(&epoch(), 2, all.clone());
    assert_eq!(channels(&messages), ["user:7", GLOBAL]);
    let text = String::from_utf8(messages[0].1.to_vec()).unwrap();
    let head = r#"{"payload":{"position":4,"event_type":"a.b","priority":"high","audience":{"users":[7]},"expires_at":2}}"#;
    assert!(
        text.starts_with(&format!("{head}\nid: e-4\ndata: {{\"id\":")) && text.ends_with("}\n\n"),
        "{text}"
    );
    let text = String::from_utf8(messages[1].1.to_vec()).unwrap();
    let head = r#"{"announcement":{"epoch":"e","previous":2,"last":4,"elsewhere":[[4,{"users":[7]}]],"carried":[[{"position":3,"#;
    assert!(text.starts_with(head), "{text}");
    let without = |event: &Event| Event { publisher: 0, keep_after_read: None, ..event.clone() };
    let Message::Copy(copy) = read(&messages[0].1) else { panic!() };
    assert_eq!(copy.addressed_to(all[1].audience.clone()), without(&all[1]));
    assert_eq!(announcements(&messages)[0].carried, [without(&all[0])]);
    let presence = Notice::Presence { topic: topic("a"), joined: vec!["alice".into()], left: vec![] };
    let bytes = writer(1).encode(&Message::Notice(presence.clone())).unwrap();
    assert_eq!(
        bytes,
        r#"{"notice":{"presence":{"topic":"a","node":"n1","joined":["alice"],"left":[]}}}"#.to_owned() + "\n"
    );
    let received = Received::decode(&bytes).unwrap();
    assert_eq!((&*received.sender, received.message), ("n1", Message::Notice(presence)));
    let mixed = Audience::of(vec![7], vec![topic("a")]);
    let mixed = writer(1).after_append(&epoch(), 2, vec![event(3, mixed)]);
    assert_eq!(mixed, [], "it cannot be said in version 1");
    for (_, bytes) in messages {
        for cut in 0..bytes.len() {
            assert_eq!(Received::decode(&bytes[..cut]), Err(Unreadable::Malformed), "cut at {cut}");
        }
    }
}

fn any_event() -> impl Strategy<Value = Event> {
    let audience =
        (prop::collection::vec(0..99i64, 0..4), prop::collection::vec("[a-z]{1,5}(/[a-z]{1,3})?", 0..3));
    let times = (any::<i32>(), any::<Option<i32>>(), any::<Option<i32>>());
    let text = ("[A-Za-z0-9._-]{1,64}", "[^\r\n]{0,60}", any::<u128>());
    (audience, times, text, 0..4i16).prop_map(|((users, topics), times, (event_type, data, id), priority)| {
        let topics: Vec<Topic> = topics.iter().map(|name| topic(name)).collect();
        let is_for_all = users.is_empty() && topics.is_empty();
        Event {
            position: 0,
            id: Uuid::from_u128(id),
            event_type: event_type.parse().unwrap_or_else(|_| "a".parse().unwrap()),
            priority: Priority::from_number(priority),
            audience: if is_for_all { Audience::Everyone } else { Audience::of(users, topics) },
            data,
            created_at: times.0.into(),
            expires_at: times.1.map(Into::into),
            keep_after_read: times.2.map(Into::into),
            publisher: 3,
        }
    })
}

proptest! {
    /// Every event arrives as it was, byte for byte, by its copies or in the announcement.
    #[test]
    fn random_events_arrive_as_they_were(mut events in prop::collection::vec(any_event(), 1..8)) {
        for (event, position) in events.iter_mut().zip(5..) {
            event.position = position;
        }
        let messages = after_append(4, events.clone());
        let announcement = announcements(&messages).remove(0);
        let mut arrived = announcement.carried;
        for (position, audience) in announcement.elsewhere {
            let copies = messages.iter().filter_map(|(_, bytes)| match read(bytes) {
                Message::Copy(copy) if copy.position == position => Some(copy),
                _ => None,
            });
            let copies: Vec<_> = copies.collect();
            prop_assert_eq!(copies.len(), audience.targets());
            arrived.push(copies[0].clone().addressed_to(audience));
        }
        arrived.sort_by_key(|event| event.position);
        prop_assert_eq!(arrived, events);
    }

    /// Whatever comes over the bus, a node goes on.
    #[test]
    fn no_bytes_make_a_node_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        events in prop::collection::vec(any_event(), 1..3),
        forms in 1..3i32,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let _ = Received::decode(&bytes);
        let _ = Received::decode(&[b"2 ", &bytes[..]].concat());
        for (_, bytes) in writer(forms).after_append(&epoch(), 0, events) {
            let mut bytes = bytes.to_vec();
            for (index, byte) in &changes {
                let at = index.index(bytes.len());
                bytes[at] = *byte;
            }
            let _ = Received::decode(&bytes);
        }
    }
}
