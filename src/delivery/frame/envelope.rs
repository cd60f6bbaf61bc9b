//! The envelope: an event's fields and data as one JSON object. It has no `event:` field, so that
//! `EventSource.onmessage` sees all events of publishers, also of types that are newer than the page.

use super::fields::put_data;
use crate::event::{Event, Shown};

/// Appends the fields of the frame that carries `event`.
pub(super) fn put(out: &mut Vec<u8>, event: &Event) {
    let json = serde_json::to_string(&Shown::from(event)).expect("an event is plain JSON");
    put_data(out, &json);
}
