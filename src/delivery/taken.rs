//! A connection that the HTTP server has given away, as whoever writes a stream to it gets it.

use std::net::TcpStream;

use bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;

/// How the body of an answer is framed on its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// In chunks (RFC 9112, section 7.1): a body that ends without the last one was broken off.
    Chunked,
    /// As it is, until the connection closes: all that HTTP/1.0 knows.
    UntilClose,
}

/// A connection whose next answer is a stream. Nothing of the answer has been written, everything of the answers before
/// it has been given to the kernel.
#[derive(Debug)]
pub struct Taken {
    /// Does not block. The client may have sent more than its request, or may send it later: nobody has asked for it.
    pub socket: TcpStream,
    /// The status line and the headers with the empty line behind them: to be written first.
    pub head: Bytes,
    /// What the head says of the body.
    pub framing: Framing,
    /// The connection's share of the most there may be: to be held as long as the socket.
    pub slot: OwnedSemaphorePermit,
}
