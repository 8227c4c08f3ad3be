//! `roster bench`: what a cluster can do, measured.
//!
//! It owns the workloads, the tasks that make them, and what is found. All clients live in this process and call the
//! API through its generated stubs, without the client library's retries: what a node answers is what is counted. An
//! operation counts when it was sent after the warm-up; each task measures for itself, and all is merged in the end.
//! What a run registers has names of that run alone, and goes with it.
//!
//! | file | holds |
//! |---|---|
//! | `run` | a run: beginning, progress, interruption, cleaning up |
//! | `measure` | when tasks count what they do, what they and the servers' processes came to, the JSON of it |
//! | `closed_loop`, `clients` | the clients of a workload; clients that look on |
//! | `target`, `shared_lease` | connections to the nodes; leases to register under |
//! | `sample` | the record that is registered |
//! | `print`, `trouble` | the table; what went wrong, in a word |
//! | the others | a workload each |

mod batch_register;
mod clients;
mod closed_loop;
mod expiry;
mod failover;
mod keepalive;
mod list;
pub mod measure;
mod memory;
mod options;
mod print;
mod register;
mod register_shared;
mod run;
mod sample;
mod shared_lease;
mod target;
mod trouble;
mod watch;

use clap::Subcommand;

pub use self::sample::sample;
use self::{
    batch_register::BatchRegisterBench, expiry::ExpiryBench, failover::FailoverBench, keepalive::KeepaliveBench,
    list::ListBench, memory::MemoryBench, register::RegisterBench, register_shared::RegisterSharedBench,
    watch::WatchBench,
};
use super::{failure::Failure, session::Session};

/// The workloads.
#[derive(Subcommand, Debug)]
pub(super) enum BenchCommand {
    Register(RegisterBench),
    RegisterShared(RegisterSharedBench),
    BatchRegister(BatchRegisterBench),
    #[command(visible_alias = "keep-alive")]
    Keepalive(KeepaliveBench),
    List(ListBench),
    Watch(WatchBench),
    Expiry(ExpiryBench),
    Failover(FailoverBench),
    Memory(MemoryBench),
}

impl BenchCommand {
    pub(super) async fn run(self, session: &mut Session) -> Result<(), Failure> {
        match self {
            Self::Register(args) => args.run(session).await,
            Self::RegisterShared(args) => args.run(session).await,
            Self::BatchRegister(args) => args.run(session).await,
            Self::Keepalive(args) => args.run(session).await,
            Self::List(args) => args.run(session).await,
            Self::Watch(args) => args.run(session).await,
            Self::Expiry(args) => args.run(session).await,
            Self::Failover(args) => args.run(session).await,
            Self::Memory(args) => args.run(session).await,
        }
    }
}
