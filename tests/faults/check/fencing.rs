//! N1: after a life of a record was deregistered it does not come back. N3: the lives of a record follow each other in
//! the order of their incarnations. Both in the log itself; what answers show of it is in `reads`.
//!
//! Unseen: lives that come back after the fence is gone, a day of lease time or 100,000 fences later: such runs are
//! said not to have been checked.

use roster::registry::RemoveReason;

use super::{Case, Findings};
use crate::{
    story::Story,
    witness::{Position, Shown},
};

const DAY_NS: u64 = 24 * 60 * 60 * 1_000_000_000;
const FENCES_MAX: usize = 100_000;

/// What became of one key so far.
#[derive(Default)]
struct Lives {
    newest: i64,
    /// The last that was deregistered, and where.
    over: Option<(i64, Position)>,
}

pub(super) fn check(case: &Case<'_>, findings: &mut Findings<'_>) {
    let mut lives: std::collections::HashMap<&str, Lives> = std::collections::HashMap::new();
    let last_clock = case.witness.events.last().map_or(0, |event| event.clock_ns);
    let removed = case
        .witness
        .events
        .iter()
        .flat_map(|event| &event.changes)
        .filter(|it| it.after.is_none());
    if last_clock >= DAY_NS || removed.count() >= FENCES_MAX {
        findings.note("N1 and N3 were not looked for in the log: fences may be gone".into());
        return;
    }
    for (at, event) in case.witness.events.iter().enumerate() {
        for change in &event.changes {
            let known = lives.entry(&change.key).or_default();
            match &change.after {
                Some(shown) => {
                    findings.looked("N1", 1);
                    findings.looked("N3", 1);
                    put(case, at + 1, shown, known, findings);
                }
                None if change.reason == Some(RemoveReason::Deregistered) => {
                    let over = change.before.as_ref().map_or(0, |before| before.record.incarnation);
                    known.over = Some((over, at + 1));
                }
                None => {}
            }
        }
    }
}

fn put(case: &Case<'_>, place: Position, shown: &Shown, known: &mut Lives, findings: &mut Findings<'_>) {
    let (key, life) = (&shown.record.key, shown.record.incarnation);
    if let Some((over, ended)) = known.over.filter(|(over, _)| *over > 0 && life == *over) {
        let story = Story::new(format!("life {over} of {key} was deregistered and stands again"));
        findings.violate("N1", story.event(case.witness, ended).event(case.witness, place));
    } else if life < known.newest {
        let story = Story::new(format!("life {life} of {key} follows its life {}", known.newest));
        findings.violate("N3", story.event(case.witness, place));
    }
    known.newest = known.newest.max(life);
}
