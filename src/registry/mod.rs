//! The state machine: (state, entry) → (replies, changes).
//!
//! **Owns** the registry's content in memory: instances, leases, fences, the counts by service and namespace, lease
//! time and the revision; and with them every rule by which an entry of the log changes it.
//!
//! **Promises.** Applying the same entries gives the same state, replies and changes on every node, also when one of
//! them began from a snapshot in the middle: nothing here reads a clock, a random number, a configuration or the
//! order of a hash map. `apply` cannot fail for a reason outside its input. A refused command has changed nothing.
//! One command that changed something is one revision; a command that changed nothing is none, and makes no change.
//! The end of a lease removes all that it holds in one revision, in the order of the keys. Every instance's lease
//! exists, and an own lease holds exactly one instance ([`State::check_invariants`]).
//!
//! **Never** does I/O, waits, traces, or knows of Raft, gRPC or the encoding of a record.
//!
//! Left out on purpose: the wish of a request that names no hold or no id (its defaults are the caller's business),
//! and the check of single fields (parsing did it).

mod apply;
mod command;
mod deadlines;
mod deregister;
mod due;
mod fences;
#[cfg(test)]
mod fixture;
mod holdings;
mod invariants;
mod lease_commands;
mod leases;
mod outcome;
mod place;
mod query;
mod register;
mod snapshot;
mod state;
mod summary;
mod update;
mod work;

pub use apply::{REMOVALS_PER_ENTRY, Registry};
pub use command::{BatchRegister, Command, Deregister, Entry, Register, Update};
pub use outcome::{Applied, Change, Outcome, Registered, Rejection, RemoveReason, Renewal, Reply};
pub use snapshot::{Corrupt, SnapshotItem};
pub use state::{Settings, State};
pub use summary::{NamespaceSummary, ServiceSummary};
