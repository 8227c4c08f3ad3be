//! `roster server` and `roster dev`: the only commands that need the server's rooms. The settings themselves, with
//! their flags and environment, are `config`'s; what runs is `server`'s.

use std::path::PathBuf;

use clap::{Args, builder::BoolishValueParser};
use serde_json::json;

use super::{failure::Failure, output::Output};
use crate::{
    config::Settings,
    server::{self, DEV_NODES_MAX, DevOptions, ServerError, ServerOptions},
};

/// What the embedded cluster logs.
#[derive(Args, Clone, Debug)]
struct LogArgs {
    /// What is logged: error, warn, info, debug, or a filter like info,roster::raft=debug
    #[arg(long, env = "ROSTER_LOG", value_name = "FILTER")]
    log: Option<String>,
    /// Log a JSON object a line
    #[arg(long, env = "ROSTER_LOG_JSON", value_parser = BoolishValueParser::new())]
    log_json: bool,
}

/// Runs one node of a cluster
///
/// Each setting is a flag, an environment variable ROSTER_* and a key of the TOML file of --config; flags win over the
/// environment, that over the file. SIGTERM ends it in order: watches are told, leadership is handed over.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  roster server --name n1 --data-dir /var/lib/roster \\
      --client-addr 127.0.0.1:7400 --peer-addr 127.0.0.1:7500 \\
      --initial-cluster n1=127.0.0.1:7500,n2=127.0.0.1:7501,n3=127.0.0.1:7502
  roster server --config /etc/roster.toml --check")]
pub(super) struct ServerArgs {
    #[command(flatten)]
    settings: Settings,
    /// A TOML file with what flags and environment do not say
    #[arg(long, env = "ROSTER_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Check the configuration and end
    #[arg(long)]
    check: bool,
}

/// Runs a whole cluster in one process, to play with
///
/// Prints its endpoints once all nodes serve. Ctrl-C ends it.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  roster dev
  roster dev --nodes 3 --data-dir ./roster-data")]
pub(super) struct DevArgs {
    /// How many nodes
    #[arg(long, default_value_t = 1, value_parser = nodes)]
    nodes: usize,
    /// Where to keep the data [default: a temporary folder, gone in the end]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// The first node's client port, the others follow; 0 = whatever is free
    #[arg(long, value_name = "PORT", default_value_t = 7400)]
    port: u16,
    #[command(flatten)]
    log: LogArgs,
}

fn nodes(text: &str) -> Result<usize, String> {
    let count = text.parse().ok().filter(|count| (1..=DEV_NODES_MAX).contains(count));
    count.ok_or_else(|| format!("{text:?} is not 1 to {DEV_NODES_MAX}"))
}

impl From<ServerError> for Failure {
    fn from(error: ServerError) -> Self {
        match error {
            ServerError::Config(error) => Self::Usage(error.to_string()),
            error => Self::Failed(error.to_string()),
        }
    }
}

impl ServerArgs {
    /// Runs the node until it is told to stop.
    pub(super) fn run(self, output: &mut Output) -> Result<(), Failure> {
        let check = self.check;
        server::run(ServerOptions {
            settings: self.settings,
            config: self.config,
            check,
        })?;
        if check {
            output.line("the configuration is good")?;
        }
        Ok(())
    }
}

impl DevArgs {
    /// Runs the cluster until it is told to stop.
    pub(super) fn run(self, output: &mut Output) -> Result<(), Failure> {
        let options = DevOptions {
            nodes: self.nodes,
            data_dir: self.data_dir,
            port: self.port,
            log: self.log.log,
            log_json: self.log.log_json,
        };
        let mut told = Ok(());
        server::run_dev(&options, |endpoints| told = tell(output, endpoints))?;
        // That nobody reads the endpoints does not end the cluster.
        match told {
            Err(Failure::ClosedPipe) => Ok(()),
            told => told,
        }
    }
}

fn tell(output: &mut Output, endpoints: &[String]) -> Result<(), Failure> {
    if output.is_json() {
        output.line(&json!({ "endpoints": endpoints }).to_string())?;
    } else {
        output.line(&format!("export ROSTER_ENDPOINTS={}", endpoints.join(",")))?;
        output.note("the cluster serves; Ctrl-C ends it");
    }
    output.flush()
}
