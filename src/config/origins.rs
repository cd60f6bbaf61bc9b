//! What every setting is, and where its value comes from.

use std::fmt;

use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Args as _, Command};

use super::file::ConfigFile;
use super::kind::{Kind, NOT_IN_FILE};
use super::secret_url::SecretUrl;
use super::{ServeArgs, TOPIC_RULES};

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// This option.
    Option(String),
    /// This variable of the environment.
    Variable(String),
    /// `file:line`.
    File(String),
    /// It was not set.
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Option(name) => write!(f, "option {name}"),
            Self::Variable(name) => write!(f, "variable {name}"),
            Self::File(place) => write!(f, "file {place}"),
            Self::Default => f.write_str("default"),
        }
    }
}

/// One setting, to be shown.
#[derive(Debug, Clone)]
pub struct Setting {
    /// Its name in the file.
    pub key: String,
    /// As TOML, secrets masked; `None`: not set, and without a default of its own. For the rules always `None`.
    pub value: Option<String>,
    /// Where the value comes from.
    pub origin: Origin,
}

/// Every setting that `matches` decided, in the order of the options.
pub fn settings(matches: &ArgMatches, file: Option<&ConfigFile>) -> Vec<Setting> {
    let options = ServeArgs::augment_args(Command::new("serve"));
    let settings = options.get_arguments().filter(|arg| arg.get_id() != NOT_IN_FILE);
    settings.map(|arg| setting(arg, matches, file)).collect()
}

fn setting(arg: &Arg, matches: &ArgMatches, file: Option<&ConfigFile>) -> Setting {
    let key = arg.get_id().as_str();
    let origin = match matches.value_source(key) {
        Some(ValueSource::CommandLine) => Origin::Option(format!("--{}", arg.get_long().unwrap_or_default())),
        Some(ValueSource::EnvVariable) => {
            Origin::Variable(arg.get_env().unwrap_or_default().to_string_lossy().into_owned())
        }
        // What the file gave, clap took for a default.
        _ => file.and_then(|file| file.place(key)).map_or(Origin::Default, Origin::File),
    };
    let text = matches.get_raw(key).and_then(|mut values| values.next()).map(|value| value.to_string_lossy());
    let value = text.filter(|_| key != TOPIC_RULES).map(|text| match Kind::of(arg) {
        Kind::Flag | Kind::Number => text.into_owned(),
        Kind::Text => quoted(&text),
        // Any text is a URL of this kind.
        Kind::Secret => {
            text.parse().map_or_else(|never| match never {}, |url: SecretUrl| quoted(&url.to_string()))
        }
    });
    Setting { key: key.to_owned(), value, origin }
}

/// A basic string of TOML. JSON's escapes are a part of TOML's; DEL alone must be escaped besides.
pub fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string().replace('\u{7f}', "\\u007f")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_its_option_and_its_variable() {
        let options = ServeArgs::augment_args(Command::new("serve"));
        for arg in options.get_arguments() {
            let key = arg.get_id().as_str();
            let variable = arg.get_env().unwrap().to_str().unwrap();
            assert_eq!(variable, format!("CARILLON_{}", key.to_uppercase()));
            let option = arg.get_long().unwrap().replace('-', "_");
            // A rule is one option, the rules are many tables.
            assert!(option == key || format!("{option}s") == key, "{key}: --{option}");
        }
    }

    #[test]
    fn text_is_quoted_as_toml_reads_it() {
        let hostile = "a \"b\" \\ \u{1b}\u{7f}\n日本";
        let text = format!("k = {}", quoted(hostile));
        let read = toml::de::DeTable::parse(&text).unwrap();
        assert_eq!(read.get_ref()["k"].get_ref().as_str(), Some(hostile));
    }
}
