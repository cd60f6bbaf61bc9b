//! The key that lives as long as an event, and by its end tells every node that the event has expired.

use crate::event::{Epoch, Millis, Position};

/// Names the event, and when it expires: a server whose clock is ahead ends the key early, and who hears of it must know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiveKey {
    /// The history that the position belongs to.
    pub epoch: Epoch,
    /// The event's place in the log.
    pub position: Position,
    /// When it expires, by the database's clock.
    pub expires_at: Millis,
}

impl LiveKey {
    /// Before what the names of these keys differ in.
    pub const PREFIX: &str = "event:";

    /// The key's name.
    pub fn name(&self) -> String {
        format!("{}{}-{}@{}", Self::PREFIX, self.epoch, self.position, self.expires_at)
    }

    /// Reads a name, without its prefix. `None`: it is not such a key, or one of a program that named no time.
    pub fn read(name: &str) -> Option<Self> {
        let (event, expires_at) = name.split_once('@')?;
        let (epoch, position) = event.split_once('-')?;
        let (epoch, position) = (epoch.parse().ok()?, position.parse().ok()?);
        Some(Self { epoch, position, expires_at: expires_at.parse().ok()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_read_as_it_was_written() {
        let key = LiveKey { epoch: "abc1".parse().unwrap(), position: 42, expires_at: 1_900_000_000_000 };
        let name = key.name();
        assert_eq!(LiveKey::read(name.strip_prefix(LiveKey::PREFIX).unwrap()), Some(key));
        for other in ["abc1-42", "abc1-42@", "abc1@5", "-1@5", "ABC-1@5", ""] {
            assert_eq!(LiveKey::read(other), None, "{other}");
        }
    }
}
