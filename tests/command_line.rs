//! `carillon publish` and `carillon tail` as somebody at a terminal uses them.

mod support;

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Instant;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use carillon::account::Role;
use futures_util::StreamExt as _;
use futures_util::stream::{iter, pending};
use serde_json::{Value, json};
use support::DEADLINE;
use support::node::{Node, People};
use support::wait_until;
use tempfile::TempDir;

/// A node on a store of its own, and somebody on each side.
struct Place {
    folder: TempDir,
    node: Node,
    publisher: String,
    alice: String,
}

impl Place {
    async fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let store = format!("sqlite:{}", folder.path().join("carillon.sqlite").display());
        let people = People::new(&store).await;
        let alice = people.add("alice", Role::Listener).await;
        let publisher = people.publisher.clone();
        drop(people);
        let node = Node::start(&store, "memory:", &[]).await;
        Self { folder, node, publisher, alice }
    }

    fn publish(&self, arguments: &[&str]) -> Program {
        Program::start(&self.node.address, &self.publisher, &[&["publish"], arguments].concat())
    }

    /// A listener that is connected.
    async fn tail(&self, arguments: &[&str]) -> Program {
        let program = Program::start(&self.node.address, &self.alice, &[&["tail"], arguments].concat());
        wait_until(DEADLINE, "tail is connected", async || program.errors().contains("connected to")).await;
        program
    }
}

/// A `carillon` that runs, and what it has printed so far.
struct Program {
    process: Child,
    input: Option<ChildStdin>,
    output: Arc<Mutex<String>>,
    errors: Arc<Mutex<String>>,
    readers: Vec<JoinHandle<()>>,
}

impl Program {
    fn start(server: &str, token: &str, arguments: &[&str]) -> Self {
        let mut process = carillon(arguments)
            .env("CARILLON_SERVER", server)
            .env("CARILLON_TOKEN", token)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (output, errors) = (Arc::default(), Arc::default());
        let readers = vec![
            collect(process.stdout.take().unwrap(), Arc::clone(&output)),
            collect(process.stderr.take().unwrap(), Arc::clone(&errors)),
        ];
        Self { input: process.stdin.take(), process, output, errors, readers }
    }

    fn output(&self) -> String {
        self.output.lock().unwrap().clone()
    }

    fn errors(&self) -> String {
        self.errors.lock().unwrap().clone()
    }

    /// Waits for its end; gives the status, the output, and what it said besides.
    async fn end(mut self) -> (i32, String, String) {
        drop(self.input.take());
        let begun = Instant::now();
        let status = loop {
            if let Some(status) = self.process.try_wait().unwrap() {
                break status;
            }
            assert!(begun.elapsed() < DEADLINE, "it goes on: {}", self.errors());
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        };
        self.readers.drain(..).for_each(|reader| reader.join().unwrap());
        (status.code().unwrap_or(-1), self.output(), self.errors())
    }

    /// As [`Self::end`], when all must be well; gives the output.
    async fn succeeds(self) -> String {
        let (status, output, errors) = self.end().await;
        assert_eq!(status, 0, "{errors}");
        output
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn carillon(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_carillon"));
    command.args(arguments);
    command
}

fn collect(stream: impl Read + Send + 'static, into: Arc<Mutex<String>>) -> JoinHandle<()> {
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines() {
            writeln!(into.lock().unwrap(), "{}", line.unwrap()).unwrap();
        }
    })
}

fn event(number: usize) -> String {
    json!({ "type": "n", "to": { "user": "alice" }, "data": number }).to_string()
}

fn events(numbers: impl Iterator<Item = usize>) -> String {
    numbers.fold(String::new(), |text, number| text + &event(number) + "\n")
}

/// The data of each line of `tail --json`.
fn numbers(output: &str) -> Vec<usize> {
    let data = |line: &str| serde_json::from_str::<Value>(line).unwrap()["data"].as_u64().unwrap();
    output.lines().map(|line| usize::try_from(data(line)).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_event_is_published_and_shown() {
    let place = Place::new().await;
    let tail = place.tail(&["--count", "2", "--topic", "room/7"]).await;
    let order = ["--type", "order.paid", "--to", "user:alice", "--priority", "high", "--key", "k1"];
    let data = r#"{"text":"\u001b[2J and \u009b2J"}"#;
    let first = place.publish(&[&order[..], &[data]].concat()).succeeds().await;
    let again = place.publish(&[&order[..], &[data]].concat()).succeeds().await;
    assert_eq!(first, again, "one key, one event");
    let (position, id) = first.trim_end().split_once('\t').unwrap();
    assert!(position.parse::<i64>().is_ok() && id.parse::<uuid::Uuid>().is_ok(), "{first}");
    let (status, _, errors) = place.publish(&[&order[..], &["other"]].concat()).end().await;
    assert!(status != 0 && errors.contains("JSON"), "{errors}");
    let (status, _, errors) = place.publish(&[&order[..], &["7"]].concat()).end().await;
    assert!(status == 1 && errors.contains("another request; a key names one request (422)"), "{errors}");
    place.publish(&["--type", "said", "--to", "topic:room/7", "--text", "\u{9b}2Jhello"]).succeeds().await;
    let output = tail.succeeds().await;
    let lines: Vec<_> = output.lines().collect();
    assert_eq!(lines.len(), 2, "{output}");
    assert!(lines[0].contains("[high] order.paid  you  {\"text\":\"\\u001b[2J and \\u009b2J\"}"), "{output}");
    assert!(lines[1].ends_with("said  room/7  \"\\u009b2Jhello\""), "{output}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_revoked_on_the_command_line_ends_its_streams() {
    let place = Place::new().await;
    let tail = place.tail(&[]).await;
    let store = format!("sqlite:{}", place.folder.path().join("carillon.sqlite").display());
    let run = |arguments: &[&str]| {
        let output = carillon(arguments).args(["--store-url", &store]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let tokens = run(&["token", "list"]);
    let of_alice = tokens.lines().find(|line| line.contains("\talice\t")).unwrap();
    run(&["token", "revoke", of_alice.split('\t').next().unwrap()]);
    let (status, _, errors) = tail.end().await;
    assert_eq!(status, 1, "{errors}");
    assert!(errors.ends_with("signed out: the token was revoked, or has ended\n"), "{errors}");
    // The node had cached the token; by now it has not.
    let (_, _, errors) = Program::start(&place.node.address, &place.alice, &["tail"]).end().await;
    assert!(errors.contains("(401)"), "{errors}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tail_begins_with_what_was_said_and_reports_who_is_there() {
    let place = Place::new().await;
    for number in ["1", "2", "3"] {
        place.publish(&["--type", "said", "--to", "topic:chat/room", number]).succeeds().await;
    }
    let tail =
        place.tail(&["--topic", "chat/room", "--history", "2", "--presence", "--count", "3", "--json"]).await;
    let is_reported = async || tail.errors().contains("chat/room: here are alice\n");
    wait_until(DEADLINE, "who is there is reported", is_reported).await;
    place.publish(&["--type", "said", "--to", "topic:chat/room", "4"]).succeeds().await;
    assert_eq!(numbers(&tail.succeeds().await), [2, 3, 4]);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_lines_arrive_in_order() {
    let place = Place::new().await;
    let tail = place.tail(&["--json", "--count", "2500"]).await;
    let mut publish = place.publish(&["--lines"]);
    publish.input.take().unwrap().write_all(events(0..2500).as_bytes()).unwrap();
    let (status, _, errors) = publish.end().await;
    assert_eq!((status, errors.trim_end()), (0, "2500 events acknowledged"));
    assert_eq!(numbers(&tail.succeeds().await), (0..2500).collect::<Vec<_>>());
}

/// Together they are for more users than a node takes at once: it says so, and gets them in parts.
#[tokio::test(flavor = "multi_thread")]
async fn lines_for_too_many_at_once_are_sent_in_parts() {
    let place = Place::new().await;
    let tail = place.tail(&["--json", "--count", "25"]).await;
    let users = vec!["alice"; 1_000];
    let line =
        |number: usize| json!({ "type": "n", "to": { "users": users }, "data": number }).to_string() + "\n";
    let mut publish = place.publish(&["--lines"]);
    publish.input.take().unwrap().write_all((0..25).map(line).collect::<String>().as_bytes()).unwrap();
    let (status, _, errors) = publish.end().await;
    assert_eq!((status, errors.trim_end()), (0, "25 events acknowledged"));
    assert_eq!(numbers(&tail.succeeds().await), (0..25).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_is_sent_without_waiting_for_more() {
    let place = Place::new().await;
    let tail = place.tail(&["--json"]).await;
    let mut publish = place.publish(&["--lines", "--text", "--type", "log", "--to", "everyone"]);
    let input = publish.input.as_mut().unwrap();
    for text in ["one", "two \"2\"", "three"] {
        writeln!(input, "{text}").unwrap();
        let came = async || tail.output().contains(&json!(text).to_string());
        wait_until(DEADLINE, "the line comes through", came).await;
    }
    publish.succeeds().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_line_is_named() {
    let place = Place::new().await;
    let cases = [
        (r#"{"type":"a b","to":"everyone"}"#, "type: "),
        (r#"{"type":"a","to":{"user":"nobody"}}"#, "to.user: no such user: nobody"),
        ("not json", "is not JSON"),
    ];
    for (line, what) in cases {
        let mut publish = place.publish(&["--lines"]);
        let input = events(1..1203) + line + "\n" + &events(1204..1300);
        // It may stop reading before the end.
        let _ = publish.input.take().unwrap().write_all(input.as_bytes());
        let (status, _, errors) = publish.end().await;
        assert_eq!(status, 1, "{errors}");
        assert_eq!(errors.lines().count(), 1, "{errors}");
        assert!(errors.contains("line 1203: ") && errors.contains(what), "{errors}");
        assert!(errors.contains("lines 1 to "), "{errors}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_or_repeated_when_the_node_is_killed() {
    const COUNT: usize = 6_000;
    let mut place = Place::new().await;
    let tail = place.tail(&["--json", "--count", &COUNT.to_string()]).await;
    let mut publish = place.publish(&["--lines", "--batch", "20"]);
    let mut input = publish.input.take().unwrap();
    let feed = std::thread::spawn(move || input.write_all(events(0..COUNT).as_bytes()));
    for part in [COUNT / 6, COUNT / 3] {
        let came = async || tail.output().lines().count() > part;
        wait_until(DEADLINE, "a part has come", came).await;
        place.node.kill();
        place.node.restart().await;
    }
    let (status, _, errors) = publish.end().await;
    feed.join().unwrap().unwrap();
    assert_eq!(status, 0, "{errors}");
    assert!(errors.contains("trying again"), "the node was not missed: {errors}");
    assert!(errors.ends_with(&format!("{COUNT} events acknowledged\n")), "{errors}");
    let (status, output, errors) = tail.end().await;
    assert_eq!(status, 0, "{errors}");
    assert!(errors.contains("reconnecting"), "{errors}");
    assert_eq!(numbers(&output), (0..COUNT).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_file_carries_over_to_the_next_run() {
    let place = Place::new().await;
    let file = place.folder.path().join("cursor");
    let options = ["--json", "--cursor-file", file.to_str().unwrap(), "--count", "30"];
    let first = place.tail(&options).await;
    let mut publish = place.publish(&["--lines"]);
    publish.input.take().unwrap().write_all(events(0..90).as_bytes()).unwrap();
    publish.succeeds().await;
    let mut all = numbers(&first.succeeds().await);
    for _ in 0..2 {
        let next = Program::start(&place.node.address, &place.alice, &[&["tail"], &options[..]].concat());
        all.extend(numbers(&next.succeeds().await));
    }
    assert_eq!(all, (0..90).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_get_better_ends_with_a_line() {
    let place = Place::new().await;
    let address = &place.node.address;
    let gone = "http://127.0.0.1:1";
    let one = ["publish", "--type", "a", "--to", "everyone", "1"];
    let cases: [(&str, &str, &[&str], &str); 3] = [
        (address, "wrong", &["tail"], "sign in, or send a valid token (401)"),
        (address, &place.alice, &one, "(403)"),
        (gone, &place.alice, &[&one[..], &["--retry-seconds", "0"]].concat(), "not acknowledged"),
    ];
    for (server, token, arguments, what) in cases {
        let (status, output, errors) = Program::start(server, token, arguments).end().await;
        assert_eq!((status, output.as_str()), (1, ""), "{errors}");
        assert!(errors.contains(what) && errors.lines().count() == 1, "{arguments:?}: {errors}");
        assert!(!errors.contains(token), "{errors}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_server_is_tried() {
    let place = Place::new().await;
    let servers = format!("http://127.0.0.1:1,{}", place.node.address);
    let tail = Program::start(&servers, &place.alice, &["tail", "--count", "1"]);
    wait_until(DEADLINE, "tail is connected", async || tail.errors().contains("connected to")).await;
    let one = ["publish", "--type", "a", "--to", "everyone", "1"];
    Program::start(&servers, &place.publisher, &one).succeeds().await;
    assert!(tail.succeeds().await.ends_with("a  everyone  1\n"));
}

/// What a server that is not ours heard: of each request, a header and the body.
type Heard = Arc<Mutex<Vec<(String, String)>>>;

/// Notes a request; returns how many came before it.
fn note(heard: &Heard, headers: &HeaderMap, name: &str, body: &[u8]) -> usize {
    let value = headers.get(name).map_or("", |value| value.to_str().unwrap());
    let mut heard = heard.lock().unwrap();
    heard.push((value.to_owned(), String::from_utf8(body.to_vec()).unwrap()));
    heard.len() - 1
}

async fn serve(router: Router) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(axum::serve(listener, router).into_future());
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_keeps_its_key_over_all_attempts() {
    let heard = Heard::default();
    let noted = Arc::clone(&heard);
    let answer = async move |headers: HeaderMap, body: Bytes| -> Response {
        let receipts = json!({ "events": [{ "id": uuid::Uuid::now_v7(), "position": 1 }] }).to_string();
        match note(&noted, &headers, "idempotency-key", &body) {
            0 => (StatusCode::SERVICE_UNAVAILABLE, [("retry-after", "1")]).into_response(),
            1 => StatusCode::BAD_GATEWAY.into_response(),
            // Accepted, but the connection breaks before that is known.
            2 => {
                let broken = [Ok(receipts[..9].to_owned()), Err(std::io::Error::other("broken"))];
                (StatusCode::CREATED, Body::from_stream(iter(broken))).into_response()
            }
            _ => (StatusCode::CREATED, receipts).into_response(),
        }
    };
    let server = serve(Router::new().route("/api/v1/events/batch", post(answer))).await;
    let begun = Instant::now();
    let mut publish = Program::start(&server, "token", &["publish", "--lines", "--batch", "1"]);
    publish.input.take().unwrap().write_all(events(0..2).as_bytes()).unwrap();
    publish.succeeds().await;
    assert!(begun.elapsed().as_secs() >= 1, "Retry-After was not honoured");
    let heard = heard.lock().unwrap().clone();
    assert_eq!(heard.len(), 5, "{heard:?}");
    assert!(heard[..4].iter().all(|request| *request == heard[0]), "{heard:?}");
    assert!(heard[4].0 != heard[0].0 && heard[4].1 != heard[0].1, "{heard:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tail_copes_with_whatever_a_stream_does() {
    let heard = Heard::default();
    let noted = Arc::clone(&heard);
    let event = |position: u32, id: &str| {
        let event = json!({ "id": id, "position": position, "type": "a", "priority": "normal", "to": "you",
            "data": position, "created_at": "T" });
        format!("id: e-{position}\ndata: {event}\n\n")
    };
    let unknowing = "event: carillon.connected\ndata: {\"ignored\":[\"type\"]}\nretry: 10\nid: e-9\n\n";
    // As programs of before write it, whose first frame has no data and whose ids come first.
    let silent = format!("id: e-1\nretry: 10\n\n{}: and no more\n", event(2, "x"));
    let ending = format!(
        "event: carillon.connected\ndata: {{}}\nid: e-1\n\nevent: carillon.reset\ndata: {{\"reason\":\"retention\"}}\n\n{}{}\
         event: carillon.retract\ndata: {{\"position\":3}}\n\ndata: \u{9b}2J\n\n\
         event: carillon.signout\ndata: {{}}\n\n",
        event(2, "x"),
        event(3, "y"),
    );
    let answer = async move |headers: HeaderMap| -> Response {
        let stream = match note(&noted, &headers, "last-event-id", &[]) {
            0 => Body::from(unknowing),
            1 => Body::from_stream(iter([Ok::<_, std::io::Error>(silent)]).chain(pending())),
            2 => return StatusCode::SERVICE_UNAVAILABLE.into_response(),
            _ => Body::from(ending),
        };
        ([("content-type", "text/event-stream")], stream).into_response()
    };
    let server = serve(Router::new().route("/api/v1/stream", get(answer))).await;
    let options = ["tail", "--json", "--verbose", "--silence-seconds", "1"];
    let (status, output, errors) = Program::start(&server, "token", &options).end().await;
    assert_eq!((status, numbers(&output)), (1, vec![2, 3]), "{errors}");
    let resumed: Vec<_> = heard.lock().unwrap().iter().map(|(cursor, _)| cursor.clone()).collect();
    assert_eq!(resumed, ["", "", "e-2", "e-2"]);
    let expected = [
        format!("{server}: it does not know type; reconnecting"),
        format!("connected to {server}"),
        format!("{server}: nothing came for 1 seconds; reconnecting"),
        format!("{server}: Service Unavailable (503); reconnecting"),
        format!("connected to {server}"),
        "events may be missing: they are older than what the server keeps".to_owned(),
        "carillon.retract {\"position\":3}".to_owned(),
        "something came that is not an event; it is left out".to_owned(),
        "carillon: signed out: the token was revoked, or has ended".to_owned(),
    ];
    assert_eq!(errors.lines().collect::<Vec<_>>(), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_pipe_ends_tail_quietly() {
    let place = Place::new().await;
    let mut tail = carillon(&["tail", "--server", &place.node.address])
        .env("CARILLON_TOKEN", &place.alice)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut errors = BufReader::new(tail.stderr.take().unwrap());
    let mut line = String::new();
    errors.read_line(&mut line).unwrap();
    assert!(line.starts_with("connected to"), "{line}");
    drop(tail.stdout.take());
    place.publish(&["--type", "a", "--to", "everyone", "1"]).succeeds().await;
    let mut rest = String::new();
    errors.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "");
    assert!(tail.wait().unwrap().success());
}

#[test]
fn a_wrong_option_is_reported_in_one_line() {
    let folder = TempDir::new().unwrap();
    let store = format!("sqlite:{}", folder.path().join("carillon.sqlite").display());
    let serve = ["serve", "--listen", "127.0.0.1:0", "--metrics-listen", "off"];
    let one = ["publish", "--token", "t", "--type", "a", "--to", "everyone"];
    let cases: [(&[&str], &str); 21] = [
        (&["tail", "--token", "t", "--server", "nonsense"], "'nonsense' is not an address"),
        (&[&one[..], &["1", "--server", "nonsense"]].concat(), "'nonsense' is not an address"),
        (&["tail", "--token", "t", "--server", "https://host"], "TLS"),
        (&["tail"], "a token is missing"),
        (&["tail", "--token", "t", "--cursor", "nonsense"], "--cursor"),
        (&["tail", "--token", "t", "--topic", "/"], "--topic"),
        (&["tail", "--token", "t", "--topic", "a", "--history", "0"], "--history"),
        (&["tail", "--token", "t", "--history", "1"], "--topic"),
        (&["tail", "--token", "t", "--presence"], "--topic"),
        (&["tail", "--nonsense"], "--nonsense"),
        (&[&one[..], &["no json"]].concat(), "not JSON"),
        (&[&one[..], &["--priority", "most", "1"]].concat(), "--priority: "),
        (&["publish", "--token", "t", "--type", "a", "1"], "--to"),
        (&["publish", "--token", "t"], "nothing to publish"),
        (&["publish", "--token", "t", "--lines", "--batch", "0"], "--batch"),
        (&[&serve[..], &["--topic-rule", "a read=all"]].concat(), "--topic-rule"),
        (&[&serve[..], &["--presence-seconds", "1"]].concat(), "--presence-seconds"),
        (&[&serve[..], &["--metrics-listen", "nowhere"]].concat(), "--metrics-listen"),
        (&[&serve[..], &["--config", "/nonexistent/c.toml"]].concat(), "--config /nonexistent/c.toml: "),
        (&[&serve[..], &["--store-url", "nonsense:"]].concat(), "store"),
        (&[&serve[..], &["--store-url", &store, "--bus-url", "nonsense:"]].concat(), "--bus-url"),
    ];
    for (arguments, what) in cases {
        let mut command = carillon(arguments);
        let output = command.env_remove("CARILLON_TOKEN").stdin(Stdio::null()).output().unwrap();
        let errors = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {errors}");
        assert!(errors.lines().count() == 1 && errors.contains(what), "{arguments:?}: {errors}");
    }
}
