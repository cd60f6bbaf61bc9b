//! Carillon, with a token for each listener.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::process::Command;

use sha2::{Digest as _, Sha256};

use super::{Api, Place, Running, redis};
use crate::process::{Process, free_address, is_root, run, wait_for};

const PUBLISHER: &str = "carillon_of_the_publisher";
/// How many accounts one statement makes.
const ROWS: usize = 500;

pub(super) fn token(listener: usize) -> String {
    format!("carillon_of_listener_{listener}")
}

/// The publisher's fields of a request.
pub(super) fn publisher() -> String {
    format!("Authorization: Bearer {PUBLISHER}\r\nContent-Type: application/json\r\n")
}

/// An event as it is published.
pub(super) fn event(user: Option<usize>, payload: &str) -> String {
    let to = user.map_or("\"everyone\"".to_owned(), |user| format!("{{\"user\":\"u{user}\"}}"));
    format!("{{\"type\":\"bench\",\"to\":{to},\"data\":{payload}}}")
}

pub(super) fn start_embedded(place: &Place) -> io::Result<Running> {
    let file = place.folder.join("carillon.sqlite");
    let store = format!("sqlite:{}", file.display());
    migrate(place, &store)?;
    run(Command::new("sqlite3").arg("-bail").arg(&file), &accounts(place.users, |hex| format!("x'{hex}'")))?;
    let (address, node) = node(place, "node", &[("CARILLON_STORE_URL", &store)])?;
    Ok(Running { api: Api::Carillon, listen_at: address, publish_at: address, processes: vec![node] })
}

pub(super) fn start_cluster(place: &Place) -> io::Result<Running> {
    let (bus, redis) = redis(place)?;
    let (database, postgres) = postgres(place)?;
    let store = format!("postgres://postgres@{database}/postgres");
    migrate(place, &store)?;
    let sql = accounts(place.users, |hex| format!("decode('{hex}', 'hex')"));
    run(Command::new("psql").args(["-q", "-v", "ON_ERROR_STOP=1", &store]), &sql)?;
    let bus = format!("redis://{bus}");
    let variables = [("CARILLON_STORE_URL", &store[..]), ("CARILLON_BUS_URL", &bus)];
    let (publish_at, a) = node(place, "node-a", &variables)?;
    let (listen_at, b) = node(place, "node-b", &variables)?;
    Ok(Running { api: Api::Carillon, listen_at, publish_at, processes: vec![redis, postgres, a, b] })
}

fn node(place: &Place, name: &str, variables: &[(&str, &str)]) -> io::Result<(SocketAddr, Process)> {
    let address = free_address()?;
    let mut command = vec!["env".to_owned(), format!("CARILLON_LISTEN={address}")];
    command.extend(variables.iter().map(|(name, value)| format!("{name}={value}")));
    command.extend(["CARILLON_METRICS_LISTEN=off", "RUST_LOG=warn"].map(str::to_owned));
    command.extend([place.carillon.to_string_lossy().into_owned(), "serve".to_owned()]);
    let command: Vec<_> = command.iter().map(String::as_str).collect();
    let process = Process::start(&place.folder, name, &command)?;
    wait_for(address, "GET /readyz HTTP/1.0\r\n\r\n", "HTTP/1.0 200")?;
    Ok((address, process))
}

/// A Postgres as it comes: it waits for the disk at each commit.
fn postgres(place: &Place) -> io::Result<(SocketAddr, Process)> {
    let folder = place.folder.join("postgres");
    fs::create_dir(&folder)?;
    let data = folder.to_string_lossy();
    // It refuses to run as root.
    let mut options = Vec::new();
    if is_root() {
        options = vec!["--reuid=postgres", "--regid=postgres", "--init-groups"];
        run(Command::new("chown").args(["postgres", &data]), "")?;
    }
    let mut initdb = Command::new("setpriv");
    initdb.args(&options).arg(place.postgres.join("initdb"));
    run(
        initdb.args(["-D", &data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"]),
        "",
    )?;
    let address = free_address()?;
    let program = place.postgres.join("postgres");
    let (program, port) = (program.to_string_lossy(), address.port().to_string());
    let sockets = format!("unix_socket_directories={data}");
    let command = [&program[..], "-D", &data, "-p", &port];
    let command = [&command[..], &["-c", "listen_addresses=127.0.0.1", "-c", &sockets]].concat();
    // By this signal it does not wait until its clients have gone.
    let process = Process::start_as(&options, "INT", &place.folder, "postgres", &command)?;
    let ready = place.postgres.join("pg_isready");
    let begun = std::time::Instant::now();
    while run(Command::new(&ready).args(["-q", "-h", "127.0.0.1", "-p", &port]), "").is_err() {
        if begun.elapsed() > crate::process::START {
            return Err(io::Error::other("Postgres does not start"));
        }
        std::thread::sleep(crate::process::LOOK_EVERY);
    }
    Ok((address, process))
}

fn migrate(place: &Place, store: &str) -> io::Result<()> {
    run(Command::new(&place.carillon).arg("migrate").env("CARILLON_STORE_URL", store), "")
}

/// Accounts straight into the tables: the command line takes a moment for each.
fn accounts(users: usize, binary: impl Fn(&str) -> String) -> String {
    let mut all = vec![("publisher".to_owned(), "publisher", PUBLISHER.to_owned(), "publish")];
    all.extend((0..users).map(|user| (format!("u{user}"), "listener", token(user), "listen")));
    let mut sql = "begin;\n".to_owned();
    for some in all.chunks(ROWS) {
        let rows: Vec<_> = some
            .iter()
            .map(|(name, role, token, scope)| {
                let mut hex = String::new();
                for byte in Sha256::digest(token.as_bytes()) {
                    write!(hex, "{byte:02x}").expect("a String takes everything");
                }
                format!("('{name}', '{role}', {}, '{scope}')", binary(&hex))
            })
            .collect();
        let rows = rows.join(",\n");
        sql += &format!(
            "create temporary table made as select column1 as name, column2 as role, column3 as secret, column4 as scope \
             from (values {rows}) as given;
insert into users (name, password_hash, role, created_at) select name, '', role, 0 from made;
insert into tokens (user_id, name, secret, scopes, created_at)
select users.id, 'bench', made.secret, made.scope, 0 from made join users on users.name = made.name;
drop table made;\n"
        );
    }
    sql + "commit;\nanalyze;\n"
}
