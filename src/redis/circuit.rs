//! A lazily created, shared connection with a circuit breaker. While the server is known to be down nobody waits for
//! it: one attempt after another goes on in the background, and callers fail at once.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::{Backoff, Failure};

/// See the module. `T` is a connection, a pool of them, or anything else that takes a while to get and may break.
/// Clones share it.
pub(super) struct Circuit<T>(Arc<watch::Sender<State<T>>>);

struct State<T> {
    stage: Stage<T>,
    backoff: Backoff,
    /// Counts the connections, so that a late failure of one does not cost its successor.
    generation: u64,
}

enum Stage<T> {
    /// Never connected, or broken: the first caller connects, and all wait for that.
    Missing,
    /// Being connected. With the last failure if the server is known to be down.
    Connecting(Option<Failure>),
    Connected(T),
    Down {
        failure: Failure,
        retry_at: Instant,
    },
}

impl<T> Clone for Circuit<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T: Clone + Send + Sync + 'static> Circuit<T> {
    /// Not connected yet. `max_backoff` is the longest pause between attempts.
    pub(super) fn new(max_backoff: Duration) -> Self {
        let backoff = Backoff::up_to(max_backoff);
        Self(Arc::new(watch::Sender::new(State { stage: Stage::Missing, backoff, generation: 0 })))
    }

    /// The connection and its generation; made by `connect` if need be, which must end by itself.
    pub(super) async fn get<F>(&self, connect: impl FnOnce() -> F) -> Result<(T, u64), Failure>
    where
        F: Future<Output = Result<T, Failure>> + Send + 'static,
    {
        let is_mine = self.0.send_if_modified(|state| {
            let before = match &state.stage {
                Stage::Missing => None,
                Stage::Down { failure, retry_at } if *retry_at <= Instant::now() => Some(failure.clone()),
                _ => return false,
            };
            state.stage = Stage::Connecting(before);
            true
        });
        if is_mine {
            // Not in the caller's future, which may be dropped half way.
            tokio::spawn(self.clone().run(connect()));
        }
        let mut changes = self.0.subscribe();
        let is_known = |state: &State<T>| !matches!(state.stage, Stage::Missing | Stage::Connecting(None));
        match changes.wait_for(is_known).await {
            Ok(state) => match &state.stage {
                Stage::Connected(connection) => Ok((connection.clone(), state.generation)),
                Stage::Down { failure, .. } | Stage::Connecting(Some(failure)) => Err(failure.clone()),
                Stage::Missing | Stage::Connecting(None) => Err(Failure("not connected".into())),
            },
            Err(_) => Err(Failure("not connected".into())),
        }
    }

    /// The connection, if there is one.
    pub(super) fn connected(&self) -> Option<T> {
        match &self.0.borrow().stage {
            Stage::Connected(connection) => Some(connection.clone()),
            Stage::Missing | Stage::Connecting(_) | Stage::Down { .. } => None,
        }
    }

    async fn run(self, connecting: impl Future<Output = Result<T, Failure>> + Send + 'static) {
        // In a task of its own, so that even a panic is an answer to those who wait.
        let connected = tokio::spawn(connecting).await;
        let connected = connected.unwrap_or_else(|_| Err(Failure("connecting broke off".into())));
        self.0.send_modify(|state| {
            state.stage = match connected {
                Ok(connection) => {
                    state.generation += 1;
                    state.backoff.reset();
                    Stage::Connected(connection)
                }
                Err(failure) => Stage::Down { failure, retry_at: Instant::now() + state.backoff.pause() },
            };
        });
    }

    /// The connection of this generation broke. The next caller connects anew and waits for it; but if it broke by
    /// its silence (`is_silent`), nobody waits before it is back.
    pub(super) fn broke(&self, generation: u64, failure: &Failure, is_silent: bool) {
        self.0.send_if_modified(|state| {
            let is_current = matches!(state.stage, Stage::Connected(_)) && state.generation == generation;
            if is_current {
                state.stage = match is_silent {
                    true => Stage::Down { failure: failure.clone(), retry_at: Instant::now() },
                    false => Stage::Missing,
                };
            }
            is_current
        });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use tokio::time::sleep;

    use super::*;

    fn no() -> Failure {
        Failure("no".into())
    }

    /// Asks until it is connected; fails the test if that takes too long.
    async fn until_connected(circuit: &Circuit<u32>, value: u32) -> (u32, u64) {
        let began = Instant::now();
        loop {
            if let Ok(connected) = circuit.get(|| async move { Ok(value) }).await {
                return connected;
            }
            assert!(began.elapsed() < Duration::from_secs(20), "never connected");
            sleep(Duration::from_millis(5)).await;
        }
    }

    #[tokio::test]
    async fn the_first_attempt_is_waited_for_and_later_ones_are_not() {
        let circuit = Circuit::<u32>::new(Duration::from_millis(50));
        let fail = || async {
            sleep(Duration::from_millis(5)).await;
            Err(no())
        };
        let (one, two) = tokio::join!(circuit.get(fail), circuit.get(|| async { Ok(1) }));
        assert!(one.is_err() && two.is_err());
        let tries = Arc::new(AtomicU32::new(0));
        while tries.load(Ordering::SeqCst) == 0 {
            let tries = tries.clone();
            let slow = || async move {
                tries.fetch_add(1, Ordering::SeqCst);
                sleep(Duration::from_millis(200)).await;
                Ok(2)
            };
            let at_once = tokio::time::timeout(Duration::from_millis(150), circuit.get(slow)).await;
            assert_eq!(at_once.expect("a caller waits").unwrap_err().0, "no");
            sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(until_connected(&circuit, 3).await, (2, 1), "connected twice");
    }

    #[tokio::test]
    async fn what_broke_is_connected_again_once() {
        let circuit = Circuit::<u32>::new(Duration::from_millis(50));
        let (_, first) = circuit.get(|| async { Ok(1) }).await.unwrap();
        circuit.broke(first, &no(), false);
        let (again, second) = circuit.get(|| async { Ok(2) }).await.unwrap();
        assert_eq!(again, 2);
        circuit.broke(first, &no(), false);
        assert_eq!(circuit.get(|| async { Ok(3) }).await.unwrap(), (2, second));
        circuit.broke(second, &no(), true);
        assert!(circuit.get(|| async { panic!("an attempt that ends badly") }).await.is_err());
        assert_eq!(until_connected(&circuit, 4).await.0, 4);
    }
}
