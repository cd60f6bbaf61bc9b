//! Cursors name the event that they end with, and a log without it is not the one that was listened to.

use std::collections::BTreeSet;

use super::*;
use crate::event::{Checkpoint, Cursor, id_digest};

/// A world whose node writes digests, after events of these priorities for everyone.
async fn world(reads: ReadLimits, priorities: &[Priority]) -> (World, Vec<Event>) {
    let mut world = World::new(Limits { reads, ..Limits::default() }).await;
    world.hub.set_digests(true);
    let mut events = Vec::new();
    for (number, priority) in priorities.iter().enumerate() {
        events.push(world.publish_as(&number.to_string(), *priority).await);
    }
    (world, events)
}

fn digest(event: &Event) -> String {
    format!("{:08x}", id_digest(&event.id))
}

#[tokio::test]
async fn a_cursor_whose_event_is_gone_gets_a_reset() {
    for does_node_know in [true, false] {
        let (mut world, events) = world(ReadLimits::default(), &[Priority::Normal; 4]).await;
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
            let is_at_end = furthest == 4 && !is_lost;
            let lost = "{\"cursor\"";
            let last = if is_at_end {
                "connected"
            } else if is_lost {
                lost
            } else {
                "\"data\":\"3\""
            };
            let all = world.until(&mut stream, last).await;
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
        let reads = ReadLimits { replay_events, ..ReadLimits::default() };
        let (mut world, events) = world(reads, &priorities).await;
        let mut replayed = world.open(Some("0")).await;
        let mut all = String::new();
        while data_of(&all).len() < events.len() {
            all += &world.until(&mut replayed, "data").await;
        }
        let mut named = BTreeSet::new();
        let lines = all.lines().filter_map(|line| line.strip_prefix("id: ")).skip(1);
        for cursor in lines.map(|id| id.parse::<Cursor>().unwrap()) {
            if cursor.furthest() == 0 {
                continue;
            }
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
    let (mut world, _) = world(ReadLimits::default(), &[Priority::Normal, Priority::Urgent]).await;
    let with_digest = world.open(Some("1")).await.read();
    assert!(!with_digest.is_empty());
    world.hub.set_digests(false);
    let mut stream = world.open(Some("0")).await;
    let mut all = world.until(&mut stream, "\"data\":\"0\"").await;
    world.publish("live").await;
    all += &world.until(&mut stream, "live").await;
    assert!(all.lines().filter(|line| line.starts_with("id: ")).all(|line| !line.contains('.')), "{all}");
}
