use super::*;
use crate::event::Selector;
use crate::event::{Event, Priority};
use crate::store::Reader;
use futures_util::task::noop_waker;
use std::task::{Context, Poll};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

fn epoch() -> Epoch {
    "e".parse().unwrap()
}

fn event(position: Position, audience: Audience, priority: Priority) -> Arc<Delivery> {
    let event = Event {
        position,
        id: Uuid::now_v7(),
        event_type: "a".parse().unwrap(),
        priority,
        audience,
        data: "1".into(),
        created_at: 0,
        expires_at: None,
        keep_after_read: None,
        publisher: 1,
    };
    Arc::new(Delivery::new(&epoch(), event))
}

fn hub(limits: HubLimits) -> Hub {
    let hub = Hub::new(limits, |_| {});
    hub.lock().begin(&epoch(), 0, 10);
    hub
}

fn wish(user: UserId) -> Subscription {
    Subscription {
        reader: Reader { user, selector: Selector::of_user(user, vec![]) },
        name: "alice".into(),
        wants_presence: false,
        keep_alive_every: None,
        credential: Credential::Token(user),
        connection: CancellationToken::new(),
    }
}

fn join(hub: &Hub, user: UserId) -> (Arc<Listener>, Fence) {
    hub.register(wish(user), None).unwrap()
}

fn take(listener: &Listener) -> Vec<Position> {
    match listener.poll_take(&mut Context::from_waker(&noop_waker()), true) {
        Poll::Ready(QueueRead::Items(items)) => items
            .iter()
            .filter_map(|i| if let QueueItem::Event(e) = i { Some(e.position()) } else { None })
            .collect(),
        Poll::Ready(QueueRead::Lagged) => vec![-1],
        _ => vec![],
    }
}

fn apply(hub: &Hub, event: &Arc<Delivery>) {
    let routes = vec![(event.position(), event.event().audience.clone())];
    hub.lock().apply(std::slice::from_ref(event), Some(routes), event.position());
}

#[test]
fn events_reach_only_whom_they_are_for() {
    let hub = hub(HubLimits::default());
    let (one, two) = (join(&hub, 1).0, join(&hub, 2).0);
    apply(&hub, &event(11, Audience::users(vec![1]), Priority::Normal));
    apply(&hub, &event(12, Audience::Everyone, Priority::Normal));
    apply(&hub, &event(13, Audience::topic("t".parse().unwrap()), Priority::Normal));
    assert_eq!((take(&one), take(&two)), (vec![11, 12], vec![12]));
}

#[test]
fn a_filter_is_applied_before_the_queue() {
    let hub = hub(HubLimits::default());
    let mut high = wish(1);
    high.reader.selector.min_priority = Some(Priority::High);
    let (listener, _) = hub.register(high, None).unwrap();
    apply(&hub, &event(11, Audience::Everyone, Priority::Normal));
    apply(&hub, &event(12, Audience::Everyone, Priority::Urgent));
    assert_eq!(take(&listener), [12]);
}

#[test]
fn an_overrun_queue_is_emptied_and_resumes_from_a_new_fence() {
    let hub = hub(HubLimits { queue_events: 3, ..HubLimits::default() });
    let (slow, _) = join(&hub, 1);
    let (fast, _) = join(&hub, 2);
    for position in 11..=14 {
        apply(&hub, &event(position, Audience::Everyone, Priority::Normal));
        assert_eq!(take(&fast), [position]);
    }
    assert_eq!(take(&slow), [-1]);
    assert_eq!(slow.queue_len(), 0, "a lagging listener costs no memory");
    let fence = hub.fence(&slow, &Cursor::at(epoch(), 10));
    assert_eq!((fence.at.position, fence.missed_nothing), (14, false));
    apply(&hub, &event(15, Audience::Everyone, Priority::Normal));
    assert_eq!(take(&slow), [15]);
}

#[test]
fn the_ring_shows_who_missed_nothing() {
    let hub = hub(HubLimits { ring: 2, ..HubLimits::default() });
    apply(&hub, &event(11, Audience::users(vec![1]), Priority::Normal));
    apply(&hub, &event(12, Audience::users(vec![2]), Priority::Normal));
    let missed = |user, cursor: &str| {
        let cursor: Cursor = cursor.parse().unwrap();
        let registered = hub.register(wish(user), Some(&cursor));
        !registered.unwrap().1.missed_nothing
    };
    assert!(!missed(1, "e-11") && missed(1, "e-10") && !missed(3, "e-10") && missed(2, "e-11"));
    assert!(!missed(1, "e-10+11"), "sent ahead is not missed");
    apply(&hub, &event(13, Audience::users(vec![9]), Priority::Normal));
    assert!(missed(3, "e-10"), "beyond the ring nothing is known");
}

#[test]
fn the_ring_is_bounded_in_recipients_too() {
    let hub = hub(HubLimits { ring: 100, ring_recipients: 10, ..HubLimits::default() });
    for position in 11..=20 {
        apply(&hub, &event(position, Audience::users(vec![1, 2, 3, 4]), Priority::Normal));
    }
    assert_eq!(hub.lock().routing.ring.len(), 2);
    let missed = |cursor: &str| {
        let cursor: Cursor = cursor.parse().unwrap();
        !hub.register(wish(9), Some(&cursor)).unwrap().1.missed_nothing
    };
    assert!(!missed("e-18") && missed("e-17"));
    hub.lock().apply(&[], None, 30);
    for position in 31..=32 {
        apply(&hub, &event(position, Audience::users(vec![1, 2, 3, 4]), Priority::Normal));
    }
    assert_eq!(hub.lock().routing.ring.len(), 2, "what was cleared no longer counts");
}

#[test]
fn who_registers_during_a_read_replays_that_far() {
    let hub = hub(HubLimits::default());
    hub.lock().reading(20);
    let (listener, fence) = join(&hub, 1);
    assert_eq!(fence.at.position, 20);
    hub.lock().apply(&[event(15, Audience::Everyone, Priority::Normal)], None, 20);
    assert!(take(&listener).is_empty(), "it replays 15 itself");
    apply(&hub, &event(21, Audience::Everyone, Priority::Normal));
    assert_eq!(take(&listener), [21]);
}

#[test]
fn what_was_read_up_to_here_no_longer_waits_for_its_reader() {
    let hub = hub(HubLimits::default());
    let (reader, other) = (join(&hub, 1).0, join(&hub, 2).0);
    for position in 11..=13 {
        apply(&hub, &event(position, Audience::Everyone, Priority::Normal));
    }
    hub.lock().forget_up_to(1, 12);
    assert_eq!((take(&reader), take(&other)), (vec![13], vec![11, 12, 13]));
}

/// The notice may be faster than the event: they come from different nodes.
#[test]
fn what_was_taken_back_before_it_came_is_not_delivered() {
    let hub = hub(HubLimits::default());
    let (early, _) = join(&hub, 1);
    hub.lock().retract(&Audience::Everyone, 12);
    let (late, _) = join(&hub, 2);
    for position in 11..=13 {
        apply(&hub, &event(position, Audience::Everyone, Priority::Normal));
    }
    assert_eq!((take(&early), take(&late)), (vec![11, 13], vec![11, 13]));
    assert!(hub.lock().routing.retracted.is_empty(), "what has gone by is not kept");
    for position in 100..10_000 {
        hub.lock().retract(&Audience::Everyone, position);
    }
    assert!(hub.lock().routing.retracted.len() <= MAX_RETRACTED);
}

#[test]
fn interest_is_reported_once_for_the_first_and_the_last() {
    let reported = Arc::new(Mutex::new(Vec::new()));
    let log = reported.clone();
    let hub = Hub::new(HubLimits::default(), move |i| log.lock().unwrap().push(i));
    hub.lock().begin(&epoch(), 0, 0);
    let (a, b) = (join(&hub, 1).0, join(&hub, 1).0);
    hub.unregister(&a);
    hub.unregister(&b);
    hub.unregister(&b);
    assert_eq!(*reported.lock().unwrap(), [Interest::User(1, true), Interest::User(1, false)]);
}

#[test]
fn streams_of_one_user_are_bounded() {
    let hub = hub(HubLimits { streams_per_user: 1, ..HubLimits::default() });
    let _first = join(&hub, 1);
    let refused = hub.register(wish(1), None);
    assert_eq!(refused.unwrap_err(), Refused::TooManyStreams);
    assert!(hub.register(wish(2), None).is_ok());
}

/// A listener that does not know who is there, or lost it with the queue, gets that before any change.
#[test]
fn changes_of_presence_go_to_those_who_know_who_is_there() {
    let hub = hub(HubLimits { queue_events: 2, ..HubLimits::default() });
    let topic: Topic = "a".parse().unwrap();
    let watching = |user, wants_presence| {
        let reader = Reader { user, selector: Selector::of_user(user, vec![topic.clone()]) };
        hub.register(Subscription { reader, wants_presence, ..wish(user) }, None).unwrap().0
    };
    let notices =
        |listener: &Listener| match listener.poll_take(&mut Context::from_waker(&noop_waker()), true) {
            Poll::Ready(QueueRead::Items(items)) => items
                .iter()
                .filter_map(
                    |item| if let QueueItem::Server(event) = item { Some(event.frame(None)) } else { None },
                )
                .collect(),
            Poll::Ready(QueueRead::Lagged) => vec!["lagged".into()],
            _ => vec![],
        };
    let body = |who: &str| [Arc::new(ServerEvent::join(&topic, who))];
    let sent = |who: &str| ServerEvent::join(&topic, who).frame(None);
    let (watches, silent) = (watching(1, true), watching(2, false));
    let changes = hub.take_presence();
    assert_eq!(changes.topics.iter().collect::<Vec<_>>(), [&topic]);
    assert_eq!(changes.unaware.keys().collect::<Vec<_>>(), [&watches.id]);
    let here = hub.here_on(&topic);
    assert_eq!(here.users.keys().map(|name| &**name).collect::<Vec<_>>(), ["alice"], "each name once");
    assert!(here.is_watched);
    hub.notify_presence(&topic, &body("too early"));
    hub.begin_presence(&watches, &body("who is there"));
    hub.notify_presence(&topic, &body("a change"));
    assert_eq!(notices(&watches), [sent("who is there"), sent("a change")]);
    assert_eq!(notices(&silent), [""; 0]);

    (0..3).for_each(|_| hub.notify_presence(&topic, &body("too much")));
    assert_eq!(notices(&watches), ["lagged"]);
    hub.fence(&watches, &Cursor::at(epoch(), 10));
    hub.notify_presence(&topic, &body("a change that means nothing now"));
    let changes = hub.take_presence();
    assert!(changes.topics.is_empty() && changes.unaware.contains_key(&watches.id));
    hub.begin_presence(&watches, &body("who is there now"));
    assert_eq!(notices(&watches), [sent("who is there now")]);
    hub.unregister(&watches);
    let changes = hub.take_presence();
    assert!(changes.topics.contains(&topic) && changes.unaware.is_empty());
}
