//! Every kind of client against a real cluster for some seconds, one node killed and started again: each kind of
//! request, answer, and step must occur, or the checkers would be given nothing to check.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use tokio::{task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{Kind, Options, Target, final_reads, node_status, run_client, tcp};
use crate::{
    check::{CheckOptions, check},
    history::{Answer, Call, Event, Fault, History, Overview, RenewOutcome, Reply, Request, Run, Start},
    loopback::free_address,
    processes::witness,
    recorder::Recorder,
};

/// How long a node may take to serve.
const START_MAX: Duration = Duration::from_secs(30);
/// How long the clients run at the least before a node is killed, and after.
const HALF: Duration = Duration::from_secs(6);
/// How long until everything has occurred, on a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(150);
/// What must occur in calls.
const CALLS: [&str; 27] = [
    "register: done record",
    "register: rejected FENCED",
    "register: again",
    "register expected: rejected REVISION_MISMATCH",
    "batch: done changed true",
    "update: done record",
    "update: rejected INSTANCE_NOT_FOUND",
    "update: rejected FENCED",
    "update expected: done record",
    "update expected: rejected REVISION_MISMATCH",
    "deregister: done existed true",
    "deregister: done existed false",
    "deregister: rejected FENCED",
    "grant: done lease",
    "revoke: done existed true",
    "renew: done renewed",
    "renew on a stream: done renewed",
    "renew on a stream: done some not found",
    "get: done records",
    "get: rejected INSTANCE_NOT_FOUND",
    "stale get: done records",
    "list: done records",
    "stale list: done records",
    "one lease: done records",
    "leases: done records",
    "services: done records",
    "namespaces: done records",
];
/// What must occur in watches, which are recorded when they end.
const WATCHES: [&str; 11] = [
    "watch from snapshot",
    "watch from after",
    "watch from now",
    "step Snapshot",
    "step Changes",
    "step Progress",
    "change put",
    "change DEREGISTERED",
    "change EXPIRED",
    "change REVOKED",
    "change LEFT_SELECTOR",
];

/// The binary: it lies beside the folder of this one, or where `ROSTER_BIN` says.
fn roster() -> PathBuf {
    if let Some(path) = std::env::var_os("ROSTER_BIN") {
        return path.into();
    }
    let own = std::env::current_exe().unwrap();
    let path = own.parent().and_then(Path::parent).unwrap().join("roster");
    assert!(path.exists(), "{} is not built", path.display());
    path
}

/// Three real processes; killed when dropped.
struct Cluster {
    folder: tempfile::TempDir,
    addresses: Vec<(String, String)>,
    children: Vec<Option<Child>>,
}

impl Cluster {
    fn start() -> Self {
        let address = || free_address().to_string();
        let addresses: Vec<_> = (0..3).map(|_| (address(), address())).collect();
        let mut cluster = Self {
            folder: tempfile::tempdir().unwrap(),
            addresses,
            children: vec![None, None, None],
        };
        for node in 0..3 {
            cluster.start_node(node);
        }
        cluster
    }

    fn start_node(&mut self, node: usize) {
        let founders: Vec<String> = (self.addresses.iter().enumerate())
            .map(|(at, (_, peer))| format!("n{}={peer}", at + 1))
            .collect();
        let (client, peer) = &self.addresses[node];
        let name = format!("n{}", node + 1);
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.folder.path().join(format!("{name}.log")))
            .unwrap();
        let child = Command::new(roster())
            .args(["server", "--name", &name, "--client-addr", client, "--peer-addr", peer])
            .args(["--initial-cluster", &founders.join(",")])
            .arg("--data-dir")
            .arg(self.folder.path().join(&name))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.children[node] = Some(child);
    }

    fn kill(&mut self, node: usize) {
        if let Some(mut child) = self.children[node].take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    fn target(&self) -> Target {
        let node = |(at, (client, _)): (usize, &(String, String))| {
            let uri = format!("http://{client}").parse().unwrap();
            (format!("n{}", at + 1), uri)
        };
        Target {
            nodes: self.addresses.iter().enumerate().map(node).collect(),
            connector: tcp(),
        }
    }

    /// The node that leads, once one does.
    async fn leader(&self) -> usize {
        let (target, until) = (self.target(), Instant::now() + START_MAX);
        loop {
            for node in 0..3 {
                let status = node_status(&target, node, Duration::from_secs(1)).await;
                if status.is_ok_and(|status| status.role.eq_ignore_ascii_case("leader")) {
                    return node;
                }
            }
            assert!(Instant::now() < until, "no leader within {START_MAX:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for node in 0..3 {
            self.kill(node);
        }
    }
}

async fn run(cluster: &mut Cluster, seed: u64) -> History {
    let recorder = Recorder::new(Run {
        harness: "traffic".into(),
        seed,
        nodes: 3,
        replay: "cargo nextest run --example faults traffic".into(),
    });
    let options = Options {
        seed,
        ..Options::default()
    };
    cluster.leader().await;
    let (target, stop) = (cluster.target(), CancellationToken::new());
    let mut clients = JoinSet::new();
    for (number, kind) in (1..).zip(Kind::mixture(14)) {
        let (target, options, recorder, stop) = (target.clone(), options.clone(), recorder.clone(), stop.clone());
        clients.spawn(run_client(kind, number, target, options, recorder, stop));
    }
    tokio::time::sleep(HALF).await;
    let leader = cluster.leader().await;
    let from = recorder.now();
    cluster.kill(leader);
    tokio::time::sleep(HALF / 2).await;
    cluster.start_node(leader);
    recorder.record(Event::Fault(Fault {
        kind: "kill".into(),
        nodes: vec![target.nodes[leader].0.clone()],
        hit_leader: true,
        majority_left: true,
        from,
        until: Some(recorder.now()),
        details: "kill -9, and started again".into(),
    }));
    tokio::time::sleep(HALF / 2).await;
    let until = Instant::now() + PATIENCE;
    while Instant::now() < until && !recorder.with_history(|history| missing(&occurred(history), &CALLS).is_empty()) {
        tokio::time::sleep(HALF / 8).await;
    }
    stop.cancel();
    while let Some(ended) = clients.join_next().await {
        ended.unwrap();
    }
    assert_eq!(final_reads(target, options, recorder.clone()).await, [""; 0]);
    record_logs(cluster, &recorder).await;
    recorder.finish().unwrap()
}

/// What never occurred.
fn missing<'a>(occurred: &BTreeMap<String, usize>, wanted: &[&'a str]) -> Vec<&'a str> {
    let never = wanted.iter().filter(|&&name| !occurred.contains_key(name));
    never.copied().collect()
}

/// Ends the nodes and records what each committed, so that the history can be checked.
async fn record_logs(cluster: &mut Cluster, recorder: &Recorder) {
    let target = cluster.target();
    let status = node_status(&target, 0, START_MAX).await.unwrap();
    let through = status.applied_index.unsigned_abs();
    for node in 0..3 {
        cluster.kill(node);
    }
    for (name, _) in &target.nodes {
        for record in witness::committed(name, &cluster.folder.path().join(name), 0, through)
            .unwrap()
            .records
        {
            recorder.record(Event::Log(record));
        }
    }
}

/// What occurred, by name, and how often.
fn occurred(history: &History) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    let mut count = |name: String| *counts.entry(name).or_insert(0) += 1;
    for call in &history.calls {
        let request = name_of(&call.request);
        let answer = match &call.answer {
            Answer::Done { reply, .. } => format!("done {}", details(reply)),
            Answer::Rejected { reason, .. } => format!("rejected {reason}"),
            Answer::Failed { reason } => format!("failed {}", first_word(reason)),
            Answer::Unknown { reason } => format!("unknown {}", first_word(reason)),
        };
        count(format!("{request}: {answer}"));
        if call.attempt > 0 {
            count(format!("{request}: again"));
        }
    }
    for watch in &history.watches {
        count(format!(
            "watch from {}",
            match watch.start {
                Start::Snapshot => "snapshot",
                Start::After(_) => "after",
                Start::Now => "now",
            }
        ));
        match &watch.ended {
            Some(ended) => count(format!("watch ended {}", first_word(&ended.reason))),
            None => count("watch open".into()),
        }
        for step in &watch.steps {
            count(format!("step {:?}", step.kind));
            step.reset.iter().for_each(|reset| count(format!("reset {reset}")));
            for change in &step.changes {
                count(format!("change {}", change.reason.as_deref().unwrap_or("put")));
            }
        }
    }
    count(format!("held: {}", history.held.len()));
    counts
}

fn name_of(request: &Request) -> &'static str {
    match request {
        Request::Register { expected: None, .. } => "register",
        Request::Register { .. } => "register expected",
        Request::BatchRegister { .. } => "batch",
        Request::Update { expected: None, .. } => "update",
        Request::Update { .. } => "update expected",
        Request::Deregister { .. } => "deregister",
        Request::Grant { .. } => "grant",
        Request::Revoke { .. } => "revoke",
        Request::Renew { stream: true, .. } => "renew on a stream",
        Request::Renew { .. } => "renew",
        Request::Get { stale: true, .. } => "stale get",
        Request::Get { .. } => "get",
        Request::List { stale: true, .. } => "stale list",
        Request::List { .. } => "list",
        Request::Overview { of, .. } => match of {
            Overview::Lease(_) => "one lease",
            Overview::Leases => "leases",
            Overview::Services => "services",
            Overview::Namespaces => "namespaces",
        },
    }
}

fn details(reply: &Reply) -> String {
    match reply {
        Reply::Record(_) => "record".into(),
        Reply::Batch { changed } => format!("changed {changed}"),
        Reply::Gone { existed } => format!("existed {existed}"),
        Reply::Lease { .. } => "lease".into(),
        Reply::Renewed(results) => {
            let worst = |outcome| results.iter().any(|result| result.outcome == outcome);
            match () {
                () if worst(RenewOutcome::Unconfirmed) => "some unconfirmed".into(),
                () if worst(RenewOutcome::NotFound) => "some not found".into(),
                () => "renewed".into(),
            }
        }
        Reply::Read { records, rows, .. } if records.is_empty() && rows.is_empty() => "empty".into(),
        Reply::Read { .. } => "records".into(),
    }
}

fn first_word(reason: &str) -> &str {
    reason.split(':').next().unwrap_or(reason)
}

/// Marks, lives and leases are what calls are told apart by: no two logical calls may share one.
fn assert_recognisable(history: &History) {
    let mut marks: BTreeMap<&str, u64> = BTreeMap::new();
    let mut ends: BTreeMap<(&str, i64), u64> = BTreeMap::new();
    let mut attempts: BTreeSet<(u64, u32)> = BTreeSet::new();
    for Call {
        id,
        attempt,
        request,
        sent,
        ended,
        ..
    } in &history.calls
    {
        assert!(sent <= ended, "{request:?}");
        assert!(attempts.insert((*id, *attempt)), "attempt {attempt} of call {id} twice");
        match request {
            Request::Register { mark, .. } | Request::BatchRegister { mark, .. } | Request::Update { mark, .. } => {
                assert_eq!(marks.insert(mark, *id).unwrap_or(*id), *id, "mark {mark} of two calls");
            }
            Request::Deregister { key, incarnation, .. } => {
                let before = ends.insert((key, *incarnation), *id).unwrap_or(*id);
                assert_eq!(before, *id, "two calls deregister {key} {incarnation}");
            }
            _ => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_checker_is_given_something_to_check() {
    let seed = std::env::var("SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or(7);
    println!("seed {seed}");
    let mut cluster = Cluster::start();
    let history = run(&mut cluster, seed).await;
    let counts = occurred(&history);
    for (name, count) in &counts {
        println!("{count:7} {name}");
    }
    if let Some(path) = std::env::var_os("HISTORY") {
        history.write(Path::new(&path)).unwrap();
    }
    assert_recognisable(&history);
    let missing = missing(&counts, &[&CALLS[..], &WATCHES[..]].concat());
    assert!(missing.is_empty(), "never occurred: {missing:?}");
    let unknown = history
        .calls
        .iter()
        .filter(|call| matches!(call.answer, Answer::Unknown { .. }));
    assert!(unknown.count() > 0, "a node was killed, and every outcome is known");
    assert!(
        !history.held.is_empty(),
        "the library never said that an instance is held"
    );
    let options = CheckOptions {
        // What one kill on a busy machine costs in a few seconds is no measure.
        success_min: None,
        ..CheckOptions::default()
    };
    let report = check(&history, &options);
    println!("{report}");
    assert!(report.is_clean(), "seed {seed}: {:?}", report.rejected_by());
    let slowest = history
        .calls
        .iter()
        .map(|call| call.ended - call.sent)
        .max()
        .unwrap_or(0);
    println!("{} calls, the slowest {} ms", history.calls.len(), slowest / 1_000_000);
}
