//! The command line: one file for each command or family of commands.
//!
//! It owns how people and scripts talk to a cluster: flags and their environment, tables, JSON, exit codes, signals.
//! All output goes through one writer (`output`) that knows closed pipes; no command decides what a retry may do,
//! which is the client library's affair.
//!
//! Exit codes: 0 done, 1 refused or failed, 2 usage, 3 unavailable (no leader, no quorum, no connection), 4 outcome
//! unknown. `roster run` exits as its command does.

mod address;
mod arguments;
pub mod bench;
mod cluster;
mod completion;
mod edit;
mod failure;
mod health;
mod instance;
mod interrupt;
mod json;
mod lease;
mod list;
mod output;
mod process;
mod ready;
mod register;
mod resolve;
mod run;
mod select;
#[cfg(feature = "server")]
mod server;
mod services;
mod session;
mod spans;
mod table;
mod values;
mod wait;
mod watch;

use std::{ffi::OsString, process::ExitCode};

pub use arguments::Arguments;
use clap::Parser as _;
use failure::Failure;

/// Runs the command line of this process and says how it exits.
#[must_use]
pub fn main() -> ExitCode {
    run(std::env::args_os())
}

/// Runs a command line; the first word is the program's name.
pub fn run(words: impl IntoIterator<Item = OsString>) -> ExitCode {
    match Arguments::try_parse_from(words) {
        Ok(arguments) => arguments.run(),
        Err(error) => {
            // Help and version are no errors; what can't be printed (a closed pipe) needs no other message.
            let printed = error.print();
            tracing::trace!(?printed, "clap has spoken");
            ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(Failure::USAGE))
        }
    }
}
