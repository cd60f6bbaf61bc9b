//! Calls to the masters: each behind a circuit of its own, within the deadline.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redis::{ConnectionAddr, RedisError, ServerErrorKind};
use tokio::time::timeout;

use super::circuit::Circuit;
use super::{Failure, RedisServers, Topology};

/// What leads to one master.
pub(super) trait Access: Clone + Send + Sync + 'static {
    /// Nothing is to use it any more. Who holds a clone fails soon.
    fn close(&self);
}

/// Why a call failed.
pub(super) enum CallError {
    /// By what was sent, or the answer.
    Redis(RedisError),
    /// The access is of no use any more.
    Broken(Failure),
    /// Not by the server's fault: nothing was sent.
    Local(Failure),
}

/// One access to each master, created by the first call and again whenever it breaks. Clones share them.
pub(super) struct PerMaster<T> {
    servers: RedisServers,
    first_query: Circuit<Arc<Topology>>,
    circuits: Arc<Circuits<T>>,
    closes_on_failover: Arc<AtomicBool>,
}

type Circuits<T> = Mutex<Vec<(ConnectionAddr, Circuit<T>)>>;

impl<T> Clone for PerMaster<T> {
    fn clone(&self) -> Self {
        Self {
            servers: self.servers.clone(),
            first_query: self.first_query.clone(),
            circuits: self.circuits.clone(),
            closes_on_failover: self.closes_on_failover.clone(),
        }
    }
}

impl<T: Access> PerMaster<T> {
    /// Connects to nothing yet.
    pub(super) fn new(servers: RedisServers) -> Self {
        let first_query = Circuit::new(servers.timing().max_backoff);
        Self { servers, first_query, circuits: Arc::default(), closes_on_failover: Arc::default() }
    }

    /// The topology; waits only if it was never known.
    pub(super) async fn topology(&self) -> Result<Arc<Topology>, Failure> {
        if let Some(topology) = self.servers.topology() {
            return Ok(topology);
        }
        let servers = self.servers.clone();
        let querying = self.first_query.get(|| async move { servers.query_topology().await });
        let topology = match timeout(self.servers.timing().deadline, querying).await {
            Ok(queried) => queried.map(|(topology, _)| topology),
            Err(_) => Err(Failure::silence()),
        };
        topology.inspect_err(|failure| self.servers.outage().failed(failure))
    }

    /// `items` by the number of their name's master, in the order given.
    pub(super) fn by_master<I>(
        &self,
        topology: &Topology,
        items: impl IntoIterator<Item = I>,
        name: impl Fn(&I) -> &str,
    ) -> Result<BTreeMap<usize, Vec<I>>, Failure> {
        let mut parts: BTreeMap<usize, Vec<I>> = BTreeMap::new();
        for item in items {
            parts.entry(self.master_of(topology, name(&item))?).or_default().push(item);
        }
        Ok(parts)
    }

    pub(super) fn master_of(&self, topology: &Topology, name: &str) -> Result<usize, Failure> {
        topology.master_of(name).ok_or_else(|| {
            self.servers.mark_stale();
            let failure = Failure("that slot has no master".into());
            self.servers.outage().failed(&failure);
            failure
        })
    }

    /// Calls the master of this number within the deadline; `connect` makes the access to it if there is none. An
    /// access that breaks or falls silent is closed, and made anew for the next call.
    pub(super) async fn call_at<R, F>(
        &self,
        topology: &Topology,
        master: usize,
        connect: impl FnOnce(RedisServers, ConnectionAddr) -> F,
        call: impl AsyncFnOnce(T) -> Result<R, CallError>,
    ) -> Result<R, Failure>
    where
        F: Future<Output = Result<T, Failure>> + Send + 'static,
    {
        self.close_on_failover();
        let address = &topology.masters()[master];
        let circuit = self.circuit(address);
        let mut used = None;
        let answered = timeout(self.servers.timing().deadline, async {
            let (access, generation) = circuit
                .get(|| connect(self.servers.clone(), address.clone()))
                .await
                .map_err(CallError::Local)?;
            used = Some((access.clone(), generation));
            call(access).await
        })
        .await;
        let (failure, is_broken, is_silent) = match answered {
            Ok(Ok(value)) => {
                self.servers.outage().worked();
                return Ok(value);
            }
            Ok(Err(CallError::Local(failure))) => (failure, false, false),
            Ok(Err(CallError::Broken(failure))) => (failure, true, false),
            Ok(Err(CallError::Redis(error))) => {
                let (is_broken, is_silent) = (is_broken(&error), error.is_timeout());
                if error.code().is_some() {
                    self.servers.mark_stale();
                }
                (error.into(), is_broken, is_silent)
            }
            Err(_) => (Failure::silence(), true, true),
        };
        if is_broken {
            self.servers.mark_stale();
            if let Some((access, generation)) = used {
                circuit.broke(generation, &failure, is_silent);
                access.close();
            }
        }
        self.servers.outage().failed(&failure);
        Err(failure)
    }

    fn circuit(&self, address: &ConnectionAddr) -> Circuit<T> {
        let mut circuits = lock(&self.circuits);
        if let Some((_, circuit)) = circuits.iter().find(|(other, _)| other == address) {
            return circuit.clone();
        }
        let circuit = Circuit::new(self.servers.timing().max_backoff);
        circuits.push((address.clone(), circuit.clone()));
        circuit
    }

    /// Starts the task that closes the access to servers that are masters no longer, for as long as this is used.
    fn close_on_failover(&self) {
        if self.servers.is_single() || self.closes_on_failover.swap(true, Ordering::SeqCst) {
            return;
        }
        let (mut known, circuits) = (self.servers.0.topology.subscribe(), Arc::downgrade(&self.circuits));
        tokio::spawn(async move {
            while known.changed().await.is_ok() {
                let Some(topology) = known.borrow_and_update().clone() else { continue };
                let Some(circuits) = circuits.upgrade() else { return };
                lock(&circuits).retain(|(address, circuit)| {
                    let is_master = topology.masters().contains(address);
                    if !is_master && let Some(access) = circuit.connected() {
                        access.close();
                    }
                    is_master
                });
            }
        });
    }
}

/// Fails unless the server still is a master: after whatever broke the last connection, the topology is queried.
pub(super) async fn ensure_master(servers: &RedisServers, address: &ConnectionAddr) -> Result<(), Failure> {
    match servers.query_topology().await?.masters().contains(address) {
        true => Ok(()),
        false => Err(Failure("another server is the master now".into())),
    }
}

/// Whether the connection is of no use after this error. That of a server that has become a replica is not, either:
/// its address may lead to the new master by now.
pub(super) fn is_broken(error: &RedisError) -> bool {
    error.is_io_error()
        || error.is_unrecoverable_error()
        || matches!(
            error.kind(),
            redis::ErrorKind::Server(ServerErrorKind::ReadOnly | ServerErrorKind::MasterDown)
        )
}

fn lock<T>(circuits: &Circuits<T>) -> MutexGuard<'_, Vec<(ConnectionAddr, Circuit<T>)>> {
    circuits.lock().unwrap_or_else(PoisonError::into_inner)
}
