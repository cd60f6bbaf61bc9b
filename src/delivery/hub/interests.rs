//! For whom somebody listens on this node: counts, by which a reactor is woken only for what its streams may want.

use std::collections::HashMap;

use crate::event::{Audience, Selector, Topic, UserId};

/// See the module. All streams of one user are on one reactor.
#[derive(Debug)]
pub(super) struct Interests {
    /// How many listen, on each reactor.
    listeners: Vec<u32>,
    by_user: HashMap<UserId, u32>,
    /// How many listen to a topic, on each reactor.
    by_topic: HashMap<Topic, Box<[u32]>>,
}

/// Some of the reactors, one bit each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Reactors(u64);

impl Reactors {
    pub(super) fn has(self, reactor: usize) -> bool {
        self.0 >> reactor & 1 == 1
    }

    pub(super) fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(super) fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    fn one(reactor: usize) -> Self {
        Self(1 << reactor)
    }

    fn with_any(counts: &[u32]) -> Self {
        let with = counts.iter().enumerate().filter(|(_, count)| **count > 0);
        with.fold(Self::default(), |all, (reactor, _)| all.and(Self::one(reactor)))
    }
}

/// The most reactors.
pub const MAX_REACTORS: usize = 64;

impl Interests {
    pub(super) fn new(reactors: usize) -> Self {
        Self { listeners: vec![0; reactors], by_user: HashMap::new(), by_topic: HashMap::new() }
    }

    /// Which reactor has the streams of a user.
    pub(super) fn reactor_of(&self, user: UserId) -> usize {
        // Numbers that follow each other are spread, and so are those that do not.
        let mixed = user.cast_unsigned().wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        usize::try_from(mixed).unwrap_or(0) % self.listeners.len()
    }

    pub(super) fn len(&self) -> usize {
        self.listeners.iter().map(|count| *count as usize).sum()
    }

    pub(super) fn streams_of(&self, user: UserId) -> usize {
        self.by_user.get(&user).map_or(0, |count| *count as usize)
    }

    /// Which reactors have a listener that an event for this audience concerns, perhaps.
    pub(super) fn concerned(&self, audience: &Audience) -> Reactors {
        match audience {
            Audience::Everyone => Reactors::with_any(&self.listeners),
            Audience::Of { users, topics } => {
                let users = users.iter().filter(|user| self.by_user.contains_key(user));
                let users = users.map(|user| Reactors::one(self.reactor_of(*user)));
                let topics = topics.iter().filter_map(|topic| self.by_topic.get(topic));
                let topics = topics.map(|counts| Reactors::with_any(counts));
                users.chain(topics).fold(Reactors::default(), Reactors::and)
            }
        }
    }

    /// Which of them have listeners to this topic.
    pub(super) fn of_topic(&self, topic: &Topic) -> Reactors {
        self.by_topic.get(topic).map_or_else(Reactors::default, |counts| Reactors::with_any(counts))
    }

    /// One more; whether it is the first of this user.
    pub(super) fn add_user(&mut self, user: UserId) -> bool {
        let reactor = self.reactor_of(user);
        self.listeners[reactor] += 1;
        let count = self.by_user.entry(user).or_default();
        *count += 1;
        *count == 1
    }

    /// One less; whether it was the last of this user.
    pub(super) fn remove_user(&mut self, user: UserId) -> bool {
        let reactor = self.reactor_of(user);
        self.listeners[reactor] = self.listeners[reactor].saturating_sub(1);
        let Some(count) = self.by_user.get_mut(&user) else { return false };
        *count -= 1;
        *count == 0 && self.by_user.remove(&user).is_some()
    }

    /// A listener more to a topic; whether it is the first here.
    pub(super) fn add_topic(&mut self, user: UserId, topic: &Topic) -> bool {
        let (reactor, reactors) = (self.reactor_of(user), self.listeners.len());
        let mut is_first = false;
        let counts = self.by_topic.entry(topic.clone()).or_insert_with(|| {
            is_first = true;
            vec![0; reactors].into()
        });
        counts[reactor] += 1;
        is_first
    }

    /// A listener less to a topic; whether it was the last here.
    pub(super) fn remove_topic(&mut self, user: UserId, topic: &Topic) -> bool {
        let reactor = self.reactor_of(user);
        let Some(counts) = self.by_topic.get_mut(topic) else { return false };
        counts[reactor] = counts[reactor].saturating_sub(1);
        counts.iter().all(|count| *count == 0) && self.by_topic.remove(topic).is_some()
    }

    /// All that somebody here listens for; `None` if that is more than `most` targets.
    pub(super) fn selector(&self, most: usize) -> Option<Selector> {
        (self.by_user.len() + self.by_topic.len() <= most).then(|| {
            let mut selector = Selector {
                everyone: true,
                users: self.by_user.keys().copied().collect(),
                topics: self.by_topic.keys().cloned().collect(),
                ..Selector::default()
            };
            selector.users.sort_unstable();
            selector.topics.sort_unstable();
            selector
        })
    }
}
