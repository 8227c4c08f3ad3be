//! Each invariant by two files: `NAME.good.jsonl` is accepted by every checker; `NAME.bad.jsonl` differs in one thing and
//! is rejected by the checker of that name, and by no other.
//!
//! I5 is no such invariant but a second opinion on I1 to I4: what it rejects, one of them rejects, too.

use std::{collections::BTreeSet, path::PathBuf};

use crate::{
    check::{CheckOptions, Demands, check, report::CHECKERS},
    history::History,
};

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/faults/histories")
}

fn rejected_by(name: &str, kind: &str) -> (Vec<&'static str>, String) {
    let history = History::read(&folder().join(format!("{name}.{kind}.jsonl"))).unwrap();
    let mut options = CheckOptions::default();
    if name == "coverage" {
        options.coverage = Demands {
            leader_hit: true,
            ..Demands::default()
        };
    }
    let report = check(&history, &options);
    (report.rejected_by(), report.to_string())
}

#[test]
fn every_good_history_is_accepted() {
    for name in CHECKERS {
        let (rejected, report) = rejected_by(name, "good");
        assert!(rejected.is_empty(), "{name}.good: {report}");
    }
}

#[test]
fn every_bad_history_is_rejected_by_its_checker_alone() {
    for name in CHECKERS {
        let (rejected, report) = rejected_by(name, "bad");
        let expected: &[&str] = if name == "I5" { &["I4a", "I5"] } else { &[name] };
        assert_eq!(rejected, expected, "{name}.bad: {report}");
    }
}

#[test]
fn every_checker_has_its_files_and_looks_at_them() {
    let there: BTreeSet<String> = std::fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    let kinds = ["good", "bad"];
    let expected = CHECKERS
        .iter()
        .flat_map(|name| kinds.map(|kind| format!("{name}.{kind}.jsonl")));
    assert_eq!(there, expected.collect());
    for name in CHECKERS {
        for kind in kinds {
            let history = History::read(&folder().join(format!("{name}.{kind}.jsonl"))).unwrap();
            let report = check(&history, &CheckOptions::default());
            let looked = report.checked.iter().find(|(checker, _)| *checker == name);
            assert!(looked.is_some_and(|(_, count)| *count > 0), "{name}.{kind}: {report}");
        }
    }
}
