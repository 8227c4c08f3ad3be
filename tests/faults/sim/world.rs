//! The simulated world: machines, clients, the network between them, and the faults that hold at a moment.

use std::{cmp::Reverse, collections::BTreeSet, path::Path, time::Duration};

use rand::{Rng as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};
use roster::{
    model::{ClusterId, Member, NodeId, NodeName},
    raft::Role,
    storage::DataDir,
};

use super::{
    Plan,
    clock::BentClock,
    courier::{Alarms, Counts},
    lookout::Lookout,
    member::{CLIENT_PORT, Machine, MachineParts, PEER_PORT},
    network::{Streams, Ways},
    trace::Trace,
    witness,
};
use crate::recorder::Recorder;

/// One step of the simulation.
const TICK: Duration = Duration::from_millis(2);
/// Longer than any simulation may take.
const DURATION_MAX: Duration = Duration::from_secs(600);
/// A message on its way.
const LATENCY_MIN: Duration = Duration::from_millis(2);
pub(super) const LATENCY_MAX: Duration = Duration::from_millis(8);
/// Segments that a stream may have under way.
const STREAM_CAPACITY: usize = 65_536;
/// How often the invariants are looked at.
const LOOK_EVERY: u32 = 5;
/// How often every node is asked about itself, for the checkers.
const SAMPLE_EVERY: u32 = 200;
/// A node whose disk has not finished a write for so long ends, as `server` sees to it.
const HUNG_AFTER: Duration = Duration::from_secs(10);

/// Everything that there is.
pub(super) struct World {
    pub(super) sim: turmoil::Sim<'static>,
    pub(super) machines: Vec<Machine>,
    /// The hosts on which clients run.
    pub(super) clients: Vec<String>,
    pub(super) ways: Ways,
    pub(super) streams: Streams,
    pub(super) counts: Counts,
    alarms: Alarms,
    pub(super) trace: Trace,
    pub(super) rng: StdRng,
    pub(super) lookout: Lookout,
    /// Machines whose node is not running.
    pub(super) down: BTreeSet<usize>,
    /// Nodes that gave up by themselves, and when they are started again.
    exited: Vec<(usize, Duration)>,
    recorder: Recorder,
    steps: u32,
}

impl World {
    /// A cluster that has not begun yet.
    pub(super) fn new(plan: &Plan, folder: &Path, trace: Trace, recorder: &Recorder) -> Result<Self, String> {
        let mut rng = StdRng::seed_from_u64(plan.seed);
        let mut sim = turmoil::Builder::new()
            .rng_seed(rng.random())
            .tick_duration(TICK)
            .simulation_duration(DURATION_MAX)
            .min_message_latency(LATENCY_MIN)
            .max_message_latency(LATENCY_MAX)
            .tcp_capacity(STREAM_CAPACITY)
            .enable_random_order()
            .build();
        let (streams, counts, alarms) = (Streams::default(), Counts::default(), Alarms::default());
        let founders: Vec<Member> = (1..=plan.nodes).map(member).collect();
        let kept_behind_snapshot = rng.random_range(5..200);
        let mut machines = Vec::new();
        for founder in &founders {
            let name = founder.name.to_string();
            let machine = Machine::new(MachineParts {
                folder: DataDir::open(&folder.join(&name)).map_err(|error| error.to_string())?,
                name: name.clone(),
                node_id: founder.node_id,
                cluster_id: ClusterId::new(plan.seed | 1 << 60).ok_or("no cluster id")?,
                founders: founders.clone(),
                clock: BentClock::new(Duration::from_millis(rng.random_range(0..100_000_000))),
                streams: streams.clone(),
                trace: trace.clone(),
                counts: counts.clone(),
                alarms: alarms.clone(),
                recorder: recorder.clone(),
                kept_behind_snapshot,
                seed: rng.random(),
            });
            let host = machine.clone();
            sim.host(name, move || host.clone().live());
            machines.push(machine);
        }
        Ok(Self {
            sim,
            lookout: Lookout::new(machines.len()),
            machines,
            clients: Vec::new(),
            ways: Ways::new(streams.clone()),
            streams,
            counts,
            alarms,
            trace,
            rng,
            down: BTreeSet::new(),
            exited: Vec::new(),
            recorder: recorder.clone(),
            steps: 0,
        })
    }

    /// How long it has been going on.
    pub(super) fn now(&self) -> Duration {
        self.sim.elapsed()
    }

    /// One step; whether every client has ended.
    ///
    /// # Errors
    /// An invariant does not hold, or a node could not start.
    pub(super) fn step(&mut self) -> Result<bool, String> {
        let ended = self.sim.step().map_err(|error| error.to_string())?;
        self.steps += 1;
        if self.steps.is_multiple_of(LOOK_EVERY) {
            self.lookout.look(&self.machines, &self.trace)?;
            if let Some(problem) = self.alarms.first() {
                return Err(problem);
            }
            self.attend_exits();
        }
        if self.steps.is_multiple_of(SAMPLE_EVERY) {
            witness::sample(&self.machines, self.now(), &self.recorder);
        }
        Ok(ended)
    }

    /// Ends nodes that gave up, and starts them again after a while, as a supervisor does.
    fn attend_exits(&mut self) {
        let now = self.now();
        for at in 0..self.machines.len() {
            let machine = &self.machines[at];
            let hung = machine.disk.oldest(now) > HUNG_AFTER;
            if !self.down.contains(&at) && (machine.has_exited() || hung) {
                self.kill(at);
                let again = now + Duration::from_millis(self.rng.random_range(50..1_500));
                self.exited.push((at, again));
            }
        }
        let due: Vec<usize> = self
            .exited
            .iter()
            .filter(|(_, again)| *again <= now)
            .map(|(at, _)| *at)
            .collect();
        self.exited.retain(|(_, again)| *again > now);
        for at in due {
            self.start(at);
        }
    }

    /// kill -9, or the power goes: what was not synced is lost.
    pub(super) fn kill(&mut self, at: usize) {
        // Who has ended by itself is down for good now: nothing else starts it again.
        self.exited.retain(|(other, _)| *other != at);
        if self.down.insert(at) {
            let machine = &self.machines[at];
            machine.let_go();
            self.sim.crash(machine.name.as_str());
            machine.disk.crash();
            // The process went, or the whole machine.
            self.streams.set_refusing(&machine.name, self.rng.random());
            self.lookout.crashed(at, &machine.disk);
        }
    }

    /// Starts a node that is down.
    pub(super) fn start(&mut self, at: usize) {
        if self.down.remove(&at) {
            self.exited.retain(|(other, _)| *other != at);
            self.streams.set_refusing(&self.machines[at].name, false);
            self.sim.bounce(self.machines[at].name.as_str());
        }
    }

    /// The node that leads the newest term, if one does.
    pub(super) fn leader(&self) -> Option<usize> {
        let leads = |at: usize| {
            let status = self.machines[at].running()?.node.raft().status();
            (status.role == Role::Leader).then_some((status.term, Reverse(at)))
        };
        (0..self.machines.len())
            .filter_map(leads)
            .max()
            .map(|(_, Reverse(at))| at)
    }

    /// Some node; half of the time the one that leads.
    pub(super) fn some_node(&mut self) -> usize {
        let chosen = self.rng.random_range(0..self.machines.len());
        if self.rng.random() {
            self.leader().unwrap_or(chosen)
        } else {
            chosen
        }
    }

    /// So many nodes, the leader among them half of the time.
    pub(super) fn some_nodes(&mut self, count: usize) -> Vec<usize> {
        let first = self.some_node();
        let others: Vec<usize> = (0..self.machines.len()).filter(|at| *at != first).collect();
        let mut chosen: Vec<usize> = others
            .choose_multiple(&mut self.rng, count.saturating_sub(1))
            .copied()
            .collect();
        chosen.push(first);
        chosen.sort_unstable();
        chosen
    }

    pub(super) fn name(&self, at: usize) -> String {
        self.machines[at].name.clone()
    }

    /// The largest set of nodes that run, write, and all reach each other.
    pub(super) fn core(&self) -> Vec<usize> {
        let works = |at: &usize| !self.down.contains(at) && !self.machines[*at].disk.is_frozen();
        let reach = |a: usize, b: usize| {
            let (a, b) = (&self.machines[a].name, &self.machines[b].name);
            a == b || self.ways.is_open(a, b)
        };
        let sets = 0_u32..1 << self.machines.len();
        let members = |set: u32| (0..self.machines.len()).filter(move |at| set >> at & 1 == 1);
        let connected = |set: &u32| members(*set).all(|a| works(&a) && members(*set).all(|b| reach(a, b)));
        let largest = sets
            .filter(connected)
            .max_by_key(|set| (set.count_ones(), Reverse(*set)));
        members(largest.unwrap_or(0)).collect()
    }

    /// Whether some node runs that reaches so many others, both ways, that they are a majority. Frozen disks are no
    /// matter: a leader whose quorum are others reads without them.
    pub(super) fn majority_left(&self) -> bool {
        let runs = |at: &usize| !self.down.contains(at);
        let reach = |a: usize, b: usize| {
            let (a, b) = (&self.machines[a].name, &self.machines[b].name);
            a == b || self.ways.is_open(a, b)
        };
        let all = 0..self.machines.len();
        let reached = |a: usize| all.clone().filter(runs).filter(|b| reach(a, *b)).count();
        all.clone().filter(runs).any(|a| reached(a) >= self.majority())
    }

    /// Whether all nodes run and have applied the same index.
    pub(super) fn is_settled(&self) -> bool {
        let applied = |machine: &Machine| Some(machine.running()?.node.raft().status().applied_index);
        let first = self.machines.first().and_then(applied);
        first.is_some() && self.machines.iter().all(|machine| applied(machine) == first)
    }

    /// The highest index that any log holds, whether its node runs or not.
    pub(super) fn last_index(&self) -> u64 {
        let last = self.machines.iter().map(|machine| machine.disk.last_index());
        last.max().unwrap_or(0)
    }

    /// Whether a node that is not named has applied a client's command that lies beyond an index.
    pub(super) fn has_applied_a_command(&self, beyond: u64, harmed: &[usize]) -> bool {
        let mut whole = (0..self.machines.len()).filter(|at| !harmed.contains(at));
        whole.any(|at| {
            let machine = &self.machines[at];
            let applied = machine
                .running()
                .map(|running| running.node.raft().status().applied_index.0);
            // What was purged since is not there to be looked at; another node has it, or the next one will do.
            let mut later = beyond + 1..=applied.unwrap_or(0);
            later.any(|index| {
                machine
                    .disk
                    .record(index)
                    .is_some_and(|record| witness::has_command(&record))
            })
        })
    }

    /// What every node says of itself, for a story.
    pub(super) fn status(&self) -> String {
        let one = |machine: &Machine| match machine.running() {
            Some(running) => format!("{}: {:?}", machine.name, running.node.raft().status()),
            None => format!("{}: does not run", machine.name),
        };
        self.machines.iter().map(one).collect::<Vec<_>>().join("; ")
    }

    /// Chance decides, `of` to one.
    pub(super) fn rng_says_so(&mut self, times: u32, of: u32) -> bool {
        self.rng.random_ratio(times, of)
    }

    /// How many nodes decide.
    pub(super) fn majority(&self) -> usize {
        self.machines.len() / 2 + 1
    }
}

fn member(number: usize) -> Member {
    let name = format!("n{number}");
    Member {
        node_id: NodeId(number as u64),
        peer_address: format!("{name}:{PEER_PORT}"),
        client_address: format!("{name}:{CLIENT_PORT}"),
        name: NodeName::parse(&name).expect("a letter and a number are a name"),
        voter: true,
    }
}
