//! The harms that hold: what they make of the ways, and how they stand in the history.

use std::time::Duration;

use super::Stage;
use crate::{
    history::{At, Event, Fault},
    processes::{
        campaign::say,
        harm::Shaped,
        network::{End, Flow},
    },
};

/// What is left of a fault when a majority is back has its kind with this behind it: a disk that still stands still is
/// to be known for one.
pub(crate) const RECOVERY: &str = "_recovery";
/// The kind of a fault that lets the disks of so many stand still that nothing new can be acknowledged: reads need no
/// disk.
pub(crate) const FROZEN_QUORUM: &str = "disk_frozen_quorum";

/// A fault that has begun.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OpenFault(u64);

impl Stage {
    /// Makes of some ways what a harm wants, along with what others that hold want; returns under which number.
    pub(crate) fn hold_ways(&mut self, shaped: Vec<Shaped>) -> u64 {
        let number = self.shapes.last().map_or(0, |(number, _)| number + 1);
        let ways: Vec<_> = shaped.iter().map(|(way, _)| *way).collect();
        self.shapes.push((number, shaped));
        self.shape_ways(&ways);
        number
    }

    /// A harm no longer wants anything of its ways.
    pub(crate) fn free_ways(&mut self, number: u64) {
        if let Some(at) = self.shapes.iter().position(|(held, _)| *held == number) {
            let (_, shaped) = self.shapes.remove(at);
            let ways: Vec<_> = shaped.into_iter().map(|(way, _)| way).collect();
            self.shape_ways(&ways);
        }
    }

    fn shape_ways(&self, ways: &[(End, End)]) {
        for way in ways {
            let held = self.shapes.iter().flat_map(|(_, shaped)| shaped);
            let wanted = held.filter(|(shaped, _)| shaped == way).map(|(_, flow)| flow);
            let wanted = wanted.fold(Flow::default(), Flow::and);
            self.cluster
                .network
                .ways()
                .change(*way, |present| present.become_like(&wanted));
        }
    }

    /// Notes that a fault has begun, after it was done.
    pub(crate) fn fault(
        &mut self,
        kind: &str,
        nodes: &[usize],
        hit_leader: bool,
        from: At,
        details: String,
    ) -> OpenFault {
        *self.findings.faults.entry(kind.to_owned()).or_default() += 1;
        let fault = Fault {
            kind: kind.to_owned(),
            nodes: self.names(nodes),
            hit_leader,
            majority_left: self.majority_left(kind),
            from,
            until: None,
            details,
        };
        say(format!(
            "  {:7.2} s  {} {}{}{}",
            Duration::from_nanos(from).as_secs_f64(),
            fault.details,
            fault.nodes.join(" "),
            if hit_leader { " (the leader hit)" } else { "" },
            if fault.majority_left { "" } else { " (no majority left)" },
        ));
        self.faults_begun += 1;
        self.open_faults.insert(self.faults_begun, fault);
        OpenFault(self.faults_begun)
    }

    /// Notes the time that a fault took to come about; returns its end.
    pub(crate) fn fault_came_about(&mut self, kind: &str, nodes: &[usize], from: At) -> At {
        let now = self.recorder.now();
        self.recorder.record(Event::Fault(Fault {
            kind: kind.to_owned(),
            nodes: self.names(nodes),
            hit_leader: false,
            majority_left: true,
            from,
            until: Some(now),
            details: String::new(),
        }));
        now
    }

    fn names(&self, nodes: &[usize]) -> Vec<String> {
        nodes
            .iter()
            .map(|node| self.cluster.servers[*node].name.clone())
            .collect()
    }

    /// Notes that it is over.
    pub(crate) fn fault_over(&mut self, fault: OpenFault) {
        let now = self.recorder.now();
        if let Some(fault) = self.open_faults.remove(&fault.0) {
            let until = Some(now);
            self.recorder.record(Event::Fault(Fault { until, ..fault }));
        }
        self.look_for_majority(now);
    }

    /// Whether that fault is the only one, and was from its beginning on.
    pub(crate) fn is_alone(&self, fault: &OpenFault) -> bool {
        self.open_faults.len() == 1 && self.open_faults.contains_key(&fault.0) && self.faults_begun == fault.0
    }

    /// Notes that a fault that holds met nothing: it does not count as an injection.
    pub(crate) fn fault_unmet(&mut self, fault: &OpenFault, why: &str) {
        let Some(fault) = self.open_faults.get_mut(&fault.0) else {
            return;
        };
        let kind = fault.kind.strip_suffix(RECOVERY).unwrap_or(&fault.kind).to_owned();
        fault.kind = format!("{kind}_unmet");
        if let Some(count) = self.findings.faults.get_mut(&kind) {
            *count -= 1;
        }
        self.findings.faults.retain(|_, count| *count > 0);
        self.findings.miss(&kind, why);
    }

    /// Whether there is a majority for all that a fault of this kind takes away.
    fn majority_left(&mut self, kind: &str) -> bool {
        if kind == FROZEN_QUORUM {
            self.cluster.majority_writes()
        } else {
            self.cluster.majority_left()
        }
    }

    /// Notes when a majority is back while faults go on: from then on they are a recovery. `now`: before whatever may
    /// have brought it back was begun, for what is answered while it is done.
    pub(crate) fn look_for_majority(&mut self, now: At) {
        let (left, writes) = (self.cluster.majority_left(), self.cluster.majority_writes());
        let back = |fault: &Fault| if fault.kind == FROZEN_QUORUM { writes } else { left };
        let lost = self.open_faults.values_mut().filter(|fault| !fault.majority_left);
        for fault in lost.filter(|fault| back(fault)) {
            let recovery = Fault {
                kind: format!("{}{RECOVERY}", fault.kind),
                majority_left: true,
                from: now,
                ..fault.clone()
            };
            let lost = std::mem::replace(fault, recovery);
            self.recorder.record(Event::Fault(Fault {
                until: Some(now),
                ..lost
            }));
        }
    }
}
