//! Lines of standard input, gathered into batches. Nothing is sent here.

use std::collections::VecDeque;
use std::io::{self, Read};

use bytes::Bytes;
use serde_json::value::RawValue;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TryRecvError;

/// The longest line, in bytes.
pub(super) const MAX_LINE: usize = 1024 * 1024;
/// The most bytes of a batch; a node takes twice as many. Every event fits: escaping makes a line of text at
/// most six times as long.
const MAX_BATCH_BYTES: usize = 8 * 1024 * 1024;
/// How many bytes are read at once.
const PIECE: usize = 64 * 1024;
/// How many pieces may wait while a batch is on its way.
const PIECES_WAITING: usize = 32;
/// What stands before and after the events of a batch.
const OPENING: &[u8] = b"{\"events\":[";
const CLOSING: &[u8] = b"]}";

/// What is wrong with a line (or with reading it).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {number}: {what}")]
pub(super) struct BadLine {
    pub(super) number: u64,
    what: String,
}

/// A line with its number, counted from 1.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Line {
    number: u64,
    text: Vec<u8>,
}

/// How a line becomes an event.
#[derive(Debug)]
pub(super) enum Form {
    /// It is one.
    Event,
    /// It is the data, in JSON, of an event that begins like this (up to and including `"data":`).
    Data(String),
    /// It is text, which becomes the data of an event that begins like this.
    Text(String),
}

impl Form {
    fn event(&self, line: Line) -> Result<Vec<u8>, BadLine> {
        let not_json = |error: &serde_json::Error, hint| BadLine {
            number: line.number,
            what: format!("is not JSON (at character {}); {hint}", error.column()),
        };
        let (beginning, data) = match self {
            Self::Event => {
                let hint = "to publish lines as the data of events, give --type and --to";
                serde_json::from_slice::<&RawValue>(&line.text).map_err(|e| not_json(&e, hint))?;
                return Ok(line.text);
            }
            Self::Data(beginning) => {
                let hint = "to publish text, give --text";
                serde_json::from_slice::<&RawValue>(&line.text).map_err(|e| not_json(&e, hint))?;
                (beginning, line.text)
            }
            Self::Text(beginning) => {
                let text = String::from_utf8_lossy(&line.text);
                (beginning, serde_json::Value::from(text).to_string().into_bytes())
            }
        };
        Ok([beginning.as_bytes(), &data, b"}"].concat())
    }
}

/// Events on their way to becoming the body of one request.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// The number of the line of each event.
    numbers: Vec<u64>,
    /// Where each event ends in the body.
    ends: Vec<usize>,
    body: Vec<u8>,
}

impl Batch {
    /// How many events.
    pub(super) fn len(&self) -> usize {
        self.numbers.len()
    }

    /// The numbers of its first and its last line.
    pub(super) fn span(&self) -> (u64, u64) {
        (self.numbers.first().copied().unwrap_or(0), self.numbers.last().copied().unwrap_or(0))
    }

    /// The line that a problem's field such as `events[3].to.user` is about, and the rest of the field's name.
    pub(super) fn line_of<'a>(&self, field: &'a str) -> Option<(u64, &'a str)> {
        let (index, rest) = field.strip_prefix("events[")?.split_once(']')?;
        let number = self.numbers.get(index.parse::<usize>().ok()?)?;
        Some((*number, rest.trim_start_matches('.')))
    }

    /// The request's body; the batch keeps its lines' numbers.
    pub(super) fn take_body(&mut self) -> Bytes {
        let mut body = std::mem::take(&mut self.body);
        body.extend_from_slice(CLOSING);
        body.into()
    }

    /// The events of a batch in two, given the body that it had. One event is not halved.
    pub(super) fn halves(self, body: &Bytes) -> Option<[Self; 2]> {
        let middle = self.numbers.len().div_ceil(2);
        if middle == self.numbers.len() {
            return None;
        }
        let mut halves = [Self::default(), Self::default()];
        let mut begin = OPENING.len();
        for (index, (number, end)) in self.numbers.into_iter().zip(self.ends).enumerate() {
            let event = body.get(begin..end).unwrap_or_default();
            halves[usize::from(index >= middle)].push(number, event);
            // Behind it stands a comma.
            begin = end + 1;
        }
        Some(halves)
    }

    /// A batch of empty objects from these lines.
    #[cfg(test)]
    pub(super) fn of_lines(numbers: &[u64]) -> Self {
        let mut batch = Self::default();
        numbers.iter().for_each(|number| batch.push(*number, b"{}"));
        batch
    }

    fn has_room_for(&self, event: &[u8]) -> bool {
        self.numbers.is_empty() || self.body.len() + event.len() + 8 <= MAX_BATCH_BYTES
    }

    fn push(&mut self, number: u64, event: &[u8]) {
        self.body.extend_from_slice(if self.numbers.is_empty() { OPENING } else { b"," });
        self.body.extend_from_slice(event);
        self.ends.push(self.body.len());
        self.numbers.push(number);
    }
}

/// Makes batches of whatever lines are at hand.
pub(super) struct Gatherer {
    lines: Lines,
    form: Form,
    max_events: usize,
    /// What did not fit into the batch before, or what was wrong behind it.
    held: Option<Result<(u64, Vec<u8>), BadLine>>,
}

impl Gatherer {
    /// Gathers lines of what `pieces` brings.
    pub(super) fn new(pieces: mpsc::Receiver<io::Result<Vec<u8>>>, form: Form, max_events: usize) -> Self {
        Self { lines: Lines::new(pieces), form, max_events, held: None }
    }

    /// The next batch: as soon as it is full or no further line is at hand. `None` when all lines were given.
    /// What stands before a bad line is given first, the error after it.
    pub(super) async fn next(&mut self) -> Result<Option<Batch>, BadLine> {
        let mut batch = Batch::default();
        while batch.len() < self.max_events {
            let event = match self.held.take() {
                Some(held) => held,
                None => match self.lines.next(batch.len() == 0).await {
                    Some(line) => line.and_then(|line| Ok((line.number, self.form.event(line)?))),
                    None => break,
                },
            };
            match event {
                Ok((number, event)) if batch.has_room_for(&event) => batch.push(number, &event),
                Err(bad) if batch.len() == 0 => return Err(bad),
                later => {
                    self.held = Some(later);
                    break;
                }
            }
        }
        Ok((batch.len() > 0).then_some(batch))
    }
}

/// Lines as they come.
struct Lines {
    pieces: mpsc::Receiver<io::Result<Vec<u8>>>,
    cutter: Cutter,
    ready: VecDeque<Line>,
    /// What was wrong behind those that are ready.
    bad: Option<BadLine>,
    /// No further piece is read: the input has ended, or something was wrong.
    is_over: bool,
}

impl Lines {
    fn new(pieces: mpsc::Receiver<io::Result<Vec<u8>>>) -> Self {
        Self { pieces, cutter: Cutter::default(), ready: VecDeque::new(), bad: None, is_over: false }
    }

    /// The next line; when `waits` is false, only if it is at hand.
    async fn next(&mut self, waits: bool) -> Option<Result<Line, BadLine>> {
        loop {
            if let Some(line) = self.ready.pop_front() {
                return Some(Ok(line));
            }
            if self.is_over {
                return self.bad.take().map(Err);
            }
            let piece = if waits {
                self.pieces.recv().await
            } else {
                match self.pieces.try_recv() {
                    Ok(piece) => Some(piece),
                    Err(TryRecvError::Empty) => return None,
                    Err(TryRecvError::Disconnected) => None,
                }
            };
            if let Err(bad) = self.take(piece) {
                self.bad = Some(bad);
                self.is_over = true;
            }
        }
    }

    fn take(&mut self, piece: Option<io::Result<Vec<u8>>>) -> Result<(), BadLine> {
        match piece {
            Some(Ok(piece)) => self.cutter.feed(&piece, &mut self.ready),
            Some(Err(error)) => Err(self.cutter.bad(format!("cannot be read: {error}"))),
            None => {
                self.is_over = true;
                self.ready.extend(self.cutter.finish());
                Ok(())
            }
        }
    }
}

/// Cuts pieces into lines. Empty lines count, but are not given.
#[derive(Debug, Default)]
struct Cutter {
    /// How many lines have ended.
    ended: u64,
    partial: Vec<u8>,
}

impl Cutter {
    fn feed(&mut self, piece: &[u8], ready: &mut VecDeque<Line>) -> Result<(), BadLine> {
        for part in piece.split_inclusive(|byte| *byte == b'\n') {
            let (text, has_ended) = part.strip_suffix(b"\n").map_or((part, false), |text| (text, true));
            self.partial.extend_from_slice(text);
            if self.partial.len() > MAX_LINE {
                return Err(self.bad(format!("is longer than {MAX_LINE} bytes")));
            }
            if has_ended {
                ready.extend(self.finish());
            }
        }
        Ok(())
    }

    /// Ends the line being read.
    fn finish(&mut self) -> Option<Line> {
        self.ended += 1;
        let mut text = std::mem::take(&mut self.partial);
        text.truncate(text.strip_suffix(b"\r").unwrap_or(&text).len());
        (!text.trim_ascii().is_empty()).then_some(Line { number: self.ended, text })
    }

    fn bad(&self, what: String) -> BadLine {
        BadLine { number: self.ended + 1, what }
    }
}

/// Reads standard input in a thread of its own: such a read cannot be cancelled, and must not keep the program
/// from ending.
pub(super) fn standard_input() -> mpsc::Receiver<io::Result<Vec<u8>>> {
    let (sender, pieces) = mpsc::channel(PIECES_WAITING);
    std::thread::spawn(move || {
        let mut input = io::stdin().lock();
        let mut buffer = vec![0; PIECE];
        loop {
            let piece = match input.read(&mut buffer) {
                Ok(0) => return,
                Ok(length) => Ok(buffer[..length].to_vec()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => Err(error),
            };
            let is_last = piece.is_err();
            if sender.blocking_send(piece).is_err() || is_last {
                return;
            }
        }
    });
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEGINNING: &str = r#"{"type":"a","to":"everyone","data":"#;

    /// A gatherer of input that comes in these pieces, and has ended.
    fn gatherer(pieces: &[&str], form: Form, max_events: usize) -> Gatherer {
        let (sender, receiver) = mpsc::channel(pieces.len().max(1));
        for piece in pieces {
            sender.try_send(Ok(piece.as_bytes().to_vec())).unwrap();
        }
        Gatherer::new(receiver, form, max_events)
    }

    /// The numbers and bodies of all batches, and the error at the end.
    async fn all(mut gatherer: Gatherer) -> (Vec<(Vec<u64>, String)>, Option<BadLine>) {
        let mut batches = Vec::new();
        loop {
            match gatherer.next().await {
                Ok(Some(mut batch)) => {
                    let body = String::from_utf8(batch.take_body().to_vec()).unwrap();
                    batches.push((batch.numbers, body));
                }
                Ok(None) => return (batches, None),
                Err(bad) => return (batches, Some(bad)),
            }
        }
    }

    #[tokio::test]
    async fn lines_become_batches() {
        let pieces = ["{\"a\":", "1}\n\n \r\n[2]\r\n", "3\n4"];
        let (batches, bad) = all(gatherer(&pieces, Form::Event, 2)).await;
        let expected = [
            (vec![1, 4], r#"{"events":[{"a":1},[2]]}"#.to_owned()),
            (vec![5, 6], r#"{"events":[3,4]}"#.to_owned()),
        ];
        assert_eq!((&batches[..], bad), (&expected[..], None));
        let (batches, _) = all(gatherer(&["{}\n"], Form::Data(BEGINNING.into()), 2)).await;
        assert_eq!(batches[0].1, r#"{"events":[{"type":"a","to":"everyone","data":{}}]}"#);
        let (batches, _) = all(gatherer(&["say \"x\" \n"], Form::Text(BEGINNING.into()), 2)).await;
        assert_eq!(batches[0].1, r#"{"events":[{"type":"a","to":"everyone","data":"say \"x\" "}]}"#);
        assert_eq!(all(gatherer(&[], Form::Event, 2)).await, (vec![], None));
    }

    #[tokio::test]
    async fn what_is_at_hand_does_not_wait_for_more() {
        let (sender, receiver) = mpsc::channel(4);
        let mut gatherer = Gatherer::new(receiver, Form::Event, 1000);
        sender.try_send(Ok(b"1\n2\n3".to_vec())).unwrap();
        assert_eq!(gatherer.next().await.unwrap().unwrap().numbers, [1, 2]);
        sender.try_send(Ok(b"0\n".to_vec())).unwrap();
        assert_eq!(gatherer.next().await.unwrap().unwrap().numbers, [3]);
    }

    #[tokio::test]
    async fn a_batch_is_bounded_in_bytes_and_keeps_the_order() {
        let line = format!("\"{}\"\n", "x".repeat(MAX_LINE - 2));
        let (batches, bad) = all(gatherer(&[line.as_str(); 20], Form::Event, 1000)).await;
        assert_eq!(bad, None);
        assert!(batches.iter().all(|(_, body)| body.len() <= MAX_BATCH_BYTES));
        let numbers: Vec<_> = batches.into_iter().flat_map(|(numbers, _)| numbers).collect();
        assert_eq!(numbers, (1..=20).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn a_bad_line_is_named_after_the_good_ones_before_it() {
        let long = "x".repeat(MAX_LINE + 1);
        let cases = [
            ("1\n\n2\nno\n3\n", Form::Event, 4, "is not JSON"),
            ("1\n2},{\n", Form::Event, 2, "is not JSON"),
            ("1\nno\n", Form::Data(BEGINNING.into()), 2, "--text"),
            (&format!("1\n{long}"), Form::Text(BEGINNING.into()), 2, "is longer than"),
        ];
        for (input, form, number, what) in cases {
            let (batches, bad) = all(gatherer(&[input], form, 1000)).await;
            let bad = bad.unwrap();
            assert_eq!(batches.len(), 1, "{what}");
            assert!(bad.number == number && bad.what.contains(what), "{bad}");
        }
    }

    #[tokio::test]
    async fn input_that_breaks_is_an_error() {
        let (sender, receiver) = mpsc::channel(4);
        sender.try_send(Ok(b"1\n2".to_vec())).unwrap();
        sender.try_send(Err(io::Error::other("gone"))).unwrap();
        let (batches, bad) = all(Gatherer::new(receiver, Form::Event, 9)).await;
        assert_eq!(batches[0].0, [1]);
        assert_eq!(bad.unwrap().to_string(), "line 2: cannot be read: gone");
    }

    #[test]
    fn a_batch_is_halved_until_it_is_one_event() {
        let mut batch = Batch::default();
        for (number, event) in [(4, "1"), (6, "\"two\""), (7, "[3]")] {
            batch.push(number, event.as_bytes());
        }
        let body = batch.take_body();
        let [mut first, mut second] = batch.halves(&body).unwrap();
        assert_eq!((&first.numbers[..], &second.numbers[..]), (&[4, 6][..], &[7][..]));
        let (left, right) = (first.take_body(), second.take_body());
        assert_eq!((&left[..], &right[..]), (&br#"{"events":[1,"two"]}"#[..], &br#"{"events":[[3]]}"#[..]));
        assert!(second.halves(&right).is_none());
        let [mut first, _] = first.halves(&left).unwrap();
        assert_eq!(&first.take_body()[..], br#"{"events":[1]}"#);
    }

    #[test]
    fn a_problem_leads_to_its_line() {
        let batch = Batch::of_lines(&[7, 8, 11]);
        assert_eq!(batch.span(), (7, 11));
        assert_eq!(batch.line_of("events[2].to.user"), Some((11, "to.user")));
        assert_eq!(batch.line_of("events[0]"), Some((7, "")));
        for field in ["events", "events[3].type", "events[-1].type", "events[x", "to.user"] {
            assert_eq!(batch.line_of(field), None, "{field}");
        }
    }
}
