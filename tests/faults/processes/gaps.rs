//! For how long clients got nothing acknowledged: after a leader's kill -9, after a partition, after healing; and what is
//! too long.

use std::{collections::BTreeMap, fmt, time::Duration};

use super::stage::RECOVERY;
use crate::{
    history::{Answer, At, Fault, History, RenewOutcome, Renewed, Reply, Request},
    story::time,
};

/// What comes later than this is another fault's doing.
const WINDOW: At = 12_000_000_000;
/// A node that is killed. Goal G6: the first write after a leader's kill -9 within three times the longest election
/// time-out, 1.5 s. Twice that, where two cores carry all nodes, their proxies and the clients.
const KILLED_MAX: Duration = Duration::from_secs(3);
/// A node that falls silent. Goal G6 as well, but that silence must be noticed first, for which DESIGN.md allows about a
/// second in all. Twice the sum of both, 2.5 s.
const SILENT_MAX: Duration = Duration::from_secs(5);
/// A leader whose disk stands still. Goal G8: within 5 s leadership has moved, or the process has ended. Twice that.
const FROZEN_MAX: Duration = Duration::from_secs(10);

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

    /// For how long no write need be acknowledged, on a machine that keeps time.
    fn longest(self) -> Duration {
        match self {
            Self::LeaderKilled | Self::FollowerKilled => KILLED_MAX,
            Self::LeaderPaused | Self::LeaderCutOff | Self::Partition | Self::Healing => SILENT_MAX,
            Self::LeaderFrozen => FROZEN_MAX,
        }
    }
}

/// The longest time without an acknowledged call, for each fault; writes and renewals apart.
#[derive(Debug, Default)]
pub(crate) struct Gaps {
    rows: BTreeMap<Row, (Vec<Duration>, Vec<Duration>)>,
    /// What took too long, told.
    too_long: Vec<String>,
}

impl Gaps {
    /// Measures one run.
    pub(crate) fn of(history: &History) -> Self {
        let (writes, renewals) = (
            acknowledged(history, is_write, is_done),
            acknowledged(history, is_renewal, has_renewed),
        );
        let mut gaps = Self::default();
        for (index, fault) in history.faults.iter().enumerate() {
            // Where faults overlap, no one of them can be blamed.
            let harmless = |kind: &str| kind.ends_with(RECOVERY) || kind == "snapshot_installed";
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
            gaps.note(row, (&writes, &renewals), fault.from, end.min(fault.from + WINDOW));
            if fault.kind == "partition" {
                gaps.note(Row::Healing, (&writes, &renewals), end, end + WINDOW / 4);
            }
        }
        gaps
    }

    fn note(&mut self, row: Row, (writes, renewals): (&[At], &[At]), from: At, until: At) {
        let (of_writes, of_renewals) = self.rows.entry(row).or_default();
        of_renewals.extend(longest(renewals, from, until).map(|(_, span)| span));
        let Some((since, span)) = longest(writes, from, until) else {
            return;
        };
        of_writes.push(span);
        if span > row.longest() {
            self.too_long.push(format!(
                "no write was acknowledged for {} ms from {} on ({}, from {} to {}): at most {} ms are allowed",
                span.as_millis(),
                time(since),
                row.name(),
                time(from),
                time(until),
                row.longest().as_millis(),
            ));
        }
    }

    /// What took longer than a goal allows, a story each. Nothing is too long on a machine that does not keep time.
    pub(crate) fn too_long(&self) -> &[String] {
        &self.too_long
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    pub(crate) fn add(&mut self, other: Self) {
        for (row, (writes, renewals)) in other.rows {
            let mine = self.rows.entry(row).or_default();
            mine.0.extend(writes);
            mine.1.extend(renewals);
        }
        self.too_long.extend(other.too_long);
    }
}

impl fmt::Display for Gaps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "longest time without an acknowledged call, as clients saw it (ms: median / worst):"
        )?;
        writeln!(f, "  {:<24} {:>6} {:>17} {:>17}", "after", "times", "write", "renewal")?;
        for (row, (writes, renewals)) in &self.rows {
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

/// When calls of one sort were acknowledged; in the end, when the last one was given up: a cluster that acknowledges
/// nothing any more is silent until then.
fn acknowledged(history: &History, wanted: fn(&Request) -> bool, worked: fn(&Answer) -> bool) -> Vec<At> {
    let calls = history.calls.iter().filter(|call| wanted(&call.request));
    let mut times: Vec<At> = calls
        .clone()
        .filter(|call| worked(&call.answer))
        .map(|call| call.ended)
        .collect();
    times.extend(calls.map(|call| call.ended).max());
    times.sort_unstable();
    times
}

/// The longest time between two of these moments that touches the window, and when it began; `None` without a moment on
/// either side.
fn longest(moments: &[At], from: At, until: At) -> Option<(At, Duration)> {
    let touching = moments.windows(2).filter(|pair| pair[1] >= from && pair[0] <= until);
    let longest = touching.max_by_key(|pair| pair[1] - pair[0])?;
    Some((longest[0], Duration::from_nanos(longest[1] - longest[0])))
}

fn overlap(a: &Fault, b: &Fault) -> bool {
    // The time after a fault belongs to it, too.
    let end = |fault: &Fault| fault.until.unwrap_or(At::MAX).saturating_add(WINDOW / 8);
    a.from < end(b) && b.from < end(a)
}

fn is_write(request: &Request) -> bool {
    matches!(
        request,
        Request::Register { .. }
            | Request::BatchRegister { .. }
            | Request::Update { .. }
            | Request::Deregister { .. }
            | Request::Grant { .. }
            | Request::Revoke { .. }
    )
}

fn is_done(answer: &Answer) -> bool {
    matches!(answer, Answer::Done { .. })
}

fn is_renewal(request: &Request) -> bool {
    matches!(request, Request::Renew { .. })
}

/// Whether a renewal says that it kept a lease; it is answered, too, when it could not be confirmed.
pub(crate) fn has_renewed(answer: &Answer) -> bool {
    let Answer::Done {
        reply: Reply::Renewed(renewed),
        ..
    } = answer
    else {
        return false;
    };
    let kept = |one: &Renewed| one.outcome == RenewOutcome::Renewed;
    renewed.iter().any(kept)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::history::Run;

    const MS: At = 1_000_000;

    #[test]
    fn the_longest_gap_is_the_one_that_touches_the_window() {
        let moments = [0, 10, 20, 70, 80, 300];
        let gap = |since, span| Some((since, Duration::from_nanos(span)));
        assert_eq!(longest(&moments, 15, 75), gap(20, 50));
        assert_eq!(longest(&moments, 0, 9), gap(0, 10));
        assert_eq!(longest(&moments, 75, 90), gap(80, 220));
        assert_eq!(longest(&moments[..1], 0, 90), None);
    }

    /// A fault that hits the leader from 10 s to 25 s; writes every 100 ms, but for `silent_ms` from its beginning on.
    /// With `back`, they are acknowledged again after that.
    fn harmed(kind: &str, silent_ms: At, back: bool) -> History {
        let mut history = History::new(Run {
            harness: "test".to_owned(),
            seed: 1,
            nodes: 3,
            replay: String::new(),
        });
        history.faults.push(Fault {
            kind: kind.to_owned(),
            nodes: vec!["n1".to_owned()],
            hit_leader: true,
            majority_left: true,
            from: 10_000 * MS,
            until: Some(25_000 * MS),
            details: String::new(),
        });
        for ms in (0..40_000).step_by(100) {
            let works = ms <= 10_000 || (back && ms >= 10_000 + silent_ms);
            let answer = if works {
                json!({"done": {"revision": 1, "reply": {"lease": {"lease": 7, "ttl_ms": 1}}}})
            } else {
                json!({"failed": {"reason": "NO_LEADER"}})
            };
            let call = json!({
                "id": ms, "client": 1, "sent": ms * MS, "ended": ms * MS,
                "request": {"grant": {"lease": 7, "ttl_ms": 1}}, "answer": answer,
            });
            history.calls.push(serde_json::from_value(call).unwrap());
        }
        history
    }

    #[test]
    fn a_gap_is_too_long_beyond_the_bound_of_its_fault() {
        for (kind, bound_ms) in [
            ("kill", 3_000),
            ("pause", 5_000),
            ("partition", 5_000),
            ("disk_frozen", 10_000),
        ] {
            assert!(
                Gaps::of(&harmed(kind, bound_ms, true)).too_long().is_empty(),
                "{kind}, {bound_ms} ms"
            );
            let gaps = Gaps::of(&harmed(kind, bound_ms + 100, true));
            assert_eq!(gaps.too_long().len(), 1, "{kind}, {gaps:?}");
        }
        // What no goal speaks of is only measured.
        assert!(Gaps::of(&harmed("slow_sync", 30_000, true)).too_long().is_empty());
    }

    #[test]
    fn a_cluster_that_never_acknowledges_again_is_silent_to_the_end() {
        for kind in ["kill", "pause", "disk_frozen"] {
            let gaps = Gaps::of(&harmed(kind, 0, false));
            assert_eq!(gaps.too_long().len(), 1, "{kind}: {gaps:?}");
        }
    }

    #[test]
    fn faults_that_overlap_blame_nobody() {
        let mut history = harmed("kill", 9_000, true);
        let other = Fault {
            kind: "delay".to_owned(),
            ..history.faults[0].clone()
        };
        history.faults.push(other);
        assert!(Gaps::of(&history).too_long().is_empty());
    }
}
