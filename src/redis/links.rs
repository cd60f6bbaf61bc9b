//! Multiplexed connections for commands that may share one: one to each master.

use std::collections::BTreeMap;
use std::sync::Arc;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, ConnectionAddr, RedisResult};

use super::per_master::{Access, CallError, PerMaster, ensure_master};
use super::{Failure, RedisServers, Topology};

/// One connection to each master, created by the first call and again whenever it breaks. Cheap to clone.
#[derive(Clone)]
pub struct Links(PerMaster<MultiplexedConnection>);

impl Access for MultiplexedConnection {
    /// It ends with its last clone.
    fn close(&self) {}
}

impl Links {
    /// Connects to nothing yet.
    pub fn new(servers: RedisServers) -> Self {
        Self(PerMaster::new(servers))
    }

    /// The topology; waits only if it was never known.
    pub async fn topology(&self) -> Result<Arc<Topology>, Failure> {
        self.0.topology().await
    }

    /// `items` by the number of their name's master, in the order given.
    pub fn by_master<I>(
        &self,
        topology: &Topology,
        items: impl IntoIterator<Item = I>,
        name: impl Fn(&I) -> &str,
    ) -> Result<BTreeMap<usize, Vec<I>>, Failure> {
        self.0.by_master(topology, items, name)
    }

    /// Runs commands at the master of this number, within the deadline. A connection that fails or falls silent is
    /// made anew for the next call.
    pub async fn call_at<R>(
        &self,
        topology: &Topology,
        master: usize,
        commands: impl AsyncFnOnce(&mut MultiplexedConnection) -> RedisResult<R>,
    ) -> Result<R, Failure> {
        let run = async |mut connection| commands(&mut connection).await.map_err(CallError::Redis);
        self.0.call_at(topology, master, connect, run).await
    }
}

async fn connect(servers: RedisServers, address: ConnectionAddr) -> Result<MultiplexedConnection, Failure> {
    ensure_master(&servers, &address).await?;
    servers.connect(&address, AsyncConnectionConfig::new()).await
}
