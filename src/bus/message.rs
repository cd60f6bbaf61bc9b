//! What nodes say to each other over the bus: one line of JSON, then the frames it speaks of, as bytes.

use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use crate::account::Credential;
use crate::event::frame::DeliveryHead;
use crate::event::{Audience, Delivery, Epoch, Frame, Position, Topic, UserId};

/// The channel every node listens to. Behind the bus's namespace, as all of them.
pub const GLOBAL: &str = "global";
/// The most bytes of frames one announcement carries; nodes read the rest from the store.
pub const MAX_CARRIED: usize = 1 << 20;

/// The most bytes of payloads sent after one append, each counted for every channel; nodes read the rest from the
/// store. A thousand recipients would otherwise make sixty megabytes of one large event.
pub const MAX_SENT: usize = 4 << 20;

/// The channel of one user's events.
pub fn user_channel(user: UserId) -> String {
    format!("user:{user}")
}

/// The channel of one topic's events.
pub fn topic_channel(topic: &Topic) -> String {
    format!("topic:{topic}")
}

/// The channel on which a node hears its own heartbeat.
pub fn node_channel(node: &str) -> String {
    format!("node:{node}")
}

/// A message on the bus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// An event, on the channel of a user or topic it is for.
    Payload(Delivery),
    /// That an append was committed.
    Announcement(Announcement),
    /// Something that changes what open pages show.
    Notice(Notice),
    /// A node's own sign of life, counted up.
    Heartbeat(u64),
}

/// That one append was committed: which positions there are now, and whom they concern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announcement {
    /// The history it belongs to.
    pub epoch: Epoch,
    /// The head before: this speaks of everything in `(previous, last]`.
    pub previous: Position,
    /// The head after.
    pub last: Position,
    /// The events that travel elsewhere (on a channel of their own, or only in the store), rising.
    pub elsewhere: Vec<(Position, Audience)>,
    /// The events for everyone, rising.
    pub carried: Vec<Delivery>,
}

/// Something that changes what open pages show. At most once: the store has the truth.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Notice {
    /// A user read one event, or took that back.
    Read {
        /// Who.
        user: UserId,
        /// Which event.
        position: Position,
        /// Read, or unread again.
        read: bool,
    },
    /// A user read everything up to here.
    ReadUpTo {
        /// Who.
        user: UserId,
        /// Up to where.
        up_to: Position,
    },
    /// A user took back what they said to have read up to some place.
    ReadUpToTakenBack {
        /// Who.
        user: UserId,
    },
    /// An event was taken back.
    Retracted {
        /// Which event.
        position: Position,
        /// Whom it was for.
        audience: Audience,
    },
    /// These permit nothing any more.
    Ended(Vec<Credential>),
    /// Who came to a node and who left it, on one topic.
    Presence {
        /// The topic.
        topic: Topic,
        /// The node.
        node: String,
        /// The names of those who came.
        joined: Vec<String>,
        /// The names of those who left.
        left: Vec<String>,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Header {
    Payload(DeliveryHead),
    Announcement {
        epoch: Epoch,
        previous: Position,
        last: Position,
        elsewhere: Vec<(Position, Audience)>,
        carried: Vec<(DeliveryHead, usize)>,
    },
    Notice(Notice),
    Heartbeat(u64),
}

impl Message {
    /// As bytes for the bus.
    pub fn encode(&self) -> Bytes {
        let (header, frames): (Header, &[Delivery]) = match self {
            Self::Payload(delivery) => {
                (Header::Payload(delivery.head.clone()), std::slice::from_ref(delivery))
            }
            Self::Announcement(a) => {
                let carried = a.carried.iter().map(|d| (d.head.clone(), d.frame.bytes().len())).collect();
                let (epoch, elsewhere) = (a.epoch.clone(), a.elsewhere.clone());
                let header =
                    Header::Announcement { epoch, previous: a.previous, last: a.last, elsewhere, carried };
                (header, &a.carried)
            }
            Self::Notice(notice) => (Header::Notice(notice.clone()), &[]),
            Self::Heartbeat(count) => (Header::Heartbeat(*count), &[]),
        };
        let mut out = BytesMut::new().writer();
        serde_json::to_writer(&mut out, &header).expect("a header is plain JSON");
        let mut out = out.into_inner();
        out.put_u8(b'\n');
        frames.iter().for_each(|d| out.extend_from_slice(d.frame.bytes()));
        out.freeze()
    }

    /// From bytes of the bus; `None` if they are not a message. The frame of a payload shares the given bytes.
    pub fn decode(bytes: &Bytes) -> Option<Self> {
        let end = bytes.iter().position(|b| *b == b'\n')?;
        let mut rest = bytes.slice(end + 1..);
        Some(match serde_json::from_slice(&bytes[..end]).ok()? {
            Header::Payload(head) => Self::Payload(Delivery { head, frame: Frame::from_wire(rest)? }),
            Header::Announcement { epoch, previous, last, elsewhere, carried } => {
                let carried = carried
                    .into_iter()
                    .map(|(head, len)| {
                        let frame = (len <= rest.len()).then(|| rest.split_to(len))?;
                        // Copied: one small event in a listener's queue would hold all that came with it.
                        let frame = Bytes::copy_from_slice(&frame);
                        Some(Delivery { head, frame: Frame::from_wire(frame)? })
                    })
                    .collect::<Option<Vec<_>>>()?;
                Self::Announcement(Announcement { epoch, previous, last, elsewhere, carried })
            }
            Header::Notice(notice) => Self::Notice(notice),
            Header::Heartbeat(count) => Self::Heartbeat(count),
        })
    }
}

/// Everything to be sent after an append, in order: each event on its channels, then one announcement.
pub fn after_append(
    epoch: &Epoch,
    previous: Position,
    last: Position,
    deliveries: Vec<Delivery>,
) -> Vec<(String, Bytes)> {
    let mut messages = Vec::new();
    let (mut elsewhere, mut carried) = (Vec::new(), Vec::new());
    let (mut carried_bytes, mut sent_bytes) = (0, 0);
    for delivery in deliveries {
        let channels: Vec<String> = match &delivery.head.audience {
            Audience::Everyone => {
                carried_bytes += delivery.frame.bytes().len();
                if carried_bytes <= MAX_CARRIED {
                    carried.push(delivery);
                    continue;
                }
                Vec::new()
            }
            Audience::Of { users, topics } => {
                let users = users.iter().map(|user| user_channel(*user));
                users.chain(topics.iter().map(topic_channel)).collect()
            }
        };
        elsewhere.push((delivery.position(), delivery.head.audience.clone()));
        if channels.is_empty() {
            continue;
        }
        let payload = Message::Payload(delivery).encode();
        sent_bytes += payload.len() * channels.len();
        if sent_bytes > MAX_SENT {
            metrics::counter!("carillon_payloads_not_sent_total").increment(1);
            continue;
        }
        messages.extend(channels.into_iter().map(|channel| (channel, payload.clone())));
    }
    let announcement = Announcement { epoch: epoch.clone(), previous, last, elsewhere, carried };
    messages.push((GLOBAL.to_owned(), Message::Announcement(announcement).encode()));
    messages
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Event;
    use uuid::Uuid;

    fn delivery(position: Position, audience: Audience) -> Delivery {
        let event = Event {
            position,
            id: Uuid::now_v7(),
            event_type: "a.b".parse().unwrap(),
            priority: crate::event::Priority::High,
            audience,
            data: "{\"x\":\"\\n\"}".into(),
            created_at: 1,
            expires_at: Some(2),
            keep_after_read: None,
            publisher: 1,
        };
        Delivery::of(&"e".parse().unwrap(), &event)
    }

    #[test]
    fn every_message_round_trips_and_no_other_bytes_do() {
        let topic = "room/1".parse().unwrap();
        let all = vec![
            delivery(3, Audience::Everyone),
            delivery(4, Audience::users(vec![7, 8])),
            delivery(6, Audience::topic(topic)),
            delivery(7, Audience::Everyone),
        ];
        let messages = after_append(&"e".parse().unwrap(), 2, 7, all.clone());
        let channels: Vec<_> = messages.iter().map(|(channel, _)| channel.as_str()).collect();
        assert_eq!(channels, ["user:7", "user:8", "topic:room/1", GLOBAL]);
        assert_eq!(Message::decode(&messages[0].1), Some(Message::Payload(all[1].clone())));
        let Some(Message::Announcement(a)) = Message::decode(&messages[3].1) else { panic!() };
        assert_eq!((a.previous, a.last), (2, 7));
        assert_eq!(a.carried, [all[0].clone(), all[3].clone()]);
        assert_eq!(a.elsewhere.iter().map(|e| e.0).collect::<Vec<_>>(), [4, 6]);
        let notice = Message::Notice(Notice::Ended(vec![Credential::Session([9; 32]), Credential::Token(4)]));
        assert_eq!(Message::decode(&notice.encode()), Some(notice));
        for (_, bytes) in &messages {
            for cut in 0..bytes.len() {
                assert_eq!(Message::decode(&bytes.slice(..cut)), None, "cut at {cut}");
            }
        }
    }

    #[test]
    fn an_announcement_carries_no_more_than_its_bound() {
        let large = (1..=2000).map(|p| delivery(p, Audience::Everyone)).collect::<Vec<_>>();
        let copies = MAX_CARRIED / large[0].frame.bytes().len() + 1;
        let all: Vec<_> = large.into_iter().cycle().take(copies + 10).collect();
        let messages = after_append(&"e".parse().unwrap(), 0, 9_999, all);
        let Some(Message::Announcement(a)) = Message::decode(&messages[0].1) else { panic!() };
        assert!(a.carried.len() <= copies && a.elsewhere.len() >= 10);
    }

    #[test]
    fn what_is_sent_after_an_append_is_bounded_whatever_its_recipients() {
        let (many, large) = ((0..1_000).collect::<Vec<UserId>>(), "x".repeat(60_000));
        let mut all: Vec<_> = (1..=50).map(|p| delivery(p, Audience::users(many.clone()))).collect();
        for delivery in &mut all {
            let frame = format!("id: e-{}\ndata: {large}\n\n", delivery.position());
            delivery.frame = Frame::from_wire(frame.into()).unwrap();
        }
        all.insert(0, delivery(0, Audience::users(vec![1])));
        let messages = after_append(&"e".parse().unwrap(), 0, 50, all);
        let sent: usize = messages.iter().map(|(_, payload)| payload.len()).sum();
        assert!(sent <= 2 * MAX_SENT, "{sent} bytes");
        assert_eq!(messages[0].0, "user:1", "what fits is sent");
        let Some(Message::Announcement(a)) = Message::decode(&messages[messages.len() - 1].1) else {
            panic!()
        };
        assert_eq!(a.elsewhere.len(), 51, "whom each concerns is told all the same");
    }

    #[test]
    fn an_event_holds_nothing_of_what_came_with_it() {
        let all = vec![delivery(1, Audience::Everyone), delivery(2, Audience::Everyone)];
        let (_, bytes) = after_append(&"e".parse().unwrap(), 0, 2, all).remove(0);
        let Some(Message::Announcement(a)) = Message::decode(&bytes) else { panic!() };
        assert!(bytes.is_unique(), "a frame shares the announcement's bytes");
        assert_eq!(a.carried.len(), 2);
    }
}
