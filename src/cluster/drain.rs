//! Closing a node's streams when it is to stop.

use std::time::Duration;

use crate::delivery::hub::{Closing, Hub};

/// Closes all streams, spread over `window`, and waits for them to go; those that do not are cut off.
pub async fn close_streams(hub: &Hub, window: Duration) {
    let listeners = hub.listeners();
    let pause = window / u32::try_from(listeners.len().max(1)).unwrap_or(u32::MAX);
    let begun = tokio::time::Instant::now();
    for (index, listener) in listeners.iter().enumerate() {
        tokio::time::sleep_until(begun + pause * u32::try_from(index).unwrap_or(u32::MAX)).await;
        listener.close(Closing::Reconnect);
    }
    let gone = async {
        while !hub.is_empty() {
            hub.listeners().iter().for_each(|l| l.close(Closing::Reconnect));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    if tokio::time::timeout(Duration::from_secs(2), gone).await.is_err() {
        hub.listeners().iter().for_each(|l| l.connection.cancel());
    }
}
