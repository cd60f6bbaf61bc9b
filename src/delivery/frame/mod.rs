//! Server-Sent Events frames (WHATWG HTML §9.2.6). A file for each wire form of a publisher's event, today one: the
//! envelope; and the server's own events.

mod envelope;
mod server_event;

use std::sync::OnceLock;

use bytes::Bytes;

use crate::event::{Checkpoint, Cursor, Epoch, Event, Position};
use crate::failpoint::is_armed;
pub use server_event::ServerEvent;

/// A frame with its `id:` line in front, so that a connection may use it whole or put another `id:` before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    bytes: Bytes,
    body_at: usize,
}

impl Frame {
    /// The whole frame, `id:` line included.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The frame without its `id:` line.
    pub fn body(&self) -> Bytes {
        self.bytes.slice(self.body_at..)
    }
}

/// An event on its way to listeners, with its frames: each is encoded when the first listener needs it, and shared by
/// all.
#[derive(Debug)]
pub struct Delivery {
    epoch: Epoch,
    event: Event,
    has_digest: bool,
    envelope: OnceLock<Frame>,
}

/// What a frame has around the publisher's data, in bytes, about.
const AROUND_DATA: usize = 256;

impl Delivery {
    /// Of an event of this history.
    pub fn new(epoch: &Epoch, event: Event) -> Self {
        Self { epoch: epoch.clone(), event, has_digest: false, envelope: OnceLock::new() }
    }

    /// The same; its frames' cursors have a digest if `has_digest`.
    pub fn with_digest(self, has_digest: bool) -> Self {
        Self { has_digest, ..self }
    }

    /// The event.
    pub fn event(&self) -> &Event {
        &self.event
    }

    /// Its position in the log.
    pub fn position(&self) -> Position {
        self.event.position
    }

    /// Whether it belongs to this history: positions of another mean something else.
    pub fn is_of(&self, epoch: &Epoch) -> bool {
        self.epoch == *epoch
    }

    /// The event with its position and id.
    pub fn checkpoint(&self) -> Checkpoint {
        Checkpoint::new(self.event.position, self.event.id)
    }

    /// What its frames have as `id:`, unless others were overtaken.
    fn cursor(&self) -> Cursor {
        let ahead = if is_armed("cursor_ahead") { 3 } else { 0 };
        let cursor = Cursor::at(self.epoch.clone(), self.checkpoint());
        let cursor = Cursor { position: cursor.position + ahead, ..cursor };
        if self.has_digest { cursor } else { cursor.without_digest() }
    }

    /// How long its frame is, in bytes, about: known without encoding it.
    pub fn frame_size(&self) -> usize {
        frame_size(&self.event)
    }

    /// Its frame in the envelope form.
    pub fn envelope(&self) -> &Frame {
        self.envelope.get_or_init(|| envelope::encode(&self.cursor(), &self.event))
    }
}

impl PartialEq for Delivery {
    fn eq(&self, other: &Self) -> bool {
        self.epoch == other.epoch && self.event == other.event
    }
}

impl Eq for Delivery {}

/// How long the frame of an event is, in bytes, about.
pub fn frame_size(event: &Event) -> usize {
    event.data.len() + AROUND_DATA
}

/// An `id:` line. With an empty line after it (and no data) it moves a listener's cursor and nothing else.
pub fn id_line(cursor: &Cursor) -> String {
    format!("id: {cursor}\n")
}

/// How long a browser waits before it reconnects.
pub fn retry_line(millis: u64) -> String {
    format!("retry: {millis}\n")
}

#[cfg(test)]
mod tests;
