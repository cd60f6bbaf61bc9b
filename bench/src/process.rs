//! Servers as processes.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long a server may take to start.
pub const START: Duration = Duration::from_secs(60);
/// How long a server may take to stop before it is killed.
const STOP: Duration = Duration::from_secs(8);
pub const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A server that this program started. It ends when this is dropped, and also when this program is killed.
pub struct Process {
    child: Child,
    stop_signal: &'static str,
}

impl Process {
    /// Starts it; what it prints goes to a file of that name in `folder`. It is killed at its end: nothing of it is needed
    /// any more.
    pub fn start(folder: &Path, name: &str, command: &[&str]) -> io::Result<Self> {
        Self::start_as(&[], "KILL", folder, name, command)
    }

    /// The same with options of `setpriv`, and a signal by which a server stops with all it has started.
    pub fn start_as(
        options: &[&str],
        stop_signal: &'static str,
        folder: &Path,
        name: &str,
        command: &[&str],
    ) -> io::Result<Self> {
        let log = File::create(folder.join(format!("{name}.log")))?;
        let child = Command::new("setpriv")
            .args(options)
            .arg(format!("--pdeathsig={stop_signal}"))
            .args(command)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        Ok(Self { child, stop_signal })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let pid = self.pid().to_string();
        // One that has already gone needs no signal.
        let _ = Command::new("kill").args(["-s", self.stop_signal, &pid]).stderr(Stdio::null()).status();
        let begun = Instant::now();
        while begun.elapsed() < STOP {
            if self.child.try_wait().is_ok_and(|ended| ended.is_some()) {
                return;
            }
            sleep(LOOK_EVERY);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a command to its end, with `input` on its standard input.
pub fn run(command: &mut Command, input: &str) -> io::Result<()> {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().map_err(
            |error| {
                io::Error::new(error.kind(), format!("{}: {error}", command.get_program().to_string_lossy()))
            },
        )?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes())?;
    }
    let output = child.wait_with_output()?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(io::Error::other(format!("{command:?} failed: {said}")));
    }
    Ok(())
}

/// Whether this runs as root, whom Postgres refuses.
pub fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

/// An address of this machine on which nobody listens, below the ports that the system gives to clients.
pub fn free_address() -> io::Result<SocketAddr> {
    // Begins elsewhere in each process, so that two at once do not meet.
    let first = 10_000 + (std::process::id() % 200) as u16 * 100;
    static TAKEN: std::sync::atomic::AtomicU16 = std::sync::atomic::AtomicU16::new(0);
    for _ in 0..1_000 {
        let next = TAKEN.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let address = SocketAddr::from(([127, 0, 0, 1], first + next % 1_000));
        if TcpListener::bind(address).is_ok() {
            return Ok(address);
        }
    }
    Err(io::Error::other("no port is free"))
}

/// Waits until the server at `address` answers `request` with something that begins with `answer`.
pub fn wait_for(address: SocketAddr, request: &str, answer: &str) -> io::Result<()> {
    let begun = Instant::now();
    loop {
        match ask(address, request) {
            Ok(text) if text.starts_with(answer) => return Ok(()),
            other if begun.elapsed() > START => {
                return Err(io::Error::other(format!("the server at {address} does not start: {other:?}")));
            }
            _ => sleep(LOOK_EVERY),
        }
    }
}

fn ask(address: SocketAddr, request: &str) -> io::Result<String> {
    let mut socket = TcpStream::connect(address)?;
    socket.set_read_timeout(Some(Duration::from_secs(2)))?;
    socket.write_all(request.as_bytes())?;
    let mut answer = [0; 64];
    let length = socket.read(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer[..length]).into_owned())
}
