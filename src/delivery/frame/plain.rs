//! Plain: the publisher's data alone, with the event's type as `event:`.

use super::data;
use super::fields::put_event;
use crate::event::Event;

/// Appends the fields of the frame that carries `event`.
pub(super) fn put(out: &mut Vec<u8>, event: &Event) {
    put_event(out, event.event_type.as_str());
    data::put(out, event);
}
