//! `faults check FILE…`

use std::{
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::Args;

use super::{CheckOptions, check};
use crate::history::{History, HistoryError};

/// Which histories.
#[derive(Debug, Args)]
pub struct Arguments {
    /// As the other commands write them: JSON lines
    #[arg(required = true)]
    files: Vec<PathBuf>,
}

/// Checks each and prints its report. The exit code is 1 if any promise was broken, 2 if a file can't be read.
#[must_use]
pub fn run(arguments: &Arguments) -> ExitCode {
    let mut code = ExitCode::SUCCESS;
    for file in &arguments.files {
        match checked(file) {
            Ok(true) => {}
            Ok(false) => code = ExitCode::FAILURE,
            Err(error) => {
                // Nobody is left to tell if that fails.
                let _told = writeln!(io::stderr(), "{}: {error}", file.display());
                return ExitCode::from(2);
            }
        }
    }
    code
}

fn checked(file: &Path) -> Result<bool, HistoryError> {
    let history = History::read(file)?;
    let report = check(&history, &CheckOptions::default());
    // A closed pipe changes nothing about the verdict.
    let _told = writeln!(io::stdout(), "{}\n{report}\n", file.display());
    Ok(report.is_clean())
}
