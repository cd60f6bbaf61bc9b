//! The command line.

mod accounts;
mod client;
mod lines;
mod migrate;
mod publish;
mod serve;
mod tail;
mod terminal;

use std::process::ExitCode;

use clap::error::{ContextKind, ErrorKind};
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
    /// Publish an event, or one for each line of standard input
    ///
    /// Prints the place in the log and the id of an event given as an argument. A publication that is not
    /// answered is sent again, with a key by which nodes know it, so that nothing is published twice.
    #[command(after_long_help = PUBLISH_EXAMPLES)]
    Publish(Box<publish::PublishArgs>),
    /// Listen here, in the terminal
    ///
    /// Shows what is for the token's user, as it comes. When the connection breaks it goes on where it was, on
    /// the next server if several are given. What it has to say itself goes to standard error.
    #[command(after_long_help = TAIL_EXAMPLES)]
    Tail(Box<tail::TailArgs>),
    /// Bring the database's schema up to date
    ///
    /// Nodes of the version before go on working meanwhile, and may be started again until --finish. May be run again
    /// at any time: what is done is left alone, what broke off goes on where it was.
    Migrate(migrate::MigrateArgs),
    /// Add, list and change users
    #[command(subcommand)]
    User(accounts::UserCommand),
    /// Make, list and revoke API tokens
    #[command(subcommand)]
    Token(accounts::TokenCommand),
}

const PUBLISH_EXAMPLES: &str = r#"Examples:
  export CARILLON_TOKEN=...   # what 'carillon token create' printed

  One event, to everyone who is signed in:
    carillon publish --type order.paid --to everyone '{"order": 7}'

  A file of events, each line like {"type": "order.paid", "to": {"user": "alice"}, "data": {"order": 7}}:
    carillon publish --lines < events.jsonl

  Every line of a log as it is written, for those who listen to a topic:
    tail -f app.log | carillon publish --lines --text --type log --to topic:logs/app

If it fails, its last line says up to which line events were acknowledged; the exit code is 1."#;

const TAIL_EXAMPLES: &str = r#"Examples:
  export CARILLON_TOKEN=...   # what 'carillon token create' printed

  What comes from now on:
    carillon tail --topic logs/app

  Every event exactly where the last run stopped, as JSON for another program:
    carillon tail --json --cursor-file app.cursor | ./handle-orders

  The next event of a type, then end:
    carillon tail --type order.paid --count 1"#;

impl Cli {
    /// Reads the command line. A mistake in it is told in one line on standard error, and gives status 2.
    pub fn read() -> Result<Self, ExitCode> {
        Self::try_parse().map_err(|error| {
            match error.kind() {
                ErrorKind::DisplayHelp
                | ErrorKind::DisplayVersion
                | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
                    // Nobody may be reading it.
                    let _ = error.print();
                }
                _ => terminal::say(&format!("carillon: {}", mistake(&error))),
            }
            ExitCode::from(if error.use_stderr() { 2 } else { 0 })
        })
    }
}

/// What clap says over several lines, without the usage, in one.
fn mistake(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let said = text.split("\n\nUsage:").next().unwrap_or_default();
    let said = said.split("\n\nFor more information").next().unwrap_or_default();
    let words: Vec<_> = said.trim_start_matches("error: ").split_whitespace().collect();
    let usage = if error.get(ContextKind::Usage).is_some() { " (--help tells more)" } else { "" };
    terminal::harmless(&words.join(" ").replace(" tip:", "; tip:")) + usage
}

/// Does what the command line says.
pub async fn run(cli: Cli) -> anyhow::Result<()> {
    match cli.command {
        None => serve::run(cli.serve).await,
        Some(Command::Serve(args)) => serve::run(*args).await,
        Some(Command::Publish(args)) => publish::run(*args).await,
        Some(Command::Tail(args)) => tail::run(*args).await,
        Some(Command::Migrate(args)) => migrate::run(args).await,
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
        usable if usable.is_usable() => Ok(store),
        Schema::Empty | Schema::Older => Err(Misconfigured(
            "the database's schema is older than this program: run 'carillon migrate', or serve with --migrate".into(),
        )
        .into()),
        _ => Err(Misconfigured(
            "the database's schema is newer than this program may use, or was altered".into(),
        )
        .into()),
    }
}
