//! Items that arrived before their turn, by position, with their count and bytes known.

use std::collections::BTreeMap;

use crate::event::Position;

/// Items by position. The caller evicts after inserting, from the end that matters less.
#[derive(Debug)]
pub(super) struct ReorderBuffer<T> {
    items: BTreeMap<Position, (usize, T)>,
    bytes: usize,
    max_items: usize,
    max_bytes: usize,
}

impl<T> ReorderBuffer<T> {
    pub(super) fn new(max_items: usize, max_bytes: usize) -> Self {
        Self { items: BTreeMap::new(), bytes: 0, max_items, max_bytes }
    }

    /// Puts an item of so many bytes in, in place of what was there.
    pub(super) fn insert(&mut self, position: Position, bytes: usize, item: T) {
        self.bytes += bytes;
        if let Some((before, _)) = self.items.insert(position, (bytes, item)) {
            self.bytes -= before;
        }
    }

    /// Whether something must be dropped. One item may always wait.
    pub(super) fn is_over(&self) -> bool {
        self.items.len() > self.max_items || (self.bytes > self.max_bytes && self.items.len() > 1)
    }

    /// Whether another item may be one too many.
    pub(super) fn is_full(&self) -> bool {
        self.items.len() >= self.max_items || self.bytes >= self.max_bytes
    }

    pub(super) fn get(&self, position: Position) -> Option<&T> {
        self.items.get(&position).map(|(_, item)| item)
    }

    pub(super) fn first(&self) -> Option<(Position, &T)> {
        self.items.first_key_value().map(|(position, (_, item))| (*position, item))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Position, &T)> {
        self.items.iter().map(|(position, (_, item))| (*position, item))
    }

    pub(super) fn pop_first(&mut self) -> Option<T> {
        let popped = self.items.pop_first();
        self.without(popped.map(|(_, item)| item))
    }

    pub(super) fn pop_last(&mut self) -> Option<T> {
        let popped = self.items.pop_last();
        self.without(popped.map(|(_, item)| item))
    }

    pub(super) fn remove(&mut self, position: Position) -> Option<T> {
        let removed = self.items.remove(&position);
        self.without(removed)
    }

    fn without(&mut self, removed: Option<(usize, T)>) -> Option<T> {
        let (bytes, item) = removed?;
        self.bytes -= bytes;
        Some(item)
    }

    /// Drops items from the first on, as long as `is_past`.
    pub(super) fn drop_while(&mut self, is_past: impl Fn(Position, &T) -> bool) {
        while self.first().is_some_and(|(position, item)| is_past(position, item)) {
            self.pop_first();
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.items.len()
    }
}
