//! The API as clients meet it, against real processes: streams, pages, errors, endings.
#![cfg(feature = "server")]

mod abuse;
mod basics;
mod endings;
mod extremes;
mod harness;
mod leases;
mod lists;
mod many;
mod support;
mod watching;
