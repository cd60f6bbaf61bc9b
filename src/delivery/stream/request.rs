//! What a client asks of a stream.

use crate::delivery::hub::Subscription;
use crate::event::{Cursor, Invalid};

/// A stream as it is asked for.
#[derive(Debug, Clone)]
pub struct StreamRequest {
    /// Who listens, and to what.
    pub subscription: Subscription,
    /// The cursor that the client sent, or that what it sent is none. Without one the stream begins now.
    pub resume: Option<Result<Cursor, Invalid>>,
    /// Without a cursor: begin with the last so many events of each topic.
    pub history: Option<u32>,
    /// Keep-alives are to be events, for what an `EventSource` does not show: the cursor, that the stream lives, and
    /// whether it has sent everything up to now.
    pub has_heartbeats: bool,
}

impl StreamRequest {
    /// A stream that begins now.
    pub fn new(subscription: Subscription) -> Self {
        Self { subscription, resume: None, history: None, has_heartbeats: false }
    }
}
