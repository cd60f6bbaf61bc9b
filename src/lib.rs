//! Carillon: a horizontally scalable fan-out cluster for Server-Sent Events. See ARCHITECTURE.md.

pub mod event;
