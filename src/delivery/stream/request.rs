//! What a client asks of a stream.

use std::time::Duration;

use crate::delivery::frame::Form;
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
    /// How it carries events.
    pub form: Form,
    /// How long its client is to wait before it reconnects, if not as long as others.
    pub retry: Option<Duration>,
}

impl StreamRequest {
    /// A stream that begins now.
    pub fn new(subscription: Subscription) -> Self {
        let (resume, history, retry) = (None, None, None);
        Self { subscription, resume, history, has_heartbeats: false, form: Form::default(), retry }
    }
}
