//! I4a: a linearizable read answered at revision ρ shows State(ρ), all of what was asked for and nothing else. I6: a
//! stale one likewise; it is not older than its age says, nor than the caller allowed. What a wrong record means more
//! precisely: that a life came back (N1), that an earlier one did (N3), that it outlived its lease (L4), or has a
//! lease that never was (L5).

use std::collections::BTreeMap;

use super::{Case, Findings, options::ns, overviews};
use crate::{
    history::{Answer, Call, Key, Overview, Record, Reply, Request, Selector, Step, StepKind, WatchStream},
    story::Story,
    witness::{LeaseEnd, Shown, Witness, matches, same},
};

/// What a read that found nothing shows.
static NOTHING: Reply = Reply::Read {
    stale: false,
    age_ns: None,
    records: Vec::new(),
    rows: Vec::new(),
    partial: false,
};

/// Answers to one list, overview or snapshot, waiting for the state to reach their revision.
#[derive(Clone, Copy)]
enum Question<'a> {
    List(&'a Call, &'a Selector, &'a [Record]),
    Overview(&'a Call, Overview, &'a Reply),
    Snapshot(&'a WatchStream, &'a Step),
}

pub(super) type Standing<'a> = BTreeMap<&'a str, &'a Shown>;

pub(super) fn check(case: &Case<'_>, findings: &mut Findings<'_>) {
    let mut questions: Vec<(i64, Question<'_>)> = Vec::new();
    for call in &case.history.calls {
        match &call.request {
            Request::Get { key, .. } => get(case, call, key, findings),
            Request::List { selector, .. } => {
                if let Answer::Done {
                    revision,
                    reply: Reply::Read { records, .. },
                    ..
                } = &call.answer
                {
                    questions.push((*revision, Question::List(call, selector, records)));
                }
            }
            Request::Overview { of, .. } => match &call.answer {
                Answer::Done { revision, reply, .. } => {
                    questions.push((*revision, Question::Overview(call, *of, reply)));
                }
                Answer::Rejected { revision, .. } if *revision > 0 => {
                    questions.push((*revision, Question::Overview(call, *of, &NOTHING)));
                }
                _ => {}
            },
            _ => continue,
        }
        freshness(case, call, findings);
    }
    for stream in &case.history.watches {
        let snapshots = stream.steps.iter().filter(|step| step.kind == StepKind::Snapshot);
        questions.extend(snapshots.map(|step| (step.revision, Question::Snapshot(stream, step))));
    }
    walk(case, questions, findings);
}

/// Walks once through all revisions and answers the questions on the way.
fn walk(case: &Case<'_>, mut questions: Vec<(i64, Question<'_>)>, findings: &mut Findings<'_>) {
    questions.sort_by_key(|(revision, _)| *revision);
    let mut standing: Standing<'_> = BTreeMap::new();
    let mut events = case.witness.events.iter().peekable();
    for (revision, question) in questions {
        while let Some(event) = events.next_if(|event| event.revision <= revision) {
            for change in &event.changes {
                match &change.after {
                    Some(shown) => standing.insert(&change.key, shown),
                    None => standing.remove(change.key.as_str()),
                };
            }
        }
        // A revision beyond the log is D1's.
        if revision <= case.witness.last_revision() {
            answer(case, revision, question, &standing, findings);
        }
    }
}

fn answer(
    case: &Case<'_>,
    revision: i64,
    question: Question<'_>,
    standing: &Standing<'_>,
    findings: &mut Findings<'_>,
) {
    match question {
        Question::List(call, selector, records) => {
            findings.looked(of_read(call), 1);
            let wrong = compare(selector, records.iter(), standing);
            if let Some(wrong) = wrong.or_else(|| order(records)) {
                let checker = wrong
                    .record
                    .map_or(of_read(call), |record| blame(case.witness, record, revision, call));
                let story = Story::new(format!("a list is not State({revision}): {}", wrong.problem)).call(call);
                findings.violate(checker, tell_record(case, &wrong.key, revision, story));
            }
        }
        Question::Overview(call, of, told) => {
            findings.looked(of_read(call), 1);
            if let Some(wrong) = overviews::wrong(case.witness, revision, of, told, standing) {
                let story = Story::new(format!("an overview is not State({revision}): {wrong}")).call(call);
                let place = case.witness.event_of(revision).map(|(place, _)| place);
                let story = place
                    .into_iter()
                    .fold(story, |story, place| story.event(case.witness, place));
                findings.violate(of_read(call), story);
            }
        }
        Question::Snapshot(stream, step) => {
            findings.looked("W8", 1);
            let records = step.changes.iter().filter_map(|change| change.put.as_ref());
            if let Some(wrong) = compare(&stream.selector, records, standing) {
                let checker = wrong
                    .record
                    .map_or("W8", |record| super::watch::blame(case, &stream.selector, record));
                let story = Story::new(format!("a snapshot is not State({revision}): {}", wrong.problem));
                let story = tell_record(case, &wrong.key, revision, story.step(stream, step));
                findings.violate(checker, story);
            }
        }
    }
}

/// The first thing in which an answer is wrong.
struct Wrong<'a> {
    key: Key,
    /// What was shown; `None` = something is missing.
    record: Option<&'a Record>,
    problem: String,
}

fn compare<'a>(
    selector: &Selector,
    records: impl Iterator<Item = &'a Record>,
    standing: &Standing<'_>,
) -> Option<Wrong<'a>> {
    let mut seen: BTreeMap<&str, &Record> = BTreeMap::new();
    for record in records {
        let wrong = |problem: String| Wrong {
            key: record.key.clone(),
            record: Some(record),
            problem,
        };
        if seen.insert(&record.key, record).is_some() {
            return Some(wrong(format!("{} is in it twice", record.key)));
        }
        match standing.get(record.key.as_str()) {
            None => return Some(wrong(format!("{} was not there", record.key))),
            Some(shown) if !same(record, shown) => {
                return Some(wrong(format!("{} was {:?}", record.key, shown.record)));
            }
            Some(shown) if !matches(selector, shown) => {
                return Some(wrong(format!("{} is not selected", record.key)));
            }
            Some(_) => {}
        }
    }
    let missing = within(selector, standing).find(|(key, _)| !seen.contains_key(*key))?;
    Some(Wrong {
        key: missing.0.to_owned(),
        record: None,
        problem: format!("{} is missing, which was {:?}", missing.0, missing.1.record),
    })
}

/// The records that a selector selects.
fn within<'s>(selector: &Selector, standing: &'s Standing<'_>) -> Box<dyn Iterator<Item = (&'s str, &'s Shown)> + 's> {
    let starts: Vec<String> = if selector.services.is_empty() {
        vec![format!("default/{}", selector.prefix.as_deref().unwrap_or_default())]
    } else {
        selector
            .services
            .iter()
            .map(|name| format!("default/{name}/"))
            .collect()
    };
    let selector = selector.clone();
    Box::new(starts.into_iter().flat_map(move |start| {
        let selector = selector.clone();
        standing
            .range::<str, _>((
                std::ops::Bound::Included(start.clone().as_str()),
                std::ops::Bound::Unbounded,
            ))
            .take_while(move |(key, _)| key.starts_with(&start))
            .filter(move |(_, shown)| matches(&selector, shown))
            .map(|(key, shown)| (*key, *shown))
    }))
}

/// Lists are in the order of keys.
fn order(records: &[Record]) -> Option<Wrong<'_>> {
    let parts = |record: &Record| -> Vec<String> { record.key.splitn(3, '/').map(str::to_owned).collect() };
    let pair = records.windows(2).find(|pair| parts(&pair[0]) >= parts(&pair[1]))?;
    Some(Wrong {
        key: pair[1].key.clone(),
        record: None,
        problem: format!("{} comes after {}", pair[1].key, pair[0].key),
    })
}

fn get(case: &Case<'_>, call: &Call, key: &Key, findings: &mut Findings<'_>) {
    let (revision, seen) = match &call.answer {
        Answer::Done {
            revision,
            reply: Reply::Read { records, .. },
            ..
        } => (*revision, records.first()),
        Answer::Rejected { revision, .. } if *revision > 0 => (*revision, None),
        _ => return,
    };
    if revision > case.witness.last_revision() {
        return;
    }
    findings.looked(of_read(call), 1);
    let (checker, problem) = match (seen, case.witness.records.at(key, revision)) {
        (None, None) => return,
        (Some(record), Some(shown)) if same(record, shown) => return,
        (Some(record), Some(shown)) => (
            blame(case.witness, record, revision, call),
            format!("it was {:?}", shown.record),
        ),
        (Some(record), None) => (
            blame(case.witness, record, revision, call),
            "it was not there".to_owned(),
        ),
        (None, Some(shown)) => (of_read(call), format!("it was {:?}", shown.record)),
    };
    let story = Story::new(format!("a read of {key} is not State({revision}): {problem}")).call(call);
    findings.violate(checker, tell_record(case, key, revision, story));
}

fn of_read(call: &Call) -> &'static str {
    if call.request.is_stale_read() { "I6" } else { "I4a" }
}

/// Adds the change that made the record what it was.
fn tell_record(case: &Case<'_>, key: &str, revision: i64, story: Story) -> Story {
    let version = case.witness.records.version_at(key, revision);
    match version.and_then(|version| case.witness.event_of(version.revision)) {
        Some((place, _)) => story.event(case.witness, place),
        None => story.say(format!("log: {key} never was, up to revision {revision}")),
    }
}

/// Which promise a wrong record breaks.
fn blame(witness: &Witness, record: &Record, revision: i64, call: &Call) -> &'static str {
    let versions = witness.records.versions(&record.key);
    let until = versions.partition_point(|version| version.revision <= revision);
    let lives = versions[..until].iter().filter_map(|version| version.shown.as_ref());
    let newest = lives.map(|shown| shown.record.incarnation).max().unwrap_or(0);
    let gone = versions[..until].last().filter(|version| version.shown.is_none());
    let ended = witness.leases.get(record.lease).and_then(|lease| lease.end);
    if record.incarnation > 0 && newest > record.incarnation {
        "N3"
    } else if let Some(gone) = gone
        && gone.reason == Some(roster::registry::RemoveReason::Deregistered)
        && record.mod_revision > gone.revision
    {
        "N1"
    } else if ended.is_some_and(|(place, why)| why != LeaseEnd::Released && witness.event(place).revision <= revision) {
        "L4"
    } else if record.lease != 0 && witness.leases.get(record.lease).is_none() {
        "L5"
    } else {
        of_read(call)
    }
}

/// What an answer says of its freshness is so, and is what was asked for.
fn freshness(case: &Case<'_>, call: &Call, findings: &mut Findings<'_>) {
    let Answer::Done {
        revision,
        reply: Reply::Read { stale, age_ns, .. },
        ..
    } = &call.answer
    else {
        return;
    };
    let (asked_stale, max_age, min_revision) = match &call.request {
        Request::Get {
            stale,
            max_age_ns,
            min_revision,
            ..
        }
        | Request::List {
            stale,
            max_age_ns,
            min_revision,
            ..
        }
        | Request::Overview {
            stale,
            max_age_ns,
            min_revision,
            ..
        } => (*stale, *max_age_ns, *min_revision),
        _ => return,
    };
    findings.looked("I6", 1);
    let mut violate = |problem: String| findings.violate("I6", Story::new(problem).call(call));
    if *stale && !asked_stale {
        violate("a linearizable read got a stale answer".into());
    }
    if *revision < min_revision {
        violate(format!("a read that asked for revision {min_revision} got {revision}"));
    }
    if !asked_stale {
        return;
    }
    if let Some(max_age) = max_age
        && age_ns.is_none_or(|age| age > max_age + ns(case.options.lease_slack))
    {
        violate(format!(
            "a read that allowed an age of {max_age} ns got one of {age_ns:?}"
        ));
    }
    if let Some(age) = age_ns {
        age_is_true(case, call, *revision, *age, findings);
    }
}

/// Everything that anyone had been shown before the age began is in it.
fn age_is_true(case: &Case<'_>, call: &Call, revision: i64, age: u64, findings: &mut Findings<'_>) {
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "an age far below 2^52 ns"
    )]
    let age = (age as f64 * (1.0 + case.options.drift)) as u64 + 1_000_000 + stood_still(case, call, age);
    let Some(began) = call.sent.checked_sub(age) else {
        return;
    };
    if let Some((shown, _)) = case.order.shown_before(began)
        && shown > case.witness.last_at(revision)
    {
        let story = Story::new(format!(
            "a stale read says that it is {age} ns old at most, but revision {} had been shown before that",
            case.witness.revision_at(shown)
        ));
        findings.violate("I6", story.call(call).event(case.witness, shown));
    }
}

/// How much time the clock of the node that was asked may not have counted: all of a fault that slowed or stopped it.
/// A leap only makes ages too great.
fn stood_still(case: &Case<'_>, call: &Call, age: u64) -> u64 {
    let from = call.sent.saturating_sub(age + ns(case.options.calm_after));
    let here = |nodes: &[String]| call.node.as_ref().is_none_or(|node| nodes.contains(node));
    let slows = |kind: &str| kind.starts_with("clock") && kind != "clock_leap" && kind != "clock_jump";
    let faults = case
        .timeline
        .faults
        .iter()
        .filter(|(_, _, fault)| slows(&fault.kind) && here(&fault.nodes));
    let overlaps = faults.filter(|(begin, end, _)| *begin <= call.ended && *end >= from);
    overlaps.map(|(begin, end, _)| end - begin).sum()
}
