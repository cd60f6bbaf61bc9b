//! Closing a node's streams when it is to stop.

use std::time::Duration;

use tokio::time::{sleep, timeout};

use crate::delivery::hub::Hub;

/// How long streams may take to go once all were asked to.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often it is looked whether they have gone.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Closes all streams, spread over `window`, and waits for them to go; those that do not are cut off.
pub async fn close_streams(hub: &Hub, window: Duration) {
    hub.drain(window);
    let gone = async {
        while !hub.is_empty() {
            sleep(LOOK_EVERY).await;
        }
    };
    if timeout(window + PATIENCE, gone).await.is_err() {
        hub.cut();
    }
}
