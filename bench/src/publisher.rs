//! Publishes: as many threads as requests may be on their way, each with a connection of its own.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::ledger::{payload, user_of};
use crate::scenario::{Load, SIZE, To};
use crate::systems::Api;

/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(30);

/// What is published, where, and since when.
pub struct Publisher {
    pub api: Api,
    pub address: SocketAddr,
    pub load: Load,
    /// When the run began: its clock.
    pub begun: Instant,
}

/// How long publishing took, from its first request to its last answer.
pub struct Published {
    pub took: Duration,
    pub ended: Duration,
}

impl Publisher {
    /// Publishes all events. An answer that is no success ends it.
    pub fn run(&self) -> io::Result<Published> {
        let (next, is_over, first) = (AtomicU64::new(0), AtomicBool::new(false), self.begun.elapsed());
        std::thread::scope(|scope| {
            let one = || {
                let done = self.publish_some(&next, &is_over, first);
                is_over.fetch_or(done.is_err(), Ordering::Relaxed);
                done
            };
            let all: Vec<_> = (0..self.load.in_flight).map(|_| scope.spawn(one)).collect();
            let ends = all.into_iter().map(|thread| thread.join().expect("publishing does not panic"));
            let ended = ends.collect::<io::Result<Vec<_>>>()?.into_iter().max().unwrap_or(first);
            Ok(Published { took: ended - first, ended })
        })
    }

    /// Publishes what nobody else does; gives the time of the last answer.
    fn publish_some(&self, next: &AtomicU64, is_over: &AtomicBool, first: Duration) -> io::Result<Duration> {
        let mut connection = self.connect()?;
        let mut answered = first;
        while !is_over.load(Ordering::Relaxed) {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let event = number * self.load.batch;
            if event >= self.load.events {
                break;
            }
            // Late requests do not move what comes after them: their delay counts from when they were due.
            let mut due = self.begun.elapsed();
            if self.load.rate > 0.0 {
                let planned = first + Duration::from_secs_f64(number as f64 / self.load.rate);
                std::thread::sleep(planned.saturating_sub(due));
                due = planned;
            }
            connection.get_mut().write_all(self.request(event, due).as_bytes())?;
            let stays = answer(&mut connection)?;
            answered = self.begun.elapsed();
            if !stays {
                connection = self.connect()?;
            }
        }
        Ok(answered)
    }

    fn connect(&self) -> io::Result<BufReader<TcpStream>> {
        let socket = TcpStream::connect(self.address)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(ANSWER))?;
        Ok(BufReader::new(socket))
    }

    fn request(&self, event: u64, due: Duration) -> String {
        let due = u64::try_from(due.as_nanos()).unwrap_or(u64::MAX);
        let user = match self.load.to {
            To::Everyone => None,
            To::OneUser => Some(user_of(event, self.load.listeners)),
        };
        if self.load.batch == 1 {
            return self.api.publish(self.address, user, &payload(event, due, SIZE));
        }
        let payloads: Vec<_> =
            (event..event + self.load.batch).map(|event| payload(event, due, SIZE)).collect();
        self.api.publish_batch(self.address, user, &payloads)
    }
}

/// Reads an answer to its end; whether the connection stays open.
fn answer(connection: &mut BufReader<TcpStream>) -> io::Result<bool> {
    let status = line(connection)?;
    let (mut length, mut is_chunked, mut stays) = (0, false, true);
    loop {
        let field = line(connection)?.to_ascii_lowercase();
        match field.split_once(':').map(|(name, value)| (name, value.trim())) {
            None => break,
            Some(("content-length", value)) => length = value.parse().map_err(io::Error::other)?,
            Some(("transfer-encoding", "chunked")) => is_chunked = true,
            Some(("connection", "close")) => stays = false,
            Some(_) => {}
        }
    }
    let mut body = Vec::new();
    if is_chunked {
        loop {
            let size = u64::from_str_radix(&line(connection)?, 16).map_err(io::Error::other)?;
            connection.take(size + 2).read_to_end(&mut body)?;
            if size == 0 {
                break;
            }
        }
    } else {
        connection.take(length).read_to_end(&mut body)?;
    }
    if !status.split(' ').nth(1).is_some_and(|code| code.starts_with('2')) {
        let body = String::from_utf8_lossy(&body);
        return Err(io::Error::other(format!("publishing was answered {status:?} {body}")));
    }
    Ok(stays)
}

fn line(connection: &mut BufReader<TcpStream>) -> io::Result<String> {
    let mut line = String::new();
    if connection.read_line(&mut line)? == 0 {
        return Err(io::Error::other("the server closed a publisher's connection"));
    }
    Ok(line.trim_end().to_owned())
}
