//! What a command works with: a client, a namespace, the output.

use std::{process::ExitCode, time::Duration};

use super::{arguments::Global, output::Output};
use crate::client::{Client, Options};

/// How long a call may take when nobody says otherwise.
const TIMEOUT: Duration = Duration::from_secs(10);

/// How a command that did not fail exits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Exit(pub(super) u8);

impl Exit {
    pub(super) const DONE: Self = Self(0);
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.0)
    }
}

/// One command's surroundings.
pub(super) struct Session {
    pub(super) client: Client,
    /// As given; `None` is the namespace `default`.
    pub(super) namespace: Option<String>,
    /// As given.
    pub(super) timeout: Option<Duration>,
    pub(super) output: Output,
}

impl Session {
    pub(super) fn new(global: &Global, output: Output) -> Self {
        let options = Options {
            timeout: global.timeout.unwrap_or(TIMEOUT),
            // People expect the first endpoint to be asked first.
            spread: false,
            ..Options::default()
        };
        Self {
            client: Client::new(global.endpoints.clone(), options),
            namespace: global.namespace.clone(),
            timeout: global.timeout,
            output,
        }
    }

    /// The namespace's name in a request.
    pub(super) fn namespace(&self) -> String {
        self.namespace.clone().unwrap_or_default()
    }
}
