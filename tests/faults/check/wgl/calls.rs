//! From recorded calls to what the search orders.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

use roster::registry::Outcome;

use super::state::{Life, State, Step};
use crate::{
    check::Case,
    history::{Answer, At, Call, Key, Record, Reply, Request, Selector},
    witness::{Changed, Position, Shown, What, service_of},
};

/// A call, or the end of a lease, with the span in which it took effect.
#[derive(Clone, Debug)]
pub(in super::super) struct Timed {
    pub(super) sent: At,
    /// `At::MAX` = nobody knows.
    pub(super) ended: At,
    /// Where the log has it: what is tried first, and no more.
    pub(super) hint: Position,
    /// Its number among the history's calls.
    pub(super) call: Option<usize>,
    pub(super) step: Step,
}

/// Keys and marks by number; keys of one service stand together.
pub(super) struct Keys {
    names: Vec<Key>,
    numbers: BTreeMap<Key, u32>,
    marks: BTreeMap<String, u32>,
}

impl Keys {
    fn of(names: BTreeSet<&str>) -> Self {
        let mut names: Vec<Key> = names.into_iter().map(str::to_owned).collect();
        names.sort_by(|one, other| (service_of(one), one).cmp(&(service_of(other), other)));
        let numbers = names
            .iter()
            .zip(0..)
            .map(|(name, number)| (name.clone(), number))
            .collect();
        Self {
            names,
            numbers,
            marks: BTreeMap::new(),
        }
    }

    pub(super) fn name(&self, key: u32) -> &str {
        self.names.get(key as usize).map_or("?", String::as_str)
    }

    fn number(&self, key: &str) -> u32 {
        self.numbers.get(key).copied().unwrap_or(u32::MAX)
    }

    fn mark(&mut self, mark: &str) -> u32 {
        let next = u32::try_from(self.marks.len()).unwrap_or(u32::MAX);
        *self.marks.entry(mark.to_owned()).or_insert(next)
    }

    fn record(&mut self, record: &Record) -> (u32, Life) {
        (self.number(&record.key), (record.incarnation, self.mark(&record.mark)))
    }

    /// The numbers of the keys that a selector is about.
    fn ranges(&self, selector: &Selector) -> Vec<(u32, u32)> {
        let service = |key: &Key| service_of(key).to_owned();
        let range = |within: &dyn Fn(&str) -> bool| -> Range<usize> {
            let first = self.names.iter().position(|key| within(&service(key)));
            let first = first.unwrap_or(self.names.len());
            let count = self.names[first..]
                .iter()
                .take_while(|key| within(&service(key)))
                .count();
            first..first + count
        };
        let ranges: Vec<Range<usize>> = if selector.services.is_empty() {
            let from = format!("default/{}", selector.prefix.as_deref().unwrap_or_default());
            vec![range(&|service| service.starts_with(&from))]
        } else {
            let names: BTreeSet<&String> = selector.services.iter().collect();
            names
                .into_iter()
                .map(|name| range(&|service| service == format!("default/{name}")))
                .collect()
        };
        let number = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
        ranges
            .into_iter()
            .map(|range| (number(range.start), number(range.end)))
            .collect()
    }

    /// What the log says that stands at a place.
    pub(super) fn state_at(&self, case: &Case<'_>, place: Position) -> State {
        let revision = case.witness.revision_at(place);
        let standing = self
            .names
            .iter()
            .filter_map(|key| case.witness.records.at(key, revision));
        State::of(standing.filter_map(|shown| {
            let record = &shown.record;
            Some((
                self.number(&record.key),
                (record.incarnation, *self.marks.get(&record.mark)?),
            ))
        }))
    }
}

/// Everything that the search has to order, not sorted.
pub(super) fn all(case: &Case<'_>) -> (Keys, Vec<Timed>) {
    let mut names: BTreeSet<&str> = BTreeSet::new();
    for call in &case.history.calls {
        named(call, &mut names);
    }
    let changes = case.witness.events.iter().flat_map(|event| &event.changes);
    names.extend(changes.map(|change| change.key.as_str()));
    let mut keys = Keys::of(names);
    let mut ranges = BTreeMap::new();
    let mut all = Vec::new();
    for (number, call) in case.history.calls.iter().enumerate() {
        let Some(hint) = case.order.place[number] else { continue };
        let step = match &call.request {
            // What it removed can't be told from its answer.
            Request::Revoke { .. } => gone(&mut keys, &case.witness.event(hint).changes),
            _ => step(&mut keys, call, &mut ranges),
        };
        all.extend(step.map(|step| Timed {
            sent: call.sent,
            ended: call.ended,
            hint,
            call: Some(number),
            step,
        }));
    }
    unknown(case, &mut keys, &mut all);
    for (at, event) in case.witness.events.iter().enumerate() {
        if let What::Expired(_) = event.what
            && let Some(step) = gone(&mut keys, &event.changes)
        {
            all.push(Timed {
                sent: 0,
                ended: At::MAX,
                hint: at + 1,
                call: None,
                step,
            });
        }
    }
    (keys, all)
}

fn named<'a>(call: &'a Call, names: &mut BTreeSet<&'a str>) {
    match &call.request {
        Request::Register { key, .. }
        | Request::Update { key, .. }
        | Request::Deregister { key, .. }
        | Request::Get { key, .. } => drop(names.insert(key)),
        Request::BatchRegister { keys, .. } => names.extend(keys.iter().map(String::as_str)),
        _ => {}
    }
    if let Answer::Done {
        reply: Reply::Read { records, .. },
        ..
    } = &call.answer
    {
        names.extend(records.iter().map(|record| record.key.as_str()));
    }
}

fn gone(keys: &mut Keys, changes: &[Changed]) -> Option<Step> {
    let before = changes.iter().filter_map(|change| change.before.as_ref());
    let records: Vec<_> = before
        .map(|shown: &std::sync::Arc<Shown>| keys.record(&shown.record))
        .collect();
    (!records.is_empty()).then_some(Step::Gone(records))
}

/// Writes that nobody was answered, and that the log says took effect: at any time after they were sent.
fn unknown(case: &Case<'_>, keys: &mut Keys, all: &mut Vec<Timed>) {
    for group in case.matches.groups.values() {
        // What nobody is known to have asked for, in a history that was cut short, may have been asked for at any time.
        let sent = group
            .attempts
            .iter()
            .map(|attempt| attempt.call.sent)
            .min()
            .unwrap_or(0);
        let taken: Vec<Position> = group.attempts.iter().filter_map(|it| case.order.place[it.at]).collect();
        for place in group.commands.iter().filter(|place| !taken.contains(place)) {
            let event = case.witness.event(*place);
            let What::Command { request, reply, .. } = &event.what else {
                continue;
            };
            let step = match &reply.result {
                Err(_) => None,
                Ok(Outcome::Revoked { .. }) => gone(keys, &event.changes),
                Ok(Outcome::Deregistered { existed: false }) => None,
                Ok(_) => write(keys, request),
            };
            all.extend(step.map(|step| Timed {
                sent,
                ended: At::MAX,
                hint: *place,
                call: group.attempts.first().map(|attempt| attempt.at),
                step,
            }));
        }
    }
}

/// What a write does that was done.
fn write(keys: &mut Keys, request: &Request) -> Option<Step> {
    match request {
        Request::Register {
            key, incarnation, mark, ..
        } => Some(Step::Put(vec![(keys.number(key), (*incarnation, keys.mark(mark)))])),
        Request::BatchRegister {
            keys: names,
            incarnation,
            mark,
            ..
        } => {
            let life = (*incarnation, keys.mark(mark));
            Some(Step::Put(names.iter().map(|key| (keys.number(key), life)).collect()))
        }
        Request::Update {
            key, incarnation, mark, ..
        } => Some(Step::Mark {
            key: keys.number(key),
            asker: *incarnation,
            mark: keys.mark(mark),
        }),
        Request::Deregister { key, incarnation, .. } => Some(Step::Remove {
            key: keys.number(key),
            asker: *incarnation,
        }),
        _ => None,
    }
}

type Ranges = BTreeMap<String, Vec<(u32, u32)>>;

/// What an answered call did or found; `None` = nothing that the search knows of.
fn step(keys: &mut Keys, call: &Call, ranges: &mut Ranges) -> Option<Step> {
    match (&call.request, &call.answer) {
        (request, _) if request.is_stale_read() => None,
        (Request::Get { key, .. }, answer) => get(keys, key, answer),
        (
            Request::List { selector, .. },
            Answer::Done {
                reply: Reply::Read { records, .. },
                ..
            },
        ) => {
            let name = format!("{selector:?}");
            let ranges = ranges.entry(name).or_insert_with(|| keys.ranges(selector)).clone();
            Some(Step::Shows {
                ranges,
                records: records.iter().map(|record| keys.record(record)).collect(),
                // What else is asked of a record, the search does not know.
                exactly: !selector.serving && selector.tag.is_none(),
            })
        }
        (
            Request::Deregister { key, .. },
            Answer::Done {
                reply: Reply::Gone { existed: false },
                ..
            },
        ) => Some(Step::Absent(keys.number(key))),
        (request, Answer::Done { .. }) => write(keys, request),
        (Request::Update { key, .. }, Answer::Rejected { reason, .. }) if reason == "INSTANCE_NOT_FOUND" => {
            Some(Step::Absent(keys.number(key)))
        }
        (
            Request::Register { key, incarnation, .. }
            | Request::Update { key, incarnation, .. }
            | Request::Deregister { key, incarnation, .. },
            Answer::Rejected { reason, .. },
        ) if reason == "FENCED" => Some(Step::Fenced {
            key: keys.number(key),
            asker: *incarnation,
        }),
        _ => None,
    }
}

fn get(keys: &mut Keys, key: &Key, answer: &Answer) -> Option<Step> {
    match answer {
        Answer::Done {
            reply: Reply::Read { records, .. },
            ..
        } => {
            let number = keys.number(key);
            Some(Step::Shows {
                ranges: vec![(number, number.saturating_add(1))],
                records: records.iter().map(|record| keys.record(record)).collect(),
                exactly: true,
            })
        }
        Answer::Rejected { reason, .. } | Answer::Failed { reason } if reason == "INSTANCE_NOT_FOUND" => {
            Some(Step::Absent(keys.number(key)))
        }
        _ => None,
    }
}

/// What a call means to each single record; lists mean nothing to one.
pub(super) fn split(call: &Timed) -> Vec<(u32, Timed)> {
    let part = |key: u32, step: Step| (key, Timed { step, ..call.clone() });
    match &call.step {
        Step::Put(records) => records.iter().map(|it| part(it.0, Step::Put(vec![*it]))).collect(),
        Step::Gone(records) => records.iter().map(|it| part(it.0, Step::Gone(vec![*it]))).collect(),
        Step::Mark { key, .. } | Step::Remove { key, .. } | Step::Absent(key) | Step::Fenced { key, .. } => {
            vec![part(*key, call.step.clone())]
        }
        Step::Shows { ranges, exactly, .. } => match ranges.as_slice() {
            [(from, to)] if *exactly && from.checked_add(1) == Some(*to) => vec![part(*from, call.step.clone())],
            _ => Vec::new(),
        },
    }
}
