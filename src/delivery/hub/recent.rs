//! Which events stood at the positions that this node came by last: a listener that comes back with one of them needs
//! no look into the store.

use std::collections::VecDeque;

use crate::event::{Checkpoint, Cursor, Position};

/// See the module. Bounded; positions rise.
#[derive(Debug, Default)]
pub(super) struct Recent(VecDeque<(Position, u32)>);

impl Recent {
    /// One more, further than all before.
    pub(super) fn add(&mut self, here: Checkpoint, most: usize) {
        let Some(digest) = here.digest() else { return };
        if self.0.back().is_some_and(|(last, _)| *last >= here.position) {
            return;
        }
        self.0.push_back((here.position, digest));
        while self.0.len() > most {
            self.0.pop_front();
        }
    }

    /// Another history begins.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// Whether the cursor's last position is one of these, and its event the same; one without a digest is believed.
    pub(super) fn confirms(&self, cursor: &Cursor) -> bool {
        let Some(digest) = cursor.digest else { return true };
        let found = self.0.binary_search_by_key(&cursor.furthest(), |(position, _)| *position);
        found.is_ok_and(|at| self.0[at].1 == digest)
    }
}
