//! Many instances: filled in, kept alive for minutes under load while a follower is away and comes back by snapshot,
//! and what calls cost at that size beside a small one.

mod load;
mod report;
mod samples;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use clap::Args;
use roster::client::{Client, Endpoint, Options};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use self::{
    load::{Load, fill},
    samples::{Kind, Samples, Span},
};
use crate::{
    compare::{
        clear,
        cluster::{self, Cluster},
        interrupted,
    },
    problem::{Problem, While as _},
};

/// Instances of a service.
const PER_SERVICE: usize = 100;
/// Instances of the small size.
const SMALL: usize = 10_000;
/// Tasks that renew the leases, each its share; and clients, each of connections of its own.
const KEEPERS: usize = 10;
const WRITERS: usize = 16;
const LISTERS: usize = 16;
/// Watchers of one service each, beside one of everything.
const WATCHERS: usize = 100;
/// How often each writer writes, and each lister lists.
const EVERY: Duration = Duration::from_millis(80);
/// Log records that a node keeps behind a snapshot here: fewer than usual, so that the follower that is away misses more
/// than the log still has.
const KEPT_RECORDS: &str = "--log-kept-records=5000";
/// When the follower goes.
const CUT_AFTER: Duration = Duration::from_secs(20);
/// What `roster bench register` leaves ends within this.
const LEFTOVERS_END: Duration = Duration::from_secs(75);
/// How often it is looked what the nodes do.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How far ahead of the first node's log all are asked for the hash of their state.
const HASH_AHEAD: i64 = 30;
/// How long it may take until all nodes have the same state.
const EQUAL_WITHIN: Duration = Duration::from_secs(60);

/// Fills a cluster with a million instances, keeps them alive under load, and says what that size costs
#[derive(Args, Debug)]
pub(crate) struct ScaleArgs {
    /// The binary of Roster
    #[arg(long)]
    roster: PathBuf,
    /// Where the nodes keep their data
    #[arg(long)]
    dir: PathBuf,
    /// How many instances
    #[arg(long, default_value_t = 1_000_000)]
    instances: usize,
    /// How many leases hold them
    #[arg(long, default_value_t = 100_000)]
    leases: usize,
    /// How long they are kept alive under load
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=24 * 60))]
    minutes: u64,
    /// How long each cost is measured, in seconds
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// Where the result is written too, as a JSON object
    #[arg(long)]
    results: Option<PathBuf>,
}

/// What happened while the instances were kept alive.
#[derive(Default)]
struct Happened {
    /// Snapshots that nodes built or received: which node, and when.
    snapshots: Vec<(usize, Span)>,
    /// The follower that was killed: until when it was dead, and how long it then took to catch up.
    away: Option<(Duration, Duration)>,
    caught_up_by_snapshot: bool,
}

impl ScaleArgs {
    pub(crate) async fn run(self) -> Result<(), Problem> {
        let per_lease = self.instances.checked_div(self.leases).unwrap_or_default();
        if per_lease == 0 || !PER_SERVICE.is_multiple_of(per_lease) || !self.instances.is_multiple_of(PER_SERVICE) {
            return Err(Problem(format!(
                "--leases: each must hold the same number of instances, of which {PER_SERVICE} is a multiple"
            )));
        }
        if self.instances < 2 * SMALL {
            return Err(Problem(format!("--instances: at least {}", 2 * SMALL)));
        }
        let result = tokio::select! {
            result = self.measure(per_lease) => result?,
            interrupted = interrupted() => {
                interrupted?;
                return Err(Problem("interrupted".into()));
            }
        };
        if let Some(path) = &self.results {
            fs::write(path, format!("{result}\n")).when(path.display())?;
        }
        report::print(&result);
        match result["broken"].as_array().filter(|broken| !broken.is_empty()) {
            None => Ok(()),
            Some(broken) => Err(Problem(format!("{} promises were broken, see above", broken.len()))),
        }
    }

    async fn measure(&self, per_lease: usize) -> Result<Value, Problem> {
        clear(&self.dir)?;
        let (kind, folder) = (cluster::Kind::Roster, self.dir.clone());
        let mut cluster = Cluster::start_with(kind, &self.roster, folder, &[KEPT_RECORDS]).await?;
        let client =
            || -> Result<Client, Problem> { Ok(Client::new(cluster.endpoints().parse()?, Options::default())) };
        let load = Arc::new(Load {
            client: client()?,
            samples: Samples::default(),
            stop: AtomicBool::new(false),
            per_service: PER_SERVICE,
            services: self.instances / PER_SERVICE,
            watched: WATCHERS,
            not_found: 0.into(),
            expired: 0.into(),
            failed: Mutex::default(),
        });
        let leases: Vec<Arc<Mutex<Vec<i64>>>> = (0..KEEPERS).map(|_| Arc::default()).collect();
        let mut keepers = JoinSet::new();
        for (number, share) in leases.iter().enumerate() {
            keepers.spawn(load.clone().keep((number, KEEPERS), share.clone()));
        }

        let small = SMALL / PER_SERVICE;
        self.tell(format_args!("{SMALL} instances come in"));
        let empty = resident(&cluster)?;
        fill(&load.client, 0..small, PER_SERVICE, per_lease, &leases).await?;
        let costs_small = self.costs(&cluster).await?;
        self.tell(format_args!("{} instances come in", self.instances));
        let (began, before) = (Instant::now(), written(&cluster)?);
        fill(&load.client, small..load.services, PER_SERVICE, per_lease, &leases).await?;
        let filled = Filled {
            took: began.elapsed(),
            bytes: written_since(&written(&cluster)?, &before),
            instances: self.instances - SMALL,
        };
        let costs_large = self.costs(&cluster).await?;

        self.tell(format_args!("{} minutes of load", self.minutes));
        let not_found = load.not_found.load(Ordering::Relaxed);
        let written_before = written(&cluster)?;
        let mut tasks = JoinSet::new();
        for number in 0..WRITERS {
            let load = load.clone();
            tasks.spawn(async move {
                load.write((number, WRITERS), EVERY).await;
                Ok(())
            });
        }
        for number in 0..LISTERS {
            let load = load.clone();
            tasks.spawn(async move {
                load.list((number, LISTERS), EVERY).await;
                Ok(())
            });
        }
        for number in 0..load.watched {
            tasks.spawn(load.clone().watch(number));
        }
        tasks.spawn(load.clone().watch_all());
        let happened = self.go_on(&mut cluster).await?;
        let under_load = written(&cluster)?;
        let sizes = resident(&cluster)?;
        load.stop.store(true, Ordering::Relaxed);
        let mut broken = Vec::new();
        while let Some(done) = tasks.join_next().await {
            if let Err(Problem(problem)) = done? {
                broken.push(problem);
            }
        }
        let equal = self.equal(&cluster).await;
        keepers.shutdown().await;
        drop(cluster);
        if broken.is_empty() && equal.is_ok() {
            // Gigabytes; of a run that failed, what the nodes wrote and said is kept.
            clear(&self.dir)?;
        }
        report::result(report::Found {
            args: self,
            load: &load,
            happened,
            filled,
            costs: [costs_small, costs_large],
            empty,
            sizes,
            written: written_since(&under_load, &written_before),
            not_found_before: not_found,
            equal,
            broken,
        })
    }

    fn tell(&self, what: std::fmt::Arguments<'_>) {
        eprintln!("bench-etcd: {what} …");
    }

    /// What calls cost now: each workload's result. What they leave ends before this returns; the end of what one leaves
    /// would be counted among the next one's costs, so the one that leaves most comes last.
    async fn costs(&self, cluster: &Cluster) -> Result<Value, Problem> {
        let mut costs = json!({});
        for (name, words) in report::COSTS {
            self.tell(format_args!("cost of {name}"));
            let mut command = tokio::process::Command::new(&self.roster);
            command.args(["bench", "-o", "json"]).args(words);
            command.args(["--seconds", &self.seconds.to_string()]);
            command.args(["--endpoints", &cluster.endpoints(), "--server-pids", &cluster.pids()]);
            let output = command.stdin(Stdio::null()).kill_on_drop(true).output().await;
            let output = output.when(name)?;
            if !output.status.success() {
                let said = String::from_utf8_lossy(&output.stderr);
                return Err(Problem(format!("{name}: {}: {}", output.status, said.trim())));
            }
            costs[name] = serde_json::from_slice(&output.stdout).when(name)?;
        }
        self.tell(format_args!("what measuring left ends by itself"));
        tokio::time::sleep(LEFTOVERS_END).await;
        Ok(costs)
    }

    /// Lets the load go on, kills a follower, brings it back once the log that it needs is gone, and looks for
    /// snapshots all the time.
    async fn go_on(&self, cluster: &mut Cluster) -> Result<Happened, Problem> {
        let begin = Instant::now();
        let end = begin + Duration::from_secs(60 * self.minutes);
        let mut happened = Happened::default();
        let mut building: Vec<Option<Instant>> = vec![None; cluster.nodes().count()];
        let mut away: Option<(usize, Instant)> = None;
        let mut back: Option<(usize, Instant)> = None;
        while Instant::now() < end || back.is_some() {
            tokio::time::sleep(LOOK_EVERY).await;
            let now = Instant::now();
            for (at, since) in building.iter_mut().enumerate() {
                match (has_partial(&self.dir, at), *since) {
                    (true, None) => *since = Some(now),
                    (false, Some(from)) => {
                        happened.snapshots.push((at, Span { from, to: now }));
                        *since = None;
                    }
                    _ => {}
                }
            }
            if away.is_none() && back.is_none() && happened.away.is_none() && now > begin + CUT_AFTER {
                self.tell(format_args!("a follower is killed"));
                away = Some((cluster.kill_follower().await?, now));
            }
            if let Some((at, since)) = away {
                let purged = happened
                    .snapshots
                    .iter()
                    .any(|(of, span)| *of != at && span.from > since);
                let settled = building.iter().all(Option::is_none);
                // Its successors have a snapshot that is newer than all that it has, and few records behind it.
                if purged && settled {
                    self.tell(format_args!("the follower comes back"));
                    cluster.revive(at)?;
                    (away, back) = (None, Some((at, now)));
                    happened.away = Some((now - since, Duration::ZERO));
                }
            }
            if let Some((at, since)) = back {
                if caught_up(cluster, at).await.unwrap_or(false) {
                    happened.away = happened.away.map(|(dead, _)| (dead, since.elapsed()));
                    happened.caught_up_by_snapshot = cluster.said(at)?.contains("snapshot installed");
                    back = None;
                } else if now > end + EQUAL_WITHIN {
                    return Err(Problem("the follower did not catch up".into()));
                }
            }
        }
        if let Some((at, _)) = away {
            // There was no snapshot for it: that is told as a promise that was not shown.
            cluster.revive(at)?;
        }
        Ok(happened)
    }

    /// Whether all nodes come to the same state.
    async fn equal(&self, cluster: &Cluster) -> Result<(), Problem> {
        let mut clients = Vec::new();
        for (address, _) in cluster.nodes() {
            clients.push(of_node(address)?);
        }
        let until = Instant::now() + EQUAL_WITHIN;
        loop {
            let hashes = async {
                // A little ahead, so that all of them can still be asked for it.
                let at = clients[0].node_status().await?.applied_index + HASH_AHEAD;
                let each = clients.iter().map(|client| client.state_hash(at));
                futures_util::future::try_join_all(each).await
            };
            match hashes.await {
                Ok(answers) if answers.iter().all(|answer| answer.hash == answers[0].hash) => return Ok(()),
                Ok(answers) => {
                    let at = answers[0].applied_index;
                    return Err(Problem(format!("the nodes' states differ at index {at}")));
                }
                // One was already past it, or not there in time.
                Err(error) if Instant::now() > until => return Err(error.into()),
                Err(_) => {}
            }
        }
    }
}

struct Filled {
    took: Duration,
    bytes: u64,
    instances: usize,
}

fn of_node(address: &str) -> Result<Client, Problem> {
    let endpoint: Endpoint = address.parse()?;
    Ok(Client::new(endpoint.into(), Options::default()))
}

/// Whether a node has everything that the first of the others has.
async fn caught_up(cluster: &Cluster, at: usize) -> Result<bool, Problem> {
    let mut applied = Vec::new();
    for (address, _) in cluster.nodes() {
        let asked = of_node(address)?.with_timeout(Duration::from_secs(1));
        applied.push(asked.node_status().await?.applied_index);
    }
    let most = applied.iter().copied().max().unwrap_or_default();
    // They were asked one after another, and go on.
    Ok(applied[at] > 0 && most - applied[at] < 1_000)
}

/// Whether a node is writing a snapshot just now.
fn has_partial(dir: &Path, at: usize) -> bool {
    let folder = dir.join(format!("n{}", at + 1)).join("snapshots");
    let files = fs::read_dir(folder).into_iter().flatten().flatten();
    files
        .map(|file| file.file_name())
        .any(|name| name.to_string_lossy().ends_with(".partial"))
}

/// The nodes' resident memory, in bytes.
fn resident(cluster: &Cluster) -> Result<Vec<u64>, Problem> {
    let each = cluster.nodes().map(|(_, pid)| field(pid, "status", "VmRSS:"));
    let each: Result<Vec<u64>, Problem> = each.collect();
    Ok(each?.into_iter().map(|kib| kib * 1_024).collect())
}

/// What each node's process has had written to the disk, in bytes.
fn written(cluster: &Cluster) -> Result<Written, Problem> {
    let each = cluster
        .nodes()
        .map(|(_, pid)| Ok((pid, field(pid, "io", "write_bytes:")?)));
    each.collect()
}

/// Processes and their bytes.
type Written = Vec<(u32, u64)>;

/// What was written by all nodes in between; of a node that was killed, by its new process alone.
fn written_since(now: &Written, then: &Written) -> u64 {
    let each = now.iter().zip(then);
    each.map(|(now, then)| now.1 - if now.0 == then.0 { then.1 } else { 0 })
        .sum()
}

fn field(pid: u32, file: &str, name: &str) -> Result<u64, Problem> {
    let path = format!("/proc/{pid}/{file}");
    let text = fs::read_to_string(&path).when(&path)?;
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    number.ok_or_else(|| Problem(format!("{path}: no {name}")))
}
