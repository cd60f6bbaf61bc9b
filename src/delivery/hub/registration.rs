//! A stream's part in what its node listens for.

use std::fmt;
use std::sync::Arc;

use super::Hub;
use crate::store::Reader;

/// While it exists this node listens for what its reader selects, and the stream counts as one of its user's.
pub struct Registration {
    hub: Arc<Hub>,
    reader: Arc<Reader>,
}

impl Registration {
    pub(super) fn new(hub: Arc<Hub>, reader: Arc<Reader>) -> Self {
        Self { hub, reader }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.hub.leave(self.reader.user, &self.reader.selector.topics);
    }
}

impl fmt::Debug for Registration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Registration").field(&self.reader.user).finish()
    }
}
