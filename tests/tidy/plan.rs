//! The plan of the house: which room may name which, and what it never names. ARCHITECTURE.md draws it.

/// One room of `src/`.
pub(crate) struct Room {
    /// The module under the crate's root.
    pub(crate) name: &'static str,
    /// The rooms that it may name. Imports point down only.
    pub(crate) imports: &'static [&'static str],
    /// What it never names: crates, or items by their path.
    pub(crate) never: &'static [&'static str],
}

/// Time comes in as an argument, and chance not at all: the same log makes the same state on every node.
const PURE: &[&str] = &[
    "tokio",
    "tonic",
    "openraft",
    "rocksdb",
    "rand",
    "tracing",
    "std::time::Instant",
    "std::time::SystemTime",
    "std::fs",
    "std::net::TcpStream",
    "std::net::TcpListener",
    "std::net::UdpSocket",
    "std::net::ToSocketAddrs",
    "std::thread",
    "std::env",
];

/// From the bottom up.
#[rustfmt::skip] // a table reads best with a room's rules in one place
pub(crate) const ROOMS: &[Room] = &[
    // The macros that mark where a test build may be broken: below everything, and nothing in a build without them.
    Room { name: "plant", imports: &[], never: PURE },
    Room { name: "model", imports: &[], never: PURE },
    Room { name: "blocking", imports: &[], never: &["tonic", "openraft", "rocksdb", "rand", "std::fs"] },
    Room { name: "registry", imports: &["model"], never: PURE },
    Room { name: "lease_clock", imports: &["model"], never: PURE },
    Room {
        name: "wire",
        imports: &["model", "registry"],
        never: &["tokio", "openraft", "rocksdb", "rand", "std::time::Instant", "std::fs", "std::net::TcpStream"],
    },
    Room { name: "storage", imports: &["model"], never: &["tonic", "openraft", "tokio::net"] },
    Room { name: "transport", imports: &[], never: &["openraft", "rocksdb", "rand", "std::time::Instant", "std::fs"] },
    Room { name: "watch", imports: &["model", "registry"], never: &["tonic", "openraft", "rocksdb", "tokio::net"] },
    Room { name: "peer", imports: &["model", "wire", "transport"], never: &["openraft", "rocksdb"] },
    Room {
        name: "raft",
        imports: &["blocking", "model", "registry", "wire", "storage", "watch", "peer"],
        never: &["rocksdb"],
    },
    Room {
        name: "node",
        imports: &["blocking", "model", "registry", "lease_clock", "wire", "watch", "peer", "raft"],
        never: &["tonic", "openraft", "rocksdb"],
    },
    Room {
        name: "service",
        imports: &["blocking", "model", "registry", "wire", "watch", "peer", "node"],
        never: &["openraft", "rocksdb"],
    },
    Room { name: "client", imports: &["model", "wire", "transport"], never: &["openraft", "rocksdb"] },
    // A setting ends as the option of the room that it sets.
    Room { name: "config", imports: &["model", "raft"], never: &["tonic", "openraft", "rocksdb"] },
    Room { name: "telemetry", imports: &["model"], never: &["openraft", "rocksdb"] },
    Room {
        name: "server",
        imports: &[
            "model", "registry", "lease_clock", "wire", "storage", "transport", "watch", "peer", "raft", "node",
            "service", "config", "telemetry",
        ],
        never: &["openraft", "rocksdb"],
    },
    Room {
        name: "cli",
        imports: &["model", "wire", "client", "config", "telemetry", "server"],
        never: &["openraft", "rocksdb"],
    },
];

/// What a tiny `main` may call.
pub(crate) const MAIN_IMPORTS: &[&str] = &["cli"];
