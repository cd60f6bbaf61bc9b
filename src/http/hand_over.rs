//! How a connection leaves hyper. A stream lives for hours and is written by a reactor; what hyper keeps of a connection
//! (buffers, a task, timers) would cost each listener more than the stream itself.
//!
//! The handler answers as any other and puts a [`HandOver`] into the response's extensions, so that the headers of all
//! layers are in the answer. The connection's service keeps such a response from hyper: it writes the head itself, leaves
//! it in [`Exit`] and never completes. The connection's task drives hyper until what it had to write before is written,
//! takes it apart and gives the socket away.

use std::future::{pending, poll_fn};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::SystemTime;

use axum::http::{StatusCode, Version, header};
use axum::response::Response;
use bytes::Bytes;
use httpdate::HttpDate;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::delivery::taken::{Framing, Taken};

type Take = Box<dyn FnOnce(Taken) + Send>;

/// In a response's extensions: the body is written by whoever takes the connection's socket, not by hyper. The response's
/// own body is dropped.
///
/// Only a response with status 200 to another method than `HEAD` leaves hyper. If it does not, or the client goes away
/// first, `take` is dropped without being called.
#[derive(Clone)]
pub struct HandOver(Arc<Mutex<Option<Take>>>);

impl HandOver {
    /// `take` is called once, in the connection's task: it must not block.
    pub fn new(take: impl FnOnce(Taken) + Send + 'static) -> Self {
        Self(Arc::new(Mutex::new(Some(Box::new(take)))))
    }

    fn into_take(self) -> Option<Take> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// A stream that waits for its connection's socket.
pub(super) struct Leaving {
    pub(super) head: Bytes,
    pub(super) framing: Framing,
    pub(super) take: Take,
}

/// What a connection's service, its socket and its task share.
#[derive(Default)]
pub(super) struct Exit {
    leaving: Mutex<Option<Leaving>>,
    has_leaving: AtomicBool,
    /// hyper has flushed its socket since the stream came, and has not written since. It flushes only when it has nothing
    /// left to write.
    is_flushed: AtomicBool,
}

impl Exit {
    /// Returns a response that hyper is to write. For any other it leaves the stream here and does not return.
    pub(super) async fn divert(&self, version: Version, is_head: bool, mut response: Response) -> Response {
        let Some(hand_over) = response.extensions_mut().remove::<HandOver>() else { return response };
        // It counts the body that the response has here: none.
        response.headers_mut().remove(header::CONTENT_LENGTH);
        if is_head || response.status() != StatusCode::OK {
            return response;
        }
        let Some(take) = hand_over.into_take() else { return response };
        let framing = if version == Version::HTTP_11 { Framing::Chunked } else { Framing::UntilClose };
        let leaving = Leaving { head: head(response, framing), framing, take };
        *self.leaving.lock().unwrap_or_else(PoisonError::into_inner) = Some(leaving);
        self.is_flushed.store(false, Relaxed);
        self.has_leaving.store(true, Relaxed);
        pending().await
    }

    /// Drives hyper until a stream is to leave. False when the connection ended first.
    pub(super) async fn has_leaving(&self, serving: &mut (impl Future + Unpin)) -> bool {
        drive(serving, &self.has_leaving).await
    }

    /// Drives hyper until it has written everything that comes before the stream. False when the connection ended first.
    pub(super) async fn is_flushed(&self, serving: &mut (impl Future + Unpin)) -> bool {
        drive(serving, &self.is_flushed).await
    }

    /// The stream that is to leave.
    pub(super) fn take_leaving(&self) -> Option<Leaving> {
        self.leaving.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// hyper sets the flags while it is polled, in the same task: nobody has to be woken for them.
async fn drive(serving: &mut (impl Future + Unpin), flag: &AtomicBool) -> bool {
    poll_fn(|context| {
        if flag.load(Relaxed) {
            return Poll::Ready(true);
        }
        match Pin::new(&mut *serving).poll(context) {
            Poll::Ready(_) => Poll::Ready(false),
            Poll::Pending if flag.load(Relaxed) => Poll::Ready(true),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

/// The answer's head, with what hyper would have added to it.
fn head(response: Response, framing: Framing) -> Bytes {
    let (mut parts, _) = response.into_parts();
    // How the connection goes on is said below.
    parts.headers.remove(header::CONNECTION);
    parts.headers.remove(header::TRANSFER_ENCODING);
    let mut head = Vec::with_capacity(512);
    head.extend_from_slice(match framing {
        Framing::Chunked => b"HTTP/1.1 200 OK\r\n",
        Framing::UntilClose => b"HTTP/1.0 200 OK\r\n",
    });
    for (name, value) in &parts.headers {
        head.extend_from_slice(name.as_str().as_bytes());
        head.extend_from_slice(b": ");
        head.extend_from_slice(value.as_bytes());
        head.extend_from_slice(b"\r\n");
    }
    if !parts.headers.contains_key(header::DATE) {
        head.extend_from_slice(format!("date: {}\r\n", HttpDate::from(SystemTime::now())).as_bytes());
    }
    head.extend_from_slice(b"connection: close\r\n");
    if framing == Framing::Chunked {
        head.extend_from_slice(b"transfer-encoding: chunked\r\n");
    }
    head.extend_from_slice(b"\r\n");
    head.into()
}

/// A connection's socket, which notes in [`Exit`] when hyper has nothing left to write.
pub(super) struct WatchedSocket {
    socket: TcpStream,
    exit: Arc<Exit>,
}

impl WatchedSocket {
    pub(super) fn new(socket: TcpStream, exit: Arc<Exit>) -> Self {
        Self { socket, exit }
    }

    pub(super) fn into_socket(self) -> TcpStream {
        self.socket
    }
}

impl AsyncRead for WatchedSocket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(context, buffer)
    }
}

impl AsyncWrite for WatchedSocket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.exit.is_flushed.store(false, Relaxed);
        Pin::new(&mut self.socket).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.exit.is_flushed.store(false, Relaxed);
        Pin::new(&mut self.socket).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.socket).poll_flush(context);
        if matches!(flushed, Poll::Ready(Ok(()))) {
            self.exit.is_flushed.store(true, Relaxed);
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(context)
    }
}
