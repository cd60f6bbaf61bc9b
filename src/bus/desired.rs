//! The channels that a connection to Redis is to be subscribed to, and what of them was not yet sent to it.
//!
//! The caller asks for a channel under the hub's lock, so that costs the same however many channels there are: the
//! change is noted, and the task that listens takes what was noted since. It compares nothing: only after it has
//! reconnected does it subscribe to all.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// A channel's name. Clones share it.
pub(super) type Channel = Arc<str>;

/// What is desired, for those who ask. Shared with the one [`Subscriptions`].
#[derive(Default)]
pub(super) struct Desired {
    noted: Mutex<Noted>,
    changed: Notify,
}

/// What is desired, and where that differs from what was taken. Each channel is at most once in either, however often
/// it was subscribed and unsubscribed: so both are bounded by the channels desired now or when they were last taken.
#[derive(Default)]
struct Noted {
    desired: HashSet<Channel>,
    changed: HashSet<Channel>,
}

impl Desired {
    /// Asks for a channel.
    pub(super) fn subscribe(&self, channel: &str) {
        let mut noted = lock(&self.noted);
        if noted.desired.contains(channel) {
            return;
        }
        let channel = Channel::from(channel);
        noted.desired.insert(channel.clone());
        noted.toggle(channel);
        self.changed.notify_one();
    }

    /// Asks for a channel no more.
    pub(super) fn unsubscribe(&self, channel: &str) {
        let mut noted = lock(&self.noted);
        if let Some(channel) = noted.desired.take(channel) {
            noted.toggle(channel);
            self.changed.notify_one();
        }
    }

    /// Resolves when something was asked for since this last resolved.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }
}

impl Noted {
    /// A change and its opposite are none.
    fn toggle(&mut self, channel: Channel) {
        if !self.changed.remove(&channel) {
            self.changed.insert(channel);
        }
    }
}

/// What is desired, as far as the task that listens has taken it. Only this task uses it.
pub(super) struct Subscriptions {
    desired: Arc<Desired>,
    taken: Mutex<HashSet<Channel>>,
}

/// What is to be sent.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Changes {
    pub(super) subscribe: Vec<Channel>,
    pub(super) unsubscribe: Vec<Channel>,
}

impl Subscriptions {
    /// There may be only one of each `desired`.
    pub(super) fn of(desired: Arc<Desired>) -> Self {
        Self { desired, taken: Mutex::default() }
    }

    /// What was asked for since anything was last taken.
    pub(super) fn take_changes(&self) -> Changes {
        let changed = std::mem::take(&mut lock(&self.desired.noted).changed);
        let mut taken = lock(&self.taken);
        let mut changes = Changes::default();
        for channel in changed {
            if taken.remove(&channel) {
                changes.unsubscribe.push(channel);
            } else {
                taken.insert(channel.clone());
                changes.subscribe.push(channel);
            }
        }
        changes
    }

    /// All that is desired, for a connection that is subscribed to nothing.
    pub(super) fn take_all(&self) -> Changes {
        self.take_changes();
        Changes { subscribe: lock(&self.taken).iter().cloned().collect(), unsubscribe: Vec::new() }
    }

    /// Whether any of what was taken is such.
    pub(super) fn any(&self, is_such: impl Fn(&str) -> bool) -> bool {
        lock(&self.taken).iter().any(|channel| is_such(channel))
    }

    /// Resolves when there may be changes to take.
    pub(super) async fn changed(&self) {
        self.desired.changed().await;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (Arc<Desired>, Subscriptions) {
        let desired = Arc::new(Desired::default());
        (desired.clone(), Subscriptions::of(desired))
    }

    fn changes(subscribe: &[&str], unsubscribe: &[&str]) -> Changes {
        let channels = |names: &[&str]| names.iter().map(|name| Channel::from(*name)).collect();
        Changes { subscribe: channels(subscribe), unsubscribe: channels(unsubscribe) }
    }

    #[test]
    fn a_change_and_its_opposite_cost_nothing() {
        let (desired, subscriptions) = pair();
        for _ in 0..3 {
            desired.subscribe("a");
            desired.subscribe("a");
            desired.unsubscribe("a");
            desired.unsubscribe("a");
        }
        desired.unsubscribe("never");
        assert_eq!(lock(&desired.noted).changed.len(), 0);
        assert_eq!(subscriptions.take_changes(), Changes::default());
        desired.subscribe("a");
        assert_eq!(subscriptions.take_changes(), changes(&["a"], &[]));
        desired.unsubscribe("a");
        desired.subscribe("a");
        assert_eq!(subscriptions.take_changes(), Changes::default());
        desired.unsubscribe("a");
        assert_eq!(subscriptions.take_changes(), changes(&[], &["a"]));
    }

    #[test]
    fn all_is_what_is_desired_then_and_what_follows_are_changes_to_it() {
        let (desired, subscriptions) = pair();
        ["a", "b"].iter().for_each(|channel| desired.subscribe(channel));
        subscriptions.take_changes();
        desired.unsubscribe("a");
        desired.subscribe("c");
        let mut all = subscriptions.take_all();
        all.subscribe.sort_unstable();
        assert_eq!(all, changes(&["b", "c"], &[]));
        assert_eq!(subscriptions.take_changes(), Changes::default());
        assert!(subscriptions.any(|channel| channel == "c") && !subscriptions.any(|channel| channel == "a"));
        desired.subscribe("a");
        assert_eq!(subscriptions.take_changes(), changes(&["a"], &[]));
    }

    #[test]
    fn what_was_taken_follows_what_is_desired_whatever_is_asked_for() {
        let (desired, subscriptions) = pair();
        let mut sent = HashSet::new();
        for _ in 0..2_000 {
            let channel = rand::random_range(0..20_u8).to_string();
            if rand::random() {
                desired.subscribe(&channel)
            } else {
                desired.unsubscribe(&channel)
            }
            if rand::random_ratio(1, 8) {
                let Changes { subscribe, unsubscribe } = subscriptions.take_changes();
                assert!(unsubscribe.iter().all(|channel| sent.remove(channel)));
                assert!(subscribe.into_iter().all(|channel| sent.insert(channel)));
                assert_eq!(sent, lock(&desired.noted).desired);
            }
            let noted = lock(&desired.noted);
            assert!(noted.changed.len() <= noted.desired.len() + sent.len());
        }
    }
}
