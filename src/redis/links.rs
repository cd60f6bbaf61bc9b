//! The connections that commands go over: one to each server in charge.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, ConnectionAddr, RedisError, RedisResult, ServerErrorKind};
use tokio::time::timeout;

use super::circuit::Circuit;
use super::{Failure, Layout, RedisServers};

/// One connection to each server in charge, made when first needed and again whenever it breaks. Cheap to clone.
#[derive(Clone)]
pub struct Links {
    servers: RedisServers,
    found: Circuit<Arc<Layout>>,
    links: Arc<Mutex<Vec<Link>>>,
}

type Link = (ConnectionAddr, Circuit<MultiplexedConnection>);

impl Links {
    /// Connects to nothing yet.
    pub fn new(servers: RedisServers) -> Self {
        let found = Circuit::new(servers.timing().max_backoff);
        Self { servers, found, links: Arc::default() }
    }

    /// Who is in charge; waits only if that was never known.
    pub async fn layout(&self) -> Result<Arc<Layout>, Failure> {
        if let Some(layout) = self.servers.known() {
            return Ok(layout);
        }
        let servers = self.servers.clone();
        let finding = self.found.get(|| async move { servers.find().await });
        match timeout(self.servers.timing().deadline, finding).await {
            Ok(found) => Ok(found?.0),
            Err(_) => Err(self.silence()),
        }
    }

    /// `things` by the number of the server in charge of their name, in the order given.
    pub fn spread<T>(
        &self,
        layout: &Layout,
        things: impl IntoIterator<Item = T>,
        name: impl Fn(&T) -> &str,
    ) -> Result<BTreeMap<usize, Vec<T>>, Failure> {
        let mut spread: BTreeMap<usize, Vec<T>> = BTreeMap::new();
        for thing in things {
            spread.entry(self.server_of(layout, name(&thing))?).or_default().push(thing);
        }
        Ok(spread)
    }

    fn server_of(&self, layout: &Layout, name: &str) -> Result<usize, Failure> {
        layout.server_of(name).ok_or_else(|| {
            self.servers.doubt();
            Failure("no server is in charge of that slot".into())
        })
    }

    /// Runs commands at the server in charge of a name, within the deadline.
    pub async fn call<T>(
        &self,
        name: &str,
        commands: impl AsyncFnOnce(&mut MultiplexedConnection) -> RedisResult<T>,
    ) -> Result<T, Failure> {
        let layout = self.layout().await?;
        let server = self.server_of(&layout, name)?;
        self.call_at(&layout, server, commands).await
    }

    /// Runs commands at the server of this number, within the deadline. A connection that fails or falls silent
    /// is made anew for the next call.
    pub async fn call_at<T>(
        &self,
        layout: &Layout,
        server: usize,
        commands: impl AsyncFnOnce(&mut MultiplexedConnection) -> RedisResult<T>,
    ) -> Result<T, Failure> {
        let address = &layout.servers()[server];
        let link = self.link(layout, address);
        let mut used = None;
        let answered = timeout(self.servers.timing().deadline, async {
            let (mut connection, generation) = link.get(|| self.clone().connect(address.clone())).await?;
            used = Some(generation);
            Ok::<_, Failure>(commands(&mut connection).await)
        })
        .await;
        match answered {
            Ok(Ok(Ok(value))) => Ok(value),
            Ok(Ok(Err(error))) => {
                let (is_broken, is_silent) = (is_broken(&error), error.is_timeout());
                if is_broken || error.code().is_some() {
                    self.servers.doubt();
                }
                let failure = Failure::from(error);
                if let Some(generation) = used.filter(|_| is_broken) {
                    link.broke(generation, &failure, is_silent);
                }
                Err(failure)
            }
            Ok(Err(failure)) => Err(failure),
            Err(_) => {
                self.servers.doubt();
                let failure = self.silence();
                if let Some(generation) = used {
                    link.broke(generation, &failure, true);
                }
                Err(failure)
            }
        }
    }

    /// The link to a server; those to servers no longer in charge are given up.
    fn link(&self, layout: &Layout, address: &ConnectionAddr) -> Circuit<MultiplexedConnection> {
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, link)) = links.iter().find(|(other, _)| other == address) {
            return link.clone();
        }
        links.retain(|(other, _)| layout.servers().contains(other));
        let link = Circuit::new(self.servers.timing().max_backoff);
        links.push((address.clone(), link.clone()));
        link
    }

    /// Connects to a server if it still is in charge: after whatever broke the last connection, it is asked.
    async fn connect(self, address: ConnectionAddr) -> Result<MultiplexedConnection, Failure> {
        let layout = self.servers.find().await?;
        if !layout.servers().contains(&address) {
            return Err(Failure("another server is in charge now".into()));
        }
        self.servers.connect(&address, AsyncConnectionConfig::new()).await
    }

    fn silence(&self) -> Failure {
        Failure(format!("no answer within {} ms", self.servers.timing().deadline.as_millis()))
    }
}

/// Whether the connection is of no use after this error. A server that has become a replica, too: the address
/// may lead to the new master by now.
fn is_broken(error: &RedisError) -> bool {
    error.is_io_error()
        || error.is_unrecoverable_error()
        || matches!(
            error.kind(),
            redis::ErrorKind::Server(ServerErrorKind::ReadOnly | ServerErrorKind::MasterDown)
        )
}
