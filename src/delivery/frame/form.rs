//! The wire forms of a publisher's event, and which encoder writes which.

use std::str::FromStr;

use super::{data, envelope, named, plain};
use crate::event::{Event, Invalid};

/// How a stream carries the events of publishers. The server's own events are the same in each form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Form {
    /// Fields and data as one JSON object, without `event:`.
    #[default]
    Envelope,
    /// The same, with the type as `event:`.
    Named,
    /// The publisher's data alone, with the type as `event:`.
    Plain,
    /// The publisher's data alone, without `event:`.
    Data,
}

impl Form {
    /// All there are, each at its own number.
    pub const ALL: [Self; 4] = [Self::Envelope, Self::Named, Self::Plain, Self::Data];

    /// Its name in a request.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Envelope => "envelope",
            Self::Named => "named",
            Self::Plain => "plain",
            Self::Data => "data",
        }
    }

    /// Appends the fields of the frame that carries `event`, all but its `id:`.
    pub(super) fn put(self, out: &mut Vec<u8>, event: &Event) {
        match self {
            Self::Envelope => envelope::put(out, event),
            Self::Named => named::put(out, event),
            Self::Plain => plain::put(out, event),
            Self::Data => data::put(out, event),
        }
    }
}

impl FromStr for Form {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let named = Self::ALL.into_iter().find(|form| form.as_str() == text);
        named.ok_or_else(|| Invalid::new("form", "must be envelope, named, plain or data"))
    }
}
