//! The server's own events, all named `carillon.…`, which no publisher may use. Their names and fields stand here
//! only.

use std::time::Duration;

use serde::Serialize;
use serde_json::json;

use crate::event::{Cursor, Position, Topic};

/// One of the server's own events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerEvent {
    name: &'static str,
    /// JSON on one line.
    data: String,
}

impl ServerEvent {
    fn new(name: &'static str, data: &impl Serialize) -> Self {
        Self { name, data: serde_json::to_string(data).expect("the server's own events are plain JSON") }
    }

    /// A heartbeat as an event: whether the stream has sent everything up to now (`live`), how many seconds it is
    /// quiet at most, and how many seconds to wait before a reconnect.
    pub fn alive(live: bool, heartbeat: Duration, retry: Duration) -> Self {
        let (heartbeat, retry) = (heartbeat.as_secs_f64(), retry.as_secs_f64());
        Self::new("carillon.alive", &json!({ "live": live, "heartbeat": heartbeat, "retry": retry }))
    }

    /// What came before `cursor` cannot be delivered, and why: `unreadable`, `epoch`, `retention` or `ahead`.
    pub fn reset(reason: &str, cursor: &Cursor) -> Self {
        Self::new("carillon.reset", &json!({ "reason": reason, "cursor": cursor.to_string() }))
    }

    /// The history is over: how many events it had, and whether these were all that was asked for.
    pub fn history(events: usize, complete: bool) -> Self {
        Self::new("carillon.history", &json!({ "events": events, "complete": complete }))
    }

    /// Who is on a topic.
    pub fn presence(present: &impl Serialize) -> Self {
        Self::new("carillon.presence", present)
    }

    /// A user came to a topic.
    pub fn join(topic: &Topic, user: &str) -> Self {
        Self::new("carillon.join", &json!({ "topic": topic, "user": user }))
    }

    /// A user left a topic.
    pub fn leave(topic: &Topic, user: &str) -> Self {
        Self::new("carillon.leave", &json!({ "topic": topic, "user": user }))
    }

    /// The stream's user read one event, or marked it as unread.
    pub fn read(position: Position, read: bool) -> Self {
        Self::new("carillon.read", &json!({ "position": position, "read": read }))
    }

    /// The stream's user read everything up to here.
    pub fn read_up_to(up_to: Position) -> Self {
        Self::new("carillon.read", &json!({ "up_to": up_to }))
    }

    /// The stream's user undid "read up to here".
    pub fn read_undone() -> Self {
        Self::new("carillon.read", &json!({ "read": false }))
    }

    /// An event was taken back.
    pub fn retract(position: Position) -> Self {
        Self::new("carillon.retract", &json!({ "position": position }))
    }

    /// An event has expired.
    pub fn expire(position: Position) -> Self {
        Self::new("carillon.expire", &json!({ "position": position }))
    }

    /// The session or token of the stream was revoked or has expired.
    pub fn signout() -> Self {
        Self::new("carillon.signout", &json!({}))
    }

    /// The status of all nodes.
    pub fn nodes(cluster: &impl Serialize) -> Self {
        Self::new("carillon.nodes", cluster)
    }

    /// Its bytes on the wire, about.
    pub fn size(&self) -> usize {
        self.name.len() + self.data.len() + 16
    }

    /// As a frame without its `id:` line.
    pub fn body(&self) -> String {
        format!("event: {}\ndata: {}\n\n", self.name, self.data)
    }
}
