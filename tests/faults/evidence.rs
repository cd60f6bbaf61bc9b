//! That what a test claims to have done was really done: a fault that did not happen proves nothing, and neither does
//! one that nothing was published under.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use crate::ledger::{At, Attempt, Ended, Fault, Heard, Outcome, What};
use crate::run::Run;
use crate::support::{DEADLINE, wait_until};

impl Run {
    /// A fault that began then is over. Publishing must have gone on all the while: an event each second at least,
    /// which is far less than is sent.
    #[track_caller]
    pub fn fault(&self, name: &str, begun: At) {
        self.note_fault(name, begun);
        let (lasted, acked) = (self.now() - begun, self.acked_since(begun));
        let least = if self.is_loaded() { lasted.as_secs().max(1) as usize } else { 0 };
        assert!(acked >= least, "{name}: only {acked} events were acknowledged in {lasted:?}");
    }

    /// The same of a fault that nothing can be acknowledged under: it must have been tried.
    #[track_caller]
    pub fn outage(&self, name: &str, begun: At) {
        self.note_fault(name, begun);
        let tried = self.count_attempts(|attempt| attempt.ended >= begun);
        assert!(tried > 0, "{name}: nothing was published meanwhile");
    }

    /// The same of one that may have been too short for anything.
    pub fn note_fault(&self, name: &str, begun: At) {
        self.ledger.fault(Fault { name: name.to_owned(), begun, healed: self.now() });
    }

    /// How many attempts fit so far.
    pub fn count_attempts(&self, fits: impl Fn(&Attempt) -> bool) -> usize {
        self.ledger.look(|ledger| ledger.attempts.iter().filter(|attempt| fits(attempt)).count())
    }

    /// How many attempts were acknowledged since then.
    pub fn acked_since(&self, begun: At) -> usize {
        self.count_attempts(|attempt| attempt.ended >= begun && is_acked(attempt))
    }

    /// How long half of the acknowledged attempts sent since then took at most.
    pub fn median_answer_since(&self, begun: At) -> Duration {
        let mut took: Vec<Duration> = self.ledger.look(|ledger| {
            let sent_since =
                ledger.attempts.iter().filter(|attempt| attempt.sent >= begun && is_acked(attempt));
            sent_since.map(|attempt| attempt.ended - attempt.sent).collect()
        });
        took.sort_unstable();
        took.get(took.len() / 2).copied().unwrap_or_default()
    }

    /// How many streams ended since then that had begun.
    pub fn streams_ended_since(&self, begun: At) -> usize {
        self.ledger.look(|ledger| {
            let heard = ledger.heard.iter().filter(|heard| heard.at >= begun);
            heard.filter(|heard| matches!(heard.what, What::Closed { .. })).count()
        })
    }

    /// How many keep-alives came since then that moved a cursor.
    pub fn keep_alives_since(&self, begun: At) -> usize {
        self.ledger.look(|ledger| {
            let heard = ledger.heard.iter().filter(|heard| heard.at >= begun);
            let moves =
                |what: &What| matches!(what, What::Notice { name, .. } if name == "carillon.position");
            heard.filter(|heard| moves(&heard.what)).count()
        })
    }

    /// Of the acknowledged events that have expired: how many came to somebody, and how many to nobody.
    pub fn ended_events(&self) -> (usize, usize) {
        let now = self.now();
        self.ledger.look(|ledger| {
            let came: HashSet<&str> = ledger.heard.iter().filter_map(key_of).collect();
            let expired =
                |attempt: &&Attempt| attempt.expires.is_some_and(|end| end < now) && is_acked(attempt);
            let expired: Vec<&Attempt> = ledger.attempts.iter().filter(expired).collect();
            let who_came = expired.iter().filter(|attempt| came.contains(attempt.key.as_str())).count();
            (who_came, expired.len() - who_came)
        })
    }

    /// How often an event came to its reader within so short a time of its being read.
    pub fn deliveries_near_reading(&self, near: Duration) -> usize {
        self.ledger.look(|ledger| {
            let read = ledger.endings.iter().filter_map(|ending| match &ending.of {
                Ended::Read { user, event_id } => Some(((user.as_str(), event_id.as_str()), ending.asked)),
                _ => None,
            });
            let read: HashMap<(&str, &str), At> = read.collect();
            let users: HashMap<usize, &str> =
                ledger.listeners.iter().map(|listener| (listener.id, listener.user.as_str())).collect();
            let is_near = |heard: &&Heard| match &heard.what {
                What::Delivery(delivery) => read
                    .get(&(users[&heard.listener], &*delivery.event_id))
                    .is_some_and(|asked| asked.abs_diff(heard.at) <= near),
                _ => false,
            };
            ledger.heard.iter().filter(is_near).count()
        })
    }

    /// Waits until each node of these has this metric above what it was.
    pub async fn until_counted(&self, nodes: impl Iterator<Item = usize>, metric: &str, before: f64) {
        for node in nodes {
            let counted = async || self.world.nodes[node].metric(metric).await > before;
            wait_until(DEADLINE, &format!("node {node} counts {metric}"), counted).await;
        }
    }
}

fn key_of(heard: &Heard) -> Option<&str> {
    match &heard.what {
        What::Delivery(delivery) => Some(&delivery.key),
        _ => None,
    }
}

fn is_acked(attempt: &Attempt) -> bool {
    matches!(attempt.outcome, Outcome::Acked { .. })
}
