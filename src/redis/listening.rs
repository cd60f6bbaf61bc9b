//! Connections for pub/sub: one to each master, good only as long as all of them are.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::future::{join_all, try_join_all};
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Cmd, PushInfo, PushKind};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use super::{Failure, RedisServers, Topology};

/// See the module. Dropping it ends the connections.
pub struct Listening {
    servers: RedisServers,
    topology: Arc<Topology>,
    connections: Vec<MultiplexedConnection>,
    health: Arc<Health>,
}

#[derive(Default)]
struct Health {
    is_broken: AtomicBool,
    broke: Notify,
}

impl RedisServers {
    /// Connects to all masters, after a topology query. What comes goes to `receive`, which must not wait, and returns
    /// false when the connections are of no use any more.
    pub async fn listen(
        &self,
        receive: impl Fn(PushInfo) -> bool + Clone + Send + Sync + 'static,
    ) -> Result<Listening, Failure> {
        let topology = self.query_topology().await?;
        let health = Arc::new(Health::default());
        let connect = topology.masters().iter().map(|master| {
            let (receive, health) = (receive.clone(), health.clone());
            let received = move |push: PushInfo| -> Result<(), std::convert::Infallible> {
                if push.kind == PushKind::Disconnection || !receive(push) {
                    health.is_broken.store(true, Ordering::SeqCst);
                    health.broke.notify_one();
                }
                Ok(())
            };
            self.connect(master, AsyncConnectionConfig::new().set_push_sender(received))
        });
        let connections = try_join_all(connect).await?;
        Ok(Listening { servers: self.clone(), topology, connections, health })
    }
}

impl Listening {
    /// The topology they were made for.
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// A connection for commands to the master of this number; many may use it at the same time.
    pub fn connection(&self, master: usize) -> MultiplexedConnection {
        self.connections[master].clone()
    }

    /// False once a connection broke, or what came made them useless.
    pub fn is_good(&self) -> bool {
        !self.health.is_broken.load(Ordering::SeqCst)
    }

    /// Resolves, with the reason, when they are of no use any more: one broke, a server fell silent, or the topology
    /// changed in a way that `matters` (the topology they were made for, then the new one).
    pub async fn ended(&self, matters: impl Fn(&Topology, &Topology) -> bool) -> Failure {
        if !self.is_good() {
            return Failure("a connection broke".into());
        }
        tokio::select! {
            () = self.health.broke.notified() => Failure("a connection broke".into()),
            () = self.servers.topology_changed(|new| matters(&self.topology, new)) => Failure("there was a failover".into()),
            failure = self.ping() => failure,
        }
    }

    /// A frozen server never closes the connection: only its silence shows it.
    async fn ping(&self) -> Failure {
        let timing = self.servers.timing();
        loop {
            sleep(timing.every).await;
            let answers = join_all(self.connections.iter().map(async |connection| {
                let mut connection = connection.clone();
                timeout(timing.deadline, Cmd::new().arg("PING").exec_async(&mut connection)).await
            }));
            for answer in answers.await {
                match answer {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => return error.into(),
                    Err(_) => return Failure::silence(),
                }
            }
        }
    }
}
