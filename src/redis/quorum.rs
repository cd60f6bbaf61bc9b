//! A quorum query: several servers are asked the same, some of which may be gone, frozen or out of date.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ConnectionInfo, FromRedisValue, RedisResult,
};
use tokio::time::{Instant, timeout_at};

use super::Failure;

/// Once a majority has answered, the others get this long: what they know may be newer.
const STRAGGLERS: Duration = Duration::from_millis(100);

/// Asks servers over connections that it keeps from one query to the next.
pub(super) struct QuorumQuery {
    deadline: Duration,
    connections: Mutex<HashMap<String, MultiplexedConnection>>,
}

impl QuorumQuery {
    /// A query takes `deadline` at most.
    pub(super) fn new(deadline: Duration) -> Self {
        Self { deadline, connections: Mutex::default() }
    }

    /// The answers of all servers; or of a majority and those that follow within [`STRAGGLERS`]; or of those that
    /// answered within the deadline. If none did: why the last one failed.
    pub(super) async fn ask<T: FromRedisValue>(
        &self,
        servers: &[ConnectionInfo],
        question: &Cmd,
    ) -> Result<Vec<(ConnectionAddr, T)>, Failure> {
        let mut until = Instant::now() + self.deadline;
        let mut asked: FuturesUnordered<_> = servers
            .iter()
            .map(async |info| (info.addr().clone(), self.ask_one::<T>(info, question).await))
            .collect();
        let mut answers = Vec::new();
        let mut last_failure = Failure::silence();
        while let Ok(Some((address, answer))) = timeout_at(until, asked.next()).await {
            match answer {
                Ok(answer) => answers.push((address, answer)),
                Err(error) => {
                    last_failure = error.into();
                    tracing::debug!(%address, failure = %last_failure, "a server did not answer the quorum query");
                }
            }
            if answers.len() * 2 > servers.len() {
                until = until.min(Instant::now() + STRAGGLERS);
            }
        }
        let asked_now: Vec<String> = servers.iter().map(|info| info.addr().to_string()).collect();
        self.connections().retain(|address, _| asked_now.contains(address));
        if answers.is_empty() { Err(last_failure) } else { Ok(answers) }
    }

    async fn ask_one<T: FromRedisValue>(&self, info: &ConnectionInfo, question: &Cmd) -> RedisResult<T> {
        let address = info.addr().to_string();
        // Taken out while in use: a connection that gives no answer is dropped with the query.
        let kept = self.connections().remove(&address);
        let mut connection = match kept {
            Some(connection) => connection,
            None => self.connect(info).await?,
        };
        let answer = question.query_async(&mut connection).await?;
        self.connections().insert(address, connection);
        Ok(answer)
    }

    async fn connect(&self, info: &ConnectionInfo) -> RedisResult<MultiplexedConnection> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.deadline))
            .set_response_timeout(Some(self.deadline));
        Client::open(info.clone())?.get_multiplexed_async_connection_with_config(&config).await
    }

    fn connections(&self) -> std::sync::MutexGuard<'_, HashMap<String, MultiplexedConnection>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
