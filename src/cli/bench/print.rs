//! What a run found, as a table for people and as one JSON object for scripts; and what makes a run fail.

use super::{
    super::{failure::Failure, output::Output, table::Table},
    measure::{Report, ServerUse, bytes, rate, signed, time},
};

impl Report {
    /// Prints it, and fails when what it found must not be.
    pub(in crate::cli) fn print(&self, output: &mut Output) -> Result<(), Failure> {
        if output.is_json() {
            output.line(&self.object().to_string())?;
        } else {
            self.print_table(output)?;
        }
        output.flush()?;
        self.judge()
    }

    fn print_table(&self, output: &mut Output) -> Result<(), Failure> {
        output.table(&self.table())?;
        for line in self.facts.iter().map(|fact| &fact.line).filter(|line| !line.is_empty()) {
            output.line(line)?;
        }
        if let ServerUse::Known(_, end) = &self.server {
            let each: Vec<String> = end.resident_bytes.iter().map(|&size| bytes(signed(size))).collect();
            output.line(&format!("server memory in the end: {}", each.join(", ")))?;
        }
        for measure in self.measures() {
            for (reason, count, message) in measure.tally.errors.iter() {
                let name = measure.name;
                output.line(&format!("failed in {name}: {count} by {reason}, the first: {message}"))?;
            }
        }
        if self.interrupted {
            output.note("it was ended before its time: these are the figures until then");
        }
        if let ServerUse::Unknown(problem) = &self.server {
            output.note(&format!("what the servers used is not known: {problem}"));
        }
        Ok(())
    }

    /// Fails on what must not be: a broken promise, or not a single success.
    fn judge(&self) -> Result<(), Failure> {
        if let Some(broken) = &self.broken {
            return Err(Failure::Failed(broken.clone()));
        }
        let tally = &self.main.tally;
        match tally.errors.iter().next() {
            Some((reason, _, message)) if tally.operations == 0 => Err(Failure::Failed(format!(
                "not one operation succeeded: {reason}: {message}"
            ))),
            _ => Ok(()),
        }
    }

    fn table(&self) -> Table {
        let mut table = Table::new([
            "OPERATION",
            "COUNT",
            "PER SECOND",
            "P50",
            "P99",
            "P99.9",
            "MAX",
            "ERRORS",
            "SERVER CPU EACH",
            "SERVER MEMORY EACH",
        ]);
        for (at, measure) in self.measures().enumerate() {
            let tally = &measure.tally;
            let known = !tally.took_us.is_empty();
            let quantile = |share| known.then(|| tally.took_us.value_at_quantile(share));
            let time = |us: Option<u64>| us.map_or_else(|| "-".to_owned(), time);
            let (cpu, memory) = if at == 0 {
                self.server_cells()
            } else {
                (String::new(), String::new())
            };
            table.row([
                measure.name.to_owned(),
                tally.operations.to_string(),
                rate(measure.per_second()),
                time(quantile(0.5)),
                time(quantile(0.99)),
                time(quantile(0.999)),
                time(known.then(|| tally.took_us.max())),
                tally.errors.total().to_string(),
                cpu,
                memory,
            ]);
        }
        table
    }

    fn server_cells(&self) -> (String, String) {
        match (&self.server, self.per_operation()) {
            (ServerUse::NotAsked, _) => ("no --server-pids".into(), "no --server-pids".into()),
            (ServerUse::Unknown(_), _) | (_, None) => ("unknown".into(), "unknown".into()),
            (ServerUse::Known(..), Some((cpu_us, resident_bytes))) => {
                (format!("{cpu_us:.1} µs"), format!("{resident_bytes:.0} B"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::Value;

    use super::{
        super::{
            super::{arguments::Format, output::tests::Shared},
            measure::{Fact, Measure, Tally, Trouble, Used},
        },
        *,
    };

    fn used(cpu_ms: u64, resident_bytes: u64) -> Used {
        Used {
            cpu: Duration::from_millis(cpu_ms),
            resident_bytes: vec![resident_bytes, resident_bytes],
        }
    }

    fn report(server: ServerUse) -> Report {
        let mut tally = Tally::new();
        for ms in 1..=100 {
            tally.done(1, Duration::from_millis(ms));
        }
        tally.failed(Trouble::new("NO_LEADER", "none is known"));
        Report {
            workload: "register",
            parameters: [("clients".to_owned(), Value::from(16))].into_iter().collect(),
            interrupted: false,
            main: Measure {
                name: "register",
                tally,
                over: Duration::from_secs(2),
            },
            others: vec![Measure {
                name: "writes-before",
                tally: Tally::new(),
                over: Duration::ZERO,
            }],
            facts: vec![Fact::new("lost_events", 0, "lost 0")],
            server,
            broken: None,
        }
    }

    fn printed(report: &Report, format: Format) -> (Result<(), Failure>, String, String) {
        let (out, err) = (Shared::default(), Shared::default());
        let mut output = Output::new(format, out.clone(), err.clone());
        let result = report.print(&mut output);
        (result, out.text(), err.text())
    }

    #[test]
    fn the_table_shows_rates_times_errors_and_what_the_servers_used() {
        let known = ServerUse::Known(used(100, 1_000_000), used(200, 1_005_000));
        let (result, out, _) = printed(&report(known), Format::Table);
        assert!(result.is_ok(), "{result:?}");
        let lines: Vec<&str> = out.lines().collect();
        assert_eq!(
            lines,
            [
                "OPERATION      COUNT  PER SECOND  P50      P99      P99.9   MAX     ERRORS  SERVER CPU EACH  SERVER MEMORY EACH",
                "register       100    50.0        50.0 ms  99.0 ms  100 ms  100 ms  1       1000.0 µs        100 B",
                "writes-before  0      0.0         -        -        -       -       0",
                "lost 0",
                "server memory in the end: 981.4 KiB, 981.4 KiB",
                "failed in register: 1 by NO_LEADER, the first: none is known",
            ]
        );
    }

    #[test]
    fn without_the_servers_processes_their_columns_say_so() {
        let (_, out, _) = printed(&report(ServerUse::NotAsked), Format::Table);
        assert!(out.contains("no --server-pids  no --server-pids"), "{out}");
        let (_, out, err) = printed(&report(ServerUse::Unknown("process 7 has ended".into())), Format::Table);
        assert!(out.contains("unknown"), "{out}");
        assert!(err.contains("process 7 has ended"), "{err}");
    }

    #[test]
    fn scripts_get_one_object_with_units_in_its_fields() {
        let known = ServerUse::Known(used(100, 1_000_000), used(200, 900_000));
        let (_, out, err) = printed(&report(known), Format::Json);
        assert_eq!((out.lines().count(), err.as_str()), (1, ""));
        let object: Value = serde_json::from_str(&out).expect("JSON");
        assert_eq!(object["workload"], "register");
        assert_eq!(object["parameters"]["clients"], 16);
        assert_eq!(object["operations"], 100);
        assert_eq!(object["per_second"], 50.0);
        assert_eq!(object["measured_seconds"], 2.0);
        let p50 = object["p50_us"].as_u64().expect("a number");
        assert!((49_900..=50_100).contains(&p50), "{p50}");
        assert_eq!(object["errors"], 1);
        assert_eq!(object["errors_by_reason"]["NO_LEADER"]["count"], 1);
        assert_eq!(object["writes_before"]["p99_us"], Value::Null);
        assert_eq!(object["lost_events"], 0);
        assert_eq!(object["server"]["cpu_us_per_operation"], 1_000.0);
        assert_eq!(object["server"]["resident_bytes_per_operation"], -2_000.0);
        let (_, out, _) = printed(&report(ServerUse::NotAsked), Format::Json);
        assert!(out.contains(r#""server":null"#), "{out}");
    }

    #[test]
    fn a_broken_promise_and_a_run_without_success_fail_after_they_were_printed() {
        let mut broken = report(ServerUse::NotAsked);
        broken.broken = Some("1 event was lost".into());
        let (result, out, _) = printed(&broken, Format::Table);
        assert_eq!(result.map_err(|failure| failure.line()), Err("1 event was lost".into()));
        assert!(out.contains("PER SECOND"));
        let mut failed = report(ServerUse::NotAsked);
        failed.main.tally.operations = 0;
        let (result, _, _) = printed(&failed, Format::Table);
        assert!(result.is_err_and(|failure| failure.line().contains("NO_LEADER")));
    }
}
