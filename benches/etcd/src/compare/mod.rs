//! Both registries by turns, and one table of what they did.

pub(crate) mod cluster;
mod plan;
mod table;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::Instant,
};

use clap::Args;
pub(crate) use cluster::KillAndRestartArgs;
use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};

use self::{
    cluster::{Cluster, Kind},
    plan::{Beside, ROWS, Row},
};
use crate::problem::{Problem, While as _};

/// Starts three nodes of each by turns, runs the same workloads on both, and prints one table
#[derive(Args, Debug)]
pub(crate) struct CompareArgs {
    /// The binary of Roster
    #[arg(long)]
    roster: PathBuf,
    /// The binary of etcd
    #[arg(long)]
    etcd: PathBuf,
    /// Where the nodes keep their data: both on the same disk
    #[arg(long)]
    dir: PathBuf,
    /// How often each side runs each workload
    #[arg(long, default_value_t = 2)]
    rounds: usize,
    /// How long each is measured, in seconds
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Only these workloads
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Only Roster: for whoever works on it
    #[arg(long)]
    roster_only: bool,
    /// Where all results are written, as they come, a JSON object a line
    #[arg(long)]
    results: Option<PathBuf>,
}

/// Results by workload and side, a round after another.
type Results = BTreeMap<(&'static str, &'static str), Vec<Value>>;

impl CompareArgs {
    pub(crate) async fn run(self) -> Result<(), Problem> {
        for id in &self.only {
            if !ROWS.iter().any(|row| row.id == id) {
                let known: Vec<&str> = ROWS.iter().map(|row| row.id).collect();
                return Err(Problem(format!("--only: {id}: there are {}", known.join(", "))));
            }
        }
        let mut results = Results::new();
        let ended = tokio::select! {
            ended = self.rounds(&mut results) => ended,
            // Who is being measured ends with what is dropped here.
            interrupted = interrupted() => Err(match interrupted {
                Ok(()) => Problem("interrupted: this is what there was until then".into()),
                Err(problem) => problem,
            }),
        };
        println!("{}", table::table(&results));
        ended
    }

    fn wanted(&self, row: &Row) -> bool {
        self.only.is_empty() || self.only.iter().any(|id| id == row.id)
    }

    /// A B A B: each workload on Roster, then on etcd, and again, so that what changes on the machine meets both.
    async fn rounds(&self, results: &mut Results) -> Result<(), Problem> {
        let began = Instant::now();
        for row in ROWS.iter().filter(|row| self.wanted(row)) {
            for round in 1..=self.rounds {
                let mut sides = vec![(Kind::Roster, row.roster)];
                if let Beside::Etcd(words) = row.beside
                    && !self.roster_only
                {
                    sides.push((Kind::Etcd, words));
                }
                for (kind, words) in sides {
                    let minutes = began.elapsed().as_secs() / 60;
                    eprintln!(
                        "{minutes:3} min  {} on {}, {round} of {}",
                        row.id,
                        kind.name(),
                        self.rounds
                    );
                    let result = self.workload(kind, row.id, words).await;
                    let result = result.when(format_args!("{} on {}", row.id, kind.name()))?;
                    self.keep(row.id, kind, &result)?;
                    results.entry((row.id, kind.name())).or_default().push(result);
                }
            }
        }
        Ok(())
    }

    /// A fresh cluster for each, so that nothing of the one before is left.
    async fn workload(&self, kind: Kind, id: &str, words: &[&str]) -> Result<Value, Problem> {
        let folder = self.dir.join(format!("{}-{id}", kind.name().to_lowercase()));
        clear(&folder)?;
        let binary = match kind {
            Kind::Roster => &self.roster,
            Kind::Etcd => &self.etcd,
        };
        let mut cluster = Cluster::start(kind, binary, folder.clone()).await?;
        let mut result = self.drive(kind, &cluster, words).await?;
        result["disk_bytes"] = cluster.disk_bytes().into();
        if words.first() == Some(&"memory") {
            for (field, all) in [("restart_one_us", false), ("restart_all_us", true)] {
                let took = cluster.restart(all).await?;
                result[field] = u64::try_from(took.as_micros())?.into();
            }
        }
        drop(cluster);
        clear(&folder)?;
        Ok(result)
    }

    /// Runs the command that drives a cluster; answers the object that it prints.
    async fn drive(&self, kind: Kind, cluster: &Cluster, words: &[&str]) -> Result<Value, Problem> {
        let me = std::env::current_exe()?;
        let mut command = match kind {
            Kind::Roster => {
                let mut command = tokio::process::Command::new(&self.roster);
                command.args(["bench", "-o", "json"]);
                command
            }
            Kind::Etcd => {
                let mut command = tokio::process::Command::new(&me);
                command.arg("etcd");
                command
            }
        };
        let workload = words.first().copied().unwrap_or_default();
        command.args(words);
        command.args(["--endpoints", &cluster.endpoints()]);
        if !["expiry", "failover", "memory"].contains(&workload) {
            command.args(["--seconds", &self.seconds.to_string()]);
        }
        if workload == "failover" {
            let state = cluster.state();
            let kill = format!("exec '{}' kill-and-restart --state '{}'", me.display(), state.display());
            command.args(["--kill-command", &kill]);
        } else {
            command.args(["--server-pids", &cluster.pids()]);
        }
        let output = command
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .output();
        let output = output.await.when("the command that drives it")?;
        let said = String::from_utf8_lossy(&output.stderr);
        if !output.status.success() {
            return Err(Problem(format!("{}: {}", output.status, said.trim())));
        }
        let text = String::from_utf8_lossy(&output.stdout);
        let object: Value = serde_json::from_str(text.trim()).when("its result")?;
        let errors = object["errors"].as_u64().unwrap_or_default();
        if errors > 0 {
            eprintln!("         {errors} errors: {}", object["errors_by_reason"]);
        }
        Ok(object)
    }

    fn keep(&self, id: &str, kind: Kind, result: &Value) -> Result<(), Problem> {
        use std::io::Write as _;
        let Some(path) = &self.results else { return Ok(()) };
        let file = fs::OpenOptions::new().append(true).create(true).open(path);
        let line = serde_json::json!({ "row": id, "of": kind.name(), "result": result });
        writeln!(file.when(path.display())?, "{line}").when(path.display())
    }
}

/// Waits for Ctrl-C or one of its likes.
pub(crate) async fn interrupted() -> Result<(), Problem> {
    let (mut term, mut hup) = (signal(SignalKind::terminate())?, signal(SignalKind::hangup())?);
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted?,
        _ = term.recv() => {}
        _ = hup.recv() => {}
    }
    Ok(())
}

pub(crate) fn clear(folder: &Path) -> Result<(), Problem> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error).when(folder.display()),
        _ => Ok(()),
    }
}
