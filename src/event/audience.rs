//! Whom an event is for.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::name::check_name;
use super::{Invalid, UserId};

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

/// A topic: a name as [`check_name`] has it. `/` separates its segments, none of which is empty, `.` or `..`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Topic(String);

impl Topic {
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
        check_name("topic", text)?;
        if text.split('/').any(|segment| matches!(segment, "" | "." | "..")) {
            return Err(Invalid::new("topic", "may have no segment that is empty, '.' or '..'"));
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
