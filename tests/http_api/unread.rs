//! Requests that are answered before their body has come, on plain sockets: what a client library makes of a reset is
//! its own affair.

use std::io;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufStream};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::setup::Setup;
use crate::support::DEADLINE;

/// More than an event may have, and than the kernel takes of what nobody reads.
const LONG: usize = 16 << 20;
const PIECE: &[u8] = &[b'x'; 64 * 1024];

/// A connection to the node that sends what it is given, and reads whole answers.
struct Socket(BufStream<TcpStream>);

impl Socket {
    async fn connect(setup: &Setup) -> Self {
        let address = setup.node.address.strip_prefix("http://").unwrap();
        Self(BufStream::new(TcpStream::connect(address).await.unwrap()))
    }

    async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        timeout(DEADLINE, async {
            self.0.write_all(bytes).await?;
            self.0.flush().await
        })
        .await
        .expect("the node reads what is sent")
    }

    /// Waits until an answer begins.
    async fn until_answered(&mut self) {
        let begun = timeout(DEADLINE, self.0.fill_buf()).await.expect("the node answers").unwrap();
        assert!(!begun.is_empty(), "the node closed the connection without an answer");
    }

    /// The next answer: its status, its head in lower case, and the problem that is its body.
    async fn answer(&mut self) -> (u16, String, Value) {
        let reading = async {
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") {
                assert_ne!(self.0.read_line(&mut head).await.unwrap(), 0, "{head}");
            }
            let head = head.to_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
            let mut body = vec![0; length.parse().unwrap()];
            self.0.read_exact(&mut body).await.unwrap();
            (head[9..12].parse().unwrap(), head, serde_json::from_slice(&body).unwrap())
        };
        timeout(DEADLINE, reading).await.expect("the whole answer comes")
    }

    /// That nothing more comes, and no reset.
    async fn ends(&mut self) {
        let mut rest = Vec::new();
        let ended = timeout(DEADLINE, self.0.read_to_end(&mut rest)).await.expect("the connection ends");
        assert_eq!((ended.unwrap(), &*rest), (0, &b""[..]));
    }
}

/// The head of a request with a body, less its end.
fn head(setup: &Setup, token: &str, path: &str, length: &str) -> String {
    let host = setup.node.address.strip_prefix("http://").unwrap();
    format!("POST {path} HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {token}\r\n{length}\r\n")
}

pub async fn who_goes_on_sending_gets_the_answer_and_no_reset(setup: Setup) {
    let publisher = &setup.people.publisher;
    let (one, session) = ("/api/v1/events", "/api/v1/session");
    let cases = [
        (publisher.as_str(), one, 413),
        ("wrong", session, 413),
        ("wrong", one, 401),
        ("wrong", "/nothing", 404),
    ];
    for (token, path, status) in cases {
        for is_chunked in [false, true] {
            println!("{path}, {status}, chunked: {is_chunked}");
            let length = if is_chunked {
                "transfer-encoding: chunked\r\n".into()
            } else {
                format!("content-length: {LONG}\r\n")
            };
            let mut piece = PIECE.to_vec();
            if is_chunked {
                piece = [format!("{:x}\r\n", PIECE.len()).as_bytes(), PIECE, b"\r\n"].concat();
            }
            let mut socket = Socket::connect(&setup).await;
            socket.send(head(&setup, token, path, &length).as_bytes()).await.unwrap();
            // As much as the routes read of it, and then, when the answer is already there, the rest.
            let (first, all) = ((400 << 10) / PIECE.len(), LONG / PIECE.len());
            for _ in 0..first {
                socket.send(&piece).await.unwrap();
            }
            socket.until_answered().await;
            for sent in first..all {
                let result = socket.send(&piece).await;
                assert!(result.is_ok(), "{result:?} after {sent} of {all} pieces");
            }
            if is_chunked {
                socket.send(b"0\r\n\r\n").await.unwrap();
            }
            let (was, head, problem) = socket.answer().await;
            assert_eq!((was, &problem["status"]), (status, &status.into()), "{head}{problem}");
            assert!(head.contains("\r\nconnection: close\r\n"), "{head}");
            socket.ends().await;
        }
    }
    assert!(setup.inbox(&setup.alice, "").await.is_empty(), "nothing of it was written");
}

pub async fn a_small_body_that_nobody_wants_does_not_cost_the_connection(setup: Setup) {
    let mut socket = Socket::connect(&setup).await;
    for _ in 0..3 {
        let head = head(&setup, "wrong", "/api/v1/events", "content-length: 2\r\n");
        socket.send(head.as_bytes()).await.unwrap();
        let (status, head, _) = socket.answer().await;
        assert_eq!(status, 401);
        assert!(!head.contains("connection: close"), "{head}");
        socket.send(b"{}").await.unwrap();
    }
}

pub async fn who_waits_for_permission_to_send_a_body_gets_only_the_answer(setup: Setup) {
    let mut socket = Socket::connect(&setup).await;
    let length = "content-length: 2\r\nexpect: 100-continue\r\n";
    socket.send(head(&setup, "wrong", "/api/v1/events", length).as_bytes()).await.unwrap();
    let (status, head, _) = socket.answer().await;
    assert_eq!(status, 401, "{head}");
    assert!(head.contains("\r\nconnection: close\r\n"), "the client need not send the body: {head}");
    // Who is not refused is asked for it.
    let mut socket = Socket::connect(&setup).await;
    let publisher = &setup.people.publisher;
    socket.send(self::head(&setup, publisher, "/api/v1/events", length).as_bytes()).await.unwrap();
    let mut asked = [0; 25];
    timeout(DEADLINE, socket.0.read_exact(&mut asked)).await.expect("the node asks for the body").unwrap();
    assert_eq!(&asked, b"HTTP/1.1 100 Continue\r\n\r\n");
    socket.send(b"{}").await.unwrap();
    assert_eq!(socket.answer().await.0, 400);
}
