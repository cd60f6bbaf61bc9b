//! What tells a log that has lost its end from the one that it was.

use carillon::event::{Applied, Checkpoint, Epoch};
use uuid::Uuid;

use super::*;

fn applied(epoch: &Epoch, at: impl Into<Checkpoint>) -> Applied {
    Applied { epoch: epoch.clone(), at: at.into() }
}

pub async fn a_log_that_lost_what_was_applied_begins_a_new_epoch(store: &Store) {
    let events: Vec<NewEvent> = (0..5).map(|publisher| NewEvent { publisher, ..event() }).collect();
    let here: Vec<Checkpoint> =
        append(store, &events).await.events.iter().map(|e| Checkpoint::new(e.position, e.id)).collect();
    let state = store.log_state().await.unwrap();
    assert_eq!((state.head(), state.is_new_epoch), (here[4], false));
    store.retract(events[2].id, None).await.unwrap();
    let mut epoch = state.epoch;
    for same in here.iter().copied().chain([here[1].position.into(), here[4].position.into()]) {
        let state = store.compare(&applied(&epoch, same)).await.unwrap();
        assert!(state.epoch == epoch && !state.is_new_epoch, "{same:?}, also the one that was retracted");
    }
    let beyond = here[4].position + 1;
    for other in [
        Checkpoint { id: Some(Uuid::now_v7()), ..here[3] },
        Checkpoint { id: here[3].id, ..here[4] },
        Checkpoint::new(beyond, Uuid::now_v7()),
        beyond.into(),
    ] {
        let found = store.compare(&applied(&epoch, other)).await.unwrap();
        assert!(found.is_new_epoch && found.epoch != epoch, "{other:?}");
        assert_eq!(found.head(), here[4]);
        // Another node asks with the same, or learns of it first.
        for question in [applied(&epoch, other), applied(&found.epoch, here[4])] {
            let state = store.compare(&question).await.unwrap();
            assert!(state.epoch == found.epoch && !state.is_new_epoch);
        }
        assert_eq!(store.log_state().await.unwrap().epoch, found.epoch);
        epoch = found.epoch;
    }
    // What retention removed is not compared.
    until_past(store, state.now).await;
    store.remove_before(i64::MAX, 4).await.unwrap();
    let other = Checkpoint { id: Some(Uuid::now_v7()), ..here[3] };
    assert!(!store.compare(&applied(&epoch, other)).await.unwrap().is_new_epoch);
    store.remove_before(i64::MAX, 4).await.unwrap();
    let state = store.log_state().await.unwrap();
    assert_eq!((state.head(), state.epoch), (here[4].position.into(), epoch));
}

pub async fn an_append_belongs_to_the_epoch_that_it_begins(store: &Store) {
    let first = append(store, &[event()]).await;
    let here = Checkpoint::new(first.events[0].position, first.events[0].id);
    let same = store.append_after(&[event()], Some(&applied(&first.epoch, here))).await.unwrap();
    assert_eq!((&same.epoch, same.is_new_epoch), (&first.epoch, false));
    assert_eq!((same.previous, same.previous_id), (here.position, here.id));
    let other = Checkpoint { id: Some(Uuid::now_v7()), ..here };
    // The log has grown past it.
    let new = store.append_after(&[event(), event()], Some(&applied(&first.epoch, other))).await.unwrap();
    assert!(new.is_new_epoch && new.epoch != first.epoch);
    assert_eq!(new.previous_id, Some(same.events[0].id), "of the head before this append");
    let late = store.append_after(&[event()], Some(&applied(&first.epoch, other))).await.unwrap();
    assert_eq!((late.epoch, late.is_new_epoch), (new.epoch.clone(), false), "another has begun it");
    let nothing = store.append_after(&[], Some(&applied(&new.epoch, other))).await.unwrap();
    assert!(nothing.is_new_epoch && nothing.events.is_empty());
    assert_eq!(nothing.previous_id, Some(late.events[0].id));
}

pub async fn a_page_names_the_events_at_its_ends(store: &Store) {
    let mixed: Vec<NewEvent> = (0..6).map(|number| for_users(&[1 + number % 2])).collect();
    let here: Vec<Checkpoint> =
        append(store, &mixed).await.events.iter().map(|e| Checkpoint::new(e.position, e.id)).collect();
    let (from, to) = (here[0], here[5]);
    for limit in [1, 2, 100] {
        let of_one = store.read_for_reader(from.position, to.position, &reader(1, &[]), limit).await.unwrap();
        let of_all =
            store.read_for_node(from.position, to.position, Some(&node(&[1, 2], &[])), limit).await.unwrap();
        for page in [of_one, of_all] {
            assert_eq!(page.after_id, from.id);
            assert!(here.contains(&page.end()), "{:?}", page.end());
            assert!(page.follows(from) && page.follows(from.position.into()));
            assert!(!page.follows(Checkpoint { id: Some(Uuid::now_v7()), ..from }));
        }
        assert_eq!(store.id_at(from.position).await.unwrap(), from.id);
    }
    let beyond = store.read_for_reader(to.position, from.position, &reader(1, &[]), 10).await.unwrap();
    assert_eq!(beyond.end(), to);
    let gone =
        store.read_for_node(to.position + 1, to.position + 2, Some(&node(&[1], &[])), 10).await.unwrap();
    assert!(
        (gone.after_id, gone.end_id) == (None, None)
            && !gone.follows(Checkpoint::new(to.position + 1, Uuid::nil()))
    );
}
