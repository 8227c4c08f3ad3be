//! I2: every write that was answered is in the log, once, with what was asked and what was answered; what failed for
//! certain is not; and the log has nothing that nobody asked for. D1: none that was acknowledged is missing. N2: what
//! belongs to a life that is over was not acknowledged.
//!
//! Unseen: a command of a call that may be repeated unseen (the client library's) may stand in the log any number of
//! times.

use std::collections::BTreeMap;

use roster::registry::Rejection;

use super::{Case, Findings};
use crate::{
    history::{Answer, Call},
    story::Story,
    witness::{Contents, Group, Position, What},
};

pub(super) fn check(case: &Case<'_>, findings: &mut Findings<'_>) {
    for (contents, group) in &case.matches.groups {
        findings.looked("I2", group.attempts.len());
        let acknowledged = group
            .attempts
            .iter()
            .filter(|it| matches!(it.call.answer, Answer::Done { .. }));
        findings.looked("D1", acknowledged.clone().count());
        findings.looked("N2", acknowledged.count());
        answered(case, group, findings);
        count(case, contents, group, findings);
        arguments(case, group, findings);
    }
}

/// Every answer is one that the log gives.
fn answered(case: &Case<'_>, group: &Group<'_>, findings: &mut Findings<'_>) {
    let mut from_one: BTreeMap<(Position, usize), usize> = BTreeMap::new();
    for attempt in &group.attempts {
        let is_done = matches!(attempt.call.answer, Answer::Done { .. });
        if !is_done && !matches!(attempt.call.answer, Answer::Rejected { .. }) {
            continue;
        }
        if let (Some(first), last) = (attempt.answered_by.first(), attempt.answered_by.len()) {
            *from_one.entry((*first, last)).or_default() += 1;
            continue;
        }
        let (checker, headline) = if group.commands.is_empty() && is_done {
            ("D1", "a write was acknowledged, and the log does not have it")
        } else if is_done && group.commands.iter().any(|place| is_fenced(case, *place)) {
            ("N2", "a write of a life that is over was acknowledged")
        } else {
            ("I2", "a write was answered otherwise than the log answers it")
        };
        let story = Story::new(headline).call(attempt.call);
        findings.violate(checker, tell_commands(case, group, story));
    }
    for ((_, commands), answers) in from_one {
        if answers > commands && !group.may_repeat_unseen() {
            let story = Story::new(format!(
                "{answers} attempts were answered alike, but the log has only {commands} commands that are answered so"
            ));
            let story = group
                .attempts
                .iter()
                .take(4)
                .fold(story, |story, it| story.call(it.call));
            findings.violate("I2", tell_commands(case, group, story));
        }
    }
}

fn is_fenced(case: &Case<'_>, place: Position) -> bool {
    let What::Command { reply, .. } = &case.witness.event(place).what else {
        return false;
    };
    matches!(reply.result, Err(Rejection::Fenced { .. }))
}

fn tell_commands(case: &Case<'_>, group: &Group<'_>, story: Story) -> Story {
    let commands = group.commands.iter().take(4);
    commands.fold(story, |story, place| story.event(case.witness, *place))
}

/// No more commands than attempts that may have become one.
fn count(case: &Case<'_>, contents: &Contents, group: &Group<'_>, findings: &mut Findings<'_>) {
    let may_be_there = |call: &Call| !matches!(call.answer, Answer::Failed { .. });
    let sent = group.attempts.iter().filter(|it| may_be_there(it.call)).count();
    let commands = group.commands.len();
    let headline = if group.attempts.is_empty() {
        if case.history.cut_short {
            return;
        }
        format!("the log has what nobody asked for: {contents:?}")
    } else if commands > 0 && sent == 0 {
        "a write was said not to have been applied, and the log has it".to_owned()
    } else if commands > sent && !group.may_repeat_unseen() {
        format!("the log has a write {commands} times, but only {sent} attempts can have led there")
    } else {
        return;
    };
    let story = Story::new(headline);
    let story = group
        .attempts
        .iter()
        .take(4)
        .fold(story, |story, it| story.call(it.call));
    findings.violate("I2", tell_commands(case, group, story));
}

/// Each command is what one of the attempts asked for.
fn arguments(case: &Case<'_>, group: &Group<'_>, findings: &mut Findings<'_>) {
    for place in &group.commands {
        let What::Command { request, asked, .. } = &case.witness.event(*place).what else {
            continue;
        };
        let is_it = |call: &Call| call.request == **request && (call.asked == 0 || call.asked == *asked);
        if let Some(first) = group.attempts.first()
            && !group.attempts.iter().any(|attempt| is_it(attempt.call))
        {
            let story = Story::new("the log has something else than what was asked for").call(first.call);
            findings.violate("I2", story.event(case.witness, *place));
        }
    }
}
