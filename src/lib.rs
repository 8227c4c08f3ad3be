//! Roster: a service registry that replicates lease-based instance records through Raft.
//!
//! Each room below opens with what it owns, promises and never does; `ARCHITECTURE.md` draws how they stand to each
//! other. Imports point down only.

// First: its macros are seen by what follows.
#[macro_use]
mod plant;

#[cfg(feature = "server")]
mod blocking;
pub mod cli;
pub mod client;
#[cfg(feature = "server")]
pub mod config;
pub mod lease_clock;
pub mod model;
#[cfg(feature = "server")]
pub mod node;
#[cfg(feature = "server")]
pub mod peer;
#[cfg(feature = "server")]
pub mod raft;
pub mod registry;
#[cfg(feature = "server")]
pub mod server;
#[cfg(feature = "server")]
pub mod service;
#[cfg(feature = "server")]
pub mod storage;
#[cfg(feature = "server")]
pub mod telemetry;
pub mod transport;
pub mod watch;
pub mod wire;
