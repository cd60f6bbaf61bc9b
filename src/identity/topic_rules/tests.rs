use super::*;
use proptest::prelude::*;

fn rules(table: &str) -> TopicRules {
    TopicRules::new(table.split(SEPARATOR).map(|rule| rule.parse().unwrap()).collect())
}

fn user(name: &str, role: Role) -> User {
    User {
        id: 1,
        name: name.into(),
        public_id: "0123456789abcdef".into(),
        display_name: None,
        names: vec![name.into(), format!("former {name}")],
        role,
        created_at: 0,
        disabled_at: None,
    }
}

fn me() -> User {
    user("me", Role::Listener)
}

fn matches(rule: &TopicRule, topic: &str) -> bool {
    rule.pattern.matches(&topic.parse().unwrap(), &me())
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
fn a_user_is_what_the_row_is_or_was_called() {
    let rules = rules("uploads/{user}/** read=listener write=listener");
    let alice = user("alice", Role::Listener);
    for own in ["alice", "former alice", "0123456789abcdef"] {
        assert_eq!(rights(&rules, &alice, &format!("uploads/{own}/1")), "rw", "{own}");
    }
    // A name is compared, and never read as a pattern or as several segments.
    for (name, topic) in
        [("*", "uploads/bob"), ("{user}", "uploads/bob"), ("a/b", "uploads/a/b"), ("**", "uploads")]
    {
        assert_eq!(rights(&rules, &user(name, Role::Listener), topic), "", "{name}");
    }
    assert_eq!(rights(&rules, &user("*", Role::Listener), "uploads/*"), "rw");
    for others in ["former", "Alice", "0123456789abcde", "alice "] {
        assert_eq!(rights(&rules, &alice, &format!("uploads/{others}/1")), "", "{others}");
    }
}

#[test]
fn what_is_escaped_is_meant_as_it_stands() {
    for (pattern, matching, others) in [
        (r"a/\*", "a/*", "a/b"),
        (r"\{user}/b", "{user}/b", "me/b"),
        (r"a/\*\*", "a/**", "a"),
        (r"a\\b", r"a\b", "ab"),
        (r"a\ b", "a b", "a"),
        (r"\a\b", "ab", r"\a\b"),
        ("日本/Räume", "日本/Räume", "日本/Räum"),
    ] {
        let rule: TopicRule = format!("{pattern} read=listener write=nobody").parse().unwrap();
        assert!(matches(&rule, matching), "{pattern}");
        assert!(!matches(&rule, others), "{pattern}");
    }
    let from_parts = TopicRule::new("a b;c/*", "listener", "nobody").unwrap();
    assert!(matches(&from_parts, "a b;c/d") && !matches(&from_parts, "a"));
    assert_eq!(from_parts.to_string(), r"a\ b;c/* read=listener write=nobody");
    assert_eq!(
        TopicRule::new("a", "all", "nobody").unwrap_err(),
        "'all' must be listener, publisher, admin or nobody"
    );
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
        ("read=listener write=admin", "read=ROLE is missing"),
        ("a/**/b read=listener write=admin", "only at the end"),
        ("a** read=listener write=admin", "'a**' is no segment"),
        ("a/b* read=listener write=admin", "'b*' is no segment"),
        ("a/{users} read=listener write=admin", "'{users}' is no segment"),
        ("/a read=listener write=admin", "'' is no segment"),
        ("a/ read=listener write=admin", "'' is no segment"),
        ("a//b read=listener write=admin", "'' is no segment"),
        ("/** read=listener write=admin", "'' is no segment"),
        ("a/.. read=listener write=admin", "'..' is no segment"),
        ("a\u{80} read=listener write=admin", "control characters"),
        (r"a\/b read=listener write=admin", "'/' cannot be literal"),
        (r"a\ read=listener write=admin", "read=ROLE is missing"),
        (&format!("{}/** read=listener write=admin", "a/".repeat(128) + "a"), "matches no topic"),
    ] {
        let error = rule.parse::<TopicRule>().unwrap_err();
        assert!(error.contains(says), "{rule}: {error}");
    }
}

/// A segment of a topic, with what means something in patterns more often than by chance.
fn segment_text() -> impl Strategy<Value = String> {
    let text = prop_oneof![r"[*{}\\ ;=a-c]{1,4}", r"[^\p{Cc}/]{1,4}"];
    text.prop_filter("these are no segments", |text| text != "." && text != "..")
}

/// What stands for a segment in a pattern, with each character literal.
fn escaped(text: &str) -> String {
    text.split('/')
        .map(|segment| segment.chars().map(|c| format!("\\{c}")).collect())
        .collect::<Vec<String>>()
        .join("/")
}

/// A segment of a pattern, and what it may match in a topic of `me`.
fn segment() -> impl Strategy<Value = (String, String)> {
    prop_oneof![
        segment_text().prop_map(|literal| (escaped(&literal), literal)),
        segment_text().prop_map(|any| ("*".to_owned(), any)),
        Just(("{user}".to_owned(), "me".to_owned())),
    ]
}

proptest! {
    #[test]
    fn a_pattern_matches_what_is_made_from_it(
        segments in prop::collection::vec(segment(), 1..=6),
        rest in prop::option::of(prop::collection::vec("[a-z]{1,3}", 0..=2)),
    ) {
        let has_user = segments.iter().any(|(pattern, _)| pattern == "{user}");
        let (pattern, topic): (Vec<_>, Vec<_>) = segments.into_iter().unzip();
        let (mut pattern, mut topic) = (pattern.join("/"), topic.join("/"));
        if let Some(rest) = &rest {
            pattern += "/**";
            rest.iter().for_each(|segment| topic = format!("{topic}/{segment}"));
        }
        let rule: TopicRule = format!("{pattern} read=listener write=nobody").parse().unwrap();
        prop_assert!(matches(&rule, &topic));
        if rest.is_none() {
            let (longer, shorter) = (format!("{topic}/x"), topic.rsplit_once('/').map(|(head, _)| head));
            prop_assert!(!matches(&rule, &longer));
            prop_assert!(shorter.is_none_or(|shorter| !matches(&rule, shorter)));
        }
        if has_user {
            prop_assert!(!rule.pattern.matches(&topic.parse().unwrap(), &user("you", Role::Listener)));
        }
        prop_assert_eq!(rule.to_string().parse::<TopicRule>().unwrap(), rule);
    }

    #[test]
    fn a_topic_is_matched_by_its_escaped_self_and_by_no_others(
        one in prop::collection::vec(segment_text(), 1..=4),
        other in prop::collection::vec(segment_text(), 1..=4),
    ) {
        let (one, other) = (one.join("/"), other.join("/"));
        let rule = TopicRule::new(&escaped(&one), "listener", "nobody").unwrap();
        prop_assert!(matches(&rule, &one));
        prop_assert_eq!(matches(&rule, &other), one == other);
        let text = rule.to_string();
        prop_assert_eq!(text.parse::<TopicRule>().unwrap(), rule);
    }

    #[test]
    fn any_text_is_a_rule_or_an_error(text in r"[a*/{}usr =\\é]{0,30}") {
        if let Ok(rule) = text.parse::<TopicRule>() {
            prop_assert_eq!(rule.to_string().parse::<TopicRule>().unwrap(), rule);
        }
        if let Ok(rule) = TopicRule::new(&text, "listener", "nobody") {
            prop_assert_eq!(rule.to_string().parse::<TopicRule>().unwrap(), rule);
        }
    }
}
