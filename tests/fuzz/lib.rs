//! The targets as a library, so that libFuzzer's programs build them once.

mod targets;

// The mounted files find their house here.
use roster::{model, registry, wire};
use targets::raft;

/// Feeds a target; panics when a promise is broken.
pub fn run(target: &str, bytes: &[u8]) {
    targets::named(target).run(bytes);
}

/// Every target and its seeds.
pub fn seeds() -> Vec<(&'static str, Vec<Vec<u8>>)> {
    targets::TARGETS.iter().map(|target| (target.name, target.seeds())).collect()
}
