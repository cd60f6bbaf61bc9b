//! Carillon: a horizontally scalable fan-out cluster for Server-Sent Events. See ARCHITECTURE.md.

pub mod account;
pub mod bus;
pub mod cli;
pub mod cluster;
pub mod config;
pub mod delivery;
pub mod event;
pub mod failpoint;
pub mod http;
pub mod identity;
pub mod node;
pub mod publishing;
pub mod reading;
pub mod redis;
pub mod sse_parser;
pub mod store;
pub mod ttl;
