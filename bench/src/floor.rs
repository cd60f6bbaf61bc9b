//! The least that delivering can cost: one thread, one poll, and a write for each delivery. No store, no ids, no accounts,
//! nothing for those who come later. `GET /CHANNEL` listens, `POST /CHANNEL` publishes.

use std::collections::HashMap;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::SocketAddr;

use memchr::memmem;
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use socket2::{Domain, Socket, Type};

/// How many connections may wait to be accepted.
const BACKLOG: i32 = 4_096;
const LISTENER: Token = Token(usize::MAX);
const STREAM: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
const DONE: &[u8] = b"HTTP/1.1 204 No Content\r\n\r\n";

/// Serves at `address` until the process ends.
pub fn serve(address: SocketAddr) -> io::Result<()> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    let mut listener = TcpListener::from_std(socket.into());
    let mut poll = Poll::new()?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    let mut floor = Floor::default();
    let mut events = Events::with_capacity(1_024);
    loop {
        if let Err(error) = poll.poll(&mut events, None)
            && error.kind() != ErrorKind::Interrupted
        {
            return Err(error);
        }
        for event in &events {
            match event.token() {
                LISTENER => floor.accept(&listener, &poll)?,
                Token(place) => {
                    floor.send(place, &[]);
                    floor.read(place);
                }
            }
        }
    }
}

#[derive(Default)]
struct Floor {
    connections: Vec<Option<Connection>>,
    free: Vec<usize>,
    channels: HashMap<String, Vec<usize>>,
}

struct Connection {
    socket: TcpStream,
    received: Vec<u8>,
    unsent: Vec<u8>,
    channel: Option<String>,
}

impl Floor {
    fn accept(&mut self, listener: &TcpListener, poll: &Poll) -> io::Result<()> {
        loop {
            let mut socket = match listener.accept() {
                Ok((socket, _)) => socket,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            socket.set_nodelay(true)?;
            let place = self.free.pop().unwrap_or_else(|| {
                self.connections.push(None);
                self.connections.len() - 1
            });
            poll.registry().register(&mut socket, Token(place), Interest::READABLE | Interest::WRITABLE)?;
            let (received, unsent) = (Vec::new(), Vec::new());
            self.connections[place] = Some(Connection { socket, received, unsent, channel: None });
        }
    }

    fn read(&mut self, place: usize) {
        let mut piece = [0; 16 << 10];
        while let Some(connection) = &mut self.connections[place] {
            match connection.socket.read(&mut piece) {
                Ok(length @ 1..) => {
                    connection.received.extend_from_slice(&piece[..length]);
                    if length < piece.len() {
                        break;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                _ => return self.close(place),
            }
        }
        while self.answer(place) {}
    }

    fn close(&mut self, place: usize) {
        let Some(connection) = self.connections[place].take() else { return };
        if let Some(members) = connection.channel.and_then(|channel| self.channels.get_mut(&channel)) {
            members.retain(|member| *member != place);
        }
        self.free.push(place);
    }

    /// Answers one request; whether there may be more.
    fn answer(&mut self, place: usize) -> bool {
        let Some(connection) = &mut self.connections[place] else { return false };
        let Some(head) = memmem::find(&connection.received, b"\r\n\r\n") else { return false };
        let text = String::from_utf8_lossy(&connection.received[..head]).into_owned();
        let length = text.lines().find_map(|line| line.strip_prefix("Content-Length: "));
        let end = head + 4 + length.and_then(|length| length.parse::<usize>().ok()).unwrap_or(0);
        if connection.received.len() < end {
            return false;
        }
        let rest = connection.received.split_off(end);
        let request = std::mem::replace(&mut connection.received, rest);
        let mut words = text.split(' ');
        let (method, channel) = (words.next(), words.next().unwrap_or_default());
        if method == Some("POST") {
            self.publish(channel, &request[head + 4..]);
            self.send(place, DONE);
        } else {
            connection.channel = Some(channel.to_owned());
            connection.received = Vec::new();
            self.channels.entry(channel.to_owned()).or_default().push(place);
            self.send(place, STREAM);
        }
        true
    }

    fn publish(&mut self, channel: &str, data: &[u8]) {
        let Some(members) = self.channels.remove(channel) else { return };
        let mut chunk = format!("{:x}\r\ndata: ", data.len() + 8).into_bytes();
        chunk.extend_from_slice(data);
        chunk.extend_from_slice(b"\n\n\r\n");
        members.iter().for_each(|member| self.send(*member, &chunk));
        self.channels.insert(channel.to_owned(), members);
    }

    /// Writes what waits, then this; what the socket does not take waits.
    fn send(&mut self, place: usize, bytes: &[u8]) {
        let Some(connection) = &mut self.connections[place] else { return };
        while !connection.unsent.is_empty() {
            match connection.socket.write(&connection.unsent) {
                Ok(length) => drop(connection.unsent.drain(..length)),
                Err(_) => break,
            }
        }
        // What fails for good shows when it is read.
        let sent = match connection.unsent.is_empty() && !bytes.is_empty() {
            true => connection.socket.write(bytes).unwrap_or(0),
            false => 0,
        };
        connection.unsent.extend_from_slice(&bytes[sent..]);
    }
}
