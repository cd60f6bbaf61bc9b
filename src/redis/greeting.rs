//! The error that a server sends to a new connection before it closes it.

use std::time::Duration;

use redis::{ConnectionAddr, RedisError};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{Failure, is_code};

/// How long a server may take to send it. One that has no objection sends nothing.
const WAIT: Duration = Duration::from_millis(250);

/// Why connecting failed. A server in protected mode, or with too many clients, says so at once and hangs up; the
/// library then knows only of the broken connection, so the error is read from a bare one.
pub(super) async fn connect_failure(address: &ConnectionAddr, error: RedisError) -> Failure {
    if error.is_io_error()
        && !error.is_connection_refusal()
        && !error.is_timeout()
        && let Ok(Some(code)) = timeout(WAIT, read_code(address)).await
    {
        return Failure(format!("Redis answered {code}"));
    }
    error.into()
}

async fn read_code(address: &ConnectionAddr) -> Option<String> {
    let ConnectionAddr::Tcp(host, port) = address else { return None };
    let mut stream = TcpStream::connect((host.as_str(), *port)).await.ok()?;
    let mut bytes = [0; 64];
    let length = stream.read(&mut bytes).await.ok()?;
    let line = str::from_utf8(&bytes[..length]).ok()?.strip_prefix('-')?;
    line.split_ascii_whitespace().next().filter(|code| is_code(code)).map(str::to_owned)
}
