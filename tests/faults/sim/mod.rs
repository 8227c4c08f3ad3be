//! Deterministic simulation: a cluster of the real rooms on simulated network, disks and clocks, in one thread, from one
//! number.
//!
//! ```text
//!   nemesis ── harms ──► world: machines (member: raft + node + service on disk, clock, network), clients (traffic)
//!                          │ every step
//!                          └──► lookout: what must hold at every moment        trace: what happened, as one number
//!                          in the end ──► history: calls, faults, witness ──► checkers
//! ```
//!
//! A run has a *safety phase* with faults; for some seeds a *long phase* with one fault that holds until what is promised
//! of long ones must show; a *liveness phase* in which a majority at least is whole and must commit; and an end in which
//! everything is whole, the clients stop, and every node is asked for everything.
//!
//! What does not hold while it runs ends a run at once. Then that problem alone is told, and no checker is asked: the
//! history lacks its end, and whoever finds something in that has found nothing.
//!
//! One seed is one process: hash maps, random numbers and clocks of the whole process are simulated, see
//! `simulation.rs`.

mod clock;
mod courier;
mod disk;
mod harms;
mod lookout;
mod member;
mod nemesis;
mod network;
mod overlap;
mod trace;
mod witness;
mod world;

use std::{
    hash::{BuildHasher as _, RandomState},
    path::PathBuf,
    time::Duration,
};

use roster::client::{self, Client};
use tokio_util::sync::CancellationToken;

use self::{harms::Harm, member::CLIENT_PORT, nemesis::Nemesis, trace::Trace, world::World};
use crate::{
    history::{Answer, Event, History, NodeHash, Run},
    recorder::Recorder,
    simulate::Report,
    traffic::{self, Kind, Target},
};

/// Hosts on which clients run.
const CLIENT_HOSTS: usize = 3;
/// How long a majority is lost, and how long a minority is cut off, in the long phase: what A1, A2 and W11 look at begins
/// some seconds after a fault did, and ends before it ends.
const MAJORITY_LOST_FOR: Duration = Duration::from_secs(9);
const MINORITY_CUT_OFF_FOR: Duration = Duration::from_secs(14);
/// Between the faults of the safety phase and that one.
const BEFORE_LONG: Duration = Duration::from_millis(500);
/// A majority that is whole commits within this, whatever the seed; how soon it mostly does is the campaign's to judge.
const COMMITS_WITHIN: Duration = Duration::from_secs(10);
/// Traffic after that.
const AFTER_HEALING: Duration = Duration::from_millis(1_500);
/// The same, of a seed that looks at how a calm cluster does: the checkers believe it after some seconds only.
const CALM_FOR: Duration = Duration::from_secs(7);
/// What clients that were told to stop may take.
const STOPS_WITHIN: Duration = Duration::from_secs(15);
/// How long a healed cluster may take until all nodes have applied the same.
const SETTLES_WITHIN: Duration = Duration::from_secs(10);
/// How long the last questions may take.
const ENDS_WITHIN: Duration = Duration::from_secs(70);

/// What to simulate.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Everything comes from it.
    pub(crate) seed: u64,
    /// How many nodes.
    pub(crate) nodes: usize,
    /// How many clients.
    pub(crate) clients: usize,
    /// The length of the safety phase, in simulated time.
    pub(crate) safety: Duration,
    /// Where every line of the trace goes, if it is wanted.
    pub(crate) trace: Option<PathBuf>,
    /// Where the nodes' snapshots lie meanwhile.
    pub(crate) folder: PathBuf,
}

/// What a simulation brought about.
pub(crate) struct Outcome {
    /// Everything that was recorded.
    pub(crate) history: History,
    /// What did not hold while it ran; then the rest of it did not happen.
    pub(crate) problem: Option<String>,
    /// Equal for equal seeds.
    pub(crate) trace: u64,
    /// How many things happened: messages delivered, faults, elections.
    pub(crate) events: u64,
    /// Simulated time.
    pub(crate) simulated: Duration,
    /// Records that were committed.
    pub(crate) committed: u64,
    /// Leaderships seen.
    pub(crate) leaders: u64,
    /// Snapshots that went from one node to another.
    pub(crate) snapshots_sent: u64,
    /// Syncs of all disks.
    pub(crate) syncs: u64,
    /// How long the whole majority took to commit.
    pub(crate) recovered: Option<Duration>,
}

impl Outcome {
    /// Sums it up, with what the checkers found.
    pub(crate) fn report(&self, plan: &Plan) -> Report {
        let millis = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        let mut report = Report {
            seed: plan.seed,
            nodes: plan.nodes,
            trace: format!("{:016x}", self.trace),
            events: self.events,
            simulated_ms: millis(self.simulated),
            committed: self.committed,
            leaders: self.leaders,
            snapshots_sent: self.snapshots_sent,
            syncs: self.syncs,
            recovered_ms: self.recovered.map(millis),
            aborted: self.problem.is_some(),
            ..Report::default()
        };
        // Those that did not happen stand there as well: the campaign sees that they never did.
        for harm in Harm::ALL {
            report.faults.entry(harm.name().to_owned()).or_default();
        }
        for fault in &self.history.faults {
            *report.faults.entry(fault.kind.clone()).or_default() += 1;
        }
        for call in &self.history.calls {
            let became = match call.answer {
                Answer::Done { .. } => "done",
                Answer::Rejected { .. } => "rejected",
                Answer::Failed { .. } => "failed",
                Answer::Unknown { .. } => "unknown",
            };
            *report.calls.entry(became.to_owned()).or_default() += 1;
        }
        report
            .calls
            .insert("watches".to_owned(), self.history.watches.len() as u64);
        if let Some(problem) = &self.problem {
            let (checker, story) = problem.split_once(": ").unwrap_or(("problem", problem));
            report.violations.push((checker.to_owned(), story.to_owned()));
        }
        report
    }
}

/// Simulates what the plan says.
///
/// # Errors
/// The simulation could not be set up: no fault of what is simulated.
pub(crate) fn simulate(plan: &Plan) -> Result<Outcome, String> {
    let trace = match &plan.trace {
        Some(path) => Trace::to_file(path).map_err(|error| error.to_string())?,
        None => Trace::default(),
    };
    let recorder = Recorder::with_clock(
        Run {
            harness: "simulation".to_owned(),
            seed: plan.seed,
            nodes: u32::try_from(plan.nodes).unwrap_or(0),
            replay: format!("scripts/simulate --seed {} --nodes {}", plan.seed, plan.nodes),
        },
        || u64::try_from(turmoil::sim_elapsed()?.as_nanos()).ok(),
    );
    // Hash maps take their keys where this one does: two runs of a seed have the same, or their traces differ.
    trace.note(format_args!("maps {:016x}", RandomState::new().hash_one(plan.seed)));
    let mut world = World::new(plan, &plan.folder, trace.clone(), &recorder)?;
    let mut nemesis = Nemesis::new(&mut world, recorder.clone());
    let mut recovered = None;
    let problem = run(plan, &mut world, &mut nemesis, &recorder, &mut recovered).err();
    nemesis.leave();
    witness::dump(&world.machines, &recorder);
    let (simulated, committed, leaders) = (world.now(), world.lookout.highest, world.lookout.leaders);
    let syncs = world.machines.iter().map(|machine| machine.disk.syncs()).sum();
    let snapshots_sent = world.counts.snapshots_sent();
    if problem.is_none() {
        (0..world.machines.len()).for_each(|at| world.kill(at));
    }
    // Calls that are still under way are recorded when their clients go: as unknown.
    drop(world);
    let history = recorder.finish().map_err(|error| error.to_string())?;
    let (trace, events) = trace.sum();
    Ok(Outcome {
        history,
        problem,
        trace,
        events,
        simulated,
        committed,
        leaders,
        snapshots_sent,
        syncs,
        recovered,
    })
}

fn run(
    plan: &Plan,
    world: &mut World,
    nemesis: &mut Nemesis,
    recorder: &Recorder,
    recovered: &mut Option<Duration>,
) -> Result<(), String> {
    let stop = CancellationToken::new();
    start_clients(plan, world, recorder, &stop);
    while world.now() < plan.safety {
        nemesis.act(world);
        world.step()?;
    }

    nemesis.heal(world);
    // What was is over when the one long fault begins: it is judged by itself.
    go_on(world, BEFORE_LONG)?;
    let long = if world.rng_says_so(1, 5) {
        nemesis.take_the_majority(world);
        MAJORITY_LOST_FOR
    } else if world.rng_says_so(1, 4) {
        nemesis.cut_off_a_minority(world);
        MINORITY_CUT_OFF_FOR
    } else {
        Duration::ZERO
    };
    go_on_harmed(world, nemesis, long)?;

    nemesis.heal(world);
    let harmed = if world.rng_says_so(1, 2) {
        nemesis.harm_a_minority(world)
    } else {
        Vec::new()
    };
    *recovered = Some(commits(world, nemesis, &harmed)?);
    nemesis.heal(world);
    let calm = if world.rng_says_so(1, 3) {
        CALM_FOR
    } else {
        AFTER_HEALING
    };
    go_on(world, calm)?;

    stop.cancel();
    let until = world.now() + STOPS_WITHIN;
    while !world.step()? {
        if world.now() >= until {
            return Err(format!(
                "A2: a client was told to stop and did not within {STOPS_WITHIN:?}"
            ));
        }
    }
    settle(world)?;
    ask_for_everything(plan, world, recorder)
}

/// Lets time pass.
fn go_on(world: &mut World, span: Duration) -> Result<(), String> {
    let until = world.now() + span;
    while world.now() < until {
        world.step()?;
    }
    Ok(())
}

/// The same while faults hold: a node that had ended by itself may come back meanwhile, and with it a majority.
fn go_on_harmed(world: &mut World, nemesis: &mut Nemesis, span: Duration) -> Result<(), String> {
    let until = world.now() + span;
    while world.now() < until {
        nemesis.look_for_majority(world);
        world.step()?;
    }
    Ok(())
}

/// Clients of all kinds, on a few hosts.
fn start_clients(plan: &Plan, world: &mut World, recorder: &Recorder, stop: &CancellationToken) {
    let mut hosts: Vec<Vec<(u32, Kind)>> = vec![Vec::new(); CLIENT_HOSTS];
    for (number, kind) in (1..).zip(Kind::mixture(plan.clients)) {
        hosts[number as usize % CLIENT_HOSTS].push((number, kind));
    }
    for (at, kinds) in hosts.into_iter().enumerate() {
        let name = format!("c{}", at + 1);
        let (target, options) = (target(plan, world, &name), options(plan));
        let (recorder, stop) = (recorder.clone(), stop.clone());
        world.sim.client(name.as_str(), async move {
            let clients = kinds.into_iter().map(|(number, kind)| {
                let client = traffic::run_client(
                    kind,
                    number,
                    target.clone(),
                    options.clone(),
                    recorder.clone(),
                    stop.clone(),
                );
                tokio::task::spawn_local(client)
            });
            for client in clients.collect::<Vec<_>>() {
                client.await?;
            }
            Ok(())
        });
        world.clients.push(name);
    }
}

fn target(plan: &Plan, world: &World, host: &str) -> Target {
    let node = |number: usize| {
        let uri = format!("http://n{number}:{CLIENT_PORT}")
            .parse()
            .expect("a host and a port are a URI");
        (format!("n{number}"), uri)
    };
    Target {
        nodes: (1..=plan.nodes).map(node).collect(),
        connector: world.streams.connector(host),
    }
}

fn options(plan: &Plan) -> traffic::Options {
    traffic::Options {
        seed: plan.seed,
        library_clock: roster::client::Clock::Runtime,
        ..traffic::Options::default()
    }
}

/// A majority is whole: one of it applies a client's command that was in nobody's log when it became so. How long that
/// took.
fn commits(world: &mut World, nemesis: &mut Nemesis, harmed: &[usize]) -> Result<Duration, String> {
    let (began, before) = (world.now(), world.last_index());
    loop {
        nemesis.look_for_majority(world);
        world.step()?;
        let took = world.now() - began;
        if world.has_applied_a_command(before, harmed) {
            return Ok(took);
        }
        if took > COMMITS_WITHIN {
            let harmed: Vec<String> = harmed.iter().map(|at| world.name(*at)).collect();
            return Err(format!(
                "A3: a whole majority (all but {harmed:?}) applied no command beyond {before} within {COMMITS_WITHIN:?}: {}",
                world.status()
            ));
        }
    }
}

/// Everything is whole and quiet: all nodes come to the same index.
fn settle(world: &mut World) -> Result<(), String> {
    let until = world.now() + SETTLES_WITHIN;
    while !world.is_settled() {
        world.step()?;
        if world.now() >= until {
            return Err(format!(
                "converges: the nodes did not come together within {SETTLES_WITHIN:?}: {}",
                world.status()
            ));
        }
    }
    Ok(())
}

/// Every node is asked for everything, and for the hash of its state.
fn ask_for_everything(plan: &Plan, world: &mut World, recorder: &Recorder) -> Result<(), String> {
    let (target, options, recorder) = (target(plan, world, "last"), options(plan), recorder.clone());
    world.sim.client("last", async move {
        let silent = traffic::final_reads(target.clone(), options, recorder.clone()).await;
        if !silent.is_empty() {
            return Err(format!("A1: {silent:?} answer no linearizable list after healing").into());
        }
        for (node, uri) in &target.nodes {
            let endpoint = uri.to_string().parse::<client::Endpoint>()?;
            let options = client::Options {
                connector: target.connector.clone(),
                ..client::Options::default()
            };
            let answer = Client::new(endpoint.into(), options).state_hash(0).await?;
            recorder.record(Event::StateHash(NodeHash {
                node: node.clone(),
                applied_index: u64::try_from(answer.applied_index)?,
                revision: answer.header.map_or(0, |header| header.revision),
                hash: witness::hex(&answer.hash),
            }));
        }
        Ok(())
    });
    let until = world.now() + ENDS_WITHIN;
    while !world.step()? {
        if world.now() >= until {
            return Err(format!(
                "A1: the last questions were not answered within {ENDS_WITHIN:?}"
            ));
        }
    }
    Ok(())
}
