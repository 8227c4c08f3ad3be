//! What is measured on both sides, and what of it Roster is held to.

/// One workload.
pub(super) struct Row {
    /// Its name on the command line.
    pub(super) id: &'static str,
    /// What it is, for people.
    pub(super) what: &'static str,
    /// After `roster bench`.
    pub(super) roster: &'static [&'static str],
    pub(super) beside: Beside,
    pub(super) figures: &'static [Figure],
}

/// What Roster is compared with.
pub(super) enum Beside {
    /// etcd doing the same: the words after `bench-etcd etcd`.
    Etcd(&'static [&'static str]),
    /// etcd's result of another row: it has nothing that does this.
    EtcdOf(&'static str),
    /// Roster's own result of another row.
    RosterOf(&'static str),
    /// Nothing: the figure has to hold by itself.
    Nothing,
}

/// One figure of a result.
pub(super) struct Figure {
    pub(super) name: &'static str,
    pub(super) unit: Unit,
    /// Where it stands in Roster's result, as a JSON pointer; the mean of a list.
    pub(super) roster: &'static str,
    /// Where in the other's.
    pub(super) other: &'static str,
    pub(super) goal: Goal,
}

#[derive(Clone, Copy)]
pub(super) enum Unit {
    PerSecond,
    Us,
    Bytes,
    Count,
}

/// What Roster is to reach.
#[derive(Clone, Copy)]
pub(super) enum Goal {
    /// So many times the other's.
    AtLeast(f64),
    AtMost(f64),
    /// By itself.
    Within(f64),
    /// It is shown.
    None,
}

const fn same(name: &'static str, unit: Unit, path: &'static str, goal: Goal) -> Figure {
    Figure {
        name,
        unit,
        roster: path,
        other: path,
        goal,
    }
}

const fn rate(goal: Goal) -> Figure {
    same("rate", Unit::PerSecond, "/per_second", goal)
}

const fn p99(goal: Goal) -> Figure {
    same("p99", Unit::Us, "/p99_us", goal)
}

const fn cpu(goal: Goal) -> Figure {
    same("server CPU each", Unit::Us, "/server/cpu_us_per_operation", goal)
}

/// A third, a sixth.
const THIRD: Goal = Goal::AtMost(0.334);
const SIXTH: Goal = Goal::AtMost(0.167);

/// All of them, in the order in which they run.
pub(super) const ROWS: &[Row] = &[
    Row {
        id: "register-1",
        what: "register, 1 caller at the leader",
        roster: &["register", "--clients", "1", "--to", "leader"],
        beside: Beside::Etcd(&["register", "--clients", "1", "--to", "leader"]),
        figures: &[rate(Goal::AtLeast(3.0)), p99(THIRD), cpu(SIXTH)],
    },
    Row {
        id: "register-1-follower",
        what: "register, 1 caller at a follower",
        roster: &["register", "--clients", "1", "--to", "follower"],
        beside: Beside::Etcd(&["register", "--clients", "1", "--to", "follower"]),
        figures: &[rate(Goal::AtLeast(3.0)), p99(THIRD), cpu(SIXTH)],
    },
    Row {
        id: "register-16",
        what: "register, 16 callers",
        roster: &["register", "--clients", "16"],
        beside: Beside::Etcd(&["register", "--clients", "16"]),
        figures: &[rate(Goal::AtLeast(6.0)), p99(THIRD), cpu(SIXTH)],
    },
    Row {
        id: "register-128",
        what: "register, 128 callers",
        roster: &["register", "--clients", "128"],
        beside: Beside::Etcd(&["register", "--clients", "128"]),
        figures: &[rate(Goal::AtLeast(8.0)), p99(THIRD), cpu(SIXTH)],
    },
    Row {
        id: "shared-1",
        what: "register under a shared lease, 1 caller at the leader",
        roster: &["register-shared", "--clients", "1", "--to", "leader"],
        beside: Beside::Etcd(&["register-shared", "--clients", "1", "--to", "leader"]),
        figures: &[rate(Goal::AtLeast(1.5)), p99(Goal::None), cpu(Goal::None)],
    },
    Row {
        id: "shared-1-follower",
        what: "register under a shared lease, 1 caller at a follower",
        roster: &["register-shared", "--clients", "1", "--to", "follower"],
        beside: Beside::Etcd(&["register-shared", "--clients", "1", "--to", "follower"]),
        figures: &[rate(Goal::AtLeast(1.5)), p99(Goal::None), cpu(Goal::None)],
    },
    Row {
        id: "shared-16",
        what: "register under a shared lease, 16 callers",
        roster: &["register-shared", "--clients", "16"],
        beside: Beside::Etcd(&["register-shared", "--clients", "16"]),
        figures: &[rate(Goal::AtLeast(3.0)), p99(Goal::None), cpu(Goal::None)],
    },
    Row {
        id: "shared-128",
        what: "register under a shared lease, 128 callers",
        roster: &["register-shared", "--clients", "128"],
        beside: Beside::Etcd(&["register-shared", "--clients", "128"]),
        figures: &[rate(Goal::AtLeast(4.0)), p99(Goal::None), cpu(Goal::None)],
    },
    Row {
        id: "batch",
        what: "batch-register, 100 in a call, 16 callers; etcd: register, 16 callers",
        roster: &["batch-register", "--batch", "100", "--clients", "16"],
        beside: Beside::EtcdOf("register-16"),
        figures: &[Figure {
            name: "instances",
            unit: Unit::PerSecond,
            roster: "/instances_per_second",
            other: "/per_second",
            goal: Goal::AtLeast(40.0),
        }],
    },
    Row {
        id: "keepalive-leader",
        what: "keep-alive at the leader, 10,000 leases, 16 streams, one id in a message",
        roster: &["keepalive", "--to", "leader"],
        beside: Beside::Etcd(&["keepalive", "--to", "leader"]),
        figures: &[rate(Goal::AtLeast(1.0)), p99(Goal::None), cpu(Goal::None)],
    },
    Row {
        id: "keepalive-follower",
        what: "keep-alive at followers, the same",
        roster: &["keepalive", "--to", "follower"],
        beside: Beside::Etcd(&["keepalive", "--to", "follower"]),
        figures: &[rate(Goal::AtLeast(5.0)), p99(Goal::None), cpu(Goal::None)],
    },
    Row {
        id: "keepalive-all",
        what: "keep-alive over all nodes, the same",
        roster: &["keepalive", "--to", "all"],
        beside: Beside::Etcd(&["keepalive", "--to", "all"]),
        figures: &[rate(Goal::AtLeast(2.0)), p99(Goal::None), cpu(Goal::None)],
    },
    Row {
        id: "keepalive-100",
        what: "keep-alive at the leader, 100 ids in a message; etcd: one, at its leader",
        roster: &["keepalive", "--to", "leader", "--ids-per-message", "100"],
        beside: Beside::EtcdOf("keepalive-leader"),
        figures: &[rate(Goal::AtLeast(5.0)), cpu(Goal::None)],
    },
    Row {
        id: "list-linearizable",
        what: "list of 100, linearizable, 16 callers",
        roster: &["list", "--consistency", "linearizable"],
        beside: Beside::Etcd(&["list", "--consistency", "linearizable"]),
        figures: &[rate(Goal::AtLeast(4.0)), p99(Goal::None), cpu(Goal::None)],
    },
    Row {
        id: "list-stale",
        what: "list of 100, stale (etcd: serializable), 16 callers",
        roster: &["list", "--consistency", "stale"],
        beside: Beside::Etcd(&["list", "--consistency", "serializable"]),
        figures: &[rate(Goal::AtLeast(4.0)), p99(Goal::None), cpu(Goal::None)],
    },
    Row {
        id: "watch-none",
        what: "16 writers that nobody watches",
        roster: &["watch", "--watchers", "0", "--writers", "16"],
        beside: Beside::Etcd(&["watch", "--watchers", "0", "--writers", "16"]),
        figures: &[rate(Goal::None), cpu(Goal::None)],
    },
    Row {
        id: "watch",
        what: "16 writers, 1,000 watchers on 16 streams and connections",
        roster: &[
            "watch",
            "--watchers",
            "1000",
            "--writers",
            "16",
            "--streams",
            "16",
            "--connections",
            "16",
        ],
        beside: Beside::Etcd(&[
            "watch",
            "--watchers",
            "1000",
            "--writers",
            "16",
            "--streams",
            "16",
            "--connections",
            "16",
        ]),
        figures: &[
            same("delivered", Unit::PerSecond, "/per_second", Goal::AtLeast(3.0)),
            p99(Goal::AtMost(0.5)),
            cpu(Goal::None),
            same("writes", Unit::PerSecond, "/write/per_second", Goal::None),
            same("lost", Unit::Count, "/lost_events", Goal::Within(0.0)),
            same("doubled", Unit::Count, "/doubled_events", Goal::Within(0.0)),
        ],
    },
    Row {
        id: "watch-paced",
        what: "100 writes a second, 1,000 watchers",
        roster: &[
            "watch",
            "--watchers",
            "1000",
            "--writers",
            "16",
            "--rate",
            "100",
            "--streams",
            "16",
            "--connections",
            "16",
        ],
        beside: Beside::Nothing,
        figures: &[
            p99(Goal::None),
            same("lost", Unit::Count, "/lost_events", Goal::Within(0.0)),
        ],
    },
    Row {
        id: "failover",
        what: "a leader is killed: the longest time without an acknowledgement, median of 5",
        roster: &["failover", "--rounds", "5"],
        beside: Beside::Etcd(&["failover", "--rounds", "5"]),
        figures: &[
            same("write", Unit::Us, "/write_gap_median_us", Goal::AtMost(0.5)),
            same("renewal", Unit::Us, "/renewal_gap_median_us", Goal::AtMost(0.5)),
        ],
    },
    Row {
        id: "expiry-1000",
        what: "1,000 leases end together: how late they go",
        roster: &["expiry", "--leases", "1000"],
        beside: Beside::Etcd(&["expiry", "--leases", "1000"]),
        figures: &[p99(THIRD)],
    },
    Row {
        id: "expiry-10000",
        what: "10,000 leases end together: when the last has gone, and others' renewals",
        roster: &["expiry", "--leases", "10000", "--ttl", "20s"],
        beside: Beside::Etcd(&["expiry", "--leases", "10000", "--ttl", "20"]),
        figures: &[
            same("last gone after", Unit::Us, "/last_gone_after_us", Goal::Within(1e6)),
            same("renewals before, p99", Unit::Us, "/renew_before/p99_us", Goal::None),
            same(
                "renewals meanwhile, p99",
                Unit::Us,
                "/renew_meanwhile/p99_us",
                Goal::None,
            ),
        ],
    },
    Row {
        id: "expiry-100000",
        what: "100,000 leases end together",
        roster: &["expiry", "--leases", "100000", "--ttl", "60s"],
        beside: Beside::Nothing,
        figures: &[
            same("last gone after", Unit::Us, "/last_gone_after_us", Goal::Within(5e6)),
            same("renewals before, p99", Unit::Us, "/renew_before/p99_us", Goal::None),
            same(
                "renewals meanwhile, p99",
                Unit::Us,
                "/renew_meanwhile/p99_us",
                Goal::None,
            ),
        ],
    },
    Row {
        id: "memory",
        what: "100,000 instances with a lease each",
        roster: &["memory", "--instances", "100000", "--keep"],
        beside: Beside::Etcd(&["memory", "--instances", "100000"]),
        figures: &[
            same(
                "memory of an instance on a node",
                Unit::Bytes,
                "/resident_bytes_per_instance",
                Goal::AtMost(0.35),
            ),
            same("on disk, all nodes", Unit::Bytes, "/disk_bytes", Goal::None),
            same("one node's restart", Unit::Us, "/restart_one_us", Goal::AtMost(0.5)),
            same("all nodes' restart", Unit::Us, "/restart_all_us", Goal::AtMost(0.5)),
        ],
    },
    Row {
        id: "watch-cost",
        what: "what 1,000 watchers cost 16 writers",
        roster: &[
            "watch",
            "--watchers",
            "1000",
            "--writers",
            "16",
            "--streams",
            "16",
            "--connections",
            "16",
        ],
        beside: Beside::RosterOf("watch-none"),
        figures: &[Figure {
            name: "writes, of those without",
            unit: Unit::PerSecond,
            roster: "/write/per_second",
            other: "/per_second",
            goal: Goal::AtLeast(0.8),
        }],
    },
];
