//! Which of a reactor's sessions an audience concerns, and which rest on a credential. Leaving costs one step for each
//! topic and credential of the session, however many others have them.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::ops::Bound;

use indexmap::IndexSet;

use crate::account::Credential;
use crate::delivery::request::Subscription;
use crate::event::{Audience, Topic, UserId};

/// The place of a session.
pub(super) type Place = u32;

/// How many credentials are given at once.
const PAGE: usize = 500;

/// Some sessions: one, as a rule.
#[derive(Debug)]
enum Members {
    One(Place),
    Many(Box<IndexSet<Place>>),
}

impl Members {
    fn add(&mut self, place: Place) {
        match self {
            Self::One(first) => *self = Self::Many(Box::new(IndexSet::from_iter([*first, place]))),
            Self::Many(places) => {
                places.insert(place);
            }
        }
    }

    /// Whether that was the last one.
    fn remove(&mut self, place: Place) -> bool {
        match self {
            Self::One(only) => *only == place,
            Self::Many(places) => places.swap_remove(&place) && places.is_empty(),
        }
    }

    fn extend(&self, places: &mut Vec<Place>) {
        match self {
            Self::One(only) => places.push(*only),
            Self::Many(many) => places.extend(many.iter()),
        }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Index {
    by_user: HashMap<UserId, Members>,
    by_topic: HashMap<Topic, Members>,
    by_credential: BTreeMap<Credential, Members>,
}

impl Index {
    pub(super) fn add(&mut self, place: Place, subscription: &Subscription) {
        add(&mut self.by_user, subscription.reader.user, place);
        for topic in &subscription.reader.selector.topics {
            add(&mut self.by_topic, topic.clone(), place);
        }
        let of_credential = self.by_credential.entry(subscription.credential);
        of_credential.and_modify(|members| members.add(place)).or_insert(Members::One(place));
    }

    pub(super) fn remove(&mut self, place: Place, subscription: &Subscription) {
        remove(&mut self.by_user, &subscription.reader.user, place);
        for topic in &subscription.reader.selector.topics {
            remove(&mut self.by_topic, topic, place);
        }
        let credential = &subscription.credential;
        if self.by_credential.get_mut(credential).is_some_and(|members| members.remove(place)) {
            self.by_credential.remove(credential);
        }
    }

    /// The sessions that an audience of users and topics targets, each once; `None`: all.
    pub(super) fn targets(&self, audience: &Audience, places: &mut Vec<Place>) -> Option<()> {
        let Audience::Of { users, topics } = audience else { return None };
        users.iter().filter_map(|user| self.by_user.get(user)).for_each(|members| members.extend(places));
        topics.iter().filter_map(|topic| self.by_topic.get(topic)).for_each(|members| members.extend(places));
        if users.len() + topics.len() > 1 {
            // Somebody may be meant as a user and as a listener to several topics.
            places.sort_unstable();
            places.dedup();
        }
        Some(())
    }

    pub(super) fn of_user(&self, user: UserId) -> Vec<Place> {
        list(self.by_user.get(&user))
    }

    pub(super) fn of_topic(&self, topic: &Topic) -> Vec<Place> {
        list(self.by_topic.get(topic))
    }

    pub(super) fn of_credential(&self, credential: &Credential) -> Vec<Place> {
        list(self.by_credential.get(credential))
    }

    /// Some of the credentials after `last`, in order.
    pub(super) fn credentials_after(&self, last: Option<Credential>) -> Vec<Credential> {
        let after = last.map_or(Bound::Unbounded, Bound::Excluded);
        self.by_credential.range((after, Bound::Unbounded)).take(PAGE).map(|(one, _)| *one).collect()
    }
}

fn add<K: Hash + Eq>(lists: &mut HashMap<K, Members>, key: K, place: Place) {
    lists.entry(key).and_modify(|members| members.add(place)).or_insert(Members::One(place));
}

fn remove<K: Hash + Eq>(lists: &mut HashMap<K, Members>, key: &K, place: Place) {
    if lists.get_mut(key).is_some_and(|members| members.remove(place)) {
        lists.remove(key);
    }
}

fn list(members: Option<&Members>) -> Vec<Place> {
    let mut places = Vec::new();
    if let Some(members) = members {
        members.extend(&mut places);
    }
    places
}
