//! Asking several servers the same, some of which may be gone, frozen or behind the times.

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

/// How long those who have not answered are waited for once most have: what they know may be newer.
const STRAGGLERS: Duration = Duration::from_millis(100);

/// Connections to those who are asked, kept from one question to the next.
pub(super) struct Panel {
    patience: Duration,
    connections: Mutex<HashMap<String, MultiplexedConnection>>,
}

impl Panel {
    /// Waits this long at most.
    pub(super) fn new(patience: Duration) -> Self {
        Self { patience, connections: Mutex::default() }
    }

    /// The answers of those who give one: of all, or of a majority and whoever else is quick, or of whoever
    /// there is when patience ends.
    pub(super) async fn ask<T: FromRedisValue>(
        &self,
        whom: &[ConnectionInfo],
        question: &Cmd,
    ) -> Vec<(ConnectionAddr, T)> {
        let mut until = Instant::now() + self.patience;
        let mut asked: FuturesUnordered<_> = whom
            .iter()
            .map(async |info| (info.addr().clone(), self.ask_one::<T>(info, question).await))
            .collect();
        let mut answers = Vec::new();
        while let Ok(Some((address, answer))) = timeout_at(until, asked.next()).await {
            match answer {
                Ok(answer) => answers.push((address, answer)),
                Err(error) => {
                    tracing::debug!(%address, reason = %super::Failure::from(error), "asked in vain");
                }
            }
            if answers.len() * 2 > whom.len() {
                until = until.min(Instant::now() + STRAGGLERS);
            }
        }
        let asked_now: Vec<String> = whom.iter().map(|info| info.addr().to_string()).collect();
        self.connections().retain(|address, _| asked_now.contains(address));
        answers
    }

    async fn ask_one<T: FromRedisValue>(&self, info: &ConnectionInfo, question: &Cmd) -> RedisResult<T> {
        let address = info.addr().to_string();
        // Not there while it is in use: one that does not answer is dropped with the question.
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
            .set_connection_timeout(Some(self.patience))
            .set_response_timeout(Some(self.patience));
        Client::open(info.clone())?.get_multiplexed_async_connection_with_config(&config).await
    }

    fn connections(&self) -> std::sync::MutexGuard<'_, HashMap<String, MultiplexedConnection>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
