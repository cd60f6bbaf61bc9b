//! The accept loop. Our own, because each connection needs a small buffer and a way to be ended from outside:
//! a client that reads nothing would otherwise hold its stream for ever.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::http::{HeaderValue, header};
use axum::response::Response;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

/// How many connections the kernel holds for us while a storm of them arrives.
const BACKLOG: i32 = 8_192;
/// The read and write buffer of one connection; the least hyper takes.
const BUFFER: usize = 8_192;
/// The kernel's send buffer of one connection: what a listener that reads nothing may cost there.
const SEND_BUFFER: usize = 128 * 1024;
/// How long a client may take to send its request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(20);

/// Ends the connection a request came on.
#[derive(Debug, Clone)]
pub struct Connection(pub CancellationToken);

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
    /// Accept no more, and close what is idle.
    pub stop: CancellationToken,
}

/// Bounds on connections.
#[derive(Debug, Clone, Copy)]
pub struct ConnectionLimits {
    /// The most at once; more wait to be accepted.
    pub max: usize,
    /// How long sent bytes may stay unacknowledged, or a client's window closed, before it counts as dead.
    pub ack_timeout: Duration,
}

/// Serves until asked to stop; then ends when the open connections have.
pub async fn serve(listener: TcpListener, router: Router, limits: ConnectionLimits, ending: Ending) {
    let slots = Arc::new(Semaphore::new(limits.max));
    loop {
        let accepted = async {
            let slot = slots.clone().acquire_owned().await;
            (slot, listener.accept().await)
        };
        let (slot, accepted) = tokio::select! {
            accepted = accepted => accepted,
            () = ending.stop.cancelled() => break,
        };
        match accepted {
            Ok((stream, _)) => {
                let (router, ending) = (router.clone(), ending.clone());
                tokio::spawn(async move {
                    connection(stream, router, limits.ack_timeout, ending).await;
                    drop(slot);
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
    let _ = tokio::time::timeout(Duration::from_secs(3), slots.acquire_many(all)).await;
}

async fn connection(stream: TcpStream, router: Router, ack_timeout: Duration, ending: Ending) {
    let socket = SockRef::from(&stream);
    if let Err(error) =
        socket.set_tcp_nodelay(true).and_then(|()| socket.set_tcp_user_timeout(Some(ack_timeout)))
    {
        tracing::debug!(%error, "a socket option was refused");
    }
    let ended = CancellationToken::new();
    let handle = Connection(ended.clone());
    let draining = ending.draining;
    let service = router
        .map_request(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(handle.clone());
            request
        })
        .map_response(move |mut response: Response| {
            if draining.is_cancelled() {
                response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            response
        });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(BUFFER)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
    tokio::pin!(serving);
    let mut is_stopping = false;
    loop {
        tokio::select! {
            // A client that goes away is an everyday thing.
            _ = serving.as_mut() => return,
            () = ended.cancelled() => return,
            () = ending.stop.cancelled(), if !is_stopping => {
                is_stopping = true;
                serving.as_mut().graceful_shutdown();
            }
        }
    }
}
