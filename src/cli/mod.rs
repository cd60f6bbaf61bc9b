//! The command line.

mod accounts;
mod client;
mod config;
mod lines;
mod migrate;
mod publish;
mod serve;
mod tail;
mod terminal;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::error::{ContextKind, ErrorKind};
use clap::{ArgMatches, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use crate::config::{ConfigFile, ServeArgs, StoreArgs};
use crate::store::{Schema, Store, StoreError};

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
    /// Create the store if it is not there, and bring its schema up to date
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
    /// Check the configuration, or show where each value comes from
    #[command(subcommand)]
    Config(config::ConfigCommand),
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
    /// Reads the command line, the environment and the configuration file. A mistake in them is one line on standard
    /// error, and gives status 2.
    pub fn read() -> Result<Self, ExitCode> {
        Self::read_from(&std::env::args_os().collect::<Vec<_>>()).map_err(|error| {
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

    /// The file is known only once the options were read; so they are read again, on top of it.
    fn read_from(arguments: &[OsString]) -> Result<Self, clap::Error> {
        let mut matches = Self::command().try_get_matches_from(arguments)?;
        let file = file_of(&matches)?;
        if let Some(file) = &file {
            matches = file.fill(Self::command()).try_get_matches_from(arguments)?;
        }
        let mut cli = Self::from_arg_matches(&matches).map_err(|error| error.format(&mut Self::command()))?;
        let rules = file.as_ref().and_then(ConfigFile::topic_rules).map(<[_]>::to_vec);
        match &mut cli.command {
            None => cli.serve.file_rules = rules,
            Some(Command::Serve(args)) => args.file_rules = rules,
            Some(Command::Config(command)) => command.fill(rules, leaf(&matches), file.as_ref()),
            Some(_) => {}
        }
        Ok(cli)
    }
}

/// The matches of the innermost command.
fn leaf(matches: &ArgMatches) -> &ArgMatches {
    matches.subcommand().map_or(matches, |(_, below)| leaf(below))
}

/// The configuration file that was named, if the command takes one.
fn file_of(matches: &ArgMatches) -> Result<Option<ConfigFile>, clap::Error> {
    let path = leaf(matches).try_get_one::<PathBuf>("config").ok().flatten();
    path.map(|path| ConfigFile::read(path))
        .transpose()
        .map_err(|error| clap::Error::raw(ErrorKind::Io, error.to_string()))
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
        Some(Command::Config(command)) => command.run(),
    }
}

/// Something set wrongly: the program ends with status 2, as for a wrong option.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Misconfigured(pub String);

impl Misconfigured {
    fn store(error: &StoreError) -> Self {
        Self(format!("--store-url: {error}"))
    }
}

/// Opens the store of a node; an embedded one is created and brought up to date.
async fn create_store(args: &StoreArgs) -> Result<Store, Misconfigured> {
    args.open().await.map_err(|error| Misconfigured::store(&error))
}

/// Opens a store that is there and whose schema this program may use. Nothing is created or changed: a node of another
/// version may be running on it.
async fn open_store(args: &StoreArgs) -> anyhow::Result<Store> {
    let url = args.store_url.reveal();
    if !Store::may_exist(url).map_err(|error| Misconfigured::store(&error))? {
        let folder = std::env::current_dir().unwrap_or_default();
        return Err(Misconfigured(format!(
            "there is no store at {}, seen from {}: --store-url names another; 'carillon serve' and 'carillon migrate' create one",
            args.store_url,
            folder.display()
        ))
        .into());
    }
    say_which_store(args);
    let store = create_store(args).await?;
    check_schema(&store).await?;
    Ok(store)
}

/// Fails when the store's schema is not one this program may use.
async fn check_schema(store: &Store) -> anyhow::Result<()> {
    let wrong = match store.schema().await? {
        usable if usable.is_usable() => return Ok(()),
        Schema::Empty | Schema::Older => {
            "the database's schema is older than this program: run 'carillon migrate', or serve with --migrate"
        }
        _ => "the database's schema is newer than this program may use, or was altered",
    };
    Err(Misconfigured(wrong.into()).into())
}

/// What is in another store than was thought looks like nothing at all: so it is said.
fn say_which_store(args: &StoreArgs) {
    terminal::say(&format!("store: {}", args.store_url));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(arguments: &[&str]) -> Cli {
        let all = ["carillon"].iter().chain(arguments).map(OsString::from).collect::<Vec<_>>();
        Cli::read_from(&all).unwrap()
    }

    #[test]
    fn no_secret_reaches_debug() {
        let secret = "postgres://me:hunter2@host/x";
        let cases: [&[&str]; 6] = [
            &["--store-url", secret, "--bus-url", secret],
            &["serve", "--store-url", secret, "--ttl-url", secret],
            &["migrate", "--store-url", secret],
            &["user", "list", "--store-url", secret],
            &["config", "show", "--bus-url", secret],
            &["tail", "--token", "hunter2"],
        ];
        for arguments in cases {
            let cli = format!("{:?}", read(arguments));
            assert!(!cli.contains("hunter2"), "{cli}");
        }
    }
}
