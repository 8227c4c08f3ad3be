//! The whole command line as a type, and the way from it to the command that it names.

use std::{process::ExitCode, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};

#[cfg(feature = "server")]
use super::server::{DevArgs, ServerArgs};
use super::{
    bench::BenchCommand,
    cluster::ClusterCommand,
    completion::CompletionArgs,
    edit::{DeregisterArgs, GetArgs, UpdateArgs},
    failure::Failure,
    health::HealthArgs,
    lease::LeaseCommand,
    list::ListArgs,
    output::Output,
    register::RegisterArgs,
    resolve::ResolveArgs,
    run::RunArgs,
    services::{NamespacesArgs, ServicesArgs},
    session::{Exit, Session},
    values,
    wait::WaitArgs,
    watch::WatchArgs,
};
use crate::client::{DEFAULT_ENDPOINTS, Endpoints};

/// How results are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// Aligned columns.
    #[default]
    Table,
    /// The same with more columns.
    Wide,
    /// One JSON object a line.
    Json,
}

/// What every command that talks to a cluster takes.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Global options")]
pub(super) struct Global {
    /// Where the cluster is, tried in turn; a port alone belongs to the host before it
    #[arg(
        long,
        global = true,
        value_name = "HOST:PORT,…",
        env = "ROSTER_ENDPOINTS",
        default_value = DEFAULT_ENDPOINTS
    )]
    pub(super) endpoints: Endpoints,
    /// The namespace [default: default]
    #[arg(long, short, global = true, value_name = "NAME", env = "ROSTER_NAMESPACE")]
    pub(super) namespace: Option<String>,
    /// How results are printed
    #[arg(long, short, global = true, value_enum, value_name = "FORMAT", default_value_t)]
    pub(super) output: Format,
    /// How long a call may take, all attempts together [default: 10s; health: 2s]
    #[arg(long, global = true, value_name = "SPAN", value_parser = values::wait)]
    pub(super) timeout: Option<Duration>,
}

/// Roster: a service registry that replicates leases through Raft.
#[derive(Parser, Debug)]
#[command(
    name = "roster",
    version,
    about = "A service registry: services register and keep alive, everyone else lists and watches",
    after_help = "\
Examples:
  roster dev --nodes 3                          a whole cluster in one process, to play with
  roster run web --port 8080 -- ./server        registered for as long as ./server runs
  roster list web --serving                     who provides it
  roster watch web                              who comes and goes

Exit codes:
  0 done   1 refused or failed   2 usage   3 unavailable: no leader, no quorum, no connection
  4 outcome unknown: the write may have been applied"
)]
pub struct Arguments {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    #[cfg(feature = "server")]
    Server(Box<ServerArgs>),
    #[cfg(feature = "server")]
    Dev(DevArgs),
    Register(Box<RegisterArgs>),
    Run(Box<RunArgs>),
    Deregister(DeregisterArgs),
    Update(UpdateArgs),
    Get(GetArgs),
    List(ListArgs),
    Watch(WatchArgs),
    Services(ServicesArgs),
    Namespaces(NamespacesArgs),
    Resolve(ResolveArgs),
    Wait(WaitArgs),
    /// Grants, renews, keeps alive, revokes and shows leases
    #[command(subcommand)]
    Lease(LeaseCommand),
    /// Shows the cluster's nodes and how they do
    #[command(subcommand)]
    Cluster(ClusterCommand),
    Health(HealthArgs),
    /// Measures what a cluster can do
    #[command(subcommand)]
    Bench(Box<BenchCommand>),
    Completion(CompletionArgs),
}

impl Arguments {
    /// Runs the command and says how the process exits.
    pub(super) fn run(self) -> ExitCode {
        let Self { global, command } = self;
        let mut output = Output::of_process(global.output);
        let result = match command {
            #[cfg(feature = "server")]
            Command::Server(args) => args.run(&mut output),
            #[cfg(feature = "server")]
            Command::Dev(args) => args.run(&mut output),
            Command::Completion(args) => args.run(&mut output),
            command => return talk(&global, command, output),
        };
        finish(output, result.map(|()| Exit::DONE))
    }
}

/// Runs a command that talks to a cluster, on a runtime of its own.
fn talk(global: &Global, command: Command, output: Output) -> ExitCode {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    // Not on one thread alone: a terminal that stops reading must not stop the renewals in the background. A bench
    // takes a thread for each processor.
    if !matches!(command, Command::Bench(_)) {
        runtime.worker_threads(2);
    }
    let runtime = runtime.enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            let failure = Failure::Failed(format!("cannot start the runtime: {error}"));
            return finish(output, Err(failure));
        }
    };
    runtime.block_on(async {
        let mut session = Session::new(global, output);
        let result = dispatch(command, &mut session).await;
        finish(session.output, result)
    })
}

async fn dispatch(command: Command, session: &mut Session) -> Result<Exit, Failure> {
    match command {
        Command::Register(args) => args.run(session).await,
        Command::Run(args) => return args.run(session).await,
        Command::Deregister(args) => args.run(session).await,
        Command::Update(args) => args.run(session).await,
        Command::Get(args) => args.run(session).await,
        Command::List(args) => args.run(session).await,
        Command::Watch(args) => args.run(session).await,
        Command::Services(args) => args.run(session).await,
        Command::Namespaces(args) => args.run(session).await,
        Command::Resolve(args) => args.run(session).await,
        Command::Wait(args) => args.run(session).await,
        Command::Lease(command) => command.run(session).await,
        Command::Cluster(command) => command.run(session).await,
        Command::Health(args) => args.run(session).await,
        Command::Bench(command) => command.run(session).await,
        Command::Completion(_) => unreachable!("runs without a session"),
        #[cfg(feature = "server")]
        Command::Server(_) | Command::Dev(_) => unreachable!("runs without a session"),
    }
    .map(|()| Exit::DONE)
}

/// Writes out what is left and, after a failure, what went wrong.
fn finish(mut output: Output, result: Result<Exit, Failure>) -> ExitCode {
    let result = result.and_then(|exit| output.flush().map(|()| exit));
    match result {
        Ok(exit) => exit.into(),
        Err(failure) => {
            output.failure(&failure);
            ExitCode::from(failure.exit_code())
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_definition_of_the_command_line_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn every_command_has_help_with_an_example() {
        fn check(command: &clap::Command, path: &str) {
            for sub in command.get_subcommands() {
                let path = format!("{path} {}", sub.get_name());
                if sub.has_subcommands() {
                    check(sub, &path);
                    continue;
                }
                assert!(sub.get_about().is_some(), "{path} has no help");
                let after = sub.get_after_help().map(ToString::to_string).unwrap_or_default();
                assert!(after.contains("Examples:"), "{path} has no examples");
                assert!(after.contains("  roster "), "{path} has no examples");
            }
        }
        check(&Arguments::command(), "roster");
    }

    #[test]
    fn global_options_stand_before_and_after_the_command() {
        for words in [["roster", "-o", "json", "list"], ["roster", "list", "-o", "json"]] {
            let arguments = Arguments::try_parse_from(words).expect("good");
            assert_eq!(arguments.global.output, Format::Json);
        }
    }

    #[test]
    fn what_contradicts_itself_is_refused() {
        for words in [
            &["roster", "register", "web", "--ttl", "5s", "--permanent"][..],
            &["roster", "register", "web", "--lease", "3", "--hold"],
            &["roster", "register"],
            &["roster", "run", "web"],
            &["roster", "list", "--all", "--prefix", "a"],
            &["roster", "list", "--endpoints", "::1"],
            &["roster", "list", "--timeout", "10"],
            &["roster", "wait", "web"],
            &["roster", "list", "-o", "yaml"],
        ] {
            let error = Arguments::try_parse_from(words).expect_err("contradiction");
            assert_eq!(error.exit_code(), 2, "{words:?}");
        }
    }
}
