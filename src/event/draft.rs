//! What a publisher sends: read field by field, so that every mistake is answered with the field's name.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{DeserializeOwned, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{EventType, Expiry, Invalid, Millis, Priority, Topic};

/// The most users one event may name.
pub const MAX_RECIPIENTS: usize = 1_000;
/// The longest an event may take to expire or to stay after reading, in seconds: ten years.
pub const MAX_SECONDS: i64 = 10 * 366 * 86_400;

/// Whom a draft is for, by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Recipients {
    /// Every signed-in listener: `"everyone"`.
    Everyone,
    /// One user: `{"user": "alice"}`.
    User(String),
    /// Several users: `{"users": ["alice", "bob"]}`.
    Users(Vec<String>),
    /// The listeners of a topic: `{"topic": "room/7"}`.
    Topic(String),
}

/// An event as its publisher wrote it: checked, but with users still by name.
#[derive(Debug, Clone)]
pub struct Draft {
    /// What kind of event.
    pub event_type: EventType,
    /// How urgent.
    pub priority: Priority,
    /// Whom it is for.
    pub to: Recipients,
    /// The JSON on one line.
    pub data: String,
    /// When it ends for everyone.
    pub expiry: Expiry,
    /// How long it stays with a user who has read it.
    pub keep_after_read: Option<Millis>,
}

impl Draft {
    /// Reads one event. `at` goes before field names in errors (`events[3].`, or nothing); `max_data` is the
    /// most bytes `data` may have, and being over it is an error about `data` with [`TOO_LARGE`] in it.
    pub fn read(json: &RawValue, at: &str, max_data: usize) -> Result<Self, Invalid> {
        let whole = if at.is_empty() { "body" } else { at.trim_end_matches('.') };
        let Members(members) =
            serde_json::from_str(json.get()).map_err(|_| Invalid::new(whole, "must be a JSON object"))?;
        let mut fields = Fields { fields: BTreeMap::new(), at };
        for (name, value) in members {
            if fields.fields.insert(name.clone(), value).is_some() {
                return Err(fields.wrong(&name, "may stand only once"));
            }
        }
        fields.refuse_unknown(&[
            "type",
            "priority",
            "to",
            "data",
            "expires_in",
            "expires_at",
            "keep_after_read",
        ])?;
        let event_type: String = fields.required("type", "must be text")?;
        let priority: Option<String> = fields.optional("priority", "must be text")?;
        let data = fields.fields.get("data").map_or("null", |raw| raw.get());
        if data.len() > max_data {
            return Err(fields.wrong("data", format!("{TOO_LARGE}: at most {max_data} bytes")));
        }
        Ok(Self {
            event_type: fields.located(event_type.parse())?,
            priority: fields.located(priority.map_or(Ok(Priority::Normal), |p| p.parse()))?,
            to: fields.recipients()?,
            data: on_one_line(data),
            expiry: fields.expiry()?,
            keep_after_read: fields.seconds("keep_after_read", 0)?,
        })
    }
}

/// Makes a publisher's JSON fit one `data:` line: line breaks can stand only between tokens, where a space
/// means the same (RFC 8259 §2 and §7).
pub fn on_one_line(json: &str) -> String {
    json.replace(['\r', '\n'], " ")
}

/// What the message of an error about too large `data` begins with.
pub const TOO_LARGE: &str = "is too large";

/// A JSON object as it was written: of a member that stands twice, a map would take the last without a word.
pub(super) struct Members<'a>(pub(super) Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;

        impl<'de> Visitor<'de> for Object {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Members<'de>, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = object.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }

        deserializer.deserialize_map(Object)
    }
}

struct Fields<'a> {
    fields: BTreeMap<String, &'a RawValue>,
    at: &'a str,
}

impl Fields<'_> {
    fn wrong(&self, field: &str, message: impl Into<String>) -> Invalid {
        Invalid::new(format!("{}{field}", self.at), message)
    }

    fn located<T>(&self, result: Result<T, Invalid>) -> Result<T, Invalid> {
        result.map_err(|e| self.wrong(&e.field, e.message))
    }

    fn refuse_unknown(&self, known: &[&str]) -> Result<(), Invalid> {
        match self.fields.keys().find(|name| !known.contains(&name.as_str())) {
            Some(name) => Err(self.wrong(name, format!("is not known; known are {}", known.join(", ")))),
            None => Ok(()),
        }
    }

    fn optional<T: DeserializeOwned>(&self, name: &str, must: &str) -> Result<Option<T>, Invalid> {
        let Some(raw) = self.fields.get(name).filter(|raw| raw.get() != "null") else { return Ok(None) };
        serde_json::from_str(raw.get()).map(Some).map_err(|_| self.wrong(name, must))
    }

    fn required<T: DeserializeOwned>(&self, name: &str, must: &str) -> Result<T, Invalid> {
        self.optional(name, must)?.ok_or_else(|| self.wrong(name, "is missing"))
    }

    fn recipients(&self) -> Result<Recipients, Invalid> {
        let shape = "must be \"everyone\", {\"user\": name}, {\"users\": [names]} or {\"topic\": topic}";
        let to: Recipients = self.required("to", shape)?;
        match &to {
            Recipients::Topic(topic) => {
                topic.parse::<Topic>().map_err(|e| self.wrong("to.topic", e.message))?;
            }
            Recipients::Users(names) if names.is_empty() || names.len() > MAX_RECIPIENTS => {
                return Err(self.wrong("to.users", format!("must name 1 to {MAX_RECIPIENTS} users")));
            }
            _ => {}
        }
        Ok(to)
    }

    fn seconds(&self, name: &str, least: i64) -> Result<Option<Millis>, Invalid> {
        let Some(seconds) = self.optional::<f64>(name, "must be a number of seconds")? else {
            return Ok(None);
        };
        #[expect(clippy::cast_precision_loss, reason = "both bounds are small")]
        if !(least as f64..=MAX_SECONDS as f64).contains(&seconds) {
            return Err(self.wrong(name, format!("must be {least} to {MAX_SECONDS} seconds")));
        }
        #[expect(clippy::cast_possible_truncation, reason = "bounded just above")]
        Ok(Some((seconds * 1000.0) as Millis))
    }

    fn expiry(&self) -> Result<Expiry, Invalid> {
        let after = self.seconds("expires_in", 1)?;
        let at: Option<String> = self.optional("expires_at", "must be text")?;
        match (after, at) {
            (Some(_), Some(_)) => Err(self.wrong("expires_at", "cannot go with expires_in")),
            (Some(after), None) => Ok(Expiry::After(after)),
            (None, None) => Ok(Expiry::Never),
            (None, Some(text)) => {
                let at = OffsetDateTime::parse(&text, &Rfc3339).map_err(|_| {
                    self.wrong("expires_at", "must be a time like 2030-01-31T12:00:00Z (RFC 3339)")
                })?;
                Ok(Expiry::At(at.unix_timestamp() * 1000 + i64::from(at.millisecond())))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<Draft, Invalid> {
        Draft::read(&RawValue::from_string(json.to_owned()).unwrap(), "", 100)
    }

    #[test]
    fn a_full_draft_is_read() {
        let draft = read(
            r#"{"type":"a.b","priority":"high","to":{"users":["x","y"]},"data":{"n":
            1.10},"expires_in":1.5,"keep_after_read":0}"#,
        )
        .unwrap();
        assert_eq!(draft.expiry, Expiry::After(1500));
        assert_eq!(draft.keep_after_read, Some(0));
        assert!(draft.data.starts_with("{\"n\": ") && draft.data.ends_with("1.10}"));
        assert_eq!(read(r#"{"type":"a","to":"everyone"}"#).unwrap().data, "null");
    }

    #[test]
    fn every_mistake_names_its_field() {
        let cases = [
            (r#"[]"#, "body"),
            (r#"{"to":"everyone"}"#, "type"),
            (r#"{"type":"a b","to":"everyone"}"#, "type"),
            (r#"{"type":7,"to":"everyone"}"#, "type"),
            (r#"{"type":"a"}"#, "to"),
            (r#"{"type":"a","to":"nobody"}"#, "to"),
            (r#"{"type":"a","to":{"users":[]}}"#, "to.users"),
            (r#"{"type":"a","to":{"topic":"/"}}"#, "to.topic"),
            (r#"{"type":"a","to":"everyone","priority":"most"}"#, "priority"),
            (r#"{"type":"a","to":"everyone","expires_in":0}"#, "expires_in"),
            (r#"{"type":"a","to":"everyone","expires_in":1e300}"#, "expires_in"),
            (r#"{"type":"a","to":"everyone","expires_at":"soon"}"#, "expires_at"),
            (
                r#"{"type":"a","to":"everyone","expires_in":5,"expires_at":"2030-01-01T00:00:00Z"}"#,
                "expires_at",
            ),
            (r#"{"type":"a","to":"everyone","colour":1}"#, "colour"),
            (r#"{"type":"a","to":"everyone","type":"b"}"#, "type"),
        ];
        for (json, field) in cases {
            assert_eq!(read(json).unwrap_err().field, field, "{json}");
        }
        let large = format!(r#"{{"type":"a","to":"everyone","data":"{}"}}"#, "x".repeat(100));
        let error = read(&large).unwrap_err();
        assert!(error.field == "data" && error.message.starts_with(TOO_LARGE), "{error}");
    }
}
