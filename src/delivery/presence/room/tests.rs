use super::*;
use Change::{Join, Leave};

const GRACE: Duration = Duration::from_secs(2);
const PATIENCE: Duration = Duration::from_secs(5);

fn names(names: &[&str]) -> BTreeSet<Name> {
    names.iter().map(|name| Name::from(*name)).collect()
}

fn list(names: &[&str]) -> Vec<Name> {
    names.iter().map(|name| Name::from(*name)).collect()
}

fn places(places: &[(&str, &str)]) -> Vec<(String, String)> {
    places.iter().map(|(node, name)| ((*node).to_owned(), (*name).to_owned())).collect()
}

fn strings(names: &[&str]) -> Vec<String> {
    names.iter().map(ToString::to_string).collect()
}

fn users(room: &Room) -> Vec<&str> {
    room.users().map(|name| &**name).collect()
}

#[test]
fn who_reloads_neither_leaves_nor_joins() {
    let (mut room, now) = (Room::default(), Instant::now());
    assert_eq!(room.here(&names(&["alice", "bob"]), now), list(&["alice", "bob"]));
    assert_eq!(room.take_changes(), [Join("alice".into()), Join("bob".into())]);
    assert!(room.here(&names(&["bob"]), now).is_empty());
    assert_eq!(room.next_left(GRACE), Some(now + GRACE));
    assert!(room.left(now + GRACE / 2, GRACE).is_empty());
    assert_eq!(users(&room), ["alice", "bob"]);
    assert!(room.here(&names(&["alice", "bob"]), now + GRACE / 2).is_empty(), "nothing to enter again");
    assert!(room.left(now + GRACE * 2, GRACE).is_empty() && room.take_changes().is_empty());
    room.here(&names(&["bob"]), now + GRACE * 2);
    // Gone since then, whatever else changes meanwhile.
    room.here(&names(&["bob", "carol"]), now + GRACE * 5 / 2);
    assert_eq!(room.left(now + GRACE * 3, GRACE), list(&["alice"]));
    assert_eq!(room.take_changes(), [Leave("alice".into()), Join("carol".into())]);
    assert_eq!(room.all_here(), list(&["bob", "carol"]));
}

#[test]
fn who_is_on_another_node_too_does_not_leave() {
    let (mut room, now) = (Room::default(), Instant::now());
    room.here(&names(&["alice"]), now);
    room.heard("n2", &strings(&["alice"]), &[]);
    room.heard("n3", &strings(&["alice"]), &[]);
    assert_eq!(room.take_changes(), [Join("alice".into())]);
    room.here(&names(&[]), now);
    assert_eq!(room.left(now + GRACE, GRACE), list(&["alice"]));
    room.heard("n2", &[], &strings(&["alice", "nobody"]));
    assert!(room.take_changes().is_empty() && room.is_nobody_here());
    room.heard("n3", &[], &strings(&["alice"]));
    assert_eq!(room.take_changes(), [Leave("alice".into())]);
    assert_eq!(room.places, 0);
}

#[test]
fn what_was_heard_and_undone_between_two_tellings_is_not_told() {
    let mut room = Room::default();
    room.heard("n2", &strings(&["alice", "bob"]), &[]);
    room.heard("n2", &[], &strings(&["alice"]));
    assert_eq!(room.take_changes(), [Join("bob".into())]);
    room.heard("n2", &[], &strings(&["bob"]));
    room.heard("n3", &strings(&["bob"]), &[]);
    assert!(room.take_changes().is_empty());
}

#[test]
fn who_is_missing_from_the_set_leaves_only_after_a_while() {
    let (mut room, now) = (Room::default(), Instant::now());
    room.here(&names(&["here"]), now);
    room.read(&places(&[("n2", "alice"), ("n2", "bob"), ("n3", "bob")]), now, PATIENCE);
    assert_eq!(room.take_changes().len(), 3);
    // Emptied; then n3 has entered its users again, n2 was killed.
    room.read(&[], now, PATIENCE);
    room.read(&[], now + PATIENCE / 2, PATIENCE);
    room.read(&places(&[("n3", "bob")]), now + PATIENCE * 3 / 4, PATIENCE);
    assert!(room.take_changes().is_empty(), "nobody leaves for a moment");
    room.read(&places(&[("n3", "bob")]), now + PATIENCE, PATIENCE);
    assert_eq!(room.take_changes(), [Leave("alice".into())]);
    // Seen again meanwhile, so the time begins anew.
    room.read(&[], now + PATIENCE * 2, PATIENCE);
    room.read(&places(&[("n3", "bob")]), now + PATIENCE * 5 / 2, PATIENCE);
    room.read(&[], now + PATIENCE * 3, PATIENCE);
    assert_eq!(users(&room), ["bob", "here"]);
    room.read(&[], now + PATIENCE * 4, PATIENCE);
    assert_eq!(users(&room), ["here"], "the set says nothing of this node's own");
}

#[test]
fn what_nothing_was_heard_of_is_read_anew() {
    let (mut room, now) = (Room::default(), Instant::now());
    room.read(&places(&[("n2", "alice"), ("n2", "bob")]), now, PATIENCE);
    room.take_changes();
    room.forget_others();
    room.read(&places(&[("n2", "bob"), ("n2", "carol")]), now, PATIENCE);
    assert_eq!(room.take_changes(), [Leave("alice".into()), Join("carol".into())]);
}

#[test]
fn a_room_is_bounded() {
    let (mut room, now) = (Room::default(), Instant::now());
    let crowd: Vec<_> = (0..MAX_PLACES + 5).map(|n| ("n2".to_owned(), format!("user {n}"))).collect();
    room.read(&crowd, now, PATIENCE);
    room.heard("n3", &strings(&["one more"]), &[]);
    assert_eq!(room.users().len(), MAX_PLACES);
    room.read(&crowd[..MAX_PLACES / 2], now, PATIENCE);
    room.read(&crowd[..MAX_PLACES / 2], now + PATIENCE, PATIENCE);
    // Five of these had found no place before.
    room.read(&crowd[..MAX_PLACES / 2], now + PATIENCE, PATIENCE);
    assert_eq!((room.users().len(), room.places), (MAX_PLACES / 2, MAX_PLACES / 2));
}
