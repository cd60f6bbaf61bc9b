//! Who may read and write which topics: a table from the configuration. Pure.
//!
//! The first rule whose pattern matches decides; a topic that none matches is nobody's.
//!
//! # Patterns
//! Segments joined by `/`, as in a topic. `*` is any one segment, `{user}` one segment that is the public id of the user
//! who asks or a name that this user has or had, `**` at the end any number of segments, also none. In any other segment
//! `\` makes the next character literal; `*`, `{`, `\` and, in a rule's text form, a space need it.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::account::{Role, User};
use crate::event::Topic;
use crate::event::name::MAX_NAME_LEN;

/// The table in force when none is given. The rules are separated as in the variable.
pub const DEFAULT_RULES: &str = "chat/** read=listener write=listener;\
    uploads/{user}/** read=listener write=listener;\
    uploads/** read=admin write=admin;\
    ** read=listener write=publisher";
/// What stands between rules in the variable. A rule that holds it has its place in the configuration file.
pub const SEPARATOR: char = ';';
/// The most rules; each is looked at for every topic of a request.
pub const MAX_RULES: usize = 100;
/// What makes the next character of a pattern literal.
const ESCAPE: char = '\\';

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
        self.0.iter().find(|rule| rule.pattern.matches(topic, user))
    }
}

/// One line of the table; as text `PATTERN read=ROLE write=ROLE`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicRule {
    pattern: Pattern,
    read: Permitted,
    write: Permitted,
}

impl TopicRule {
    /// A rule from its parts: a pattern, in which spaces may stand as they are, and who may read and write: `listener`,
    /// `publisher`, `admin` or `nobody`. The error says what is wrong with which of them.
    pub fn new(pattern: &str, read: &str, write: &str) -> Result<Self, String> {
        Ok(Self { pattern: pattern.parse()?, read: read.parse()?, write: write.parse()? })
    }
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
    /// What only the user who asks is called.
    User,
}

impl Pattern {
    fn matches(&self, topic: &Topic, user: &User) -> bool {
        let mut rest = topic.as_str().split('/');
        let all_match = self.segments.iter().all(|segment| {
            rest.next().is_some_and(|found| match segment {
                Segment::Literal(literal) => literal == found,
                Segment::Any => true,
                Segment::User => user.is_called(found),
            })
        });
        all_match && (self.is_open || rest.next().is_none())
    }

    /// The bytes of the shortest topic that it matches.
    fn least_len(&self) -> usize {
        let segment = |segment: &Segment| if let Segment::Literal(text) = segment { text.len() } else { 1 };
        let slashes = self.segments.len().saturating_sub(1);
        self.segments.iter().map(segment).sum::<usize>() + slashes
    }
}

impl FromStr for TopicRule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut words =
            split(text, |character| character.is_ascii_whitespace()).filter(|word| !word.is_empty());
        let Some(pattern) = words.next() else {
            return Err("a rule is PATTERN read=ROLE write=ROLE; this one is empty".into());
        };
        let (mut read, mut write) = (None, None);
        for word in words {
            let (right, role) = word.split_once('=').unwrap_or((word, ""));
            let given = match right {
                "read" => &mut read,
                "write" => &mut write,
                _ => return Err(format!("'{word}' must be read=ROLE or write=ROLE")),
            };
            if given.replace(role).is_some() {
                return Err(format!("{right}= may stand only once in a rule"));
            }
        }
        let missing = |right: &str| format!("{right}=ROLE is missing after '{pattern}'");
        Self::new(pattern, read.ok_or_else(|| missing("read"))?, write.ok_or_else(|| missing("write"))?)
    }
}

/// The parts of `text` between characters for which `ends` says so and which are not literal.
fn split(text: &str, ends: impl Fn(char) -> bool) -> impl Iterator<Item = &str> {
    let mut is_literal = false;
    text.split(move |character| {
        let is_end = !is_literal && ends(character);
        is_literal = !is_literal && character == ESCAPE;
        is_end
    })
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
        let mut pattern = Self { segments: Vec::new(), is_open: false };
        for segment in split(text, |character| character == '/') {
            if pattern.is_open {
                return Err(format!("in '{text}', ** may stand only at the end"));
            }
            match segment {
                "**" => pattern.is_open = true,
                segment => {
                    let read = segment.parse().map_err(|why: String| format!("in '{text}', {why}"))?;
                    pattern.segments.push(read);
                }
            }
        }
        if pattern.least_len() > MAX_NAME_LEN {
            return Err(format!("'{text}' matches no topic: they have at most {MAX_NAME_LEN} bytes"));
        }
        Ok(pattern)
    }
}

impl FromStr for Segment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "*" => return Ok(Self::Any),
            "{user}" => return Ok(Self::User),
            _ => {}
        }
        let mut literal = String::with_capacity(text.len());
        let mut characters = text.chars();
        while let Some(character) = characters.next() {
            literal.push(match character {
                ESCAPE => match characters.next() {
                    Some('/') => {
                        return Err(format!("in '{text}', '/' cannot be literal: it ends a segment"));
                    }
                    Some(escaped) => escaped,
                    None => return Err(format!("'{text}' ends with a \\ that nothing follows")),
                },
                '*' | '{' => {
                    let meant = format!("{character} among others must be \\{character}");
                    return Err(format!("'{text}' is no segment: *, {{user}} and ** stand alone, {meant}"));
                }
                plain => plain,
            });
        }
        // What is no topic by itself is no segment of one.
        match literal.parse::<Topic>() {
            Ok(_) => Ok(Self::Literal(literal)),
            Err(why) => Err(format!("'{text}' is no segment of a topic: it {}", why.message)),
        }
    }
}

impl fmt::Display for TopicRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = |permitted: Permitted| permitted.0.map_or("nobody", Role::as_str);
        write!(f, "{} read={} write={}", self.pattern, word(self.read), word(self.write))
    }
}

/// In the form that a rule's text may hold.
impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let segments = self.segments.iter().map(Segment::to_string);
        let all: Vec<_> = segments.chain(self.is_open.then(|| "**".to_owned())).collect();
        f.write_str(&all.join("/"))
    }
}

impl fmt::Display for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use fmt::Write as _;
        match self {
            Self::Any => f.write_str("*"),
            Self::User => f.write_str("{user}"),
            Self::Literal(text) => text.chars().try_for_each(|character| {
                if matches!(character, '*' | '{' | ESCAPE | ' ') {
                    f.write_char(ESCAPE)?;
                }
                f.write_char(character)
            }),
        }
    }
}

#[cfg(test)]
mod tests;
