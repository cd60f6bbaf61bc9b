//! Redis' wire protocol, as far as a proxy must know it: where a value ends, and which values are messages.
//! Types and framing: <https://redis.io/docs/latest/develop/reference/protocol-spec/>.

use bytes::{Bytes, BytesMut};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::time::{Duration, Instant};

/// The longest value that is waited for.
const LONGEST_VALUE: usize = 64 << 20;
/// How long a held message waits for one that may overtake it.
pub const LONGEST_HOLD: Duration = Duration::from_millis(50);

/// Bytes that are not RESP2 or RESP3 as Redis speaks it, or a value over 64 MiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

/// Cuts a stream of bytes into whole RESP2 or RESP3 values, however the bytes are chunked.
///
/// An attribute belongs to the value after it. Values of unknown length (`$?`, `*?`), which Redis never sends, are
/// malformed.
#[derive(Debug)]
pub struct Splitter {
    /// The value being received, and all that came after it.
    buffer: BytesMut,
    /// How much of the value is known to be whole.
    scanned: usize,
    /// How far the end of the line at `scanned` has been looked for.
    searched: usize,
    /// How many values, nested ones among them, are still to come until this one is whole.
    missing: u64,
}

impl Default for Splitter {
    fn default() -> Self {
        Self { buffer: BytesMut::new(), scanned: 0, searched: 0, missing: 1 }
    }
}

impl Splitter {
    /// Takes the next bytes of the stream.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next value with its framing, if all of it has come.
    pub fn next(&mut self) -> Result<Option<Bytes>, Malformed> {
        while self.missing > 0 {
            let Some((length, values)) = self.token()? else {
                let is_too_long = self.buffer.len() > LONGEST_VALUE;
                return if is_too_long { Err(Malformed("a value too long")) } else { Ok(None) };
            };
            self.scanned += length;
            self.searched = self.scanned;
            let missing = (self.missing - 1).checked_add(values);
            self.missing = missing.ok_or(Malformed("too many elements"))?;
        }
        let value = self.buffer.split_to(self.scanned).freeze();
        (self.scanned, self.searched, self.missing) = (0, 0, 1);
        Ok(Some(value))
    }

    /// What has come of a value that is not whole; the stream begins anew.
    pub fn take_rest(&mut self) -> Bytes {
        std::mem::take(self).buffer.freeze()
    }

    /// The length of the scalar, or of the aggregate's header, at `scanned`, and how many values belong into it.
    fn token(&mut self) -> Result<Option<(usize, u64)>, Malformed> {
        let Some(line) = self.line() else { return Ok(None) };
        let (&kind, rest) = line.split_first().ok_or(Malformed("an empty line"))?;
        let header = line.len() + 2;
        let (bytes, values) = match kind {
            b'+' | b'-' | b':' | b'_' | b'#' | b',' | b'(' => (0, 0),
            b'$' | b'!' | b'=' => (length(rest)?.map_or(0, |length| length.saturating_add(2)), 0),
            b'*' | b'~' | b'>' => (0, length(rest)?.unwrap_or(0)),
            b'%' => (0, length(rest)?.unwrap_or(0).saturating_mul(2)),
            // What the attribute is about is still to come.
            b'|' => (0, length(rest)?.unwrap_or(0).saturating_mul(2).saturating_add(1)),
            _ => return Err(Malformed("an unknown type")),
        };
        if bytes > LONGEST_VALUE as u64 {
            return Err(Malformed("a value too long"));
        }
        let end = header + bytes as usize;
        let Some(token) = self.buffer.get(self.scanned..self.scanned + end) else { return Ok(None) };
        if !token.ends_with(b"\r\n") {
            return Err(Malformed("a value that does not end where it said"));
        }
        Ok(Some((end, values)))
    }

    /// The line at `scanned` without its end, if it is there.
    fn line(&mut self) -> Option<&[u8]> {
        let found = self.buffer[self.searched..].windows(2).position(|pair| pair == b"\r\n");
        let Some(found) = found else {
            // The last byte may be the first half of the end.
            self.searched = self.searched.max(self.buffer.len().saturating_sub(1));
            return None;
        };
        self.searched += found;
        Some(&self.buffer[self.scanned..self.searched])
    }
}

/// The number after a type; nothing for RESP2's null, `-1`.
fn length(digits: &[u8]) -> Result<Option<u64>, Malformed> {
    let text = std::str::from_utf8(digits).map_err(|_| Malformed("a length that is no number"))?;
    if text == "-1" {
        return Ok(None);
    }
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit());
    let number = text.parse().ok().filter(|_| is_plain);
    number.map(Some).ok_or(Malformed("a length that is no number"))
}

/// Whether a value is a published message that Redis pushes to a subscriber (RESP3 only: to a subscriber that
/// speaks RESP2 messages are arrays, which a proxy cannot distinguish from answers).
pub fn is_message(value: &[u8]) -> bool {
    if !value.starts_with(b">") {
        return false;
    }
    let Some(end) = value.windows(2).position(|pair| pair == b"\r\n") else { return false };
    let kinds: [&[u8]; 3] = [b"$7\r\nmessage\r\n", b"$8\r\npmessage\r\n", b"$8\r\nsmessage\r\n"];
    kinds.iter().any(|kind| value[end + 2..].starts_with(kind))
}

/// What happens to messages on their way from Redis to a subscriber. At most one of the three happens to each, so
/// the three together are at most 100.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PushFault {
    /// Never arrive.
    pub drop_percent: u32,
    /// Arrive twice, one straight after the other.
    pub repeat_percent: u32,
    /// Arrive after the next message, or after [`LONGEST_HOLD`] if there is none.
    pub reorder_percent: u32,
    /// Decides, together with the number of the connection, which messages these are.
    pub seed: u64,
}

/// What has happened to messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PushCounts {
    /// Came from Redis.
    pub seen: u64,
    /// Went nowhere.
    pub dropped: u64,
    /// Were sent twice.
    pub repeated: u64,
    /// Were sent after one that came later.
    pub reordered: u64,
    /// Were held until [`LONGEST_HOLD`] was over, because nothing came later.
    pub late: u64,
}

/// The faults of one connection from Redis.
#[derive(Debug)]
pub struct PushFaults {
    connection: u64,
    splitter: Splitter,
    active: Option<(PushFault, StdRng)>,
    held: Option<(Bytes, Instant)>,
}

impl PushFaults {
    /// For the connection of this number.
    pub fn new(connection: u64) -> Self {
        Self { connection, splitter: Splitter::default(), active: None, held: None }
    }

    /// From now on does this to messages. What did the same before goes on where it was.
    pub fn set(&mut self, fault: Option<PushFault>) {
        if fault == self.active.as_ref().map(|(fault, _)| *fault) {
            return;
        }
        // Connections draw differently, or the same message would be lost everywhere.
        let seed = |seed: u64| seed ^ self.connection.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        self.active = fault.map(|fault| (fault, StdRng::seed_from_u64(seed(fault.seed))));
    }

    /// Takes what came from Redis at `now`, and adds what is to be sent to `out`.
    pub fn pass(
        &mut self,
        bytes: &[u8],
        now: Instant,
        out: &mut BytesMut,
        counts: &mut PushCounts,
    ) -> Result<(), Malformed> {
        self.splitter.feed(bytes);
        while let Some(value) = self.splitter.next()? {
            if is_message(&value) {
                self.message(value, now, out, counts);
            } else {
                out.extend_from_slice(&value);
            }
        }
        Ok(())
    }

    fn message(&mut self, value: Bytes, now: Instant, out: &mut BytesMut, counts: &mut PushCounts) {
        counts.seen += 1;
        if let Some((fault, random)) = &mut self.active {
            let roll = random.random_range(0..100);
            let repeat_from = fault.drop_percent;
            let reorder_from = repeat_from + fault.repeat_percent;
            if roll < repeat_from {
                counts.dropped += 1;
                return;
            }
            if roll < reorder_from {
                counts.repeated += 1;
                out.extend_from_slice(&value);
            } else if roll < reorder_from + fault.reorder_percent && self.held.is_none() {
                self.held = Some((value, now + LONGEST_HOLD));
                return;
            }
        }
        out.extend_from_slice(&value);
        if let Some((held, _)) = self.held.take() {
            counts.reordered += 1;
            out.extend_from_slice(&held);
        }
    }

    /// When the held message is to be sent although nothing has overtaken it.
    pub fn held_until(&self) -> Option<Instant> {
        self.held.as_ref().map(|(_, until)| *until)
    }

    /// Sends the message that is held.
    pub fn release(&mut self, out: &mut BytesMut, counts: &mut PushCounts) {
        if let Some((held, _)) = self.held.take() {
            counts.late += 1;
            out.extend_from_slice(&held);
        }
    }

    /// The stream has ended: sends all that is still here, be it whole or not.
    pub fn finish(&mut self, out: &mut BytesMut, counts: &mut PushCounts) {
        self.release(out, counts);
        out.extend_from_slice(&self.splitter.take_rest());
    }
}
