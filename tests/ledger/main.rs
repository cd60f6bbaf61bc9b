//! The ledger: what was acknowledged, what was received, what was broken meanwhile, and a checker that decides.
//!
//! Each fault is injected briefly into a real cluster under load. `scripts/test --test ledger`; with
//! `CARILLON_TEST_SEED` the draws of an earlier run are made again.

mod checker;
mod checker_tests;
mod client;
mod evidence;
mod faults;
mod ledger;
mod proxy;
mod proxy_tests;
mod publisher;
mod report;
mod resp;
mod resp_tests;
mod run;
#[path = "../support/mod.rs"]
mod support;
mod world;
