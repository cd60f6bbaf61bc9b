//! Named: the envelope, with the event's type as `event:`, so that a page can listen to each type by itself
//! (`addEventListener("alert", …)`).

use super::envelope;
use super::fields::put_event;
use crate::event::Event;

/// Appends the fields of the frame that carries `event`.
pub(super) fn put(out: &mut Vec<u8>, event: &Event) {
    put_event(out, event.event_type.as_str());
    envelope::put(out, event);
}
