//! Events and the small vocabulary around them. Pure: no input or output happens here.

pub mod applied;
pub mod audience;
pub mod checkpoint;
pub mod cursor;
pub mod draft;
pub mod fingerprint;
pub mod name;
pub mod selector;
pub mod shown;

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

pub use applied::{Applied, AppliedCell};
pub use audience::{Audience, Topic};
pub use checkpoint::{Checkpoint, id_digest};
pub use cursor::{Cursor, Epoch};
pub use draft::{Draft, Recipients};
pub use fingerprint::Fingerprint;
pub use selector::Selector;
pub use shown::{Shown, rfc3339};

/// A place in the log: strictly increasing in commit order, with holes. Zero is before the first event.
pub type Position = i64;
/// Milliseconds since the Unix epoch, by the database's clock.
pub type Millis = i64;
/// The store's number for a user.
pub type UserId = i64;

/// Something from outside that breaks a rule; `field` is its name as the caller wrote it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {message}")]
pub struct Invalid {
    /// The field, parameter or option at fault, with an index for batches (`events[3].type`).
    pub field: String,
    /// What is wrong, as one plain sentence without the field's name.
    pub message: String,
}

impl Invalid {
    /// An error about `field`.
    pub fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { field: field.into(), message: message.into() }
    }
}

/// How urgent an event is. In a backlog the higher leaves first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Priority {
    /// May wait.
    Low = 0,
    /// The default.
    #[default]
    Normal = 1,
    /// Ahead of normal ones in a backlog.
    High = 2,
    /// Ahead of everything in a backlog.
    Urgent = 3,
}

impl Priority {
    /// All of them, lowest first.
    pub const ALL: [Self; 4] = [Self::Low, Self::Normal, Self::High, Self::Urgent];

    /// The word used in JSON and in query parameters.
    pub fn as_str(self) -> &'static str {
        ["low", "normal", "high", "urgent"][self as usize]
    }

    /// From the number kept in the store; unknown numbers are read as `Normal`.
    pub fn from_number(number: i16) -> Self {
        usize::try_from(number).ok().and_then(|n| Self::ALL.get(n).copied()).unwrap_or_default()
    }
}

impl FromStr for Priority {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        Self::ALL
            .into_iter()
            .find(|p| p.as_str() == text)
            .ok_or_else(|| Invalid::new("priority", "must be low, normal, high or urgent"))
    }
}

impl fmt::Display for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An event's type: 1 to 64 of `[A-Za-z0-9._-]`, not beginning with `carillon.`, which is the server's own.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EventType(String);

impl EventType {
    /// The longest type, in bytes.
    pub const MAX_LEN: usize = 64;

    /// The type as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A type read back from the store, which only ever holds checked ones.
    pub fn from_stored(text: String) -> Self {
        Self(text)
    }
}

impl FromStr for EventType {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let wrong = |message: &str| Err(Invalid::new("type", message));
        if text.is_empty() || text.len() > Self::MAX_LEN {
            return wrong("must have 1 to 64 characters");
        }
        if !text.bytes().all(is_name_byte) {
            return wrong("may hold only letters, digits, '.', '_' and '-'");
        }
        if text.starts_with("carillon.") {
            return wrong("'carillon.' is reserved for the server's own events");
        }
        Ok(Self(text.to_owned()))
    }
}

/// The bytes that types are made of.
fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-')
}

/// When an event ends for everyone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expiry {
    /// Kept until retention removes it.
    Never,
    /// At this time.
    At(Millis),
    /// This many milliseconds after it is committed, by the database's clock.
    After(Millis),
}

impl Expiry {
    /// When an event that is committed at `created_at` ends.
    pub fn from(self, created_at: Millis) -> Option<Millis> {
        match self {
            Self::Never => None,
            Self::At(at) => Some(at),
            Self::After(span) => Some(created_at.saturating_add(span)),
        }
    }
}

/// An event on its way into the log.
#[derive(Debug, Clone)]
pub struct NewEvent {
    /// Drawn by the publishing node (UUID version 7); the key for de-duplication.
    pub id: Uuid,
    /// What kind of event.
    pub event_type: EventType,
    /// How urgent.
    pub priority: Priority,
    /// Whom it is for.
    pub audience: Audience,
    /// The publisher's JSON on one line, as it was sent.
    pub data: String,
    /// When it ends for everyone.
    pub expiry: Expiry,
    /// How long it stays with a user who has read it; `None`: as long as it lives.
    pub keep_after_read: Option<Millis>,
    /// Who published it.
    pub publisher: UserId,
    /// The publisher's key and this event's place in the request that carried it.
    pub idempotency: Option<(String, i32)>,
    /// The fingerprint of the request that carried it; without one it matches any.
    pub request: Option<Fingerprint>,
}

/// An event as the log holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Its place in the log.
    pub position: Position,
    /// The key for de-duplication.
    pub id: Uuid,
    /// What kind of event.
    pub event_type: EventType,
    /// How urgent.
    pub priority: Priority,
    /// Whom it is for.
    pub audience: Audience,
    /// The publisher's JSON on one line.
    pub data: String,
    /// When it was committed.
    pub created_at: Millis,
    /// When it ends for everyone, if it does.
    pub expires_at: Option<Millis>,
    /// How long it stays with a user who has read it; `None`: as long as it lives.
    pub keep_after_read: Option<Millis>,
    /// Who published it.
    pub publisher: UserId,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn event_types_follow_the_rules() {
        for good in ["a", "order.paid", "A-1_b", &"x".repeat(64)] {
            assert!(good.parse::<EventType>().is_ok(), "{good}");
        }
        for bad in ["", "a b", "a\nb", "é", "carillon.reset", &"x".repeat(65)] {
            assert_eq!(bad.parse::<EventType>().unwrap_err().field, "type", "{bad:?}");
        }
    }

    #[test]
    fn priorities_are_ordered_and_round_trip() {
        assert!(Priority::Urgent > Priority::High && Priority::Normal > Priority::Low);
        for priority in Priority::ALL {
            assert_eq!(priority.as_str().parse::<Priority>().unwrap(), priority);
            assert_eq!(Priority::from_number(priority as i16), priority);
        }
        assert!("Urgent".parse::<Priority>().is_err());
    }
}
