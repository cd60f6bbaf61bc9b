//! Whom an event is for.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Invalid, UserId, is_name_byte};

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

/// Parsed once, then shared: clones cost a count. A topic: up to eight segments of `[A-Za-z0-9._-]`, joined by `/`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Topic(Arc<str>);

impl Topic {
    /// The most segments a topic may have.
    pub const MAX_SEGMENTS: usize = 8;
    /// The longest topic, in bytes.
    pub const MAX_LEN: usize = 255;

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
        let segments = text.split('/');
        if text.len() > Self::MAX_LEN || segments.clone().count() > Self::MAX_SEGMENTS {
            return Err(Invalid::new("topic", "may have at most 8 segments and 255 characters"));
        }
        if !segments.clone().all(|s| !s.is_empty() && s.bytes().all(is_name_byte)) {
            return Err(Invalid::new(
                "topic",
                "must be segments of letters, digits, '.', '_' and '-', joined by '/'",
            ));
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
        for good in ["a", "a/b/c", "room/7._-", "1/2/3/4/5/6/7/8"] {
            assert!(good.parse::<Topic>().is_ok(), "{good}");
        }
        for bad in ["", "/a", "a/", "a//b", "a b", "1/2/3/4/5/6/7/8/9", "ä", &"a".repeat(256)] {
            assert!(bad.parse::<Topic>().is_err(), "{bad:?}");
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
