//! The connections that are listened to: one to each server in charge, good only as long as all of them are.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::future::{join_all, try_join_all};
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Cmd, PushInfo, PushKind};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use super::{Failure, Layout, RedisServers};

/// See the module. Dropping it ends the connections.
pub struct Listening {
    servers: RedisServers,
    layout: Arc<Layout>,
    connections: Vec<MultiplexedConnection>,
    health: Arc<Health>,
}

#[derive(Default)]
struct Health {
    is_broken: AtomicBool,
    broke: Notify,
}

impl RedisServers {
    /// Connects to all in charge, asked anew. What comes goes to `hear`, which must not wait, and says whether
    /// all is well.
    pub async fn listen(
        &self,
        hear: impl Fn(PushInfo) -> bool + Clone + Send + Sync + 'static,
    ) -> Result<Listening, Failure> {
        let layout = self.find().await?;
        let health = Arc::new(Health::default());
        let connect = layout.servers().iter().map(|server| {
            let (hear, health) = (hear.clone(), health.clone());
            let received = move |push: PushInfo| -> Result<(), std::convert::Infallible> {
                if push.kind == PushKind::Disconnection || !hear(push) {
                    health.is_broken.store(true, Ordering::SeqCst);
                    health.broke.notify_one();
                }
                Ok(())
            };
            self.connect(server, AsyncConnectionConfig::new().set_push_sender(received))
        });
        let connections = try_join_all(connect).await?;
        Ok(Listening { servers: self.clone(), layout, connections, health })
    }
}

impl Listening {
    /// To whom.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// A connection for commands to one of the servers, by its number; whoever may use it at the same time.
    pub fn connection(&self, server: usize) -> MultiplexedConnection {
        self.connections[server].clone()
    }

    /// False once a connection broke or what it brought was not well.
    pub fn is_good(&self) -> bool {
        !self.health.is_broken.load(Ordering::SeqCst)
    }

    /// Resolves, with the reason, when it is of no use any more: something broke, a server fell silent, or others
    /// are in charge, in a way that `matters` (the layout this was made for, then the new one).
    pub async fn ended(&self, matters: impl Fn(&Layout, &Layout) -> bool) -> Failure {
        if !self.is_good() {
            return Failure("a connection broke".into());
        }
        tokio::select! {
            () = self.health.broke.notified() => Failure("a connection broke".into()),
            () = self.servers.moved(|new| matters(&self.layout, new)) => Failure("others are in charge now".into()),
            failure = self.ping() => failure,
        }
    }

    /// A frozen server never closes the connection: only its silence tells.
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
                    Err(_) => return Failure("a server is silent".into()),
                }
            }
        }
    }
}
