//! Checkpoints: which event stands at a position distinguishes a log that has lost its end and grown again from the one
//! that it was. Ids are drawn once, so the same id at a position means the same history up to there.

use uuid::Uuid;

use super::Position;

/// A position of the log, and the id of the event there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Checkpoint {
    /// The position.
    pub position: Position,
    /// The event's id; `None` if there is no event, or it is not known.
    pub id: Option<Uuid>,
}

impl Checkpoint {
    /// With the event that stands there.
    pub fn new(position: Position, id: Uuid) -> Self {
        Self { position, id: Some(id) }
    }

    /// The id's digest.
    pub fn digest(&self) -> Option<u32> {
        self.id.as_ref().map(id_digest)
    }
}

impl From<Position> for Checkpoint {
    /// Without an id.
    fn from(position: Position) -> Self {
        Self { position, id: None }
    }
}

/// 32 bits of an id, for cursors: 32-bit FNV-1a over its bytes, the same in every program.
pub fn id_digest(id: &Uuid) -> u32 {
    id.as_bytes().iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}
