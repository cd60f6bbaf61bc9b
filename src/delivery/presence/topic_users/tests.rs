use super::*;
use Change::{Join, Leave};

const GRACE: Duration = Duration::from_secs(2);
const PATIENCE: Duration = Duration::from_secs(5);

fn names(names: &[&str]) -> BTreeMap<Name, UserId> {
    names.iter().zip(1..).map(|(name, id)| (Name::from(*name), id)).collect()
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

fn users(topic: &TopicUsers) -> Vec<&str> {
    topic.users().map(|name| &**name).collect()
}

#[test]
fn who_reloads_neither_leaves_nor_joins() {
    let (mut topic, now) = (TopicUsers::default(), Instant::now());
    assert_eq!(topic.here(&names(&["alice", "bob"]), now), list(&["alice", "bob"]));
    assert_eq!(topic.take_changes(), [Join("alice".into()), Join("bob".into())]);
    assert!(topic.here(&names(&["bob"]), now).is_empty());
    assert_eq!(topic.next_left(GRACE), Some(now + GRACE));
    assert!(topic.left(now + GRACE / 2, GRACE).is_empty());
    assert_eq!(users(&topic), ["alice", "bob"]);
    assert!(topic.here(&names(&["alice", "bob"]), now + GRACE / 2).is_empty(), "nothing to write again");
    assert!(topic.left(now + GRACE * 2, GRACE).is_empty() && topic.take_changes().is_empty());
    topic.here(&names(&["bob"]), now + GRACE * 2);
    // Gone since then, whatever else changes meanwhile.
    topic.here(&names(&["bob", "carol"]), now + GRACE * 5 / 2);
    assert_eq!(topic.left(now + GRACE * 3, GRACE), list(&["alice"]));
    assert_eq!(topic.take_changes(), [Leave("alice".into()), Join("carol".into())]);
    let user = |id, name: &str| User { id, name: name.into() };
    assert_eq!(topic.all_here(), [user(1, "bob"), user(2, "carol")]);
}

#[test]
fn who_is_on_another_node_too_does_not_leave() {
    let (mut topic, now) = (TopicUsers::default(), Instant::now());
    topic.here(&names(&["alice"]), now);
    topic.remote_change("n2", &strings(&["alice"]), &[]);
    topic.remote_change("n3", &strings(&["alice"]), &[]);
    assert_eq!(topic.take_changes(), [Join("alice".into())]);
    topic.here(&names(&[]), now);
    assert_eq!(topic.left(now + GRACE, GRACE), list(&["alice"]));
    topic.remote_change("n2", &[], &strings(&["alice", "nobody"]));
    assert!(topic.take_changes().is_empty() && topic.is_nobody_here());
    topic.remote_change("n3", &[], &strings(&["alice"]));
    assert_eq!(topic.take_changes(), [Leave("alice".into())]);
    assert_eq!(topic.places, 0);
}

#[test]
fn what_was_undone_before_it_was_sent_is_not_sent() {
    let mut topic = TopicUsers::default();
    topic.remote_change("n2", &strings(&["alice", "bob"]), &[]);
    topic.remote_change("n2", &[], &strings(&["alice"]));
    assert_eq!(topic.take_changes(), [Join("bob".into())]);
    topic.remote_change("n2", &[], &strings(&["bob"]));
    topic.remote_change("n3", &strings(&["bob"]), &[]);
    assert!(topic.take_changes().is_empty());
}

#[test]
fn who_is_missing_from_the_tables_leaves_only_after_a_while() {
    let (mut topic, now) = (TopicUsers::default(), Instant::now());
    topic.here(&names(&["here"]), now);
    topic.read(&places(&[("n2", "alice"), ("n2", "bob"), ("n3", "bob")]), now, PATIENCE);
    assert_eq!(topic.take_changes().len(), 3);
    // Emptied; then n3 has written its table again, n2 was killed.
    topic.read(&[], now, PATIENCE);
    topic.read(&[], now + PATIENCE / 2, PATIENCE);
    topic.read(&places(&[("n3", "bob")]), now + PATIENCE * 3 / 4, PATIENCE);
    assert!(topic.take_changes().is_empty(), "nobody leaves for a moment");
    topic.read(&places(&[("n3", "bob")]), now + PATIENCE, PATIENCE);
    assert_eq!(topic.take_changes(), [Leave("alice".into())]);
    // Seen again meanwhile, so the time begins anew.
    topic.read(&[], now + PATIENCE * 2, PATIENCE);
    topic.read(&places(&[("n3", "bob")]), now + PATIENCE * 5 / 2, PATIENCE);
    topic.read(&[], now + PATIENCE * 3, PATIENCE);
    assert_eq!(users(&topic), ["bob", "here"]);
    topic.read(&[], now + PATIENCE * 4, PATIENCE);
    assert_eq!(users(&topic), ["here"], "the tables say nothing of this node's own");
}

#[test]
fn what_no_notices_came_of_is_read_anew() {
    let (mut topic, now) = (TopicUsers::default(), Instant::now());
    topic.read(&places(&[("n2", "alice"), ("n2", "bob")]), now, PATIENCE);
    topic.take_changes();
    topic.forget_others();
    topic.read(&places(&[("n2", "bob"), ("n2", "carol")]), now, PATIENCE);
    assert_eq!(topic.take_changes(), [Leave("alice".into()), Join("carol".into())]);
}

#[test]
fn a_topic_is_bounded() {
    let (mut topic, now) = (TopicUsers::default(), Instant::now());
    let crowd: Vec<_> = (0..MAX_PLACES + 5).map(|n| ("n2".to_owned(), format!("user {n}"))).collect();
    topic.read(&crowd, now, PATIENCE);
    topic.remote_change("n3", &strings(&["one more"]), &[]);
    assert_eq!(topic.users().len(), MAX_PLACES);
    topic.read(&crowd[..MAX_PLACES / 2], now, PATIENCE);
    topic.read(&crowd[..MAX_PLACES / 2], now + PATIENCE, PATIENCE);
    // Five of these had found no place before.
    topic.read(&crowd[..MAX_PLACES / 2], now + PATIENCE, PATIENCE);
    assert_eq!((topic.users().len(), topic.places), (MAX_PLACES / 2, MAX_PLACES / 2));
}
