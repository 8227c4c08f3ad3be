//! All seeds' results together, and whether they prove anything.

use std::{collections::BTreeMap, time::Duration};

use super::{Report, STORY_LINES, Seed};

/// From so many seeds on, what they saw must suffice.
const SEEDS_THAT_PROVE: usize = 100;
/// What of [`Report::seen`] must not be missing then.
const DEMANDED: [(&str, &str); 8] = [
    ("expiries", "no lease expired"),
    ("compacted", "no watch was reset by COMPACTED"),
    ("snapshots installed", "no snapshot was installed"),
    ("resumes", "no watch was resumed"),
    ("unknown found", "no unknown write was found in the log"),
    ("unknown not found", "no unknown write was missing in the log"),
    ("leader hit", "no fault hit a leader"),
    ("majority lost", "the majority was never lost"),
];
/// Of a hundred seeds with a whole majority, 99 commit within this.
const COMMITS_MOSTLY_WITHIN: Duration = Duration::from_secs(5);

/// All seeds' results together.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// How many ended.
    pub seeds: usize,
    /// Added up; its `seed`, `nodes` and `trace` are those of the seed that ended last.
    pub total: Report,
    /// How long a whole majority took to commit, each in ms.
    pub recovered_ms: Vec<u64>,
    /// Those that failed, and why.
    pub failed: Vec<(Seed, Vec<(String, String)>)>,
}

impl Summary {
    pub(super) fn add(&mut self, seed: Seed, report: Report) {
        self.seeds += 1;
        let total = &mut self.total;
        (total.seed, total.nodes) = (report.seed, report.nodes);
        total.trace.clone_from(&report.trace);
        total.events += report.events;
        total.simulated_ms += report.simulated_ms;
        total.committed += report.committed;
        total.leaders += report.leaders;
        total.snapshots_sent += report.snapshots_sent;
        total.syncs += report.syncs;
        self.recovered_ms.extend(report.recovered_ms);
        for (into, from) in [
            (&mut total.faults, report.faults),
            (&mut total.calls, report.calls),
            (&mut total.checked, report.checked),
            (&mut total.seen, report.seen),
        ] {
            for (name, count) in from {
                *into.entry(name).or_default() += count;
            }
        }
        if !report.violations.is_empty() {
            self.failed.push((seed, report.violations));
        }
    }

    /// What all seeds together do not show, each with the name of what demands it; nothing where there are only a few.
    #[must_use]
    pub fn lacks(&self) -> Vec<(&'static str, String)> {
        if self.seeds < SEEDS_THAT_PROVE {
            return Vec::new();
        }
        let seen = |name: &str| self.total.seen.get(name).copied().unwrap_or(0);
        let missing = DEMANDED.iter().filter(|(name, _)| seen(name) == 0);
        let mut lacks: Vec<_> = missing.map(|(_, what)| ("coverage", (*what).to_owned())).collect();
        let never = self.total.faults.iter().filter(|(_, count)| **count == 0);
        lacks.extend(never.map(|(kind, _)| ("coverage", format!("no fault was of kind {kind}"))));
        if self.total.faults.is_empty() {
            lacks.push(("coverage", "there were no faults".to_owned()));
        }
        let [_, p99, _] = self.recovered();
        if u128::from(p99) > COMMITS_MOSTLY_WITHIN.as_millis() {
            let story = format!("of 100 whole majorities 99 commit within {p99} ms, not {COMMITS_MOSTLY_WITHIN:?}");
            lacks.push(("A3", story));
        }
        lacks
    }

    /// How long a whole majority took to commit, in ms: the half of them, 99 of 100, all.
    fn recovered(&self) -> [u64; 3] {
        let mut sorted = self.recovered_ms.clone();
        sorted.sort_unstable();
        // The nearest rank.
        let within = |percent: usize| sorted.get((sorted.len() * percent).div_ceil(100).max(1) - 1).copied();
        [50, 99, 100].map(|percent| within(percent).unwrap_or(0))
    }

    /// One line for a ledger.
    #[must_use]
    pub fn line(&self) -> String {
        format!(
            "{} seeds, {:.0} min simulated, {} events, {} faults, {} calls, {} records, {} leaders, {} violations",
            self.seeds,
            self.total.simulated_ms as f64 / 60_000.0,
            self.total.events,
            self.total.faults.values().sum::<u64>(),
            self.total.calls.values().sum::<u64>(),
            self.total.committed,
            self.total.leaders,
            self.failed.len()
        )
    }

    /// The figures in full, and each failure's story.
    #[must_use]
    pub fn text(&self) -> String {
        let list = |counts: &BTreeMap<String, u64>| {
            let each = counts.iter().map(|(name, count)| format!("{name} {count}"));
            each.collect::<Vec<_>>().join(", ")
        };
        let [p50, p99, max] = self.recovered();
        let mut text = format!(
            "{}\nfaults:    {}\ncalls:     {}\nchecked:   {}\nseen:      {}\nsnapshots: {} sent; syncs: {}\n\
             a whole majority commits within: p50 {p50} ms, p99 {p99} ms, max {max} ms, of {} times\n",
            self.line(),
            list(&self.total.faults),
            list(&self.total.calls),
            list(&self.total.checked),
            list(&self.total.seen),
            self.total.snapshots_sent,
            self.total.syncs,
            self.recovered_ms.len(),
        );
        for (seed, violations) in &self.failed {
            text += &format!(
                "\nseed {} with {} nodes failed: {}\n",
                seed.number,
                seed.nodes,
                seed.replay()
            );
            for (checker, story) in violations {
                let story: Vec<&str> = story.lines().take(STORY_LINES).collect();
                text += &format!("  {checker}: {}\n", story.join("\n    "));
            }
        }
        for (name, what) in self.lacks() {
            text += &format!("\n{name}: the seeds together do not suffice: {what}\n");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A seed that saw everything.
    fn whole(recovered_ms: u64) -> Report {
        Report {
            faults: [("kill".to_owned(), 1), ("hold".to_owned(), 1)].into(),
            seen: DEMANDED.iter().map(|(name, _)| ((*name).to_owned(), 1)).collect(),
            recovered_ms: Some(recovered_ms),
            ..Report::default()
        }
    }

    fn summary(reports: impl Iterator<Item = Report>) -> Summary {
        let mut summary = Summary::default();
        let seed = Seed { number: 1, nodes: 3 };
        reports.for_each(|report| summary.add(seed, report));
        summary
    }

    #[test]
    fn many_seeds_that_saw_too_little_prove_nothing() {
        assert_eq!(summary((0..100).map(|_| whole(7))).lacks(), []);
        assert_eq!(
            summary((0..99).map(|_| Report::default())).lacks(),
            [],
            "too few to tell"
        );
        assert_eq!(
            summary((0..100).map(|_| Report::default())).lacks().len(),
            DEMANDED.len() + 1
        );
        for (name, what) in DEMANDED {
            let mut reports: Vec<_> = (0..100).map(|_| whole(7)).collect();
            for report in &mut reports {
                report.seen.remove(name);
            }
            assert_eq!(summary(reports.into_iter()).lacks(), [("coverage", what.to_owned())]);
        }
        let without = |kind: &str| {
            let mut report = whole(7);
            report.faults.insert(kind.to_owned(), 0);
            report
        };
        let lacks = summary((0..100).map(|_| without("hold"))).lacks();
        assert_eq!(lacks, [("coverage", "no fault was of kind hold".to_owned())]);
    }

    #[test]
    fn a_slow_majority_is_told_from_a_rare_slow_one() {
        let slow = |many: u64| summary((0..100).map(|at| whole(if at < many { 9_000 } else { 100 + at })));
        assert_eq!(slow(1).recovered(), [150, 199, 9_000]);
        assert_eq!(slow(1).lacks(), []);
        let names: Vec<_> = slow(2).lacks().iter().map(|(name, _)| *name).collect();
        assert_eq!(names, ["A3"]);
        assert_eq!(Summary::default().recovered(), [0; 3]);
    }
}
