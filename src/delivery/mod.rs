//! From the log to the socket: applies the log in order on this node and hands events to its streams.

pub mod endings;
pub mod expiry;
pub mod frame;
pub mod hub;
pub mod presence;
mod progress;
mod reorder_buffer;
mod sequencer;
pub mod stream;
pub mod subscriber;
pub mod sweep;
pub mod taken;

pub use progress::Progress;
pub use sequencer::SequencerLimits;
