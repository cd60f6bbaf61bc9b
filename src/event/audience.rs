//! Whom an event is for.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{Invalid, UserId, is_name_byte};

/// Whom an event is for. Also the route by which it travels from node to node.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Audience {
    /// Every signed-in listener.
    Everyone,
    /// These users, sorted and without repeats; never empty.
    Users(Vec<UserId>),
    /// Listeners who asked for this topic.
    Topic(Topic),
}

impl Audience {
    /// These users, sorted and each once.
    pub fn users(mut ids: Vec<UserId>) -> Self {
        ids.sort_unstable();
        ids.dedup();
        Self::Users(ids)
    }

    /// How many users it names.
    pub fn recipients(&self) -> usize {
        if let Self::Users(users) = self { users.len() } else { 0 }
    }

    /// Whether a listener who is `user` and asked for `topics` is meant. The one rule for who may see what.
    pub fn includes(&self, user: UserId, topics: &[Topic]) -> bool {
        match self {
            Self::Everyone => true,
            Self::Users(ids) => ids.binary_search(&user).is_ok(),
            Self::Topic(topic) => topics.contains(topic),
        }
    }
}

/// A topic: up to eight segments of `[A-Za-z0-9._-]`, joined by `/`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Topic(String);

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
        Self(text)
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
        Ok(Self(text.to_owned()))
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
    fn an_audience_includes_only_whom_it_names() {
        let room: Topic = "room/1".parse().unwrap();
        assert!(Audience::Everyone.includes(9, &[]));
        let two = Audience::users(vec![7, 3, 7]);
        assert_eq!(two, Audience::Users(vec![3, 7]));
        assert!(
            two.includes(3, &[]) && two.includes(7, &[]) && !two.includes(5, std::slice::from_ref(&room))
        );
        assert!(Audience::Topic(room.clone()).includes(1, std::slice::from_ref(&room)));
        assert!(!Audience::Topic(room).includes(1, &[]));
    }
}
