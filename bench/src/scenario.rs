//! What is measured.

use std::time::Duration;

/// How many bytes an event carries.
pub const SIZE: usize = 200;

/// One kind of load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scenario {
    Broadcast1000,
    Broadcast5000,
    Users,
    Idle,
    Publish,
    Batches,
}

/// Whom events are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum To {
    #[default]
    Everyone,
    /// For one listener's user, each event for another.
    OneUser,
}

/// A scenario in numbers.
#[derive(Debug, Clone, Copy, Default)]
pub struct Load {
    /// How many streams are open, each of a user of its own.
    pub listeners: usize,
    pub to: To,
    pub events: u64,
    /// How many events a request publishes.
    pub batch: u64,
    /// Requests a second; 0: as fast as they are answered.
    pub rate: f64,
    /// How many requests are on their way at once.
    pub in_flight: usize,
    /// The pause between the last connection and the first event.
    pub settle: Duration,
}

/// What is noted of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Figure {
    /// Processor time for each delivery; µs.
    DeliveryCpu,
    /// Processor time for each event, with all its deliveries; µs.
    EventCpu,
    /// The median delay; ms.
    Median,
    /// The delay of one event in a hundred; ms.
    Tail,
    /// Events published a second.
    Rate,
    /// Memory of the processes for each stream; KiB.
    Memory,
    /// Streams opened a second.
    ConnectRate,
    /// Processor time for each stream that was opened; µs.
    ConnectCpu,
}

impl Figure {
    /// Whether more is better.
    pub fn is_rate(self) -> bool {
        matches!(self, Self::Rate | Self::ConnectRate)
    }
}

impl Scenario {
    pub const ALL: [Self; 6] =
        [Self::Broadcast1000, Self::Broadcast5000, Self::Users, Self::Idle, Self::Publish, Self::Batches];

    pub fn name(self) -> &'static str {
        match self {
            Self::Broadcast1000 => "broadcast-1000",
            Self::Broadcast5000 => "broadcast-5000",
            Self::Users => "users",
            Self::Idle => "idle",
            Self::Publish => "publish",
            Self::Batches => "batches",
        }
    }

    /// What is shown of it, each with its name in the table.
    pub fn figures(self) -> &'static [(Figure, &'static str)] {
        use Figure::{ConnectCpu, ConnectRate, DeliveryCpu, EventCpu, Median, Memory, Rate, Tail};
        match self {
            Self::Broadcast1000 | Self::Broadcast5000 => {
                &[(DeliveryCpu, "CPU for a delivery, µs"), (Median, "delay p50, ms"), (Tail, "delay p99, ms")]
            }
            Self::Users => {
                &[(EventCpu, "CPU for an event, µs"), (Median, "delay p50, ms"), (Tail, "delay p99, ms")]
            }
            Self::Idle => &[
                (Memory, "memory of a stream, KiB"),
                (ConnectRate, "streams opened a second"),
                (ConnectCpu, "CPU for opening one, µs"),
            ],
            Self::Publish | Self::Batches => &[(Rate, "events a second"), (EventCpu, "CPU for an event, µs")],
        }
    }

    /// Its numbers; with `is_quick` small ones, which show that it works and nothing else.
    pub fn load(self, is_quick: bool) -> Load {
        let (listeners, events, rate, in_flight) = match (self, is_quick) {
            (Self::Broadcast1000, false) => (1_000, 200, 20.0, 1),
            (Self::Broadcast1000, true) => (50, 20, 50.0, 1),
            (Self::Broadcast5000, false) => (5_000, 50, 5.0, 1),
            (Self::Broadcast5000, true) => (250, 5, 20.0, 1),
            (Self::Users, false) => (2_000, 20_000, 2_000.0, 16),
            (Self::Users, true) => (50, 200, 500.0, 16),
            (Self::Idle, false) => (10_000, 0, 0.0, 1),
            (Self::Idle, true) => (200, 0, 0.0, 1),
            (Self::Publish, false) => (10, 20_000, 0.0, 64),
            (Self::Publish, true) => (10, 500, 0.0, 64),
            (Self::Batches, false) => (1, 200_000, 0.0, 4),
            (Self::Batches, true) => (1, 2_000, 0.0, 4),
        };
        let settle = match self {
            _ if is_quick => Duration::from_millis(300),
            Self::Idle => Duration::from_secs(5),
            _ => Duration::from_millis(1_500),
        };
        let to = if self == Self::Users { To::OneUser } else { To::Everyone };
        let batch = if self == Self::Batches { 100 } else { 1 };
        Load { listeners, to, events, batch, rate, in_flight, settle }
    }
}
