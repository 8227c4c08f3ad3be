//! One sweep through time. Every answered call finds the place in the log that its answer is from; and everything that
//! had been answered before it was sent lies at or before that place (I3, I4b, I4c, I6, L3, R1, W9).
//!
//! The log is the linearization: (I2) every answer is the sequential one at its place, and (here) places respect real
//! time. Where an answer fits several places, as a read between two writes or a renewal sent twice, the first that is
//! late enough is taken; by induction no other choice could excuse what this one does not.

use std::collections::HashMap;

use super::Findings;
use crate::{
    history::{Answer, At, Call, History, RenewOutcome, Renewed, Reply, Request, Step, WatchStream},
    story::Story,
    witness::{Attempt, Group, Matches, Position, What, Witness},
};

/// Who has shown that the log had come so far.
#[derive(Clone, Copy, Debug)]
pub(super) enum By {
    Write(usize),
    Read(usize),
    Stale(usize),
    Renewal(usize),
    Watch(usize, usize),
}

/// What the sweep found.
#[derive(Debug, Default)]
pub(super) struct Order {
    /// By call: the place that its answer is from.
    pub(super) place: Vec<Option<Position>>,
    /// By call: what had been shown before it was sent, as an index into `shown` plus one.
    floor: Vec<usize>,
    /// The furthest place that anyone had been shown, from when on; both ascend.
    shown: Vec<(At, Position, By)>,
    /// By place: when anyone was first shown that or a later one.
    first_seen: Vec<At>,
    /// By revision: the latest sending of a linearizable call that was answered at that revision or before.
    last_asked: Vec<(At, Option<usize>)>,
}

/// Nobody ever saw it.
pub(super) const NEVER: At = At::MAX;

impl Order {
    /// The furthest place that anyone had been shown before an instant, and by whom.
    pub(super) fn shown_before(&self, at: At) -> Option<(Position, By)> {
        let count = self.shown.partition_point(|(when, _, _)| *when < at);
        count
            .checked_sub(1)
            .map(|last| (self.shown[last].1, self.shown[last].2))
    }

    /// When anyone was first shown that the log had come so far; [`NEVER`].
    pub(super) fn first_seen(&self, place: Position) -> At {
        self.first_seen.get(place).copied().unwrap_or(NEVER)
    }

    /// The linearizable call that was sent last of those which were answered below a revision.
    pub(super) fn last_asked_below(&self, revision: i64) -> Option<(At, usize)> {
        let below = usize::try_from(revision).ok()?.checked_sub(1)?;
        let (at, call) = self.last_asked[below.min(self.last_asked.len() - 1)];
        call.map(|call| (at, call))
    }

    fn floor_of(&self, call: usize) -> Option<(Position, By)> {
        let at = self.floor[call].checked_sub(1)?;
        Some((self.shown[at].1, self.shown[at].2))
    }
}

struct Sweep<'a, 'f, 'h> {
    history: &'a History,
    witness: &'a Witness,
    /// By call: the commands that it may have been answered from.
    answered_by: HashMap<usize, &'a [Position]>,
    order: Order,
    findings: &'f mut Findings<'h>,
}

/// Sweeps, and reports what is out of order.
pub(super) fn check(history: &History, witness: &Witness, matches: &Matches<'_>, findings: &mut Findings<'_>) -> Order {
    let calls = history.calls.len();
    let mut sweep = Sweep {
        history,
        witness,
        answered_by: answers(matches),
        order: Order {
            place: vec![None; calls],
            floor: vec![0; calls],
            ..Order::default()
        },
        findings,
    };
    sweep.run();
    sweep.unanswered(matches);
    sweep.note_seen();
    sweep.order
}

fn answers<'a>(matches: &'a Matches<'_>) -> HashMap<usize, &'a [Position]> {
    let attempts = matches.groups.values().flat_map(|group| &group.attempts);
    attempts
        .map(|attempt| (attempt.at, attempt.answered_by.as_slice()))
        .collect()
}

/// A moment of the sweep. At one instant calls begin before others end: then they are concurrent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Moment {
    Sent(usize),
    Ended(usize),
    Step(usize, usize),
}

impl Sweep<'_, '_, '_> {
    fn run(&mut self) {
        let mut moments: Vec<(At, Moment)> = Vec::new();
        for (at, call) in self.history.calls.iter().enumerate() {
            moments.push((call.sent, Moment::Sent(at)));
            moments.push((call.ended, Moment::Ended(at)));
        }
        for (number, stream) in self.history.watches.iter().enumerate() {
            let steps = stream.steps.iter().enumerate();
            moments.extend(steps.map(|(step, taken)| (taken.at, Moment::Step(number, step))));
        }
        moments.sort_unstable();
        for (at, moment) in moments {
            match moment {
                Moment::Sent(call) => self.order.floor[call] = self.order.shown.len(),
                Moment::Ended(call) => self.ended(at, call),
                Moment::Step(stream, step) => self.step(at, stream, step),
            }
        }
    }

    fn ended(&mut self, at: At, number: usize) {
        let call = &self.history.calls[number];
        match (&call.request, &call.answer) {
            (request, _) if request.is_read() => self.read(at, number, call, request.is_stale_read()),
            (
                Request::Renew { .. },
                Answer::Done {
                    revision,
                    reply: Reply::Renewed(results),
                    ..
                },
            ) => {
                self.renewal(at, number, *revision, results);
            }
            (_, Answer::Done { .. } | Answer::Rejected { .. }) => self.write(at, number),
            _ => {}
        }
    }

    /// The log is known to have come so far from now on.
    fn show(&mut self, at: At, place: Position, by: By) {
        if self.order.shown.last().is_none_or(|(_, before, _)| *before < place) {
            self.order.shown.push((at, place, by));
        }
    }

    fn write(&mut self, at: At, number: usize) {
        let floor = self.order.floor_of(number);
        let candidates = self.answered_by.get(&number).copied().unwrap_or_default();
        // An answer without a command is for I2 and D1 to tell.
        let Some(last) = candidates.last() else { return };
        self.findings.looked("I3", 1);
        let late_enough = candidates
            .iter()
            .find(|place| floor.is_none_or(|(floor, _)| **place > floor));
        if late_enough.is_none() {
            self.out_of_order(number, *last, floor);
        }
        let place = *late_enough.unwrap_or(last);
        self.order.place[number] = Some(place);
        self.show(at, place, By::Write(number));
    }

    /// A write whose place is not after what had been shown before it was sent: whose fault that is depends on who had
    /// been shown it.
    fn out_of_order(&mut self, number: usize, place: Position, floor: Option<(Position, By)>) {
        let Some((floor, by)) = floor else { return };
        let checker = match by {
            By::Write(_) => "I3",
            By::Read(_) => "I4c",
            By::Stale(_) => "I6",
            By::Renewal(_) => "R1",
            By::Watch(..) => "W9",
        };
        let headline = match by {
            By::Write(_) => "a write took effect before another that had been acknowledged before it was sent",
            By::Read(_) | By::Stale(_) => "a read saw the effect of a write that was not sent yet",
            By::Renewal(_) => "the answer to a renewal tells a revision that was not made yet",
            By::Watch(..) => "a watch delivered the effect of a write that was not sent yet",
        };
        let story = Story::new(headline)
            .call(&self.history.calls[number])
            .event(self.witness, place)
            .event(self.witness, floor);
        let story = self.tell_by(story, by);
        self.findings.violate(checker, story);
    }

    fn tell_by(&self, story: Story, by: By) -> Story {
        match by {
            By::Write(call) | By::Read(call) | By::Stale(call) | By::Renewal(call) => {
                story.call(&self.history.calls[call])
            }
            By::Watch(stream, step) => {
                let stream: &WatchStream = &self.history.watches[stream];
                story.step(stream, &stream.steps[step])
            }
        }
    }

    fn read(&mut self, at: At, number: usize, call: &Call, stale: bool) {
        let revision = match &call.answer {
            Answer::Done { revision, .. } => Some(*revision),
            Answer::Rejected { revision, .. } if *revision > 0 => Some(*revision),
            Answer::Rejected { reason, .. } | Answer::Failed { reason } if reason == "INSTANCE_NOT_FOUND" => None,
            _ => return,
        };
        match revision {
            Some(revision) if stale => {
                if let Some(place) = self.known(revision, |story| story.call(call)) {
                    self.order.place[number] = Some(place);
                    self.show(at, place, By::Stale(number));
                }
            }
            Some(revision) => self.linearizable(at, number, call, revision),
            None if stale => {}
            None => self.absent(at, number, call),
        }
    }

    /// The first place of a revision that was told; one that the log never reached was lost (D1).
    fn known(&mut self, revision: i64, tell: impl FnOnce(Story) -> Story) -> Option<Position> {
        let place = self.witness.first_at(revision);
        if place.is_none() {
            let story = Story::new(format!(
                "revision {revision} was shown to a client, but the log ends at revision {}: it was lost",
                self.witness.last_revision()
            ));
            self.findings.violate("D1", tell(story));
        }
        place
    }

    fn linearizable(&mut self, at: At, number: usize, call: &Call, revision: i64) {
        self.findings.looked("I4b", 1);
        self.findings.looked("I4c", 1);
        let Some(first) = self.known(revision, |story| story.call(call)) else {
            return;
        };
        let floor = self.order.floor_of(number);
        let place = floor.map_or(first, |(floor, _)| floor.max(first));
        if let Some((floor, by)) = floor
            && floor > self.witness.last_at(revision)
        {
            let story = Story::new(format!(
                "a linearizable read was answered at revision {revision}, but revision {} had been shown before it was \
                 sent",
                self.witness.revision_at(floor)
            ));
            let story = self.tell_by(story.call(call).event(self.witness, floor), by);
            self.findings.violate("I4b", story);
        }
        self.order.place[number] = Some(place);
        self.show(at, place, By::Read(number));
    }

    /// A linearizable Get that found nothing and did not say at which revision: at some place since it was sent the
    /// record was not there.
    fn absent(&mut self, at: At, number: usize, call: &Call) {
        let Request::Get { key, .. } = &call.request else {
            return;
        };
        self.findings.looked("I4a", 1);
        let floor = self.order.floor_of(number).map_or(0, |(floor, _)| floor);
        let revision = self.witness.revision_at(floor);
        if self.witness.records.at(key, revision).is_none() {
            return;
        }
        let versions = self.witness.records.versions(key);
        let gone = versions
            .iter()
            .find(|version| version.revision > revision && version.shown.is_none());
        match gone.and_then(|version| self.witness.first_at(version.revision)) {
            Some(place) => {
                self.order.place[number] = Some(place);
                self.show(at, place, By::Read(number));
            }
            None => {
                let story = Story::new(format!(
                    "{key} was not found, but it is there at revision {revision}, which had been shown before the call \
                     was sent, and ever after"
                ));
                self.findings
                    .violate("I4a", story.call(call).event(self.witness, floor));
            }
        }
    }

    /// A renewal that was acknowledged, or refused, is in the log: in a record that ends at the revision which its
    /// answer tells, and after all that had been shown before it was sent.
    fn renewal(&mut self, at: At, number: usize, revision: i64, results: &[Renewed]) {
        let confirmed = |result: &&Renewed| result.outcome != RenewOutcome::Unconfirmed && result.lease > 0;
        let confirmed: Vec<&Renewed> = results.iter().filter(confirmed).collect();
        if confirmed.is_empty() {
            return;
        }
        self.findings.looked("L3", confirmed.len());
        self.findings.looked("R1", 1);
        let floor = self.order.floor_of(number);
        let places = self.renewed_at(revision, &confirmed);
        let Some(last) = places.last().copied() else {
            let story = Story::new(format!(
                "a renewal was answered at revision {revision}, but the log has no such renewal there: it was not \
                 committed, or its lease had ended"
            ));
            let story = confirmed
                .iter()
                .take(3)
                .fold(story, |story, result| story.say(self.lease_line(result.lease)));
            return self.findings.violate("L3", story.call(&self.history.calls[number]));
        };
        let late_enough = places
            .iter()
            .find(|place| floor.is_none_or(|(floor, _)| **place > floor));
        if let (None, Some((floor, by))) = (late_enough, floor) {
            let story = Story::new("the answer to a renewal is older than what had been shown before it was sent");
            let story = story
                .call(&self.history.calls[number])
                .event(self.witness, last)
                .event(self.witness, floor);
            let story = self.tell_by(story, by);
            self.findings.violate("R1", story);
        }
        let place = late_enough.copied().unwrap_or(last);
        self.order.place[number] = Some(place);
        let through = self.witness.first_at(revision).unwrap_or(place).max(place);
        self.show(at, through, By::Renewal(number));
    }

    /// Where the log has all of these renewals with these results, in one record that ends at this revision.
    fn renewed_at(&self, revision: i64, results: &[&Renewed]) -> Vec<Position> {
        let leases = &self.witness.leases;
        let id = results[0].lease;
        let before = |place: Position| self.witness.event(place).record_revision < revision;
        let renewals = leases.get(id).map_or(&[][..], |lease| lease.renewals.as_slice());
        let renewals = &renewals[renewals.partition_point(|(place, _)| before(*place))..];
        let refusals = leases.refusals(id);
        let refusals = &refusals[refusals.partition_point(|place| before(*place))..];
        let there = |place: &Position| self.witness.event(*place).record_revision == revision;
        let renewals = renewals.iter().map(|(place, _)| *place).take_while(there);
        let places = renewals.chain(refusals.iter().copied().take_while(there));
        let mut places: Vec<Position> = places.filter(|place| self.holds(*place, revision, results)).collect();
        // A lease of a caller's own id may be refused, granted, and end, all at one revision.
        places.sort_unstable();
        places
    }

    fn holds(&self, place: Position, revision: i64, results: &[&Renewed]) -> bool {
        let event = self.witness.event(place);
        let What::Renewals(renewals) = &event.what else {
            return false;
        };
        event.record_revision == revision
            && results.iter().all(|result| {
                let at = renewals.binary_search_by_key(&result.lease, |(lease, _)| *lease);
                at.is_ok_and(|at| is_so(result, renewals[at].1))
            })
    }

    fn lease_line(&self, lease: i64) -> String {
        let Some(known) = self.witness.leases.get(lease) else {
            return format!("lease {lease} never was");
        };
        let end = known.end.map_or("it has not ended".to_owned(), |(place, why)| {
            format!("{why:?} at revision {}", self.witness.event(place).revision)
        });
        format!("lease {lease} was renewed {} times; {end}", known.renewals.len())
    }

    fn step(&mut self, at: At, number: usize, step: usize) {
        let stream = &self.history.watches[number];
        let taken: &Step = &stream.steps[step];
        self.findings.looked("W9", 1);
        if let Some(place) = self.known(taken.revision, |story| story.step(stream, taken)) {
            self.show(at, place, By::Watch(number, step));
        }
    }

    /// Commands that no answer is from: of attempts whose outcome is unknown. The n-th of them needs n attempts that
    /// were sent before anything later than it had been shown.
    fn unanswered(&mut self, matches: &Matches<'_>) {
        for group in matches.groups.values() {
            let taken: Vec<Position> = group.attempts.iter().filter_map(|it| self.order.place[it.at]).collect();
            let rest = group.commands.iter().filter(|place| !taken.contains(place));
            let unknown: Vec<&Attempt<'_>> = sent_without_answer(group);
            let mut floors = unknown.iter();
            let mut sender = floors.next();
            for place in rest {
                let Some(attempt) = sender else { break };
                self.findings.looked("I3", 1);
                let floor = self.order.floor_of(attempt.at);
                if floor.is_some_and(|(floor, _)| floor >= *place) {
                    self.out_of_order(attempt.at, *place, floor);
                }
                if !group.may_repeat_unseen() {
                    sender = floors.next();
                }
            }
        }
    }

    /// When each place was first seen by anyone, and until when each revision was still the last.
    fn note_seen(&mut self) {
        let order = &mut self.order;
        order.first_seen = vec![NEVER; self.witness.end() + 1];
        for (at, place, _) in &order.shown {
            order.first_seen[*place] = order.first_seen[*place].min(*at);
        }
        for place in (0..self.witness.end()).rev() {
            order.first_seen[place] = order.first_seen[place].min(order.first_seen[place + 1]);
        }
        let revisions = usize::try_from(self.witness.last_revision()).unwrap_or(0) + 1;
        order.last_asked = vec![(0, None); revisions];
        for (number, call) in self.history.calls.iter().enumerate() {
            if let Some(revision) = linearizable_revision(call)
                && let Ok(at) = usize::try_from(revision)
                && let Some(last) = order.last_asked.get_mut(at)
                && call.sent >= last.0
            {
                *last = (call.sent, Some(number));
            }
        }
        for at in 1..revisions {
            if order.last_asked[at].0 < order.last_asked[at - 1].0 {
                order.last_asked[at] = order.last_asked[at - 1];
            }
        }
    }
}

/// Attempts that may be in the log without an answer that says where, first sent first.
fn sent_without_answer<'g, 'h>(group: &'g Group<'h>) -> Vec<&'g Attempt<'h>> {
    let unknown = |attempt: &&Attempt<'_>| matches!(attempt.call.answer, Answer::Unknown { .. });
    let unknown: Vec<_> = group.attempts.iter().filter(unknown).collect();
    if unknown.is_empty() && group.may_repeat_unseen() {
        return group.attempts.iter().collect();
    }
    unknown
}

fn is_so(told: &Renewed, renewal: roster::registry::Renewal) -> bool {
    use roster::registry::Renewal;
    match (told.outcome, renewal) {
        (RenewOutcome::Renewed, Renewal::Renewed { instances, .. }) => told.instances == instances,
        (RenewOutcome::NotFound, Renewal::NotFound) => true,
        _ => false,
    }
}

/// The revision at which a linearizable call was answered; that of a `REVISION_MISMATCH` is the record's.
pub(super) fn linearizable_revision(call: &Call) -> Option<i64> {
    match (&call.request, &call.answer) {
        (request, _) if request.is_stale_read() => None,
        (
            Request::Renew { .. },
            Answer::Done {
                revision,
                reply: Reply::Renewed(results),
                ..
            },
        ) => {
            // That there is no lease 0 is known without asking anyone.
            let asked_for = |result: &&Renewed| result.lease > 0;
            let mut results = results.iter().filter(asked_for);
            let confirmed = results.any(|result| result.outcome != RenewOutcome::Unconfirmed);
            confirmed.then_some(*revision)
        }
        (_, Answer::Done { revision, .. }) => Some(*revision),
        (_, Answer::Rejected { revision, reason }) if *revision > 0 && reason != "REVISION_MISMATCH" => Some(*revision),
        _ => None,
    }
}
