//! What `scripts/bench` passes on.

use std::path::PathBuf;

use crate::scenario::Scenario;
use crate::systems::System;

/// See [`USAGE`].
#[derive(Debug)]
pub struct Options {
    pub carillon: PathBuf,
    pub postgres: PathBuf,
    pub folder: PathBuf,
    pub repetitions: u32,
    pub is_quick: bool,
    pub systems: Vec<System>,
    pub scenarios: Vec<Scenario>,
}

pub const USAGE: &str = "\
scripts/bench [--repetitions NUMBER] [--quick] [--systems NAME,…] [SCENARIO…]
  --repetitions  how often all is measured; the best of each counts (2)
  --quick        small numbers, once: shows that it works, and measures nothing
  --systems      some of floor, nchan, nchan-redis, embedded, cluster (all)
  SCENARIO       some of broadcast-1000, broadcast-5000, users, idle, publish, batches (all)";

impl Options {
    /// Reads the arguments of this program.
    pub fn read(arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut options = Self {
            carillon: PathBuf::new(),
            postgres: PathBuf::new(),
            folder: PathBuf::new(),
            repetitions: 2,
            is_quick: false,
            systems: System::ALL.to_vec(),
            scenarios: Vec::new(),
        };
        let mut arguments = arguments;
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or(format!("{argument} wants a value"));
            match argument.as_str() {
                "--carillon" => options.carillon = value()?.into(),
                "--postgres" => options.postgres = value()?.into(),
                "--folder" => options.folder = value()?.into(),
                "--repetitions" => {
                    let text = value()?;
                    options.repetitions = text
                        .parse()
                        .ok()
                        .filter(|number| *number > 0)
                        .ok_or(format!("--repetitions wants a number of at least 1, not {text}"))?;
                }
                "--help" => return Err("Measures Carillon beside others; see docs/operations.md.".to_owned()),
                "--quick" => options.is_quick = true,
                "--systems" => {
                    let text = value()?;
                    options.systems = text.split(',').map(system).collect::<Result<_, _>>()?;
                }
                name => options.scenarios.push(scenario(name)?),
            }
        }
        if options.is_quick {
            options.repetitions = 1;
        }
        if options.scenarios.is_empty() {
            options.scenarios = Scenario::ALL.to_vec();
        }
        Ok(options)
    }
}

fn system(name: &str) -> Result<System, String> {
    let found = System::ALL.into_iter().find(|system| system.name() == name);
    found.ok_or(format!("--systems: there is no {name:?}"))
}

fn scenario(name: &str) -> Result<Scenario, String> {
    let found = Scenario::ALL.into_iter().find(|scenario| scenario.name() == name);
    found.ok_or(format!("there is no option and no scenario {name:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Options, String> {
        Options::read(text.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn options_are_read() {
        let all = read("").unwrap();
        assert_eq!((all.systems.len(), all.scenarios.len(), all.repetitions), (5, 6, 2));
        let some = read("--quick --systems floor,cluster users batches").unwrap();
        assert_eq!(some.systems, [System::Floor, System::Cluster]);
        assert_eq!(some.scenarios, [Scenario::Users, Scenario::Batches]);
        assert_eq!(some.repetitions, 1);
        assert!(some.is_quick);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, named) in [
            ("--systems flor", "flor"),
            ("usres", "usres"),
            ("--repetitions 0", "--repetitions"),
            ("--folder", "--folder"),
        ] {
            assert!(read(text).unwrap_err().contains(named), "{text}");
        }
    }
}
