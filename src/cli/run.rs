//! `roster run`: a command that is registered for as long as it runs.
//!
//! Two things go on side by side, and neither waits for the other: the command (started, sent signals, waited for)
//! and its presence in the registry (address, registration, STARTING to UP). The command decides when it is over.

use std::{convert::Infallible, ffi::OsString, sync::Arc, time::Duration};

use clap::Args;

use super::{
    address::local_address,
    failure::Failure,
    instance::{InstanceArgs, key_text},
    process::{self, PassedOn},
    ready,
    register::{Teller, name},
    session::{Exit, Session},
    spans,
    values::place,
};
use crate::{
    client::{Error, Registration, RegistrationState},
    wire::v1::{self, instance::Status},
};

/// How often the local address is looked for while the cluster's names do not resolve.
const ADDRESS_INTERVAL: Duration = Duration::from_secs(1);
/// How long deregistering may take once the command has ended: its supervisor waits.
const DEREGISTER_MAX: Duration = Duration::from_secs(5);
/// The TTL that is meant when none is named, for what is said about it.
const TTL_DEFAULT: Duration = Duration::from_secs(15);

/// Runs a command and registers it for as long as it runs
///
/// STARTING first, UP when its first port accepts connections, gone when the command ends, whatever way. INT, TERM, HUP,
/// QUIT, USR1 and USR2 are passed on; it exits as the command does (128 + N after signal N). The command is started even
/// when the cluster is away; registering goes on in the background, and again after a lost lease. Killed with -9, it can't
/// deregister: the instance is gone when its lease ends.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  roster run web --port 8080 -- python3 -m http.server 8080
  roster run web/a --port http=8080 --zone a --tag canary --require -- ./server --listen :8080
  roster run worker --no-wait -- ./worker")]
pub(super) struct RunArgs {
    #[command(flatten)]
    instance: InstanceArgs,
    /// UP at once, without waiting for the first port
    #[arg(long)]
    no_wait: bool,
    /// Do not start the command unless it can be registered
    #[arg(long)]
    require: bool,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

impl RunArgs {
    pub(super) async fn run(self, session: &mut Session) -> Result<Exit, Failure> {
        let mut signals = PassedOn::listen()?;
        let mut presence = self.presence(session)?;
        if self.require {
            let registered = tokio::select! {
                registered = presence.require(session) => registered,
                signal = signals.next_end() => {
                    presence.leave(session, &mut signals).await;
                    return Ok(process::exit_by(signal));
                }
            };
            registered?;
        }
        presence.look(session).await;
        let mut child = match process::start(&self.command) {
            Ok(child) => child,
            Err(failure) => {
                presence.leave(session, &mut signals).await;
                return Err(failure);
            }
        };
        let ended = tokio::select! {
            ended = process::supervise(&mut child, &mut signals) => ended,
            never = presence.keep(session) => match never {},
        };
        presence.leave(session, &mut signals).await;
        ended.map(process::exit_of)
    }

    fn presence(&self, session: &Session) -> Result<Presence, Failure> {
        let args = &self.instance;
        Ok(Presence {
            key: place(session.namespace.as_deref(), &args.service, args.id.as_deref())?,
            args: args.clone(),
            wait: !self.no_wait,
            door: None,
            up: false,
            registration: None,
            teller: Teller::default(),
        })
    }
}

/// The command's presence in the registry.
struct Presence {
    args: InstanceArgs,
    key: v1::InstanceKey,
    /// Whether UP waits for the first port.
    wait: bool,
    /// The port that is waited for.
    door: Option<(String, u16)>,
    /// Whether nothing is waited for any more.
    up: bool,
    registration: Option<Registration>,
    teller: Teller,
}

impl Presence {
    /// The record to begin with, once the address is known.
    async fn record(&mut self, session: &Session) -> Result<v1::Instance, String> {
        let address = match &self.args.address {
            Some(address) => address.clone(),
            None => local_address(session.client.endpoints()).await?.to_string(),
        };
        let mut instance = self.args.instance(self.key.clone(), &address);
        name(&mut instance);
        // One id for all attempts, also when it was made up.
        self.key = instance.key.clone().unwrap_or_default();
        self.door = if self.wait { ready::door(&instance) } else { None };
        self.up = self.door.is_none();
        if !self.up {
            instance.set_status(Status::Starting);
        }
        Ok(instance)
    }

    /// Registers before the command is started, or says why that can't be.
    async fn require(&mut self, session: &mut Session) -> Result<(), Failure> {
        let instance = self.record(session).await.map_err(|problem| {
            Failure::Unavailable(format!("{problem}; say where the instance is reached with --address"))
        })?;
        let started = Registration::start(session.client.clone(), instance, self.args.ttl).await;
        let (registration, _) = started?;
        self.registration = Some(registration);
        Ok(())
    }

    /// Looks at the door before the command is there to open it.
    async fn look(&mut self, session: &mut Session) {
        if self.registration.is_none() && self.args.address.is_some() {
            // Works out the door; the record is made again when it is registered.
            let known = self.record(session).await;
            tracing::trace!(?known, "the record to be");
        }
        if let Some(door) = &self.door
            && ready::is_open(door).await
        {
            session.output.note(&format!(
                "something accepts at {}:{} already; UP will not wait for the command",
                door.0, door.1
            ));
        }
    }

    /// Registers, tells how it goes, and turns STARTING into UP; until it is dropped.
    async fn keep(&mut self, session: &mut Session) -> Infallible {
        if self.registration.is_none() {
            let instance = self.record_at_last(session).await;
            self.registration = Some(Registration::begin(session.client.clone(), instance, self.args.ttl));
        }
        loop {
            let Some(registration) = &mut self.registration else {
                return std::future::pending().await;
            };
            let door = self.door.clone();
            let opened = async {
                match &door {
                    Some(door) if !self.up => ready::opened(door).await,
                    _ => std::future::pending().await,
                }
            };
            tokio::select! {
                () = opened => {
                    self.up = true;
                    let status = self.args.status.unwrap_or(Status::Up);
                    registration.update(|instance| instance.set_status(status));
                }
                state = registration.changed() => self.tell(session, &state),
            }
        }
    }

    /// Keeps looking for the local address: names may resolve later than the command starts.
    async fn record_at_last(&mut self, session: &mut Session) -> v1::Instance {
        let mut told = false;
        loop {
            match self.record(session).await {
                Ok(instance) => return instance,
                Err(problem) => {
                    if !std::mem::replace(&mut told, true) {
                        session
                            .output
                            .note(&format!("{problem}; not registered yet, trying on"));
                    }
                }
            }
            tokio::time::sleep(ADDRESS_INTERVAL).await;
        }
    }

    fn tell(&mut self, session: &mut Session, state: &RegistrationState) {
        if let RegistrationState::Held { response, .. } = state {
            let instance = response.instance.as_ref();
            let status = instance.map_or(Status::Unspecified, v1::Instance::status);
            let key = key_text(&self.key);
            session
                .output
                .note(&format!("{key} is registered, {}", status.as_str_name()));
            self.teller = Teller::default();
        } else {
            self.teller.tell(&mut session.output, state);
        }
    }

    /// Deregisters; a second signal, or too long a wait, leaves that to the lease.
    async fn leave(&mut self, session: &mut Session, signals: &mut PassedOn) {
        let Some(registration) = self.registration.take() else {
            return;
        };
        let ended = match registration.state() {
            RegistrationState::Ended(error) => Some(error),
            _ => None,
        };
        let closed = tokio::select! {
            closed = tokio::time::timeout(DEREGISTER_MAX, registration.close()) => closed,
            _ = signals.next_end() => Ok(Ok(v1::DeregisterResponse::default())),
        };
        let problem = match closed {
            Ok(Ok(_)) => return,
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {}", spans::exact(DEREGISTER_MAX)),
        };
        tracing::debug!(ended = ?ended.as_ref().map(Arc::<Error>::as_ref), "leaving");
        session.output.note(&format!(
            "could not deregister {}: {problem}; its lease ends within {}",
            key_text(&self.key),
            spans::exact(self.args.ttl.unwrap_or(TTL_DEFAULT))
        ));
    }
}
