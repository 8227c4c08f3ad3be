//! `roster lease`: shared leases by hand.

use std::time::Duration;

use clap::{Args, Subcommand};

use super::{
    failure::Failure,
    instance::key_text,
    interrupt::Interrupts,
    select::{ReadArgs, tell_age},
    session::Session,
    spans,
    table::Table,
    values::{lease_id, span},
};
use crate::{
    client::{KeepAlive, KeepAliveEvent},
    wire::{
        span::{span_from_proto, span_to_proto},
        v1::{self, renew_result::Outcome},
    },
};

/// How often `keep-alive` looks whether anyone still reads its output.
const READER_CHECK: Duration = Duration::from_secs(2);

#[derive(Subcommand, Debug)]
pub(super) enum LeaseCommand {
    Grant(GrantArgs),
    Renew(RenewArgs),
    KeepAlive(KeepAliveArgs),
    Revoke(RevokeArgs),
    List(ListLeasesArgs),
    Show(ShowArgs),
}

/// Grants a lease, which may hold many instances
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  roster lease grant --ttl 30s
  id=$(roster lease grant --ttl 30s -o json | jq -r .lease.leaseId)")]
pub(super) struct GrantArgs {
    /// How long it lives without renewal, 1s to 24h
    #[arg(long, value_name = "SPAN", value_parser = span, default_value = "15s")]
    ttl: Duration,
    /// An id of your own, 2^62 or more; the same grant may then be repeated [default: the next one]
    #[arg(long, value_name = "LEASE", value_parser = lease_id)]
    id: Option<i64>,
}

/// Renews leases once
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  roster lease renew 17 18")]
pub(super) struct RenewArgs {
    /// Their ids
    #[arg(value_name = "LEASE", value_parser = lease_id, required = true)]
    ids: Vec<i64>,
}

/// Keeps a lease alive until Ctrl-C; it then lives on for its TTL
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  roster lease keep-alive 17")]
pub(super) struct KeepAliveArgs {
    /// Its id
    #[arg(value_name = "LEASE", value_parser = lease_id)]
    id: i64,
}

/// Ends a lease and removes all its instances
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  roster lease revoke 17")]
pub(super) struct RevokeArgs {
    /// Its id
    #[arg(value_name = "LEASE", value_parser = lease_id)]
    id: i64,
}

/// Lists the leases
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  roster lease list")]
pub(super) struct ListLeasesArgs {
    #[command(flatten)]
    read: ReadArgs,
}

/// Shows a lease and the instances that it holds
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  roster lease show 17")]
pub(super) struct ShowArgs {
    /// Its id
    #[arg(value_name = "LEASE", value_parser = lease_id)]
    id: i64,
    #[command(flatten)]
    read: ReadArgs,
}

impl LeaseCommand {
    pub(super) async fn run(self, session: &mut Session) -> Result<(), Failure> {
        match self {
            Self::Grant(args) => args.run(session).await,
            Self::Renew(args) => args.run(session).await,
            Self::KeepAlive(args) => args.run(session).await,
            Self::Revoke(args) => args.run(session).await,
            Self::List(args) => args.run(session).await,
            Self::Show(args) => args.run(session).await,
        }
    }
}

impl GrantArgs {
    async fn run(self, session: &mut Session) -> Result<(), Failure> {
        let request = v1::GrantLeaseRequest {
            lease_id: self.id.unwrap_or_default(),
            ttl: Some(span_to_proto(self.ttl)),
        };
        let response = session.client.grant_lease(request).await?;
        if session.output.is_json() {
            return session.output.message("GrantLeaseResponse", &response);
        }
        let lease = response.lease.unwrap_or_default();
        let ttl = spans::of(lease.ttl.as_ref());
        session
            .output
            .line(&format!("granted lease {} (ttl {ttl})", lease.lease_id))?;
        session.output.note(&format!(
            "it ends in {ttl} unless it is renewed: `roster lease keep-alive {}`",
            lease.lease_id
        ));
        Ok(())
    }
}

/// What a renewal did, as the tables show it.
fn renewals(response: &v1::RenewResponse) -> Table {
    let mut table = Table::new(["LEASE", "OUTCOME", "TTL", "INSTANCES"]);
    for result in &response.results {
        table.row([
            result.lease_id.to_string(),
            result.outcome().as_str_name().to_owned(),
            spans::of(result.ttl.as_ref()),
            result.instances.to_string(),
        ]);
    }
    table
}

/// A failure when some of the leases were not renewed.
fn all_renewed(response: &v1::RenewResponse) -> Result<(), Failure> {
    let of = |outcome: Outcome| -> Vec<String> {
        let results = response.results.iter().filter(|result| result.outcome() == outcome);
        results.map(|result| result.lease_id.to_string()).collect()
    };
    let missing = of(Outcome::NotFound);
    if !missing.is_empty() {
        return Err(Failure::Failed(format!(
            "no lease {}: it never was, was revoked, or has expired; register again",
            missing.join(", ")
        )));
    }
    let unconfirmed = of(Outcome::Unconfirmed);
    if !unconfirmed.is_empty() {
        return Err(Failure::Unknown(format!(
            "lease {} may have been renewed or not: no node could confirm it; try again",
            unconfirmed.join(", ")
        )));
    }
    Ok(())
}

impl RenewArgs {
    async fn run(self, session: &mut Session) -> Result<(), Failure> {
        let response = session.client.renew(self.ids).await?;
        if session.output.is_json() {
            session.output.message("RenewResponse", &response)?;
        } else {
            session.output.table(&renewals(&response))?;
        }
        all_renewed(&response)
    }
}

impl KeepAliveArgs {
    async fn run(self, session: &mut Session) -> Result<(), Failure> {
        let mut interrupts = Interrupts::listen()?;
        // Once by itself: a lease that is not there, or a cluster that is away, is said at once.
        let first = session.client.renew(vec![self.id]).await?;
        all_renewed(&first)?;
        let ttl = first
            .results
            .first()
            .and_then(|result| result.ttl)
            .and_then(span_from_proto);
        let Some(ttl) = ttl else {
            return Err(Failure::Failed("the node did not say how long the lease lives".into()));
        };
        session.output.note(&format!(
            "keeping lease {} alive (ttl {}); Ctrl-C lets it go",
            self.id,
            spans::exact(ttl)
        ));
        let mut lease = KeepAlive::start(session.client.clone(), self.id, ttl);
        let mut trouble = false;
        let mut reader_check = tokio::time::interval(READER_CHECK);
        loop {
            let event = tokio::select! {
                () = interrupts.next() => return Ok(()),
                _ = reader_check.tick() => {
                    session.output.check_reader()?;
                    continue;
                }
                event = lease.next() => event,
            };
            match event {
                Some(KeepAliveEvent::Renewed { response, .. }) => {
                    trouble = false;
                    if session.output.is_json() {
                        session.output.message("RenewResponse", &response)?;
                    } else {
                        let instances = response.results.first().map_or(0, |result| result.instances);
                        session
                            .output
                            .line(&format!("renewed lease {} (instances {instances})", self.id))?;
                    }
                    session.output.flush()?;
                }
                Some(KeepAliveEvent::Hop(error)) => {
                    if !std::mem::replace(&mut trouble, true) {
                        session.output.trouble("asking another node", &error);
                    }
                }
                Some(KeepAliveEvent::Overdue) => {
                    session
                        .output
                        .note("no renewal was confirmed in time: the lease may have ended; trying on");
                }
                Some(KeepAliveEvent::Refused(error)) => return Err(error.into()),
                Some(KeepAliveEvent::Gone) | None => {
                    return Err(Failure::Failed(format!(
                        "lease {} is gone: it was revoked, or has expired",
                        self.id
                    )));
                }
            }
        }
    }
}

impl RevokeArgs {
    async fn run(self, session: &mut Session) -> Result<(), Failure> {
        let response = session.client.revoke_lease(self.id).await?;
        if session.output.is_json() {
            return session.output.message("RevokeLeaseResponse", &response);
        }
        session.output.line(&if response.existed {
            format!("revoked lease {} (instances removed: {})", self.id, response.removed)
        } else {
            format!("there was no lease {}", self.id)
        })
    }
}

fn leases<'a>(leases: impl Iterator<Item = &'a v1::Lease>) -> Table {
    let mut table = Table::new(["LEASE", "TTL", "REMAINING", "INSTANCES", "KIND"]);
    for lease in leases {
        table.row([
            lease.lease_id.to_string(),
            spans::of(lease.ttl.as_ref()),
            spans::of(lease.remaining.as_ref()),
            lease.instances.to_string(),
            if lease.own { "own" } else { "shared" }.to_owned(),
        ]);
    }
    table
}

impl ListLeasesArgs {
    async fn run(self, session: &mut Session) -> Result<(), Failure> {
        let request = v1::ListLeasesRequest {
            read: Some(self.read.options()?),
            ..Default::default()
        };
        let response = session.client.list_all_leases(request).await?;
        if session.output.is_json() {
            return session.output.message("ListLeasesResponse", &response);
        }
        session.output.table(&leases(response.leases.iter()))?;
        tell_age(&mut session.output, response.header.as_ref());
        Ok(())
    }
}

impl ShowArgs {
    async fn run(self, session: &mut Session) -> Result<(), Failure> {
        let request = v1::GetLeaseRequest {
            lease_id: self.id,
            read: Some(self.read.options()?),
            ..Default::default()
        };
        let response = session.client.whole_lease(request).await?;
        if session.output.is_json() {
            return session.output.message("GetLeaseResponse", &response);
        }
        session.output.table(&leases(response.lease.iter()))?;
        for key in &response.instances {
            session.output.line(&format!("  {}", key_text(key)))?;
        }
        tell_age(&mut session.output, response.header.as_ref());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(outcomes: &[Outcome]) -> v1::RenewResponse {
        v1::RenewResponse {
            results: outcomes
                .iter()
                .zip(1..)
                .map(|(&outcome, lease_id)| v1::RenewResult {
                    lease_id,
                    outcome: outcome.into(),
                    ttl: Some(prost_types::Duration { seconds: 15, nanos: 0 }),
                    instances: 1,
                })
                .collect(),
            ..Default::default()
        }
    }

    #[test]
    fn a_renewal_fails_by_the_worst_of_its_leases() {
        use Outcome::{NotFound, Renewed, Unconfirmed};
        let code = |outcomes: &[Outcome]| all_renewed(&response(outcomes)).map_err(|failure| failure.exit_code());
        assert_eq!(code(&[Renewed, Renewed]), Ok(()));
        assert_eq!(code(&[Renewed, NotFound]), Err(1));
        assert_eq!(code(&[Renewed, Unconfirmed]), Err(4));
    }

    #[test]
    fn renewals_are_shown_one_a_line() {
        assert_eq!(
            renewals(&response(&[Outcome::Renewed, Outcome::NotFound])).lines(),
            [
                "LEASE  OUTCOME    TTL  INSTANCES",
                "1      RENEWED    15s  1",
                "2      NOT_FOUND  15s  1",
            ]
        );
    }
}
