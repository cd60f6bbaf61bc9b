//! The best of all repetitions, side by side.

use std::collections::BTreeMap;

use crate::scenario::{Figure, Scenario};
use crate::systems::System;

/// What was measured, each the best of its repetitions.
#[derive(Default)]
pub struct Table(BTreeMap<(Scenario, Figure), BTreeMap<System, f64>>);

impl Table {
    pub fn add(&mut self, system: System, scenario: Scenario, figures: &BTreeMap<Figure, f64>) {
        for (figure, value) in figures {
            let best = self.0.entry((scenario, *figure)).or_default().entry(system).or_insert(*value);
            *best = if figure.is_rate() { best.max(*value) } else { best.min(*value) };
        }
    }

    /// The table, as Markdown that also reads well as it is.
    pub fn text(&self) -> String {
        let mut rows = vec![HEAD.map(str::to_owned)];
        for scenario in Scenario::ALL {
            for (figure, name) in scenario.figures() {
                let Some(values) = self.0.get(&(scenario, *figure)) else { continue };
                let value = |system| values.get(&system).copied();
                let mut row = vec![format!("{}: {name}", scenario.name())];
                row.extend(
                    [System::Floor, System::Nchan, System::NchanRedis].map(|system| cell(value(system))),
                );
                for (ours, theirs) in
                    [(System::Embedded, System::Nchan), (System::Cluster, System::NchanRedis)]
                {
                    row.push(cell(value(ours)));
                    row.extend([System::Floor, theirs].map(|other| ratio(value(ours), value(other))));
                }
                rows.push(row.try_into().expect("a cell for each column"));
            }
        }
        let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<_> = (0..HEAD.len()).map(width).collect();
        let mut text = String::new();
        for (number, row) in rows.iter().enumerate() {
            for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
                let cell = if column == 0 { format!("{cell:<width$}") } else { format!("{cell:>width$}") };
                text += &format!("| {cell} ");
            }
            text += "|\n";
            if number == 0 {
                let line = |(column, width): (usize, &usize)| {
                    if column == 0 { "-".repeat(*width) } else { "-".repeat(width - 1) + ":" }
                };
                let lines: Vec<_> = widths.iter().enumerate().map(line).collect();
                text += &format!("| {} |\n", lines.join(" | "));
            }
        }
        text
    }
}

const HEAD: [&str; 10] = [
    "",
    "floor",
    "nchan",
    "nchan, Redis",
    "embedded",
    "/ floor",
    "/ nchan",
    "two nodes",
    "/ floor",
    "/ nchan, Redis",
];

fn cell(value: Option<f64>) -> String {
    match value {
        None => String::new(),
        Some(value) if value.abs() >= 100.0 => format!("{value:.0}"),
        Some(value) if value.abs() >= 10.0 => format!("{value:.1}"),
        Some(value) => format!("{value:.2}"),
    }
}

fn ratio(ours: Option<f64>, other: Option<f64>) -> String {
    match (ours, other) {
        (Some(ours), Some(other)) if other > 0.0 => format!("{:.2}", ours / other),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_of_each_is_shown_and_compared() {
        let mut table = Table::default();
        for (system, cpu, rate) in [
            (System::Floor, 4.0, 30_000.0),
            (System::Floor, 5.0, 40_000.0),
            (System::Nchan, 8.0, 20_000.0),
            (System::Embedded, 6.0, 10_000.0),
        ] {
            table.add(system, Scenario::Publish, &[(Figure::EventCpu, cpu), (Figure::Rate, rate)].into());
        }
        let text = table.text();
        let rows: Vec<Vec<&str>> =
            text.lines().map(|line| line.split('|').map(str::trim).collect()).collect();
        assert_eq!(rows.len(), 4, "{text}");
        let rate =
            ["", "publish: events a second", "40000", "20000", "", "10000", "0.25", "0.50", "", "", "", ""];
        assert_eq!(rows[2], rate);
        let cpu =
            ["", "publish: CPU for an event, µs", "4.00", "8.00", "", "6.00", "1.50", "0.75", "", "", "", ""];
        assert_eq!(rows[3], cpu);
    }
}
