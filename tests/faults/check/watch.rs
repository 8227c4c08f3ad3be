//! The watches: after each step the watcher's view is State(position), as far as its selector goes.
//!
//! A stream is followed step by step. Between two positions the log says what must become of the view: of every record
//! that changed, its last version if that is selected, and a removal if only the one before was. What was delivered is
//! held against that. How it differs says which promise is broken:
//!
//! | | |
//! |---|---|
//! | W1 | a record that the selector does not select |
//! | W2 | an older change after a newer, or out of order within a step; a position that goes back |
//! | W3 | the same change twice |
//! | W4 | a change that never came |
//! | W5 | one that came later than others of its revision |
//! | W6 | one that is missing at once after a resume; a view replaced without a word of a reset |
//! | W7 | progress ahead of a change, or going back |
//! | W8 | (in `reads`) a snapshot that is not the state at its position |
//! | W10 | a change that the log does not have |
//! | W12 | after a resume, something at or before the position asked for |
//! | W13 | a record, or a reason, that is not what the log says of that revision |

use std::collections::{BTreeMap, HashMap};

use super::{Case, Findings};
use crate::{
    history::{Change, Key, Record, Selector, Start, Step, StepKind, WatchStream},
    story::Story,
    witness::{matches, reason_name, same},
};

pub(super) fn check(case: &Case<'_>, findings: &mut Findings<'_>) {
    for stream in &case.history.watches {
        Follow::new(case, stream).run(findings);
    }
}

/// What a record that a watcher was given should not be; `W8` if nothing is wrong with it by itself.
pub(super) fn blame(case: &Case<'_>, selector: &Selector, record: &Record) -> &'static str {
    let version = case.witness.records.changed_at(&record.key, record.mod_revision);
    match version.and_then(|version| version.shown.as_ref()) {
        None => "W10",
        Some(shown) if !same(record, shown) => "W13",
        Some(shown) if !matches(selector, shown) => "W1",
        Some(_) => "W8",
    }
}

/// A change that should have come, and what its absence breaks if it never does.
struct Owed {
    revision: i64,
    step: usize,
    missing: &'static str,
    /// What it breaks if it comes later.
    late: &'static str,
}

/// What a change is worth.
enum Judged {
    /// It belongs to this step.
    New,
    /// It does not.
    Old,
    /// It is none that there was.
    Wrong,
}

/// How a record's change came in a step.
enum Came {
    /// As a put of this version, or as a removal.
    As(Option<i64>),
    /// As something that is wrong by itself.
    Wrong,
}

/// One stream, as far as it was followed.
struct Follow<'c, 'a> {
    case: &'c Case<'a>,
    stream: &'c WatchStream,
    /// The view is complete through here; `None` = there is no view yet.
    position: Option<i64>,
    /// The view, by the last change of each of its records, as far as it was delivered on this stream.
    view: HashMap<&'c str, i64>,
    owed: BTreeMap<&'c str, Owed>,
    /// Nothing came yet since the stream was asked to begin after a position.
    resumes: bool,
}

impl<'c, 'a> Follow<'c, 'a> {
    fn new(case: &'c Case<'a>, stream: &'c WatchStream) -> Self {
        let position = match stream.start {
            Start::After(revision) => Some(revision),
            Start::Snapshot | Start::Now => None,
        };
        Self {
            case,
            stream,
            position,
            view: HashMap::new(),
            owed: BTreeMap::new(),
            resumes: position.is_some(),
        }
    }

    fn run(mut self, findings: &mut Findings<'_>) {
        if self.resumes {
            findings.looked("W6", 1);
            findings.looked("W12", 1);
        }
        for (number, step) in self.stream.steps.iter().enumerate() {
            if step.revision > self.case.witness.last_revision() {
                // Beyond the log nothing can be told: that is D1's.
                return;
            }
            match step.kind {
                StepKind::Snapshot => self.snapshot(step, findings),
                StepKind::Changes => self.changes(number, step, findings),
                StepKind::Progress => self.progress(number, step, findings),
            }
            self.resumes = false;
        }
        for (key, owed) in &self.owed {
            let story = Story::new(format!(
                "the change of {key} at revision {} was never delivered, though the view should be complete beyond it",
                owed.revision
            ));
            let story = story.step(self.stream, &self.stream.steps[owed.step]);
            findings.violate(owed.missing, self.tell(owed.revision, story));
        }
    }

    fn tell(&self, revision: i64, story: Story) -> Story {
        match self.case.witness.event_of(revision) {
            Some((place, _)) => story.event(self.case.witness, place),
            None => story,
        }
    }

    fn violate(&self, checker: &'static str, step: &Step, problem: String, findings: &mut Findings<'_>) {
        findings.violate(checker, Story::new(problem).step(self.stream, step));
    }

    fn snapshot(&mut self, step: &'c Step, findings: &mut Findings<'_>) {
        let asked_for = self.stream.start == Start::Snapshot && self.position.is_none();
        if !asked_for && step.reset.is_none() {
            self.violate("W6", step, "a view was replaced without a word of why".into(), findings);
        }
        let other_cluster = step.reset.as_deref() == Some("OTHER_CLUSTER");
        if let Some(position) = self
            .position
            .filter(|position| step.revision < *position && !other_cluster)
        {
            let checker = if self.resumes { "W12" } else { "W2" };
            let problem = format!(
                "a snapshot of revision {} comes after position {position}",
                step.revision
            );
            self.violate(checker, step, problem, findings);
        }
        self.position = Some(step.revision);
        self.view = step
            .changes
            .iter()
            .filter_map(|change| change.put.as_ref())
            .map(|record| (record.key.as_str(), record.mod_revision))
            .collect();
    }

    fn progress(&mut self, number: usize, step: &'c Step, findings: &mut Findings<'_>) {
        findings.looked("W7", 1);
        if let Some(position) = self.position {
            if step.revision < position {
                let checker = if self.resumes { "W12" } else { "W7" };
                let problem = format!("progress goes back from {position} to {}", step.revision);
                return self.violate(checker, step, problem, findings);
            }
            let missing = if self.resumes { "W6" } else { "W7" };
            self.owe(position, step.revision, number, &BTreeMap::new(), (missing, "W7"));
        }
        if self.stream.start != Start::Snapshot || self.position.is_some() {
            self.position = Some(step.revision);
        }
    }

    fn changes(&mut self, number: usize, step: &'c Step, findings: &mut Findings<'_>) {
        for checker in ["W1", "W2", "W3", "W10", "W13"] {
            findings.looked(checker, step.changes.len());
        }
        findings.looked("W4", 1);
        findings.looked("W5", 1);
        let first = step.changes.iter().map(|change| change.revision).min();
        let position = match (self.position, self.stream.start) {
            (Some(position), _) => position,
            // It began somewhere before its first change.
            (None, Start::Now) => first.unwrap_or(step.revision).saturating_sub(1),
            (None, _) => {
                return self.violate("W6", step, "changes came before the view itself".into(), findings);
            }
        };
        if step.revision <= position {
            let checker = if self.resumes { "W12" } else { "W2" };
            let problem = format!("a step leads to revision {} after position {position}", step.revision);
            self.violate(checker, step, problem, findings);
        }
        self.in_order(step, findings);
        let mut delivered = BTreeMap::new();
        for change in &step.changes {
            let came = match self.change(position, step, change, findings) {
                Judged::New => Came::As(change.put.as_ref().map(|record| record.mod_revision)),
                Judged::Wrong => Came::Wrong,
                Judged::Old => continue,
            };
            if delivered.insert(change.key.as_str(), came).is_some() {
                let problem = format!("{} changes twice in one step", change.key);
                self.violate("W3", step, problem, findings);
            }
            match &change.put {
                Some(record) => self.view.insert(&change.key, record.mod_revision),
                None => self.view.remove(change.key.as_str()),
            };
        }
        let missing = if self.resumes { "W6" } else { "W4" };
        self.owe(position, step.revision, number, &delivered, (missing, "W2"));
        self.position = Some(step.revision.max(position));
    }

    /// By revision, then by key.
    fn in_order(&self, step: &Step, findings: &mut Findings<'_>) {
        let wrong = step.changes.windows(2).find(|pair| {
            let (one, next) = (&pair[0], &pair[1]);
            // The same key again is told by W3.
            one.key != next.key && (one.revision, parts(&one.key)) > (next.revision, parts(&next.key))
        });
        if let Some(pair) = wrong {
            let problem = format!(
                "{} at revision {} comes after {} at revision {}",
                pair[1].key, pair[1].revision, pair[0].key, pair[0].revision
            );
            self.violate("W2", step, problem, findings);
        }
    }

    /// Looks at one change by itself.
    fn change(&mut self, position: i64, step: &Step, change: &'c Change, findings: &mut Findings<'_>) -> Judged {
        let revision = change
            .put
            .as_ref()
            .map_or(change.revision, |record| record.mod_revision);
        let wrong = match &change.put {
            Some(record) => self.wrong_put(step, change, record),
            None => self.wrong_removal(step, change),
        };
        if let Some((checker, problem)) = wrong {
            self.violate(checker, step, problem, findings);
            return Judged::Wrong;
        }
        if revision > position {
            return Judged::New;
        }
        let key = change.key.as_str();
        let late = self.owed.get(key).filter(|owed| owed.revision == revision);
        let had_it = self.view.get(key).copied() == change.put.as_ref().map(|record| record.mod_revision);
        let (checker, problem) = match late {
            Some(owed) => (owed.late, "comes too late"),
            None if self.resumes => ("W12", "was asked to be left out"),
            None if had_it => ("W3", "comes a second time"),
            None => ("W2", "is older than the view"),
        };
        if late.is_some() {
            self.owed.remove(key);
        }
        let problem = format!("the change of {key} at revision {revision} {problem}: the position was {position}");
        let story = self.tell(revision, Story::new(problem).step(self.stream, step));
        findings.violate(checker, story);
        Judged::Old
    }

    fn wrong_put(&self, step: &Step, change: &Change, record: &Record) -> Option<(&'static str, String)> {
        let key = &change.key;
        match blame(self.case, &self.stream.selector, record) {
            "W10" => {
                return Some((
                    "W10",
                    format!("the log has no {key} of revision {}", record.mod_revision),
                ));
            }
            "W13" => {
                let version = self.case.witness.records.version_at(key, record.mod_revision)?;
                let shown = version.shown.as_ref()?;
                return Some(("W13", format!("{key} was {:?}", shown.record)));
            }
            "W1" => {
                return Some((
                    "W1",
                    format!("{key} is not selected at revision {}", record.mod_revision),
                ));
            }
            _ => {}
        }
        if record.mod_revision > step.revision {
            let problem = format!(
                "{key} of revision {} lies beyond the step's position",
                record.mod_revision
            );
            return Some(("W2", problem));
        }
        // After a snapshot was installed, a node knows only that the record is there by now.
        let is_difference = change.revision == step.revision && record.mod_revision < step.revision;
        if change.revision != record.mod_revision && !is_difference {
            let problem = format!(
                "{key} of revision {} comes as of {}",
                record.mod_revision, change.revision
            );
            return Some(("W13", problem));
        }
        None
    }

    fn wrong_removal(&self, step: &Step, change: &Change) -> Option<(&'static str, String)> {
        let (key, revision) = (&change.key, change.revision);
        let records = &self.case.witness.records;
        let selected = |version: &crate::witness::Version| {
            let shown = version.shown.as_ref();
            shown.is_some_and(|shown| matches(&self.stream.selector, shown))
        };
        let Some(version) = records.changed_at(key, revision) else {
            let is_difference = revision == step.revision && change.reason.as_deref().is_none_or(|it| it == LEFT);
            let is_gone = records
                .version_at(key, revision)
                .is_some_and(|version| !selected(version));
            let known = is_difference && is_gone;
            return (!known).then(|| ("W10", format!("the log does not remove {key} at revision {revision}")));
        };
        if selected(version) {
            return Some(("W10", format!("the log does not remove {key} at revision {revision}")));
        }
        let reason = match &version.shown {
            Some(_) => Some(LEFT),
            None => version.reason.map(reason_name),
        };
        let told = change.reason.as_deref();
        (told.is_some() && told != reason).then(|| {
            (
                "W13",
                format!("{key} went at revision {revision} because of {reason:?}"),
            )
        })
    }

    /// What should have come between two positions and was not delivered.
    fn owe(
        &mut self,
        after: i64,
        through: i64,
        step: usize,
        delivered: &BTreeMap<&str, Came>,
        (missing, late): (&'static str, &'static str),
    ) {
        let records = &self.case.witness.records;
        let selector = &self.stream.selector;
        let standing = |key: &str, revision: i64| {
            let shown = records.at(key, revision).filter(|shown| matches(selector, shown));
            shown.map(|shown| shown.record.mod_revision)
        };
        for (revision, key) in records.changed_between(selector, after, through) {
            let (before, now) = (standing(key, after), standing(key, through));
            match delivered.get(key.as_str()) {
                // What is wrong with it is told; it is not missing besides.
                Some(Came::Wrong) => continue,
                Some(Came::As(came)) if *came == now => continue,
                None if before.is_none() && now.is_none() => continue,
                Some(Came::As(_)) | None => {}
            }
            // Others of the same revision came: the revision was split.
            let split = delivered
                .keys()
                .any(|other| records.changed_at(other, revision).is_some());
            let late = if split { "W5" } else { late };
            let owed = Owed {
                revision,
                step,
                missing,
                late,
            };
            self.owed.insert(key, owed);
        }
    }
}

const LEFT: &str = "LEFT_SELECTOR";

/// Keys are in the order of their parts, not of their text.
fn parts(key: &Key) -> Vec<&str> {
    key.splitn(3, '/').collect()
}
