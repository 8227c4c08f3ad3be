//! Recording clients: what a cluster is used for while it is harmed.
//!
//! Each is one future, generic over how connections are opened, driven by a seed, and without a thread or a clock of
//! its own: it runs against real processes as well as in a simulation. It asks the cluster through the bare stubs of
//! `roster::wire`, one attempt at a time, so that each attempt is recorded as what it was; only [`Kind::LibraryUser`]
//! goes through `roster::client`, which tries again by itself, and records what can be told from outside.
//!
//! | file | what it holds |
//! |---|---|
//! | `link` | a cluster's nodes and the channels to them |
//! | `session` | one client: its chance, its node, its calls, each recorded |
//! | `send` | from a recorded request to the wire's, and from the wire's answer to a recorded one |
//! | `verdict` | what a failed call says: rejected, failed, or unknown |
//! | `content` | what the clients register, and what they select |
//! | `renewals` | a KeepAlive stream: every message of it is a call |
//! | `steps` | a watch's messages, gathered to recorded steps |
//! | `registrar` … `library` | a file for each kind |

mod agent;
mod content;
mod editor;
mod final_reads;
mod library;
mod link;
mod many;
mod mover;
mod reader;
mod reads;
mod registrar;
mod renewals;
mod renewer;
mod send;
mod session;
mod steps;
mod verdict;
mod watcher;
mod zombie;

#[cfg(test)]
mod tests;

use std::{ops::Range, time::Duration};

use roster::{client::Clock, transport::Connector};
use tokio_util::sync::CancellationToken;

use crate::recorder::Recorder;
use session::Session;

pub use final_reads::final_reads;
pub use link::{Target, node_sample, node_status};
pub use mover::grant_mover;

/// What a client does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Instances with leases of their own, renewed by unary renewals and by the same Register again; new lives,
    /// take-overs, deregisters, and lives that are left to expire.
    Registrar,
    /// Shared leases with many instances, batches, a KeepAlive stream; revoked, or left to expire.
    Agent,
    /// Reads a record and changes it, with and without the revision that it expects.
    Editor,
    /// Linearizable and stale reads, records and lists of several pages, on all nodes.
    Reader,
    /// One watch at a time, resumed on any node; some read slowly.
    Watcher,
    /// Many watches on one stream.
    ManyWatcher,
    /// Registers, watches and looks up through the client library.
    LibraryUser,
    /// Writes of lives that are over.
    Zombie,
    /// Many leases pipelined on one stream, some of them abandoned.
    Renewer,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Registrar,
        Self::Agent,
        Self::Editor,
        Self::Reader,
        Self::Watcher,
        Self::ManyWatcher,
        Self::LibraryUser,
        Self::Zombie,
        Self::Renewer,
    ];

    /// A mixture in which every checker has work, `clients` of them; the first nine are one of each.
    #[must_use]
    pub fn mixture(clients: usize) -> Vec<Self> {
        let again = [
            Self::Registrar,
            Self::Reader,
            Self::Watcher,
            Self::Registrar,
            Self::Editor,
            Self::Watcher,
        ];
        Self::ALL
            .into_iter()
            .chain(again.into_iter().cycle())
            .take(clients)
            .collect()
    }
}

/// How clients behave.
#[derive(Clone, Debug)]
pub struct Options {
    /// Every choice of a client comes from this and its number.
    pub seed: u64,
    /// The pause between two calls.
    pub think: Range<Duration>,
    /// Of leases.
    pub ttl: Range<Duration>,
    /// How many services there are.
    pub services: u32,
    /// How many instances of a service many clients contend for.
    pub shared_ids: u32,
    /// How many instances a shared lease holds.
    pub lease_instances: Range<u32>,
    /// How many leases a Renewer keeps alive.
    pub renewer_leases: u32,
    /// How long most calls may take; some are given more, for a node's own limit of 5 s is to be met too.
    pub deadline: Range<Duration>,
    /// How long a slow watcher does not read.
    pub slow: Range<Duration>,
    /// By what the client library measures time: in a simulation, by the runtime's.
    pub library_clock: Clock,
}

impl Default for Options {
    fn default() -> Self {
        let ms = Duration::from_millis;
        Self {
            seed: 0,
            think: ms(2)..ms(60),
            ttl: ms(1_000)..ms(3_000),
            services: 6,
            shared_ids: 6,
            lease_instances: 3..25,
            renewer_leases: 60,
            deadline: ms(500)..ms(3_000),
            slow: ms(500)..ms(4_000),
            library_clock: Clock::default(),
        }
    }
}

/// One client, until it is stopped; a call that is under way then is ended first, which its deadline bounds. The
/// harness spawns the future. It records everything and fails never: what it meets is what the checkers judge.
///
/// `number` is the client's in the history, unique in the run.
pub async fn run_client(
    kind: Kind,
    number: u32,
    target: Target,
    options: Options,
    recorder: Recorder,
    stop: CancellationToken,
) {
    let session = Session::new(number, target, options, recorder, stop);
    match kind {
        Kind::Registrar => registrar::run(session).await,
        Kind::Agent => agent::run(session).await,
        Kind::Editor => editor::run(session).await,
        Kind::Reader => reader::run(session).await,
        Kind::Watcher => watcher::run(session).await,
        Kind::ManyWatcher => many::run(session).await,
        Kind::LibraryUser => library::run(session).await,
        Kind::Zombie => zombie::run(session).await,
        Kind::Renewer => renewer::run(session).await,
    }
}

/// What opens TCP connections.
#[must_use]
pub fn tcp() -> Connector {
    Connector::default()
}
