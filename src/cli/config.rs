//! `carillon config`: the configuration checked, or shown.

use std::fmt::Write as _;

use clap::{ArgMatches, Args, Subcommand};

use super::Misconfigured;
use super::terminal::harmless;
use crate::config::{ConfigFile, Origin, SecretUrl, ServeArgs, Setting, TOPIC_RULES, quoted, settings};
use crate::identity::topic_rules::TopicRule;
use crate::store::Store;
use crate::ttl::{Ttl, TtlLimits};

#[derive(Debug, Subcommand)]
pub(super) enum ConfigCommand {
    /// Say whether 'carillon serve' would take these settings; nothing is connected
    Check(Box<ServeArgs>),
    /// Show each setting, its value and where that comes from; passwords are left out
    Show(Box<ShowArgs>),
}

#[derive(Debug, Args)]
pub(super) struct ShowArgs {
    #[command(flatten)]
    serve: ServeArgs,
    #[arg(skip)]
    settings: Vec<Setting>,
}

impl ConfigCommand {
    /// Adds what the derived reading of options does not bring.
    pub(super) fn fill(
        &mut self,
        rules: Option<Vec<TopicRule>>,
        matches: &ArgMatches,
        file: Option<&ConfigFile>,
    ) {
        match self {
            Self::Check(args) => args.file_rules = rules,
            Self::Show(args) => {
                args.serve.file_rules = rules;
                args.settings = settings(matches, file);
            }
        }
    }

    pub(super) fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Check(args) => {
                check(&args)?;
                println!("The configuration is in order.");
            }
            Self::Show(args) => print!("{}", harmless_lines(&show(&args))),
        }
        Ok(())
    }
}

/// What [`ServeArgs`] cannot see by itself.
fn check(args: &ServeArgs) -> Result<(), Misconfigured> {
    args.topic_rules().map_err(Misconfigured)?;
    Store::may_exist(args.store.store_url.reveal()).map_err(|error| Misconfigured::store(&error))?;
    open_ttl("--bus-url", &args.bus_url)?;
    open_keys(args).map(drop)
}

/// The keys that expire; connects when they are used.
pub(super) fn open_keys(args: &ServeArgs) -> Result<Ttl, Misconfigured> {
    let option = if args.ttl_url.is_some() { "--ttl-url" } else { "--bus-url" };
    open_ttl(option, args.ttl_url())
}

fn open_ttl(option: &str, url: &SecretUrl) -> Result<Ttl, Misconfigured> {
    Ttl::open(url.reveal(), &TtlLimits::default())
        .map_err(|error| Misconfigured(format!("{option}: {}", error.0)))
}

/// All settings as a configuration file, each with where it comes from.
fn show(args: &ShowArgs) -> String {
    let mut lines = Vec::new();
    let mut origin_of_rules = &Origin::Default;
    for Setting { key, value, origin } in &args.settings {
        match value {
            _ if key == TOPIC_RULES => origin_of_rules = origin,
            Some(value) => lines.push((format!("{key} = {value}"), origin)),
            None => lines.push((format!("# {key} is not set"), origin)),
        }
    }
    let width = lines.iter().map(|(line, _)| line.len()).max().unwrap_or(0);
    let mut text = String::new();
    // Writing into a String cannot fail.
    for (line, origin) in lines {
        let _ = writeln!(text, "{line:<width$}  # {origin}");
    }
    for rule in args.serve.rules_in_force() {
        let _ = write!(text, "\n[[{TOPIC_RULES}]]  # {origin_of_rules}\n{}", table(&rule));
    }
    text
}

/// A rule as an entry of the file.
fn table(rule: &TopicRule) -> String {
    let rule = rule.to_string();
    let (rest, write) = rule.rsplit_once(" write=").unwrap_or((&rule, ""));
    let (pattern, read) = rest.rsplit_once(" read=").unwrap_or((rest, ""));
    format!("pattern = {}\nread = {}\nwrite = {}\n", quoted(pattern), quoted(read), quoted(write))
}

/// Makes each line harmless to a terminal.
fn harmless_lines(text: &str) -> String {
    text.lines().map(|line| harmless(line) + "\n").collect()
}
