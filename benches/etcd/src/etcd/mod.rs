//! One workload against an etcd cluster.
//!
//! What a workload does is what etcd's users do for the same end: a registration is a grant of a lease and a put under
//! it, a list is a range over a prefix, a watch is a watch of a prefix. Calls go through the `etcd-client` crate, but
//! for renewals: there many leases share a stream, which etcd's service can do and that crate cannot.

mod clients;
mod expiry;
mod failover;
mod keepalive;
mod keys;
mod list;
mod memory;
mod register;
mod run;
mod target;
mod watch;

use clap::{Args, Subcommand, ValueEnum};

use self::run::Run;
use crate::problem::Problem;

/// Drives an etcd cluster through one workload, and prints what `roster bench -o json` prints
#[derive(Args, Debug)]
pub(crate) struct EtcdArgs {
    #[command(subcommand)]
    workload: Workload,
    #[command(flatten)]
    common: Common,
}

#[derive(Subcommand, Debug)]
enum Workload {
    /// Grants a lease and puts a key under it, each time
    Register(register::Register),
    /// Puts keys under a lease that they share
    RegisterShared(register::RegisterShared),
    /// Keeps leases alive over streams
    Keepalive(keepalive::Keepalive),
    /// Lists the keys of a prefix
    List(list::List),
    /// Watches a prefix while writers change it
    Watch(watch::Watch),
    /// Lets many leases end together
    Expiry(expiry::Expiry),
    /// Finds the longest time without an acknowledgement when the leader is killed
    Failover(failover::Failover),
    /// Measures the growth of the servers' memory
    Memory(memory::Memory),
}

/// Which nodes are called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum To {
    Leader,
    Follower,
    All,
}

/// What every workload takes.
#[derive(Args, Debug)]
struct Common {
    /// The nodes' client addresses
    #[arg(long, value_delimiter = ',', global = true)]
    endpoints: Vec<String>,
    /// Which of them are called
    #[arg(long, value_enum, default_value = "all", global = true)]
    to: To,
    /// How many connections, by turns to the nodes that are called [default: one for 16 clients, but at least one for
    /// each node]
    #[arg(long, global = true)]
    connections: Option<usize>,
    /// The servers' processes
    #[arg(long, value_delimiter = ',', global = true)]
    server_pids: Vec<u32>,
    /// How long is measured, in seconds
    #[arg(long, default_value_t = 10, global = true)]
    seconds: u64,
    /// How long it runs before that, in seconds
    #[arg(long, default_value_t = 2, global = true)]
    warmup: u64,
}

impl EtcdArgs {
    pub(crate) async fn run(self) -> Result<(), Problem> {
        let Self { workload, common } = self;
        if common.endpoints.is_empty() {
            return Err(Problem("--endpoints: name the nodes' client addresses".into()));
        }
        let clients = match &workload {
            Workload::Register(args) => args.clients,
            Workload::RegisterShared(args) => args.clients,
            Workload::Keepalive(args) => args.streams,
            Workload::List(args) => args.clients,
            Workload::Watch(args) => args.writers,
            Workload::Expiry(args) => 2 * args.clients,
            Workload::Failover(args) => 2 * args.clients,
            Workload::Memory(args) => args.clients,
        };
        let run = Run::begin(common, clients).await?;
        let report = match workload {
            Workload::Register(args) => args.measure(&run).await?,
            Workload::RegisterShared(args) => args.measure(&run).await?,
            Workload::Keepalive(args) => args.measure(&run).await?,
            Workload::List(args) => args.measure(&run).await?,
            Workload::Watch(args) => args.measure(&run).await?,
            Workload::Expiry(args) => args.measure(&run).await?,
            Workload::Failover(args) => args.measure(&run).await?,
            Workload::Memory(args) => args.measure(&run).await?,
        };
        println!("{}", report.object());
        match report.broken {
            Some(broken) => Err(Problem(broken)),
            None => Ok(()),
        }
    }
}
