//! When the cluster was harmed, and when it was silent.

use super::{CheckOptions, options::ns, order::linearizable_revision};
use crate::history::{At, Fault, History};

/// The kind by which a harness tells that a node installed a snapshot: no harm is done.
pub(super) const SNAPSHOT_INSTALLED: &str = "snapshot_installed";

/// What happened when.
#[derive(Debug, Default)]
pub(super) struct Timeline {
    /// The last instant of the run.
    pub(super) end: At,
    /// Faults by their beginning, with their end.
    pub(super) faults: Vec<(At, At, Fault)>,
    /// Spans in which nothing that goes through the log was answered by any node, and the sum of all before each.
    silences: Vec<(At, At, u64)>,
}

impl Timeline {
    pub(super) fn of(history: &History, options: &CheckOptions) -> Self {
        let mut answered: Vec<At> = vec![0];
        let mut end = 0;
        for call in &history.calls {
            end = end.max(call.ended);
            // A leader whose disk stands still, and whose quorum is other nodes, answers reads and commits nothing.
            let reads = call.request.is_read();
            if !reads && linearizable_revision(call).is_some() {
                answered.push(call.ended);
            }
        }
        for stream in &history.watches {
            let last = stream.steps.last().map_or(stream.opened, |step| step.at);
            end = end.max(last).max(stream.ended.as_ref().map_or(0, |ended| ended.at));
        }
        end = history.samples.iter().fold(end, |end, sample| end.max(sample.ended));
        end = history
            .faults
            .iter()
            .fold(end, |end, fault| end.max(fault.until.unwrap_or(fault.from)));
        answered.push(end);
        answered.sort_unstable();
        let mut faults: Vec<(At, At, Fault)> = history
            .faults
            .iter()
            .filter(|fault| fault.kind != SNAPSHOT_INSTALLED)
            .map(|fault| (fault.from, fault.until.unwrap_or(end), fault.clone()))
            .collect();
        faults.sort_by_key(|(from, until, _)| (*from, *until));
        Self {
            end,
            faults,
            silences: silences(&answered, ns(options.silence_min)),
        }
    }

    /// Whether no fault holds at any instant from `from` through `until`.
    pub(super) fn is_calm(&self, from: At, until: At) -> bool {
        self.faults_within(from, until).next().is_none()
    }

    /// Faults that hold at some instant from `from` through `until`.
    pub(super) fn faults_within(&self, from: At, until: At) -> impl Iterator<Item = &Fault> {
        let began = self.faults.iter().take_while(move |(begin, _, _)| *begin <= until);
        began.filter(move |(_, end, _)| *end >= from).map(|(_, _, fault)| fault)
    }

    /// When the last fault was over; `None` = there was none.
    pub(super) fn last_fault_over(&self) -> Option<At> {
        self.faults.iter().map(|(_, end, _)| *end).max()
    }

    /// How much of a span lies in silences.
    pub(super) fn silence_within(&self, from: At, until: At) -> u64 {
        let first = self.silences.partition_point(|(_, end, _)| *end <= from);
        let after = self.silences.partition_point(|(begin, _, _)| *begin < until);
        if first >= after {
            return 0;
        }
        let (begin, end, before) = self.silences[after - 1];
        let whole = before + (end - begin) - self.silences[first].2;
        whole - from.saturating_sub(self.silences[first].0) - end.saturating_sub(until)
    }
}

fn silences(answered: &[At], least: u64) -> Vec<(At, At, u64)> {
    let mut sum = 0;
    let mut silences = Vec::new();
    for pair in answered.windows(2) {
        let length = pair[1] - pair[0];
        if length >= least {
            silences.push((pair[0], pair[1], sum));
            sum += length;
        }
    }
    silences
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silences_within_a_span_are_added_up() {
        let timeline = Timeline {
            silences: silences(&[0, 10, 11, 12, 30, 31, 50], 5),
            ..Timeline::default()
        };
        assert_eq!(timeline.silence_within(0, 50), 10 + 18 + 19);
        assert_eq!(timeline.silence_within(11, 20), 8);
        assert_eq!(timeline.silence_within(11, 12), 0);
        assert_eq!(timeline.silence_within(30, 31), 0);
        assert_eq!(timeline.silence_within(40, 45), 5);
        assert_eq!(timeline.silence_within(5, 40), 5 + 18 + 9);
    }
}
