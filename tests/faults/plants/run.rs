//! `faults plants`: runs the table, says for each plant who caught it after how much, and fails if one escapes.

use std::{
    collections::BTreeSet,
    io::Write as _,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Mutex,
    time::{Duration, Instant},
};

use super::{Harness, PLANTS, Plant, crash, directed, lone::Failure, rigs};

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

/// What became of one plant, or of a run without any.
struct Verdict {
    name: String,
    good: bool,
    line: String,
    story: String,
    /// Simulation: the seed at which it ended.
    seed: u64,
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
    let began = Instant::now();
    let verdicts = Bench { arguments }.all();
    let escaped: Vec<&Verdict> = verdicts.iter().filter(|verdict| !verdict.good).collect();
    say(&format!(
        "\nplants: {} runs in {:.0?}, {} as they should be, {} not",
        verdicts.len(),
        began.elapsed(),
        verdicts.len() - escaped.len(),
        escaped.len()
    ));
    for verdict in &escaped {
        say(&format!("  FAIL {}: {}", verdict.name, verdict.line));
    }
    if escaped.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

impl Verdict {
    fn of(name: &str, good: bool, line: String, story: &str) -> Self {
        Self {
            name: name.to_owned(),
            good,
            line,
            story: story.to_owned(),
            seed: 0,
        }
    }

    fn not_run(name: &str, error: &Failure) -> Self {
        Self::of(name, false, format!("could not be run: {error}"), "")
    }

    fn tell(self) -> Self {
        let mark = if self.good { "ok  " } else { "FAIL" };
        let mut told = format!("{mark} {:36} {}", self.name, self.line);
        for line in self.story.lines() {
            told.push_str("\n         ");
            told.push_str(line);
        }
        say(&told);
        self
    }
}

/// One invocation.
struct Bench<'a> {
    arguments: &'a Arguments,
}

impl Bench<'_> {
    fn all(&self) -> Vec<Verdict> {
        let mut verdicts = self.directed();
        verdicts.extend(self.crash_points());
        verdicts.extend(self.simulations());
        verdicts.extend(self.processes());
        verdicts
    }

    fn wanted(&self, name: &str, harness: &str) -> bool {
        let arguments = self.arguments;
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
            let sound = (!self.arguments.planted_only).then(|| match run_directed(test) {
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
                let found = run_directed(test);
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
            let found = in_a_folder(|folder| crash::walk(point, folder));
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
                let verdict = in_a_folder(|folder| self.simulate(plant, folder))
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
            let sound = in_a_folder(|folder| self.simulate_soundly(last, folder));
            verdicts.push(
                sound
                    .unwrap_or_else(|error| Verdict::not_run("nothing planted", &error))
                    .tell(),
            );
        }
        verdicts
    }

    fn simulate(&self, plant: &'static Plant, folder: &Path) -> Result<Verdict, Failure> {
        let Harness::Simulation { seeds } = plant.harness else {
            return Err("it is no plant for the simulation".into());
        };
        let began = Instant::now();
        let first = self.arguments.seed;
        let mut others = BTreeSet::new();
        for seed in first..first + u64::from(seeds) {
            let findings = rigs::simulate(Some(plant), seed, folder)?;
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

    fn simulate_soundly(&self, last: u64, folder: &Path) -> Result<Verdict, Failure> {
        let first = self.arguments.seed;
        let last = last.max(first + SOUND_SEEDS - 1);
        let began = Instant::now();
        for seed in first..=last {
            if let Some(finding) = rigs::simulate(None, seed, folder)?.into_iter().next() {
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

    fn processes(&self) -> Vec<Verdict> {
        let plants = self.plants("processes");
        let mut verdicts = Vec::new();
        let mut sound = BTreeSet::new();
        for plant in plants {
            let Harness::Processes { faults, seconds } = plant.harness else {
                continue;
            };
            if !self.arguments.planted_only && sound.insert(faults) {
                let verdict = in_a_folder(|folder| {
                    let found = rigs::run_processes(None, faults, self.arguments.seed, SOUND_SCENARIO_MAX, folder)?;
                    Ok(match found.into_iter().next() {
                        None => Verdict::of(
                            "nothing planted",
                            true,
                            format!("{faults} with real processes, nothing found"),
                            "",
                        ),
                        Some(finding) => Verdict::of(
                            "nothing planted",
                            false,
                            format!("{faults}: {} finds something", finding.checker),
                            &finding.story,
                        ),
                    })
                });
                verdicts.push(verdict.unwrap_or_else(|error| Verdict::not_run(faults, &error)).tell());
            }
            let verdict =
                in_a_folder(|folder| self.harm(plant, faults, Duration::from_secs(u64::from(seconds)), folder));
            verdicts.push(
                verdict
                    .unwrap_or_else(|error| Verdict::not_run(plant.name, &error))
                    .tell(),
            );
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
                return Ok(verdict);
            }
        }
        Ok(escaped(plant, &format!("{scenario} for {longest:?}"), &others))
    }
}

/// Whether one of the checkers that the plant names found it; the names of the others are collected.
fn caught(plant: &Plant, findings: &[rigs::Finding], others: &mut BTreeSet<String>) -> Option<Verdict> {
    let by_name = findings
        .iter()
        .find(|finding| plant.caught_by.contains(&finding.checker.as_str()));
    let also: BTreeSet<&str> = findings.iter().map(|finding| finding.checker.as_str()).collect();
    let Some(finding) = by_name else {
        others.extend(also.into_iter().map(str::to_owned));
        return None;
    };
    let also: Vec<&str> = also.into_iter().filter(|name| *name != finding.checker).collect();
    let also = if also.is_empty() {
        String::new()
    } else {
        format!(" (and {})", also.join(", "))
    };
    Some(Verdict::of(
        plant.name,
        true,
        format!("caught by {}{also}", finding.checker),
        &finding.story,
    ))
}

fn escaped(plant: &Plant, budget: &str, others: &BTreeSet<String>) -> Verdict {
    let others: Vec<&str> = others.iter().map(String::as_str).collect();
    let others = if others.is_empty() {
        "nobody".to_owned()
    } else {
        others.join(", ")
    };
    let line = format!(
        "ESCAPED {} in {budget}; {others} found something",
        plant.caught_by.join(" and ")
    );
    Verdict::of(plant.name, false, line, "")
}

fn run_directed(test: &str) -> directed::Found {
    let test = directed::named(test).ok_or("there is no such directed test")?;
    in_a_folder(test)
}

fn in_a_folder<T>(work: impl FnOnce(&Path) -> Result<T, Failure>) -> Result<T, Failure> {
    let folder = tempfile::tempdir()?;
    work(folder.path())
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

/// A line for whoever reads the run.
pub(super) fn say(line: &str) {
    // A reader that left is no failure of the run.
    let _left = writeln!(std::io::stdout(), "{line}");
}

fn complain(line: &str) {
    let _left = writeln!(std::io::stderr(), "{line}");
}
