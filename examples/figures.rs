//! First honest figures: registers per second and their latency at several numbers of callers, keep-alives per
//! second, memory per instance. The benchmark proper comes with its own command; this answers "about how much?".
//!
//! `cargo run --release --example figures -- ENDPOINT [SECONDS] [PIDS] [WORKLOADS]`: the leader's or any node's ENDPOINT,
//! PIDS of the server processes, comma-separated, for their memory and CPU time; WORKLOADS of `register`, `keep-alive`,
//! `memory`, `memory-tagged` (with a tag and a metadata entry each); all but the last by default. Memory says most on a
//! cluster that was just started.

use std::{
    env,
    error::Error,
    fs,
    io::Write as _,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use roster::wire::v1::{
    BatchRegisterRequest, GrantLeaseRequest, Instance, InstanceKey, Port, RegisterRequest, RenewRequest,
    batch_register_request, leases_client::LeasesClient, registry_client::RegistryClient, renew_result,
};
use tokio_stream::StreamExt as _;
use tonic::transport::Channel;

type Failure = Box<dyn Error + Send + Sync>;

/// Callers that share one connection.
const CALLERS_PER_CONNECTION: usize = 16;
/// Leases of the keep-alive run and the streams that they are spread over.
const LEASES: usize = 10_000;
const STREAMS: usize = 16;
/// Instances of the memory run.
const INSTANCES: usize = 100_000;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let mut args = env::args().skip(1);
    let endpoint = format!("http://{}", args.next().unwrap_or_else(|| "127.0.0.1:7400".to_owned()));
    let seconds = args.next().and_then(|text| text.parse().ok()).unwrap_or(5);
    let pids: Vec<u32> = args
        .next()
        .map(|text| text.split(',').filter_map(|pid| pid.parse().ok()).collect())
        .unwrap_or_default();
    let workloads = args.next().unwrap_or_else(|| "memory,register,keep-alive".to_owned());
    let span = Duration::from_secs(seconds);
    for workload in workloads.split(',') {
        match workload {
            "memory" => memory(&endpoint, &pids, false).await?,
            "memory-tagged" => memory(&endpoint, &pids, true).await?,
            "register" => {
                for callers in [1, 16, 128] {
                    registers(&endpoint, callers, span, &pids).await?;
                }
            }
            "keep-alive" => keep_alives(&endpoint, span, &pids).await?,
            other => return Err(format!("{other:?} is no workload").into()),
        }
    }
    Ok(())
}

fn say(line: &str) {
    // A closed pipe is the reader's choice.
    let _closed = writeln!(std::io::stdout(), "{line}");
}

fn instance(service: &str, id: String) -> Instance {
    Instance {
        key: Some(InstanceKey {
            service: service.to_owned(),
            id,
            ..InstanceKey::default()
        }),
        address: "10.1.2.3".to_owned(),
        ports: vec![Port {
            name: "http".to_owned(),
            number: 8080,
            ..Port::default()
        }],
        zone: "z1".to_owned(),
        version: "1.2.3".to_owned(),
        ..Instance::default()
    }
}

async fn registers(endpoint: &str, callers: usize, span: Duration, pids: &[u32]) -> Result<(), Failure> {
    let mut channels = Vec::new();
    for _ in 0..callers.div_ceil(CALLERS_PER_CONNECTION) {
        channels.push(Channel::from_shared(endpoint.to_owned())?.connect().await?);
    }
    let cpu = cpu_seconds(pids);
    let start = Instant::now();
    let tasks: Vec<_> = (0..callers)
        .map(|caller| {
            let mut client = RegistryClient::new(channels[caller % channels.len()].clone());
            tokio::spawn(async move {
                let mut histogram = histogram();
                let (mut number, mut errors) = (0_u64, 0_u64);
                while start.elapsed() < span {
                    let id = format!("{callers}-{caller}-{number}");
                    let instance = Some(instance(&format!("service-{}", number % 100), id));
                    let sent = Instant::now();
                    match client
                        .register(RegisterRequest {
                            instance,
                            ..RegisterRequest::default()
                        })
                        .await
                    {
                        Ok(_) => histogram.saturating_record(micros(sent.elapsed())),
                        Err(_) => errors += 1,
                    }
                    number += 1;
                }
                (histogram, errors)
            })
        })
        .collect();
    let (mut all, mut errors) = (histogram(), 0);
    for task in tasks {
        let (histogram, failed) = task.await?;
        all.add(histogram)?;
        errors += failed;
    }
    report(
        &format!("register, {callers} callers"),
        &all,
        errors,
        start.elapsed(),
        cpu_seconds(pids) - cpu,
    );
    Ok(())
}

async fn keep_alives(endpoint: &str, span: Duration, pids: &[u32]) -> Result<(), Failure> {
    let mut streams = Vec::new();
    for _ in 0..STREAMS {
        let mut client = LeasesClient::new(Channel::from_shared(endpoint.to_owned())?.connect().await?);
        streams.push(tokio::spawn(async move {
            let mut ids = Vec::new();
            for _ in 0..LEASES / STREAMS {
                let ttl = Some(prost_types::Duration { seconds: 60, nanos: 0 });
                let granted = client
                    .grant_lease(GrantLeaseRequest { lease_id: 0, ttl })
                    .await?
                    .into_inner();
                ids.push(granted.lease.unwrap_or_default().lease_id);
            }
            Ok::<_, tonic::Status>((client, ids))
        }));
    }
    let mut granted = Vec::new();
    for stream in streams {
        granted.push(stream.await??);
    }
    let (renewed, failed) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let (cpu, start) = (cpu_seconds(pids), Instant::now());
    let tasks: Vec<_> = granted
        .into_iter()
        .map(|(client, ids)| tokio::spawn(renew(client, ids, renewed.clone(), failed.clone())))
        .collect();
    tokio::time::sleep(span).await;
    let (count, took, cpu) = (renewed.load(Relaxed), start.elapsed(), cpu_seconds(pids) - cpu);
    for task in tasks {
        task.abort();
    }
    say(&format!(
        "keep-alive, {LEASES} leases on {STREAMS} streams, one id a message: {:.0}/s, {} not renewed, server CPU {:.0} µs each",
        count as f64 / took.as_secs_f64(),
        failed.load(Relaxed),
        cpu * 1e6 / count.max(1) as f64
    ));
    Ok(())
}

/// One id a message, up to 256 unanswered: what a client library with many leases does.
async fn renew(mut client: LeasesClient<Channel>, ids: Vec<i64>, renewed: Arc<AtomicU64>, failed: Arc<AtomicU64>) {
    let (sender, receiver) = tokio::sync::mpsc::channel(256);
    let requests = tokio_stream::wrappers::ReceiverStream::new(receiver);
    let feed = async move {
        for (seq, id) in (1..).zip(ids.iter().cycle()) {
            if sender
                .send(RenewRequest {
                    seq,
                    lease_ids: vec![*id],
                })
                .await
                .is_err()
            {
                return;
            }
        }
    };
    let take = async move {
        let Ok(answers) = client.keep_alive(requests).await else {
            return;
        };
        let mut answers = answers.into_inner();
        while let Some(Ok(answer)) = answers.next().await {
            let good = answer
                .results
                .iter()
                .all(|result| result.outcome() == renew_result::Outcome::Renewed);
            if good { &renewed } else { &failed }.fetch_add(1, Relaxed);
        }
    };
    tokio::join!(feed, take);
}

async fn memory(endpoint: &str, pids: &[u32], tagged: bool) -> Result<(), Failure> {
    let channel = Channel::from_shared(endpoint.to_owned())?.connect().await?;
    let mut client = RegistryClient::new(channel);
    let before: Vec<u64> = pids.iter().map(|pid| resident_bytes(*pid)).collect();
    let start = Instant::now();
    for batch in 0..INSTANCES / 1_000 {
        let made = |at| {
            let mut instance = instance(&format!("mem-{batch}"), format!("i-{at}"));
            if tagged {
                instance.tags = vec!["blue".to_owned()];
                instance.metadata = [("team".to_owned(), "shop".to_owned())].into();
            }
            instance
        };
        let instances = (0..1_000).map(made).collect();
        let hold = Some(batch_register_request::Hold::Permanent(true));
        client.batch_register(BatchRegisterRequest { instances, hold }).await?;
    }
    let took = start.elapsed();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let growth: Vec<String> = pids
        .iter()
        .zip(before)
        .map(|(pid, before)| {
            let grown = resident_bytes(*pid).saturating_sub(before);
            format!("{:.0}", grown as f64 / INSTANCES as f64)
        })
        .collect();
    say(&format!(
        "{INSTANCES} instances{} in batches of 1,000: {:.0}/s; resident bytes per instance on each node: {}",
        if tagged { " with a tag and a metadata entry" } else { "" },
        INSTANCES as f64 / took.as_secs_f64(),
        growth.join(", ")
    ));
    Ok(())
}

/// Microseconds up to a minute, three digits.
fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000, 3).expect("these bounds are allowed")
}

fn report(what: &str, histogram: &Histogram<u64>, errors: u64, took: Duration, cpu: f64) {
    let count = histogram.len();
    say(&format!(
        "{what}: {:.0}/s, p50 {:.2} ms, p99 {:.2} ms, max {:.2} ms, {errors} errors, server CPU {:.0} µs each",
        count as f64 / took.as_secs_f64(),
        histogram.value_at_quantile(0.5) as f64 / 1e3,
        histogram.value_at_quantile(0.99) as f64 / 1e3,
        histogram.max() as f64 / 1e3,
        cpu * 1e6 / count.max(1) as f64
    ));
}

fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}

/// CPU time of the processes so far, in seconds.
fn cpu_seconds(pids: &[u32]) -> f64 {
    let ticks = |pid: &u32| -> Option<f64> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        Some(fields.get(11)?.parse::<f64>().ok()? + fields.get(12)?.parse::<f64>().ok()?)
    };
    // Linux counts in hundredths of a second for programs, on every architecture.
    pids.iter().filter_map(ticks).sum::<f64>() / 100.0
}

fn resident_bytes(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let kilobytes = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|rest| rest.trim().trim_end_matches(" kB").trim().parse::<u64>().ok());
    kilobytes.unwrap_or(0) * 1_024
}
