//! Proven under faults: records what clients see while a cluster is harmed, and checks it against the promises.

#[allow(dead_code, reason = "the checkers come next")]
mod history;

fn main() {}
