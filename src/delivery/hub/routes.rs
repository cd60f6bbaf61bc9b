//! The last positions that this node came by: whom their events were for, and which events they were. Who comes back
//! with one of them and missed nothing needs no look into the store, and that is found with one look for each of their
//! targets, however many events there were.

use std::collections::{HashMap, VecDeque};

use crate::event::{Audience, Checkpoint, Cursor, Position, Selector, Topic, UserId};

/// See the module. Bounded; positions rise.
#[derive(Debug)]
pub(super) struct Routes {
    routes: VecDeque<(Position, Audience)>,
    /// How many targets they name.
    targets: usize,
    /// Everything above it is there.
    floor: Position,
    /// The last position for everyone, for each user and for each topic.
    everyone: Position,
    by_user: HashMap<UserId, Position>,
    by_topic: HashMap<Topic, Position>,
    /// Digests of the events at positions.
    digests: VecDeque<(Position, u32)>,
    max_routes: usize,
    max_targets: usize,
}

impl Routes {
    pub(super) fn new(max_routes: usize, max_targets: usize) -> Self {
        Self {
            routes: VecDeque::new(),
            targets: 0,
            floor: 0,
            everyone: 0,
            by_user: HashMap::new(),
            by_topic: HashMap::new(),
            digests: VecDeque::new(),
            max_routes,
            max_targets,
        }
    }

    pub(super) fn add(&mut self, routes: Vec<(Position, Audience)>) {
        for (position, audience) in routes {
            self.targets += audience.targets();
            match &audience {
                Audience::Everyone => self.everyone = position,
                Audience::Of { users, topics } => {
                    self.by_user.extend(users.iter().map(|user| (*user, position)));
                    self.by_topic.extend(topics.iter().map(|topic| (topic.clone(), position)));
                }
            }
            self.routes.push_back((position, audience));
        }
        while self.routes.len() > self.max_routes || self.targets > self.max_targets {
            let Some((position, audience)) = self.routes.pop_front() else { return };
            self.targets -= audience.targets();
            self.floor = position;
            for user in audience.user_ids() {
                remove_at(&mut self.by_user, user, position);
            }
            for topic in audience.topics() {
                remove_at(&mut self.by_topic, topic, position);
            }
        }
    }

    /// What lies at or below `floor` is no longer known.
    pub(super) fn forget(&mut self, floor: Position) {
        let digests = std::mem::take(&mut self.digests);
        *self = Self { floor, digests, ..Self::new(self.max_routes, self.max_targets) };
    }

    /// The event that stands at a position further than all before.
    pub(super) fn add_checkpoint(&mut self, here: Checkpoint) {
        let Some(digest) = here.digest() else { return };
        if self.digests.back().is_some_and(|(last, _)| *last >= here.position) {
            return;
        }
        self.digests.push_back((here.position, digest));
        while self.digests.len() > self.max_routes {
            self.digests.pop_front();
        }
    }

    /// Another history begins.
    pub(super) fn clear_checkpoints(&mut self) {
        self.digests.clear();
    }

    /// Whom the event at a position was for.
    pub(super) fn audience_of(&self, position: Position) -> Option<&Audience> {
        let at = self.routes.binary_search_by_key(&position, |(position, _)| *position).ok()?;
        Some(&self.routes[at].1)
    }

    /// Whether it is known here that the cursor is of this log, and that nothing behind it is for `selector`. What was
    /// sent ahead is not looked at: such a cursor is asked in the store.
    pub(super) fn missed_nothing(&self, cursor: &Cursor, selector: &Selector) -> bool {
        let is_before = |position: Position| position <= cursor.position;
        let is_user_before = |user| self.by_user.get(user).copied().is_none_or(is_before);
        let is_topic_before = |topic| self.by_topic.get(topic).copied().is_none_or(is_before);
        cursor.position >= self.floor
            && cursor.overtaken.is_empty()
            && self.confirms(cursor)
            && (!selector.everyone || is_before(self.everyone))
            && selector.users.iter().all(is_user_before)
            && selector.topics.iter().all(is_topic_before)
    }

    /// Whether the cursor's last position is one of these, and its event the same; one without a digest is believed.
    fn confirms(&self, cursor: &Cursor) -> bool {
        let Some(digest) = cursor.digest else { return true };
        let found = self.digests.binary_search_by_key(&cursor.furthest(), |(position, _)| *position);
        found.is_ok_and(|at| self.digests[at].1 == digest)
    }
}

/// Forgets a target whose last position that was.
fn remove_at<K: std::hash::Hash + Eq>(last: &mut HashMap<K, Position>, key: &K, position: Position) {
    if last.get(key) == Some(&position) {
        last.remove(key);
    }
}
