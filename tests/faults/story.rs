//! How a violation is told: what contradicts what, in the order of time, and how to see it again.

use crate::{
    history::{At, Call, Fault, History, Step, WatchStream},
    witness::{Position, What, Witness},
};

/// Lines longer than this are cut.
const LINE_MAX: usize = 600;

/// A contradiction that is being told.
#[derive(Clone, Debug)]
pub struct Story {
    headline: String,
    lines: Vec<(At, String)>,
    said: Vec<String>,
}

impl Story {
    /// Begins with what is wrong, in one sentence.
    #[must_use]
    pub fn new(headline: impl Into<String>) -> Self {
        Self {
            headline: headline.into(),
            lines: Vec::new(),
            said: Vec::new(),
        }
    }

    /// One of the calls that contradict each other.
    #[must_use]
    pub fn call(mut self, call: &Call) -> Self {
        self.lines.push((call.sent, call_line(call)));
        self
    }

    /// One step of a watch.
    #[must_use]
    pub fn step(mut self, stream: &WatchStream, step: &Step) -> Self {
        self.lines.push((step.at, step_line(stream, step)));
        self
    }

    /// What the log has at a position.
    #[must_use]
    pub fn event(mut self, witness: &Witness, position: Position) -> Self {
        if position > 0 {
            self.said.push(event_line(witness, position));
        }
        self
    }

    /// A fault that held at the time.
    #[must_use]
    pub fn fault(mut self, fault: &Fault) -> Self {
        let until = fault.until.map_or("the end".to_owned(), time);
        let line = format!(
            "{} to {until}: {} {:?} {}",
            time(fault.from),
            fault.kind,
            fault.nodes,
            fault.details
        );
        self.lines.push((fault.from, line));
        self
    }

    /// Something more to say.
    #[must_use]
    pub fn say(mut self, text: impl Into<String>) -> Self {
        self.said.push(text.into());
        self
    }

    /// All of it, with the seed and how to run it again.
    #[must_use]
    pub fn tell(mut self, history: &History) -> String {
        self.lines.sort();
        let mut text = self.headline;
        for line in self.lines.iter().map(|(_, line)| line).chain(&self.said) {
            text.push_str("\n    ");
            text.extend(line.chars().take(LINE_MAX));
        }
        let run = &history.run;
        text.push_str(&format!(
            "\n    {} with seed {}; again: {}",
            run.harness, run.seed, run.replay
        ));
        text
    }
}

/// An instant of the recorder's clock, in seconds.
#[must_use]
pub fn time(at: At) -> String {
    format!("{}.{:06} s", at / 1_000_000_000, at / 1_000 % 1_000_000)
}

fn call_line(call: &Call) -> String {
    let node = call.node.as_deref().unwrap_or("some node");
    let attempt = if call.attempt > 0 {
        format!(", attempt {}", call.attempt)
    } else {
        String::new()
    };
    format!(
        "{} to {}: client {} asks {node} (call {}{attempt}): {:?} => {:?}",
        time(call.sent),
        time(call.ended),
        call.client,
        call.id,
        call.request,
        call.answer,
    )
}

fn step_line(stream: &WatchStream, step: &Step) -> String {
    let node = stream.node.as_deref().unwrap_or("some node");
    format!(
        "{}: watch {} (watcher {}, {node}, {:?}, from {:?}) gets {:?} through revision {}{}: {:?}",
        time(step.at),
        stream.id,
        stream.watcher,
        stream.selector,
        stream.start,
        step.kind,
        step.revision,
        step.reset
            .as_ref()
            .map_or(String::new(), |reset| format!(" after {reset}")),
        step.changes,
    )
}

fn event_line(witness: &Witness, position: Position) -> String {
    let event = witness.event(position);
    let what = match &event.what {
        What::Renewals(renewals) => format!("{} renewals", renewals.len()),
        What::Expired(lease) => format!("lease {lease} expires"),
        What::Command { request, reply, .. } => format!("{request:?} => {:?}", reply.result),
    };
    format!(
        "log: index {} (term {}), revision {}, lease time {}: {what}",
        event.index,
        event.term,
        event.revision,
        time(event.clock_ns)
    )
}
