//! The fields of a frame, and how it ends.

use std::time::Duration;

use crate::event::Cursor;

/// Appends an `event:` field. A line break in `name`, which no type may have, would begin another field: it is left out.
pub(super) fn put_event(out: &mut Vec<u8>, name: &str) {
    out.extend_from_slice(b"event: ");
    out.extend(name.bytes().filter(|byte| !matches!(byte, b'\r' | b'\n')));
    out.push(b'\n');
}

/// Appends `text` as `data:` fields, one for each of its lines: whatever is in it, it is nothing but data.
pub(super) fn put_data(out: &mut Vec<u8>, text: &str) {
    let mut rest = text;
    loop {
        let end = rest.bytes().position(|byte| matches!(byte, b'\r' | b'\n'));
        out.extend_from_slice(b"data: ");
        out.extend_from_slice(&rest.as_bytes()[..end.unwrap_or(rest.len())]);
        out.push(b'\n');
        let Some(end) = end else { return };
        let line_break = if rest[end..].starts_with("\r\n") { 2 } else { 1 };
        rest = &rest[end + line_break..];
    }
}

/// How long a browser is to wait before it reconnects.
pub(super) fn retry_line(retry: Duration) -> String {
    format!("retry: {}\n", retry.as_millis())
}

/// How a frame ends: its `id:`, if it has one, and the empty line.
pub(super) fn end(cursor: Option<&Cursor>) -> String {
    cursor.map_or_else(|| "\n".to_owned(), |cursor| format!("id: {cursor}\n\n"))
}
