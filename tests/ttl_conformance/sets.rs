//! Sets whose members expire.

use super::*;

pub fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(ToString::to_string).collect()
}

async fn members(ttl: &Ttl, set: &str) -> BTreeSet<String> {
    let members = ttl.members(set, 10_000).await.unwrap();
    let (many, members) = (members.len(), BTreeSet::from_iter(members));
    assert_eq!(members.len(), many, "a member comes once");
    members
}

pub async fn members_are_those_who_entered_and_did_not_leave(open: impl Fn(&TtlLimits) -> Ttl) {
    let ttl = open(&patient());
    let (set, other) = (name("set"), name("other"));
    assert!(members(&ttl, &set).await.is_empty());
    ttl.leave(&set, &names(&["nobody"])).await.unwrap();
    ttl.enter(&set, &[], LONG).await.unwrap();
    ttl.enter(&set, &names(&["a b", "c:d", "", "é\r\n"]), LONG).await.unwrap();
    ttl.enter(&set, &names(&["a b", "last"]), LONG).await.unwrap();
    ttl.enter(&other, &names(&["elsewhere"]), LONG).await.unwrap();
    assert_eq!(
        members(&ttl.clone(), &set).await,
        BTreeSet::from_iter(names(&["a b", "c:d", "", "é\r\n", "last"]))
    );
    ttl.leave(&set, &[]).await.unwrap();
    ttl.leave(&set, &names(&["", "nobody", "c:d", "é\r\n"])).await.unwrap();
    assert_eq!(members(&ttl, &set).await, BTreeSet::from_iter(names(&["a b", "last"])));
    ttl.leave(&set, &names(&["a b", "last"])).await.unwrap();
    assert!(members(&ttl, &set).await.is_empty());
    assert_eq!(members(&ttl, &other).await, BTreeSet::from_iter(names(&["elsewhere"])));
}

pub async fn a_member_ends_by_its_time_and_entering_again_begins_a_new_one(open: impl Fn(&TtlLimits) -> Ttl) {
    let ttl = open(&patient());
    let set = name("set");
    ttl.enter(&set, &names(&["short", "longer"]), SHORT * 5).await.unwrap();
    let end = Instant::now() + SHORT * 5 + LATE;
    ttl.enter(&set, &names(&["longer", "long", "shorter", "none"]), LONG).await.unwrap();
    ttl.enter(&set, &names(&["shorter"]), SHORT).await.unwrap();
    ttl.enter(&set, &names(&["none", "never"]), Duration::ZERO).await.unwrap();
    ttl.enter(&set, &names(&["ever"]), Duration::MAX).await.unwrap();
    until("two have ended", async || {
        let asked = Instant::now();
        let members = members(&ttl, &set).await;
        assert!(!members.contains("short") || asked <= end, "a member after its time");
        assert!(!members.contains("none") && !members.contains("never"));
        !members.contains("short") && !members.contains("shorter")
    })
    .await;
    assert!(Instant::now() + LATE + Duration::from_millis(30) >= end, "ended before its time");
    assert_eq!(members(&ttl, &set).await, BTreeSet::from_iter(names(&["ever", "long", "longer"])));
    // The set as a whole ends with its last member, not with the one that entered last.
    ttl.leave(&set, &names(&["ever"])).await.unwrap();
    ttl.enter(&set, &names(&["soon"]), SHORT).await.unwrap();
    until("it ends", async || !members(&ttl, &set).await.contains("soon")).await;
    assert_eq!(members(&ttl, &set).await, BTreeSet::from_iter(names(&["long", "longer"])));
}

pub async fn a_large_set_is_entered_at_once_and_read_as_far_as_asked(open: impl Fn(&TtlLimits) -> Ttl) {
    let ttl = open(&patient());
    let set = name("set");
    let all: Vec<String> = (0..2500).map(|n| format!("member {n}")).collect();
    ttl.enter(&set, &all, LONG / 2).await.unwrap();
    ttl.enter(&set, &names(&["last"]), LONG).await.unwrap();
    assert_eq!(members(&ttl, &set).await.len(), 2501);
    assert_eq!(ttl.members(&set, 1).await.unwrap(), names(&["last"]), "those that end last come first");
    assert_eq!(ttl.members(&set, 200).await.unwrap().len(), 200);
    assert_eq!(ttl.members(&set, 0).await.unwrap(), names(&[]));
    assert_eq!(ttl.members(&set, usize::MAX).await.unwrap().len(), 2501);
    ttl.leave(&set, &all).await.unwrap();
    assert_eq!(members(&ttl, &set).await, BTreeSet::from_iter(names(&["last"])));
}

pub async fn a_full_set_loses_those_that_end_first(open: impl Fn(&TtlLimits) -> Ttl) {
    let ttl = open(&TtlLimits { max_members: 3, ..patient() });
    let set = name("set");
    ttl.enter(&set, &names(&["second"]), LONG / 2).await.unwrap();
    ttl.enter(&set, &names(&["first"]), LONG / 3).await.unwrap();
    ttl.enter(&set, &names(&["fourth", "fifth"]), LONG).await.unwrap();
    assert_eq!(members(&ttl, &set).await, BTreeSet::from_iter(names(&["second", "fourth", "fifth"])));
    ttl.enter(&set, &names(&["sixth"]), LONG).await.unwrap();
    assert_eq!(members(&ttl, &set).await, BTreeSet::from_iter(names(&["fourth", "fifth", "sixth"])));
}

pub async fn sets_meet_neither_keys_nor_expirations(open: impl Fn(&TtlLimits) -> Ttl) {
    let ttl = open(&patient());
    let prefix = name("");
    let mut expirations = listening(&ttl, &prefix).await;
    let set = format!("{prefix}set");
    ttl.put(&set, b"a key", LONG).await.unwrap();
    ttl.take(&set, 1, LONG).await.unwrap();
    ttl.enter(&set, &names(&["member"]), SHORT).await.unwrap();
    ttl.enter(&format!("{prefix}other"), &names(&["member"]), SHORT).await.unwrap();
    until("it ends", async || members(&ttl, &set).await.is_empty()).await;
    assert_eq!(ttl.get(&set).await.unwrap().as_deref(), Some(&b"a key"[..]));
    ttl.put(&format!("{prefix}last"), b"", SHORT * 10).await.unwrap();
    assert_eq!(heard_until("last", &mut expirations).await, BTreeSet::from(["last".into()]));
    ttl.remove(&set).await.unwrap();
}

/// Nothing is left behind by what nobody refreshes any more.
#[tokio::test]
async fn a_set_in_redis_ends_with_its_last_member() {
    let server = RedisServer::start(&[]).await;
    let ttl = Ttl::open(&server.url(""), &patient()).unwrap();
    ttl.enter("set", &names(&["one"]), SHORT * 2).await.unwrap();
    ttl.enter("set", &names(&["two"]), SHORT).await.unwrap();
    assert!(server.ask(&["DBSIZE"]).await.contains("int(1)"));
    until("the key is gone", async || server.ask(&["DBSIZE"]).await.contains("int(0)")).await;
}
