//! `faults plants`: runs the table, says for each plant who caught it after how much, and fails if one escapes.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Instant,
};

use super::{Harness, PLANTS, Plant, crash, directed, lone::Failure};

/// What `faults plants` takes.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Only plants and crash points whose name contains this.
    #[arg(long)]
    only: Option<String>,
    /// Only those of one harness: directed, simulation, processes, crash.
    #[arg(long)]
    harness: Option<String>,
    /// Print the table and run nothing.
    #[arg(long)]
    list: bool,
    #[arg(long, hide = true)]
    child: Option<String>,
    #[arg(long, hide = true)]
    folder: Option<PathBuf>,
}

/// What became of one plant, or of a run without any.
struct Verdict {
    name: String,
    caught: bool,
    line: String,
    story: String,
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
        crash::POINTS
            .iter()
            .for_each(|point| say(&format!("{:36} crash      the process ends there", point.name)));
        return ExitCode::SUCCESS;
    }
    if !fail::has_failpoints() {
        complain("this build has no plants: build it with --features failpoints");
        return ExitCode::from(2);
    }
    let verdicts = all(arguments);
    let escaped: Vec<&Verdict> = verdicts.iter().filter(|verdict| !verdict.caught).collect();
    say(&format!(
        "plants: {} run, {} caught, {} escaped",
        verdicts.len(),
        verdicts.len() - escaped.len(),
        escaped.len()
    ));
    for verdict in &escaped {
        say(&format!("  ESCAPED {}: {}", verdict.name, verdict.line));
    }
    if escaped.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn all(arguments: &Arguments) -> Vec<Verdict> {
    let mut verdicts = Vec::new();
    let wanted = |name: &str, harness: &str| {
        arguments.only.as_ref().is_none_or(|only| name.contains(only.as_str()))
            && arguments.harness.as_ref().is_none_or(|only| only == harness)
    };
    let chosen: Vec<&Plant> = PLANTS
        .iter()
        .filter(|plant| wanted(plant.name, kind(plant.harness)))
        .collect();
    for sound in sound_runs(&chosen) {
        tell(&sound);
        verdicts.push(sound);
    }
    for plant in chosen {
        let verdict = planted(plant);
        tell(&verdict);
        verdicts.push(verdict);
    }
    for point in crash::POINTS.iter().filter(|point| wanted(point.name, "crash")) {
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
            Err(error) => Verdict::of(point.name, false, format!("could not be run: {error}"), ""),
        };
        tell(&verdict);
        verdicts.push(verdict);
    }
    verdicts
}

impl Verdict {
    fn of(name: &str, caught: bool, line: String, story: &str) -> Self {
        Self {
            name: name.to_owned(),
            caught,
            line,
            story: story.to_owned(),
        }
    }
}

fn tell(verdict: &Verdict) {
    let mark = if verdict.caught { "ok  " } else { "FAIL" };
    say(&format!("{mark} {:36} {}", verdict.name, verdict.line));
    for line in verdict.story.lines() {
        say(&format!("         {line}"));
    }
}

/// The same harnesses with nothing planted: they must find nothing, or what they find of a plant says little.
fn sound_runs(chosen: &[&Plant]) -> Vec<Verdict> {
    let mut verdicts = Vec::new();
    let mut tests: Vec<&str> = chosen
        .iter()
        .filter_map(|plant| match plant.harness {
            Harness::Directed { test } => Some(test),
            Harness::Simulation { .. } | Harness::Processes { .. } => None,
        })
        .collect();
    tests.sort_unstable();
    tests.dedup();
    for test in tests {
        let name = format!("without plants: {test}");
        verdicts.push(match run_directed(test) {
            Ok(Ok(looked_at)) => Verdict::of(&name, true, format!("finds nothing: {looked_at}"), ""),
            Ok(Err(story)) => Verdict::of(&name, false, "finds something".to_owned(), &story),
            Err(error) => Verdict::of(&name, false, format!("could not be run: {error}"), ""),
        });
    }
    verdicts
}

fn planted(plant: &Plant) -> Verdict {
    let began = Instant::now();
    match plant.harness {
        Harness::Directed { test } => {
            let switched = fail::FailGuard::new(plant.name, plant.actions);
            let found = run_directed(test);
            drop(switched);
            match found {
                Ok(Err(story)) => Verdict::of(
                    plant.name,
                    true,
                    format!("caught by {test} in {:.1?}", began.elapsed()),
                    &story,
                ),
                Ok(Ok(looked_at)) => Verdict::of(plant.name, false, format!("{test} finds nothing: {looked_at}"), ""),
                Err(error) => Verdict::of(plant.name, false, format!("could not be run: {error}"), ""),
            }
        }
        Harness::Simulation { seeds } => Verdict::of(
            plant.name,
            false,
            format!("simulation of {seeds} seeds: not wired up"),
            "",
        ),
        Harness::Processes { faults, seconds } => Verdict::of(
            plant.name,
            false,
            format!("processes with {faults} for {seconds} s: not wired up"),
            "",
        ),
    }
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
        Harness::Directed { test } => test.to_owned(),
        Harness::Simulation { seeds } => format!("{seeds} seeds"),
        Harness::Processes { faults, seconds } => format!("{faults}, {seconds} s"),
    };
    format!(
        "{:36} {:10} {:24} {} [{budget}]",
        plant.name,
        kind(plant.harness),
        plant.caught_by.join(" | "),
        plant.breaks
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
