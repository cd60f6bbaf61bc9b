//! The configuration file: TOML, whose keys are the settings of `carillon serve`.
//!
//! There is no second list of settings: a key is looked up among the options, and its value is checked by the option's
//! own parser. What does not fit an option, the rules for topics, has a table of its own.
//!
//! Errors name the file, line, column and key. They never quote the file: a line may hold a password.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::ops::Range;
use std::path::{Path, PathBuf};

use clap::{Arg, Args as _, Command};
use serde::Deserialize;
use toml::Spanned;
use toml::de::{DeTable, DeValue, ValueDeserializer};

use super::kind::{Kind, NOT_IN_FILE};
use super::{ServeArgs, TOPIC_RULES};
use crate::identity::topic_rules::TopicRule;

/// The most bytes of a file; a complete one has a tenth of it.
const MAX_BYTES: u64 = 256 * 1024;

/// A file that cannot be used: where, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct FileError(String);

/// A file that was read and is in order.
pub struct ConfigFile {
    path: PathBuf,
    /// By key.
    values: BTreeMap<String, FileValue>,
    topic_rules: Option<Vec<TopicRule>>,
}

struct FileValue {
    /// As it would be given to the option.
    text: String,
    /// Where its key stands, from 1.
    line: usize,
}

/// An entry of `[[topic_rules]]`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleTable {
    pattern: String,
    read: String,
    write: String,
}

impl RuleTable {
    fn rule(&self) -> Result<TopicRule, String> {
        TopicRule::new(&self.pattern, &self.read, &self.write)
    }
}

impl ConfigFile {
    /// Reads a file and checks every key in it.
    pub fn read(path: &Path) -> Result<Self, FileError> {
        let wrong = |what: &dyn std::fmt::Display| FileError(format!("--config {}: {what}", path.display()));
        let mut text = String::new();
        let opened = std::fs::File::open(path).map_err(|error| wrong(&error))?;
        opened.take(MAX_BYTES + 1).read_to_string(&mut text).map_err(|error| wrong(&error))?;
        if u64::try_from(text.len()).unwrap_or(u64::MAX) > MAX_BYTES {
            return Err(wrong(&format!("the file is longer than {MAX_BYTES} bytes")));
        }
        Self::parse(path, &text)
    }

    /// The same of a file's text.
    pub fn parse(path: &Path, text: &str) -> Result<Self, FileError> {
        let source = Source { path, text };
        let table = DeTable::parse(text).map_err(|error| source.wrong(error.span(), error.message()))?;
        let options = ServeArgs::augment_args(Command::new("serve"));
        let mut file = Self { path: path.to_owned(), values: BTreeMap::new(), topic_rules: None };
        for (key, value) in table.into_inner() {
            let (span, key) = (key.span(), key.into_inner());
            if key == TOPIC_RULES {
                file.topic_rules = Some(source.rules(span, value)?);
                continue;
            }
            let is_setting = |arg: &&Arg| arg.get_id() == key.as_ref() && key != NOT_IN_FILE;
            let arg = options.get_arguments().find(is_setting);
            let arg = arg.ok_or_else(|| source.wrong(Some(span.clone()), &unknown(&key, &options)))?;
            let text = source.value(arg, &value)?;
            file.values
                .insert(key.into_owned(), FileValue { text, line: source.line_and_column(span.start).0 });
        }
        Ok(file)
    }

    /// Makes the file's values the defaults of a command and of those below it, so that options and variables win
    /// over the file. Commands that cannot be given a file stay as they are.
    pub fn fill(&self, command: Command) -> Command {
        let takes_file = command.get_arguments().any(|arg| arg.get_id() == NOT_IN_FILE);
        let command = command.mut_subcommands(|below| self.fill(below));
        if !takes_file {
            return command;
        }
        command.mut_args(|arg| match self.values.get(arg.get_id().as_str()) {
            Some(value) => arg.default_value(value.text.clone()),
            None => arg,
        })
    }

    /// The rules for topics, if the file has any.
    pub fn topic_rules(&self) -> Option<&[TopicRule]> {
        self.topic_rules.as_deref()
    }

    /// `file:line` of a key that the file has; of the rules only the file.
    pub(super) fn place(&self, key: &str) -> Option<String> {
        if key == TOPIC_RULES {
            return self.topic_rules.as_ref().map(|_| self.path.display().to_string());
        }
        self.values.get(key).map(|value| format!("{}:{}", self.path.display(), value.line))
    }
}

/// What to say of a key that is no setting.
fn unknown(key: &str, options: &Command) -> String {
    let meant = key.trim_start_matches('-').replace('-', "_");
    let is_setting = options.get_arguments().any(|arg| arg.get_id() == meant.as_str());
    let hint = if is_setting && meant != key { format!("; did you mean {meant}?") } else { String::new() };
    format!("unknown key '{key}'{hint}")
}

/// A text, to say where in it something is wrong.
struct Source<'a> {
    path: &'a Path,
    text: &'a str,
}

impl Source<'_> {
    fn wrong(&self, span: Option<Range<usize>>, what: &str) -> FileError {
        let (line, column) = self.line_and_column(span.map_or(0, |span| span.start));
        FileError(format!("{}:{line}:{column}: {what}", self.path.display()))
    }

    /// Both from 1; the column in characters.
    fn line_and_column(&self, at: usize) -> (usize, usize) {
        let before = self.text.get(..at).unwrap_or(self.text);
        let line = before.rsplit('\n').next().unwrap_or_default();
        (before.matches('\n').count() + 1, line.chars().count() + 1)
    }

    /// A value as text for its option, if it is of the right kind and the option takes it.
    fn value(&self, arg: &Arg, value: &Spanned<DeValue<'_>>) -> Result<String, FileError> {
        let (key, kind) = (arg.get_id(), Kind::of(arg));
        let wrong = |what: String| self.wrong(Some(value.span()), &format!("{key}: {what}"));
        let text = match (kind, value.get_ref()) {
            (Kind::Flag, DeValue::Boolean(flag)) => flag.to_string(),
            (Kind::Number, DeValue::Integer(number)) => {
                let number = i64::from_str_radix(number.as_str(), number.radix());
                number.map_err(|error| wrong(error.to_string()))?.to_string()
            }
            (Kind::Text | Kind::Secret, DeValue::String(text)) => text.to_string(),
            (kind, other) => {
                return Err(wrong(format!("must be {}, not of type {}", kind.name(), other.type_str())));
            }
        };
        check(arg, &text).map_err(wrong)?;
        Ok(text)
    }

    fn rules(&self, span: Range<usize>, value: Spanned<DeValue<'_>>) -> Result<Vec<TopicRule>, FileError> {
        let DeValue::Array(tables) = value.into_inner() else {
            return Err(self
                .wrong(Some(span), &format!("{TOPIC_RULES}: must be tables, each under [[{TOPIC_RULES}]]")));
        };
        let read = |table: Spanned<DeValue<'_>>| {
            let span = table.span();
            let wrong = |at, what: &str| self.wrong(at, &format!("{TOPIC_RULES}: {what}"));
            let table = RuleTable::deserialize(ValueDeserializer::from(table))
                .map_err(|error| wrong(error.span().or(Some(span.clone())), error.message()))?;
            table.rule().map_err(|error| wrong(Some(span), &error))
        };
        tables.into_iter().map(read).collect()
    }
}

/// Whether an option takes a value. What its parser says names no key, and for a secret nothing of the value.
fn check(arg: &Arg, text: &str) -> Result<(), String> {
    let option = format!("--{}={text}", arg.get_long().unwrap_or_default());
    let command = Command::new("setting").no_binary_name(true).arg(arg.clone());
    let error = match command.try_get_matches_from([option]) {
        Ok(_) => return Ok(()),
        Err(error) => error,
    };
    Err(std::error::Error::source(&error).map_or_else(|| error.kind().to_string(), ToString::to_string))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<ConfigFile, String> {
        ConfigFile::parse(Path::new("c.toml"), text).map_err(|error| error.to_string())
    }

    #[test]
    fn values_are_read_with_their_lines() {
        let file = parse(
            "# first\nlisten = '[::1]:80'\n\nqueue_events = 0x10\nmigrate = true\n\
             [[topic_rules]]\npattern = 'a/**'\nread = 'nobody'\nwrite = 'admin'\n",
        )
        .unwrap();
        let text = |key: &str| file.values[key].text.as_str();
        assert_eq!((text("listen"), text("queue_events"), text("migrate")), ("[::1]:80", "16", "true"));
        assert_eq!(file.place("queue_events").unwrap(), "c.toml:4");
        assert_eq!(file.place("stall_seconds"), None);
        let rules: Vec<_> = file.topic_rules().unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(rules, ["a/** read=nobody write=admin"]);
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place_and_key_and_nothing_is_quoted() {
        for (text, expected) in [
            ("\n lisen = 'x'", "c.toml:2:2: unknown key 'lisen'"),
            ("queue-events = 1", "c.toml:1:1: unknown key 'queue-events'; did you mean queue_events?"),
            ("config = 'other.toml'", "c.toml:1:1: unknown key 'config'"),
            ("[store]\nurl = 'x'", "c.toml:1:2: unknown key 'store'"),
            ("é = 1", "c.toml:1:1: "),
            ("queue_events = 'hunter2'", "c.toml:1:16: queue_events: must be an integer, not of type string"),
            ("listen = 80", "c.toml:1:10: listen: must be text in quotes, not of type integer"),
            ("migrate = 'yes'", "c.toml:1:11: migrate: must be true or false, not of type string"),
            ("listen = 'hunter2'", "c.toml:1:10: listen: invalid socket address"),
            ("metrics_listen = 'hunter2'", "c.toml:1:18: metrics_listen: must be an address"),
            ("queue_events = -1", "c.toml:1:16: queue_events: "),
            ("presence_seconds = 1", "c.toml:1:20: presence_seconds: 1 is not in 5.."),
            ("store_connections = 99999999999999999999", "c.toml:1:21: store_connections: "),
            ("store_url = postgres://a:hunter2@b", "c.toml:1:"),
            ("store_url = 'hunter2\n", "c.toml:1:"),
            ("listen = '1.1.1.1:1'\nlisten = '1.1.1.1:1'", "c.toml:2:1: duplicate key"),
            ("topic_rules = 'a'", "c.toml:1:1: topic_rules: must be tables"),
            (
                "[[topic_rules]]\npattern = 'a'\nread = 'admin'",
                "c.toml:1:1: topic_rules: missing field `write`",
            ),
            ("[[topic_rules]]\npatern = 'a'", "c.toml:2:1: topic_rules: unknown field `patern`"),
            (
                "[[topic_rules]]\npattern = 'a**'\nread = 'admin'\nwrite = 'admin'",
                "c.toml:1:1: topic_rules: in 'a**', 'a**' is no segment: *, {user} and ** stand alone, * among others must be \\*",
            ),
        ] {
            let error = parse(text).err().unwrap();
            assert!(error.starts_with(expected), "{text}: {error}");
            assert!(!error.contains("hunter2") && error.lines().count() == 1, "{text}: {error}");
        }
    }
}
