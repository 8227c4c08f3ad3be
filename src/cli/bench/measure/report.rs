//! What a run found, as one JSON object for scripts.
//!
//! The object's fields, units last: `workload`, `parameters`, `interrupted`, `measured_seconds`; of the workload's own
//! operation `operations`, `per_second`, `p50_us`, `p99_us`, `p999_us`, `max_us` (`null` where nothing was done),
//! `errors`, `errors_by_reason`; for each other kind of operation an object of the same fields under its name; what
//! else the workload found, by name; and `server` (`null` without `--server-pids`).

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::{
    figures::{per_second, signed},
    processes::ServerUse,
    tally::Tally,
};

/// What one kind of operation came to.
#[derive(Debug)]
pub struct Measure {
    /// Its name in the table; in the object its field, with underscores.
    pub name: &'static str,
    /// How many, how long they took, and what went wrong.
    pub tally: Tally,
    /// Over which time its operations are spread.
    pub over: Duration,
}

/// Something else that a workload found.
#[derive(Clone, Debug, PartialEq)]
pub struct Fact {
    /// Its field, the unit last.
    pub field: &'static str,
    /// What scripts read.
    pub value: Value,
    /// What people read; empty = nothing worth a line.
    pub line: String,
}

impl Fact {
    /// A finding by its field, with what scripts and people read.
    pub fn new(field: &'static str, value: impl Into<Value>, line: impl Into<String>) -> Self {
        Self {
            field,
            value: value.into(),
            line: line.into(),
        }
    }
}

/// What a run found.
#[derive(Debug)]
pub struct Report {
    /// Its name, as on the command line.
    pub workload: &'static str,
    /// What it was asked for.
    pub parameters: Map<String, Value>,
    /// Whether it was ended before its time.
    pub interrupted: bool,
    /// The workload's own operation.
    pub main: Measure,
    /// Other operations that went on meanwhile.
    pub others: Vec<Measure>,
    /// What else was found.
    pub facts: Vec<Fact>,
    /// What the servers' processes used meanwhile.
    pub server: ServerUse,
    /// What must not be, and was.
    pub broken: Option<String>,
}

impl Report {
    pub(in crate::cli) fn measures(&self) -> impl Iterator<Item = &Measure> {
        std::iter::once(&self.main).chain(&self.others)
    }

    /// The servers' CPU time in microseconds, and the growth of their resident memory in bytes, for each operation.
    pub(in crate::cli) fn per_operation(&self) -> Option<(f64, f64)> {
        let ServerUse::Known(begin, end) = &self.server else {
            return None;
        };
        let operations = self.main.tally.operations;
        if operations == 0 {
            return None;
        }
        let cpu = end.cpu.saturating_sub(begin.cpu).as_secs_f64() * 1e6;
        let grown = signed(end.resident_bytes_together()) - signed(begin.resident_bytes_together());
        Some((cpu / operations as f64, grown as f64 / operations as f64))
    }

    /// The object for scripts.
    #[must_use]
    pub fn object(&self) -> Value {
        let mut object = Map::new();
        object.insert("workload".into(), self.workload.into());
        object.insert("parameters".into(), self.parameters.clone().into());
        object.insert("interrupted".into(), self.interrupted.into());
        object.insert("measured_seconds".into(), self.main.over.as_secs_f64().into());
        object.extend(self.main.fields());
        for measure in &self.others {
            object.insert(measure.name.replace([' ', '-'], "_"), measure.fields().into());
        }
        for fact in &self.facts {
            object.insert(fact.field.into(), fact.value.clone());
        }
        object.insert("server".into(), self.server_object());
        object.into()
    }

    /// `null` when nobody asked; what is not known is `null`, and `problem` says why.
    fn server_object(&self) -> Value {
        let (known, problem) = match &self.server {
            ServerUse::NotAsked => return Value::Null,
            ServerUse::Unknown(problem) => (None, Some(problem)),
            ServerUse::Known(begin, end) => (Some((begin, end)), None),
        };
        let each = self.per_operation();
        json!({
            "processes": known.map(|(_, end)| end.resident_bytes.len()),
            "cpu_seconds": known.map(|(begin, end)| end.cpu.saturating_sub(begin.cpu).as_secs_f64()),
            "cpu_us_per_operation": each.map(|(cpu_us, _)| cpu_us),
            "resident_bytes_begin": known.map(|(begin, _)| &begin.resident_bytes),
            "resident_bytes_end": known.map(|(_, end)| &end.resident_bytes),
            "resident_bytes_per_operation": each.map(|(_, resident_bytes)| resident_bytes),
            "problem": problem,
        })
    }
}

impl Measure {
    pub(in crate::cli) fn per_second(&self) -> f64 {
        per_second(self.tally.operations, self.over)
    }

    fn fields(&self) -> Map<String, Value> {
        let tally = &self.tally;
        let known = !tally.took_us.is_empty();
        let quantile = |share| Value::from(known.then(|| tally.took_us.value_at_quantile(share)));
        let by_reason: Map<String, Value> = tally
            .errors
            .iter()
            .map(|(reason, count, first)| (reason.to_owned(), json!({ "count": count, "first": first })))
            .collect();
        let mut fields = Map::new();
        fields.insert("operations".into(), tally.operations.into());
        fields.insert("per_second".into(), self.per_second().into());
        fields.insert("p50_us".into(), quantile(0.5));
        fields.insert("p99_us".into(), quantile(0.99));
        fields.insert("p999_us".into(), quantile(0.999));
        fields.insert("max_us".into(), known.then(|| tally.took_us.max()).into());
        fields.insert("errors".into(), tally.errors.total().into());
        fields.insert("errors_by_reason".into(), by_reason.into());
        fields
    }
}
