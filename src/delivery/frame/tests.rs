use std::fs;
use std::path::Path;

use super::*;
use crate::event::{Audience, EventType, Priority};
use uuid::Uuid;

fn delivery(data: &str) -> Delivery {
    let event = Event {
        position: 7,
        id: Uuid::nil(),
        event_type: "a.b".parse().unwrap(),
        priority: Priority::High,
        audience: Audience::topic("room/1".parse().unwrap()),
        data: data.into(),
        created_at: 0,
        expires_at: Some(1_500),
        keep_after_read: Some(3),
        publisher: 9,
    };
    Delivery::new(&"e".parse().unwrap(), event)
}

#[test]
fn the_envelope_has_the_data_as_it_was_written() {
    let delivery = delivery("{\"n\": 1e400,\"n\":2}");
    let expected = "data: {\"id\":\"00000000-0000-0000-0000-000000000000\",\"position\":7,\"type\":\"a.b\",\
                    \"priority\":\"high\",\"to\":\"topic\",\"topic\":\"room/1\",\"data\":{\"n\": 1e400,\"n\":2},\
                    \"created_at\":\"1970-01-01T00:00:00Z\",\"expires_at\":\"1970-01-01T00:00:01.5Z\"}\n";
    let frame = delivery.frame(Form::Envelope);
    assert_eq!(frame.whole().body(), format!("{expected}id: e-7\n\n").as_bytes());
    let cursor = "e-5+7".parse().unwrap();
    assert_eq!(frame.ending_with(Some(&cursor)).body(), format!("{expected}id: e-5+7\n\n").as_bytes());
    assert_eq!(frame.ending_with(None).body(), format!("{expected}\n").as_bytes());
    assert!(delivery.is_of(&"e".parse().unwrap()) && !delivery.is_of(&"e1".parse().unwrap()));
}

#[test]
fn an_event_is_encoded_once_for_all_its_listeners() {
    let delivery = delivery("1");
    let mut starts: Vec<_> = Vec::new();
    for form in Form::ALL {
        assert_eq!(form.as_str().parse(), Ok(form));
        let (one, other) = (delivery.frame(form).whole().body(), delivery.frame(form).whole().body());
        assert_eq!(one.as_ptr(), other.as_ptr());
        starts.push(one.as_ptr());
    }
    starts.dedup();
    assert_eq!(starts.len(), Form::ALL.len(), "each has its own");
}

/// The fields of the event's frame in this form.
fn fields(form: Form, data: &str) -> String {
    let frame = delivery(data).frame(form).ending_with(None);
    std::str::from_utf8(frame.body()).unwrap().strip_suffix("\n").unwrap().to_owned()
}

#[test]
fn a_text_is_sent_line_by_line_and_never_as_nothing() {
    let cases = [
        (r#""a""#, "data: a\n"),
        (r#""a\nb""#, "data: a\ndata: b\n"),
        (r#""a\rb""#, "data: a\ndata: b\n"),
        (r#""a\r\nb""#, "data: a\ndata: b\n"),
        (r#""a\n\rb""#, "data: a\ndata: \ndata: b\n"),
        (r#""\n""#, "data: \ndata: \n"),
        (r#"" a\r\n""#, "data:  a\ndata: \n"),
        (r#""""#, "data: \"\"\n"),
        (r#""id: 9\n\nevent: x""#, "data: id: 9\ndata: \ndata: event: x\n"),
        // Half a pair of surrogates is no text.
        (r#""\ud800""#, "data: \"\\ud800\"\n"),
        (r#"{"n": 1.10}"#, "data: {\"n\": 1.10}\n"),
        ("null", "data: null\n"),
    ];
    for (data, expected) in cases {
        assert_eq!(fields(Form::Data, data), expected, "{data}");
        assert_eq!(fields(Form::Plain, data), format!("event: a.b\n{expected}"), "{data}");
    }
}

#[test]
fn named_is_the_envelope_under_the_events_type() {
    assert_eq!(fields(Form::Named, "1"), format!("event: a.b\n{}", fields(Form::Envelope, "1")));
}

/// Neither what a row holds that was written by hand nor what another node sends can begin a field.
#[test]
fn data_is_nothing_but_data_and_a_type_nothing_but_a_type() {
    for form in Form::ALL {
        let mut event = delivery("{\n\"a\":\r\n1\r}").event;
        event.event_type = EventType::from_stored("a\nid: 9\r\n\r".into());
        let frame = Delivery::new(&"e".parse().unwrap(), event).frame(form).ending_with(None);
        let text = std::str::from_utf8(frame.body()).unwrap();
        let mut lines: Vec<&str> = text.strip_suffix("\n\n").unwrap().split('\n').collect();
        if matches!(form, Form::Named | Form::Plain) {
            assert_eq!(lines.remove(0), "event: aid: 9");
        }
        assert!(lines.iter().all(|line| line.starts_with("data: ")) && !text.contains('\r'), "{text:?}");
    }
}

/// `fetch-event-source` and `httpx-sse` hand out an event without data at each empty line.
#[test]
fn what_is_no_event_ends_with_no_empty_line() {
    assert_eq!(COMMENT, ":\n");
    assert_eq!(come_back_later(Duration::from_millis(1_500), "busy"), "retry: 1500\n: busy\n");
}

/// Their names and fields are a promise to clients, and stand in one file.
#[test]
fn the_servers_own_events_are_made_in_one_place() {
    fn search(folder: &Path, found: &mut Vec<String>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                if !path.ends_with("tests") {
                    search(&path, found);
                }
                continue;
            }
            let Ok(text) = fs::read_to_string(&path) else { continue };
            let code = text.split("#[cfg(test)]").next().unwrap();
            let is_named = code.match_indices("\"carillon.").any(|(at, name)| {
                code[at + name.len()..].starts_with(|next: char| next.is_ascii_lowercase())
            });
            if is_named || code.contains("event: {") {
                found.push(path.file_name().unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    let mut found = Vec::new();
    search(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut found);
    // The client on the command line reads them; tests read them.
    found.retain(|name| !matches!(name.as_str(), "tail.rs" | "tests.rs"));
    assert_eq!(found, ["server_event.rs"]);
}
