//! `roster health`: for probes.

use std::time::Duration;

use clap::Args;
use tonic_health::pb::health_check_response::ServingStatus;

use super::{failure::Failure, session::Session};
use crate::client::{Client, Options};

/// How long a node may take: a probe that hangs is no probe.
const TIMEOUT: Duration = Duration::from_secs(2);
/// The health service's name for "it would answer a linearizable read".
const READY: &str = "roster.v1.Registry";

/// Says whether a node is healthy, by its exit code
///
/// Asks the first endpoint only, once, for at most 2s (or --timeout): 0 = yes, 1 = it says no, 3 = it does not answer.
/// Without --ready it asks whether the process and its disk work, with or without a quorum: restart a node on that.
/// With --ready it asks whether it would answer a linearizable read: send traffic on that, and never restart on it.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  roster health --endpoints 127.0.0.1:7400
  roster health --ready --endpoints 127.0.0.1:7400")]
pub(super) struct HealthArgs {
    /// Whether it would answer a linearizable read, too
    #[arg(long)]
    ready: bool,
}

impl HealthArgs {
    pub(super) async fn run(self, session: &mut Session) -> Result<(), Failure> {
        let options = Options {
            timeout: session.timeout.unwrap_or(TIMEOUT),
            unavailable_patience: Duration::ZERO,
            unreachable_patience: Duration::ZERO,
            connect_timeout: session.timeout.unwrap_or(TIMEOUT),
            spread: false,
            ..session.client.options().clone()
        };
        let endpoint = session.client.endpoints().first().clone();
        let node = Client::new(endpoint.clone().into(), options);
        let service = if self.ready { READY } else { "" };
        let response = node.health(service).await?;
        let status = response.status();
        if session.output.is_json() {
            let object = serde_json::json!({ "status": status.as_str_name() });
            session.output.line(&object.to_string())?;
        } else {
            session.output.line(status.as_str_name())?;
        }
        if status == ServingStatus::Serving {
            Ok(())
        } else {
            let what = if self.ready { "ready" } else { "healthy" };
            Err(Failure::Failed(format!("{endpoint} is not {what}")))
        }
    }
}
