//! What is known of each event, from all attempts and deliveries together; and what contradicts itself (C7).

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use carillon::event::Priority;

use super::{Check, Promises, Verdict, shown};
use crate::ledger::{At, Attempt, Audience, Ended, Ledger, Listener, Outcome, SENTINEL, What};

/// What the publisher knows of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// Not stored.
    Failed,
    /// Stored or not.
    Unknown,
    /// Stored.
    Acked,
}

/// What is known of the event of one key.
#[derive(Debug)]
pub struct Fact<'a> {
    /// Its key.
    pub key: &'a str,
    /// Whom it is for.
    pub audience: &'a Audience,
    /// How urgent it is.
    pub priority: Priority,
    /// Its type.
    pub event_type: &'a str,
    /// What its publisher knows.
    pub standing: Standing,
    /// Its id, if it is stored for all we know.
    pub id: Option<&'a str>,
    /// Its place in the log, if it is stored for all we know.
    pub position: Option<i64>,
    /// When the first attempt began.
    pub first_sent: At,
    /// When it was acknowledged; if it never was, when it first came to somebody.
    pub known_at: At,
    /// When it may have expired: the attempt that was stored may not be the one that was answered.
    pub may_expire: Option<At>,
    /// When it must have expired.
    pub must_expire: Option<At>,
}

impl Fact<'_> {
    /// Whether it was published to see that nothing lags behind.
    fn is_sentinel(&self, healed: Option<At>) -> bool {
        self.key.starts_with(SENTINEL) && healed.is_some_and(|healed| self.first_sent >= healed)
    }
}

/// When something may have ended, and when it must have.
#[derive(Debug, Clone, Copy)]
struct End {
    may: At,
    must: Option<At>,
}

impl End {
    fn or_earlier(self, other: Self) -> Self {
        Self { may: self.may.min(other.may), must: earlier(self.must, other.must) }
    }
}

/// All events of a run, found by key and by audience.
#[derive(Debug, Default)]
pub struct Events<'a> {
    facts: Vec<Fact<'a>>,
    by_key: HashMap<&'a str, usize>,
    everyone: Vec<usize>,
    by_user: HashMap<&'a str, Vec<usize>>,
    by_topic: HashMap<&'a str, Vec<usize>>,
    reads: HashMap<(&'a str, &'a str), End>,
    retracted: HashMap<&'a str, End>,
    revoked: HashMap<usize, End>,
    left: HashMap<usize, At>,
    sentinels: Vec<usize>,
    /// When everything ran again.
    pub healed: Option<At>,
    /// When the run ended.
    pub run_end: At,
    /// Faults, and the time it takes to recover from each.
    pub faults: Vec<(At, At)>,
}

impl<'a> Events<'a> {
    /// Gathers what the ledger says.
    pub fn gather(ledger: &'a Ledger, verdict: &mut Verdict) -> Self {
        let faults = ledger.faults.iter().map(|fault| (fault.begun, fault.healed)).collect();
        let mut events = Self { healed: ledger.healed, run_end: ledger.end(), faults, ..Self::default() };
        let mut identities = Identities::default();
        for attempt in &ledger.attempts {
            let index = events.attempt(attempt, verdict);
            if let Outcome::Acked { id, position } = &attempt.outcome {
                identities.claim(&mut events.facts, index, id, *position, verdict);
                let fact = &mut events.facts[index];
                fact.known_at = fact.known_at.min(attempt.ended);
            }
        }
        for heard in &ledger.heard {
            let What::Delivery(delivery) = &heard.what else { continue };
            // A key that nobody published is reported by the listener's own check.
            let Some(&index) = events.by_key.get(&*delivery.key) else { continue };
            identities.claim(&mut events.facts, index, &delivery.event_id, delivery.position, verdict);
            let fact = &mut events.facts[index];
            if fact.standing != Standing::Acked {
                fact.known_at = fact.known_at.min(heard.at);
            }
        }
        events.gather_endings(ledger);
        events.index();
        events
    }

    fn attempt(&mut self, attempt: &'a Attempt, verdict: &mut Verdict) -> usize {
        let standing = match attempt.outcome {
            Outcome::Acked { .. } => Standing::Acked,
            Outcome::Failed { .. } => Standing::Failed,
            Outcome::Unknown { .. } => Standing::Unknown,
        };
        let index = match self.by_key.entry(&attempt.key) {
            Entry::Occupied(known) => *known.get(),
            Entry::Vacant(unknown) => {
                self.facts.push(Fact {
                    key: &attempt.key,
                    audience: &attempt.audience,
                    priority: attempt.priority,
                    event_type: &attempt.event_type,
                    standing,
                    id: None,
                    position: None,
                    first_sent: attempt.sent,
                    known_at: At::MAX,
                    may_expire: attempt.expires,
                    must_expire: attempt.expires,
                });
                *unknown.insert(self.facts.len() - 1)
            }
        };
        let fact = &mut self.facts[index];
        let published = (&attempt.audience, attempt.priority, attempt.event_type.as_str());
        if published != (fact.audience, fact.priority, fact.event_type) {
            verdict.add(Check::C7, || format!("{}: its attempts are not of one event", fact.key));
        }
        fact.standing = fact.standing.max(standing);
        fact.first_sent = fact.first_sent.min(attempt.sent);
        fact.may_expire = earlier(fact.may_expire, attempt.expires);
        // An attempt without an end among them: it may be the one that is stored.
        fact.must_expire = fact.must_expire.zip(attempt.expires).map(|(a, b)| a.max(b));
        index
    }

    fn gather_endings(&mut self, ledger: &'a Ledger) {
        for ending in &ledger.endings {
            let end = End { may: ending.asked, must: ending.answered };
            match &ending.of {
                Ended::Read { user, event_id } => {
                    put(&mut self.reads, (user.as_str(), event_id.as_str()), end)
                }
                Ended::Retracted { event_id } => put(&mut self.retracted, event_id.as_str(), end),
                Ended::Revoked { listener } => put(&mut self.revoked, *listener, end),
                Ended::Left { listener } => {
                    let left = self.left.entry(*listener).or_insert(ending.asked);
                    *left = ending.asked.min(*left);
                }
            }
        }
    }

    /// Puts each event that may be owed under those whom it is for, in position order.
    fn index(&mut self) {
        let mut stored: Vec<(i64, usize)> = Vec::new();
        for (index, fact) in self.facts.iter().enumerate() {
            stored.extend(fact.position.filter(|_| fact.standing != Standing::Failed).map(|p| (p, index)));
        }
        let sentinels = self.facts.iter().enumerate().filter(|(_, fact)| fact.is_sentinel(self.healed));
        self.sentinels = sentinels.map(|(index, _)| index).collect();
        stored.sort_unstable();
        for (_, index) in stored {
            match self.facts[index].audience {
                Audience::Everyone => self.everyone.push(index),
                Audience::User(user) => self.by_user.entry(user).or_default().push(index),
                Audience::Users(users) => {
                    for user in users {
                        self.by_user.entry(user).or_default().push(index);
                    }
                }
                Audience::Topic(topic) => self.by_topic.entry(topic).or_default().push(index),
            }
        }
    }

    /// All events.
    pub fn facts(&self) -> &[Fact<'a>] {
        &self.facts
    }

    /// The numbers of those published to see that nothing lags behind.
    pub fn sentinels(&self) -> &[usize] {
        &self.sentinels
    }

    /// The event of a key.
    pub fn by_key(&self, key: &str) -> Option<usize> {
        self.by_key.get(key).copied()
    }

    /// What a listener is entitled to beyond a position, in position order: position and number of each.
    pub fn entitled(&self, listener: &Listener, above: i64) -> Vec<(i64, usize)> {
        let mut lists = vec![&self.everyone];
        lists.extend(self.by_user.get(listener.user.as_str()));
        lists.extend(listener.topics.iter().filter_map(|topic| self.by_topic.get(topic.as_str())));
        let position = |index: usize| self.facts[index].position.unwrap_or_default();
        let mut entitled: Vec<(i64, usize)> = lists
            .into_iter()
            .flat_map(|list| &list[list.partition_point(|index| position(*index) <= above)..])
            .filter(|index| listener.wants(self.facts[**index].event_type, self.facts[**index].priority))
            .map(|index| (position(*index), *index))
            .collect();
        entitled.sort_unstable();
        entitled.dedup();
        entitled
    }

    /// The earliest time at which an event may have ended for a listener, or the listener for it.
    pub fn may_end(&self, listener: &Listener, fact: &Fact<'_>) -> Option<At> {
        let read = fact.id.and_then(|id| self.reads.get(&(listener.user.as_str(), id)));
        let retracted = fact.id.and_then(|id| self.retracted.get(id));
        let asked =
            [read, retracted, self.revoked.get(&listener.id)].into_iter().flatten().map(|end| end.may);
        asked.chain(fact.may_expire).chain(self.left.get(&listener.id).copied()).min()
    }

    /// When a listener was gone for good, by itself or because its permission was revoked.
    pub fn gone(&self, listener: &Listener) -> Option<At> {
        earlier(self.revoked.get(&listener.id).map(|end| end.may), self.left.get(&listener.id).copied())
    }

    /// Why a delivery at this time comes too late, if it does.
    pub fn too_late(&self, listener: &Listener, index: usize, at: At, promises: &Promises) -> Option<String> {
        let fact = &self.facts[index];
        let read = fact.id.and_then(|id| self.reads.get(&(listener.user.as_str(), id)));
        let retracted = fact.id.and_then(|id| self.retracted.get(id));
        let answered = |end: Option<&End>| end.and_then(|end| end.must);
        let ends = [
            ("it expired", fact.must_expire, promises.expiry_margin),
            ("the user had read it", answered(read), promises.read_margin),
            ("it was retracted", answered(retracted), promises.retraction_margin),
            (
                "the listener was revoked",
                answered(self.revoked.get(&listener.id)),
                promises.revocation_margin,
            ),
        ];
        let (why, end, margin) = ends
            .into_iter()
            .find(|(_, end, margin)| end.is_some_and(|end| at > end.saturating_add(*margin)))?;
        Some(format!("{why} at {}, {} is the margin", shown(end?), shown(margin)))
    }
}

/// Which id and which position belong to which key: each to one.
#[derive(Debug, Default)]
struct Identities<'a> {
    ids: HashMap<&'a str, usize>,
    positions: HashMap<i64, usize>,
}

impl<'a> Identities<'a> {
    fn claim(
        &mut self,
        facts: &mut [Fact<'a>],
        index: usize,
        id: &'a str,
        position: i64,
        verdict: &mut Verdict,
    ) {
        let id_owner = *self.ids.entry(id).or_insert(index);
        let position_owner = *self.positions.entry(position).or_insert(index);
        if let Some(owner) = [id_owner, position_owner].into_iter().find(|owner| *owner != index) {
            let (key, other) = (facts[index].key, facts[owner].key);
            verdict.add(Check::C7, || format!("{key} and {other} share id {id} or position {position}"));
        }
        let fact = &mut facts[index];
        let (known_id, known_position) = (*fact.id.get_or_insert(id), *fact.position.get_or_insert(position));
        if (known_id, known_position) != (id, position) {
            let key = fact.key;
            verdict.add(Check::C7, || {
                format!("{key} is {known_id} at {known_position}, and {id} at {position}")
            });
        }
    }
}

fn put<K: std::hash::Hash + Eq>(ends: &mut HashMap<K, End>, key: K, end: End) {
    let known = ends.entry(key).or_insert(end);
    *known = known.or_earlier(end);
}

fn earlier(a: Option<At>, b: Option<At>) -> Option<At> {
    a.into_iter().chain(b).min()
}
