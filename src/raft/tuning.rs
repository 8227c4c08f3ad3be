//! What of Raft a node's configuration may set.

use std::time::Duration;

/// Log records that are kept behind a snapshot, if nothing else is asked for.
pub const KEPT_BEHIND_SNAPSHOT: u64 = 100_000;
/// Bytes of log after which a snapshot is due, if nothing else is asked for.
pub const SNAPSHOT_AFTER_BYTES: u64 = 8 << 20;

/// How soon a silent leader is replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timings {
    /// How often the leader is heard at the least.
    pub heartbeat: Duration,
    /// After the leader's lease has ended, a follower waits so long at the least …
    pub election_min: Duration,
    /// … and so long at the most. It is also the leader's lease.
    pub election_max: Duration,
}

impl Default for Timings {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(100),
            election_min: Duration::from_millis(300),
            election_max: Duration::from_millis(450),
        }
    }
}
