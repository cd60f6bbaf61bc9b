//! A Redis that refuses a node while it runs: `/readyz`, the status and the log name the error, until it is over.

mod support;

use std::net::SocketAddr;
use std::path::PathBuf;

use carillon::account::Role;
use serde_json::Value;
use support::node::{Node, People};
use support::servers::{RedisServer, patient_redis, postgres_url};
use support::{DEADLINE, wait_until};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpSocket, TcpStream};

/// A node whose log is read.
struct Logged {
    node: Node,
    /// An admin's session.
    cookie: String,
    log: PathBuf,
    _folder: TempDir,
}

impl Logged {
    async fn start(redis_url: &str) -> Self {
        let store = postgres_url().await;
        let people = People::new(&store).await;
        people.add("admin", Role::Admin).await;
        let folder = TempDir::new().unwrap();
        let log = folder.path().join("log");
        let mut node = Node::new(&store, redis_url, &[]);
        node.variables.push(("RUST_LOG".into(), "carillon=info".into()));
        node.log = Some(log.clone());
        node.restart().await;
        let login = serde_json::json!({ "name": "admin", "password": "password of admin" });
        let session = reqwest::Client::new().post(format!("{}/api/v1/session", node.address));
        let answer = session.json(&login).send().await.unwrap();
        let cookie = answer.headers()["set-cookie"].to_str().unwrap().split(';').next().unwrap().to_owned();
        Self { node, cookie, log, _folder: folder }
    }

    /// How many lines of the log have this text and are of the bus.
    fn lines(&self, text: &str) -> usize {
        let log = std::fs::read_to_string(&self.log).unwrap();
        log.lines().filter(|line| line.contains(text) && line.contains("purpose=\"bus\"")).count()
    }

    async fn readyz(&self) -> (u16, Value) {
        let answer = reqwest::get(format!("{}/readyz", self.node.address)).await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    }

    /// What the node says of itself to those who ask for the cluster.
    async fn status(&self) -> Value {
        let request = reqwest::Client::new().get(format!("{}/api/v1/cluster", self.node.address));
        let cluster: Value =
            request.header("cookie", &self.cookie).send().await.unwrap().json().await.unwrap();
        cluster["nodes"][0].clone()
    }

    /// That the error is named everywhere, and logged once.
    async fn is_refused(&self, code: &str, outages: usize) {
        let is_named = async || {
            let (status, answer) = self.readyz().await;
            status == 503 && answer["bus_error"].as_str().is_some_and(|error| error.contains(code))
        };
        wait_until(DEADLINE, &format!("/readyz says 503 and names {code}"), is_named).await;
        let (_, answer) = self.readyz().await;
        let since = answer["bus_error_since"].as_str().unwrap().to_owned();
        let format = &time::format_description::well_known::Rfc3339;
        time::OffsetDateTime::parse(&since, format).unwrap();
        let is_shown = async || {
            let status = self.status().await;
            status["bus_error"].as_str().is_some_and(|error| error.contains(code))
                && status["bus_error_since"].as_str().is_some_and(|at| at[..16] == since[..16])
        };
        wait_until(DEADLINE, &format!("the status names {code}"), is_shown).await;
        assert_eq!(self.lines("Redis does not work"), outages, "logged once when it begins");
        assert_eq!(self.lines("Redis works again"), outages - 1);
    }

    /// That it is over, and logged so once.
    async fn is_over(&self, outages: usize) {
        let is_over = async || {
            let (status, answer) = self.readyz().await;
            let errors = ["bus_error", "bus_error_since", "ttl_error", "ttl_error_since"];
            status == 200 && errors.iter().all(|name| answer.get(name).is_none())
        };
        wait_until(DEADLINE, "the node is ready and names no error", is_over).await;
        assert!(self.status().await.get("bus_error").is_none());
        let lines = (self.lines("Redis does not work"), self.lines("Redis works again"));
        assert_eq!(lines, (outages, outages));
        let log = std::fs::read_to_string(&self.log).unwrap();
        assert!(!log.contains("secret"), "{log}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_who_is_refused_or_lacks_rights_is_named_until_it_is_over() {
    let user = ["--user", "node", "on", ">right-secret", "allkeys", "allchannels", "allcommands"];
    let mut server = RedisServer::start(&user).await;
    let set_user = async |server: &RedisServer, rules: &[&str]| {
        let command = [&["ACL", "SETUSER", "node"], rules].concat();
        server.query::<()>(&command).await.unwrap();
    };
    let end_connections = async |server: &RedisServer| {
        server.query::<i64>(&["CLIENT", "KILL", "USER", "node"]).await.unwrap();
    };
    let logged = Logged::start(&server.url("").replace("redis://", "redis://node:right-secret@")).await;

    set_user(&server, &["resetpass", ">other-secret"]).await;
    end_connections(&server).await;
    logged.is_refused("WRONGPASS", 1).await;
    set_user(&server, &["resetpass", ">right-secret"]).await;
    logged.is_over(1).await;

    set_user(&server, &["-publish"]).await;
    logged.is_refused("NOPERM", 2).await;
    set_user(&server, &["+publish"]).await;
    logged.is_over(2).await;

    server.kill();
    logged.is_refused("refused the connection", 3).await;
    server.restart().await;
    logged.is_over(3).await;

    server.pause();
    logged.is_refused("did not answer in time", 4).await;
    server.resume();
    logged.is_over(4).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_closed_to_strangers_is_named_until_it_is_over() {
    let server = RedisServer::start(&["--protected-mode", "no"]).await;
    let stranger = relay_from_elsewhere(server.port()).await;
    let logged = Logged::start(&format!("redis://{stranger}")).await;
    let end_connections = async || {
        for kind in ["normal", "pubsub"] {
            server.query::<i64>(&["CLIENT", "KILL", "TYPE", kind]).await.unwrap();
        }
    };

    server.query::<()>(&["CONFIG", "SET", "protected-mode", "yes"]).await.unwrap();
    end_connections().await;
    logged.is_refused("DENIED", 1).await;
    server.query::<()>(&["CONFIG", "SET", "protected-mode", "no"]).await.unwrap();
    logged.is_over(1).await;

    // The default user has a password now; the test goes on as another one.
    let with_password = async |command: &[&str]| {
        let client = redis::Client::open(server.url("").replace("redis://", "redis://:secret@")).unwrap();
        let mut connection =
            client.get_multiplexed_async_connection_with_config(&patient_redis()).await.unwrap();
        redis::Cmd::new().arg(command).exec_async(&mut connection).await.unwrap();
    };
    server.query::<()>(&["CONFIG", "SET", "requirepass", "secret"]).await.unwrap();
    for kind in ["normal", "pubsub"] {
        with_password(&["CLIENT", "KILL", "TYPE", kind]).await;
    }
    logged.is_refused("NOAUTH", 2).await;
    with_password(&["CONFIG", "SET", "requirepass", ""]).await;
    logged.is_over(2).await;
}

/// Passes on connections to a port so that they come from an address other than 127.0.0.1: Redis' protected mode
/// refuses all others.
async fn relay_from_elsewhere(port: u16) -> SocketAddr {
    async fn connect(port: u16) -> std::io::Result<TcpStream> {
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddr::from(([127, 0, 0, 2], 0)))?;
        socket.connect(SocketAddr::from(([127, 0, 0, 1], port))).await
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut one, _)) = listener.accept().await {
            tokio::spawn(async move {
                if let Ok(mut two) = connect(port).await {
                    let _ = tokio::io::copy_bidirectional(&mut one, &mut two).await;
                }
            });
        }
    });
    address
}
