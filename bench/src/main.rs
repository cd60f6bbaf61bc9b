//! Measures Carillon beside nginx with nchan, and beside the least that delivering can cost. `scripts/bench` builds and runs
//! it.

mod floor;
mod ledger;
mod listeners;
mod options;
mod process;
mod publisher;
mod run;
mod scenario;
mod stream;
mod systems;
mod table;
mod usage;

use std::process::ExitCode;

use options::{Options, USAGE};
use scenario::{Figure, Scenario};
use systems::{Place, System};
use table::Table;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1).peekable();
    if arguments.next_if(|argument| argument == "floor").is_some() {
        return serve_floor(arguments.next());
    }
    let is_check = arguments.next_if(|argument| argument == "check").is_some();
    let options = match Options::read(arguments) {
        Ok(_) if is_check => return ExitCode::SUCCESS,
        Ok(options) => options,
        Err(error) => {
            eprintln!("{error}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let (table, faults) = measure_all(&options);
    println!("\nload averages at the end: {}", usage::load_averages());
    match options.is_quick {
        true => println!("Small numbers, once: this shows that it works, and not how well.\n"),
        false => println!(
            "The best of {} repetitions; CPU and memory are of all processes of a system.\n",
            options.repetitions
        ),
    }
    print!("{}", table.text());
    if faults.is_empty() {
        println!("\nNothing was lost, repeated or out of order.");
        return ExitCode::SUCCESS;
    }
    println!(
        "\nWhat went wrong:\n{}",
        faults.iter().map(|(_, fault)| &fault[..]).collect::<Vec<_>>().join("\n")
    );
    // Only what others lose is no fault of ours.
    let is_ours = faults.iter().any(|(system, _)| system.is_carillon() || *system == System::Floor);
    if is_ours { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn serve_floor(address: Option<String>) -> ExitCode {
    let Some(address) = address.and_then(|address| address.parse().ok()) else {
        eprintln!("floor wants an address");
        return ExitCode::from(2);
    };
    match floor::serve(address) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("the floor at {address}: {error}");
            ExitCode::FAILURE
        }
    }
}

/// All repetitions of all that is asked for, and what went wrong. Each repetition goes through everything, so that what
/// slows the machine down for a while does so to all.
fn measure_all(options: &Options) -> (Table, Vec<(System, String)>) {
    let (mut table, mut faults) = (Table::default(), Vec::new());
    println!("load averages at the beginning: {}", usage::load_averages());
    for repetition in 1..=options.repetitions {
        for scenario in Scenario::ALL.into_iter().filter(|scenario| options.scenarios.contains(scenario)) {
            for system in options.systems.iter().copied().filter(|system| system.takes(scenario)) {
                if !options.is_quick {
                    run::wait_for_quiet();
                }
                let load = scenario.load(options.is_quick);
                let place = Place {
                    carillon: options.carillon.clone(),
                    postgres: options.postgres.clone(),
                    folder: options.folder.join("run"),
                    users: load.listeners,
                };
                print!("{repetition}/{}  {:<15} {:<12}", options.repetitions, scenario.name(), system.name());
                let wrong = match run::run(system, load, &place) {
                    Ok(outcome) => {
                        println!("{}", line(scenario, &outcome));
                        // What was lost cost nothing.
                        if outcome.faults.is_empty() {
                            table.add(system, scenario, &outcome.figures);
                        }
                        outcome.faults
                    }
                    Err(error) => {
                        println!("failed: {error}\n{}", run::last_lines(&place.folder));
                        vec![error.to_string()]
                    }
                };
                let told = |fault| (system, format!("{}, {}: {fault}", scenario.name(), system.name()));
                faults.extend(wrong.into_iter().map(told));
            }
        }
    }
    (table, faults)
}

fn line(scenario: Scenario, outcome: &run::Outcome) -> String {
    let value = |(figure, name): &(Figure, &str)| {
        outcome.figures.get(figure).map(|value| format!("{name}: {value:.1};"))
    };
    let values: Vec<_> = scenario.figures().iter().filter_map(value).collect();
    let others = outcome.others * 100.0;
    format!("{} others {others:.0} %, load {}", values.join(" "), usage::load_averages())
}
