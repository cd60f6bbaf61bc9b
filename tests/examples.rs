//! The programs of `examples/`, run as their readers would: each against a node that is killed in the middle.

mod support;

use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use carillon::account::Role;
use serde_json::{Value, json};
use sqlx::Connection as _;
use support::node::{Node, People, publish};
use support::servers::signal;
use support::{DEADLINE, wait_until};
use tempfile::TempDir;

/// An example: how its listener and its publisher are started.
struct Example {
    listen: Vec<String>,
    publish: Vec<String>,
}

/// A runtime that is missing is a failure, never a skip: scripts/test installs it.
fn script(runtime: &str, listen: &str, publish: &str) -> Example {
    let found = Command::new(runtime).arg("--version").stdout(Stdio::null()).status();
    assert!(
        found.is_ok_and(|status| status.success()),
        "{runtime} is missing: run the tests with scripts/test"
    );
    let command = |file: &str| vec![runtime.to_owned(), format!("examples/{file}")];
    Example { listen: command(listen), publish: command(publish) }
}

/// The Rust examples, built as this test is: `cargo test --test examples` alone does not build them.
fn rust() -> Example {
    let mut cargo = Command::new(env!("CARGO"));
    // With the variables that cargo sets for this test the other cargo rebuilds libraries that read them.
    for (name, _) in std::env::vars() {
        if ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_"].iter().any(|own| name.starts_with(own)) {
            cargo.env_remove(name);
        }
    }
    cargo.args(["build", "--quiet", "--locked", "--example", "listen", "--example", "publish"]);
    if cfg!(feature = "failpoints") {
        cargo.args(["--features", "failpoints"]);
    }
    if !cfg!(debug_assertions) {
        cargo.arg("--release");
    }
    assert!(cargo.current_dir(env!("CARGO_MANIFEST_DIR")).status().unwrap().success());
    let folder = Path::new(env!("CARGO_BIN_EXE_carillon")).with_file_name("examples");
    let program = |name: &str| vec![folder.join(name).display().to_string()];
    Example { listen: program("listen"), publish: program("publish") }
}

/// A process and what it has printed so far. Ends when dropped.
struct Program {
    process: Child,
    output: Arc<Mutex<String>>,
    errors: Arc<Mutex<String>>,
}

impl Program {
    fn start(command: &[String], server: &str, token: &str, topic: &str) -> Self {
        let mut process = Command::new(&command[0])
            .args(&command[1..])
            .arg(topic)
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .env("CARILLON_SERVER", server)
            .env("CARILLON_TOKEN", token)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let output = collect(process.stdout.take().unwrap());
        let errors = collect(process.stderr.take().unwrap());
        Self { process, output, errors }
    }

    /// A listener that has a place to come back to.
    async fn listen(example: &Example, server: &str, token: &str) -> Self {
        let program = Self::start(&example.listen, server, token, "demo");
        wait_until(DEADLINE, "it listens", async || program.has_said("listening")).await;
        program
    }

    fn has_said(&self, what: &str) -> bool {
        self.errors.lock().unwrap().contains(what)
    }

    /// Gives it these lines.
    fn write(&mut self, numbers: std::ops::RangeInclusive<i64>) {
        let input = self.process.stdin.as_mut().unwrap();
        for number in numbers {
            writeln!(input, "\"line\" {number}\\ <é>").unwrap();
        }
    }

    /// The data of the events it has printed.
    fn data(&self) -> Vec<Value> {
        let output = self.output.lock().unwrap();
        let whole = output.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let events = whole.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        events.map(|event| event["data"].clone()).collect()
    }

    /// Waits for the last of these events and checks that exactly they were printed, in this order.
    async fn has_printed(&self, wanted: &[Value]) {
        let begun = std::time::Instant::now();
        while self.data().len() < wanted.len() && begun.elapsed() < DEADLINE {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        assert_eq!(self.data(), wanted, "it said: {}", self.errors.lock().unwrap());
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Not SIGKILL: a shell has a child of its own to end.
        if matches!(self.process.try_wait(), Ok(None)) {
            signal(self.process.id(), "TERM");
            let _ = self.process.wait();
        }
    }
}

fn collect(from: impl Read + Send + 'static) -> Arc<Mutex<String>> {
    let all = Arc::new(Mutex::new(String::new()));
    let shared = all.clone();
    std::thread::spawn(move || {
        for line in BufReader::new(from).lines() {
            let Ok(line) = line else { break };
            shared.lock().unwrap().push_str(&(line + "\n"));
        }
    });
    all
}

fn lines(numbers: std::ops::RangeInclusive<i64>) -> Vec<Value> {
    numbers.map(|number| json!(format!("\"line\" {number}\\ <é>"))).collect()
}

/// A store of its own, with alice who listens.
struct Place {
    folder: TempDir,
    node: Node,
    people: People,
    alice: String,
}

impl Place {
    async fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let store = format!("sqlite:{}/store.sqlite", folder.path().display());
        let people = People::new(&store).await;
        let alice = people.add("alice", Role::Listener).await;
        let node = Node::start(&store, "memory:", &[]).await;
        Self { folder, node, people, alice }
    }

    fn store(&self) -> String {
        format!("sqlite:{}/store.sqlite", self.folder.path().display())
    }
}

/// Publisher and listener go through a crash of the node, each on its own.
async fn goes_through_a_crash(example: &Example) {
    let mut place = Place::new().await;
    let listener = Program::listen(example, &place.node.address, &place.alice).await;
    let mut publisher =
        Program::start(&example.publish, &place.node.address, &place.people.publisher, "demo");
    publisher.write(1..=20);
    listener.has_printed(&lines(1..=20)).await;

    // Killed while events are on their way to it and from it.
    publisher.write(21..=60);
    wait_until(DEADLINE, "more have come", async || listener.data().len() > 25).await;
    place.node.kill();
    assert!(listener.data().len() < 60, "the node was killed too late to be in the middle");
    publisher.write(61..=80);
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    place.node.restart().await;
    publisher.write(81..=90);
    listener.has_printed(&lines(1..=90)).await;

    drop(publisher.process.stdin.take());
    assert!(publisher.process.wait().unwrap().success(), "it said: {}", publisher.errors.lock().unwrap());
    // Whatever came twice would have come by now: what is published last comes last.
    let to = json!({ "topic": "demo" });
    let last = json!({ "type": "note", "to": to, "data": "the last" });
    publish(&reqwest::Client::new(), &[&place.node.address], &place.people.publisher, &last).await;
    listener.has_printed(&[lines(1..=90), vec![json!("the last")]].concat()).await;
}

/// What was lost with a rewritten history is read from the inbox, without what was seen.
async fn reads_the_inbox_after_a_reset(example: &Example, reads: bool) {
    let mut place = Place::new().await;
    let client = reqwest::Client::new();
    let send = async |node: &Node, to: Value, number: i64| {
        let event = json!({ "type": "note", "to": to, "data": number });
        publish(&client, &[&node.address], &place.people.publisher, &event).await;
    };
    let (alice, demo) = (json!({ "user": "alice" }), json!({ "topic": "demo" }));
    let listener = Program::listen(example, &place.node.address, &place.alice).await;
    send(&place.node, alice.clone(), 1).await;
    send(&place.node, demo.clone(), 2).await;
    listener.has_printed(&[json!(1), json!(2)]).await;

    place.node.kill();
    let mut other = Node::start(&place.store(), "memory:", &[]).await;
    send(&other, alice.clone(), 3).await;
    send(&other, demo, 4).await;
    other.kill();
    let mut store = sqlx::SqliteConnection::connect(&place.store()).await.unwrap();
    sqlx::query("update log_state set epoch = 'another'").execute(&mut store).await.unwrap();
    store.close().await.unwrap();
    place.node.restart().await;
    wait_until(DEADLINE, "it says so", async || listener.has_said("history was lost")).await;
    let missed = if reads { vec![json!(3), json!(4)] } else { vec![] };
    listener.has_printed(&[vec![json!(1), json!(2)], missed.clone()].concat()).await;
    send(&place.node, alice, 5).await;
    listener.has_printed(&[vec![json!(1), json!(2)], missed, vec![json!(5)]].concat()).await;
}

/// A client that is refused reports it, and does not go on asking.
async fn gives_up_when_refused(example: &Example) {
    let place = Place::new().await;
    for command in [&example.listen, &example.publish] {
        let mut program = Program::start(command, &place.node.address, "not-a-token", "demo");
        let _ = writeln!(program.process.stdin.as_mut().unwrap(), "a line");
        drop(program.process.stdin.take());
        let begun = std::time::Instant::now();
        while matches!(program.process.try_wait(), Ok(None)) {
            assert!(begun.elapsed() < DEADLINE, "{command:?} goes on");
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        assert!(!program.process.wait().unwrap().success(), "{command:?}");
    }
}

#[tokio::test]
async fn curl_misses_and_repeats_nothing() {
    let example = script("bash", "curl/listen.sh", "curl/publish.sh");
    script("curl", "", "");
    goes_through_a_crash(&example).await;
    // It only says so: a shell is no place to read JSON.
    reads_the_inbox_after_a_reset(&example, false).await;
    gives_up_when_refused(&example).await;
}

#[tokio::test]
async fn python_misses_and_repeats_nothing() {
    let example = script("python3", "python/listen.py", "python/publish.py");
    goes_through_a_crash(&example).await;
    reads_the_inbox_after_a_reset(&example, true).await;
    gives_up_when_refused(&example).await;
}

#[tokio::test]
async fn node_misses_and_repeats_nothing() {
    let example = script("node", "node/listen.mjs", "node/publish.mjs");
    goes_through_a_crash(&example).await;
    reads_the_inbox_after_a_reset(&example, true).await;
    gives_up_when_refused(&example).await;
}

#[tokio::test]
async fn rust_misses_and_repeats_nothing() {
    let example = rust();
    goes_through_a_crash(&example).await;
    reads_the_inbox_after_a_reset(&example, true).await;
    gives_up_when_refused(&example).await;
}

#[tokio::test]
async fn a_shell_goes_on_where_it_was_stopped() {
    let example = script("bash", "curl/listen.sh", "curl/publish.sh");
    let place = Place::new().await;
    let file = place.folder.path().join("cursor");
    let command = ["env".to_owned(), format!("CURSOR_FILE={}", file.display())];
    let again = Example { listen: [command.to_vec(), example.listen].concat(), publish: Vec::new() };
    let address = place.node.address.clone();
    let send = async |number: i64| {
        let event = json!({ "type": "note", "to": { "topic": "demo" }, "data": number });
        publish(&reqwest::Client::new(), &[&address], &place.people.publisher, &event).await;
    };
    let first = Program::listen(&again, &address, &place.alice).await;
    send(1).await;
    first.has_printed(&[json!(1)]).await;
    wait_until(DEADLINE, "its place is kept", async || {
        std::fs::read_to_string(&file).is_ok_and(|cursor| cursor.contains("-1."))
    })
    .await;
    drop(first);
    send(2).await;
    let second = Program::start(&again.listen, &address, &place.alice, "demo");
    second.has_printed(&[json!(2)]).await;
}
