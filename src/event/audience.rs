//! Whom an event is for.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::name::check_name;
use super::{Invalid, UserId};

/// Whom an event is for.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Audience {
    /// Every signed-in listener.
    Everyone,
    /// These users, and who listens to any of these topics: each list sorted, each target once, not both empty, at most
    /// [`Audience::MAX_TARGETS`] in all.
    Of {
        /// The users.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        users: Vec<UserId>,
        /// The topics.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        topics: Vec<Topic>,
    },
}

impl Audience {
    /// The most users and topics of one event, together.
    pub const MAX_TARGETS: usize = 1_000;

    /// These users and topics.
    pub fn of(mut users: Vec<UserId>, mut topics: Vec<Topic>) -> Self {
        users.sort_unstable();
        users.dedup();
        topics.sort_unstable();
        topics.dedup();
        Self::Of { users, topics }
    }

    /// These users.
    pub fn users(users: Vec<UserId>) -> Self {
        Self::of(users, Vec::new())
    }

    /// Who listens to this topic.
    pub fn topic(topic: Topic) -> Self {
        Self::Of { users: Vec::new(), topics: vec![topic] }
    }

    /// The users it names.
    pub fn user_ids(&self) -> &[UserId] {
        if let Self::Of { users, .. } = self { users } else { &[] }
    }

    /// The topics it names.
    pub fn topics(&self) -> &[Topic] {
        if let Self::Of { topics, .. } = self { topics } else { &[] }
    }

    /// How many users and topics it names.
    pub fn targets(&self) -> usize {
        self.user_ids().len() + self.topics().len()
    }
}

/// A topic: a name as [`check_name`] has it. `/` separates its segments, none of which is empty, `.` or `..`. Parsed
/// once, then shared: clones cost a count.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Topic(Arc<str>);

impl Topic {
    /// The topic as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A topic read back from the store, which only ever holds checked ones.
    pub fn from_stored(text: String) -> Self {
        Self(text.into())
    }
}

impl FromStr for Topic {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        check_name("topic", text)?;
        if text.split('/').any(|segment| matches!(segment, "" | "." | "..")) {
            return Err(Invalid::new("topic", "may have no segment that is empty, '.' or '..'"));
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_follow_the_rules() {
        let long = ["a"; 128].join("/");
        for good in ["a", "a/b/c", "room/7._-", &long, "a b", "ä", "Räume/日本/{x}*\\;", "a/...", "a/.b"]
        {
            assert!(good.parse::<Topic>().is_ok(), "{good}");
        }
        let (segments, letters) = (format!("{long}/"), "a".repeat(256));
        let bad = ["", "/", "/a", "a/", "a//b", ".", "..", "a/./b", "../a", "a/..", "a\nb", "a\u{9b}b"];
        for bad in bad.into_iter().chain([segments.as_str(), letters.as_str()]) {
            assert_eq!(bad.parse::<Topic>().unwrap_err().field, "topic", "{bad:?}");
        }
    }

    #[test]
    fn targets_are_sorted_and_each_once() {
        let (a, b): (Topic, Topic) = ("a".parse().unwrap(), "b".parse().unwrap());
        let audience = Audience::of(vec![7, 3, 7], vec![b.clone(), a.clone(), b.clone()]);
        assert_eq!((audience.user_ids(), audience.topics()), (&[3, 7][..], &[a, b][..]));
        assert_eq!((audience.targets(), Audience::Everyone.targets()), (4, 0));
    }
}
