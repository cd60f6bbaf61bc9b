//! What a client still sends of a body when its request has been answered: the body was too long, or nobody wanted it.
//!
//! A socket that is closed with bytes unread is reset, and a client that is reset while it sends may never see the answer.
//! So the answer goes out at once, and what still comes is read and thrown away (RFC 9112 §9.6), within bounds.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::{HeaderValue, header};
use axum::middleware::Next;
use axum::response::Response;
use futures_util::StreamExt as _;
use http_body::{Body as _, Frame, SizeHint};
use tokio::sync::oneshot;

use super::examples;

/// The most bytes that are thrown away: twice the largest body that any route takes.
const MAX_BYTES: u64 = 2 * examples::MAX_BYTES;
/// For how long they are. A client that has its answer stops sending, or is done by then.
const MAX_TIME: Duration = Duration::from_secs(30);
/// A rest of at most so many bytes is not worth a new connection.
const MAX_FOR_KEEP_ALIVE: u64 = 16 * 1024;

/// Answers as the routes do, and throws away what they have not read of the body. The answer ends the connection if
/// much is left: that stops clients from sending.
pub async fn discard_unread(request: Request, next: Next) -> Response {
    if request.body().is_end_stream() {
        return next.run(request).await;
    }
    // Who waits for permission to send the body (RFC 9110 §10.1.1) does not send it after such an answer.
    let waits = request.headers().contains_key(header::EXPECT);
    let (sender, mut unread) = oneshot::channel();
    let request = request.map(|body| Body::new(Returned { body, is_over: false, sender: Some(sender) }));
    let mut response = next.run(request).await;
    let Ok(rest) = unread.try_recv() else { return response };
    if waits || rest.size_hint().upper().is_none_or(|left| left > MAX_FOR_KEEP_ALIVE) {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    // At most one on each connection: no other request is read from it before the body's end.
    tokio::spawn(discard(rest, MAX_BYTES, MAX_TIME));
    response
}

/// Reads until the body ends or breaks, or a bound is reached. Then the connection is closed.
async fn discard(rest: Body, max_bytes: u64, max_time: Duration) {
    let mut rest = rest.into_data_stream();
    let reading = async {
        let mut read = 0;
        while let Some(Ok(piece)) = rest.next().await {
            read += piece.len() as u64;
            if read > max_bytes {
                return;
            }
        }
    };
    if tokio::time::timeout(max_time, reading).await.is_err() {
        tracing::debug!("a client went on sending after its answer");
    }
}

/// A request's body, which is sent back when it is dropped before its end.
struct Returned {
    body: Body,
    is_over: bool,
    sender: Option<oneshot::Sender<Body>>,
}

impl http_body::Body for Returned {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let next = ready!(Pin::new(&mut self.body).poll_frame(context));
        // After an error nothing comes that could be thrown away.
        self.is_over = !matches!(next, Some(Ok(_)));
        Poll::Ready(next)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Returned {
    fn drop(&mut self) {
        if self.is_over || self.body.is_end_stream() {
            return;
        }
        if let Some(sender) = self.sender.take() {
            // It fails when the connection is gone, and with it what would come.
            let _ = sender.send(std::mem::take(&mut self.body));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::stream;

    use super::*;

    #[tokio::test]
    async fn what_is_thrown_away_is_bounded_in_bytes_and_time() {
        let taken = Arc::new(AtomicUsize::new(0));
        let counter = taken.clone();
        let piece = move |_| {
            counter.fetch_add(1, Ordering::Relaxed);
            Ok::<_, Infallible>(vec![0; 1_000])
        };
        let long = Body::from_stream(stream::iter((0..5_000).map(piece)));
        discard(long, 1_000_000, Duration::from_secs(3_600)).await;
        assert_eq!(taken.load(Ordering::Relaxed), 1_001);

        let silent = Body::from_stream(stream::pending::<Result<Bytes, Infallible>>());
        let discarding = discard(silent, 1_000_000, Duration::from_millis(10));
        tokio::time::timeout(Duration::from_secs(60), discarding).await.expect("a silent client is given up");
    }
}
