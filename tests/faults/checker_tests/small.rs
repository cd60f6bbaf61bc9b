//! Small ledgers, written by hand. Times are milliseconds.

use std::time::Duration;

use carillon::event::Priority;
use serde_json::json;

use crate::checker::{Check, Promises, Verdict, check};
use crate::ledger::{
    At, Attempt, Audience, Delivery, Ended, Ending, Heard, Ledger, Listener, Outcome, Sample, What,
};

/// This many milliseconds.
pub fn ms(millis: u64) -> At {
    Duration::from_millis(millis)
}

/// For one user.
pub fn user(name: &str) -> Audience {
    Audience::User(name.to_owned())
}

/// A ledger being made. Event `key` has the id `id of key`.
#[derive(Debug, Clone, Default)]
pub struct Run {
    pub ledger: Ledger,
    pub promises: Promises,
}

impl Run {
    /// Somebody without filters who connects at 0, when nothing has been published.
    pub fn listen(&mut self, user: &str) -> usize {
        self.listen_as(Listener { user: user.to_owned(), ..Listener::default() })
    }

    /// Like [`Run::listen`], with filters.
    pub fn listen_as(&mut self, listener: Listener) -> usize {
        let id = self.listener(listener);
        self.opened(id, 0, None);
        self.stamp(id, 0, "e-0");
        id
    }

    /// Describes a listener who does nothing yet.
    pub fn listener(&mut self, listener: Listener) -> usize {
        let id = self.ledger.listeners.len();
        self.ledger.listeners.push(Listener { id, ..listener });
        id
    }

    /// An attempt of normal priority.
    pub fn attempt(&mut self, key: &str, at: u64, audience: Audience, outcome: Outcome) -> &mut Attempt {
        self.ledger.attempts.push(Attempt {
            key: key.to_owned(),
            publisher: 0,
            audience,
            priority: Priority::Normal,
            event_type: "test".to_owned(),
            expires: None,
            sent: ms(at),
            ended: ms(at + 1),
            outcome,
        });
        self.ledger.attempts.last_mut().unwrap()
    }

    /// An event that is acknowledged a millisecond later.
    pub fn acked(&mut self, key: &str, position: i64, at: u64, audience: Audience) -> &mut Attempt {
        let outcome = Outcome::Acked { id: format!("id of {key}"), position };
        self.attempt(key, at, audience, outcome)
    }

    /// An event nobody knows the fate of.
    pub fn unknown(&mut self, key: &str, at: u64, audience: Audience) -> &mut Attempt {
        self.attempt(key, at, audience, Outcome::Unknown { why: "cut".to_owned() })
    }

    /// Something happens on a listener's connection.
    pub fn heard(&mut self, listener: usize, at: u64, what: What) {
        let before = self.ledger.heard.iter().rev().find(|heard| heard.listener == listener);
        let connection = before.map_or(0, |heard| heard.connection);
        let connection = connection + u32::from(matches!(what, What::Opened { .. }));
        self.ledger.heard.push(Heard { listener, connection, at: ms(at), what });
    }

    /// The next connection.
    pub fn opened(&mut self, listener: usize, at: u64, cursor: Option<&str>) {
        let cursor_sent = cursor.map(str::to_owned);
        self.heard(listener, at, What::Opened { address: "a".to_owned(), cursor_sent, status: Some(200) });
    }

    /// The connection ends.
    pub fn closed(&mut self, listener: usize, at: u64) {
        self.heard(listener, at, What::Closed { why: "cut".to_owned() });
    }

    /// An id without an event.
    pub fn stamp(&mut self, listener: usize, at: u64, raw_id: &str) {
        self.heard(listener, at, What::Stamp { raw_id: raw_id.to_owned() });
    }

    /// The next connection, which resumes.
    pub fn resumed(&mut self, listener: usize, at: u64, cursor: &str) {
        self.closed(listener, at);
        self.opened(listener, at, Some(cursor));
        self.stamp(listener, at, cursor);
    }

    /// A published event comes, with its own position as the id.
    pub fn got(&mut self, listener: usize, key: &str, at: u64) {
        let position = self.attempt_of(key).1;
        self.got_with(listener, key, at, &format!("e-{position}"));
    }

    /// A published event comes.
    pub fn got_with(&mut self, listener: usize, key: &str, at: u64, raw_id: &str) {
        let delivery = self.delivery(key, raw_id);
        self.heard(listener, at, What::Delivery(delivery));
    }

    /// A delivery of a published event; one of unknown outcome is at 99.
    pub fn delivery(&self, key: &str, raw_id: &str) -> Delivery {
        let (attempt, position) = self.attempt_of(key);
        Delivery {
            raw_id: raw_id.to_owned(),
            event_id: format!("id of {key}").into(),
            position,
            key: key.into(),
            priority: attempt.priority,
            event_type: attempt.event_type.as_str().into(),
        }
    }

    fn attempt_of(&self, key: &str) -> (&Attempt, i64) {
        let attempt = self.ledger.attempts.iter().find(|attempt| attempt.key == key).unwrap();
        let position = if let Outcome::Acked { position, .. } = &attempt.outcome { *position } else { 99 };
        (attempt, position)
    }

    /// The listener is notified that its past is lost.
    pub fn reset(&mut self, listener: usize, at: u64, cursor: &str) {
        let data = json!({ "reason": "retention", "cursor": cursor });
        self.heard(listener, at, What::Notice { name: "carillon.reset".into(), data, raw_id: cursor.into() });
    }

    /// An end, confirmed a millisecond later.
    pub fn ended(&mut self, at: u64, of: Ended) {
        self.ledger.endings.push(Ending { asked: ms(at), answered: Some(ms(at + 1)), of });
    }

    /// What the process `node` uses.
    pub fn sample(&mut self, at: u64, resident: u64, descriptors: u64, queued: u64) {
        let sample = Sample { process: "node".into(), at: ms(at), resident, descriptors, queued };
        self.ledger.samples.push(sample);
    }

    /// The judgement.
    pub fn check(&self) -> Verdict {
        check(&self.ledger, &self.promises)
    }

    /// That exactly these checks find something.
    #[track_caller]
    pub fn breaks(&self, checks: &[Check]) -> Verdict {
        let verdict = self.check();
        assert_eq!(verdict.broken(), checks, "{verdict}");
        verdict
    }
}
