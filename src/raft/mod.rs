//! Raft, behind one handle: propose, read barrier, leadership, membership. The only room where openraft is spoken.
//!
//! ```text
//!   propose ──► openraft core ──► log ──► storage::LogStore
//!                  │    ▲  │
//!         network ─┘    │  └────► machine ──► registry.apply ──► hub.publish ──► answer
//!   (other nodes)     serve                      │
//!                 (other nodes)               snapshot ──► storage::SnapshotStore
//! ```
//!
//! **Owns** how openraft is configured and driven, the encoding of what it stores and sends, the moment at which a
//! snapshot is taken, and the guards that the library leaves to its users: no leadership resumed without a vote, no
//! vote cast by a node that lost its data, a quarantine for peers that show less log than they acknowledged.
//!
//! **Promises.** An entry is answered after it is committed, applied and published here. `NotLeader`, `NoQuorum` and
//! `ShuttingDown` mean that it was not appended and never will be. What is appended for a term is appended in that term
//! or not at all. Everything runs on the runtime that it was given. A failed disk ends openraft and is told by
//! [`Raft::fatal`].
//!
//! **Never** does it decide on TTLs, stamp entries, or try a request again.

mod codec;
mod commit_notice;
mod error;
mod failover;
mod handle;
mod leadership;
mod log;
mod machine;
mod network;
mod options;
#[cfg(feature = "failpoints")]
mod plants;
mod progress;
mod quarantine;
mod read_index;
mod serve;
mod snapshot;
mod status;
mod tail;
mod tuning;
mod types;

pub use error::{InitializeError, ProposeError, ReadIndexError, StartError};
pub use handle::{Committed, Raft};
pub use leadership::{Lead, Leadership};
pub use options::RaftOptions;
pub use status::{MemberProgress, RaftStatus, Role};
pub use tuning::{KEPT_BEHIND_SNAPSHOT, SNAPSHOT_AFTER_BYTES, Timings};
pub use types::Proposal;

type Core = openraft::Raft<types::TypeConfig, machine::Machine>;
type Metrics = openraft::RaftMetrics<types::TypeConfig>;

#[cfg(test)]
mod suite;
