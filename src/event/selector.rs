//! Who gets what: the one rule. The index of listeners, what nodes read for their listeners and the statements of both
//! stores are derived from it, and a property test holds all of them against [`Selector::matches`].

use super::{Audience, EventType, Priority, Topic, UserId};

/// Which events are wanted: those for any of these targets, as far as type and priority fit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selector {
    /// Also what is for everyone.
    pub everyone: bool,
    /// What is for any of these users. Sorted, each once.
    pub users: Vec<UserId>,
    /// What is for any of these topics. Sorted, each once.
    pub topics: Vec<Topic>,
    /// Only these types; empty: all.
    pub types: Vec<EventType>,
    /// Only this priority and higher.
    pub min_priority: Option<Priority>,
}

impl Selector {
    /// All that is for everyone, for `user` or on any of `topics`.
    pub fn of_user(user: UserId, topics: Vec<Topic>) -> Self {
        Self { everyone: true, users: vec![user], ..Self::of_topics(topics) }
    }

    /// Only what is on any of `topics`.
    pub fn of_topics(mut topics: Vec<Topic>) -> Self {
        topics.sort_unstable();
        topics.dedup();
        Self { topics, ..Self::default() }
    }

    /// Whether an event for `audience` of this type and priority is wanted.
    pub fn matches(&self, audience: &Audience, event_type: &EventType, priority: Priority) -> bool {
        self.targets(audience) && self.wants(event_type, priority)
    }

    /// Whether any of the targets of `audience` is one of these.
    pub fn targets(&self, audience: &Audience) -> bool {
        match audience {
            Audience::Everyone => self.everyone,
            Audience::Of { users, topics } => {
                shares_any(&self.users, users) || shares_any(&self.topics, topics)
            }
        }
    }

    /// Whether type and priority fit.
    pub fn wants(&self, event_type: &EventType, priority: Priority) -> bool {
        self.min_priority.is_none_or(|least| priority >= least)
            && (self.types.is_empty() || self.types.contains(event_type))
    }
}

/// Whether two sorted lists have an item in common; each of the shorter one is looked for in the other.
fn shares_any<T: Ord>(one: &[T], other: &[T]) -> bool {
    let (few, many) = if one.len() <= other.len() { (one, other) } else { (other, one) };
    few.iter().any(|item| many.binary_search(item).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_part_has_its_say() {
        let topic = |name: &str| name.parse::<Topic>().unwrap();
        let note: EventType = "note".parse().unwrap();
        let mine = Selector::of_user(3, vec![topic("b"), topic("a"), topic("b")]);
        assert_eq!(mine.topics, [topic("a"), topic("b")]);
        let cases = [
            (Audience::Everyone, true),
            (Audience::users(vec![7, 3]), true),
            (Audience::users(vec![7]), false),
            (Audience::topic(topic("b")), true),
            (Audience::topic(topic("c")), false),
            (Audience::of(vec![7], vec![topic("c"), topic("a")]), true),
        ];
        for (audience, expected) in cases {
            assert_eq!(mine.matches(&audience, &note, Priority::Low), expected, "{audience:?}");
        }
        let topics = Selector::of_topics(vec![topic("a")]);
        assert!(!topics.targets(&Audience::Everyone) && !topics.targets(&Audience::users(vec![3])));
        let high = Selector { min_priority: Some(Priority::High), types: vec![note.clone()], ..mine };
        assert!(high.matches(&Audience::Everyone, &note, Priority::Urgent));
        assert!(!high.matches(&Audience::Everyone, &note, Priority::Normal));
        assert!(!high.matches(&Audience::Everyone, &"other".parse().unwrap(), Priority::Urgent));
    }
}
