//! What processes and the machine use, from /proc.

use std::fs;

/// The kernel counts processor time for programs in hundredths of a second.
const TICKS: f64 = 100.0;

/// The processor time of these processes and all they started, in seconds.
pub fn cpu(roots: &[u32]) -> f64 {
    // Time of the process in user and system mode, and the same of children that have ended.
    family(roots).into_iter().map(|pid| ticks(pid, 4)).sum::<f64>() / TICKS
}

/// The processor time of this process, in seconds.
pub fn own_cpu() -> f64 {
    ticks(std::process::id(), 2) / TICKS
}

/// The memory of these processes and all they started, in KiB; what several share is counted once.
pub fn memory(roots: &[u32]) -> f64 {
    let of = |pid| {
        let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
        line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok()).unwrap_or(0.0)
    };
    family(roots).into_iter().map(of).sum()
}

fn family(roots: &[u32]) -> Vec<u32> {
    let mut all = roots.to_vec();
    let mut next = 0;
    while let Some(pid) = all.get(next) {
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        all.extend(children.split_whitespace().filter_map(|child| child.parse::<u32>().ok()));
        next += 1;
    }
    all
}

/// The first `count` of a process's counters of time. One that has ended has none: its parent counts it.
fn ticks(pid: u32, count: usize) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // Behind the name in parentheses, which may contain anything, eleven fields come first.
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11);
    fields.take(count).filter_map(|field| field.parse::<f64>().ok()).sum()
}

/// The processor time of the whole machine: in use, and all there was, in seconds.
pub fn machine() -> (f64, f64) {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = stat.lines().next().unwrap_or_default();
    let fields: Vec<f64> = line.split_whitespace().skip(1).filter_map(|field| field.parse().ok()).collect();
    // user, nice, system, idle, waiting for a disk, interrupts (two), taken by other machines of the host.
    let all: f64 = fields.iter().take(8).sum();
    let idle: f64 = fields.iter().skip(3).take(2).sum();
    ((all - idle) / TICKS, all / TICKS)
}

/// The load averages of one, five and fifteen minutes.
pub fn load_averages() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').take(3).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn what_a_child_used_counts_when_it_has_ended() {
        let own = [std::process::id()];
        let before = cpu(&own);
        let busy = "i=0; while [ $i -lt 150000 ]; do i=$((i+1)); done";
        assert!(Command::new("sh").args(["-c", busy]).status().unwrap().success());
        assert!(cpu(&own) > before);
        assert!(memory(&own) > 100.0);
        let (used, all) = machine();
        assert!(used > 0.0 && all >= used);
        assert_eq!(load_averages().split(' ').count(), 3);
    }
}
