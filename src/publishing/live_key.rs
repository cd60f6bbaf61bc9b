//! The key that lives as long as an event: its end says at once, on every node, that the event has ended.

use std::fmt;

use crate::event::{Cursor, Epoch, Millis, Position};

/// `event:{epoch}-{position}:{expires_at}`, without its prefix where it is parsed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiveKey {
    /// The history that the position belongs to.
    pub epoch: Epoch,
    /// The event's.
    pub position: Position,
    /// When the event ends, by the database's clock: the key may end earlier.
    pub expires_at: Millis,
}

impl LiveKey {
    /// Before all such keys.
    pub const PREFIX: &str = "event:";

    /// Reads what stands behind [`Self::PREFIX`]; `None` if it is no such key.
    pub fn parse(text: &str) -> Option<Self> {
        let (cursor, expires_at) = text.rsplit_once(':')?;
        let Cursor { epoch, position, .. } = cursor.parse().ok()?;
        Some(Self { epoch, position, expires_at: expires_at.parse().ok()? })
    }
}

impl fmt::Display for LiveKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cursor = Cursor::at(self.epoch.clone(), self.position);
        write!(f, "{}{cursor}:{}", Self::PREFIX, self.expires_at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_as_it_was_written() {
        let key = LiveKey {
            epoch: "0123456789abcdef".parse().unwrap(),
            position: 7,
            expires_at: 1_700_000_000_000,
        };
        let text = key.to_string();
        assert_eq!(LiveKey::parse(text.strip_prefix(LiveKey::PREFIX).unwrap()), Some(key));
        for other in ["", "x", "0123456789abcdef-7", "0123456789abcdef-7:soon", "nonsense:7"] {
            assert_eq!(LiveKey::parse(other), None, "{other}");
        }
    }
}
