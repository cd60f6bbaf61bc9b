//! One listener's run through its connections: checks C1 to C7, in one pass.

use std::collections::{HashMap, HashSet};
use std::fmt;

use carillon::event::Priority;

use super::events::{Events, Fact, Standing};
use super::mark::Mark;
use super::{Check, Promises, Verdict, shown};
use crate::ledger::{At, Delivery, Heard, Listener, What};

/// Checks what one listener lived through. `heard` is all of it, in order.
pub fn check(
    listener: &Listener,
    heard: &[&Heard],
    events: &Events<'_>,
    promises: &Promises,
    verdict: &mut Verdict,
) {
    let start = start(heard);
    let mut pass = Pass {
        listener,
        events,
        promises,
        verdict,
        owed: start.map_or_else(Vec::new, |start| events.entitled(listener, start)),
        got: HashMap::new(),
        claimed: 0,
        claimed_ahead: HashSet::new(),
        written_off: Vec::new(),
        highest: [None; Priority::ALL.len()],
        epoch: None,
        connection: Connection::default(),
        began: false,
    };
    let early_resets = early_resets(heard);
    for record in heard {
        pass.record(record, &early_resets);
    }
    pass.missing(heard);
    pass.sentinels();
}

/// Where a listener's claim begins: at the first cursor it sent, or else at the first id it was given.
fn start(heard: &[&Heard]) -> Option<i64> {
    heard.iter().find_map(|record| match &record.what {
        What::Opened { cursor_sent, .. } => Mark::parse(cursor_sent.as_deref()?).map(|mark| mark.position),
        What::Closed { .. } => None,
        What::Stamp { raw_id } | What::Notice { raw_id, .. } => Mark::parse(raw_id).map(|mark| mark.position),
        // The event itself is owed, since it came.
        What::Delivery(delivery) => Some(delivery.position - 1),
    })
}

/// Connections that report a reset before they bring any event: their first id is already the new cursor, so
/// the reset holds from their beginning.
fn early_resets(heard: &[&Heard]) -> HashMap<u32, Mark> {
    let mut has_event = HashSet::new();
    let mut resets = HashMap::new();
    for record in heard {
        match &record.what {
            What::Delivery(_) => {
                has_event.insert(record.connection);
            }
            What::Notice { name, data, raw_id } if name == "carillon.reset" => {
                if let Some(mark) = reset_to(data, raw_id)
                    && !has_event.contains(&record.connection)
                {
                    resets.insert(record.connection, mark);
                }
            }
            _ => {}
        }
    }
    resets
}

fn reset_to(data: &serde_json::Value, raw_id: &str) -> Option<Mark> {
    Mark::parse(data["cursor"].as_str().unwrap_or(raw_id))
}

/// A first receipt.
struct Receipt {
    at: At,
    /// The last connection that brought it.
    connection: u32,
}

/// The connection being read.
#[derive(Default)]
struct Connection {
    number: u32,
    /// What it was opened with.
    cursor: Option<Mark>,
    /// It was opened without a cursor and has not given an id yet: the first one begins a new claim.
    is_fresh: bool,
    is_reset: bool,
}

/// Whom a violation is about.
#[derive(Clone, Copy)]
struct Who<'a> {
    listener: &'a Listener,
    connection: u32,
}

impl fmt::Display for Who<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "listener {} ({}), connection {}", self.listener.id, self.listener.user, self.connection)
    }
}

struct Pass<'a, 'v> {
    listener: &'a Listener,
    events: &'a Events<'a>,
    promises: &'a Promises,
    verdict: &'v mut Verdict,
    /// What the listener is entitled to: position and number, in position order.
    owed: Vec<(i64, usize)>,
    got: HashMap<usize, Receipt>,
    /// How many of `owed` are at or below the highest position that a cursor named.
    claimed: usize,
    /// Events that a cursor named as sent ahead, without ground: each is reported once.
    claimed_ahead: HashSet<i64>,
    /// Cursors whose past is not owed any more: where the listener began, and resets.
    written_off: Vec<Mark>,
    /// The highest position received of each priority.
    highest: [Option<i64>; Priority::ALL.len()],
    epoch: Option<String>,
    connection: Connection,
    /// The listener has sent or been given a cursor.
    began: bool,
}

impl<'a> Pass<'a, '_> {
    fn record(&mut self, record: &Heard, early_resets: &HashMap<u32, Mark>) {
        match &record.what {
            What::Opened { cursor_sent, status, .. } => {
                if let Some(status) = status.filter(|status| *status != 200) {
                    self.refused(status, record.at);
                }
                let cursor = cursor_sent.as_deref().and_then(Mark::parse);
                if let (Some(cursor), false) = (&cursor, self.began) {
                    self.written_off.push(cursor.clone());
                    self.began = true;
                }
                self.connection = Connection {
                    number: record.connection,
                    is_fresh: cursor.is_none(),
                    cursor,
                    is_reset: false,
                };
                if let Some(mark) = early_resets.get(&record.connection) {
                    self.reset(mark);
                }
            }
            What::Closed { .. } => {}
            What::Stamp { raw_id } => {
                self.id_in_force(raw_id, record.at);
            }
            What::Notice { name, data, raw_id } => {
                if name == "carillon.reset" {
                    self.received_reset(data, raw_id, record.at);
                }
                self.id_in_force(raw_id, record.at);
            }
            What::Delivery(delivery) => self.delivery(delivery, record.at),
        }
    }

    fn who(&self) -> Who<'a> {
        Who { listener: self.listener, connection: self.connection.number }
    }

    /// An EventSource that is answered anything but a stream never tries again.
    fn refused(&mut self, status: u16, at: At) {
        if self.events.gone(self.listener).is_none_or(|gone| gone > at) {
            let who = self.who();
            self.verdict.add(Check::C1, || {
                format!("{who}: the next one was refused at {} with {status}, for good", shown(at))
            });
        }
    }

    fn received_reset(&mut self, data: &serde_json::Value, raw_id: &str, at: At) {
        self.verdict.measurements.resets += 1;
        if !self.promises.resets {
            let who = self.who();
            self.verdict.add(Check::C1, || {
                format!("{who} was notified at {} that its past is lost: {data}", shown(at))
            });
        }
        if let Some(mark) = reset_to(data, raw_id) {
            self.reset(&mark);
        }
    }

    fn reset(&mut self, mark: &Mark) {
        self.connection.is_reset = true;
        if self.promises.resets {
            self.write_off(mark);
        }
    }

    fn write_off(&mut self, mark: &Mark) {
        self.written_off.push(mark.clone());
        self.began = true;
    }

    /// An id came into force: what it says was sent must have come.
    fn id_in_force(&mut self, raw_id: &str, at: At) -> Option<Mark> {
        let Some(mark) = Mark::parse(raw_id) else {
            let who = self.who();
            self.verdict.add(Check::C4, || format!("{who}: the id {raw_id:?} is not a cursor"));
            return None;
        };
        if self.epoch.as_ref().is_some_and(|epoch| *epoch != mark.epoch) && !self.connection.is_reset {
            let who = self.who();
            self.verdict.add(Check::C4, || {
                format!("{who}: the id {raw_id:?} is of another history, without a reset")
            });
        }
        self.epoch = Some(mark.epoch.clone());
        if std::mem::take(&mut self.connection.is_fresh) {
            self.write_off(&mark);
        }
        while let Some((position, index)) = self.owed.get(self.claimed).copied()
            && position <= mark.position
        {
            self.claimed += 1;
            self.claim(position, index, raw_id, at);
        }
        for position in &mark.ahead {
            if let Ok(place) = self.owed.binary_search_by_key(position, |(position, _)| *position)
                && !self.claimed_ahead.contains(position)
                && !self.claim(*position, self.owed[place].1, raw_id, at)
            {
                self.claimed_ahead.insert(*position);
            }
        }
        Some(mark)
    }

    /// Whether a cursor may name this event as sent.
    fn claim(&mut self, position: i64, index: usize, raw_id: &str, at: At) -> bool {
        let fact = &self.events.facts()[index];
        let slack = self.promises.expiry_margin;
        let has_ended =
            || self.events.may_end(self.listener, fact).is_some_and(|end| end <= at.saturating_add(slack));
        if self.got.contains_key(&index) || self.is_written_off(position) || has_ended() {
            return true;
        }
        let who = self.who();
        self.verdict.add(Check::C4, || {
            format!(
                "{who}: the id {raw_id} in force at {} names {} at {position}, which had not come",
                shown(at),
                fact.key
            )
        });
        false
    }

    fn is_written_off(&self, position: i64) -> bool {
        self.written_off.iter().any(|mark| mark.has_seen(position))
    }

    fn delivery(&mut self, delivery: &Delivery, at: At) {
        self.verdict.measurements.deliveries += 1;
        if self.connection.is_fresh {
            // No id came before it: the claim began just before this event.
            self.connection.is_fresh = false;
            let position = delivery.position - 1;
            self.write_off(&Mark { epoch: String::new(), position, ahead: Vec::new() });
        }
        if let Some(index) = self.events.by_key(&delivery.key) {
            self.known_event(delivery, index, at);
        } else {
            let who = self.who();
            self.verdict.add(Check::C7, || format!("{who}: {} came, which nobody published", delivery.key));
        }
        let mark = self.id_in_force(&delivery.raw_id, at);
        if mark.is_some_and(|mark| !mark.has_seen(delivery.position)) {
            let who = self.who();
            let (key, position, id) = (&delivery.key, delivery.position, &delivery.raw_id);
            self.verdict.add(Check::C4, || {
                format!("{who}: {key} at {position} came with the id {id}, which does not name it")
            });
        }
    }

    fn known_event(&mut self, delivery: &Delivery, index: usize, at: At) {
        let (who, fact) = (self.who(), &self.events.facts()[index]);
        let (key, position) = (fact.key, delivery.position);
        if fact.standing == Standing::Failed {
            self.verdict.add(Check::C7, || format!("{who}: {key} came, which was refused"));
        }
        if (fact.priority, fact.event_type) != (delivery.priority, &*delivery.event_type) {
            self.verdict
                .add(Check::C7, || format!("{who}: {key} came with another type or priority: {delivery:?}"));
        }
        if !self.listener.is_entitled(fact.audience, fact.event_type, fact.priority) {
            self.verdict.add(Check::C5, || {
                format!(
                    "{who} got {key}, which is {} {} for {:?}",
                    fact.priority, fact.event_type, fact.audience
                )
            });
        }
        if !self.listener.is_slow
            && let Some(why) = self.events.too_late(self.listener, index, at, self.promises)
        {
            self.verdict.add(Check::C6, || format!("{who}: {key} came at {}: {why}", shown(at)));
        }
        let connection = self.connection.number;
        if let Some(receipt) = self.got.get_mut(&index) {
            self.verdict.measurements.raw_repeats += 1;
            let before = std::mem::replace(&mut receipt.connection, connection);
            if before == connection {
                self.verdict.add(Check::C2, || format!("{who}: {key} at {position} came twice on it"));
            }
            return;
        }
        self.got.insert(index, Receipt { at, connection });
        self.first_receipt(fact, position, at);
    }

    fn first_receipt(&mut self, fact: &Fact<'_>, position: i64, at: At) {
        let (who, key) = (self.who(), fact.key);
        if let Some(cursor) = self.connection.cursor.as_ref().filter(|cursor| cursor.has_seen(position)) {
            self.verdict.add(Check::C4, || {
                format!("{who} was opened with {cursor:?}, and {key} at {position} came first on it")
            });
        }
        let mut is_overtaken = false;
        for (priority, highest) in Priority::ALL.into_iter().zip(self.highest) {
            if highest.is_none_or(|highest| highest < position) {
                continue;
            }
            is_overtaken = true;
            let may =
                self.promises.overtaking.is_some_and(|least| priority >= least) && priority > fact.priority;
            if !may {
                self.verdict.add(Check::C3, || {
                    let priority_here = fact.priority;
                    format!(
                        "{who}: {key} ({priority_here}) at {position} came at {} after one ({priority}) at \
                         {highest:?}",
                        shown(at)
                    )
                });
            }
        }
        self.verdict.measurements.overtakings += usize::from(is_overtaken);
        let highest = &mut self.highest[fact.priority as usize];
        *highest = (*highest).max(Some(position));
    }

    /// What was owed and did not come, and how long what came took.
    fn missing(&mut self, heard: &[&Heard]) {
        let mut calm = None;
        let began_at = heard.iter().find(|r| gives_id(&r.what)).map_or(At::MAX, |r| r.at);
        for (position, index) in std::mem::take(&mut self.owed) {
            let fact = &self.events.facts()[index];
            if let Some(receipt) = self.got.get(&index) {
                if fact.standing == Standing::Acked && !self.listener.is_slow {
                    let delay = receipt.at.saturating_sub(fact.known_at.max(began_at));
                    self.verdict.delays.push((receipt.at, delay));
                }
                continue;
            }
            let end = self.events.may_end(self.listener, fact);
            let lives =
                end.is_none_or(|end| end > self.events.run_end.saturating_add(self.promises.expiry_margin));
            let is_owed = !self.is_written_off(position)
                && (lives || self.had_time(fact, end, calm.get_or_insert_with(|| self.calm(heard))));
            if !is_owed {
                continue;
            }
            let (key, who) = (fact.key, format!("listener {} ({})", self.listener.id, self.listener.user));
            let known = shown(fact.known_at);
            if fact.standing == Standing::Acked {
                self.verdict.measurements.lost += 1;
                self.verdict.add(Check::C1, || {
                    format!("{key} at {position}, acknowledged at {known}, never reached {who}")
                });
            } else {
                self.verdict.add(Check::C7, || {
                    format!("{key} at {position}, unknown but received at {known}, never reached {who}")
                });
            }
        }
    }

    /// Whether an event that ended could have come before: a calm time long enough.
    fn had_time(&self, fact: &Fact<'_>, end: Option<At>, calm: &[(At, At)]) -> bool {
        let last = end.unwrap_or(At::MAX).saturating_sub(self.promises.expiry_margin);
        let is_enough = |(from, to): &(At, At)| {
            (*to).min(last).saturating_sub((*from).max(fact.known_at)) >= self.promises.deliver_within
        };
        !self.listener.is_slow && calm.iter().any(is_enough)
    }

    /// When the listener was connected and no fault, nor its aftermath, was about.
    fn calm(&self, heard: &[&Heard]) -> Vec<(At, At)> {
        let mut calm = Vec::new();
        let mut since = None;
        for record in heard {
            match &record.what {
                What::Opened { .. } | What::Closed { .. } => {
                    calm.extend(since.take().map(|since| (since, record.at)));
                }
                what if gives_id(what) => {
                    since.get_or_insert(record.at);
                }
                _ => {}
            }
        }
        calm.extend(since.map(|since| (since, self.events.run_end)));
        for (begun, healed) in &self.events.faults {
            let over = healed.saturating_add(self.promises.lag_zero_within);
            calm = calm
                .into_iter()
                .flat_map(|(from, to)| [(from, to.min(*begun)), (from.max(over), to)])
                .filter(|(from, to)| from < to)
                .collect();
        }
        calm
    }

    /// Whether everything that was published to see the lag came in time.
    fn sentinels(&mut self) {
        let Some(healed) = self.events.healed else { return };
        let deadline = healed.saturating_add(self.promises.lag_zero_within);
        if self.events.gone(self.listener).is_some_and(|gone| gone <= deadline) {
            return;
        }
        for &index in self.events.sentinels() {
            let fact = &self.events.facts()[index];
            let is_owed = self.listener.is_entitled(fact.audience, fact.event_type, fact.priority)
                && !fact.position.is_some_and(|position| self.is_written_off(position));
            if !is_owed {
                continue;
            }
            let came = self.got.get(&index).map(|receipt| receipt.at);
            if let Some(came) = came.filter(|_| !self.listener.is_slow) {
                let caught_up = &mut self.verdict.measurements.caught_up_after;
                *caught_up = (*caught_up).max(Some(came.saturating_sub(healed)));
            }
            if came.is_none_or(|came| came > deadline && !self.listener.is_slow) {
                let (id, user) = (self.listener.id, &self.listener.user);
                self.verdict.add(Check::C9, || {
                    let came = came.map_or("never".to_owned(), shown);
                    format!(
                        "{} reached listener {id} ({user}): {came}, owed by {}",
                        fact.key,
                        shown(deadline)
                    )
                });
            }
        }
    }
}

/// Whether this shows that a stream has begun. An empty answer that says "come back later" does not.
pub fn gives_id(what: &What) -> bool {
    matches!(what, What::Stamp { .. } | What::Delivery(_) | What::Notice { .. })
}
