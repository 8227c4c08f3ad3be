//! What is fuzzed: every function that reads bytes from the network, the disk or a person, and the state machine.
//!
//! A target is a function from bytes to whether they were taken. It panics when a promise is broken: its code must not
//! panic whatever the bytes are, and what it takes must hold what the target says. libFuzzer drives it with coverage
//! (`scripts/fuzz`); the gate runs it over its seeds, the kept corpus and mutations of both (`main.rs`).
//!
//! A target's seeds are encodings that its decoder must take, made by the present code: so they can't grow old, and a
//! target that refuses everything at the first byte, and thus tests nothing, fails.

mod answer;
mod apply;
mod config;
mod input;
mod log_record;
mod name;
mod page_token;
pub(crate) mod raft;
mod request;
mod sample;
mod selector;
mod snapshot_body;
mod storage;

/// Whether the bytes were what they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Taken,
    Refused,
}

impl Verdict {
    /// `Taken` if something was read.
    fn of<T, E>(result: &Result<T, E>) -> Self {
        if result.is_ok() { Self::Taken } else { Self::Refused }
    }
}

/// One target.
pub(crate) struct Target {
    pub(crate) name: &'static str,
    run: fn(&[u8]) -> Verdict,
    seeds: fn() -> Vec<Vec<u8>>,
}

impl Target {
    /// Reads the bytes; panics when a promise is broken.
    pub(crate) fn run(&self, bytes: &[u8]) -> Verdict {
        (self.run)(bytes)
    }

    /// Bytes that it must take.
    pub(crate) fn seeds(&self) -> Vec<Vec<u8>> {
        (self.seeds)()
    }
}

/// All of them; `Cargo.toml` has a binary for each.
#[rustfmt::skip] // a table reads best with a row on a line
pub(crate) const TARGETS: &[Target] = &[
    Target { name: "answer", run: answer::run, seeds: answer::seeds },
    Target { name: "apply", run: apply::run, seeds: apply::seeds },
    Target { name: "config", run: config::run, seeds: config::seeds },
    Target { name: "identity", run: storage::run_identity, seeds: storage::identity_seeds },
    Target { name: "log_record", run: log_record::run, seeds: log_record::seeds },
    Target { name: "name", run: name::run, seeds: name::seeds },
    Target { name: "page_token", run: page_token::run, seeds: page_token::seeds },
    Target { name: "peer", run: raft::run, seeds: raft::seeds },
    Target { name: "request", run: request::run, seeds: request::seeds },
    Target { name: "selector", run: selector::run, seeds: selector::seeds },
    Target { name: "snapshot_body", run: snapshot_body::run, seeds: snapshot_body::seeds },
    Target { name: "snapshot_file", run: storage::run_snapshot_file, seeds: storage::snapshot_file_seeds },
    Target { name: "stored_value", run: storage::run_stored_value, seeds: storage::stored_value_seeds },
    Target { name: "write_ahead_log", run: storage::run_write_ahead_log, seeds: storage::write_ahead_log_seeds },
];

/// The target of that name.
///
/// # Panics
/// There is none.
pub(crate) fn named(name: &str) -> &'static Target {
    let found = TARGETS.iter().find(|target| target.name == name);
    found.unwrap_or_else(|| panic!("there is no target {name}"))
}
