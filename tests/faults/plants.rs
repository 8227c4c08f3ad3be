//! Planted bugs: each is switched on, one at a time, and the checker that the table names must catch it within its
//! budget; with none switched on, the same harness must find nothing. A checker that was never seen to fail proves
//! nothing.
//!
//! The marks themselves stand in `src/` (`planted!`, see `src/plant.rs`); they do something only in a build with the
//! feature `failpoints`. The *crash points* beside them end the process where it stands: `crash.rs` walks through all.

mod crash;
mod directed;
mod lone;
mod power;
mod rigs;
mod run;
mod table;
mod verdict;

pub(crate) use run::{Arguments, run};
pub(crate) use table::PLANTS;

/// One planted bug, and who must find it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plant {
    /// The mark in `src/`.
    pub(crate) name: &'static str,
    /// What goes wrong then, in a user's words.
    pub(crate) breaks: &'static str,
    /// How it is switched on: the actions of the crate `fail`.
    pub(crate) actions: &'static str,
    /// What must find it.
    pub(crate) harness: Harness,
    /// The checkers of which one must say it. What the others say besides counts for nothing.
    pub(crate) caught_by: &'static [&'static str],
}

/// What runs a plant, and how long it may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Harness {
    /// One test that looks at one place.
    Directed {
        /// Its name in `directed.rs`.
        test: &'static str,
    },
    /// Simulated clusters under the usual faults.
    Simulation {
        /// Seeds, one after another, until it is caught.
        seeds: u32,
    },
    /// Real processes, built with the plants.
    Processes {
        /// The faults to choose from; see `run --only`.
        faults: &'static str,
        /// Until it is caught.
        seconds: u32,
    },
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeSet,
        fs,
        path::{Path, PathBuf},
    };

    use super::*;

    /// The names in `planted!("…"` or `fail_point!("…"` of all of `src/`.
    fn marks(of: &str) -> BTreeSet<String> {
        let mut waiting = vec![PathBuf::from("src")];
        let mut found = BTreeSet::new();
        while let Some(path) = waiting.pop() {
            if path.is_dir() {
                waiting.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            } else if path != Path::new("src/plant.rs") {
                let text: String = fs::read_to_string(&path).unwrap().split_whitespace().collect();
                let opening = format!("{of}!(\"");
                let names = text.split(&opening).skip(1);
                found.extend(names.filter_map(|rest| Some(rest.split_once('"')?.0.to_owned())));
            }
        }
        found
    }

    #[test]
    fn every_mark_has_a_plant_and_every_plant_a_mark() {
        let planted: BTreeSet<String> = PLANTS.iter().map(|plant| plant.name.to_owned()).collect();
        assert_eq!(planted, marks("planted"));
    }

    #[test]
    fn every_crash_point_is_walked_through() {
        let points: BTreeSet<String> = crash::POINTS.iter().map(|point| point.name.to_owned()).collect();
        assert_eq!(points, marks("fail_point"));
    }

    #[test]
    fn every_directed_plant_names_a_test_that_is_there() {
        for plant in PLANTS {
            if let Harness::Directed { test } = plant.harness {
                assert!(directed::named(test).is_some(), "{test}");
                assert_eq!(plant.caught_by, [test]);
            }
            assert!(!plant.caught_by.is_empty(), "{}", plant.name);
        }
    }
}
