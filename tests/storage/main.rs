//! Storage on a real disk: what is confirmed comes back; damage is found; a failing disk is never trusted again.
#![cfg(feature = "server")]

// `cfg(test)` tells clippy that helper functions in here are tests too.
#[cfg(test)]
mod damage;
#[cfg(test)]
mod directory;
#[cfg(test)]
mod failure;
#[cfg(test)]
mod log;
#[cfg(test)]
mod snapshot;
#[cfg(test)]
mod support;
