//! Carillon: a horizontally scalable fan-out cluster for Server-Sent Events. See ARCHITECTURE.md.

pub mod accounts;
pub mod bus;
pub mod cli;
pub mod config;
pub mod event;
pub mod failpoint;
pub mod http;
pub mod hub;
pub mod node;
pub mod publish;
pub mod redis_server;
pub mod sse_parser;
pub mod store;
pub mod topic_rules;
pub mod ttl;
