//! The `carillon` program.

use std::process::ExitCode;

use carillon::cli::{self, Cli, Misconfigured};
use clap::Parser as _;

/// Thousands of connections come and go: this allocator gives their memory back.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

#[tokio::main]
async fn main() -> ExitCode {
    match cli::run(Cli::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("carillon: {error:#}");
            ExitCode::from(if error.is::<Misconfigured>() { 2 } else { 1 })
        }
    }
}
