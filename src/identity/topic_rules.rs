//! Who may read and write which topics: a table from the configuration. Pure.
//!
//! The first rule whose pattern matches decides; a topic that none matches is nobody's.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::account::{Role, User};
use crate::event::Topic;

/// The table in force when none is given. The rules are separated as in the variable.
pub const DEFAULT_RULES: &str = "chat/** read=listener write=listener;\
    uploads/{user}/** read=listener write=listener;\
    uploads/** read=admin write=admin;\
    ** read=listener write=publisher";
/// What stands between rules in the variable.
pub const SEPARATOR: char = ';';
/// The most rules; each is looked at for every topic of a request.
pub const MAX_RULES: usize = 100;

/// The table. Cheap to clone.
#[derive(Debug, Clone)]
pub struct TopicRules(Arc<[TopicRule]>);

impl TopicRules {
    /// These rules, in the order in which they are asked.
    pub fn new(rules: Vec<TopicRule>) -> Self {
        Self(rules.into())
    }

    /// Whether `user` may listen to `topic`, see its history and who is there.
    pub fn may_read(&self, user: &User, topic: &Topic) -> bool {
        self.decides(user, topic).is_some_and(|rule| rule.read.includes(user.role))
    }

    /// Whether `user` may publish to `topic`.
    pub fn may_write(&self, user: &User, topic: &Topic) -> bool {
        self.decides(user, topic).is_some_and(|rule| rule.write.includes(user.role))
    }

    fn decides(&self, user: &User, topic: &Topic) -> Option<&TopicRule> {
        self.0.iter().find(|rule| rule.pattern.matches(topic.as_str(), &user.name))
    }
}

/// One line of the table: `PATTERN read=ROLE write=ROLE`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicRule {
    pattern: Pattern,
    read: Permitted,
    write: Permitted,
}

/// Who is permitted something: those with this role or a higher one; `None`: nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Permitted(Option<Role>);

impl Permitted {
    fn includes(self, role: Role) -> bool {
        self.0.is_some_and(|least| role >= least)
    }
}

/// Which topics a rule is about.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Pattern {
    segments: Vec<Segment>,
    /// Whether anything may follow, also nothing.
    is_open: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Segment {
    /// Exactly this.
    Literal(String),
    /// Any one.
    Any,
    /// The name of who asks.
    User,
}

impl Pattern {
    fn matches(&self, topic: &str, user: &str) -> bool {
        let mut rest = topic.split('/');
        let all_match = self.segments.iter().all(|segment| {
            rest.next().is_some_and(|found| match segment {
                Segment::Literal(literal) => literal == found,
                Segment::Any => true,
                Segment::User => user == found,
            })
        });
        all_match && (self.is_open || rest.next().is_none())
    }
}

impl FromStr for TopicRule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut words = text.split_ascii_whitespace();
        let Some(pattern) = words.next() else {
            return Err("a rule is PATTERN read=ROLE write=ROLE; this one is empty".into());
        };
        let (mut read, mut write) = (None, None);
        for word in words {
            let (right, role) = word.split_once('=').unwrap_or((word, ""));
            let permitted = match right {
                "read" => &mut read,
                "write" => &mut write,
                _ => return Err(format!("'{word}' must be read=ROLE or write=ROLE")),
            };
            if permitted.replace(role.parse::<Permitted>()?).is_some() {
                return Err(format!("{right}= may stand only once in a rule"));
            }
        }
        let missing = |right: &str| format!("{right}=ROLE is missing after '{pattern}'");
        Ok(Self {
            pattern: pattern.parse()?,
            read: read.ok_or_else(|| missing("read"))?,
            write: write.ok_or_else(|| missing("write"))?,
        })
    }
}

impl FromStr for Permitted {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "nobody" {
            return Ok(Self(None));
        }
        let unknown = |_| format!("'{text}' must be listener, publisher, admin or nobody");
        text.parse().map(|role| Self(Some(role))).map_err(unknown)
    }
}

impl FromStr for Pattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (head, is_open) = match text.strip_suffix("**") {
            Some("") => return Ok(Self { segments: Vec::new(), is_open: true }),
            Some(head) => match head.strip_suffix('/') {
                Some(head) => (head, true),
                None => return Err(format!("in '{text}', ** must be a segment of its own")),
            },
            None => (text, false),
        };
        let segments = head.split('/').map(|segment| match segment {
            "*" => Ok(Segment::Any),
            "{user}" => Ok(Segment::User),
            "**" => Err(format!("in '{text}', ** may stand only at the end")),
            // What is no topic by itself is no part of one.
            literal => match literal.parse::<Topic>() {
                Ok(_) => Ok(Segment::Literal(literal.to_owned())),
                Err(_) => Err(format!(
                    "in '{text}', '{literal}' is no segment: letters, digits, '.', '_' and '-', or *, ** or {{user}}"
                )),
            },
        });
        let segments = segments.collect::<Result<Vec<_>, _>>()?;
        if segments.len() > Topic::MAX_SEGMENTS {
            return Err(format!("'{text}' matches no topic: at most {} segments", Topic::MAX_SEGMENTS));
        }
        Ok(Self { segments, is_open })
    }
}

impl fmt::Display for TopicRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let segments = self.pattern.segments.iter().map(|segment| match segment {
            Segment::Literal(literal) => literal,
            Segment::Any => "*",
            Segment::User => "{user}",
        });
        let pattern = segments.chain(self.pattern.is_open.then_some("**")).collect::<Vec<_>>().join("/");
        let word = |permitted: Permitted| permitted.0.map_or("nobody", Role::as_str);
        write!(f, "{pattern} read={} write={}", word(self.read), word(self.write))
    }
}

#[cfg(test)]
mod tests;
