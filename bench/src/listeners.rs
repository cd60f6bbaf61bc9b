//! Very many streams, read by one thread, which notes all that comes.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use socket2::SockRef;

use crate::ledger::Ledger;
use crate::stream::Stream;

/// How many streams are being opened at once.
const OPENING: usize = 256;
/// How long opening all of them may take.
const OPEN_WITHIN: Duration = Duration::from_secs(120);
/// The most bytes that are read at once.
const PIECE: usize = 256 << 10;

/// See the module.
pub struct Listeners {
    poll: Poll,
    events: Events,
    streams: Vec<Listener>,
    piece: Vec<u8>,
    opened: usize,
    /// When the run began: its clock.
    begun: Instant,
    /// What came.
    pub ledger: Ledger,
    /// What went wrong first.
    pub fault: Option<String>,
}

struct Listener {
    socket: TcpStream,
    /// What is still to be sent: all of the request, or nothing.
    request: String,
    stream: Stream,
    is_open: bool,
    is_over: bool,
}

impl Listeners {
    pub fn new(ledger: Ledger, begun: Instant) -> io::Result<Self> {
        Ok(Self {
            poll: Poll::new()?,
            events: Events::with_capacity(1_024),
            streams: Vec::new(),
            piece: vec![0; PIECE],
            opened: 0,
            begun,
            ledger,
            fault: None,
        })
    }

    /// Opens a stream with each of these requests.
    pub fn open(&mut self, address: SocketAddr, requests: impl Iterator<Item = String>) -> io::Result<()> {
        let begun = Instant::now();
        for request in requests {
            while self.streams.len() - self.opened >= OPENING {
                self.turn(Duration::from_millis(100))?;
                self.check_opening(begun)?;
            }
            let mut socket = TcpStream::connect(address)?;
            // Closing leaves nothing that waits in the kernel and disturbs the next run.
            SockRef::from(&socket).set_linger(Some(Duration::ZERO))?;
            let both = Interest::READABLE | Interest::WRITABLE;
            self.poll.registry().register(&mut socket, Token(self.streams.len()), both)?;
            let stream = Stream::default();
            self.streams.push(Listener { socket, request, stream, is_open: false, is_over: false });
        }
        while self.opened < self.streams.len() {
            self.turn(Duration::from_millis(100))?;
            self.check_opening(begun)?;
        }
        Ok(())
    }

    fn check_opening(&self, begun: Instant) -> io::Result<()> {
        match &self.fault {
            Some(fault) => Err(io::Error::other(fault.clone())),
            None if begun.elapsed() > OPEN_WITHIN => {
                let all = self.streams.len();
                Err(io::Error::other(format!("only {} of {all} streams could be opened", self.opened)))
            }
            None => Ok(()),
        }
    }

    /// Reads until this is true, at most this long.
    pub fn read_until(&mut self, within: Duration, is_done: impl Fn(&Ledger) -> bool) -> io::Result<()> {
        let begun = Instant::now();
        while begun.elapsed() < within && self.fault.is_none() && !is_done(&self.ledger) {
            let left = within.saturating_sub(begun.elapsed());
            self.turn(left.min(Duration::from_millis(20)))?;
        }
        Ok(())
    }

    /// Waits at most this long, and reads what there is then.
    pub fn turn(&mut self, wait: Duration) -> io::Result<()> {
        if let Err(error) = self.poll.poll(&mut self.events, Some(wait))
            && error.kind() != ErrorKind::Interrupted
        {
            return Err(error);
        }
        for event in &self.events {
            let number = event.token().0;
            let listener = &mut self.streams[number];
            if listener.is_over {
                continue;
            }
            let done = match listener.send(event.is_writable()) {
                Ok(()) => listener.receive(&mut self.piece, number, &mut self.ledger, self.begun),
                failed => failed,
            };
            if listener.stream.is_open() && !listener.is_open {
                listener.is_open = true;
                self.opened += 1;
            }
            if let Err(fault) = done {
                listener.is_over = true;
                self.fault.get_or_insert(format!("listener {number}: {fault}"));
            }
        }
        Ok(())
    }
}

impl Listener {
    fn send(&mut self, is_writable: bool) -> Result<(), String> {
        if self.request.is_empty() || !is_writable {
            return Ok(());
        }
        if let Some(error) = self.socket.take_error().map_err(|error| error.to_string())? {
            return Err(error.to_string());
        }
        // A new socket takes a small request whole.
        match self.socket.write(self.request.as_bytes()) {
            Ok(length) if length == self.request.len() => self.request = String::new(),
            other => return Err(format!("its request was not sent: {other:?}")),
        }
        Ok(())
    }

    fn receive(
        &mut self,
        piece: &mut [u8],
        number: usize,
        ledger: &mut Ledger,
        begun: Instant,
    ) -> Result<(), String> {
        loop {
            match self.socket.read(piece) {
                Ok(0) => return Err("the server closed its connection".to_owned()),
                Ok(length) => {
                    let now = begun.elapsed();
                    self.stream.read(&piece[..length], |event| ledger.read(number, event, now))?;
                    // Then there is no more.
                    if length < piece.len() {
                        return Ok(());
                    }
                }
                Err(error) if [ErrorKind::WouldBlock, ErrorKind::NotConnected].contains(&error.kind()) => {
                    return Ok(());
                }
                Err(error) => return Err(error.to_string()),
            }
        }
    }
}
