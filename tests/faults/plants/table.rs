//! The table of plants: what each breaks, how it is switched on, who must find it, and how soon.

use super::{Harness, Plant};

/// A simulated run with the usual faults; so many seeds at the most.
const fn simulation(seeds: u32) -> Harness {
    Harness::Simulation { seeds }
}

/// Real processes with these faults only; so many seconds at the most.
const fn processes(faults: &'static str, seconds: u32) -> Harness {
    Harness::Processes { faults, seconds }
}

/// A directed test by its name.
const fn directed(test: &'static str) -> Harness {
    Harness::Directed { test }
}

/// Switched on always, on every node.
const ALWAYS: &str = "return";

/// All plants. `caught_by`: one of these checkers must say it, whatever the others say.
#[rustfmt::skip] // a table reads best with a plant's line in one place
pub(crate) const PLANTS: &[Plant] = &[
    // Reads.
    Plant { name: "read-passes-no-barrier", breaks: "a stale read is served as linearizable", actions: ALWAYS, harness: simulation(20), caught_by: &["I4a", "I4b"] },
    Plant { name: "read-index-of-an-earlier-round", breaks: "a read is answered by a round that began before it came", actions: ALWAYS, harness: simulation(40), caught_by: &["I4a", "I4b"] },
    Plant { name: "age-too-young", breaks: "stale answers claim to be fresher than they are", actions: ALWAYS, harness: processes("isolate-follower", 600), caught_by: &["I6"] },
    Plant { name: "vouches-for-any-leader", breaks: "a node vouches for a leader that does not have its vote", actions: ALWAYS, harness: directed("a_node_vouches_for_its_votes_leadership_only"), caught_by: &["a_node_vouches_for_its_votes_leadership_only"] },
    Plant { name: "page-of-another-revision", breaks: "the pages of one list show several revisions", actions: ALWAYS, harness: simulation(40), caught_by: &["I4a", "I4b"] },
    Plant { name: "page-of-another-revision", breaks: "the next page of a list shows what was written since the first", actions: ALWAYS, harness: directed("a_list_goes_on_where_it_began"), caught_by: &["a_list_goes_on_where_it_began"] },
    // Writes.
    Plant { name: "unknown-called-not-applied", breaks: "a write that may have been appended is said to be not applied, and tried again", actions: ALWAYS, harness: simulation(40), caught_by: &["I2"] },
    Plant { name: "applied-differently", breaks: "two nodes apply an entry differently", actions: "5%return", harness: simulation(20), caught_by: &["R3"] },
    Plant { name: "applied-again-after-restart", breaks: "after a crash the end of the snapshot is applied twice", actions: ALWAYS, harness: simulation(40), caught_by: &["R3", "R2", "R1", "I1"] },
    Plant { name: "revision-from-the-records", breaks: "the revision goes back when a node restarts or installs a snapshot", actions: ALWAYS, harness: simulation(40), caught_by: &["R1", "R2", "R3"] },
    Plant { name: "snapshot-half-installed", breaks: "a snapshot is installed for the readers, not for apply", actions: ALWAYS, harness: simulation(40), caught_by: &["R3", "R2", "R1", "I4a", "I4b"] },
    // Durability.
    Plant { name: "append-acknowledged-before-sync", breaks: "an acknowledged write is lost: its fsync is not awaited", actions: ALWAYS, harness: simulation(60), caught_by: &["D1", "D2", "I2", "I1"] },
    Plant { name: "vote-not-persisted", breaks: "a vote is cast before it is on the disk", actions: ALWAYS, harness: directed("a_granted_vote_survives_a_power_cut"), caught_by: &["a_granted_vote_survives_a_power_cut"] },
    Plant { name: "append-acknowledged-before-sync", breaks: "a node that is a quorum by itself answers before its sync", actions: ALWAYS, harness: directed("what_is_answered_is_on_the_disk"), caught_by: &["what_is_answered_is_on_the_disk"] },
    Plant { name: "log-sync-skipped", breaks: "the log's writer skips its syncs", actions: ALWAYS, harness: directed("what_is_confirmed_was_synced"), caught_by: &["what_is_confirmed_was_synced"] },
    Plant { name: "log-sync-skipped", breaks: "an acknowledged write is lost in a power cut of all nodes", actions: ALWAYS, harness: processes("power-cut-all", 180), caught_by: &["D1", "I2", "I1"] },
    Plant { name: "write-error-ignored", breaks: "a failed sync is shrugged off", actions: ALWAYS, harness: processes("sync-error", 120), caught_by: &["fsync-error-ends-the-node", "D1"] },
    Plant { name: "lost-log-accepted", breaks: "a node that lost what it had acknowledged is taken back in silence", actions: ALWAYS, harness: processes("rolled-back", 180), caught_by: &["rolled-back-is-noticed", "D1"] },
    Plant { name: "snapshot-not-synced", breaks: "a snapshot is not synced before the log behind it is purged", actions: ALWAYS, harness: directed("a_snapshot_survives_a_power_cut"), caught_by: &["a_snapshot_survives_a_power_cut"] },
    // Leases.
    Plant { name: "renewal-acknowledged-before-commit", breaks: "a leader confirms renewals before they are committed", actions: ALWAYS, harness: simulation(40), caught_by: &["L1", "L3"] },
    Plant { name: "stamp-leaps-after-pause", breaks: "after a pause of all nodes the lease clock makes up for it", actions: ALWAYS, harness: processes("pause-all", 300), caught_by: &["L1"] },
    Plant { name: "stamp-leaps-after-pause", breaks: "the lease clock makes up for a pause", actions: ALWAYS, harness: directed("a_pause_is_no_leap_of_lease_time"), caught_by: &["a_pause_is_no_leap_of_lease_time"] },
    Plant { name: "clock-ahead-at-election", breaks: "leases end early when the leader changes", actions: ALWAYS, harness: simulation(20), caught_by: &["L1"] },
    Plant { name: "ttls-begin-anew-at-election", breaks: "each election gives all leases their time again", actions: ALWAYS, harness: simulation(20), caught_by: &["L2"] },
    Plant { name: "lease-clock-too-slow", breaks: "leases end too late", actions: ALWAYS, harness: simulation(40), caught_by: &["L2"] },
    Plant { name: "lease-outlives-its-deadline", breaks: "leases outlive the deadline that the log gives them", actions: ALWAYS, harness: simulation(20), caught_by: &["L4", "I4a"] },
    Plant { name: "ended-lease-renewed", breaks: "the renewal of a lease that has ended is confirmed", actions: ALWAYS, harness: simulation(20), caught_by: &["L3"] },
    Plant { name: "instance-outlives-its-lease", breaks: "an instance is left behind by its lease", actions: ALWAYS, harness: simulation(20), caught_by: &["L2", "L4", "L5", "I4a", "I4b"] },
    Plant { name: "lease-ends-in-parts", breaks: "the instances of a lease leave in several revisions", actions: ALWAYS, harness: simulation(20), caught_by: &["L4", "I1", "I4a", "I4b", "W5"] },
    Plant { name: "forward-of-another-term", breaks: "a leader takes what was forwarded to its former term", actions: ALWAYS, harness: directed("a_forward_of_another_term_is_refused"), caught_by: &["a_forward_of_another_term_is_refused"] },
    // Availability.
    Plant { name: "forward-refused", breaks: "a follower refuses one call in ten, though all is well", actions: "10%return", harness: simulation(60), caught_by: &["A1"] },
    Plant { name: "read-passes-no-barrier", breaks: "a node without a quorum answers linearizable reads", actions: ALWAYS, harness: simulation(60), caught_by: &["A2"] },
    Plant { name: "later-leader-proposes-nothing", breaks: "a cluster takes no writes after its first leader changes", actions: ALWAYS, harness: simulation(20), caught_by: &["A3"] },
    // Fencing.
    Plant { name: "zombie-not-fenced", breaks: "a zombie overwrites its successor", actions: ALWAYS, harness: simulation(20), caught_by: &["N2", "N3"] },
    Plant { name: "ended-life-not-fenced", breaks: "an ended life comes back", actions: ALWAYS, harness: simulation(40), caught_by: &["N1", "N3"] },
    // Watches.
    Plant { name: "resume-loses-a-change", breaks: "a change is dropped at a resume", actions: ALWAYS, harness: simulation(20), caught_by: &["W4", "W6"] },
    Plant { name: "resume-repeats-a-revision", breaks: "a change is given twice at a resume", actions: ALWAYS, harness: simulation(20), caught_by: &["W3", "W12"] },
    Plant { name: "resume-changes-the-order", breaks: "changes are reordered at a resume", actions: ALWAYS, harness: simulation(20), caught_by: &["W2"] },
    Plant { name: "progress-ahead-of-changes", breaks: "progress runs ahead of its changes", actions: ALWAYS, harness: simulation(20), caught_by: &["W7"] },
    Plant { name: "revision-in-parts", breaks: "one revision is given in parts", actions: ALWAYS, harness: simulation(20), caught_by: &["W5"] },
    Plant { name: "selector-forgotten", breaks: "a watch is given what its selector does not match", actions: ALWAYS, harness: simulation(20), caught_by: &["W1"] },
    Plant { name: "compaction-not-noticed", breaks: "a watch is resumed where the history is gone, as if nothing were missing", actions: ALWAYS, harness: simulation(40), caught_by: &["W6", "W4"] },
    Plant { name: "watch-falls-silent", breaks: "a watch lives on and gives nothing more", actions: ALWAYS, harness: directed("a_watch_is_given_what_is_acknowledged"), caught_by: &["a_watch_is_given_what_is_acknowledged"] },
    Plant { name: "watch-age-not-judged", breaks: "a watch of a node that is cut off lives on", actions: ALWAYS, harness: simulation(200), caught_by: &["W11"] },
    Plant { name: "uncommitted-change-delivered", breaks: "watchers are given what was only proposed", actions: ALWAYS, harness: simulation(20), caught_by: &["W10", "W9"] },
];
