//! The faults, by what they happen to. Each test is one run under load: what is done, and what is promised.

mod clients;
mod controls;
mod failover;
mod links;
mod nodes;
mod permissions;
mod postgres;
mod postgres_failover;
mod redis;
mod soak;
mod time;
mod upgrade;
mod waiting;
