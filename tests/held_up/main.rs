//! Whole nodes in one process, whose answers and clients are held up on purpose: nobody waits longer than they said,
//! and nobody is told that an old view is fresh.
#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "what a test says is for whoever looks into a failure"
)]

mod harness;
#[allow(dead_code, reason = "some of it is for other tests")]
#[path = "../raft_harness/mod.rs"]
mod raft_harness;
mod reads;
mod renewals;
#[allow(dead_code, reason = "some of it is for other tests")]
#[path = "../service/support.rs"]
mod support;
mod watch_numbers;
mod watching;
