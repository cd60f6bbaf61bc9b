//! The accept loop. Our own, because each connection needs a small buffer and a way to be ended from outside:
//! a client that reads nothing would otherwise hold its stream for ever.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
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
/// How long sent bytes may stay unacknowledged before the connection counts as dead.
const ACK_TIMEOUT: Duration = Duration::from_secs(120);

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

/// Serves until `stop`; then accepts no more, and ends when the open connections have.
pub async fn serve(listener: TcpListener, router: Router, max_connections: usize, stop: CancellationToken) {
    let slots = Arc::new(Semaphore::new(max_connections));
    loop {
        let accepted = async {
            let slot = slots.clone().acquire_owned().await;
            (slot, listener.accept().await)
        };
        let (slot, accepted) = tokio::select! {
            accepted = accepted => accepted,
            () = stop.cancelled() => break,
        };
        match accepted {
            Ok((stream, _)) => {
                let (router, stop) = (router.clone(), stop.clone());
                tokio::spawn(async move {
                    connection(stream, router, stop).await;
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
    let all = u32::try_from(max_connections).unwrap_or(u32::MAX);
    let _ = tokio::time::timeout(Duration::from_secs(3), slots.acquire_many(all)).await;
}

async fn connection(stream: TcpStream, router: Router, stop: CancellationToken) {
    let socket = SockRef::from(&stream);
    if let Err(error) =
        socket.set_tcp_nodelay(true).and_then(|()| socket.set_tcp_user_timeout(Some(ACK_TIMEOUT)))
    {
        tracing::debug!(%error, "a socket option was refused");
    }
    let ended = CancellationToken::new();
    let handle = Connection(ended.clone());
    let service = router.map_request(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(handle.clone());
        request
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
            () = stop.cancelled(), if !is_stopping => {
                is_stopping = true;
                serving.as_mut().graceful_shutdown();
            }
        }
    }
}
