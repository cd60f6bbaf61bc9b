//! Cursors name the event that they end with, and a log without it is not the one that was listened to.

use std::collections::BTreeSet;

use super::*;
use crate::event::{Checkpoint, id_digest};

/// A world whose node writes digests, after events of these priorities for everyone.
async fn world(limits: StreamLimits, priorities: &[Priority]) -> (World, Vec<Event>) {
    let world = World::new(limits).await;
    world.hub.set_digests(true);
    let epoch = world.store.log_state().await.unwrap().epoch;
    let mut events = Vec::new();
    for (number, priority) in priorities.iter().enumerate() {
        let new = NewEvent {
            id: Uuid::now_v7(),
            event_type: "test".parse().unwrap(),
            priority: *priority,
            audience: Audience::Everyone,
            data: format!("\"{number}\""),
            expiry: Expiry::Never,
            keep_after_read: None,
            publisher: 1,
            idempotency: None,
            request: None,
        };
        let position = world.store.append(&[new]).await.unwrap().events[0].position;
        let event = world.store.event_at(position).await.unwrap().unwrap();
        let delivery = Arc::new(Delivery::new(&epoch, event.clone()).with_digest(true));
        let here = delivery.checkpoint();
        let routes = vec![(position, event.audience.clone())];
        world.hub.lock().apply(&[delivery], Some(routes), here);
        events.push(event);
    }
    (world, events)
}

fn digest(event: &Event) -> String {
    format!("{:08x}", id_digest(&event.id))
}

#[tokio::test]
async fn a_cursor_whose_event_is_gone_gets_a_reset() {
    for does_node_know in [true, false] {
        let (world, events) = world(StreamLimits::default(), &[Priority::Normal; 4]).await;
        let of = |number: usize| digest(&events[number - 1]);
        if !does_node_know {
            // As after a start: it has only seen where the log ends.
            let state = world.store.log_state().await.unwrap();
            world.hub.lock().begin(&"other".parse().unwrap(), 0, 0);
            world.hub.lock().begin(&state.epoch, state.floor, state.head());
        }
        for positions in ["2", "4", "1+3", "2.00000000", "4.00000000", "1+3.00000000"] {
            let named = positions.split('.').next().unwrap();
            let furthest: usize = named.rsplit('+').next().unwrap().parse().unwrap();
            let is_lost = positions.contains('.');
            let cursor = if is_lost { positions.to_owned() } else { format!("{positions}.{}", of(furthest)) };
            let mut stream = world.open(Some(&cursor)).await;
            let lost = "{\"cursor\"";
            let last = if is_lost { lost } else { "\"data\":\"3\"" };
            let is_at_end = furthest == 4 && !is_lost;
            let all = if is_at_end { next(&mut stream).await } else { until(&mut stream, last).await };
            assert_eq!(all.contains(r#""reason":"epoch""#), is_lost, "{cursor}: {all}");
            let seen = format!("\"data\":\"{}\"", furthest - 1);
            assert!(is_lost || !all.contains(&seen), "{cursor}: {all}");
        }
    }
}

/// What leaves first in a backlog, and a page that ends in the middle, included.
#[tokio::test]
async fn each_id_has_the_digest_of_the_event_it_names_last() {
    use Priority::{High, Low, Normal, Urgent};
    let priorities = [Normal, Urgent, Low, Normal, High, Normal, Normal, Urgent, Normal, Low, Normal, Normal];
    for replay_events in [1, 2, 5, 100] {
        let limits = StreamLimits { replay_events, ..StreamLimits::default() };
        let (world, events) = world(limits, &priorities).await;
        let mut replayed = world.open(Some("0")).await;
        let mut all = String::new();
        // The first frame has data, too.
        while all.matches("\ndata:").count() <= events.len() {
            all += &next(&mut replayed).await;
        }
        let mut named = BTreeSet::new();
        let lines = all.lines().filter_map(|line| line.strip_prefix("id: ")).skip(1);
        for cursor in lines.map(|id| id.parse::<Cursor>().unwrap()) {
            let event = events.iter().find(|event| event.position == cursor.furthest()).expect("an event");
            let here = Checkpoint::new(event.position, event.id);
            assert_eq!(cursor.digest, here.digest(), "{cursor} in {all}");
            named.insert(cursor.furthest());
        }
        assert!(named.contains(&12), "{all}");
    }
}

#[tokio::test]
async fn older_programs_get_cursors_that_they_can_read() {
    let (world, _) = world(StreamLimits::default(), &[Priority::Normal, Priority::Urgent]).await;
    world.hub.set_digests(false);
    let mut stream = world.open(Some("0")).await;
    let all = until(&mut stream, "\"data\":\"0\"").await;
    assert!(all.lines().filter(|line| line.starts_with("id: ")).all(|line| !line.contains('.')), "{all}");
}
