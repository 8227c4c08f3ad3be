//! What must hold at every moment, seen from outside: no time goes back, no two nodes commit different records, and what
//! a leader calls committed lies synced on a majority of disks.

use std::collections::BTreeMap;

use roster::{
    model::{LogIndex, Term},
    raft::Role,
};

use super::{
    disk::{Disk, Holding},
    member::Machine,
    trace::{Trace, digest},
};

/// What was seen so far.
pub(super) struct Lookout {
    /// The record that some node called committed, by index.
    committed: BTreeMap<u64, u64>,
    nodes: Vec<Seen>,
    /// The highest index that any node called committed.
    pub(super) highest: u64,
    pub(super) leaders: u64,
}

#[derive(Clone, Copy, Default)]
struct Seen {
    life: u64,
    term: Term,
    committed: LogIndex,
    applied: LogIndex,
    /// Through here its records were compared with the others'.
    compared: u64,
    led: Term,
}

impl Lookout {
    pub(super) fn new(nodes: usize) -> Self {
        Self {
            committed: BTreeMap::new(),
            nodes: vec![Seen::default(); nodes],
            highest: 0,
            leaders: 0,
        }
    }

    /// A node is gone: what it knew beyond its disk is nothing that it promised.
    pub(super) fn crashed(&mut self, at: usize, disk: &Disk) {
        self.nodes[at].term = Term(disk.vote().map_or(0, |vote| vote.term));
    }

    /// Looks at every node that runs.
    ///
    /// # Errors
    /// What does not hold, with the name of its invariant.
    pub(super) fn look(&mut self, machines: &[Machine], trace: &Trace) -> Result<(), String> {
        for (at, machine) in machines.iter().enumerate() {
            let Some(running) = machine.running() else { continue };
            let status = running.node.raft().status();
            let seen = self.nodes[at];
            if status.term < seen.term {
                return Err(format!(
                    "R1: {} was in term {}, and is in {}",
                    machine.name, seen.term.0, status.term.0
                ));
            }
            let same_life = running.life == seen.life;
            if same_life && (status.committed_index < seen.committed || status.applied_index < seen.applied) {
                return Err(format!("R1: {} went back to {status:?}", machine.name));
            }
            // A snapshot may take the place of records that were never committed. While it is being installed, they are
            // still there, and called committed; so followers are believed as far as they have applied.
            let covered = status.snapshot_index.map_or(0, |covered| covered.0);
            let from = if same_life { seen.compared.max(covered) } else { covered };
            let leads = status.role == Role::Leader;
            let through = if leads {
                status.committed_index
            } else {
                status.applied_index
            };
            self.agree(machine, from + 1, through.0)?;
            let mut led = seen.led;
            if leads {
                if led != status.term {
                    led = status.term;
                    self.leaders += 1;
                    trace.note(format_args!("{} leads term {}", machine.name, status.term.0));
                }
                self.lies_on_a_majority(machines, machine, status.committed_index.0)?;
            }
            self.nodes[at] = Seen {
                life: running.life,
                term: status.term,
                committed: status.committed_index,
                applied: status.applied_index,
                compared: from.max(through.0),
                led,
            };
        }
        Ok(())
    }

    /// What one node newly calls committed must be what others called so.
    fn agree(&mut self, machine: &Machine, from: u64, through: u64) -> Result<(), String> {
        self.highest = self.highest.max(through);
        for index in from..=through {
            // One that was purged since, or came with a snapshot, is not there to be compared.
            let Some(record) = machine.disk.record(index) else {
                continue;
            };
            let record = digest(&record);
            let known = *self.committed.entry(index).or_insert(record);
            if known != record {
                return Err(format!(
                    "D2: {} commits another record at {index} than was committed there",
                    machine.name
                ));
            }
        }
        Ok(())
    }

    fn lies_on_a_majority(&self, machines: &[Machine], leader: &Machine, index: u64) -> Result<(), String> {
        let Some(&record) = self.committed.get(&index) else {
            return Ok(());
        };
        let holds = |machine: &&Machine| match machine.disk.holding(index) {
            Holding::Record(bytes) => digest(&bytes) == record,
            Holding::Purged => true,
            Holding::Nothing => false,
        };
        let covers = |machine: &&Machine| {
            let covered = machine
                .running()
                .and_then(|running| running.node.raft().status().snapshot_index);
            covered.is_some_and(|covered| covered.0 >= index)
        };
        let holders: Vec<&str> = machines
            .iter()
            .filter(|machine| holds(machine) || covers(machine))
            .map(|machine| machine.name.as_str())
            .collect();
        if holders.len() > machines.len() / 2 {
            return Ok(());
        }
        Err(format!(
            "D2: {} calls {index} committed, and it lies synced on {holders:?} alone",
            leader.name
        ))
    }
}
