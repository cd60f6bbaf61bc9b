//! The server's own events, all named `carillon.…`, which no publisher may use. Their names and fields stand here
//! only.

use std::time::Duration;

use serde::Serialize;
use serde_json::json;
use uuid::Uuid;

use super::chunk::Chunk;
use super::fields::{end, put_data, put_event, retry_line};
use crate::event::{Cursor, Millis, Position, Topic, rfc3339};

/// One of the server's own events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerEvent {
    name: &'static str,
    data: String,
    /// How long a browser is to wait before it reconnects, from now on.
    retry: Option<Duration>,
}

impl ServerEvent {
    fn new(name: &'static str, data: &impl Serialize) -> Self {
        let data = serde_json::to_string(data).expect("the server's own events are plain JSON");
        Self { name, data, retry: None }
    }

    /// How each stream begins, so that its listener has a cursor before any event came: browsers keep the `id:` of a frame
    /// only if it has data. Which connection it is, behind which position the stream goes on, and the parameters of the
    /// request that this node does not know. `retry`: how long to wait before a reconnect.
    pub fn connected(connection: Uuid, position: Position, ignored: &[String], retry: Duration) -> Self {
        let mut data = json!({ "connection": connection, "position": position });
        if !ignored.is_empty() {
            data["ignored"] = json!(ignored);
        }
        Self { retry: Some(retry), ..Self::new("carillon.connected", &data) }
    }

    /// A quiet stream whose cursor has moved: everything up to here was sent, or was not for this listener.
    pub fn position(position: Position) -> Self {
        Self::new("carillon.position", &json!({ "position": position }))
    }

    /// A heartbeat as an event: whether the stream has sent everything up to now (`live`), how many seconds it is
    /// quiet at most, how many seconds to wait before a reconnect, and the time by the database's clock.
    pub fn alive(live: bool, heartbeat: Duration, retry: Duration, now: Millis) -> Self {
        let (heartbeat, retry) = (heartbeat.as_secs_f64(), retry.as_secs_f64());
        let data = json!({ "live": live, "heartbeat": heartbeat, "retry": retry, "time": rfc3339(now) });
        Self::new("carillon.alive", &data)
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

    /// Its frame, with the cursor in force, if there is one.
    pub fn frame(&self, cursor: Option<&Cursor>) -> Chunk {
        Chunk::new(self.size() + Cursor::MAX_PLAIN_LEN, |out| {
            put_event(out, self.name);
            put_data(out, &self.data);
            out.extend_from_slice(self.retry.map(retry_line).unwrap_or_default().as_bytes());
            out.extend_from_slice(end(cursor).as_bytes());
        })
    }
}
