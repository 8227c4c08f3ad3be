//! For how long clients got nothing acknowledged: after a leader's kill -9, after a partition, after healing.

use std::{collections::BTreeMap, fmt, time::Duration};

use super::stage::RECOVERY;
use crate::history::{Answer, At, Call, Fault, History, RenewOutcome, Renewed, Reply, Request};

/// What comes later than this is another fault's doing.
const WINDOW: At = 12_000_000_000;

/// What was waited for, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Row {
    LeaderKilled,
    FollowerKilled,
    LeaderPaused,
    LeaderFrozen,
    LeaderCutOff,
    Partition,
    Healing,
}

impl Row {
    fn name(self) -> &'static str {
        match self {
            Self::LeaderKilled => "kill -9 of the leader",
            Self::FollowerKilled => "kill -9 of a follower",
            Self::LeaderPaused => "SIGSTOP of the leader",
            Self::LeaderFrozen => "the leader's disk frozen",
            Self::LeaderCutOff => "the leader cut off",
            Self::Partition => "another partition",
            Self::Healing => "healing a partition",
        }
    }
}

/// The longest time without an acknowledged call, for each fault; writes and renewals apart.
#[derive(Debug, Default)]
pub(crate) struct Gaps(BTreeMap<Row, (Vec<Duration>, Vec<Duration>)>);

impl Gaps {
    /// Measures one run.
    pub(crate) fn of(history: &History) -> Self {
        let acknowledged = |wanted: fn(&Call) -> bool| {
            let mut times: Vec<At> = history
                .calls
                .iter()
                .filter(|call| wanted(call))
                .map(|call| call.ended)
                .collect();
            times.sort_unstable();
            times
        };
        let (writes, renewals) = (acknowledged(is_write), acknowledged(is_renewal));
        let mut gaps = Self::default();
        for (index, fault) in history.faults.iter().enumerate() {
            // Where faults overlap, no one of them can be blamed.
            let harmless = |kind: &str| matches!(kind, RECOVERY | "snapshot_installed");
            let alone =
                |other: (usize, &Fault)| other.0 == index || harmless(&other.1.kind) || !overlap(fault, other.1);
            let minority = 2 * fault.nodes.len() < history.run.nodes as usize;
            if !minority || !fault.majority_left || !history.faults.iter().enumerate().all(alone) {
                continue;
            }
            let row = match (fault.kind.as_str(), fault.hit_leader) {
                ("kill", true) => Row::LeaderKilled,
                ("kill", false) => Row::FollowerKilled,
                ("pause", true) => Row::LeaderPaused,
                ("disk_frozen", true) => Row::LeaderFrozen,
                ("partition", true) => Row::LeaderCutOff,
                ("partition", false) => Row::Partition,
                _ => continue,
            };
            let end = fault.until.unwrap_or(fault.from + WINDOW);
            gaps.note(row, &writes, &renewals, fault.from, end.min(fault.from + WINDOW));
            if fault.kind == "partition" {
                gaps.note(Row::Healing, &writes, &renewals, end, end + WINDOW / 4);
            }
        }
        gaps
    }

    fn note(&mut self, row: Row, writes: &[At], renewals: &[At], from: At, until: At) {
        let (of_writes, of_renewals) = self.0.entry(row).or_default();
        of_writes.extend(longest(writes, from, until));
        of_renewals.extend(longest(renewals, from, until));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn add(&mut self, other: Self) {
        for (row, (writes, renewals)) in other.0 {
            let mine = self.0.entry(row).or_default();
            mine.0.extend(writes);
            mine.1.extend(renewals);
        }
    }
}

impl fmt::Display for Gaps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "longest time without an acknowledged call, as clients saw it (ms: median / worst):"
        )?;
        writeln!(f, "  {:<24} {:>6} {:>17} {:>17}", "after", "times", "write", "renewal")?;
        for (row, (writes, renewals)) in &self.0 {
            let (name, times) = (row.name(), writes.len().max(renewals.len()));
            writeln!(
                f,
                "  {name:<24} {times:>6} {:>17} {:>17}",
                spread(writes),
                spread(renewals)
            )?;
        }
        Ok(())
    }
}

fn spread(spans: &[Duration]) -> String {
    let mut spans = spans.to_vec();
    spans.sort_unstable();
    match (spans.get(spans.len() / 2), spans.last()) {
        (Some(median), Some(worst)) => format!("{} / {}", median.as_millis(), worst.as_millis()),
        _ => "-".to_owned(),
    }
}

/// The longest time between two of these moments that touches the window; `None` without a moment on either side.
fn longest(moments: &[At], from: At, until: At) -> Option<Duration> {
    let touching = moments.windows(2).filter(|pair| pair[1] >= from && pair[0] <= until);
    touching.map(|pair| pair[1] - pair[0]).max().map(Duration::from_nanos)
}

fn overlap(a: &Fault, b: &Fault) -> bool {
    // The time after a fault belongs to it, too.
    let end = |fault: &Fault| fault.until.unwrap_or(At::MAX).saturating_add(WINDOW / 8);
    a.from < end(b) && b.from < end(a)
}

fn is_write(call: &Call) -> bool {
    let writes = matches!(
        call.request,
        Request::Register { .. }
            | Request::BatchRegister { .. }
            | Request::Update { .. }
            | Request::Deregister { .. }
            | Request::Grant { .. }
            | Request::Revoke { .. }
    );
    writes && matches!(call.answer, Answer::Done { .. })
}

fn is_renewal(call: &Call) -> bool {
    let Answer::Done {
        reply: Reply::Renewed(renewed),
        ..
    } = &call.answer
    else {
        return false;
    };
    let kept = |one: &Renewed| one.outcome == RenewOutcome::Renewed;
    renewed.iter().any(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_gap_is_the_one_that_touches_the_window() {
        let moments = [0, 10, 20, 70, 80, 300];
        assert_eq!(longest(&moments, 15, 75), Some(Duration::from_nanos(50)));
        assert_eq!(longest(&moments, 0, 15), Some(Duration::from_nanos(10)));
        assert_eq!(longest(&moments, 75, 90), Some(Duration::from_nanos(220)));
        assert_eq!(longest(&moments[..1], 0, 90), None);
    }
}
