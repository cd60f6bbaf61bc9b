//! The accept loop. Our own, because each connection needs a small buffer and a way to be ended from outside:
//! a client that reads nothing would otherwise hold its stream for ever. A connection whose answer is a stream that
//! somebody else writes leaves from here ([`hand_over`](super::hand_over)).

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::http::{HeaderValue, Method, header};
use axum::response::Response;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use super::hand_over::{Exit, Leaving, WatchedSocket};
use crate::delivery::taken::Taken;

/// How many connections the kernel holds for us while a storm of them arrives.
const BACKLOG: i32 = 8_192;
/// The read and write buffer of one connection; the least hyper takes.
const BUFFER: usize = 8_192;
/// The kernel's send buffer of one connection: what a listener that reads nothing may cost there.
const SEND_BUFFER: usize = 128 * 1024;
/// How long a client may take to send its request's head; and to read the answers before a stream, which begins only then.
const HEAD_TIMEOUT: Duration = Duration::from_secs(20);

/// Where the connection of a request comes from: a client, or a proxy.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub IpAddr);

/// Listens at `address`.
pub fn bind(address: std::net::SocketAddr) -> std::io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    // Accepted sockets inherit it.
    socket.set_send_buffer_size(SEND_BUFFER)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// How a server ends. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Ending {
    /// From now on each answer is the last on its connection: a client that keeps the connection
    /// would send its next request into the end of it.
    pub draining: CancellationToken,
    /// Accept no more, and close what is idle. A connection that was handed over is not closed from here.
    pub stop: CancellationToken,
}

/// Bounds on connections.
#[derive(Debug, Clone, Copy)]
pub struct ConnectionLimits {
    /// The most at once, those that were handed over among them; more wait to be accepted.
    pub max: usize,
    /// How long sent bytes may stay unacknowledged, or a client's window closed, before it counts as dead.
    pub ack_timeout: Duration,
}

/// Serves until asked to stop; then ends when the open connections have, those that were handed over as well, or after
/// three seconds.
pub async fn serve(listener: TcpListener, router: Router, limits: ConnectionLimits, ending: Ending) {
    let slots = Arc::new(Semaphore::new(limits.max));
    loop {
        let accepted = async {
            let slot = slots.clone().acquire_owned().await?;
            Ok::<_, AcquireError>((slot, listener.accept().await))
        };
        let (slot, accepted) = tokio::select! {
            // Nobody closes the semaphore.
            Ok(accepted) = accepted => accepted,
            () = ending.stop.cancelled() => break,
        };
        match accepted {
            Ok((stream, address)) => {
                let (router, ending) = (router.clone(), ending.clone());
                tokio::spawn(async move {
                    set_options(&stream, limits.ack_timeout);
                    connection(stream, Peer(address.ip()), router, ending, slot).await;
                });
            }
            Err(error) => {
                // Out of file descriptors, as a rule: wait for some to come free.
                metrics::counter!("carillon_accept_failures_total").increment(1);
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
    let all = u32::try_from(limits.max).unwrap_or(u32::MAX);
    let _ = timeout(Duration::from_secs(3), slots.acquire_many(all)).await;
}

fn set_options(stream: &TcpStream, ack_timeout: Duration) {
    let socket = SockRef::from(stream);
    if let Err(error) =
        socket.set_tcp_nodelay(true).and_then(|()| socket.set_tcp_user_timeout(Some(ack_timeout)))
    {
        tracing::debug!(%error, "a socket option was refused");
    }
}

/// Serves one connection, until it ends or is handed over.
async fn connection(
    stream: TcpStream,
    peer: Peer,
    router: Router,
    ending: Ending,
    slot: OwnedSemaphorePermit,
) {
    let exit = Arc::new(Exit::default());
    let io = TokioIo::new(WatchedSocket::new(stream, exit.clone()));
    let service = {
        let (exit, draining) = (exit.clone(), ending.draining);
        service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(peer);
            answer(router.clone(), request, draining.clone(), exit.clone())
        })
    };
    let mut serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(BUFFER)
        .serve_connection(io, service);
    let mut is_stopping = false;
    loop {
        tokio::select! {
            // A client that goes away is an everyday thing.
            is_leaving = exit.has_leaving(&mut serving) => if is_leaving { break } else { return },
            () = ending.stop.cancelled(), if !is_stopping => {
                is_stopping = true;
                std::pin::Pin::new(&mut serving).graceful_shutdown();
            }
        }
    }
    match timeout(HEAD_TIMEOUT, exit.is_flushed(&mut serving)).await {
        Ok(true) => {}
        Ok(false) => return,
        Err(_) => {
            tracing::debug!("a client did not read what came before its stream");
            return;
        }
    }
    let Some(Leaving { head, framing, take }) = exit.take_leaving() else { return };
    // hyper's buffers go here, with what the client sent behind its request.
    match serving.into_parts().io.into_inner().into_socket().into_std() {
        Ok(socket) => take(Taken { socket, head, framing, slot }),
        Err(error) => tracing::warn!(%error, "a connection could not be handed over"),
    }
}

/// The answer to one request, unless it leaves with the connection.
async fn answer(
    router: Router,
    request: Request<Incoming>,
    draining: CancellationToken,
    exit: Arc<Exit>,
) -> Result<Response, Infallible> {
    let (version, is_head) = (request.version(), request.method() == Method::HEAD);
    let mut response = router.oneshot(request).await?;
    if draining.is_cancelled() {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    Ok(exit.divert(version, is_head, response).await)
}
