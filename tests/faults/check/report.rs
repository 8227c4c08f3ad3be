//! What was looked at, and what was found.

use std::{collections::BTreeMap, fmt};

use super::Coverage;
use crate::{history::History, story::Story};

/// So many violations of one checker are told; the rest is counted.
const TOLD_MAX: usize = 5;

/// Every checker, in the order of the report.
pub(super) const CHECKERS: [&str; 39] = [
    "I1", "I2", "I3", "I4a", "I4b", "I4c", "I5", "I6", "W1", "W2", "W3", "W4", "W5", "W6", "W7", "W8", "W9", "W10",
    "W11", "W12", "W13", "L1", "L2", "L3", "L4", "L5", "L6", "N1", "N2", "N3", "D1", "D2", "R1", "R2", "R3", "A1",
    "A2", "A3", "coverage",
];

/// A promise that was not kept.
#[derive(Clone, Debug)]
pub struct Violation {
    /// The invariant's name.
    pub checker: &'static str,
    /// What contradicts what, the seed, and how to run it again.
    pub story: String,
}

/// What came of checking a history.
#[derive(Clone, Debug)]
pub struct Report {
    /// Each checker, and how many things it looked at.
    pub checked: Vec<(&'static str, usize)>,
    /// The first few of each checker.
    pub violations: Vec<Violation>,
    /// How many violations there are, told or not.
    pub violated: usize,
    /// What happened in the run.
    pub coverage: Coverage,
    /// What could not be checked to the end, and why.
    pub notes: Vec<String>,
}

impl Report {
    /// Whether every promise was kept, and the run could show it.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.violated == 0
    }

    /// The names of the checkers that found something, each once.
    #[must_use]
    pub fn rejected_by(&self) -> Vec<&'static str> {
        let mut names: Vec<_> = self.violations.iter().map(|violation| violation.checker).collect();
        names.sort_unstable();
        names.dedup();
        names
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("checked:")?;
        for (line, (checker, count)) in self.checked.iter().enumerate() {
            let separator = if line % 8 == 0 { "\n  " } else { "  " };
            write!(f, "{separator}{checker} {count}")?;
        }
        write!(f, "\n{}", self.coverage)?;
        for note in &self.notes {
            write!(f, "\nnote: {note}")?;
        }
        for violation in &self.violations {
            write!(f, "\n\nVIOLATION {}: {}", violation.checker, violation.story)?;
        }
        match self.violated {
            0 => f.write_str("\nno violation"),
            violated => write!(
                f,
                "\n\n{violated} violations, of which {} are told",
                self.violations.len()
            ),
        }
    }
}

/// A report in the making.
pub(super) struct Findings<'a> {
    history: &'a History,
    checked: BTreeMap<&'static str, usize>,
    found: BTreeMap<&'static str, usize>,
    violations: Vec<Violation>,
    notes: Vec<String>,
}

impl<'a> Findings<'a> {
    pub(super) fn new(history: &'a History) -> Self {
        Self {
            history,
            checked: BTreeMap::new(),
            found: BTreeMap::new(),
            violations: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// A checker looked at so many things.
    pub(super) fn looked(&mut self, checker: &'static str, count: usize) {
        *self.checked.entry(checker).or_default() += count;
    }

    /// A checker found a violation.
    pub(super) fn violate(&mut self, checker: &'static str, story: Story) {
        let found = self.found.entry(checker).or_default();
        *found += 1;
        if *found <= TOLD_MAX {
            let story = story.tell(self.history);
            self.violations.push(Violation { checker, story });
        }
    }

    /// Something that the reader of the report should know.
    pub(super) fn note(&mut self, note: String) {
        self.notes.push(note);
    }

    pub(super) fn report(self, coverage: Coverage) -> Report {
        let count = |checker: &&'static str| (*checker, self.checked.get(checker).copied().unwrap_or(0));
        Report {
            checked: CHECKERS.iter().map(count).collect(),
            violated: self.found.values().sum(),
            violations: self.violations,
            coverage,
            notes: self.notes,
        }
    }
}
