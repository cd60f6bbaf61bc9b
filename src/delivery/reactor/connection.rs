//! One stream's socket: what it takes at once, and what waits for it.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSlice, Read, Write};

use bytes::{Buf as _, Bytes};
use tokio::sync::OwnedSemaphorePermit;

use crate::delivery::session::Tick;
use crate::delivery::taken::Framing;
use crate::event::Millis;

/// How many slices one write has at most.
const MAX_SLICES: usize = 64;
/// How much a client may send on a stream that was asked for, before its connection is cut.
const MAX_STRAY: u32 = 64 * 1024;

/// A socket, or what stands for one in tests.
pub trait Wire: Read + Write {}

impl<T: Read + Write> Wire for T {}

/// How a write ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Written {
    /// Everything was taken.
    All,
    /// The rest waits until the socket has room.
    Part,
}

#[derive(Debug)]
pub(super) struct Connection<W> {
    pub(super) wire: W,
    pub(super) framing: Framing,
    /// Counts among the node's connections for as long as it is open.
    _slot: Option<OwnedSemaphorePermit>,
    unsent: Option<Box<Unsent>>,
    stray: u32,
}

/// A frame on its way to the socket.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub(super) bytes: Bytes,
    /// When it is to be seen no more.
    pub(super) expires_at: Option<Millis>,
}

/// Frames that the socket did not take, in order, the first perhaps in part.
#[derive(Debug)]
struct Unsent {
    frames: VecDeque<Outgoing>,
    /// When something of it was last taken, or it began to wait.
    since: Tick,
}

impl<W: Wire> Connection<W> {
    pub(super) fn new(wire: W, framing: Framing, slot: Option<OwnedSemaphorePermit>) -> Self {
        Self { wire, framing, _slot: slot, unsent: None, stray: 0 }
    }

    /// Since when nothing was taken of what waits for the socket.
    pub(super) fn stalled_since(&self) -> Option<Tick> {
        self.unsent.as_ref().map(|unsent| unsent.since)
    }

    /// How many bytes wait for the socket.
    pub(super) fn waiting(&self) -> usize {
        self.unsent.as_ref().map_or(0, |unsent| unsent.frames.iter().map(|frame| frame.bytes.len()).sum())
    }

    /// Writes these, which come after all that was written before. Nothing may wait.
    pub(super) fn write(&mut self, frames: &mut Vec<Outgoing>, now: Tick) -> io::Result<Written> {
        let mut taken = 0;
        let total: usize = frames.iter().map(|frame| frame.bytes.len()).sum();
        while taken < total {
            match write_once(&mut self.wire, frames.iter(), taken) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(more) => taken += more,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        if taken == total {
            frames.clear();
            return Ok(Written::All);
        }
        let mut frames: VecDeque<Outgoing> = frames.drain(..).collect();
        skip(&mut frames, taken);
        self.unsent = Some(Box::new(Unsent { frames, since: now }));
        Ok(Written::Part)
    }

    /// Writes on what waits, if anything does.
    pub(super) fn write_on(&mut self, now: Tick) -> io::Result<Written> {
        let Some(unsent) = &mut self.unsent else { return Ok(Written::All) };
        while !unsent.frames.is_empty() {
            match write_once(&mut self.wire, unsent.frames.iter(), 0) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(taken) => {
                    skip(&mut unsent.frames, taken);
                    unsent.since = now;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Written::Part),
                Err(error) => return Err(error),
            }
        }
        self.unsent = None;
        Ok(Written::All)
    }

    /// Drops what has expired while it waited, but for what the client has in part. Whether there was any.
    pub(super) fn drop_expired(&mut self, now: Millis) -> bool {
        let Some(unsent) = &mut self.unsent else { return false };
        let before = unsent.frames.len();
        unsent.frames.retain(|frame| frame.expires_at.is_none_or(|expires_at| expires_at > now));
        let is_any = unsent.frames.len() < before;
        if unsent.frames.is_empty() {
            self.unsent = None;
        }
        is_any
    }

    /// Reads what the client sends though it should send nothing, and throws it away. Whether the connection goes on: its
    /// end, or too much, ends it.
    pub(super) fn read(&mut self) -> bool {
        let mut scratch = [0; 4_096];
        loop {
            match self.wire.read(&mut scratch) {
                Ok(0) => return false,
                Ok(more) => {
                    self.stray = self.stray.saturating_add(u32::try_from(more).unwrap_or(u32::MAX));
                    if self.stray > MAX_STRAY {
                        return false;
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return error.kind() == ErrorKind::WouldBlock,
            }
        }
    }
}

/// One write of these but for the first `taken` bytes.
fn write_once<'a>(
    wire: &mut impl Write,
    mut frames: impl ExactSizeIterator<Item = &'a Outgoing>,
    mut taken: usize,
) -> io::Result<usize> {
    if frames.len() == 1
        && let Some(only) = frames.next()
    {
        return wire.write(&only.bytes[taken..]);
    }
    let mut slices = [IoSlice::new(&[]); MAX_SLICES];
    let mut count = 0;
    for frame in frames {
        if taken >= frame.bytes.len() {
            taken -= frame.bytes.len();
            continue;
        }
        if count == MAX_SLICES {
            break;
        }
        slices[count] = IoSlice::new(&frame.bytes[taken..]);
        (count, taken) = (count + 1, 0);
    }
    wire.write_vectored(&slices[..count])
}

fn skip(frames: &mut VecDeque<Outgoing>, mut taken: usize) {
    while let Some(first) = frames.front_mut() {
        if taken < first.bytes.len() {
            if taken > 0 {
                first.bytes.advance(taken);
                // The client has begun to read it.
                first.expires_at = None;
            }
            return;
        }
        taken -= first.bytes.len();
        frames.pop_front();
    }
}
