//! Real servers: shared ones named by the environment, and private ones that tests may kill.

use std::fs::File;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use redis::AsyncConnectionConfig;
use sqlx::Connection as _;
use tempfile::TempDir;

use super::{DEADLINE, wait_until};

/// The address of the shared server in `variable`. A missing server is a failure, never a skip.
fn shared(variable: &str) -> String {
    std::env::var(variable)
        .unwrap_or_else(|_| panic!("{variable} is not set: run the tests with scripts/test"))
}

/// The shared Redis.
pub fn redis_url() -> String {
    shared("CARILLON_TEST_REDIS_URL")
}

/// A new, empty database on the shared Postgres.
pub async fn postgres_url() -> String {
    new_database(&shared("CARILLON_TEST_POSTGRES_URL")).await
}

async fn new_database(server: &str) -> String {
    let name = format!("test_{}", uuid::Uuid::now_v7().simple());
    let mut connection = sqlx::PgConnection::connect(server).await.expect("Postgres must be reachable");
    sqlx::query(sqlx::AssertSqlSafe(format!("create database {name}")))
        .execute(&mut connection)
        .await
        .unwrap();
    connection.close().await.unwrap();
    let mut url = url::Url::parse(server).unwrap();
    url.set_path(&name);
    url.into()
}

/// A port nobody listens on at this moment, below those that the system gives to outgoing connections: one of them
/// could take it before the server does.
pub fn free_port() -> u16 {
    let is_free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    std::iter::repeat_with(|| rand::random_range(10_000..32_000)).find(is_free).expect("one is free")
}

/// Sends a signal to a process this test started.
pub fn signal(pid: u32, name: &str) {
    let status = Command::new("kill").arg(format!("-{name}")).arg(pid.to_string()).status().unwrap();
    assert!(status.success(), "kill -{name} {pid}");
}

fn signal_if_there(pid: u32, name: &str) {
    let _ = Command::new("kill").arg(format!("-{name}")).arg(pid.to_string()).stderr(Stdio::null()).status();
}

fn children(parent: u32) -> Vec<u32> {
    let path = format!("/proc/{parent}/task/{parent}/children");
    let text = std::fs::read_to_string(path).unwrap();
    text.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
}

/// How a test asks a Redis: its client waits for half a second unless told otherwise, and a busy machine takes longer.
pub fn patient_redis() -> AsyncConnectionConfig {
    let patient = AsyncConnectionConfig::new();
    patient.set_connection_timeout(Some(DEADLINE)).set_response_timeout(Some(DEADLINE))
}

/// A Redis of the test's own, which keeps nothing; or a sentinel.
pub struct RedisServer {
    port: u16,
    login: &'static str,
    arguments: Vec<String>,
    folder: TempDir,
    process: Option<Child>,
}

impl RedisServer {
    /// Starts one, with more of its own arguments if need be.
    pub async fn start(arguments: &[&str]) -> Self {
        let port = free_port();
        let own = ["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"];
        Self::run(port, "", TempDir::new().unwrap(), own.iter().chain(arguments)).await
    }

    /// Starts a sentinel with these lines of configuration and the password "watch".
    pub async fn start_sentinel(lines: &str) -> Self {
        let (port, folder) = (free_port(), TempDir::new().unwrap());
        let configuration = format!("port {port}\nbind 127.0.0.1\nrequirepass watch\n{lines}\n");
        std::fs::write(folder.path().join("sentinel.conf"), configuration).unwrap();
        Self::run(port, ":watch@", folder, ["sentinel.conf", "--sentinel"].iter()).await
    }

    async fn run<'a>(
        port: u16,
        login: &'static str,
        folder: TempDir,
        arguments: impl Iterator<Item = &'a &'a str>,
    ) -> Self {
        let arguments = arguments.map(|&argument| argument.to_owned()).collect();
        let mut server = Self { port, login, arguments, folder, process: None };
        server.restart().await;
        server
    }

    /// Its port on the loopback.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its address, and what comes after it.
    pub fn url(&self, rest: &str) -> String {
        format!("redis://{}127.0.0.1:{}{rest}", self.login, self.port)
    }

    /// Kills it with SIGKILL.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    /// Starts it again on the same port, empty.
    pub async fn restart(&mut self) {
        self.kill();
        let log = File::options().create(true).append(true).open(self.log_path()).unwrap();
        let process = Command::new("redis-server")
            .args(&self.arguments)
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .stdout(log)
            .spawn()
            .expect("redis-server must be on the path");
        self.process = Some(process);
        let address = ("127.0.0.1", self.port);
        let listens = async || tokio::net::TcpStream::connect(address).await.is_ok();
        wait_until(DEADLINE, "redis-server listens", listens).await;
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap()
    }

    fn log_path(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    /// Freezes it: connections stay open and nothing answers.
    pub fn pause(&self) {
        signal(self.process.as_ref().unwrap().id(), "STOP");
    }

    /// Lets it go on.
    pub fn resume(&self) {
        signal(self.process.as_ref().unwrap().id(), "CONT");
    }

    /// The answer to one command, as text.
    pub async fn ask(&self, command: &[&str]) -> String {
        format!("{:?}", self.query::<redis::Value>(command).await.unwrap())
    }

    /// The answer to one command.
    pub async fn query<T: redis::FromRedisValue>(&self, command: &[&str]) -> redis::RedisResult<T> {
        let client = redis::Client::open(self.url("")).unwrap();
        let mut connection = client.get_multiplexed_async_connection_with_config(&patient_redis()).await?;
        redis::Cmd::new().arg(command).query_async(&mut connection).await
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A Postgres of the test's own.
pub struct PostgresServer {
    port: u16,
    folder: TempDir,
}

const POSTGRES: &str = "/usr/lib/postgresql/15/bin";

impl PostgresServer {
    /// Starts one, with fsync on.
    pub fn start() -> Self {
        let server = Self::new();
        let initdb = ["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "-D"];
        run(as_postgres("initdb").args(initdb).arg(server.data()));
        server.control("start");
        server
    }

    /// Without anything in its folder yet.
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        // The server runs as another user, which must get through to its own folder.
        let status = Command::new("chmod").arg("755").arg(folder.path()).status().unwrap();
        assert!(status.success());
        let server = Self { port: free_port(), folder };
        let data = server.data();
        std::fs::create_dir(&data).unwrap();
        std::fs::set_permissions(&data, std::fs::Permissions::from_mode(0o700)).unwrap();
        if is_root() {
            assert!(Command::new("chown").arg("postgres").arg(&data).status().unwrap().success());
        }
        server
    }

    /// A standby of the server that is reached at this port, which may be on the way to it: it streams from there.
    pub fn standby_of(port: u16) -> Self {
        let standby = Self::new();
        let from = format!("host=127.0.0.1 port={port} user=postgres");
        run(as_postgres("pg_basebackup")
            .args(["-R", "-c", "fast", "-X", "stream", "-d", &from, "-D"])
            .arg(standby.data()));
        standby.control("start");
        standby
    }

    /// Makes a standby the primary.
    pub fn promote(&self) {
        run(as_postgres("pg_ctl").arg("-D").arg(self.data()).args(["-w", "promote"]));
    }

    /// Stops it in order: its standbys get all that it has.
    pub fn stop_in_order(&self) {
        run(as_postgres("pg_ctl").arg("-D").arg(self.data()).args(["-m", "fast", "-w", "stop"]));
    }

    /// Its port on the loopback.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The address of a database of another server, on this one.
    pub fn own(&self, url: &str) -> String {
        let mut url = url::Url::parse(url).unwrap();
        url.set_port(Some(self.port)).unwrap();
        url.into()
    }

    /// The address of a new, empty database on it.
    pub async fn new_database(&self) -> String {
        new_database(&self.url()).await
    }

    /// Stops it as a crash would, and starts it again.
    pub fn restart_immediate(&self) {
        self.stop_immediate();
        self.start_again();
    }

    /// Starts it with the data it had.
    pub fn start_again(&self) {
        self.control("start");
    }

    /// Sends a signal to all its processes.
    pub fn signal(&self, name: &str) {
        // First the one that starts others, last when they go on.
        self.processes().into_iter().for_each(|pid| signal_if_there(pid, name));
    }

    /// All its processes, first the one that starts the others.
    pub fn processes(&self) -> Vec<u32> {
        let lines = std::fs::read_to_string(self.data().join("postmaster.pid")).unwrap();
        let postmaster: u32 = lines.lines().next().unwrap().parse().unwrap();
        std::iter::once(postmaster).chain(children(postmaster)).collect()
    }

    /// Executes a statement as its superuser, in another database than the tests'.
    pub async fn execute(&self, statement: &str) {
        let mut connection = sqlx::PgConnection::connect(&self.url()).await.unwrap();
        let statement = sqlx::AssertSqlSafe(statement.to_owned());
        sqlx::raw_sql(statement).execute(&mut connection).await.unwrap();
        connection.close().await.unwrap();
    }

    /// Ends every connection to the tests' databases; how many there were.
    pub async fn terminate_backends(&self) -> i64 {
        let all = "select count(pg_terminate_backend(pid)) from pg_stat_activity where datname like 'test_%'";
        let mut connection = sqlx::PgConnection::connect(&self.url()).await.unwrap();
        let ended = sqlx::query_scalar(all).fetch_one(&mut connection).await.unwrap();
        connection.close().await.unwrap();
        ended
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.data().join("server.log")).unwrap()
    }

    /// The address of another database than the tests'.
    pub fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres", self.port)
    }

    /// Stops it as a crash would.
    pub fn stop_immediate(&self) {
        run(as_postgres("pg_ctl").arg("-D").arg(self.data()).args(["-m", "immediate", "-w", "stop"]));
    }

    fn control(&self, verb: &str) {
        let data = self.data();
        let options = format!(
            "-p {} -c listen_addresses=127.0.0.1 -c unix_socket_directories={}",
            self.port,
            data.display()
        );
        run(as_postgres("pg_ctl")
            .arg("-D")
            .arg(&data)
            .arg("-w")
            .arg("-l")
            .arg(data.join("server.log"))
            .args(["-o", &options, verb]));
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        let mut stop = as_postgres("pg_ctl");
        let _ =
            stop.arg("-D").arg(self.data()).args(["-m", "immediate", "stop"]).stdout(Stdio::null()).status();
    }
}

/// A PgBouncer of the test's own.
pub struct PgBouncer {
    port: u16,
    server: url::Url,
    folder: TempDir,
    process: Child,
}

impl PgBouncer {
    /// Starts one in this mode before the server of a database.
    pub async fn start(database_url: &str, mode: &str) -> Self {
        let (port, folder) = (free_port(), TempDir::new().unwrap());
        assert!(Command::new("chmod").arg("755").arg(folder.path()).status().unwrap().success());
        let path = folder.path().join("pgbouncer.ini");
        let server = url::Url::parse(database_url).unwrap();
        std::fs::write(&path, Self::configuration(&server, port, mode)).unwrap();
        // It refuses to run as root.
        let mut command = Command::new(if is_root() { "setpriv" } else { "pgbouncer" });
        if is_root() {
            command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups", "pgbouncer"]);
        }
        let process = command
            .arg("-q")
            .arg(&path)
            .stdin(Stdio::null())
            .stderr(File::create(folder.path().join("log")).unwrap())
            .spawn()
            .expect("pgbouncer must be on the path");
        let listens = async || tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_ok();
        wait_until(DEADLINE, "PgBouncer listens", listens).await;
        Self { port, server, folder, process }
    }

    /// The database, through it.
    pub fn url(&self) -> String {
        let mut url = self.server.clone();
        url.set_port(Some(self.port)).unwrap();
        url.into()
    }

    /// Changes its mode while it runs.
    pub fn set_mode(&self, mode: &str) {
        let text = Self::configuration(&self.server, self.port, mode);
        std::fs::write(self.folder.path().join("pgbouncer.ini"), text).unwrap();
        signal(self.process.id(), "HUP");
    }

    fn configuration(server: &url::Url, port: u16, mode: &str) -> String {
        let (host, server_port) = (server.host_str().unwrap(), server.port().unwrap());
        format!(
            "[databases]\n* = host={host} port={server_port} user={}\n\
             [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n\
             auth_type = any\npool_mode = {mode}\ndefault_pool_size = 40\n",
            server.username()
        )
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output().unwrap();
    id.stdout.starts_with(b"0\n")
}

/// One of Postgres' programs; they refuse to run as root.
fn as_postgres(program: &str) -> Command {
    let path = Path::new(POSTGRES).join(program);
    if !is_root() {
        return Command::new(path);
    }
    let mut command = Command::new("runuser");
    command.args(["-u", "postgres", "--"]).arg(path);
    command
}

fn run(command: &mut Command) {
    let status = command.stdout(Stdio::null()).status().unwrap();
    assert!(status.success(), "{command:?}: {status}");
}
