//! Server-Sent Events frames (WHATWG HTML §9.2.6): an encoder for each wire form of a publisher's event, and the server's
//! own events.
//!
//! The `id:` is the last field of every frame: some clients take an id as soon as they have read its line, and would
//! skip an event whose frame was cut off after it.

mod chunk;
mod data;
mod envelope;
mod fields;
mod form;
mod named;
mod plain;
mod server_event;

use std::sync::OnceLock;
use std::time::Duration;

use crate::event::{Checkpoint, Cursor, Epoch, Event, Position, id_digest};
use crate::failpoint::is_armed;
pub use chunk::{Chunk, LAST_CHUNK};
use fields::{end, retry_line};
pub use form::Form;
pub use server_event::ServerEvent;

/// What keeps a stream alive and tells nothing: a comment. No empty line follows it, since several clients hand out
/// an event without data at each.
pub const COMMENT: &str = ":\n";

/// A frame whose `id:` is its event's own position, so that a connection may use it whole or end it with another `id:`.
#[derive(Debug, Clone)]
pub struct Frame {
    chunk: Chunk,
    /// How long it is without its end.
    id_at: usize,
}

impl Frame {
    /// The whole frame, `id:` line included.
    pub fn whole(&self) -> &Chunk {
        &self.chunk
    }

    /// The frame with another cursor, or with none.
    pub fn ending_with(&self, cursor: Option<&Cursor>) -> Chunk {
        let fields = &self.chunk.body()[..self.id_at];
        Chunk::new(fields.len() + Cursor::MAX_PLAIN_LEN, |out| {
            out.extend_from_slice(fields);
            out.extend_from_slice(end(cursor).as_bytes());
        })
    }
}

/// An event on its way to listeners, with its frames: that of each form is encoded when the first listener needs it, and
/// shared by all.
#[derive(Debug)]
pub struct Delivery {
    epoch: Epoch,
    event: Event,
    /// Of its id.
    digest: u32,
    /// Whether the cursors of its frames have a digest.
    has_digest: bool,
    /// By the number of their form.
    frames: [OnceLock<Frame>; Form::ALL.len()],
}

/// What a frame has around the publisher's data, in bytes, about.
const AROUND_DATA: usize = 256;

impl Delivery {
    /// Of an event of this history.
    pub fn new(epoch: &Epoch, event: Event) -> Self {
        let digest = id_digest(&event.id);
        Self { epoch: epoch.clone(), event, digest, has_digest: false, frames: Default::default() }
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

    /// Whether the cursors of its frames have a digest.
    pub fn has_digest(&self) -> bool {
        self.has_digest
    }

    /// The digest of its id.
    pub fn digest(&self) -> u32 {
        self.digest
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

    /// How long its frame is, in bytes, about: known without encoding it. In plain and data a text of nothing but line
    /// breaks takes up to four times as much.
    pub fn frame_size(&self) -> usize {
        frame_size(&self.event)
    }

    /// Its frame in this form.
    pub fn frame(&self, form: Form) -> &Frame {
        self.frames[form as usize].get_or_init(|| self.encode(form))
    }

    fn encode(&self, form: Form) -> Frame {
        let mut id_at = 0;
        let chunk = Chunk::new(self.frame_size(), |out| {
            let begin = out.len();
            form.put(out, &self.event);
            id_at = out.len() - begin;
            out.extend_from_slice(end(Some(&self.cursor())).as_bytes());
        });
        Frame { chunk, id_at }
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

/// The answer to a stream that cannot be opened now: no event, a pause and a reason for people who look. Anything but a
/// 200 would end an `EventSource` for good.
pub fn come_back_later(retry: Duration, reason: &str) -> String {
    format!("{}: {reason}\n", retry_line(retry))
}

#[cfg(test)]
mod tests;
