//! `roster wait`: until enough of a service serves.

use std::time::Duration;

use clap::Args;
use tokio::time::Instant;

use super::{failure::Failure, session::Session, spans};
use crate::{
    client::{Error, WatchEvent, Watcher},
    wire::v1::{self, selector::Scope},
};

/// How long is waited when nobody says otherwise.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Nobody waits longer, and no clock counts further than some of what may be asked for.
const TIMEOUT_MAX: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Waits until so many instances of a service serve
///
/// For at most --timeout [default: 10s]; too few by then is a failure (exit code 1), no cluster is exit code 3.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  roster wait db --count 1 --timeout 1m && ./migrate
  roster wait web --count 3")]
pub(super) struct WaitArgs {
    /// The service
    service: String,
    /// How many
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    count: u32,
}

impl WaitArgs {
    pub(super) async fn run(self, session: &mut Session) -> Result<(), Failure> {
        let request = v1::WatchRequest {
            selector: Some(v1::Selector {
                namespace: session.namespace(),
                serving: true,
                scope: Some(Scope::Services(v1::Services {
                    names: vec![self.service.clone()],
                })),
                ..Default::default()
            }),
            ..Default::default()
        };
        let timeout = session.timeout.unwrap_or(TIMEOUT);
        let deadline = Instant::now() + timeout.min(TIMEOUT_MAX);
        let count = usize::try_from(self.count).unwrap_or(usize::MAX);
        let mut watcher = Watcher::new(session.client.clone(), request);
        let mut trouble: Option<Error> = None;
        let mut header = None;
        loop {
            let event = match tokio::time::timeout_at(deadline, watcher.next()).await {
                Ok(event) => event?,
                Err(_) => return Err(self.too_few(&watcher, trouble, timeout)),
            };
            if let WatchEvent::Step(step) = &event {
                header = step.messages.last().and_then(|message| message.header.clone());
            }
            match event {
                WatchEvent::Step(_) if watcher.view().len() >= count => break,
                WatchEvent::Interrupted(error) => trouble = Some(error),
                WatchEvent::Step(_) | WatchEvent::Progress(_) | WatchEvent::Resumed(_) => trouble = None,
            }
        }
        let serving: Vec<v1::Instance> = watcher
            .view()
            .instances()
            .map(|instance| v1::Instance::clone(instance))
            .collect();
        if session.output.is_json() {
            // What was waited for, as a list would show it.
            let response = v1::ListResponse {
                header,
                instances: serving,
                position: watcher.position().cloned(),
                ..Default::default()
            };
            return session.output.message("ListResponse", &response);
        }
        session
            .output
            .line(&format!("{} of {} serve", serving.len(), self.service))
    }

    fn too_few(&self, watcher: &Watcher, trouble: Option<Error>, timeout: Duration) -> Failure {
        // Nothing was seen, or nothing can be seen any more: it is not known how many there are.
        if let Some(error) = trouble {
            return error.into();
        }
        if watcher.position().is_none() {
            return Failure::Unavailable(format!(
                "no node has said how many of {} serve within {}",
                self.service,
                spans::exact(timeout)
            ));
        }
        Failure::Failed(format!(
            "{} of {} serve after {}, not {}; wait longer with --timeout",
            watcher.view().len(),
            self.service,
            spans::exact(timeout),
            self.count
        ))
    }
}
