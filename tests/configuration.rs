//! The configuration file, what `carillon config` says of it, and which commands create a store.

mod support;

use std::path::Path;
use std::process::{Command, Output, Stdio};

use support::node::{Node, event};
use support::servers::signal;
use support::{DEADLINE, wait_until};
use tempfile::TempDir;

/// Runs a command without any setting from outside; gives its status, output and errors.
fn carillon(folder: &Path, arguments: &[&str], variables: &[(&str, &str)]) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_carillon"));
    command.args(arguments).current_dir(folder).stdin(Stdio::null());
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("CARILLON_")) {
        command.env_remove(name);
    }
    let Output { status, stdout, stderr } = command.envs(variables.iter().copied()).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().unwrap_or(-1), text(stdout), text(stderr))
}

/// What `config show` says of each setting: its value and its origin.
fn shown(output: &str) -> Vec<(String, String)> {
    let lines = output.lines().filter(|line| !line.is_empty());
    lines
        .map(|line| {
            let (value, origin) = line.rsplit_once("  # ").unwrap_or((line, ""));
            (value.trim_end().to_owned(), origin.to_owned())
        })
        .collect()
}

#[test]
fn the_example_holds_every_setting_and_its_default() {
    let folder = TempDir::new().unwrap();
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/carillon.toml");
    let (status, defaults, errors) = carillon(folder.path(), &["config", "show"], &[]);
    assert_eq!(status, 0, "{errors}");
    let (status, from_file, errors) = carillon(folder.path(), &["config", "show", "--config", example], &[]);
    assert_eq!(status, 0, "{errors}");
    let (defaults, from_file) = (shown(&defaults), shown(&from_file));
    assert!(defaults.len() > 30, "{defaults:?}");
    assert_eq!(defaults.len(), from_file.len());
    let mut without_default = Vec::new();
    for ((default, _), (value, origin)) in defaults.iter().zip(&from_file) {
        assert_eq!(default, value);
        let key = value.split([' ', '=']).find(|word| *word != "#").unwrap();
        match value.starts_with('#') {
            true => without_default.push(key.to_owned()),
            false if !["pattern", "read", "write"].contains(&key) => {
                assert!(origin.starts_with(&format!("file {example}")), "{value}: {origin}");
            }
            false => {}
        }
    }
    // It stands there as a comment, with what holds without it.
    assert_eq!(without_default, ["ttl_url"]);
    assert!(std::fs::read_to_string(example).unwrap().contains("# ttl_url = "));
}

#[test]
fn options_win_over_variables_and_these_over_the_file() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("c.toml");
    let text = "store_url = 'postgres://me:hunter2@db/x'\nqueue_events = 1\nqueue_bytes = 2\nmigrate = true\n\
                stall_seconds = 3\n[[topic_rules]]\npattern = 'of/file'\nread = 'admin'\nwrite = 'nobody'\n";
    std::fs::write(&file, text).unwrap();
    let variables = [
        ("CARILLON_CONFIG", file.to_str().unwrap()),
        ("CARILLON_QUEUE_EVENTS", "10"),
        ("CARILLON_QUEUE_BYTES", "20"),
        ("CARILLON_BUS_URL", "redis://:hunter2@host"),
    ];
    let arguments = ["config", "show", "--queue-events", "100", "--migrate=false"];
    let (status, output, errors) = carillon(folder.path(), &arguments, &variables);
    assert_eq!((status, errors.as_str()), (0, ""));
    assert!(!output.contains("hunter2"), "{output}");
    let lines = shown(&output);
    let path = file.display();
    for (value, origin) in [
        ("queue_events = 100", "option --queue-events".to_owned()),
        ("queue_bytes = 20", "variable CARILLON_QUEUE_BYTES".to_owned()),
        ("bus_url = \"redis://:***@host\"", "variable CARILLON_BUS_URL".to_owned()),
        ("store_url = \"postgres://me:***@db/x\"", format!("file {path}:1")),
        ("stall_seconds = 3", format!("file {path}:5")),
        ("migrate = false", "option --migrate".to_owned()),
        ("drain_seconds = 10", "default".to_owned()),
        ("[[topic_rules]]", format!("file {path}")),
        ("pattern = \"of/file\"", String::new()),
    ] {
        assert!(lines.contains(&(value.to_owned(), origin.clone())), "{value} {origin} is not in {output}");
    }
    let rule = ["config", "show", "--topic-rule", "of/option read=admin write=admin"];
    let (_, output, _) = carillon(folder.path(), &rule, &variables);
    assert!(output.contains("of/option") && !output.contains("of/file"), "{output}");
    assert!(output.contains("[[topic_rules]]  # option --topic-rule"), "{output}");
}

#[test]
fn a_mistake_in_the_file_ends_every_command_that_reads_it() {
    let folder = TempDir::new().unwrap();
    std::fs::write(folder.path().join("c.toml"), "queue_events = 'hunter2'\n").unwrap();
    for command in [&["serve"][..], &["migrate"], &["user", "list"], &["token", "list"], &["config", "check"]]
    {
        let arguments = [command, &["--config", "c.toml"]].concat();
        let (status, output, errors) = carillon(folder.path(), &arguments, &[]);
        assert_eq!((status, output.as_str()), (2, ""), "{arguments:?}: {errors}");
        let expected = "carillon: c.toml:1:16: queue_events: must be an integer, not of type string\n";
        assert_eq!(errors, expected, "{arguments:?}");
    }
    std::fs::write(folder.path().join("c.toml"), "queue_events = 1\n").unwrap();
    let check = ["config", "check", "--config", "c.toml"];
    assert_eq!(carillon(folder.path(), &check, &[]).0, 0);
    for (option, wrong) in
        [("--bus-url", "nonsense:"), ("--ttl-url", "nonsense:"), ("--store-url", "nonsense:")]
    {
        let (status, _, errors) = carillon(folder.path(), &[&check[..], &[option, wrong]].concat(), &[]);
        assert!(status == 2 && errors.contains(option), "{option}: {errors}");
    }
}

#[test]
fn only_serve_and_migrate_create_a_store() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("of.file");
    std::fs::write(folder.path().join("c.toml"), "store_url = 'sqlite:of.file'\n").unwrap();
    let with_config = |command: &[&str]| {
        let arguments = [command, &["--config", "c.toml"]].concat();
        carillon(folder.path(), &arguments, &[])
    };
    for command in [&["user", "list"][..], &["user", "add", "alice"], &["token", "list"]] {
        let (status, output, errors) = with_config(command);
        assert_eq!((status, output.as_str()), (2, ""), "{errors}");
        assert!(errors.contains("no store at sqlite:of.file") && errors.lines().count() == 1, "{errors}");
        assert!(!file.exists());
    }
    assert_eq!(with_config(&["migrate"]).0, 0);
    assert!(file.exists());
    let (status, output, errors) = with_config(&["user", "add", "alice"]);
    assert_eq!((status, errors.as_str()), (0, "store: sqlite:of.file\n"));
    assert!(output.starts_with("alice listener\npassword: "), "{output}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_listeners_stops_at_once_and_a_taken_metrics_port_is_no_end() {
    let folder = TempDir::new().unwrap();
    let store = format!("sqlite:{}", folder.path().join("store").display());
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    // Far longer than the test waits: nobody is here for whom it would be.
    let options = ["--metrics-listen", &address, "--drain-seconds", "3600"];
    let mut node = Node::start(&store, "memory:", &options).await;
    // One that was there and has gone, and a connection kept for later.
    let client = reqwest::Client::new();
    let answer = client.get(format!("{}/api/v1/stream", node.address)).send().await.unwrap();
    assert_eq!(answer.status(), 401);
    drop(taken);
    let metrics = format!("http://{address}/metrics");
    let served = async || reqwest::get(&metrics).await.is_ok_and(|answer| answer.status() == 200);
    wait_until(DEADLINE, "metrics are served once the port is free", served).await;
    signal(node.pid(), "TERM");
    wait_until(DEADLINE, "the node has ended", async || node.has_ended()).await;
    assert!(node.take_exit());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_token_is_for_publishing() {
    use std::io::{BufRead as _, BufReader};
    let folder = TempDir::new().unwrap();
    let mut process = Command::new(env!("CARGO_BIN_EXE_carillon"))
        .args(["serve", "--listen", "127.0.0.1:0", "--metrics-listen", "off", "--store-url", "sqlite:store"])
        .current_dir(folder.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
    let mut found =
        |what: &str| lines.find_map(|line| Some(line.unwrap()).filter(|line| line.contains(what))).unwrap();
    let opening = found("for one day");
    assert!(opening.contains("permits publishing only"), "{opening}");
    let line = found("curl ");
    let address = line.split_whitespace().nth(1).unwrap().to_owned();
    let token = line.split("Bearer ").nth(1).unwrap().split('\'').next().unwrap().to_owned();
    let client = reqwest::Client::new();
    let publish =
        client.post(&address).bearer_auth(&token).body(event(&"everyone".into(), &1.into()).to_string());
    let published = async || {
        let publish = publish.try_clone().unwrap();
        publish.send().await.is_ok_and(|answer| answer.status() == 201)
    };
    wait_until(DEADLINE, "it publishes", published).await;
    let stream = address.replace("/events", "/stream");
    let listen = client.get(stream).bearer_auth(&token).send().await.unwrap();
    assert_eq!(listen.status(), 403);
    signal(process.id(), "TERM");
    assert!(process.wait().unwrap().success());
    // Valid for a day: the list says until when.
    let (_, tokens, _) = carillon(folder.path(), &["token", "list", "--store-url", "sqlite:store"], &[]);
    assert!(tokens.contains("publish\tvalid\t20") && tokens.lines().count() == 1, "{tokens}");
}
