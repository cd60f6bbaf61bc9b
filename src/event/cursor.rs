//! The cursor: what a listener has seen, as a short string it sends back to resume.
//!
//! Written `epoch-position.digest`, and `epoch-position+a+b.digest` when events `a` and `b` overtook others in a
//! backlog: everything up to `position` was sent, and besides it `a` and `b`. The digest is of the id of the event at
//! the last position named, in eight hexadecimal digits: if another event stands there now, the log is not the one that
//! was listened to. Without a digest (no event stands there, or programs are running that cannot read one) only the
//! epoch says so. Opaque to clients, save the module for pages that the nodes serve themselves (`static/cursor.js`).

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Checkpoint, Invalid, Position};

/// Names one history of the log. It changes when history may have been rewritten. Clones share the text.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(Arc<str>);

impl Epoch {
    /// The longest epoch, in bytes.
    pub const MAX_LEN: usize = 16;

    /// The epoch as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Epoch {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let letters = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        if text.is_empty() || text.len() > Self::MAX_LEN || !text.bytes().all(letters) {
            return Err(Invalid::new("cursor", "the epoch must be 1 to 16 lower-case letters and digits"));
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a listener has seen of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    /// The history it belongs to.
    pub epoch: Epoch,
    /// Everything up to here was sent.
    pub position: Position,
    /// Positions beyond `position` that were sent ahead of others: ascending, each once.
    pub overtaken: Vec<Position>,
    /// Of the id of the event at [`Cursor::furthest`], if it is known.
    pub digest: Option<u32>,
}

impl Cursor {
    /// The longest cursor without an overtaken list, in bytes.
    pub const MAX_PLAIN_LEN: usize = 64;
    /// How many events may be ahead at once.
    pub const MAX_OVERTAKEN: usize = 32;
    /// The longest cursor of all: each overtaken position is a `+` and at most 19 digits.
    pub const MAX_LEN: usize = Self::MAX_PLAIN_LEN + Self::MAX_OVERTAKEN * 20;

    /// Everything up to here, nothing ahead.
    pub fn at(epoch: Epoch, here: impl Into<Checkpoint>) -> Self {
        let here = here.into();
        Self { epoch, position: here.position, overtaken: Vec::new(), digest: here.digest() }
    }

    /// Everything up to `here` was sent as well.
    pub fn reach(&mut self, here: Checkpoint) {
        let before = self.furthest();
        self.position = self.position.max(here.position);
        let reached = self.position;
        self.overtaken.retain(|ahead| *ahead > reached);
        if self.furthest() > before {
            self.digest = here.digest();
        }
    }

    /// The same in the form that older programs read, too.
    pub fn without_digest(self) -> Self {
        Self { digest: None, ..self }
    }

    /// Of several texts, as of a header that stands more than once, the last that is a cursor, or else what is wrong with the
    /// first. Empty ones count as absent.
    pub fn last_of<'a>(texts: impl Iterator<Item = &'a str>) -> Option<Result<Self, Invalid>> {
        let texts = texts.map(str::trim).filter(|text| !text.is_empty());
        texts.map(str::parse).reduce(|before, next| if next.is_ok() { next } else { before })
    }

    /// The last position it speaks of.
    pub fn furthest(&self) -> Position {
        self.overtaken.last().copied().unwrap_or(self.position)
    }

    /// Whether the event at `position` was already sent to the holder of this cursor.
    pub fn has_seen(&self, position: Position) -> bool {
        position <= self.position || self.overtaken.binary_search(&position).is_ok()
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.epoch, self.position)?;
        self.overtaken.iter().try_for_each(|ahead| write!(f, "+{ahead}"))?;
        self.digest.map_or(Ok(()), |digest| write!(f, ".{digest:08x}"))
    }
}

impl FromStr for Cursor {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let wrong = |message: &str| Invalid::new("cursor", message);
        if text.len() > Self::MAX_LEN {
            return Err(wrong("is too long"));
        }
        let (epoch, positions) = text.split_once('-').ok_or_else(|| wrong("must be 'epoch-position'"))?;
        let (positions, digest) = match positions.split_once('.') {
            Some((positions, digest)) => {
                let digest = parse_digest(digest);
                (positions, Some(digest.ok_or_else(|| wrong("the digest must be eight hexadecimal digits"))?))
            }
            None => (positions, None),
        };
        let mut positions = positions.split('+').map(parse_position);
        let position =
            positions.next().flatten().ok_or_else(|| wrong("the position must be a whole number"))?;
        let mut overtaken = Vec::new();
        for ahead in positions {
            let ahead = ahead.ok_or_else(|| wrong("an overtaken position must be a whole number"))?;
            if ahead <= *overtaken.last().unwrap_or(&position) {
                return Err(wrong("overtaken positions must rise"));
            }
            if overtaken.len() == Self::MAX_OVERTAKEN {
                return Err(wrong("has too many overtaken positions"));
            }
            overtaken.push(ahead);
        }
        Ok(Self { epoch: epoch.parse()?, position, overtaken, digest })
    }
}

/// Digits only, no sign, no leading zero, within 63 bits: one spelling for each number.
fn parse_position(text: &str) -> Option<Position> {
    let plain = text.bytes().all(|b| b.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    if plain { text.parse().ok() } else { None }
}

/// Eight digits, `0` to `9` and `a` to `f`.
fn parse_digest(text: &str) -> Option<u32> {
    let plain = text.len() == 8 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if plain { u32::from_str_radix(text, 16).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn hostile_cursors_are_refused() {
        let long = format!("a-1{}", "+9".repeat(400));
        let many = (2..40).fold("a-1".to_owned(), |c, n| format!("{c}+{n}"));
        let bad = [
            "",
            "-",
            "a",
            "a-",
            "-1",
            "a--1",
            "a-+1",
            "a-01",
            "a-1+",
            "a-1+1",
            "a-1+3+2",
            "a-1+3+3",
            "A-1",
            "a-1 ",
            " a-1",
            "a-1\n",
            "a-9223372036854775808",
            "a-1e3",
            "é-1",
            "a-١",
            "a_b-1",
            "aaaaaaaaaaaaaaaaa-1",
            "a-1\0",
            "a-0x1",
            "a-1-2",
            "a-1.",
            "a-1.1234567",
            "a-1.123456789",
            "a-1.1234567A",
            "a-1.12345678+2",
            "a-1.12345678.12345678",
            "a.12345678",
            "a-1 .12345678",
            &long,
            &many,
        ];
        for text in bad {
            assert_eq!(text.parse::<Cursor>().unwrap_err().field, "cursor", "{text:?}");
        }
    }

    #[test]
    fn the_last_cursor_of_several_counts() {
        let last_of = |texts: &[&str]| {
            Cursor::last_of(texts.iter().copied()).map(|cursor| cursor.map(|cursor| cursor.to_string()).ok())
        };
        assert_eq!(last_of(&[]), None);
        assert_eq!(last_of(&["", " "]), None);
        assert_eq!(last_of(&["rubbish", ""]), Some(None));
        for texts in [["e-1", "e-2+4"], ["e-2+4", ""], ["e-2+4", "rubbish"], ["rubbish", " e-2+4 "]] {
            assert_eq!(last_of(&texts), Some(Some("e-2+4".to_owned())), "{texts:?}");
        }
    }

    #[test]
    fn a_cursor_knows_what_was_seen() {
        let cursor: Cursor = "e-120+131+140".parse().unwrap();
        let seen: Vec<_> = (118..142).filter(|p| cursor.has_seen(*p)).collect();
        assert_eq!(seen, [118, 119, 120, 131, 140]);
    }

    #[test]
    fn the_digest_is_of_the_last_position_that_was_sent() {
        let [fifth, ninth, tenth] =
            [5, 9, 10].map(|at| Checkpoint::new(at, uuid::Uuid::from_u128(at as u128)));
        let mut cursor: Cursor = "e-3+9.0000002a".parse().unwrap();
        cursor.reach(fifth);
        assert_eq!(cursor.to_string(), "e-5+9.0000002a");
        cursor.reach(ninth);
        assert_eq!(cursor.to_string(), "e-9.0000002a", "it was known");
        cursor.reach(tenth);
        assert_eq!(cursor, Cursor::at(cursor.epoch.clone(), tenth));
        cursor.reach(fifth);
        assert_eq!(cursor, Cursor::at(cursor.epoch.clone(), tenth), "nothing new");
        // As every program writes it.
        assert_eq!(tenth.digest(), Some(0x6f69_2277));
        cursor.reach(11.into());
        assert_eq!(cursor.to_string(), "e-11");
    }

    proptest! {
        #[test]
        fn cursors_round_trip(
            epoch in "[a-z0-9]{1,16}",
            position in 0..i64::MAX / 2,
            steps in prop::collection::vec(1..1_000_000i64, 0..Cursor::MAX_OVERTAKEN),
            digest: Option<u32>,
        ) {
            let overtaken = steps.iter().scan(position, |at, step| { *at += step; Some(*at) }).collect();
            let cursor = Cursor { epoch: epoch.parse().unwrap(), position, overtaken, digest };
            let text = cursor.to_string();
            prop_assert!(text.is_ascii() && text.len() <= Cursor::MAX_LEN);
            prop_assert!(!cursor.overtaken.is_empty() || text.len() <= Cursor::MAX_PLAIN_LEN);
            prop_assert_eq!(text.parse::<Cursor>().unwrap(), cursor);
        }

        #[test]
        fn any_text_is_refused_or_has_one_spelling(text in "\\PC{0,80}") {
            if let Ok(cursor) = text.parse::<Cursor>() {
                prop_assert_eq!(cursor.to_string(), text);
            }
        }
    }
}
