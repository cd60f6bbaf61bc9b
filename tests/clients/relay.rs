//! The network between one stream and its node: it shreds, cuts at a byte, and refuses.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::support::servers::free_port;

/// One address before a node or a proxy.
pub struct Relay {
    /// `http://127.0.0.1:port`.
    pub address: String,
    way: Arc<Way>,
    accepting: Option<JoinHandle<()>>,
}

struct Way {
    to: String,
    /// So many bytes at a time go to the client.
    piece: usize,
    /// After so many bytes more to the client the connection is cut, once.
    cut: Mutex<Option<usize>>,
    requests: AtomicUsize,
    /// The page of the last request, if it is of another address.
    page: Mutex<Option<String>>,
}

impl Relay {
    /// To `address`.
    pub async fn start(address: &str) -> Self {
        Self::with_pieces(address, usize::MAX).await
    }

    /// To `address`; answers come in pieces of so many bytes.
    pub async fn with_pieces(address: &str, piece: usize) -> Self {
        let to = address.trim_start_matches("http://").to_owned();
        let way = Arc::new(Way {
            to,
            piece,
            cut: Mutex::new(None),
            requests: AtomicUsize::new(0),
            page: Mutex::new(None),
        });
        let mut relay = Self { address: format!("http://127.0.0.1:{}", free_port()), way, accepting: None };
        relay.back().await;
        relay
    }

    /// New connections are refused from now on.
    pub async fn away(&mut self) {
        if let Some(accepting) = self.accepting.take() {
            accepting.abort();
            let _ = accepting.await;
        }
    }

    /// They are accepted again.
    pub async fn back(&mut self) {
        let listener = TcpListener::bind(self.address.trim_start_matches("http://")).await.unwrap();
        self.accepting = Some(tokio::spawn(accept(listener, self.way.clone())));
    }

    /// After this many bytes more to the client the connection is cut, once.
    pub fn cut_after(&self, bytes: usize) {
        *self.way.cut.lock().unwrap() = Some(bytes);
    }

    /// How many bytes may still pass before the cut, if it is still to come.
    pub fn before_the_cut(&self) -> Option<usize> {
        *self.way.cut.lock().unwrap()
    }

    /// How many requests have passed.
    pub fn requests(&self) -> usize {
        self.way.requests.load(Ordering::Relaxed)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        if let Some(accepting) = &self.accepting {
            accepting.abort();
        }
    }
}

async fn accept(listener: TcpListener, way: Arc<Way>) {
    while let Ok((client, _)) = listener.accept().await {
        let way = way.clone();
        tokio::spawn(async move {
            let Ok(server) = TcpStream::connect(&way.to).await else { return };
            client.set_nodelay(true).unwrap();
            let (from_client, to_client) = client.into_split();
            let (from_server, to_server) = server.into_split();
            // Either end ends both.
            tokio::select! {
                _ = requests(from_client, to_server, &way) => {}
                _ = answers(from_server, to_client, &way) => {}
            }
        });
    }
}

async fn requests(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, way: &Way) -> std::io::Result<()> {
    let mut buffer = vec![0; 1 << 16];
    loop {
        let length = from.read(&mut buffer).await?;
        if length == 0 {
            return Ok(());
        }
        if buffer.starts_with(b"GET ") {
            *way.page.lock().unwrap() = origin(&buffer[..length]);
            way.requests.fetch_add(1, Ordering::Relaxed);
        }
        to.write_all(&buffer[..length]).await?;
    }
}

async fn answers(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, way: &Way) -> std::io::Result<()> {
    let mut buffer = vec![0; 1 << 16];
    loop {
        let length = from.read(&mut buffer).await?;
        if length == 0 {
            return Ok(());
        }
        let (passing, is_cut) = way.pass(length);
        let page = way.page.lock().unwrap().clone();
        let bytes = with_permission(&buffer[..passing], page.as_deref());
        for piece in bytes.chunks(way.piece.min(bytes.len()).max(1)) {
            to.write_all(piece).await?;
            // Short frames come apart in the reader, too; for long ones this would take minutes.
            if way.piece < bytes.len() && bytes.len() < 2_000 {
                tokio::time::sleep(Duration::from_micros(500)).await;
            }
        }
        if is_cut {
            return Ok(());
        }
    }
}

impl Way {
    /// How many of these bytes pass, and whether the connection is cut then.
    fn pass(&self, length: usize) -> (usize, bool) {
        let mut cut = self.cut.lock().unwrap();
        match *cut {
            Some(left) if left <= length => {
                *cut = None;
                (left, true)
            }
            Some(left) => {
                *cut = Some(left - length);
                (length, false)
            }
            None => (length, false),
        }
    }
}

/// The header `Origin` of a request.
fn origin(request: &[u8]) -> Option<String> {
    let request = String::from_utf8_lossy(request);
    let lines = request.lines().filter_map(|line| line.split_once(": "));
    lines.filter(|(name, _)| name.eq_ignore_ascii_case("origin")).map(|(_, value)| value.to_owned()).next()
}

/// A page may read a stream of another port only if its own answer and the stream's permit it. Many relays mean many
/// ports, since browsers open only six connections to one.
fn with_permission(answer: &[u8], page: Option<&str>) -> Vec<u8> {
    let status = b"HTTP/1.1 200 OK\r\n";
    let Some(rest) = answer.strip_prefix(status) else { return answer.to_vec() };
    let Some(page) = page else { return without_policy(answer) };
    let headers =
        format!("access-control-allow-origin: {page}\r\naccess-control-allow-credentials: true\r\n");
    [status, headers.as_bytes(), rest].concat()
}

/// An answer whose policy for scripts the browser does not know.
fn without_policy(answer: &[u8]) -> Vec<u8> {
    let mut answer = answer.to_vec();
    let name = b"content-security-policy:";
    if let Some(at) = answer.windows(name.len()).position(|part| part.eq_ignore_ascii_case(name)) {
        answer[at..at + 7].copy_from_slice(b"ignored");
    }
    answer
}
