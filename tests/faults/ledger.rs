//! What was logged in one run. Times are counted from the run's beginning, by one monotonic clock.
//!
//! Only what was seen from outside stands here; nothing is judged.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, BufWriter, Write as _};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use carillon::event::Priority;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Time since the run began.
pub type At = Duration;
/// A text that many records share.
pub type Name = Arc<str>;

/// The keys of sentinels begin with this: events published after healing, which tell that nothing is behind.
pub const SENTINEL: &str = "sentinel-";

/// Whom an event was published for. Its JSON is the `to` of a publish request.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Audience {
    /// Every listener.
    Everyone,
    /// The user of this name.
    User(String),
    /// The users of these names.
    Users(Vec<String>),
    /// Listeners who asked for this topic.
    Topic(String),
}

/// One request to publish, and what became of it. A retry is another attempt with the same key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Attempt {
    /// The idempotency key. The event's data carries it, too, so that a delivery can be told by it.
    pub key: String,
    /// Which publisher.
    pub publisher: usize,
    /// Whom for.
    pub audience: Audience,
    /// How urgent.
    pub priority: Priority,
    /// The event's type.
    pub event_type: String,
    /// When the event ends for everyone, if it does.
    pub expires: Option<At>,
    /// When the request left.
    pub sent: At,
    /// When the answer came, or was given up.
    pub ended: At,
    /// What became of it.
    pub outcome: Outcome,
}

/// What became of an attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// The cluster said that it is stored.
    Acked {
        /// The event's id.
        id: String,
        /// Its place in the log.
        position: i64,
    },
    /// The cluster said that it is not stored.
    Failed {
        /// The answer's status.
        status: u16,
        /// What the answer said.
        detail: String,
    },
    /// Stored or not, nobody said: no answer, a broken connection, an error of the server's.
    Unknown {
        /// What happened instead of an answer.
        why: String,
    },
}

/// A logical listener: it goes on over any number of connections.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listener {
    /// Its number, its own.
    pub id: usize,
    /// Whose token it uses.
    pub user: String,
    /// The topics it asks for.
    pub topics: Vec<String>,
    /// The types it wants; empty: all.
    pub types: Vec<String>,
    /// The least priority it wants.
    pub min_priority: Option<Priority>,
    /// It reads so slowly that what it reads may have been sent long before. It is held to everything but
    /// times.
    pub is_slow: bool,
}

impl Listener {
    /// Whether an event published like this is for this listener.
    pub fn is_entitled(&self, audience: &Audience, event_type: &str, priority: Priority) -> bool {
        let is_meant = match audience {
            Audience::Everyone => true,
            Audience::User(user) => *user == self.user,
            Audience::Users(users) => users.contains(&self.user),
            Audience::Topic(topic) => self.topics.contains(topic),
        };
        is_meant && self.wants(event_type, priority)
    }

    /// Whether its filters let an event through.
    pub fn wants(&self, event_type: &str, priority: Priority) -> bool {
        (self.types.is_empty() || self.types.iter().any(|wanted| wanted == event_type))
            && self.min_priority.is_none_or(|least| priority >= least)
    }
}

/// Something that happened on a listener's connection. One listener's records stand in the order in which it
/// lived through them, which times alone would not tell.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Heard {
    /// Which listener.
    pub listener: usize,
    /// Which of its connections, counted from 1, failed attempts included.
    pub connection: u32,
    /// When.
    pub at: At,
    /// What.
    #[serde(flatten)]
    pub what: What,
}

/// What happens on a listener's connection.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum What {
    /// It connected, or tried to.
    Opened {
        /// Where to.
        address: String,
        /// The cursor it resumed from.
        cursor_sent: Option<String>,
        /// The answer's status; `None` if there was no answer.
        status: Option<u16>,
    },
    /// The connection ended.
    Closed {
        /// How.
        why: String,
    },
    /// A frame without data moved the id in force. Programs of before the first frame had data send such.
    Stamp {
        /// The id in force from here on.
        raw_id: String,
    },
    /// An event came.
    Delivery(Delivery),
    /// One of the server's own events came.
    Notice {
        /// `carillon.…`.
        name: String,
        /// Its data.
        data: Value,
        /// The id in force from here on.
        raw_id: String,
    },
}

/// An event as it came.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delivery {
    /// The id in force from here on.
    pub raw_id: String,
    /// The event's own id.
    pub event_id: Name,
    /// Its place in the log.
    pub position: i64,
    /// The key it was published with, from its data.
    pub key: Name,
    /// How urgent it says it is.
    pub priority: Priority,
    /// The type it says it has.
    pub event_type: Name,
}

/// An end that somebody asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ending {
    /// When the request left: from here on it may be in force.
    pub asked: At,
    /// When the cluster confirmed it: from here on it must be in force. `None` if it never did.
    pub answered: Option<At>,
    /// Of what.
    #[serde(flatten)]
    pub of: Ended,
}

/// What an ending ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ended {
    /// A user read an event.
    Read {
        /// Who.
        user: String,
        /// The event's id.
        event_id: String,
    },
    /// An event was retracted.
    Retracted {
        /// The event's id.
        event_id: String,
    },
    /// What a listener's permission rests on was revoked.
    Revoked {
        /// Which listener.
        listener: usize,
    },
    /// A listener stopped for good, by itself.
    Left {
        /// Which listener.
        listener: usize,
    },
}

/// A fault and its time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// What was done.
    pub name: String,
    /// From when.
    pub begun: At,
    /// Until when.
    pub healed: At,
}

/// What a process used at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// The process's name; it keeps it when it is started again.
    pub process: String,
    /// When.
    pub at: At,
    /// Resident memory, in bytes.
    pub resident: u64,
    /// Open file descriptors.
    pub descriptors: u64,
    /// What waits in its queues.
    pub queued: u64,
}

/// All that was logged in one run.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Ledger {
    /// What publishers did.
    pub attempts: Vec<Attempt>,
    /// Who listened.
    pub listeners: Vec<Listener>,
    /// What happened on their connections.
    pub heard: Vec<Heard>,
    /// What was ended on request.
    pub endings: Vec<Ending>,
    /// What was broken.
    pub faults: Vec<Fault>,
    /// What the processes used.
    pub samples: Vec<Sample>,
    /// When the last fault was over and everything ran again.
    pub healed: Option<At>,
}

impl Ledger {
    /// Writes it into `folder`: JSON lines, a file for each kind of record.
    pub fn write(&self, folder: &Path) -> io::Result<()> {
        std::fs::create_dir_all(folder)?;
        write_lines(&folder.join("attempts.jsonl"), &self.attempts)?;
        write_lines(&folder.join("listeners.jsonl"), &self.listeners)?;
        write_lines(&folder.join("heard.jsonl"), &self.heard)?;
        write_lines(&folder.join("endings.jsonl"), &self.endings)?;
        write_lines(&folder.join("faults.jsonl"), &self.faults)?;
        write_lines(&folder.join("samples.jsonl"), &self.samples)?;
        write_lines(&folder.join("healed.jsonl"), self.healed.as_slice())
    }

    /// Reads back what [`Ledger::write`] wrote.
    pub fn read(folder: &Path) -> io::Result<Self> {
        Ok(Self {
            attempts: read_lines(&folder.join("attempts.jsonl"))?,
            listeners: read_lines(&folder.join("listeners.jsonl"))?,
            heard: read_lines(&folder.join("heard.jsonl"))?,
            endings: read_lines(&folder.join("endings.jsonl"))?,
            faults: read_lines(&folder.join("faults.jsonl"))?,
            samples: read_lines(&folder.join("samples.jsonl"))?,
            healed: read_lines(&folder.join("healed.jsonl"))?.pop(),
        })
    }

    /// The time of the last record of publishers, connections, faults and samples.
    pub fn end(&self) -> At {
        let attempts = self.attempts.iter().map(|attempt| attempt.ended);
        let heard = self.heard.iter().map(|heard| heard.at);
        let faults = self.faults.iter().map(|fault| fault.healed);
        let samples = self.samples.iter().map(|sample| sample.at);
        attempts.chain(heard).chain(faults).chain(samples).chain(self.healed).max().unwrap_or_default()
    }
}

fn write_lines<T: Serialize>(path: &Path, records: &[T]) -> io::Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    for record in records {
        serde_json::to_writer(&mut file, record)?;
        file.write_all(b"\n")?;
    }
    file.flush()
}

fn read_lines<T: DeserializeOwned>(path: &Path) -> io::Result<Vec<T>> {
    let lines = BufReader::new(File::open(path)?).lines();
    lines.map(|line| Ok(serde_json::from_str(&line?)?)).collect()
}

/// A run's ledger while it is being written: a handle that clients and publishers share.
#[derive(Debug, Clone)]
pub struct LedgerWriter {
    begun: Instant,
    shared: Arc<Mutex<Shared>>,
}

#[derive(Debug, Default)]
struct Shared {
    ledger: Ledger,
    /// An event's texts come anew with each delivery; each is kept once.
    names: HashSet<Name>,
}

impl LedgerWriter {
    /// An empty ledger of a run that begins now.
    pub fn new() -> Self {
        Self { begun: Instant::now(), shared: Arc::default() }
    }

    /// The time since the run began.
    pub fn now(&self) -> At {
        self.begun.elapsed()
    }

    /// A moment of the run, as the ledger counts.
    pub fn time_of(&self, moment: Instant) -> At {
        moment.saturating_duration_since(self.begun)
    }

    /// What a publisher did.
    pub fn attempt(&self, attempt: Attempt) {
        self.lock().ledger.attempts.push(attempt);
    }

    /// Somebody begins to listen.
    pub fn listener(&self, listener: Listener) {
        self.lock().ledger.listeners.push(listener);
    }

    /// Something happened on a listener's connection, at this moment or a little before.
    pub fn heard(&self, listener: usize, connection: u32, at: At, mut what: What) {
        let shared = &mut *self.lock();
        if let What::Delivery(delivery) = &mut what {
            for name in [&mut delivery.event_id, &mut delivery.key, &mut delivery.event_type] {
                *name = kept_once(&mut shared.names, name);
            }
        }
        shared.ledger.heard.push(Heard { listener, connection, at, what });
    }

    /// Something ended on request.
    pub fn ending(&self, ending: Ending) {
        self.lock().ledger.endings.push(ending);
    }

    /// A fault that is over.
    pub fn fault(&self, fault: Fault) {
        self.lock().ledger.faults.push(fault);
    }

    /// What a process uses.
    pub fn sample(&self, sample: Sample) {
        self.lock().ledger.samples.push(sample);
    }

    /// Everything runs again. Sentinels are what is published from here on.
    pub fn healed(&self, at: At) {
        self.lock().ledger.healed = Some(at);
    }

    /// Looks at what is there so far. Everybody who logs waits meanwhile.
    pub fn look<T>(&self, at: impl FnOnce(&Ledger) -> T) -> T {
        at(&self.lock().ledger)
    }

    /// Takes the ledger out; what is logged later is of no run.
    pub fn finish(self) -> Ledger {
        std::mem::take(&mut self.lock().ledger)
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        // A panic elsewhere fails the test; its ledger is worth reading all the same.
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn kept_once(names: &mut HashSet<Name>, name: &Name) -> Name {
    if let Some(kept) = names.get(name) {
        return kept.clone();
    }
    names.insert(name.clone());
    name.clone()
}
