//! The command line.

mod accounts;
mod serve;

use clap::{Parser, Subcommand};

use crate::config::{ServeArgs, StoreArgs};
use crate::store::{Schema, Store};

/// Fan-out of Server-Sent Events: publish to any node, everyone it is for sees it at once.
#[derive(Debug, Parser)]
#[command(name = "carillon", version, args_conflicts_with_subcommands = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: ServeArgs,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a node (the default)
    Serve(Box<ServeArgs>),
    /// Bring the database's schema up to date
    Migrate(StoreArgs),
    /// Add, list and change users
    #[command(subcommand)]
    User(accounts::UserCommand),
    /// Make, list and revoke API tokens
    #[command(subcommand)]
    Token(accounts::TokenCommand),
}

/// Does what the command line says.
pub async fn run(cli: Cli) -> anyhow::Result<()> {
    match cli.command {
        None => serve::run(cli.serve).await,
        Some(Command::Serve(args)) => serve::run(*args).await,
        Some(Command::Migrate(args)) => {
            args.open().await?.migrate().await?;
            println!("The schema is up to date.");
            Ok(())
        }
        Some(Command::User(command)) => accounts::user(command).await,
        Some(Command::Token(command)) => accounts::token(command).await,
    }
}

/// Something set wrongly: the program ends with status 2, as for a wrong option.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Misconfigured(pub String);

/// Opens a store whose schema this program knows; the embedded one is brought up to date.
async fn open_store(args: &StoreArgs, migrate: bool) -> anyhow::Result<Store> {
    let store = args.open().await.map_err(|error| Misconfigured(error.to_string()))?;
    if migrate || store.is_embedded() {
        store.migrate().await?;
        return Ok(store);
    }
    match store.schema().await? {
        Schema::Current => Ok(store),
        Schema::Empty | Schema::Older => Err(Misconfigured(
            "the database's schema is older than this program: run 'carillon migrate', or serve with --migrate".into(),
        )
        .into()),
        Schema::Unknown => {
            Err(Misconfigured("the database's schema is newer than this program, or was altered".into()).into())
        }
    }
}
