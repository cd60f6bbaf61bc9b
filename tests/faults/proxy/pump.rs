//! One direction of one connection.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::super::resp::PushFaults;
use super::{CutAfter, CutWhen, Direction, End, Ending, Moment, Rules, Shared, lock};

/// The most bytes read at a time.
const PIECE: usize = 16 << 10;
/// The most bytes, and pieces, under way. With a delay they bound the throughput.
const MOST_BYTES: usize = 8 << 20;
const MOST_PIECES: usize = 64 << 10;
/// How much of what went before a piece a predicate is given with it.
const WINDOW: usize = 4 << 10;

/// Set by one direction of a connection: the other one is to cut it in place of forwarding anything more.
#[derive(Default)]
pub(super) struct Swallow(Mutex<Option<(Direction, Ending)>>);

/// Bytes on their way; none means the end of the stream.
struct Piece {
    due: Instant,
    bytes: Bytes,
}

/// What was forwarded since somebody waits for something in it.
struct Watched {
    cut: Arc<CutWhen>,
    forwarded: Vec<u8>,
}

/// Forwards until the sender is done, or the connection is to end.
pub(super) struct Pump<'a> {
    shared: &'a Shared,
    connection: u64,
    direction: Direction,
    source: ReadHalf<'a>,
    sink: WriteHalf<'a>,
    rules: watch::Receiver<Rules>,
    swallow: &'a Swallow,
    cut_after: Option<(u64, Ending)>,
    watched: Option<Watched>,
    pushes: Option<PushFaults>,
    buffer: Vec<u8>,
    queue: VecDeque<Piece>,
    queued: usize,
    has_ended: bool,
}

impl<'a> Pump<'a> {
    pub(super) fn new(
        shared: &'a Shared,
        (direction, source, sink): (Direction, ReadHalf<'a>, WriteHalf<'a>),
        connection: u64,
        cut_after: Option<CutAfter>,
        swallow: &'a Swallow,
    ) -> Self {
        let cut_after = cut_after.filter(|cut| cut.direction.covers(direction));
        let has_pushes = shared.is_redis && direction == Direction::ToClient;
        Self {
            shared,
            connection,
            direction,
            source,
            sink,
            rules: shared.rules.subscribe(),
            swallow,
            cut_after: cut_after.map(|cut| (cut.bytes, cut.ending)),
            watched: None,
            pushes: has_pushes.then(|| PushFaults::new(connection)),
            buffer: vec![0; PIECE],
            queue: VecDeque::new(),
            queued: 0,
            has_ended: false,
        }
    }

    /// Gives nothing when the end of the stream has been passed on.
    pub(super) async fn run(mut self) -> Result<(), End> {
        loop {
            let flows = self.obey();
            let now = Instant::now();
            let front = self.queue.front();
            let is_due = front.is_some_and(|piece| piece.due <= now);
            if flows && is_due && front.is_some_and(|piece| piece.bytes.is_empty()) {
                return self.sink.shutdown().await.map_err(|_| End::Broken);
            }
            let wake_at = front.map(|piece| piece.due).filter(|_| !is_due);
            let release_at = self.pushes.as_ref().and_then(PushFaults::held_until);
            let wake_at = [wake_at, release_at].into_iter().flatten().min();
            let bytes = front.filter(|_| flows && is_due).map_or(&[][..], |piece| &piece.bytes);
            let bytes = &bytes[..self.permitted(bytes.len())?];
            let has_room = !self.has_ended && self.queued < MOST_BYTES && self.queue.len() < MOST_PIECES;
            tokio::select! {
                // A switched fault holds for the very next byte.
                biased;
                _ = self.rules.changed() => {}
                written = self.sink.write(bytes), if !bytes.is_empty() => self.wrote(written)?,
                read = self.source.read(&mut self.buffer), if flows && has_room => self.read(read)?,
                () = sleep_until(wake_at.unwrap_or(now)), if flows && wake_at.is_some() => self.release(),
            }
        }
    }

    /// Takes over the faults as they are switched now; whether anything flows.
    fn obey(&mut self) -> bool {
        let rules = self.rules.borrow_and_update();
        let cut = rules.cut_when.as_ref().filter(|cut| cut.direction.covers(self.direction));
        let is_same = |watched: &Watched| cut.is_some_and(|cut| Arc::ptr_eq(cut, &watched.cut));
        if !self.watched.as_ref().is_some_and(is_same) {
            self.watched = cut.map(|cut| Watched { cut: cut.clone(), forwarded: Vec::new() });
        }
        if let Some(pushes) = &mut self.pushes {
            pushes.set(rules.pushes);
        }
        let stalls = match self.direction {
            Direction::ToServer => rules.stalls_to_server,
            _ => rules.stalls_to_client,
        };
        !stalls && self.connection > rules.silent_up_to
    }

    /// How many of the next bytes may be forwarded before the connection is cut.
    fn permitted(&self, bytes: usize) -> Result<usize, End> {
        match self.cut_after {
            Some((0, ending)) if bytes > 0 => Err(End::Cut(ending)),
            Some((left, _)) => Ok(bytes.min(usize::try_from(left).unwrap_or(usize::MAX))),
            None => Ok(bytes),
        }
    }

    fn read(&mut self, read: io::Result<usize>) -> Result<(), End> {
        let read = read.map_err(|_| End::Broken)?;
        self.has_ended = read == 0;
        let swallow = *lock(&self.swallow.0);
        // A fault that was healed in the meantime no longer waits for the answer.
        if let Some((direction, ending)) = swallow.filter(|_| self.rules.borrow().cut_when.is_some())
            && direction == self.direction
        {
            return Err(End::Cut(ending));
        }
        if let Some(pushes) = &mut self.pushes {
            let (now, mut out, mut passed) = (Instant::now(), BytesMut::new(), Ok(()));
            self.shared.counts.send_modify(|counts| {
                passed = pushes.pass(&self.buffer[..read], now, &mut out, &mut counts.pushes);
                if self.has_ended {
                    pushes.finish(&mut out, &mut counts.pushes);
                }
            });
            passed.map_err(|_| End::Malformed)?;
            self.enqueue(out.freeze());
        } else {
            self.enqueue(Bytes::copy_from_slice(&self.buffer[..read]));
        }
        if self.has_ended {
            self.queue.push_back(Piece { due: self.due(), bytes: Bytes::new() });
        }
        Ok(())
    }

    /// When what comes now is to be forwarded.
    fn due(&self) -> Instant {
        Instant::now() + self.rules.borrow().delay
    }

    fn enqueue(&mut self, bytes: Bytes) {
        if !bytes.is_empty() {
            self.queued += bytes.len();
            self.queue.push_back(Piece { due: self.due(), bytes });
        }
    }

    /// Sends what has been held back for long enough.
    fn release(&mut self) {
        let Some(pushes) = &mut self.pushes else { return };
        if pushes.held_until().is_some_and(|until| until <= Instant::now()) {
            let mut out = BytesMut::new();
            self.shared.counts.send_modify(|counts| pushes.release(&mut out, &mut counts.pushes));
            self.enqueue(out.freeze());
        }
    }

    fn wrote(&mut self, written: io::Result<usize>) -> Result<(), End> {
        let written = written.map_err(|_| End::Broken)?;
        let Some(piece) = self.queue.front_mut() else { return Ok(()) };
        let bytes = piece.bytes.split_to(written);
        if piece.bytes.is_empty() {
            self.queue.pop_front();
        }
        self.queued -= written;
        self.shared.counts.send_modify(|counts| match self.direction {
            Direction::ToServer => counts.bytes_to_server += written as u64,
            _ => counts.bytes_to_client += written as u64,
        });
        if let Some((left, ending)) = &mut self.cut_after {
            *left -= written as u64;
            if *left == 0 {
                return Err(End::Cut(*ending));
            }
        }
        self.look(&bytes)
    }

    /// Whether what was forwarded is what somebody waits for.
    fn look(&mut self, bytes: &[u8]) -> Result<(), End> {
        let Some(Watched { cut, forwarded }) = &mut self.watched else { return Ok(()) };
        forwarded.drain(..forwarded.len().saturating_sub(WINDOW));
        forwarded.extend_from_slice(bytes);
        if !(cut.seen)(forwarded) || !cut.claim() {
            return Ok(());
        }
        match cut.moment {
            Moment::AtOnce => Err(End::Cut(cut.ending)),
            Moment::Answered => {
                let other = match self.direction {
                    Direction::ToServer => Direction::ToClient,
                    _ => Direction::ToServer,
                };
                *lock(&self.swallow.0) = Some((other, cut.ending));
                Ok(())
            }
        }
    }
}
