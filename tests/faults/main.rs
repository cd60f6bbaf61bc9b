//! Faults, injected briefly into a real cluster under load. A ledger keeps what publishers and listeners log; a checker
//! decides whether what was promised held.
//!
//! `scripts/test --test faults`; with
//! `CARILLON_TEST_SEED` the draws of an earlier run are made again.

mod checker;
mod checker_tests;
mod client;
mod evidence;
mod failover;

mod ledger;
mod proxy;
mod proxy_tests;
mod publisher;
mod report;
mod resp;
mod resp_tests;
mod run;
mod runs;
#[path = "../support/mod.rs"]
mod support;
mod world;
