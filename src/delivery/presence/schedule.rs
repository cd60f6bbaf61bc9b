//! When topics are to be looked at again, each at one time.

use std::collections::{BTreeSet, HashMap};
use std::time::Instant;

use crate::event::Topic;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    at: HashMap<Topic, Instant>,
    order: BTreeSet<(Instant, Topic)>,
}

impl Schedule {
    /// Puts a topic at this time, whatever was there before; or takes it out.
    pub(super) fn set(&mut self, topic: &Topic, at: Option<Instant>) {
        let before = match at {
            Some(at) => self.at.insert(topic.clone(), at),
            None => self.at.remove(topic),
        };
        if let Some(before) = before {
            self.order.remove(&(before, topic.clone()));
        }
        if let Some(at) = at {
            self.order.insert((at, topic.clone()));
        }
    }

    /// Puts all that come later at this time.
    pub(super) fn advance_all(&mut self, to: Instant) {
        for at in self.at.values_mut() {
            *at = (*at).min(to);
        }
        self.order = self.at.iter().map(|(topic, at)| (*at, topic.clone())).collect();
    }

    /// Takes out those whose time has come.
    pub(super) fn take_due(&mut self, now: Instant) -> Vec<Topic> {
        let mut due = Vec::new();
        while let Some((at, topic)) = self.order.pop_first() {
            if at > now {
                self.order.insert((at, topic));
                break;
            }
            self.at.remove(&topic);
            due.push(topic);
        }
        due
    }

    /// When the next one's time comes.
    pub(super) fn next(&self) -> Option<Instant> {
        self.order.first().map(|(at, _)| *at)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn each_topic_has_one_time() {
        let topics = ["a", "b", "c"].map(|text| Topic::from_stored(text.to_owned()));
        let [a, b, c] = &topics;
        let (now, second) = (Instant::now(), Duration::from_secs(1));
        let mut schedule = Schedule::default();
        assert_eq!(schedule.next(), None);
        schedule.set(a, Some(now));
        schedule.set(b, Some(now + second));
        schedule.set(c, Some(now));
        schedule.set(a, Some(now + second * 3));
        schedule.set(c, None);
        assert_eq!(schedule.next(), Some(now + second));
        assert!(schedule.take_due(now).is_empty());
        assert_eq!(schedule.take_due(now + second), std::slice::from_ref(b));
        assert_eq!(schedule.next(), Some(now + second * 3));
        schedule.set(c, Some(now + second));
        schedule.advance_all(now + second * 2);
        assert_eq!(schedule.take_due(now + second * 2), [c.clone(), a.clone()]);
        assert_eq!((schedule.next(), schedule.at.len()), (None, 0));
    }
}
