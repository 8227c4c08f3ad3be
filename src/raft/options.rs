//! How one node's Raft is to run.

use std::{sync::Arc, time::Duration};

use openraft::{Config, SnapshotPolicy};
use tokio::runtime::Handle;

use super::{KEPT_BEHIND_SNAPSHOT, SNAPSHOT_AFTER_BYTES, StartError, Timings};
use crate::storage::Identity;

/// A learner is taken to have caught up within this. More than lies between two snapshots never matters.
const LAG_MAX: u64 = 10_000_000;
/// Purging waits until it is worth a range deletion.
const PURGE_BATCH: u64 = 5_000;
/// Records in one append to a follower; bytes bound it too (see `log.rs`).
const APPEND_MAX_RECORDS: u64 = 1_024;
/// Proposals, appends and votes that wait for the core.
const CORE_QUEUE_MAX: u64 = 4_096;
/// How long a leader that lost its quorum keeps silent, and then tries, in turns: so that its followers can elect another
/// one in its silence. A follower whose log was once found shorter than another's waits twice the longest election
/// timeout before it stands for election, beside the leader's lease and a timeout of its own.
const QUORUM_PROBE: Duration = Duration::from_millis(2_000);
/// The same, in election timeouts, and what the election itself takes.
const QUORUM_PROBE_ELECTIONS: u32 = 4;
const ELECTION_TAKES: Duration = Duration::from_millis(200);

/// How one node's Raft is to run.
#[derive(Clone, Debug)]
pub struct RaftOptions {
    /// Which node of which cluster this is.
    pub identity: Identity,
    /// How soon a silent leader is replaced.
    pub timings: Timings,
    /// Log records that are kept behind a snapshot, so that a follower that was away for a while needs no transfer.
    pub kept_behind_snapshot: u64,
    /// A snapshot is due after so many bytes of log, or as many as the last one has, whichever is more.
    pub snapshot_after_bytes: u64,
    /// Where all of it runs: threads of its own, so that the load of clients can't delay a heartbeat.
    pub runtime: Handle,
}

impl RaftOptions {
    /// The usual ones.
    #[must_use]
    pub fn new(identity: Identity, runtime: Handle) -> Self {
        Self {
            identity,
            timings: Timings::default(),
            kept_behind_snapshot: KEPT_BEHIND_SNAPSHOT,
            snapshot_after_bytes: SNAPSHOT_AFTER_BYTES,
            runtime,
        }
    }
}

/// openraft's settings. What is not named here is as the library has it.
pub(super) fn config(options: &RaftOptions) -> Result<Arc<Config>, StartError> {
    let millis = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
    let Timings {
        heartbeat,
        election_min,
        election_max,
    } = options.timings;
    let config = Config {
        cluster_name: options.identity.cluster_id.to_string(),
        heartbeat_interval: millis(heartbeat),
        election_timeout_min: millis(election_min),
        election_timeout_max: millis(election_max),
        // Resuming a term without a vote after a restart loses acknowledged writes: the log may end before records
        // that the followers acknowledged in that term.
        enable_leader_restore: Some(false),
        // A node that can't win must not depose a leader that works.
        enable_pre_vote: Some(true),
        // A leader that can send but not receive must fall silent, or its followers could never replace it.
        quorum_loss_probe_interval: Some(millis(
            QUORUM_PROBE.max(QUORUM_PROBE_ELECTIONS * election_max + ELECTION_TAKES),
        )),
        // Snapshots are triggered by this room, by bytes and renewals.
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: options.kept_behind_snapshot,
        replication_lag_threshold: LAG_MAX,
        purge_batch_size: PURGE_BATCH.min(options.kept_behind_snapshot / 2 + 1),
        max_payload_entries: APPEND_MAX_RECORDS,
        api_channel_size: Some(CORE_QUEUE_MAX),
        // A node whose log went back is quarantined (see `quarantine.rs`), never taken back in silence.
        allow_log_reversion: Some(false),
        ..Config::default()
    };
    config
        .validate()
        .map(Arc::new)
        .map_err(|error| StartError::Timings(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ClusterId, NodeId, NodeName};

    /// What openraft lets a follower wait at the most before it stands for election, in longest election timeouts: the
    /// leader's lease, twice the longest timeout if its log was once found shorter than another's, and the timeout.
    const ELECTIONS_UNTIL_A_CANDIDATE: u32 = 1 + 2 + 1;

    #[test]
    fn a_leader_without_a_quorum_is_silent_for_as_long_as_an_election_may_take() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        for election_max in [450, 800, 3_000].map(Duration::from_millis) {
            let identity = Identity {
                cluster_id: ClusterId::new(1).unwrap(),
                node_id: NodeId(1),
                name: NodeName::parse("n1").unwrap(),
            };
            let options = RaftOptions {
                timings: Timings {
                    election_min: election_max * 2 / 3,
                    election_max,
                    ..Timings::default()
                },
                ..RaftOptions::new(identity, runtime.handle().clone())
            };
            let silent = config(&options).unwrap().quorum_loss_probe_interval.unwrap();
            let wanted = ELECTIONS_UNTIL_A_CANDIDATE * election_max;
            assert!(
                u128::from(silent) > wanted.as_millis(),
                "{silent} ms after {election_max:?}"
            );
        }
    }
}
