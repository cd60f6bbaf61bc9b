//! How many bytes may wait somewhere.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A bound on bytes held, of which everything held takes its share. Cheap to clone.
#[derive(Clone)]
pub(super) struct ByteBudget {
    pub(super) left: Arc<Semaphore>,
    all: u32,
}

impl ByteBudget {
    pub(super) fn new(bytes: u32) -> Self {
        Self { left: Arc::new(Semaphore::new(bytes as usize)), all: bytes }
    }

    /// A share of this size, or of all there is if that is less; `None` if so much is not left.
    pub(super) fn take(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let share = u32::try_from(bytes).unwrap_or(u32::MAX).min(self.all);
        self.left.clone().try_acquire_many_owned(share).ok()
    }
}
