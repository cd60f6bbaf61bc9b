//! Nodes as real processes, and calls to them.

use std::fs::File;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use carillon::account::{Role, Scope};
use carillon::bus::Notifier;
use carillon::identity::Accounts;
use carillon::store::{Store, StoreLimits};
use carillon::ttl::{Ttl, TtlLimits};
use serde_json::{Value, json};

use super::servers::{free_port, signal};
use super::{DEADLINE, wait_until};

/// A `carillon serve` of the test's own.
pub struct Node {
    /// `http://127.0.0.1:port`.
    pub address: String,
    /// `http://127.0.0.1:port/metrics`.
    pub metrics: String,
    arguments: Vec<String>,
    /// The program it is, from the next start on: this one, unless said otherwise.
    pub program: PathBuf,
    /// Variables set for its process, from the next start on.
    pub variables: Vec<(String, String)>,
    /// The file its stderr is appended to, from the next start on; the test's own otherwise.
    pub log: Option<PathBuf>,
    process: Option<Child>,
}

impl Node {
    /// Starts one and waits until it is ready. `options` come after those every node gets.
    pub async fn start(store_url: &str, bus_url: &str, options: &[&str]) -> Self {
        let mut node = Self::new(store_url, bus_url, options);
        node.restart().await;
        node
    }

    /// One that is not yet started. What `options` say stands instead of what it would be given else.
    pub fn new(store_url: &str, bus_url: &str, options: &[&str]) -> Self {
        let (port, metrics_port) = (free_port(), free_port());
        let arguments =
            ["serve", "--migrate", "--listen", &format!("127.0.0.1:{port}"), "--store-url", store_url];
        let mut arguments = [&arguments[..], &["--bus-url", bus_url]].concat();
        let metrics_listen = format!("127.0.0.1:{metrics_port}");
        for usual in [["--metrics-listen", &metrics_listen], ["--drain-seconds", "1"]] {
            if !options.contains(&usual[0]) {
                arguments.extend(usual);
            }
        }
        arguments.extend(options);
        Self {
            address: format!("http://127.0.0.1:{port}"),
            metrics: format!("http://127.0.0.1:{metrics_port}/metrics"),
            arguments: arguments.into_iter().map(str::to_owned).collect(),
            program: PathBuf::from(env!("CARGO_BIN_EXE_carillon")),
            variables: Vec::new(),
            log: None,
            process: None,
        }
    }

    /// Kills it if it runs, starts it with the same arguments, and waits until it is ready.
    pub async fn restart(&mut self) {
        self.spawn();
        wait_until(DEADLINE, "the node is ready", || self.is_ready()).await;
    }

    /// The same without waiting.
    pub fn spawn(&mut self) {
        self.kill();
        let append = |path| File::options().create(true).append(true).open(path).unwrap();
        let process = Command::new(&self.program)
            .args(&self.arguments)
            .env("RUST_LOG", std::env::var("RUST_LOG").unwrap_or_else(|_| "error".into()))
            .envs(self.variables.iter().cloned())
            .stdout(Stdio::null())
            .stderr(self.log.as_ref().map_or_else(Stdio::inherit, |path| append(path).into()))
            .spawn()
            .unwrap();
        self.process = Some(process);
    }

    /// Whether `/readyz` says so.
    pub async fn is_ready(&self) -> bool {
        let answer = reqwest::get(format!("{}/readyz", self.address)).await;
        answer.is_ok_and(|answer| answer.status() == 200)
    }

    /// The process.
    pub fn pid(&self) -> u32 {
        self.process.as_ref().unwrap().id()
    }

    /// The process, if it was started and not ended by us.
    pub fn pid_if_running(&self) -> Option<u32> {
        self.process.as_ref().map(Child::id)
    }

    /// Kills it with SIGKILL.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    /// Asks it to stop, and waits until it has; whether it ended well.
    pub fn terminate(&mut self) -> bool {
        signal(self.pid(), "TERM");
        self.process.take().unwrap().wait().unwrap().success()
    }

    /// How a process that [`Self::has_ended`] did so: whether well.
    pub fn take_exit(&mut self) -> bool {
        self.process.take().unwrap().wait().unwrap().success()
    }

    /// Which signal a process that [`Self::has_ended`] died of, if it was one.
    pub fn take_signal(&mut self) -> Option<i32> {
        self.process.take().unwrap().wait().unwrap().signal()
    }

    /// Whether SIGSTOP holds it.
    pub fn is_stopped(&self) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
        stat.rsplit(')').next().is_some_and(|rest| rest.starts_with(" T"))
    }

    /// Whether the process has ended by itself.
    pub fn has_ended(&self) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap_or_default();
        // Gone, or waiting for its parent to ask how it ended.
        stat.rsplit(')').next().is_none_or(|rest| rest.is_empty() || rest.starts_with(" Z"))
    }

    /// Its resident memory in bytes.
    pub fn memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
    }

    /// The CPU time it has used, in seconds.
    pub fn cpu_seconds(&self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        // utime and stime, in ticks of a hundredth of a second.
        (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
    }

    /// One of its metrics.
    pub async fn metric(&self, name: &str) -> f64 {
        let text = reqwest::get(&self.metrics).await.unwrap().text().await.unwrap();
        let values = text.lines().filter(|line| line.starts_with(name) && !line.starts_with('#'));
        values
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .fold(0.0, |sum, value| sum + value)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Accounts made before the nodes start.
pub struct People {
    store: Store,
    accounts: Accounts,
    /// Who makes accounts on the command line, where the schema is another program's; with the store's URL.
    other: Option<(PathBuf, String)>,
    /// A publisher's token.
    pub publisher: String,
}

impl People {
    /// Migrates the database and makes a publisher.
    pub async fn new(store_url: &str) -> Self {
        let store = Store::open(store_url, &StoreLimits::default()).await.unwrap();
        store.migrate().await.unwrap();
        Self::in_store(store, None).await
    }

    /// The same by another program, which also migrates the database.
    pub async fn made_by(program: PathBuf, store_url: &str) -> Self {
        run(&program, store_url, &["migrate"]);
        let store = Store::open(store_url, &StoreLimits::default()).await.unwrap();
        Self::in_store(store, Some((program, store_url.to_owned()))).await
    }

    async fn in_store(store: Store, other: Option<(PathBuf, String)>) -> Self {
        let accounts = Accounts::new(
            store.clone(),
            Ttl::open("memory:", &TtlLimits::default()).unwrap(),
            Notifier::without_bus(),
        );
        let mut people = Self { store, accounts, other, publisher: String::new() };
        people.publisher = people.add("publisher", Role::Publisher).await;
        people
    }

    /// Adds somebody; gives a token that permits all their role does. Their password is `password of NAME`.
    pub async fn add(&self, name: &str, role: Role) -> String {
        if let Some((program, store_url)) = &self.other {
            run(program, store_url, &["user", "add", name, "--role", role.as_str()]);
            let scopes = ["--scope", "publish", "--scope", "listen"];
            let made = [&["token", "create", "--user", name, "--name", "test"], &scopes[..]].concat();
            return run(program, store_url, &made).trim().to_owned();
        }
        self.accounts.create(name, &format!("password of {name}"), role).await.unwrap();
        self.token(name, &[Scope::Publish, Scope::Listen], None).await
    }

    /// Another token of somebody there already.
    pub async fn token(&self, name: &str, scopes: &[Scope], lifetime: Option<Duration>) -> String {
        let (user, _) = self.store.user_by_name(name).await.unwrap().unwrap();
        self.accounts.create_token(user.id, "test", scopes, lifetime).await.unwrap().0
    }

    /// Accounts as the command line has them: on no bus, and beside the nodes' cache.
    pub fn accounts(&self) -> &Accounts {
        &self.accounts
    }

    /// The store behind the nodes.
    pub fn store(&self) -> &Store {
        &self.store
    }
}

/// Runs a command of some version of the program on a store; what it prints.
pub fn run(program: &Path, store_url: &str, arguments: &[&str]) -> String {
    let ran = Command::new(program).args(arguments).env("CARILLON_STORE_URL", store_url).output().unwrap();
    let said = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success(), "{} {arguments:?}: {said}", program.display());
    String::from_utf8(ran.stdout).unwrap()
}

/// Publishes until it is acknowledged, with one key throughout; gives the event's id.
pub async fn publish(client: &reqwest::Client, addresses: &[&str], token: &str, event: &Value) -> String {
    let key = uuid::Uuid::now_v7().to_string();
    let begun = std::time::Instant::now();
    for address in addresses.iter().cycle() {
        let request = client
            .post(format!("{address}/api/v1/events"))
            .bearer_auth(token)
            .header("idempotency-key", &key)
            .timeout(Duration::from_secs(15))
            .body(event.to_string());
        match request.send().await {
            Ok(answer) if answer.status() == 201 => {
                return answer.json::<Value>().await.unwrap()["id"].as_str().unwrap().to_owned();
            }
            Ok(answer) if answer.status() != 503 => {
                panic!("{}: {}", answer.status(), answer.text().await.unwrap());
            }
            _ => {}
        }
        assert!(begun.elapsed() < DEADLINE, "nobody took the event");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    unreachable!("the addresses are cycled")
}

/// A small event for `to`.
pub fn event(to: &Value, data: &Value) -> Value {
    json!({ "type": "test", "to": to, "data": data })
}
