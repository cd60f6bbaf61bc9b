//! What a request to publish is known by when its idempotency key comes again.

use std::collections::BTreeMap;

use serde_json::Value;
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};

use super::Invalid;
use super::draft::Members;

/// Tells a request from another with the same key. It is made of the events as they were parsed, before defaults, so that
/// spaces and the order of fields do not matter, and a default that changes with the program does not either. Data is
/// compared as text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint {
    /// SHA-256 of the fields of all events.
    pub hash: [u8; 32],
    /// How many bytes that was made of.
    pub length: i64,
}

impl Fingerprint {
    /// The fingerprint of a request that publishes these events.
    pub fn of(events: &[&RawValue]) -> Result<Self, Invalid> {
        let mut made = Making { hash: Sha256::new(), length: 0 };
        made.number(events.len());
        for event in events {
            let Members(members) = serde_json::from_str(event.get())
                .map_err(|_| Invalid::new("body", "every event must be a JSON object"))?;
            let fields: BTreeMap<String, &RawValue> = members.into_iter().collect();
            // A field that is null is one that is absent; data may be null.
            let is_given = |(name, value): &(&String, &&RawValue)| *name == "data" || value.get() != "null";
            let given: Vec<_> = fields.iter().filter(is_given).collect();
            made.number(given.len());
            for (name, value) in given {
                made.text(name);
                match name.as_str() {
                    "data" => made.text(value.get()),
                    // Objects of JSON are sorted by key here.
                    _ => made.text(&parsed(value)?.to_string()),
                }
            }
        }
        Ok(Self { hash: made.hash.finalize().into(), length: made.length })
    }
}

fn parsed(value: &RawValue) -> Result<Value, Invalid> {
    serde_json::from_str(value.get()).map_err(|_| Invalid::new("body", "must be JSON"))
}

/// Texts and numbers on their way into the hash, each with its length: no two requests have the same bytes.
struct Making {
    hash: Sha256,
    length: i64,
}

impl Making {
    fn number(&mut self, number: usize) {
        self.bytes(&(number as u64).to_le_bytes());
    }

    fn text(&mut self, text: &str) {
        self.number(text.len());
        self.bytes(text.as_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.hash.update(bytes);
        self.length = self.length.saturating_add(i64::try_from(bytes.len()).unwrap_or(i64::MAX));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(events: &[&str]) -> Fingerprint {
        let events: Vec<_> = events.iter().map(|e| RawValue::from_string((*e).to_owned()).unwrap()).collect();
        Fingerprint::of(&events.iter().map(|event| &**event).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn only_what_is_meant_matters() {
        let event = r#"{"type":"a","to":{"users":["x","y"]},"data":{"n": 1}}"#;
        for same in [
            r#"{ "to" : {"users":["x", "y"]}, "data":{"n": 1}, "type":"\u0061" }"#,
            r#"{"type":"a","to":{"users":["x","y"]},"data":{"n": 1},"priority":null}"#,
        ] {
            assert_eq!(of(&[event]), of(&[same]), "{same}");
        }
        for other in [
            r#"{"type":"b","to":{"users":["x","y"]},"data":{"n": 1}}"#,
            r#"{"type":"a","to":{"users":["y","x"]},"data":{"n": 1}}"#,
            r#"{"type":"a","to":{"users":["x","y"]},"data":{"n":1}}"#,
            r#"{"type":"a","to":{"users":["x","y"]},"data":{"n": 1},"priority":"normal"}"#,
            r#"{"type":"a","to":{"users":["x","y"]}}"#,
            r#"{"type":"a","to":{"users":["x","y"]},"data":null}"#,
        ] {
            assert_ne!(of(&[event]), of(&[other]), "{other}");
        }
        assert_ne!(of(&[event]), of(&[event, event]));
    }
}
