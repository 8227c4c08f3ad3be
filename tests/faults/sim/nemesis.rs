//! Harms the world by a schedule that comes from the seed, several faults at a time.
//!
//! Each seed has its own taste: only some kinds of faults come in it, often or rarely, so that the seeds differ more
//! from each other than from themselves.

use std::time::Duration;

use rand::{Rng as _, seq::IndexedRandom as _};

use super::{
    harms::{Harm, Undo, between, cut, freeze, hold, kill, trigger_snapshot},
    world::World,
};
use crate::{
    history::{Event, Fault},
    recorder::Recorder,
};

/// Faults at a time.
const AT_ONCE_MAX: usize = 3;

struct Active {
    fault: Fault,
    until: Duration,
    undo: Undo,
}

/// What a strike did: the names of the nodes that it hit, how it is undone, and what else there is to say.
type Done = (Vec<String>, Undo, String);

/// Harms a world.
pub(super) struct Nemesis {
    harms: Vec<Harm>,
    pause_ms: u64,
    last_ms: u64,
    active: Vec<Active>,
    next: Duration,
    /// Some node takes a snapshot so often, so that logs are purged and followers need it.
    snapshot_every: Duration,
    next_snapshot: Duration,
    recorder: Recorder,
}

impl Nemesis {
    /// With a taste that comes from the world's chance.
    pub(super) fn new(world: &mut World, recorder: Recorder) -> Self {
        let count = world.rng.random_range(4..=Harm::ALL.len());
        let mut harms: Vec<Harm> = Harm::ALL.choose_multiple(&mut world.rng, count).copied().collect();
        harms.sort_unstable();
        Self {
            harms,
            pause_ms: *[150, 400, 900, 2_000].choose(&mut world.rng).expect("there are some"),
            last_ms: *[300, 1_000, 2_500, 5_000]
                .choose(&mut world.rng)
                .expect("there are some"),
            active: Vec::new(),
            next: Duration::from_millis(1_200),
            snapshot_every: Duration::from_millis(world.rng.random_range(100..1_500)),
            next_snapshot: Duration::from_millis(1_500),
            recorder,
        }
    }

    /// To be called before each step.
    pub(super) fn act(&mut self, world: &mut World) {
        let now = world.now();
        let (over, still) = std::mem::take(&mut self.active)
            .into_iter()
            .partition(|active| active.until <= now);
        self.active = still;
        let over: Vec<Active> = over;
        for active in over {
            self.end(world, active);
        }
        // A node whose disk failed is started again by the world.
        self.look_for_majority(world);
        if now >= self.next_snapshot {
            let at = world.rng.random_range(0..world.machines.len());
            trigger_snapshot(world, at);
            self.next_snapshot = now + self.snapshot_every;
        }
        if now >= self.next {
            if self.active.len() < AT_ONCE_MAX
                && let Some(harm) = self.harms.choose(&mut world.rng).copied()
            {
                let lasts = Duration::from_millis(world.rng.random_range(50..=self.last_ms));
                self.begin(world, harm, lasts);
            }
            // One fault on another: now and then the next comes at once.
            let pause = if world.rng.random_ratio(1, 4) {
                0
            } else {
                world.rng.random_range(0..=2 * self.pause_ms)
            };
            self.next = now + Duration::from_millis(pause);
        }
    }

    /// Ends every fault.
    pub(super) fn heal(&mut self, world: &mut World) {
        for active in std::mem::take(&mut self.active) {
            self.end(world, active);
        }
        for at in 0..world.machines.len() {
            world.start(at);
        }
    }

    /// Leaves a majority whole, and harms the others for good: until the next [`Nemesis::heal`].
    pub(super) fn harm_a_minority(&mut self, world: &mut World) -> Vec<usize> {
        let count = world.machines.len() - world.majority();
        let harmed = world.some_nodes(count);
        for &at in &harmed {
            let leader = world.leader();
            let name = world.name(at);
            let others: Vec<String> = (0..world.machines.len())
                .filter(|o| *o != at)
                .map(|o| world.name(o))
                .collect();
            let deaf: Vec<_> = others.iter().map(|other| (other.clone(), name.clone())).collect();
            let dumb: Vec<_> = others.iter().map(|other| (name.clone(), other.clone())).collect();
            let (kind, undo) = match world.rng.random_range(0..6) {
                0 => ("kill", kill(world, vec![at])),
                1 => ("one_way", cut(world, deaf)),
                2 => ("one_way", cut(world, dumb)),
                3 => ("partition", cut(world, deaf.into_iter().chain(dumb).collect())),
                4 => ("disk_frozen", freeze(world, at)),
                _ => ("hold", hold(world, dumb)),
            };
            self.note(
                world,
                leader,
                kind,
                (vec![name], undo, "for good".to_owned()),
                Duration::MAX,
            );
        }
        harmed
    }

    /// Leaves no majority: until the next [`Nemesis::heal`]. No disk is frozen, for one that answers can still be read.
    pub(super) fn take_the_majority(&mut self, world: &mut World) {
        let leader = world.leader();
        let (kind, hit, undo) = if world.rng_says_so(1, 2) {
            let hit = world.some_nodes(world.majority());
            ("kill", hit.clone(), kill(world, hit))
        } else {
            let all: Vec<usize> = (0..world.machines.len()).collect();
            let each = all.iter().flat_map(|at| between(world, &[*at], &all[at + 1..]));
            let ways = each.collect();
            ("partition", all, cut(world, ways))
        };
        let names = hit.iter().map(|at| world.name(*at)).collect();
        self.note(
            world,
            leader,
            kind,
            (names, undo, "no majority".to_owned()),
            Duration::MAX,
        );
    }

    /// Cuts some nodes off from the others and not from their clients: until the next [`Nemesis::heal`].
    pub(super) fn cut_off_a_minority(&mut self, world: &mut World) {
        let leader = world.leader();
        let count = world.rng.random_range(1..=world.machines.len() - world.majority());
        let side = world.some_nodes(count);
        let others: Vec<usize> = (0..world.machines.len()).filter(|at| !side.contains(at)).collect();
        let ways = between(world, &side, &others);
        let undo = cut(world, ways);
        let names = side.iter().map(|at| world.name(*at)).collect();
        self.note(
            world,
            leader,
            "partition",
            (names, undo, "a minority".to_owned()),
            Duration::MAX,
        );
    }

    /// Records the faults that are under way as they are: the run is at its end.
    pub(super) fn leave(&mut self) {
        for active in std::mem::take(&mut self.active) {
            self.recorder.record(Event::Fault(active.fault));
        }
    }

    fn begin(&mut self, world: &mut World, harm: Harm, lasts: Duration) {
        let leader = world.leader();
        let Some((hit, undo, details)) = harm.strike(world) else {
            return;
        };
        let names = hit.iter().map(|at| world.name(*at)).collect();
        let until = if harm.is_instant() {
            world.now()
        } else {
            world.now() + lasts
        };
        self.note(world, leader, harm.name(), (names, undo, details), until);
    }

    /// Notes what was done; `leader` led before it was.
    fn note(&mut self, world: &World, leader: Option<usize>, kind: &str, done: Done, until: Duration) {
        let (nodes, undo, details) = done;
        let core = world.core();
        let no_core = core.len() < world.majority();
        let hit_leader =
            leader.is_some_and(|leader| nodes.contains(&world.name(leader)) || no_core || !core.contains(&leader));
        world.trace.note(format_args!("fault {kind} {nodes:?} {details}"));
        let fault = Fault {
            kind: kind.to_owned(),
            nodes,
            hit_leader,
            majority_left: world.majority_left(),
            from: nanos(world.now()),
            until: None,
            details,
        };
        self.active.push(Active { fault, until, undo });
    }

    fn end(&mut self, world: &mut World, active: Active) {
        let Active { mut fault, undo, .. } = active;
        undo.apply(world);
        world.trace.note(format_args!("over {} {:?}", fault.kind, fault.nodes));
        fault.until = Some(nanos(world.now()));
        self.recorder.record(Event::Fault(fault));
        self.look_for_majority(world);
    }

    /// Notes when a majority is back while faults go on: each is another fault from then on.
    pub(super) fn look_for_majority(&mut self, world: &World) {
        if !world.majority_left() {
            return;
        }
        let now = nanos(world.now());
        for active in self.active.iter_mut().filter(|active| !active.fault.majority_left) {
            let goes_on = Fault {
                majority_left: true,
                from: now,
                ..active.fault.clone()
            };
            let lost = std::mem::replace(&mut active.fault, goes_on);
            self.recorder.record(Event::Fault(Fault {
                until: Some(now),
                ..lost
            }));
        }
    }
}

fn nanos(at: Duration) -> u64 {
    u64::try_from(at.as_nanos()).unwrap_or(u64::MAX)
}
