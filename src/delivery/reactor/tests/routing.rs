//! Who gets what.

use super::*;
use crate::delivery::frame::ServerEvent;
use crate::delivery::hub::Interest as Wanted;
use crate::event::{Checkpoint, Cursor, Epoch};

impl World {
    fn join(&mut self, user: UserId) -> Stream {
        let mut stream = self.start(subscription(user, &[]), Wish::default()).unwrap();
        stream.read();
        stream
    }

    /// Hands an event on that only this node knows.
    fn route(&mut self, position: Position, audience: Audience, priority: Priority) {
        let event = Event {
            position,
            id: Uuid::now_v7(),
            event_type: "a".parse().unwrap(),
            priority,
            audience: audience.clone(),
            data: format!("\"{position}\""),
            created_at: 0,
            expires_at: None,
            keep_after_read: None,
            publisher: 1,
        };
        let delivery = Arc::new(Delivery::new(&epoch(), event));
        self.hub.lock().apply(vec![delivery], Some(vec![(position, audience)]), position);
        self.turn();
    }

    fn fence_of(&mut self, user: UserId, cursor: &str) -> Fence {
        let registration = self.hub.admit(&subscription(user, &[])).unwrap();
        let wish = Wish { resume: Some(cursor.parse()), ..Wish::default() };
        self.turn();
        self.hub.start(subscription(user, &[]), wish, registration, taken());
        let fence = self.inbox.take().into_iter().find_map(|message| match message {
            Message::Start(start) => Some(start.fence.clone()),
            _ => None,
        });
        fence.unwrap()
    }

    fn has_missed(&mut self, user: UserId, cursor: &str) -> bool {
        !self.fence_of(user, cursor).missed_nothing
    }
}

fn epoch() -> Epoch {
    "e".parse().unwrap()
}

/// With a history of its own, in which ten positions were applied.
async fn world(limits: Limits) -> World {
    let mut world = World::new(limits).await;
    world.hub.lock().begin(&epoch(), 0, 10);
    world.turn();
    world
}

#[tokio::test]
async fn events_reach_only_whom_they_are_for() {
    let mut world = world(Limits::default()).await;
    let (mut one, mut two) = (world.join(1), world.join(2));
    let mut topics = world.start(subscription(3, &["t", "u"]), Wish::default()).unwrap();
    topics.read();
    world.route(11, Audience::users(vec![1]), Priority::Normal);
    world.route(12, Audience::Everyone, Priority::Normal);
    world.route(13, Audience::topic("t".parse().unwrap()), Priority::Normal);
    let many = Audience::of(vec![1, 3], vec!["t".parse().unwrap(), "u".parse().unwrap()]);
    world.route(14, many, Priority::Normal);
    assert_eq!(data_of(&one.read()), ["11", "12", "14"]);
    assert_eq!(data_of(&two.read()), ["12"]);
    assert_eq!(data_of(&topics.read()), ["12", "13", "14"], "each once");
}

#[tokio::test]
async fn a_filter_is_applied_before_anything_waits() {
    let mut world = world(Limits::default()).await;
    let mut high = subscription(1, &[]);
    Arc::get_mut(&mut high.reader).unwrap().selector.min_priority = Some(Priority::High);
    let mut stream = world.start(high, Wish::default()).unwrap();
    world.route(11, Audience::Everyone, Priority::Normal);
    world.route(12, Audience::Everyone, Priority::Urgent);
    assert_eq!(data_of(&stream.read()), ["12"]);
}

#[tokio::test]
async fn who_missed_nothing_is_known_here() {
    let hub = HubLimits { ring: 2, ..HubLimits::default() };
    let mut world = world(Limits { hub, ..Limits::default() }).await;
    world.route(11, Audience::users(vec![1]), Priority::Normal);
    world.route(12, Audience::users(vec![2]), Priority::Normal);
    assert!(!world.has_missed(1, "e-11") && world.has_missed(1, "e-10"));
    assert!(!world.has_missed(3, "e-10") && world.has_missed(2, "e-11"));
    assert!(world.has_missed(1, "e-10+11"), "what was sent ahead is asked of the store");
    world.route(13, Audience::users(vec![9]), Priority::Normal);
    assert!(world.has_missed(3, "e-10"), "beyond what is remembered nothing is known");
    assert!(!world.has_missed(1, "e-11"), "what was forgotten does not count any more");
    world.route(14, Audience::Everyone, Priority::Normal);
    assert!(world.has_missed(1, "e-13") && !world.has_missed(1, "e-14"));
}

#[tokio::test]
async fn what_is_remembered_is_bounded_in_recipients_too() {
    let hub = HubLimits { ring: 100, ring_recipients: 10, ..HubLimits::default() };
    let mut world = world(Limits { hub, ..Limits::default() }).await;
    for position in 11..=20 {
        world.route(position, Audience::users(vec![1, 2, 3, 4]), Priority::Normal);
    }
    assert!(!world.has_missed(9, "e-18") && world.has_missed(9, "e-17"));
    world.hub.lock().apply(Vec::new(), None, 30);
    for position in 31..=32 {
        world.route(position, Audience::users(vec![1, 2, 3, 4]), Priority::Normal);
    }
    assert!(!world.has_missed(9, "e-30") && world.has_missed(9, "e-29"), "what was cleared no longer counts");
}

#[tokio::test]
async fn who_begins_during_a_read_reads_that_far_itself() {
    let mut world = world(Limits::default()).await;
    world.hub.lock().reading(20);
    assert_eq!(world.fence_of(1, "e-10").at.position, 20);
    let mut stream = world.join(1);
    let epoch = epoch();
    let event = |position| {
        let event = Event { position, ..plain_event() };
        Arc::new(Delivery::new(&epoch, event))
    };
    world.hub.lock().apply(vec![event(15)], None, 20);
    world.turn();
    assert_eq!(stream.read(), "", "it has begun behind it");
    world.hub.lock().apply(vec![event(21)], None, 21);
    world.turn();
    assert!(stream.read().contains("e-21\n"));
}

fn plain_event() -> Event {
    Event {
        position: 0,
        id: Uuid::now_v7(),
        event_type: "a".parse().unwrap(),
        priority: Priority::Normal,
        audience: Audience::Everyone,
        data: "1".into(),
        created_at: 0,
        expires_at: None,
        keep_after_read: None,
        publisher: 1,
    }
}

#[tokio::test]
async fn what_was_read_up_to_here_no_longer_waits_for_its_reader() {
    let mut world = world(Limits::default()).await;
    let (mut reader, mut other) = (world.join(1), world.join(2));
    for stream in [&reader, &other] {
        stream.wire.state().room = 0;
    }
    // What the socket was once given cannot be taken back.
    for position in 11..=14 {
        world.route(position, Audience::Everyone, Priority::Normal);
    }
    world.hub.lock().forget_up_to(1, 13);
    world.hub.lock().forget(&Audience::Everyone, 12);
    for stream in [&reader, &other] {
        stream.wire.state().room = usize::MAX;
    }
    let all = world.until(&mut reader, "\"14\"").await;
    assert_eq!(data_of(&all), ["11", "14"]);
    let all = world.until(&mut other, "\"14\"").await;
    assert_eq!(data_of(&all), ["11", "13", "14"]);
}

/// The notice may be faster than the event: they come from different nodes.
#[tokio::test]
async fn what_was_taken_back_before_it_came_is_not_delivered() {
    let mut world = world(Limits::default()).await;
    let mut early = world.join(1);
    world.hub.lock().retract(&Audience::Everyone, 12);
    let mut late = world.join(2);
    for position in 11..=13 {
        world.route(position, Audience::Everyone, Priority::Normal);
    }
    assert_eq!((data_of(&early.read()), data_of(&late.read())), (vec!["11", "13"], vec!["11", "13"]));
    for position in 100..10_000 {
        world.hub.lock().retract(&Audience::Everyone, position);
    }
    world.route(99, Audience::Everyone, Priority::Normal);
    world.route(9_999, Audience::Everyone, Priority::Normal);
    assert_eq!(data_of(&early.read()), ["99", "9999"], "so many are not remembered");
}

#[tokio::test]
async fn interest_is_reported_once_for_the_first_and_the_last() {
    let reported = Arc::new(Mutex::new(Vec::new()));
    let log = reported.clone();
    let (_poll, inbox) = inbox().unwrap();
    let hub = Hub::new(&HubLimits::default(), vec![inbox], move |i| log.lock().unwrap().push(i));
    let hub = Arc::new(hub);
    assert_eq!(hub.admit(&subscription(1, &[])).unwrap_err(), Refused::NotReady);
    hub.lock().begin(&epoch(), 0, 0);
    let (a, b) = (hub.admit(&subscription(1, &["t"])).unwrap(), hub.admit(&subscription(1, &[])).unwrap());
    assert_eq!(hub.len(), 2);
    drop(a);
    drop(b);
    let (user, topic) =
        (|wanted| Wanted::User(1, wanted), |wanted| Wanted::Topic("t".parse().unwrap(), wanted));
    assert_eq!(*reported.lock().unwrap(), [user(true), topic(true), topic(false), user(false)]);
    assert!(hub.is_empty());
}

#[tokio::test]
async fn streams_of_one_user_are_bounded() {
    let hub = HubLimits { streams_per_user: 1, ..HubLimits::default() };
    let mut world = world(Limits { hub, ..Limits::default() }).await;
    let first = world.join(1);
    let refused = world.start(subscription(1, &[]), Wish::default()).err();
    assert_eq!(refused, Some(Refused::TooManyStreams));
    world.join(2);
    first.wire.state().is_half_closed = true;
    world.table.is_readable(first.place);
    world.join(1);
}

/// Who was ended is found by their credential, and nobody else ends.
#[tokio::test]
async fn a_credential_ends_its_streams() {
    let mut world = world(Limits::default()).await;
    let mut streams: Vec<Stream> = (1..=3).map(|user| world.join(user)).collect();
    let second = world.join(2);
    assert_eq!(world.credentials(None).await, [1, 2, 3].map(Credential::Token));
    world.hub.end(&[Credential::Token(2), Credential::Token(77)]);
    world.turn();
    let ended: Vec<bool> = streams.iter().map(|stream| !stream.is_open()).collect();
    assert_eq!((ended, second.is_open()), (vec![false, true, false], false));
    assert!(streams[1].read().starts_with("event: carillon.signout\n"));
    assert_eq!(world.credentials(Some(Credential::Token(1))).await, [Credential::Token(3)]);
}

impl World {
    async fn credentials(&mut self, last: Option<Credential>) -> Vec<Credential> {
        let hub = self.hub.clone();
        let asked = tokio::spawn(async move { hub.credentials_after(last).await });
        while !asked.is_finished() {
            self.turn();
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        asked.await.unwrap()
    }
}

/// A stream that does not know who is there, or lost it with what waited, gets that before any change.
#[tokio::test]
async fn changes_of_presence_go_to_those_who_know_who_is_there() {
    let session = SessionLimits { queue_events: 2, ..SessionLimits::default() };
    let mut world = World::new(Limits { session, ..Limits::default() }).await;
    let topic: Topic = "a".parse().unwrap();
    let watching = |user, wants_presence| Subscription { wants_presence, ..subscription(user, &["a"]) };
    let mut watches = world.start(watching(1, true), Wish::default()).unwrap();
    let mut silent = world.start(watching(2, false), Wish::default()).unwrap();
    let key = SessionKey { id: watches.id, place: watches.place };
    let reader = subscription(1, &["a"]).reader;
    let body = |who: &str| vec![Arc::new(ServerEvent::join(&topic, who))];
    let changes = world.hub.take_presence();
    assert_eq!(changes.topics.iter().collect::<Vec<_>>(), [&topic]);
    assert_eq!(changes.unaware.keys().collect::<Vec<_>>(), [&key]);
    let here = world.hub.here_on(&topic);
    assert_eq!(here.users.keys().map(|name| &**name).collect::<Vec<_>>(), ["user 1", "user 2"]);
    assert!(here.is_watched);
    world.hub.notify_presence(&topic, &body("too early"));
    world.hub.begin_presence(key, &reader, body("who is there"));
    world.hub.notify_presence(&topic, &body("a change"));
    world.turn();
    let users = |text: &str| -> Vec<String> {
        let named = text.split("\"user\":\"").skip(1);
        named.map(|rest| rest.split('"').next().unwrap().to_owned()).collect()
    };
    assert_eq!(users(&watches.read()), ["who is there", "a change"]);
    assert!(users(&silent.read()).is_empty());

    watches.wire.state().room = 0;
    world.publish("what fills the socket").await;
    (0..4).for_each(|_| world.hub.notify_presence(&topic, &body("too much")));
    world.turn();
    assert!(world.hub.take_presence().unaware.is_empty(), "not before its socket takes something");
    world.hub.begin_presence(key, &reader, body("in vain"));
    watches.wire.state().room = usize::MAX;
    world.table.is_writable(watches.place);
    world.turn();
    world.hub.notify_presence(&topic, &body("a change that means nothing now"));
    world.turn();
    let changes = world.hub.take_presence();
    assert!(changes.topics.is_empty() && changes.unaware.contains_key(&key));
    world.hub.begin_presence(key, &reader, body("who is there now"));
    let all = world.until(&mut watches, "who is there now").await;
    assert!(!all.contains("nothing now") && !all.contains("in vain"), "{all}");
    world.table.remove(watches.place);
    let changes = world.hub.take_presence();
    assert!(changes.topics.contains(&topic) && changes.unaware.is_empty());
    assert_eq!(world.hub.here_on(&topic).users.len(), 1);
}

/// A history that begins ends all streams: they come back and are told.
#[tokio::test]
async fn a_new_history_ends_every_stream_so_that_it_comes_back() {
    let mut world = World::new(Limits::default()).await;
    world.framing = Framing::Chunked;
    let (mut one, two) = (world.join(1), world.join(2));
    world.hub.lock().begin(&"other".parse().unwrap(), 0, Checkpoint::from(3));
    world.turn();
    assert!(!one.is_open() && !two.is_open());
    assert_eq!(one.read(), "", "not even the end of the body");
    let cursor: Cursor = "e-2".parse().unwrap();
    let wish = Wish { resume: Some(Ok(cursor)), ..Wish::default() };
    let mut back = world.start(subscription(1, &[]), wish).unwrap();
    assert!(back.read().contains(r#""reason":"epoch""#));
}
