//! The API as clients meet it, against real processes: streams, pages, errors, endings.
#![cfg(feature = "server")]

mod abuse;
mod basics;
mod bench;
mod endings;
mod ex_leaders;
mod extremes;
mod freshness;
mod harness;
mod leases;
mod lists;
#[path = "../loopback/mod.rs"]
mod loopback;
mod many;
mod quiet;
mod support;
mod watching;
