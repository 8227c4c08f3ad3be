//! The ledger: a line for each campaign.

use std::{
    fs,
    io::{self, Write as _},
    time::Duration,
};

use super::{findings::Findings, shell};

const LEDGER: &str = "docs/faults-ledger.md";

/// What a line says of a campaign, besides when and of which commit it was.
#[derive(Clone, Debug)]
pub(crate) struct Line<'a> {
    pub(crate) harness: &'a str,
    /// Which seeds, and how many runs.
    pub(crate) seeds: String,
    pub(crate) spent: Duration,
    pub(crate) calls: u64,
    pub(crate) faults: u64,
    pub(crate) skipped: String,
    /// How many other campaigns ran on this machine meanwhile.
    pub(crate) beside: usize,
    pub(crate) violations: usize,
}

impl<'a> Line<'a> {
    pub(crate) fn of(harness: &'a str, total: &Findings, seed: u64) -> Self {
        let mut skipped = format!("{} injections", total.skipped_count());
        if !total.skipped_scenarios.is_empty() {
            skipped += &format!(", {} scenarios skipped", total.skipped_scenarios.len());
        }
        Self {
            harness,
            seeds: format!("{seed} ({} runs)", total.runs),
            spent: total.spent,
            calls: total.calls,
            faults: total.fault_count(),
            skipped,
            beside: total.beside,
            violations: total.violations.len(),
        }
    }

    /// Appends it to the ledger.
    ///
    /// # Errors
    /// `git` or `date` is not there, or the ledger can't be written.
    pub(crate) fn enter(&self) -> io::Result<()> {
        let date = shell::run("date", &["-u", "+%Y-%m-%d %H:%M"])?;
        let commit = shell::run("git", &["rev-parse", "--short", "HEAD"])?;
        let mut ledger = fs::OpenOptions::new().create(true).append(true).open(LEDGER)?;
        writeln!(ledger, "{}", self.text(date.trim(), commit.trim()))
    }

    fn text(&self, date: &str, commit: &str) -> String {
        let Self {
            harness,
            seeds,
            spent,
            calls,
            faults,
            skipped,
            beside,
            violations,
        } = self;
        let minutes = spent.as_secs_f64() / 60.0;
        let beside = match beside {
            0 => "none".to_owned(),
            others => others.to_string(),
        };
        format!(
            "| {date} | {commit} | {harness} | {seeds} | {minutes:.1} | {calls} | {faults} | {skipped} | {beside} | \
             {violations} |"
        )
    }
}

/// How many other campaigns run on this machine now, of whatever harness: their nodes take each other's time.
pub(crate) fn beside() -> usize {
    // `/proc/PID/comm` is the program's name: this tool's, wherever it was built.
    let comm = |pid: &str| fs::read_to_string(format!("/proc/{pid}/comm")).ok();
    let Some(own) = comm("self") else { return 0 };
    let harms = |pid: &str| {
        let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let command = arguments.split(|byte| *byte == 0).nth(1).unwrap_or_default();
        [b"run".as_slice(), b"compose", b"simulate", b"plants"].contains(&command)
    };
    let Ok(processes) = fs::read_dir("/proc") else {
        return 0;
    };
    let names = processes
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok());
    names
        .filter(|pid| pid.parse().is_ok_and(|pid: u32| pid != std::process::id()))
        .filter(|pid| comm(pid).as_ref() == Some(&own) && harms(pid))
        .count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_what_the_header_names() {
        let mut total = Findings {
            runs: 7,
            calls: 38_963,
            beside: 1,
            ..Findings::default()
        };
        total.lack("power_cut", 5, "not root");
        total.miss("kill", "no leader");
        total
            .skipped_scenarios
            .push(("power-cut-all".to_owned(), "not root".to_owned()));
        total.violation("A1", "one");
        let line = Line::of("processes", &total, 200).text("2026-11-21 14:32", "1aef49c");
        assert_eq!(
            line,
            "| 2026-11-21 14:32 | 1aef49c | processes | 200 (7 runs) | 0.0 | 38963 | 0 | 6 injections, 1 scenarios skipped \
             | 1 | 1 |"
        );
        let header = include_str!("../../../docs/faults-ledger.md");
        let header = header.lines().find(|line| line.starts_with("| date")).unwrap();
        assert_eq!(line.matches('|').count(), header.matches('|').count());
    }
}
