//! Reads the answer to a request for a stream: its head, its chunks, its events.

use memchr::memmem;

/// More than any head, or any event that is measured, takes.
const MAX_WAITING: usize = 1 << 20;

/// A stream as it is read. Bytes may come in any pieces.
#[derive(Debug, Default)]
pub struct Stream {
    part: Part,
    /// The beginning of a head or event whose end has not come.
    waiting: Vec<u8>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Part {
    #[default]
    Head,
    /// Without chunks.
    Plain,
    /// The line with a chunk's length, as far as it was read.
    Length(usize),
    /// What is left of a chunk.
    Chunk(usize),
    /// The line break after a chunk.
    Break,
}

impl Stream {
    /// Whether the head came, and was a good one.
    pub fn is_open(&self) -> bool {
        self.part != Part::Head
    }

    /// Takes what was read, and hands on each event, without the blank line that ends it.
    pub fn read(&mut self, mut bytes: &[u8], mut event: impl FnMut(&[u8])) -> Result<(), String> {
        if self.part == Part::Head {
            self.waiting.extend_from_slice(bytes);
            let Some(end) = memmem::find(&self.waiting, b"\r\n\r\n") else { return self.check_room() };
            let head = std::mem::take(&mut self.waiting);
            self.part = open(&String::from_utf8_lossy(&head[..end]))?;
            return self.read(&head[end + 4..], event);
        }
        while let Some(first) = bytes.first() {
            match self.part {
                Part::Head => unreachable!("the head was read"),
                Part::Plain => return self.body(bytes, &mut event),
                Part::Chunk(left) => {
                    let (now, rest) = bytes.split_at(left.min(bytes.len()));
                    self.body(now, &mut event)?;
                    bytes = rest;
                    self.part = if now.len() == left { Part::Break } else { Part::Chunk(left - now.len()) };
                    continue;
                }
                Part::Length(0) if *first == b'\n' => return Err("the server ended the stream".to_owned()),
                Part::Length(length) if *first == b'\n' => self.part = Part::Chunk(length),
                Part::Length(length) => {
                    let digit = char::from(*first).to_digit(16);
                    self.part = Part::Length(digit.map_or(length, |digit| length * 16 + digit as usize));
                }
                Part::Break if *first == b'\n' => self.part = Part::Length(0),
                Part::Break => {}
            }
            bytes = &bytes[1..];
        }
        Ok(())
    }

    fn body(&mut self, bytes: &[u8], event: &mut impl FnMut(&[u8])) -> Result<(), String> {
        if self.waiting.is_empty() {
            let used = cut(bytes, event);
            self.waiting.extend_from_slice(&bytes[used..]);
        } else {
            self.waiting.extend_from_slice(bytes);
            let used = cut(&self.waiting, event);
            self.waiting.drain(..used);
        }
        self.check_room()
    }

    fn check_room(&self) -> Result<(), String> {
        if self.waiting.len() > MAX_WAITING {
            return Err(format!("no end of a head or event within {MAX_WAITING} bytes"));
        }
        Ok(())
    }
}

/// How the body comes that this head announces.
fn open(head: &str) -> Result<Part, String> {
    let (status, fields) = head.split_once("\r\n").unwrap_or((head, ""));
    if status.split(' ').nth(1) != Some("200") {
        return Err(format!("a stream was answered {status:?}"));
    }
    let is_chunked = fields.to_ascii_lowercase().contains("transfer-encoding: chunked");
    Ok(if is_chunked { Part::Length(0) } else { Part::Plain })
}

/// Hands on the events that are whole; how many bytes these were.
fn cut(bytes: &[u8], event: &mut impl FnMut(&[u8])) -> usize {
    let mut begin = 0;
    while let Some(length) = memmem::find(&bytes[begin..], b"\n\n") {
        event(&bytes[begin..begin + length]);
        begin += length + 2;
    }
    begin
}

/// The number after `"key":` in a text that has it.
pub fn number(text: &[u8], key: &memmem::Finder) -> Option<u64> {
    let rest = &text[key.find(text)? + key.needle().len()..];
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit());
    digits.fold(None, |sum: Option<u64>, digit| {
        sum.unwrap_or(0).checked_mul(10)?.checked_add(u64::from(digit - b'0'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHUNKED: &[u8] = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
        8\r\ndata: a\n\r\n9\r\n\ndata: b\n\r\n1\r\n\n\r\n1e\r\n: a comment\n\nid: 7\ndata: seven\r\n2\r\n\n\n\r\n";
    const PLAIN: &[u8] =
        b"HTTP/1.0 200 OK\r\nx: y\r\n\r\ndata: a\n\ndata: b\n\n: a comment\n\nid: 7\ndata: seven\n\n";

    fn events(pieces: &[&[u8]]) -> Vec<String> {
        let (mut stream, mut all) = (Stream::default(), Vec::new());
        for piece in pieces {
            stream.read(piece, |event| all.push(String::from_utf8_lossy(event).into_owned())).unwrap();
        }
        all
    }

    #[test]
    fn events_are_the_same_in_any_pieces() {
        let wanted = ["data: a", "data: b", ": a comment", "id: 7\ndata: seven"];
        for whole in [CHUNKED, PLAIN] {
            for first in 0..whole.len() {
                for second in first..whole.len() {
                    let pieces = [&whole[..first], &whole[first..second], &whole[second..]];
                    assert_eq!(events(&pieces), wanted, "cut at {first} and {second}");
                }
            }
        }
    }

    #[test]
    fn what_is_no_stream_is_an_error() {
        let refused = Stream::default().read(b"HTTP/1.1 429 Too Many Requests\r\n\r\n", |_| {});
        assert!(refused.unwrap_err().contains("429"));
        let mut stream = Stream::default();
        stream.read(CHUNKED, |_| {}).unwrap();
        assert!(stream.is_open());
        assert!(stream.read(b"0\r\n\r\n", |_| {}).unwrap_err().contains("ended"));
    }

    #[test]
    fn numbers_are_found_by_their_key() {
        let key = memmem::Finder::new(b"\"bench_number\":");
        assert_eq!(number(br#"data: {"data":{"bench_number":1204,"x":1}}"#, &key), Some(1204));
        assert_eq!(number(br#"data: {"data":{"bench_number":"x"}}"#, &key), None);
        assert_eq!(number(b": a comment", &key), None);
    }
}
