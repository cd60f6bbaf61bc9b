//! Frames as chunks (RFC 9112 §7.1): each is encoded once with its chunk's size line and end, so that the same bytes
//! serve every HTTP/1.1 connection. HTTP/1.0 gets the slice inside.

use bytes::Bytes;

use crate::delivery::taken::Framing;

/// What ends a body in chunks.
pub const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// The longest size line: 16 digits and the line break.
const MAX_SIZE_LINE: usize = 18;
const LINE_BREAK: &[u8] = b"\r\n";

/// Bytes of a stream as one chunk. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    bytes: Bytes,
    body_at: u8,
}

impl Chunk {
    /// With the body that `put` appends, which may not be empty: that would end the stream. `capacity`: about how many
    /// bytes it has.
    pub fn new(capacity: usize, put: impl FnOnce(&mut Vec<u8>)) -> Self {
        let mut out = Vec::with_capacity(MAX_SIZE_LINE + capacity + LINE_BREAK.len());
        out.resize(MAX_SIZE_LINE, 0);
        put(&mut out);
        let size_line = format!("{:x}\r\n", out.len() - MAX_SIZE_LINE);
        let begin = MAX_SIZE_LINE - size_line.len();
        out[begin..MAX_SIZE_LINE].copy_from_slice(size_line.as_bytes());
        out.extend_from_slice(LINE_BREAK);
        let body_at = u8::try_from(size_line.len()).unwrap_or(u8::MAX);
        Self { bytes: Bytes::from(out).slice(begin..), body_at }
    }

    /// Of bytes that are already there.
    pub fn of(body: &[u8]) -> Self {
        Self::new(body.len(), |out| out.extend_from_slice(body))
    }

    /// What the client's parser sees.
    pub fn body(&self) -> &[u8] {
        &self.bytes[self.body_range()]
    }

    /// What is written to a connection.
    pub fn framed(&self, framing: Framing) -> Bytes {
        match framing {
            Framing::Chunked => self.bytes.clone(),
            Framing::UntilClose => self.bytes.slice(self.body_range()),
        }
    }

    fn body_range(&self) -> std::ops::Range<usize> {
        usize::from(self.body_at)..self.bytes.len() - LINE_BREAK.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_has_its_size_its_body_and_its_end() {
        for (body, expected) in [("a", "1\r\na\r\n"), ("0123456789abcdef", "10\r\n0123456789abcdef\r\n")] {
            let chunk = Chunk::of(body.as_bytes());
            assert_eq!(chunk.body(), body.as_bytes());
            assert_eq!(chunk.framed(Framing::UntilClose), body);
            assert_eq!(chunk.framed(Framing::Chunked), expected);
        }
        let long = vec![b'x'; 70_000];
        assert!(Chunk::of(&long).framed(Framing::Chunked).starts_with(b"11170\r\nx"));
    }
}
