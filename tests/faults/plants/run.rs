//! `faults plants`: runs the table, says for each plant who caught it after how much, and fails if one escapes.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Mutex,
    time::{Duration, Instant},
};

use super::{
    Harness, PLANTS, Plant, crash, directed,
    lone::Failure,
    rigs,
    verdict::{Verdict, caught, complain, escaped, say, sum_up},
};
use crate::simulate::child::{self, Folders};

/// Seeds that are simulated without plants, at the least.
const SOUND_SEEDS: u64 = 10;
/// A scenario of real processes without plants ends within this.
const SOUND_SCENARIO_MAX: Duration = Duration::from_secs(400);

/// What `faults plants` takes.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Arguments {
    /// These plants and crash points only
    #[arg(long, num_args = 1.., value_name = "NAME")]
    only: Vec<String>,
    /// Those of one harness only
    #[arg(long, value_parser = ["directed", "simulation", "processes", "crash"])]
    harness: Option<String>,
    /// The first seed of each
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Simulations that run at once
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// Print the table and run nothing
    #[arg(long)]
    list: bool,
    /// Skip the runs without plants
    #[arg(long)]
    planted_only: bool,
    #[arg(long, hide = true)]
    child: Option<String>,
    #[arg(long, hide = true)]
    folder: Option<PathBuf>,
}

/// Runs what the arguments ask for.
pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    if let (Some(part), Some(folder)) = (&arguments.child, &arguments.folder) {
        return match crash::play(part, folder) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                complain(&error.to_string());
                ExitCode::FAILURE
            }
        };
    }
    if arguments.list {
        PLANTS.iter().for_each(|plant| say(&line_of(plant)));
        crash::POINTS.iter().for_each(|point| {
            say(&format!(
                "{:36} crash      the process ends there, and comes back whole",
                point.name
            ));
        });
        return ExitCode::SUCCESS;
    }
    if !fail::has_failpoints() {
        complain("this build has no plants: build it with --features failpoints");
        return ExitCode::from(2);
    }
    let arguments = arguments.clone();
    let ended = child::with_scratch(move |folders| {
        let folders = folders.clone();
        Bench { arguments, folders }.run()
    });
    ended.unwrap_or_else(|error| {
        complain(&error.to_string());
        ExitCode::from(2)
    })
}

/// One invocation.
struct Bench {
    arguments: Arguments,
    folders: Folders,
}

impl Bench {
    fn run(&self) -> ExitCode {
        let began = Instant::now();
        let verdicts = self.all();
        sum_up(&verdicts, began.elapsed())
    }

    fn all(&self) -> Vec<Verdict> {
        let mut verdicts = self.directed();
        verdicts.extend(self.crash_points());
        verdicts.extend(self.simulations());
        verdicts.extend(self.processes());
        verdicts
    }

    fn wanted(&self, name: &str, harness: &str) -> bool {
        let arguments = &self.arguments;
        (arguments.only.is_empty() || arguments.only.iter().any(|only| only == name))
            && arguments.harness.as_ref().is_none_or(|only| only == harness)
    }

    fn plants(&self, harness: &str) -> Vec<&'static Plant> {
        PLANTS
            .iter()
            .filter(|plant| kind(plant.harness) == harness && self.wanted(plant.name, harness))
            .collect()
    }

    /// In this process: one after another, for what is switched on is switched on for all of it.
    fn directed(&self) -> Vec<Verdict> {
        let plants = self.plants("directed");
        let tests: BTreeSet<&str> = plants
            .iter()
            .filter_map(|plant| match plant.harness {
                Harness::Directed { test } => Some(test),
                Harness::Simulation { .. } | Harness::Processes { .. } => None,
            })
            .collect();
        let mut verdicts = Vec::new();
        for test in tests {
            let sound = (!self.arguments.planted_only).then(|| match self.run_directed(test) {
                Ok(Ok(looked_at)) => Verdict::of(
                    "nothing planted",
                    true,
                    format!("{test} finds nothing: {looked_at}"),
                    "",
                ),
                Ok(Err(story)) => Verdict::of("nothing planted", false, format!("{test} finds something"), &story),
                Err(error) => Verdict::not_run(test, &error),
            });
            verdicts.extend(sound.map(Verdict::tell));
            for plant in plants.iter().filter(|plant| plant.caught_by == [test]) {
                let began = Instant::now();
                let switched = fail::FailGuard::new(plant.name, plant.actions);
                let found = self.run_directed(test);
                drop(switched);
                let verdict = match found {
                    Ok(Err(story)) => Verdict::of(
                        plant.name,
                        true,
                        format!("caught by {test} in {:.1?}", began.elapsed()),
                        &story,
                    ),
                    Ok(Ok(looked_at)) => {
                        Verdict::of(plant.name, false, format!("{test} finds nothing: {looked_at}"), "")
                    }
                    Err(error) => Verdict::not_run(plant.name, &error),
                };
                verdicts.push(verdict.tell());
            }
        }
        verdicts
    }

    fn crash_points(&self) -> Vec<Verdict> {
        let points = crash::POINTS.iter().filter(|point| self.wanted(point.name, "crash"));
        let walked = points.map(|point| {
            let began = Instant::now();
            let found = self.in_a_folder(|folder| crash::walk(point, folder));
            let verdict = match found {
                Ok(Ok(looked_at)) => Verdict::of(
                    point.name,
                    true,
                    format!("survived in {:.1?}: {looked_at}", began.elapsed()),
                    "",
                ),
                Ok(Err(story)) => Verdict::of(point.name, false, "not survived".to_owned(), &story),
                Err(error) => Verdict::not_run(point.name, &error),
            };
            verdict.tell()
        });
        walked.collect()
    }

    /// Seeds in processes of their own, several plants at once; then as many seeds without plants as the slowest took.
    fn simulations(&self) -> Vec<Verdict> {
        let plants = self.plants("simulation");
        if plants.is_empty() {
            return Vec::new();
        }
        let (waiting, done) = (Mutex::new(plants.into_iter()), Mutex::new(Vec::new()));
        let work = || {
            while let Some(plant) = waiting.lock().ok().and_then(|mut waiting| waiting.next()) {
                let verdict = self
                    .simulate(plant)
                    .unwrap_or_else(|error| Verdict::not_run(plant.name, &error))
                    .tell();
                if let Ok(mut done) = done.lock() {
                    done.push(verdict);
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..self.arguments.jobs.max(1) {
                scope.spawn(work);
            }
        });
        let mut verdicts = done.into_inner().unwrap_or_default();
        if !self.arguments.planted_only {
            let last = verdicts
                .iter()
                .filter(|verdict| verdict.good)
                .map(|verdict| verdict.seed)
                .max()
                .unwrap_or(0);
            let sound = self.simulate_soundly(last);
            verdicts.push(
                sound
                    .unwrap_or_else(|error| Verdict::not_run("nothing planted", &error))
                    .tell(),
            );
        }
        verdicts
    }

    fn simulate(&self, plant: &'static Plant) -> Result<Verdict, Failure> {
        let Harness::Simulation { seeds } = plant.harness else {
            return Err("it is no plant for the simulation".into());
        };
        let began = Instant::now();
        let first = self.arguments.seed;
        let mut others = BTreeSet::new();
        for seed in first..first + u64::from(seeds) {
            let findings = rigs::simulate(Some(plant), seed, &self.folders)?;
            if let Some(mut verdict) = caught(plant, &findings, &mut others) {
                let tried = seed - first + 1;
                verdict.line = format!(
                    "{} at seed {seed}, the {tried}. of {seeds}, in {:.0?}",
                    verdict.line,
                    began.elapsed()
                );
                verdict.seed = seed;
                return Ok(verdict);
            }
        }
        Ok(escaped(plant, &format!("{seeds} seeds"), &others))
    }

    fn simulate_soundly(&self, last: u64) -> Result<Verdict, Failure> {
        let first = self.arguments.seed;
        let last = last.max(first + SOUND_SEEDS - 1);
        let began = Instant::now();
        for seed in first..=last {
            if let Some(finding) = rigs::simulate(None, seed, &self.folders)?.into_iter().next() {
                let line = format!("seed {seed}: {} finds something", finding.checker);
                return Ok(Verdict::of("nothing planted", false, line, &finding.story));
            }
        }
        let line = format!(
            "{} seeds of the simulation, nothing found, in {:.0?}",
            last - first + 1,
            began.elapsed()
        );
        Ok(Verdict::of("nothing planted", true, line, ""))
    }

    /// One after another, for each wants the whole machine; then every seed of a scenario that a plant needed, without.
    fn processes(&self) -> Vec<Verdict> {
        let first = self.arguments.seed;
        let mut verdicts = Vec::new();
        let mut sound = BTreeSet::new();
        for plant in self.plants("processes") {
            let Harness::Processes { faults, seconds } = plant.harness else {
                continue;
            };
            let longest = Duration::from_secs(u64::from(seconds));
            let verdict = self
                .in_a_folder(|folder| self.harm(plant, faults, longest, folder))
                .unwrap_or_else(|error| Verdict::not_run(plant.name, &error))
                .tell();
            let last = verdict.seed.max(first);
            verdicts.push(verdict);
            for seed in first..=last {
                if self.arguments.planted_only || !sound.insert((faults, seed)) {
                    continue;
                }
                let verdict = self
                    .in_a_folder(|folder| harm_soundly(faults, seed, folder))
                    .unwrap_or_else(|error| Verdict::not_run(faults, &error));
                verdicts.push(verdict.tell());
            }
        }
        verdicts
    }

    /// The scenario again and again, with other seeds, until the plant is caught or its time is up.
    fn harm(
        &self,
        plant: &'static Plant,
        scenario: &str,
        longest: Duration,
        folder: &Path,
    ) -> Result<Verdict, Failure> {
        let began = Instant::now();
        let mut others = BTreeSet::new();
        for seed in self.arguments.seed.. {
            let left = longest.saturating_sub(began.elapsed());
            if left.is_zero() {
                break;
            }
            // The last run may take what a whole one takes: it is not cut off in the middle.
            let findings = rigs::run_processes(Some(plant), scenario, seed, SOUND_SCENARIO_MAX, folder)?;
            if let Some(mut verdict) = caught(plant, &findings, &mut others) {
                verdict.line = format!(
                    "{} in {scenario}, seed {seed}, in {:.0?}",
                    verdict.line,
                    began.elapsed()
                );
                verdict.seed = seed;
                return Ok(verdict);
            }
        }
        Ok(escaped(plant, &format!("{scenario} for {longest:?}"), &others))
    }

    fn run_directed(&self, test: &str) -> directed::Found {
        let test = directed::named(test).ok_or("there is no such directed test")?;
        self.in_a_folder(|folder| directed::in_time(test, folder))
    }

    fn in_a_folder<T>(&self, work: impl FnOnce(&Path) -> Result<T, Failure>) -> Result<T, Failure> {
        if child::is_ending() {
            return Err("the run was told to end".into());
        }
        let folder = tempfile::tempdir_in(&self.folders.disk)?;
        work(folder.path())
    }
}

/// The scenario with the same nodes and nothing planted.
fn harm_soundly(scenario: &str, seed: u64, folder: &Path) -> Result<Verdict, Failure> {
    let found = rigs::run_processes(None, scenario, seed, SOUND_SCENARIO_MAX, folder)?;
    Ok(match found.into_iter().next() {
        None => {
            let line = format!("{scenario} with real processes, seed {seed}, nothing found");
            Verdict::of("nothing planted", true, line, "")
        }
        Some(finding) => {
            let line = format!("{scenario}, seed {seed}: {} finds something", finding.checker);
            Verdict::of("nothing planted", false, line, &finding.story)
        }
    })
}

fn kind(harness: Harness) -> &'static str {
    match harness {
        Harness::Directed { .. } => "directed",
        Harness::Simulation { .. } => "simulation",
        Harness::Processes { .. } => "processes",
    }
}

fn line_of(plant: &Plant) -> String {
    let budget = match plant.harness {
        Harness::Directed { .. } => "at once".to_owned(),
        Harness::Simulation { seeds } => format!("{seeds} seeds"),
        Harness::Processes { faults, seconds } => format!("{faults}, {seconds} s"),
    };
    format!(
        "{:36} {:10} {} [{}; {budget}]",
        plant.name,
        kind(plant.harness),
        plant.breaks,
        plant.caught_by.join(" or ")
    )
}
