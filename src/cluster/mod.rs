//! What nodes report to each other of themselves, whether this one should get listeners, and how it leaves.

mod drain;
mod readiness;
mod status;

pub use drain::close_streams;
pub use readiness::{Readiness, ServerError, Unready, send_bus_heartbeat};
pub use status::{ANNOUNCE_EVERY, Cluster, NodeStatus, Status};
