//! `roster register`.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use clap::Args;

use super::{
    address::local_address,
    failure::Failure,
    instance::{self, InstanceArgs},
    interrupt::Interrupts,
    output::Output,
    session::Session,
    spans,
    values::{lease_id, place},
};
use crate::{
    client::{Registration, RegistrationState},
    wire::{
        span::{span_from_proto, span_to_proto},
        v1::{self, register_request::Hold},
    },
};

/// How often `--hold` looks whether anyone still reads its output.
const READER_CHECK: Duration = Duration::from_secs(2);

/// Registers an instance
///
/// It lives as long as its lease, 15s after which it vanishes unless it is renewed: keep it alive with --hold, with
/// `roster run`, by registering it again or by `roster lease renew`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  roster register web --port 8080 --hold              keeps it alive until Ctrl-C, then deregisters it
  roster register web/1 --address 10.0.0.7 --port http=8080 --port grpc=9090 --zone a --tag canary
  roster register db --address db.example.com --port 5432 --permanent
  roster register web/1 --port 8080 --lease $(roster lease grant --ttl 30s -o json | jq -r .lease.leaseId)")]
pub(super) struct RegisterArgs {
    #[command(flatten)]
    instance: InstanceArgs,
    /// Hold it by this shared lease, granted before, instead of one of its own
    #[arg(long, value_name = "LEASE", value_parser = lease_id, conflicts_with_all = ["ttl", "permanent", "hold"])]
    lease: Option<i64>,
    /// Hold it by nothing: it stays until it is deregistered
    #[arg(long, conflicts_with_all = ["ttl", "hold"])]
    permanent: bool,
    /// Keep it alive until Ctrl-C, then deregister it
    #[arg(long)]
    hold: bool,
}

impl RegisterArgs {
    pub(super) async fn run(self, session: &mut Session) -> Result<(), Failure> {
        let args = &self.instance;
        let key = place(session.namespace.as_deref(), &args.service, args.id.as_deref())?;
        let address = match &args.address {
            Some(address) => address.clone(),
            None => local_address(session.client.endpoints())
                .await
                .map_err(|problem| {
                    Failure::Unavailable(format!("{problem}; say where the instance is reached with --address"))
                })?
                .to_string(),
        };
        let mut instance = args.instance(key, &address);
        if self.hold {
            name(&mut instance);
            return hold(session, instance, args.ttl).await;
        }
        let request = v1::RegisterRequest {
            instance: Some(instance),
            hold: Some(self.holding()),
            expected_mod_revision: None,
        };
        let response = session.client.register(request).await?;
        show(session, &response)?;
        tell_when_it_expires(session, &response);
        Ok(())
    }

    fn holding(&self) -> Hold {
        match self.lease {
            Some(lease_id) => Hold::LeaseId(lease_id),
            None if self.permanent => Hold::Permanent(true),
            None => Hold::OwnLease(v1::OwnLease {
                ttl: self.instance.ttl.map(span_to_proto),
            }),
        }
    }
}

/// Gives an instance that has none an id: one that is registered again and again must stay the same.
pub(super) fn name(instance: &mut v1::Instance) {
    let key = instance.key.get_or_insert_default();
    if key.id.is_empty() {
        key.id = format!("{:016x}", rand::random::<u64>());
    }
}

/// Prints what a Register did.
pub(super) fn show(session: &mut Session, response: &v1::RegisterResponse) -> Result<(), Failure> {
    if session.output.is_json() {
        return session.output.message("RegisterResponse", response);
    }
    let instance = response.instance.clone().unwrap_or_default();
    let key = instance.key.clone().unwrap_or_default();
    if session.output.is_wide() {
        let table = instance::table([&instance].into_iter(), true, true, SystemTime::now());
        return session.output.table(&table);
    }
    let did = match response.outcome() {
        v1::register_response::Outcome::Created => "created",
        v1::register_response::Outcome::Changed => "changed",
        v1::register_response::Outcome::Unchanged => "unchanged, lease renewed",
        v1::register_response::Outcome::TookOver => "took over",
        v1::register_response::Outcome::Unspecified => "done",
    };
    let held = if instance.lease_id == 0 {
        "permanent".to_owned()
    } else {
        format!("lease {}, ttl {}", instance.lease_id, instance::hold(&instance))
    };
    session.output.line(&format!(
        "registered {} at {} ({did}; {held}; revision {})",
        instance::key_text(&key),
        instance::endpoint(&instance),
        instance.mod_revision
    ))
}

fn tell_when_it_expires(session: &mut Session, response: &v1::RegisterResponse) {
    let Some(instance) = &response.instance else { return };
    let Some(ttl) = instance
        .ttl
        .and_then(span_from_proto)
        .filter(|_| instance.lease_id != 0)
    else {
        return;
    };
    session.output.note(&format!(
        "it expires in {} unless it is renewed: `roster lease renew {id}`, or `roster lease keep-alive {id}`, or \
         register with --hold",
        spans::exact(ttl),
        id = instance.lease_id,
    ));
}

/// Keeps the instance registered until a signal comes, then deregisters it.
async fn hold(session: &mut Session, instance: v1::Instance, ttl: Option<Duration>) -> Result<(), Failure> {
    let mut interrupts = Interrupts::listen()?;
    let started = tokio::select! {
        started = Registration::start(session.client.clone(), instance, ttl) => started,
        () = interrupts.next() => return Err(Failure::Unknown("interrupted before the cluster answered; the instance may be registered until its lease ends".into())),
    };
    let (mut registration, response) = started?;
    show(session, &response)?;
    session.output.flush()?;
    session.output.note("holding; Ctrl-C deregisters");
    let result = stay(session, &mut registration, response, &mut interrupts).await;
    let key = instance::key_text(registration.key());
    let deregistered = tokio::select! {
        deregistered = registration.close() => deregistered,
        () = interrupts.next() => return Err(Failure::Unknown(format!("interrupted; {key} stays until its lease ends, or is gone"))),
    };
    result?;
    deregistered?;
    session.output.note(&format!("deregistered {key}"));
    Ok(())
}

/// Tells what becomes of a registration, until a signal comes or it has ended for good.
async fn stay(
    session: &mut Session,
    registration: &mut Registration,
    response: Arc<v1::RegisterResponse>,
    interrupts: &mut Interrupts,
) -> Result<(), Failure> {
    let mut teller = Teller::holding(response);
    let mut reader_check = tokio::time::interval(READER_CHECK);
    loop {
        tokio::select! {
            () = interrupts.next() => return Ok(()),
            _ = reader_check.tick() => session.output.check_reader()?,
            state = registration.changed() => {
                if let RegistrationState::Ended(error) = &state {
                    return Err(crate::client::Error::clone(error).into());
                }
                teller.tell(&mut session.output, &state);
            }
        }
    }
}

/// Remarks on a registration's way, none of them twice in a row.
#[derive(Debug, Default)]
pub(super) struct Teller {
    lost: bool,
    trying: bool,
    /// The answer that made it registered, as far as that was told.
    told: Option<Arc<v1::RegisterResponse>>,
}

impl Teller {
    /// Of an instance of which it was told that it is registered.
    fn holding(response: Arc<v1::RegisterResponse>) -> Self {
        Self {
            told: Some(response),
            ..Self::default()
        }
    }

    pub(super) fn tell(&mut self, output: &mut Output, state: &RegistrationState) {
        match state {
            RegistrationState::Held { response, .. } => {
                // What comes between two looks at the state is not seen: of a lease that was lost, and at once followed by
                // another one, only that one.
                let again = self.told.as_ref().is_some_and(|told| !Arc::ptr_eq(told, response));
                if again && !self.lost && !self.trying {
                    output.note("the lease was gone, or may have ended; registering again");
                }
                if again || self.lost || self.trying {
                    let key = response.instance.as_ref().and_then(|instance| instance.key.clone());
                    let key = instance::key_text(&key.unwrap_or_default());
                    output.note(&format!("{key} is registered"));
                }
                *self = Self::holding(Arc::clone(response));
            }
            RegistrationState::Lost => {
                if !std::mem::replace(&mut self.lost, true) {
                    output.note("the lease was not renewed in time and may have ended; registering again");
                }
            }
            RegistrationState::Registering { problem: None } => {
                if !std::mem::replace(&mut self.lost, true) {
                    output.note("the lease is gone; registering again");
                }
            }
            RegistrationState::Registering { problem: Some(error) } => {
                if !std::mem::replace(&mut self.trying, true) {
                    output.trouble("trying again", error);
                }
            }
            RegistrationState::Ended(error) => output.trouble("not registered any more", error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::{
        super::{arguments::Format, output::tests::Shared},
        *,
    };
    use crate::client::Clock;

    #[test]
    fn it_tells_of_a_lease_that_was_lost_though_it_sees_only_the_next_one() {
        let (first, second) = (Arc::default(), Arc::default());
        let held = |response: &Arc<v1::RegisterResponse>| RegistrationState::Held {
            response: Arc::clone(response),
            held_until: Clock::default().now(),
        };
        let told = |seen: &[RegistrationState]| {
            let err = Shared::default();
            let mut output = Output::new(Format::Table, io::sink(), err.clone());
            let mut teller = Teller::holding(Arc::clone(&first));
            for state in seen {
                teller.tell(&mut output, state);
            }
            err.text()
        };
        assert_eq!(told(&[held(&first)]), "");
        let both = told(&[held(&second), held(&second)]);
        assert_eq!(both.matches("may have ended; registering again").count(), 1, "{both}");
        assert_eq!(both.matches("is registered").count(), 1, "{both}");
        let seen = told(&[RegistrationState::Lost, held(&second)]);
        assert_eq!(seen.lines().count(), 2, "{seen}");
    }
}
