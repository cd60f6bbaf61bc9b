//! One node's end of the bus, as the tests of the bus use it.

use std::time::Duration;

use bytes::Bytes;
use carillon::bus::message::{Message, Received};
use carillon::bus::{Bus, BusEvent, BusEvents, BusLimits};
use tokio::time::timeout;
use uuid::Uuid;

use super::{DEADLINE, wait_until};

/// One node's end of the bus.
pub struct Member {
    pub bus: Bus,
    pub events: BusEvents,
}

impl Member {
    pub fn open(url: &str) -> Self {
        // Other tests keep the machine busy: the deadline is put to the test with servers of our own.
        Self::with(url, &BusLimits { deadline: DEADLINE, ..BusLimits::default() })
    }

    pub fn with(url: &str, limits: &BusLimits) -> Self {
        let (bus, events) = Bus::open(url, limits).unwrap();
        Self { bus, events }
    }

    pub async fn next(&mut self) -> BusEvent {
        timeout(DEADLINE, self.events.recv()).await.expect("nothing comes").expect("the bus ended")
    }

    /// Skips everything up to and with `wanted`.
    pub async fn until(&mut self, wanted: &BusEvent) {
        while self.next().await != *wanted {}
    }

    pub async fn subscribe(&mut self, channel: &str) {
        self.bus.subscribe(channel);
        self.until(&BusEvent::Subscribed(channel.to_owned())).await;
    }

    /// The next message, skipping all other events; nothing may be lost on the way.
    pub async fn message(&mut self) -> (String, Bytes) {
        loop {
            match self.next().await {
                BusEvent::Message { channel, payload } => return (channel, payload),
                BusEvent::Gap => panic!("messages may have been lost"),
                BusEvent::Own(_) | BusEvent::Subscribed(_) | BusEvent::Restored => {}
            }
        }
    }

    /// The next thing it delivered to itself.
    pub async fn own(&mut self) -> Message {
        loop {
            if let BusEvent::Own(own) = self.next().await {
                return own.message;
            }
        }
    }

    pub async fn publish(&self, messages: &[(&str, &[u8])]) {
        let messages: Vec<_> = messages
            .iter()
            .map(|(name, payload)| ((*name).to_owned(), Bytes::copy_from_slice(payload)))
            .collect();
        let sent = async || self.bus.publish(&messages).await.is_ok();
        wait_until(DEADLINE, "the publishing connection is there", sent).await;
    }

    /// That messages come again on a channel subscribed before, from before and from a member that is new.
    pub async fn works_again(&mut self, url: &str, channel: &str) {
        self.until(&BusEvent::Restored).await;
        self.works_again_now(url, channel).await;
    }

    /// The same, after the event that it is restored.
    pub async fn works_again_now(&mut self, url: &str, channel: &str) {
        let payload = name("payload");
        Self::with(url, &quick()).publish(&[(channel, payload.as_bytes())]).await;
        while self.message().await.1 != payload {}
        self.publish(&[(channel, b"own")]).await;
        while self.message().await.1 != "own" {}
    }
}

/// Something that a node delivers to itself, by its number.
pub fn own(number: u64) -> Received {
    Received { sender: "n1".into(), epoch: None, message: Message::Heartbeat(number) }
}

/// A name nobody else uses: the Redis is shared.
pub fn name(what: &str) -> String {
    format!("test:{}:{what}", Uuid::now_v7().simple())
}

/// Quick to notice, so that outages are short.
pub fn quick() -> BusLimits {
    BusLimits {
        deadline: Duration::from_millis(500),
        ping_every: Duration::from_millis(200),
        max_backoff: Duration::from_millis(200),
        ..BusLimits::default()
    }
}
