//! How far a node has applied the log: what it asks the store about.

use std::sync::{Mutex, PoisonError};

use super::{Checkpoint, Epoch};

/// How far a node has applied which history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// The history.
    pub epoch: Epoch,
    /// The last position handed to listeners.
    pub at: Checkpoint,
}

/// The same, set by what applies the log, and read by what appends to it.
#[derive(Debug, Default)]
pub struct AppliedCell(Mutex<Option<Applied>>);

impl AppliedCell {
    /// `None` until the node has seen the log.
    pub fn get(&self) -> Option<Applied> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The node is there now.
    pub fn set(&self, epoch: &Epoch, at: Checkpoint) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Applied { epoch: epoch.clone(), at });
    }
}
