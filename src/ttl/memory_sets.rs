//! Sets whose members expire, in process.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::LONGEST;

/// How often the members of sets that nobody uses any more are looked for.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// All sets. The caller gives the time.
pub(super) struct Sets {
    sets: HashMap<String, Members>,
    /// How many members all sets hold together, the ended ones that were not yet found among them.
    held: usize,
    swept: Instant,
    /// The most members of one set, and of all together.
    max_members: usize,
    max_held: usize,
}

/// One set: when each member ends, and the members in that order.
#[derive(Default)]
struct Members {
    ends: HashMap<Arc<str>, Instant>,
    order: BTreeSet<(Instant, Arc<str>)>,
}

impl Sets {
    pub(super) fn new(max_members: usize, max_held: usize) -> Self {
        Self { sets: HashMap::new(), held: 0, swept: Instant::now(), max_members, max_held }
    }

    pub(super) fn enter(&mut self, now: Instant, set: &str, members: &[String], lifetime: Duration) {
        self.sweep(now);
        let ends = now + lifetime.min(LONGEST);
        let entered = self.sets.entry(set.to_owned()).or_default();
        let others = self.held - entered.order.len();
        entered.drop_ended(now);
        for member in members {
            entered.remove(member);
            let member: Arc<str> = member.as_str().into();
            entered.ends.insert(member.clone(), ends);
            entered.order.insert((ends, member));
            while entered.order.len() > self.max_members.min(self.max_held.saturating_sub(others)) {
                entered.drop_first();
            }
        }
        self.held = others + entered.order.len();
        self.drop_if_empty(set);
    }

    pub(super) fn leave(&mut self, set: &str, members: &[String]) {
        let Some(left) = self.sets.get_mut(set) else { return };
        for member in members {
            self.held -= usize::from(left.remove(member));
        }
        self.drop_if_empty(set);
    }

    /// Those that end last come first.
    pub(super) fn members(&self, now: Instant, set: &str, limit: usize) -> Vec<String> {
        let Some(members) = self.sets.get(set) else { return Vec::new() };
        let last_first = members.order.iter().rev();
        last_first
            .take_while(|(ends, _)| *ends > now)
            .take(limit)
            .map(|(_, m)| m.as_ref().to_owned())
            .collect()
    }

    fn sweep(&mut self, now: Instant) {
        if now.saturating_duration_since(self.swept) < SWEEP_EVERY {
            return;
        }
        self.swept = now;
        self.sets.values_mut().for_each(|members| members.drop_ended(now));
        self.sets.retain(|_, members| !members.order.is_empty());
        self.held = self.sets.values().map(|members| members.order.len()).sum();
    }

    fn drop_if_empty(&mut self, set: &str) {
        if self.sets.get(set).is_some_and(|members| members.order.is_empty()) {
            self.sets.remove(set);
        }
    }
}

impl Members {
    fn remove(&mut self, member: &str) -> bool {
        let Some((member, ends)) = self.ends.remove_entry(member) else { return false };
        self.order.remove(&(ends, member))
    }

    fn drop_first(&mut self) {
        if let Some((_, member)) = self.order.pop_first() {
            self.ends.remove(&member);
        }
    }

    fn drop_ended(&mut self, now: Instant) {
        while self.order.first().is_some_and(|(ends, _)| *ends <= now) {
            self.drop_first();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn all_sets_together_stay_within_their_bound() {
        let (now, lifetime) = (Instant::now(), Duration::from_secs(10));
        let mut sets = Sets::new(3, 5);
        sets.enter(now, "a", &names(&["1", "2", "3", "4"]), lifetime);
        sets.enter(now, "b", &names(&["1", "2", "3"]), lifetime);
        assert_eq!((sets.members(now, "a", 9).len(), sets.members(now, "b", 9).len()), (3, 2));
        sets.leave("a", &names(&["4", "5"]));
        sets.enter(now, "c", &names(&["1", "2"]), lifetime);
        assert_eq!(sets.members(now, "c", 9).len(), 1);
        assert_eq!(sets.held, 5);
    }

    #[test]
    fn sets_that_nobody_uses_any_more_are_given_up() {
        let (now, lifetime) = (Instant::now(), Duration::from_secs(10));
        let mut sets = Sets::new(100, 100);
        for set in 0..50 {
            sets.enter(now, &set.to_string(), &names(&["1"]), lifetime);
        }
        assert_eq!((sets.sets.len(), sets.held), (50, 50));
        sets.enter(now + lifetime, "new", &names(&["1"]), lifetime);
        assert_eq!((sets.sets.len(), sets.held), (1, 1));
        sets.leave("new", &names(&["1"]));
        assert_eq!((sets.sets.len(), sets.held), (0, 0));
    }
}
