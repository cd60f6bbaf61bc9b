//! Notices to all nodes that something was written which changes open pages.

use super::Bus;
use super::message::{self, Message, MessageWriter, Notice};
use crate::account::Credential;

/// How many ended sessions and tokens one notice names.
const ENDED_AT_ONCE: usize = 500;

/// Sends notices, at most once: the store has the truth, so the caller writes first and then notifies. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Notifier(Option<(Bus, MessageWriter)>);

impl Notifier {
    /// Over this bus, to all nodes, this one among them.
    pub fn over(bus: Bus, writer: MessageWriter) -> Self {
        Self(Some((bus, writer)))
    }

    /// For a program that is on no bus. Nodes learn of what it writes from the store.
    pub fn without_bus() -> Self {
        Self(None)
    }

    /// Sends a notice on a channel of [`message`]. On this node it takes effect whatever the bus does.
    pub async fn notify(&self, channel: String, notice: Notice) {
        let Some((bus, writer)) = &self.0 else { return };
        bus.deliver_here(writer.own_notice(notice.clone()));
        if !bus.may_have_others() {
            return;
        }
        let Some(message) = writer.encode(&Message::Notice(notice)) else {
            metrics::counter!("carillon_notices_failed_total").increment(1);
            return;
        };
        if let Err(error) = bus.publish(&[(channel, message)]).await {
            metrics::counter!("carillon_notices_failed_total").increment(1);
            tracing::debug!(%error, "a notice could not be sent");
        }
    }

    /// That these sessions and tokens permit nothing any more.
    pub async fn notify_ended(&self, ended: &[Credential]) {
        for some in ended.chunks(ENDED_AT_ONCE) {
            self.notify(message::GLOBAL.to_owned(), Notice::Ended(some.to_vec())).await;
        }
    }
}
