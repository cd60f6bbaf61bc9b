//! The summary of an entry, taken from its data. `static/summary.js` has the same rule for what arrives live.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

/// The most characters of a text in a summary.
const MAX_SUMMARY: usize = 240;

/// A headline, the text below it, and how it is meant.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// `title`, or else `message` or `text`, of the data; without any of them the event's type.
    pub headline: String,
    /// `message` or `text` below a title; of other data a line of it.
    pub text: Option<String>,
    /// `level` of the data.
    pub level: Option<String>,
}

impl Summary {
    /// Of an event of this type with this data, which is JSON.
    pub fn of(event_type: &str, data: &str) -> Self {
        let members: BTreeMap<String, &RawValue> = serde_json::from_str(data).unwrap_or_default();
        let line = |name: &str| {
            let text: String = serde_json::from_str(members.get(name)?.get()).ok()?;
            on_one_line(&text)
        };
        let (title, body) = (line("title"), line("message").or_else(|| line("text")));
        if title.is_none() && body.is_none() {
            let text: String = match data {
                "null" => String::new(),
                _ => serde_json::from_str(data).unwrap_or_else(|_| data.to_owned()),
            };
            return Self { headline: event_type.to_owned(), text: on_one_line(&text), level: None };
        }
        let text = if title.is_some() { body.clone() } else { None };
        Self { headline: title.or(body).unwrap_or_default(), text, level: line("level") }
    }
}

/// On one line, and not too long. `None` if nothing is left.
fn on_one_line(text: &str) -> Option<String> {
    // No more than this is looked at, however long it is and whatever it is made of.
    let start: String = text.chars().take(4 * MAX_SUMMARY).collect();
    let words = start.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty());
    let line = words.collect::<Vec<_>>().join(" ");
    if line.is_empty() {
        return None;
    }
    if line.chars().count() <= MAX_SUMMARY && start.len() == text.len() {
        return Some(line);
    }
    Some(line.chars().take(MAX_SUMMARY).chain(['…']).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(data: &str) -> (String, Option<String>, Option<String>) {
        let Summary { headline, text, level } = Summary::of("some.type", data);
        (headline, text, level)
    }

    #[test]
    fn ready_made_types_say_what_they_hold() {
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(
            words(r#"{"title":" A\n\u0000title ","message":"m","level":"warning","x":{"title":1}}"#),
            ("A title".into(), some("m"), some("warning"))
        );
        assert_eq!(words(r#"{"text":"t"}"#), ("t".into(), None, None));
        assert_eq!(words(r#"{"title":7,"message":"m"}"#), ("m".into(), None, None));
        assert_eq!(
            words(r#"{"title":"","order":1}"#),
            ("some.type".into(), some(r#"{"title":"","order":1}"#), None)
        );
    }

    #[test]
    fn other_data_is_a_line_of_itself() {
        assert_eq!(words("null"), ("some.type".into(), None, None));
        assert_eq!(words(r#""a \"b\"""#).1.unwrap(), "a \"b\"");
        assert_eq!(words("[1.10,  2]").1.unwrap(), "[1.10, 2]");
        assert_eq!(words(r#""\ud800""#).1.unwrap(), r#""\ud800""#);
        let deep = format!("{}{}", "[".repeat(500), "]".repeat(500));
        assert_eq!(words(&deep).1.unwrap().chars().count(), MAX_SUMMARY + 1);
        let long = words(&format!(r#"{{"title":"{}"}}"#, "ü".repeat(60_000))).0;
        assert_eq!(long, format!("{}…", "ü".repeat(MAX_SUMMARY)));
    }
}
