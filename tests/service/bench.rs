//! `roster bench` against real processes: each workload for a second, so that none rots. How fast it is, no test
//! asserts.

use std::{
    io::{BufRead as _, BufReader, Read as _},
    process::{Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::time::{Duration, Instant};

use crate::harness::{Cluster, PATIENCE, list_all};

fn command(cluster: &Cluster, words: &str) -> Command {
    let endpoints: Vec<&str> = cluster.nodes.iter().map(|node| node.endpoint.as_str()).collect();
    let processes: Vec<String> = cluster.nodes.iter().map(|node| node.pid().to_string()).collect();
    let mut command = Command::new(env!("CARGO_BIN_EXE_roster"));
    command
        .arg("bench")
        .args(words.split(' '))
        .args(["--endpoints", &endpoints.join(",")])
        .args(["--server-pids", &processes.join(",")])
        .args(["-o", "json"])
        .stdin(Stdio::null());
    command
}

/// What a run found. It must have done something, without an error.
fn bench(cluster: &Cluster, words: &str) -> Value {
    let found = found(cluster, words);
    assert_eq!(found["errors"], 0, "{words}: {found:#}");
    let cpu = &found["server"]["cpu_us_per_operation"];
    assert!(cpu.as_f64().is_some(), "{words}: {found:#}");
    found
}

fn found(cluster: &Cluster, words: &str) -> Value {
    let ran = command(cluster, words).output().expect("the binary runs");
    let (out, err) = (
        String::from_utf8_lossy(&ran.stdout),
        String::from_utf8_lossy(&ran.stderr),
    );
    assert!(ran.status.success(), "{words}: {} {out}{err}", ran.status);
    let found: Value = serde_json::from_str(&out).unwrap_or_else(|error| panic!("{words}: {error}: {out}"));
    let number = |field: &str| {
        found[field]
            .as_f64()
            .unwrap_or_else(|| panic!("{words}: {field}: {found:#}"))
    };
    assert!(number("operations") > 0.0, "{words}: {found:#}");
    assert!(number("per_second") > 0.0, "{words}: {found:#}");
    let times = ["p50_us", "p99_us", "p999_us", "max_us"].map(number);
    assert!(times.is_sorted(), "{words}: {times:?}");
    assert_eq!(found["interrupted"], false);
    found
}

/// Waits until nothing is registered any more: runs take away what they registered, or let it end.
async fn nothing_left(cluster: &Cluster) {
    let mut registry = cluster.nodes[0].registry().await;
    let until = Instant::now() + PATIENCE;
    loop {
        let left = registry.list(list_all()).await.expect("a list").into_inner().instances;
        if left.is_empty() {
            return;
        }
        assert!(
            Instant::now() < until,
            "{} instances are left: {:?}",
            left.len(),
            left[0]
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn registering_renewing_and_listing_are_measured() {
    let cluster = Cluster::start(3).await;
    let second = "--seconds 1 --warmup 0";
    let found = bench(&cluster, &format!("register {second} --clients 4 --ttl 1s"));
    assert_eq!(found["parameters"]["nodes"].as_array().map(Vec::len), Some(3));
    assert!(found["let_go"].as_u64() >= found["operations"].as_u64());
    bench(&cluster, &format!("register-shared {second} --clients 4"));
    let found = bench(&cluster, &format!("batch-register {second} --clients 2 --batch 10"));
    assert_eq!(
        found["instances"].as_u64(),
        found["operations"].as_u64().map(|calls| calls * 10)
    );
    for to in ["leader", "follower", "all"] {
        let streams = "--leases 40 --streams 4 --in-flight 4";
        let found = bench(&cluster, &format!("keepalive {second} {streams} --to {to}"));
        assert_eq!(found["operations"], found["messages"]);
        let nodes = found["parameters"]["nodes"].as_array().expect("nodes").clone();
        let leaders = nodes.iter().filter(|node| node["leader"] == true).count();
        let expected = match to {
            "leader" => (1, 1),
            "follower" => (0, 2),
            _ => (1, 3),
        };
        assert_eq!((leaders, nodes.len()), expected, "{nodes:?}");
    }
    let found = bench(
        &cluster,
        &format!("keepalive {second} --leases 40 --streams 4 --ids-per-message 10"),
    );
    assert_eq!(
        found["operations"].as_u64(),
        found["messages"].as_u64().map(|messages| messages * 10)
    );
    for consistency in ["linearizable", "stale"] {
        bench(
            &cluster,
            &format!("list {second} --clients 4 --instances 20 --consistency {consistency}"),
        );
    }
    nothing_left(&cluster).await;
}

#[tokio::test]
async fn watches_expiry_and_memory_are_measured() {
    let cluster = Cluster::start(3).await;
    for how in ["--rate 100", "--streams 2 --records 3"] {
        let watch = format!("watch --seconds 1 --warmup 0 --watchers 10 --writers 2 {how}");
        let found = bench(&cluster, &watch);
        for field in ["lost_events", "doubled_events", "watchers_ended"] {
            assert_eq!(found[field], 0, "{field}: {found:#}");
        }
        let (events, writes) = (found["operations"].as_u64(), found["write"]["operations"].as_u64());
        let (events, writes) = (events.expect("events"), writes.expect("writes"));
        let coalesced = found["coalesced_events"].as_u64().expect("a number");
        assert!(events + coalesced >= writes * 10, "{found:#}");
    }
    let found = bench(&cluster, "watch --seconds 1 --warmup 0 --watchers 0 --writers 2");
    assert_eq!(found["lost_events"], Value::Null, "nobody watched");

    let found = bench(&cluster, "expiry --leases 30 --ttl 2s --clients 2 --rate 50");
    assert_eq!(found["operations"], 30);
    assert_eq!((&found["early"], &found["missing"]), (&0.into(), &0.into()));
    assert!(found["renew_before"]["operations"].as_u64() > Some(0), "{found:#}");
    assert!(found["write_before"]["operations"].as_u64() > Some(0), "{found:#}");

    for hold in ["own", "shared"] {
        let memory = format!("memory --instances 101 --clients 4 --settle 0s --hold {hold}");
        let found = bench(&cluster, &memory);
        assert_eq!(found["operations"], 101);
        assert_eq!(found["resident_bytes_per_instance"].as_array().map(Vec::len), Some(3));
    }
    nothing_left(&cluster).await;
    bench(
        &cluster,
        "memory --instances 8 --clients 4 --settle 0s --ttl 10s --keep",
    );
    let mut registry = cluster.nodes[0].registry().await;
    let kept = registry.list(list_all()).await.expect("a list").into_inner();
    assert_eq!(kept.instances.len(), 8);
}

#[tokio::test]
async fn an_interrupted_run_tells_what_it_measured_and_takes_away_what_it_registered() {
    let cluster = Cluster::start(3).await;
    let words = "watch --seconds 600 --warmup 0 --watchers 4 --writers 2 --progress";
    let mut running = command(&cluster, words)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    let told = BufReader::new(running.stderr.take().expect("piped")).lines();
    let goes_on = told
        .map_while(Result::ok)
        .any(|line| line.contains("watch: 1 of 600 s"));
    assert!(goes_on, "it told no progress");
    let id = Pid::from_raw(i32::try_from(running.id()).expect("an id")).expect("not 0");
    kill_process(id, Signal::INT).expect("it runs");
    let mut out = String::new();
    running
        .stdout
        .take()
        .expect("piped")
        .read_to_string(&mut out)
        .expect("UTF-8");
    assert!(running.wait().expect("a child").success(), "{out}");
    let found: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(found["interrupted"], true);
    assert_eq!(
        (&found["lost_events"], &found["errors"]),
        (&0.into(), &0.into()),
        "{found:#}"
    );
    assert!(found["operations"].as_u64() > Some(0), "{found:#}");
    nothing_left(&cluster).await;
}

#[tokio::test]
async fn the_gap_that_a_killed_leader_leaves_is_measured() {
    let cluster = Cluster::start(3).await;
    cluster.leader().await;
    let found = found(&cluster, "failover --settle 1s --clients 2 --rate 100");
    let rounds = found["rounds"].as_array().expect("rounds");
    assert_eq!(rounds.len(), 1, "{found:#}");
    for field in ["write_gap_us", "renewal_gap_us"] {
        // An election takes longer than the time between two calls, and ends.
        let gap = Duration::from_micros(rounds[0][field].as_u64().expect("a number"));
        assert!(gap > Duration::from_millis(20) && gap < PATIENCE, "{field}: {gap:?}");
    }
    assert!(
        found["server"]["problem"].is_string(),
        "the leader's process is gone: {found:#}"
    );
}
