//! Data: the publisher's data alone and no `event:`, so that all of it arrives at `EventSource.onmessage`. A JSON string
//! goes as its text, anything else as the JSON that was published.

use std::borrow::Cow;

use super::fields::put_data;
use crate::event::Event;

/// Appends the fields of the frame that carries `event`.
pub(super) fn put(out: &mut Vec<u8>, event: &Event) {
    put_data(out, &text(&event.data));
}

/// What is sent of `json`. The empty string stays JSON, since an event without data is never dispatched; so does a
/// string that is no text, such as half a pair of surrogates.
fn text(json: &str) -> Cow<'_, str> {
    let string = json.trim_ascii_start().starts_with('"').then(|| serde_json::from_str::<String>(json).ok());
    match string.flatten() {
        Some(text) if !text.is_empty() => text.into(),
        _ => json.into(),
    }
}
