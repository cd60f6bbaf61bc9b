//! Who is on one topic, over all nodes. Pure: what was read and received goes in, with the time; who came and who left
//! comes out.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::event::UserId;

/// A user's name.
pub type Name = Arc<str>;

/// A user as nodes share them: what another version adds is ignored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct User {
    /// Who it is.
    pub id: UserId,
    /// Their name: what is shown.
    pub name: Name,
}

/// The most places (a user on a node) known of one topic; of more, some are left out.
pub const MAX_PLACES: usize = 20_000;

/// That a user came or left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// They are here now, on some node, and were not before.
    Join(Name),
    /// They are on no node any more.
    Leave(Name),
}

/// One topic's users.
#[derive(Debug, Default)]
pub struct TopicUsers {
    users: BTreeMap<Name, Places>,
    places: usize,
    /// Who was touched since changes were last taken, and whether they were present then.
    touched: BTreeMap<Name, bool>,
}

/// Where a user is. One without any place is not kept.
#[derive(Debug, Default)]
struct Places {
    here: Option<Here>,
    /// Other nodes, and since when their tables no longer show the user there.
    there: BTreeMap<String, Option<Instant>>,
}

#[derive(Debug, Clone, Copy)]
struct Here {
    id: UserId,
    /// Gone since then, which may be a reload of the page.
    gone: Option<Instant>,
}

impl TopicUsers {
    /// Who listens on this node now. Gives those who are new here.
    pub fn here(&mut self, users: &BTreeMap<Name, UserId>, now: Instant) -> Vec<Name> {
        for (name, places) in &mut self.users {
            if let Some(here) = &mut places.here
                && !users.contains_key(name)
            {
                here.gone.get_or_insert(now);
            }
        }
        let mut new = Vec::new();
        for (name, &id) in users {
            if self.change(name, |places| places.here.replace(Here { id, gone: None })).is_none() {
                new.push(name.clone());
            }
        }
        new
    }

    /// Those who have been gone from this node for `grace`: they are here no more.
    pub fn left(&mut self, now: Instant, grace: Duration) -> Vec<Name> {
        let is_over = |places: &Places| places.gone().is_some_and(|since| now >= since + grace);
        let left: Vec<Name> =
            self.users.iter().filter(|(_, places)| is_over(places)).map(|(name, _)| name.clone()).collect();
        for name in &left {
            self.change(name, |places| places.here = None);
        }
        left
    }

    /// When the next of those gone from this node will have been gone for `grace`.
    pub fn next_left(&self, grace: Duration) -> Option<Instant> {
        self.users.values().filter_map(|places| Some(places.gone()? + grace)).min()
    }

    /// Everybody on this node, those included who may only be reloading.
    pub fn all_here(&self) -> Vec<User> {
        let here = |(name, places): (&Name, &Places)| Some(User { id: places.here?.id, name: name.clone() });
        self.users.iter().filter_map(here).collect()
    }

    /// Another node sent who came to it and who left it.
    pub fn remote_change(&mut self, node: &str, joined: &[String], left: &[String]) {
        for name in joined {
            self.seen(node, name);
        }
        for name in left {
            self.change(&Name::from(name.as_str()), |places| places.there.remove(node));
        }
    }

    /// The tables showed these places on other nodes. Who is not among them counts as gone only when missing for
    /// `patience`: longer than it takes a node to write a lost table again, so that an emptied Redis drives nobody out.
    pub fn read(&mut self, places: &[(String, String)], now: Instant, patience: Duration) {
        let shown: BTreeSet<(&str, &str)> = places.iter().map(|(node, name)| (&**node, &**name)).collect();
        for (node, name) in &shown {
            self.seen(node, name);
        }
        // What did not fit into the answer is not known to be gone.
        if places.len() >= MAX_PLACES {
            return;
        }
        let mut gone = Vec::new();
        for (name, places) in &mut self.users {
            for (node, missing) in &mut places.there {
                if shown.contains(&(&**node, &**name)) {
                    continue;
                }
                let since = *missing.get_or_insert(now);
                if now >= since + patience {
                    gone.push((name.clone(), node.clone()));
                }
            }
        }
        for (name, node) in gone {
            self.change(&name, |places| places.there.remove(&node));
        }
    }

    /// Forgets what is known of other nodes: for a time its notices were not received.
    pub fn forget_others(&mut self) {
        let names: Vec<Name> = self.users.keys().cloned().collect();
        for name in names {
            self.change(&name, |places| places.there.clear());
        }
    }

    /// Who came and who left since this was last asked.
    pub fn take_changes(&mut self) -> Vec<Change> {
        let touched = std::mem::take(&mut self.touched);
        let changed = touched.into_iter().filter_map(|(name, was_present)| {
            match (was_present, self.users.contains_key(&name)) {
                (false, true) => Some(Change::Join(name)),
                (true, false) => Some(Change::Leave(name)),
                _ => None,
            }
        });
        changed.collect()
    }

    /// Everybody who is on the topic, by name.
    pub fn users(&self) -> impl ExactSizeIterator<Item = &Name> {
        self.users.keys()
    }

    /// Whether nobody is here, and nothing needs to be kept.
    pub fn is_nobody_here(&self) -> bool {
        self.users.values().all(|places| places.here.is_none())
    }

    fn seen(&mut self, node: &str, name: &str) {
        let known = self.users.get_mut(name).and_then(|places| places.there.get_mut(node));
        if let Some(missing) = known {
            *missing = None;
        } else if self.places < MAX_PLACES {
            self.change(&Name::from(name), |places| places.there.insert(node.to_owned(), None));
        }
    }

    /// Changes a user's places, remembering whether they were present before.
    fn change<T>(&mut self, name: &Name, change: impl FnOnce(&mut Places) -> T) -> T {
        let was_present = self.users.contains_key(name);
        let places = self.users.entry(name.clone()).or_default();
        let before = places.count();
        let answer = change(places);
        let after = places.count();
        self.places = self.places + after - before;
        if after == 0 {
            self.users.remove(name);
        }
        if was_present != (after > 0) {
            self.touched.entry(name.clone()).or_insert(was_present);
        }
        answer
    }
}

impl Places {
    /// Since when the user is gone from this node, if they were here.
    fn gone(&self) -> Option<Instant> {
        self.here?.gone
    }

    fn count(&self) -> usize {
        usize::from(self.here.is_some()) + self.there.len()
    }
}

#[cfg(test)]
mod tests;
