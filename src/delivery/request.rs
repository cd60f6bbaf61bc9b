//! What a client asks of a stream.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use super::frame::Form;
use crate::account::Credential;
use crate::event::{Cursor, Invalid, Millis};
use crate::store::Reader;

/// Who listens to what: what a stream keeps of its request for as long as it lives.
#[derive(Debug, Clone)]
pub struct Subscription {
    /// Its number in the cluster.
    pub connection: Uuid,
    /// Who listens, and to what.
    pub reader: Arc<Reader>,
    /// Their name: what others on these topics see.
    pub name: Arc<str>,
    /// Whether they want to know who else is there.
    pub wants_presence: bool,
    /// How long the stream is quiet at most, if not as long as others.
    pub keep_alive_every: Option<Duration>,
    /// What the permission rests on.
    pub credential: Credential,
    /// Where it comes from, for those who ask.
    pub origin: Option<Origin>,
}

/// Where a stream comes from.
#[derive(Debug, Clone)]
pub struct Origin {
    /// The address of the connection: the client, or a proxy.
    pub address: IpAddr,
    /// What the client says it is. Shared by those that say the same.
    pub user_agent: Option<Arc<str>>,
    /// Since when, by the database's clock.
    pub since: Millis,
}

/// How a stream is to begin, and what it is to look like.
#[derive(Debug, Clone, Default)]
pub struct Wish {
    /// The cursor that the client sent, or that what it sent is none. Without one the stream begins now.
    pub resume: Option<Result<Cursor, Invalid>>,
    /// Without a cursor: begin with the last so many events of each topic.
    pub history: Option<u32>,
    /// Keep-alives are to be events, for what an `EventSource` does not show: the cursor, that the stream lives, and
    /// whether it has sent everything up to now.
    pub has_heartbeats: bool,
    /// How it carries events.
    pub form: Form,
    /// How long its client is to wait before it reconnects, if not as long as others.
    pub retry: Option<Duration>,
    /// The parameters of the request that nobody here knows.
    pub ignored: Vec<String>,
}
