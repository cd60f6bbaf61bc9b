use super::*;
use proptest::prelude::*;

fn rules(table: &str) -> TopicRules {
    TopicRules::new(table.split(SEPARATOR).map(|rule| rule.parse().unwrap()).collect())
}

fn user(name: &str, role: Role) -> User {
    User { id: 1, name: name.into(), role, created_at: 0 }
}

/// What a user may do there: `r`, `w`, `rw` or nothing.
fn rights(rules: &TopicRules, user: &User, topic: &str) -> String {
    let topic = topic.parse().unwrap();
    let rights = [(rules.may_read(user, &topic), "r"), (rules.may_write(user, &topic), "w")];
    rights.into_iter().filter(|(has, _)| *has).map(|(_, right)| right).collect()
}

#[test]
fn the_default_table_is_as_documented() {
    let rules = rules(DEFAULT_RULES);
    let (alice, shop, admin) =
        (user("alice", Role::Listener), user("shop", Role::Publisher), user("root", Role::Admin));
    for (topic, expected) in [
        ("chat", ["rw", "rw", "rw"]),
        ("chat/kitchen/sink", ["rw", "rw", "rw"]),
        ("chatter", ["r", "rw", "rw"]),
        ("uploads/alice/1", ["rw", "", "rw"]),
        ("uploads/alice", ["rw", "", "rw"]),
        ("uploads/shop/1", ["", "rw", "rw"]),
        ("uploads", ["", "", "rw"]),
        ("uploads/alice.b/1", ["", "", "rw"]),
        ("logs/app", ["r", "rw", "rw"]),
    ] {
        let found = [&alice, &shop, &admin].map(|user| rights(&rules, user, topic));
        assert_eq!(found, expected, "{topic}");
    }
}

#[test]
fn the_first_rule_that_matches_decides_and_what_none_matches_is_nobodys() {
    let rules =
        rules("a/*/c read=nobody write=listener;a/** read=listener write=nobody;b read=admin write=admin");
    let (alice, admin) = (user("alice", Role::Listener), user("root", Role::Admin));
    for (topic, of_alice, of_admin) in [
        ("a/b/c", "w", "w"),
        ("a/b/c/d", "r", "r"),
        ("a", "r", "r"),
        ("b", "", "rw"),
        ("b/c", "", ""),
        ("c", "", ""),
    ] {
        assert_eq!(rights(&rules, &alice, topic), of_alice, "{topic}");
        assert_eq!(rights(&rules, &admin, topic), of_admin, "{topic}");
    }
    assert_eq!(rights(&TopicRules::new(Vec::new()), &admin, "a"), "");
}

#[test]
fn every_mistake_says_what_is_wrong() {
    for (rule, says) in [
        ("", "empty"),
        ("  ", "empty"),
        ("a", "read=ROLE is missing"),
        ("a read=listener", "write=ROLE is missing"),
        ("a write=listener", "read=ROLE is missing"),
        ("a read=listener write=", "'' must be listener"),
        ("a read=everyone write=nobody", "'everyone' must be listener"),
        ("a read=listener read=admin write=admin", "read= may stand only once"),
        ("a read=listener write=admin list=admin", "'list=admin' must be read=ROLE"),
        ("a b read=listener write=admin", "'b' must be read=ROLE"),
        ("read=listener write=admin", "'read=listener' is no segment"),
        ("a/**/b read=listener write=admin", "only at the end"),
        ("a** read=listener write=admin", "a segment of its own"),
        ("a/b* read=listener write=admin", "'b*' is no segment"),
        ("a/{users} read=listener write=admin", "'{users}' is no segment"),
        ("/a read=listener write=admin", "'' is no segment"),
        ("a/ read=listener write=admin", "'' is no segment"),
        ("a//b read=listener write=admin", "'' is no segment"),
        ("/** read=listener write=admin", "'' is no segment"),
        ("1/2/3/4/5/6/7/8/9 read=listener write=admin", "at most 8 segments"),
    ] {
        let error = rule.parse::<TopicRule>().unwrap_err();
        assert!(error.contains(says), "{rule}: {error}");
    }
}

/// A segment of a pattern, and what it may match in a topic of `me`.
fn segment() -> impl Strategy<Value = (String, String)> {
    prop_oneof![
        "[A-Za-z0-9._-]{1,4}".prop_map(|literal| (literal.clone(), literal)),
        "[A-Za-z0-9._-]{1,4}".prop_map(|any| ("*".to_owned(), any)),
        Just(("{user}".to_owned(), "me".to_owned())),
    ]
}

proptest! {
    #[test]
    fn a_pattern_matches_what_is_made_from_it(
        segments in prop::collection::vec(segment(), 1..=6),
        rest in prop::option::of(prop::collection::vec("[a-z]{1,3}", 0..=2)),
    ) {
        let (pattern, topic): (Vec<_>, Vec<_>) = segments.into_iter().unzip();
        let (mut pattern, mut topic) = (pattern.join("/"), topic.join("/"));
        if let Some(rest) = &rest {
            pattern += "/**";
            rest.iter().for_each(|segment| topic = format!("{topic}/{segment}"));
        }
        let rule: TopicRule = format!("{pattern} read=listener write=nobody").parse().unwrap();
        prop_assert!(rule.pattern.matches(&topic, "me"));
        if rest.is_none() {
            let (longer, shorter) = (format!("{topic}/x"), topic.rsplit_once('/').map(|(head, _)| head));
            prop_assert!(!rule.pattern.matches(&longer, "me"));
            prop_assert!(shorter.is_none_or(|shorter| !rule.pattern.matches(shorter, "me")));
        }
        if pattern.contains("{user}") {
            prop_assert!(!rule.pattern.matches(&topic, "you"));
        }
        prop_assert_eq!(rule.to_string().parse::<TopicRule>().unwrap(), rule);
    }

    #[test]
    fn any_text_is_a_rule_or_an_error(text in "[a*/{}usr =]{0,30}") {
        if let Ok(rule) = text.parse::<TopicRule>() {
            prop_assert_eq!(rule.to_string().parse::<TopicRule>().unwrap(), rule);
        }
    }
}
