//! Proven under faults: records what clients see while a cluster is harmed, and checks it against the promises.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test stops at the first surprise"))]

#[allow(dead_code, unreachable_pub, unused_imports, reason = "each part uses its share")]
mod history;
#[allow(dead_code, unreachable_pub, reason = "each part uses its share")]
mod recorder;
#[allow(dead_code, unreachable_pub, unused_imports, reason = "each part uses its share")]
mod traffic;

fn main() {}
