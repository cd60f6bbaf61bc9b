//! One scenario with one system, from starting it to stopping it.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::ledger::Ledger;
use crate::listeners::Listeners;
use crate::publisher::{Published, Publisher};
use crate::scenario::{Figure, Load};
use crate::systems::{Place, Running, System};
use crate::usage;

/// How long nothing may come before what is missing counts as lost.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long what comes twice is waited for.
const AFTERWARDS: Duration = Duration::from_millis(100);
/// How much of the machine may be in use before a run, and how long it is waited for.
const QUIET: f64 = 0.15;
const WAIT_FOR_QUIET: Duration = Duration::from_secs(20);
/// How much of a log is shown when something failed.
const LAST_LINES: usize = 10;

/// What a run showed.
pub struct Outcome {
    pub figures: BTreeMap<Figure, f64>,
    /// What was lost, came twice, or went wrong otherwise.
    pub faults: Vec<String>,
    /// How much of the machine others used meanwhile: 0 to 1.
    pub others: f64,
}

/// Waits a while for a machine on which little else happens.
pub fn wait_for_quiet() {
    let begun = Instant::now();
    while begun.elapsed() < WAIT_FOR_QUIET {
        let before = usage::machine();
        sleep(Duration::from_secs(1));
        let now = usage::machine();
        if now.0 - before.0 < QUIET * (now.1 - before.1) {
            return;
        }
    }
}

/// Runs it.
pub fn run(system: System, load: Load, place: &Place) -> io::Result<Outcome> {
    // What a run before left there.
    match fs::remove_dir_all(&place.folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => fs::create_dir_all(&place.folder)?,
    }
    let running = system.start(place)?;
    measure(&running, load)
}

/// The end of what each server printed.
pub fn last_lines(folder: &Path) -> String {
    let files = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut all = String::new();
    for file in files.filter(|file| file.extension().is_some_and(|extension| extension == "log")) {
        let text = fs::read(&file).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<_> = text.lines().collect();
        let last = &lines[lines.len().saturating_sub(LAST_LINES)..];
        all += &format!("{}:\n{}\n", file.display(), last.join("\n"));
    }
    all
}

/// Processor time of a system, of this program and of the machine, in seconds.
#[derive(Clone, Copy)]
struct Used {
    system: f64,
    own: f64,
    machine: (f64, f64),
}

impl Used {
    fn now(pids: &[u32]) -> Self {
        Self { system: usage::cpu(pids), own: usage::own_cpu(), machine: usage::machine() }
    }

    /// The part of the machine that others used between these.
    fn others(self, until: Self) -> f64 {
        let others =
            (until.machine.0 - self.machine.0) - (until.system - self.system) - (until.own - self.own);
        (others / (until.machine.1 - self.machine.1)).max(0.0)
    }
}

fn measure(running: &Running, load: Load) -> io::Result<Outcome> {
    let (begun, pids) = (Instant::now(), running.pids());
    let mut listeners = Listeners::new(Ledger::new(load), begun)?;
    let mut figures = BTreeMap::new();

    let (memory, at_start) = (usage::memory(&pids), Used::now(&pids));
    let requests =
        (0..load.listeners).map(|listener| running.api.listen(running.listen_at, listener, load.to));
    let opening = Instant::now();
    listeners.open(running.listen_at, requests)?;
    let took = opening.elapsed();
    let each = |value: f64| value / load.listeners as f64;
    figures.insert(Figure::ConnectRate, load.listeners as f64 / took.as_secs_f64());
    figures.insert(Figure::ConnectCpu, each(usage::cpu(&pids) - at_start.system) * 1e6);
    listeners.read_until(load.settle, |_| false)?;
    figures.insert(Figure::Memory, each(usage::memory(&pids) - memory));

    let before = Used::now(&pids);
    let published = if load.events > 0 { Some(publish(running, load, &mut listeners, begun)?) } else { None };
    let after = Used::now(&pids);
    let ledger = &listeners.ledger;
    if let Some(published) = published {
        let cpu = (after.system - before.system) * 1e6;
        figures.insert(Figure::DeliveryCpu, cpu / ledger.received.max(1) as f64);
        figures.insert(Figure::EventCpu, cpu / load.events as f64);
        figures.insert(Figure::Rate, load.events as f64 / published.took.as_secs_f64());
        for (figure, part) in [(Figure::Median, 0.5), (Figure::Tail, 0.99)] {
            figures.insert(figure, ledger.delays.value_at_quantile(part) as f64 / 1e3);
        }
    }
    let mut faults = ledger.faults();
    faults.extend(listeners.fault.clone());
    let measured = if load.events > 0 { before } else { at_start };
    Ok(Outcome { figures, faults, others: measured.others(after) })
}

/// Publishes, and reads until all has come or nothing comes any more.
fn publish(
    running: &Running,
    load: Load,
    listeners: &mut Listeners,
    begun: Instant,
) -> io::Result<Published> {
    let publisher = Publisher { api: running.api, address: running.publish_at, load, begun };
    let published = std::thread::scope(|scope| {
        let thread = scope.spawn(|| publisher.run());
        while !thread.is_finished() {
            listeners.turn(Duration::from_millis(20))?;
        }
        thread.join().expect("publishing does not panic")
    })?;
    let expected = listeners.ledger.expected();
    listeners.read_until(Duration::from_secs(120), |ledger| {
        let last = ledger.last_at.max(published.ended);
        ledger.received >= expected || begun.elapsed() > last + PATIENCE
    })?;
    listeners.read_until(AFTERWARDS, |_| false)?;
    Ok(published)
}
