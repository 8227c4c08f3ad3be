//! Assembly: from a configuration to a running node, and down again.
//!
//! Owns the process: runtimes, listeners, signals, the order of start and stop. It decides nothing about the
//! registry. Raft has a runtime of its own, so that no load of API calls can delay a heartbeat.

mod assemble;
mod dev;
mod disk;
mod fatal;
mod files;
mod http;
mod introducer;
mod listener;
mod metrics;
mod opened;
mod ports;
mod switch;

use std::{path::PathBuf, time::Duration};

use tokio::runtime::{Builder, Runtime};

pub use self::dev::{DEV_NODES_MAX, DevOptions, run_dev};
use self::{assemble::RunningNode, ports::Listeners};
use crate::{
    config::{Config, ConfigError, Settings},
    telemetry,
};

/// Threads that Raft and the peer port run on, if there are processors enough. More would only wake each other: one
/// thing after another is all that Raft does.
const RAFT_THREADS_MAX: usize = 2;
/// Processors for one of those threads; clients get the others.
const PROCESSORS_PER_RAFT_THREAD: usize = 4;
/// What a runtime may still take to stop after everything in it was told to.
const RUNTIME_STOP_MAX: Duration = Duration::from_secs(1);
/// What a shutdown in order may take; with the runtimes' own end it stays below 10 s.
const SHUTDOWN_MAX: Duration = Duration::from_secs(7);

/// What `roster server` was asked for.
#[derive(Clone, Debug, Default)]
pub struct ServerOptions {
    /// Flags and environment.
    pub settings: Settings,
    /// A TOML file with what they don't say.
    pub config: Option<PathBuf>,
    /// Only check the configuration.
    pub check: bool,
}

/// Why a server did not start, or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The configuration won't do.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The log could not be started.
    #[error("{0}")]
    Telemetry(String),
    /// The system refused a thread, a signal handler, a folder.
    #[error("{what}: {error}")]
    System {
        /// What was wanted.
        what: String,
        /// What it said.
        #[source]
        error: std::io::Error,
    },
    /// An address can't be listened on.
    #[error("--{setting} {address}: {problem}")]
    Listen {
        /// Which address.
        setting: &'static str,
        /// Its text.
        address: String,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// The data directory can't be used.
    #[error(transparent)]
    Data(#[from] crate::storage::OpenError),
    /// The data directory is another node's.
    #[error("{0}")]
    Identity(String),
    /// The node can't join its cluster.
    #[error(transparent)]
    Bootstrap(#[from] crate::node::bootstrap::BootstrapError),
    /// Raft could not start from what is stored.
    #[error(transparent)]
    Raft(#[from] crate::raft::StartError),
    /// The running node met an error after which it may not go on.
    #[error("the node stopped: {0}")]
    Fatal(String),
}

impl ServerError {
    fn system(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |error| Self::System { what, error }
    }
}

/// Runs a node until it is told to stop. Blocks.
///
/// # Errors
/// Why it did not start, or had to stop.
pub fn run(options: ServerOptions) -> Result<(), ServerError> {
    let settings = match &options.config {
        Some(path) => options.settings.over(Settings::read(path)?),
        None => options.settings,
    };
    let (log, log_json) = (settings.log.clone(), settings.log_json.unwrap_or(false));
    let config = settings.check()?;
    if options.check {
        config.check_initial_cluster()?;
        return telemetry::check(log.as_deref()).map_err(ServerError::Telemetry);
    }
    telemetry::start(log.as_deref(), log_json).map_err(ServerError::Telemetry)?;
    telemetry::abort_on_panic();
    files::raise_limit();
    let runtimes = Runtimes::new()?;
    let result = runtimes.api.block_on(run_node(&config, &runtimes));
    runtimes.stop();
    result
}

/// The process's threads.
struct Runtimes {
    api: Runtime,
    raft: Runtime,
}

impl Runtimes {
    fn new() -> Result<Self, ServerError> {
        let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let raft_threads = (processors / PROCESSORS_PER_RAFT_THREAD).clamp(1, RAFT_THREADS_MAX);
        let api = Builder::new_multi_thread()
            .enable_all()
            .worker_threads(processors.saturating_sub(raft_threads).max(1))
            .thread_name("api")
            .build();
        let raft = Builder::new_multi_thread()
            .enable_all()
            .worker_threads(raft_threads)
            .thread_name("raft")
            .build();
        Ok(Self {
            api: api.map_err(ServerError::system("could not start threads"))?,
            raft: raft.map_err(ServerError::system("could not start threads"))?,
        })
    }

    fn stop(self) {
        self.api.shutdown_timeout(RUNTIME_STOP_MAX);
        self.raft.shutdown_timeout(RUNTIME_STOP_MAX);
    }
}

async fn run_node(config: &Config, runtimes: &Runtimes) -> Result<(), ServerError> {
    // Handlers first: a signal that comes during the start must end it in order, too.
    let mut signals = Signals::new()?;
    let listeners = Listeners::bind(config).await?;
    tracing::info!(
        node = %config.name,
        client_addr = %listeners.client_address,
        peer_addr = %listeners.peer_address,
        data_dir = %config.data_dir.display(),
        version = env!("CARGO_PKG_VERSION"),
        "starting"
    );
    let running = tokio::select! {
        running = RunningNode::start(config, listeners, runtimes.raft.handle()) => running?,
        signal = signals.next() => {
            tracing::info!(signal, "stopped before the node had joined its cluster");
            return Ok(());
        }
    };
    let mut fatal = running.fatal();
    let result = tokio::select! {
        signal = signals.next() => {
            tracing::info!(signal, "shutting down");
            Ok(())
        }
        reason = fatal.wait_for(Option::is_some) => {
            let reason = reason.ok().and_then(|reason| reason.clone()).unwrap_or_else(|| "Raft ended".to_owned());
            tracing::error!(reason, "the node can't go on");
            Err(ServerError::Fatal(reason))
        }
    };
    if result.is_ok()
        && tokio::time::timeout(SHUTDOWN_MAX, running.shut_down(true))
            .await
            .is_err()
    {
        tracing::warn!("the shutdown took too long; ending without waiting further");
    }
    tracing::info!("stopped");
    result
}

/// The signals that end a node.
struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> Result<Self, ServerError> {
        use tokio::signal::unix::{SignalKind, signal};
        let handler = |kind| signal(kind).map_err(ServerError::system("could not handle signals"));
        Ok(Self {
            terminate: handler(SignalKind::terminate())?,
            interrupt: handler(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
