//! What a run leaves behind for people: a short report, a timeline picture, a row for the table of faults.

mod timeline;

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;
use std::{fs, io};

use crate::checker::{Check, Verdict};
use crate::ledger::Ledger;

/// The heading of the table that [`Report::row`] makes rows for.
pub const TABLE_HEAD: &str = "\
| fault | promised | events | listeners | deliveries | lost | repeated | worst delay | longest outage \
| peak memory | seed |
| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |
";

/// Writes what a run leaves behind.
pub struct Report;

impl Report {
    /// Writes `report.md` and `timeline.svg` into `folder`.
    pub fn write(folder: &Path, name: &str, seed: u64, ledger: &Ledger, verdict: &Verdict) -> io::Result<()> {
        fs::create_dir_all(folder)?;
        fs::write(folder.join("report.md"), markdown(name, seed, ledger, verdict))?;
        fs::write(folder.join("timeline.svg"), timeline::svg(name, ledger, verdict))
    }

    /// One row of the table of faults.
    pub fn row(fault: &str, promised: &str, seed: u64, verdict: &Verdict) -> String {
        let measurements = &verdict.measurements;
        format!(
            "| {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {seed} |\n",
            in_cell(fault),
            in_cell(promised),
            measurements.acked,
            measurements.listeners,
            measurements.deliveries,
            measurements.lost,
            measurements.raw_repeats,
            duration(measurements.worst_delay),
            duration(measurements.longest_outage),
            memory(measurements.peak_memory),
        )
    }
}

fn markdown(name: &str, seed: u64, ledger: &Ledger, verdict: &Verdict) -> String {
    let result = if verdict.is_clean() { "every promise was kept" } else { "promises were broken" };
    let mut text =
        format!("# {name}\n\nSeed {seed}; {result}.\n\n![Timeline](timeline.svg)\n\n## Faults\n\n");
    if ledger.faults.is_empty() {
        text.push_str("None.\n");
    }
    for fault in &ledger.faults {
        let lasted = fault.healed.saturating_sub(fault.begun);
        let (begun, healed) = (fault.begun.as_secs_f64(), fault.healed.as_secs_f64());
        _ = writeln!(text, "- {begun:.3} s to {healed:.3} s ({}): {}", duration(lasted), fault.name);
    }
    text.push_str("\n## Measurements\n\n| what | measured |\n| --- | ---: |\n");
    for (what, measured) in measurements(verdict) {
        _ = writeln!(text, "| {what} | {measured} |");
    }
    text.push_str("\n## Violations\n\n");
    if verdict.is_clean() {
        text.push_str("None.\n");
    }
    for check in verdict.broken() {
        _ = writeln!(text, "### {check}: {}\n\n{} in all.\n", check.title(), verdict.count(check));
        text.push_str(&listed(check, verdict));
    }
    text
}

fn listed(check: Check, verdict: &Verdict) -> String {
    let violations = verdict.violations.iter().filter(|violation| violation.check == check);
    violations
        .map(|violation| format!("- {}\n", violation.text.replace('\n', " ")))
        .chain(["\n".to_owned()])
        .collect()
}

fn measurements(verdict: &Verdict) -> Vec<(&'static str, String)> {
    let measurements = &verdict.measurements;
    vec![
        ("events acknowledged", measurements.acked.to_string()),
        ("events of unknown outcome", measurements.unknown.to_string()),
        ("events refused", measurements.failed.to_string()),
        ("listeners", measurements.listeners.to_string()),
        ("deliveries", measurements.deliveries.to_string()),
        ("lost", measurements.lost.to_string()),
        ("repeated", measurements.raw_repeats.to_string()),
        ("overtaken", measurements.overtakings.to_string()),
        ("delay, half of all at most", duration(measurements.p50_delay)),
        ("delay, 99 of 100 at most", duration(measurements.p99_delay)),
        ("delay, worst", duration(measurements.worst_delay)),
        ("longest outage of a listener", duration(measurements.longest_outage)),
        ("resets received", measurements.resets.to_string()),
        ("peak memory of a process", memory(measurements.peak_memory)),
        ("caught up after healing", measurements.caught_up_after.map_or("not measured".to_owned(), duration)),
    ]
}

fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    if seconds < 10.0 { format!("{:.0} ms", seconds * 1000.0) } else { format!("{seconds:.1} s") }
}

fn memory(bytes: u64) -> String {
    format!("{} MiB", bytes.div_ceil(1 << 20))
}

/// A text inside a table: a bar or a line break would end the cell.
fn in_cell(text: &str) -> String {
    text.replace('|', "\\|").replace(['\r', '\n'], " ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::{Promises, check};
    use crate::ledger::Fault;

    #[test]
    fn a_report_holds_seed_faults_measurements_and_violations() {
        let fault = Fault {
            name: "bus dead".into(),
            begun: Duration::from_millis(1500),
            healed: Duration::from_millis(4000),
        };
        let ledger =
            Ledger { faults: vec![fault], healed: Some(Duration::from_secs(4)), ..Ledger::default() };
        let verdict = check(&ledger, &Promises::default());
        let folder = tempfile::tempdir().unwrap();
        Report::write(folder.path(), "a run", 4711, &ledger, &verdict).unwrap();
        let report = fs::read_to_string(folder.path().join("report.md")).unwrap();
        for part in [
            "# a run",
            "Seed 4711; promises were broken.",
            "- 1.500 s to 4.000 s (2500 ms): bus dead",
            "| events acknowledged | 0 |",
            "### C9: no lag",
            "1 in all.",
            "- no sentinel was published",
        ] {
            assert!(report.contains(part), "{part:?} is not in {report}");
        }
        assert!(folder.path().join("timeline.svg").exists());
    }

    #[test]
    fn a_row_has_as_many_cells_as_the_table() {
        let cells = |line: &str| line.replace("\\|", "").matches('|').count();
        let row = Report::row("a | b\nc", "nothing lost", 7, &Verdict::default());
        assert_eq!(row.lines().count(), 1);
        assert!(row.starts_with("| a \\| b c | nothing lost | 0 |") && row.ends_with("| 7 |\n"), "{row}");
        for line in TABLE_HEAD.lines() {
            assert_eq!(cells(line), cells(&row), "{line}");
        }
    }
}
