//! The envelope: an event's fields and data as one JSON object. It has no `event:` field, so that
//! `EventSource.onmessage` sees all events of publishers, also of types that are newer than the page.

use bytes::Bytes;

use super::Frame;
use crate::event::{Cursor, Event, Shown};

/// The frame that carries `event`.
pub(super) fn encode(cursor: &Cursor, event: &Event) -> Frame {
    let id = super::id_line(cursor);
    let body_at = id.len();
    let mut out = Vec::with_capacity(body_at + super::frame_size(event));
    out.extend_from_slice(id.as_bytes());
    out.extend_from_slice(b"data: ");
    serde_json::to_writer(&mut out, &Shown::from(event)).expect("an event is plain JSON");
    out.extend_from_slice(b"\n\n");
    Frame { bytes: Bytes::from(out), body_at }
}
