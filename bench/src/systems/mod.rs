//! What is measured side by side: how each is started, and how it is spoken to.

mod carillon;
mod nchan;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use crate::process::{Process, free_address, wait_for};
use crate::scenario::{Scenario, To};

/// A server, or several that work together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum System {
    /// See [`crate::floor`].
    Floor,
    /// nginx with nchan, which keeps messages in its memory: one worker.
    Nchan,
    /// Two of them over Redis: published to one, all listeners at the other.
    NchanRedis,
    /// Carillon with its embedded store.
    Embedded,
    /// Two nodes of it over Postgres and Redis: published to one, all listeners at the other.
    Cluster,
}

impl System {
    pub const ALL: [Self; 5] = [Self::Floor, Self::Nchan, Self::NchanRedis, Self::Embedded, Self::Cluster];

    pub fn name(self) -> &'static str {
        match self {
            Self::Floor => "floor",
            Self::Nchan => "nchan",
            Self::NchanRedis => "nchan-redis",
            Self::Embedded => "embedded",
            Self::Cluster => "cluster",
        }
    }

    /// Whether it can do that.
    pub fn takes(self, scenario: Scenario) -> bool {
        scenario != Scenario::Batches || self.is_carillon()
    }

    pub fn is_carillon(self) -> bool {
        matches!(self, Self::Embedded | Self::Cluster)
    }

    /// Starts it, empty.
    pub fn start(self, place: &Place) -> io::Result<Running> {
        match self {
            Self::Floor => floor(place),
            Self::Nchan => nchan::start(place),
            Self::NchanRedis => nchan::start_over_redis(place),
            Self::Embedded => carillon::start_embedded(place),
            Self::Cluster => carillon::start_cluster(place),
        }
    }
}

/// Where the servers' programs are, and where their files go.
pub struct Place {
    /// The program `carillon`.
    pub carillon: PathBuf,
    /// The folder of Postgres' programs.
    pub postgres: PathBuf,
    /// A folder, empty at each start.
    pub folder: PathBuf,
    /// How many accounts of listeners are made.
    pub users: usize,
}

/// What is spoken to a system.
#[derive(Debug, Clone, Copy)]
pub enum Api {
    Floor,
    Nchan,
    Carillon,
}

/// A system that runs. It stops when this is dropped.
pub struct Running {
    pub api: Api,
    pub listen_at: SocketAddr,
    pub publish_at: SocketAddr,
    processes: Vec<Process>,
}

impl Running {
    /// Everything that was started for it.
    pub fn pids(&self) -> Vec<u32> {
        self.processes.iter().map(Process::pid).collect()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Nodes stop before what they stand on.
        while self.processes.pop().is_some() {}
    }
}

impl Api {
    /// A request for a stream.
    pub fn listen(self, address: SocketAddr, listener: usize, to: To) -> String {
        let channel = channel((to == To::OneUser).then_some(listener));
        let (path, more) = match self {
            Self::Floor => (format!("/{channel}"), String::new()),
            Self::Nchan => (format!("/listen?id={channel}"), String::new()),
            Self::Carillon => (
                "/api/v1/stream".to_owned(),
                format!("Authorization: Bearer {}\r\n", carillon::token(listener)),
            ),
        };
        format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nAccept: text/event-stream\r\n{more}\r\n")
    }

    /// A request that publishes an event for a user, or for everyone.
    pub fn publish(self, address: SocketAddr, user: Option<usize>, payload: &str) -> String {
        match self {
            Self::Floor => post(address, &format!("/{}", channel(user)), "", payload),
            Self::Nchan => post(address, &format!("/publish?id={}", channel(user)), "", payload),
            Self::Carillon => {
                post(address, "/api/v1/events", &carillon::publisher(), &carillon::event(user, payload))
            }
        }
    }

    /// A request that publishes several events; only Carillon takes such.
    pub fn publish_batch(self, address: SocketAddr, user: Option<usize>, payloads: &[String]) -> String {
        let events: Vec<_> = payloads.iter().map(|payload| carillon::event(user, payload)).collect();
        let body = format!("{{\"events\":[{}]}}", events.join(","));
        post(address, "/api/v1/events/batch", &carillon::publisher(), &body)
    }
}

fn channel(user: Option<usize>) -> String {
    user.map_or("everyone".to_owned(), |user| format!("u{user}"))
}

fn post(address: SocketAddr, path: &str, more: &str, body: &str) -> String {
    let length = body.len();
    format!("POST {path} HTTP/1.1\r\nHost: {address}\r\n{more}Content-Length: {length}\r\n\r\n{body}")
}

fn floor(place: &Place) -> io::Result<Running> {
    let address = free_address()?;
    let own = std::env::current_exe()?;
    let command = [&own.to_string_lossy()[..], "floor", &address.to_string()];
    let process = Process::start(&place.folder, "floor", &command)?;
    wait_for(address, &post(address, "/nobody", "", ""), "HTTP/1.1 204")?;
    Ok(Running { api: Api::Floor, listen_at: address, publish_at: address, processes: vec![process] })
}

/// A Redis that writes nothing to disk.
fn redis(place: &Place) -> io::Result<(SocketAddr, Process)> {
    let address = free_address()?;
    let (port, folder) = (address.port().to_string(), place.folder.to_string_lossy());
    let command =
        ["redis-server", "--port", &port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"];
    let process = Process::start(&place.folder, "redis", &[&command[..], &["--dir", &folder]].concat())?;
    wait_for(address, "PING\r\n", "+PONG")?;
    Ok((address, process))
}
