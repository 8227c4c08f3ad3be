//! Real processes: `roster server` with RocksDB on disks of their own, every link through a proxy that can harm it.
//!
//! | file | what it holds |
//! |---|---|
//! | `network/` | the proxies: who talks to whom, and what becomes of it on the way |
//! | `disk` | a file system for each node, in a file: frozen, full, or without power |
//! | `server`, `cluster` | a process; three or five of them with their disks and proxies |
//! | `harm` | what can be done and taken back again |
//! | `scenarios`, `stories/` | harms in order, by name; `random` overlaps them |
//! | `stage` | one run, from a new cluster to the evidence |
//! | `machine` | whether the machine kept time, so that times can be demanded |
//! | `witness` | a node's committed log, read from its disk |
//! | `injections` | whether a scenario made those that it is named after |
//! | `gaps`, `findings` | for how long nothing was acknowledged, and what is too long; the summary |
//! | `work` | what one cluster goes through, and what it must show |
//! | `campaign`, `ledger` | run after run, what is printed, what is kept; a line for each campaign |
//!
//! The tool cleans up however it ends: processes die with it, disks are thawed and unmounted by `Drop`, and what a
//! kill -9 of the tool leaves behind `scripts/faults` clears away.

mod campaign;
mod cluster;
mod disk;
pub(crate) mod findings;
pub(crate) mod gaps;
mod harm;
mod injections;
pub(crate) mod ledger;
pub(crate) mod machine;
mod network;
mod random;
mod scenarios;
mod server;
pub(crate) mod shell;
mod stage;
mod stories;
pub(crate) mod witness;
mod work;

pub(crate) use campaign::{Arguments, run, say};
