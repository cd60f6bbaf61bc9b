//! A parser of Server-Sent Events, written from the rules of the WHATWG HTML standard, §9.2.6. It reads what our
//! own encoder writes, and whatever else is allowed, in pieces of any size.

/// One event, as a browser would dispatch it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SseEvent {
    /// The name; `message` when none was given.
    pub event: String,
    /// The data lines, joined by line feeds.
    pub data: String,
    /// The last event id in force.
    pub id: String,
}

/// An event grew beyond the bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an event is larger than {0} bytes")]
pub struct TooLarge(pub usize);

/// Reads a stream piece by piece.
#[derive(Debug)]
pub struct SseParser {
    max_event_bytes: usize,
    /// The line being read, as bytes: a character may be cut by the end of a piece.
    line: Vec<u8>,
    /// The last byte was a CR: a LF right after it belongs to the same line end.
    after_cr: bool,
    is_first_line: bool,
    data: String,
    event: String,
    /// Set by `id:`, in force from the next dispatch on.
    id: String,
    last_event_id: String,
    retry: Option<u64>,
}

impl SseParser {
    /// A parser at the beginning of a stream that refuses events of more than `max_event_bytes`.
    pub fn new(max_event_bytes: usize) -> Self {
        Self {
            max_event_bytes,
            line: Vec::new(),
            after_cr: false,
            is_first_line: true,
            data: String::new(),
            event: String::new(),
            id: String::new(),
            last_event_id: String::new(),
            retry: None,
        }
    }

    /// What to resume from.
    pub fn last_event_id(&self) -> &str {
        &self.last_event_id
    }

    /// How long the server asked to wait before reconnecting, in milliseconds.
    pub fn retry(&self) -> Option<u64> {
        self.retry
    }

    /// Reads the next piece; gives the events it completed. After an error the stream is of no more use.
    pub fn feed(&mut self, piece: &[u8]) -> Result<Vec<SseEvent>, TooLarge> {
        let mut events = Vec::new();
        let mut rest = piece;
        while let Some(&first) = rest.first() {
            if std::mem::take(&mut self.after_cr) && first == b'\n' {
                rest = &rest[1..];
                continue;
            }
            let end = rest.iter().position(|byte| matches!(byte, b'\n' | b'\r'));
            self.line.extend_from_slice(&rest[..end.unwrap_or(rest.len())]);
            if self.line.len() + self.data.len() > self.max_event_bytes {
                return Err(TooLarge(self.max_event_bytes));
            }
            let Some(end) = end else { break };
            self.after_cr = rest[end] == b'\r';
            events.extend(self.end_of_line());
            rest = &rest[end + 1..];
        }
        Ok(events)
    }

    fn end_of_line(&mut self) -> Option<SseEvent> {
        let line = std::mem::take(&mut self.line);
        let line = String::from_utf8_lossy(&line);
        let mut line: &str = &line;
        if std::mem::take(&mut self.is_first_line) {
            line = line.strip_prefix('\u{feff}').unwrap_or(line);
        }
        if line.is_empty() {
            return self.dispatch();
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.event),
            "data" => {
                self.data.push_str(value);
                self.data.push('\n');
            }
            "id" if !value.contains('\0') => value.clone_into(&mut self.id),
            "retry" if !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit()) => {
                self.retry = value.parse().ok().or(self.retry);
            }
            // A comment (no field name), or a field that is not known.
            _ => {}
        }
        None
    }

    fn dispatch(&mut self) -> Option<SseEvent> {
        self.id.clone_into(&mut self.last_event_id);
        let event = std::mem::take(&mut self.event);
        let mut data = std::mem::take(&mut self.data);
        // The last data line's line feed goes; no data line at all means no event.
        data.pop()?;
        let event = if event.is_empty() { "message".to_owned() } else { event };
        Some(SseEvent { event, data, id: self.last_event_id.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::frame::{COMMENT, Delivery, Form, ServerEvent};
    use crate::event::draft::on_one_line;
    use crate::event::{Audience, Cursor, Event, Priority};
    use proptest::prelude::*;
    use uuid::Uuid;

    fn parse(text: &[u8]) -> Vec<(String, String, String)> {
        let events = SseParser::new(1 << 20).feed(text).unwrap();
        events.into_iter().map(|e| (e.event, e.data, e.id)).collect()
    }

    fn message(data: &str, id: &str) -> (String, String, String) {
        ("message".into(), data.into(), id.into())
    }

    #[test]
    fn each_rule_of_the_standard() {
        let cases: Vec<(&str, Vec<_>)> = vec![
            ("data: a\n\n", vec![message("a", "")]),
            ("data:a\r\rdata:  b\r\n\r\n", vec![message("a", ""), message(" b", "")]),
            ("\u{feff}data: a\n\n", vec![message("a", "")]),
            ("data: a\n\n\u{feff}data: b\n\n", vec![message("a", "")]),
            ("data: YHOO\ndata: +2\ndata: 10\n\n", vec![message("YHOO\n+2\n10", "")]),
            ("data\n\ndata\ndata\n\ndata:", vec![message("", ""), message("\n", "")]),
            (": comment\n\ndata: a\n: more\n\n", vec![message("a", "")]),
            (
                "id: 1\ndata: a\n\ndata: b\n\nid\ndata: c\n\n",
                vec![message("a", "1"), message("b", "1"), message("c", "")],
            ),
            ("id: 1\n\ndata: a\n\n", vec![message("a", "1")]),
            ("id: 1\0\ndata: a\n\n", vec![message("a", "")]),
            ("event: x\n\ndata: a\n\n", vec![message("a", "")]),
            ("event: x\ndata: a\n\n", vec![("x".into(), "a".into(), String::new())]),
            ("data: a\nunknown: b\nDATA: c\n data: d\n\n", vec![message("a", "")]),
            ("data: a:b: c\n\n", vec![message("a:b: c", "")]),
            ("data: truncated\n", vec![]),
        ];
        for (text, expected) in cases {
            assert_eq!(parse(text.as_bytes()), expected, "{text:?}");
        }
        assert_eq!(parse(b"data: \xff\n\n"), [message("\u{fffd}", "")]);
    }

    #[test]
    fn retry_is_digits_only() {
        for (text, expected) in
            [("retry: 12\n", Some(12)), ("retry: 1s\n", None), ("retry: -1\n", None), ("retry\n", None)]
        {
            let mut parser = SseParser::new(100);
            parser.feed(text.as_bytes()).unwrap();
            assert_eq!(parser.retry(), expected, "{text:?}");
        }
    }

    #[test]
    fn an_event_beyond_the_bound_is_an_error() {
        assert_eq!(SseParser::new(10).feed(b"data: 0123456789"), Err(TooLarge(10)));
        assert_eq!(SseParser::new(10).feed(b"data: 0123\ndata: 0123\n"), Err(TooLarge(10)));
    }

    /// Feeds `bytes` cut at the given places.
    fn in_pieces(bytes: &[u8], cuts: &[usize]) -> (Vec<SseEvent>, String, Option<u64>) {
        let mut parser = SseParser::new(1 << 20);
        let mut events = Vec::new();
        let mut rest = bytes;
        for cut in cuts {
            let (piece, later) = rest.split_at(cut % (rest.len() + 1));
            events.extend(parser.feed(piece).unwrap());
            rest = later;
        }
        events.extend(parser.feed(rest).unwrap());
        (events, parser.last_event_id().to_owned(), parser.retry())
    }

    fn event(position: i64, data: String) -> Event {
        Event {
            position,
            id: Uuid::now_v7(),
            event_type: "a.b".parse().unwrap(),
            priority: Priority::High,
            audience: Audience::Everyone,
            data,
            created_at: 0,
            expires_at: None,
            keep_after_read: None,
            publisher: 1,
        }
    }

    fn json_text() -> impl Strategy<Value = String> {
        let nasty = "[\\PC\r\n\u{2028}\u{2029}\u{feff}\u{0}\"\\\\:]{0,60}";
        (nasty, any::<bool>()).prop_map(|(text, pretty)| {
            let value = serde_json::json!({ "t": text, "data: x\n\nid: 9": [1, null] });
            if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) }.unwrap()
        })
    }

    proptest! {
        #[test]
        fn pieces_change_nothing(text in "(data|id|event|retry|:|x|\r|\n|\r\n| |[0-9]|é|\u{feff}){0,60}", cuts in prop::collection::vec(0..40usize, 0..20)) {
            prop_assert_eq!(in_pieces(text.as_bytes(), &cuts), in_pieces(text.as_bytes(), &[]));
        }

        #[test]
        fn what_our_encoder_writes_is_read_back(
            texts in prop::collection::vec(json_text(), 1..5),
            cuts in prop::collection::vec(0..200usize, 0..30),
        ) {
            let epoch: crate::event::Epoch = "e1".parse().unwrap();
            let at = |position| Cursor::at(epoch.clone(), position);
            let frame = |event: ServerEvent, position| {
                String::from_utf8(event.frame(Some(&at(position))).body().to_vec()).unwrap()
            };
            let retry = std::time::Duration::from_millis(700);
            let mut stream = frame(ServerEvent::connected(Uuid::nil(), 4, &[], retry), 4);
            let mut expected = Vec::new();
            for (text, position) in texts.iter().zip(5..) {
                let event = event(position, on_one_line(text));
                expected.push((text.clone(), format!("e1-{position}"), event.id));
                let delivery = Delivery::new(&epoch, event);
                stream.push_str(std::str::from_utf8(delivery.frame(Form::Envelope).whole().body()).unwrap());
                stream.push_str(COMMENT);
                stream.push_str(&frame(ServerEvent::nodes(&serde_json::json!({ "x": text })), 99));
            }
            let (mut events, last, retry) = in_pieces(stream.as_bytes(), &cuts);
            let first = events.remove(0);
            prop_assert_eq!((&first.event[..], &first.id[..]), ("carillon.connected", "e1-4"));
            prop_assert_eq!((last.as_str(), retry), ("e1-99", Some(700)));
            prop_assert_eq!(events.len(), expected.len() * 2);
            for (pair, (text, id, event_id)) in events.chunks(2).zip(expected) {
                let read: serde_json::Value = serde_json::from_str(&pair[0].data).unwrap();
                let sent: serde_json::Value = serde_json::from_str(&text).unwrap();
                prop_assert_eq!((&pair[0].event[..], &pair[0].id), ("message", &id));
                prop_assert_eq!(&read["data"], &sent);
                prop_assert_eq!(read["id"].as_str().unwrap(), event_id.to_string());
                let notice: serde_json::Value = serde_json::from_str(&pair[1].data).unwrap();
                prop_assert_eq!((&pair[1].event[..], notice["x"].as_str()), ("carillon.nodes", Some(&text[..])));
            }
        }

        #[test]
        fn a_text_by_itself_is_read_back(text in "[\\PC\r\n\u{feff}\u{0}\":]{0,40}", cuts in prop::collection::vec(0..60usize, 0..20)) {
            let data = serde_json::to_string(&text).unwrap();
            let delivery = Delivery::new(&"e1".parse().unwrap(), event(5, data.clone()));
            let lines = text.replace("\r\n", "\n").replace('\r', "\n");
            let expected = if text.is_empty() { data } else { lines };
            for (form, name) in [(Form::Plain, "a.b"), (Form::Data, "message")] {
                let (events, ..) = in_pieces(delivery.frame(form).whole().body(), &cuts);
                let read: Vec<_> = events.iter().map(|e| (&e.event[..], &e.data[..], &e.id[..])).collect();
                prop_assert_eq!(read, [(name, &expected[..], "e1-5")]);
            }
        }
    }
}
