//! Other clients: those who renew and write while something happens to the cluster.
//!
//! Each goes on at another node when one fails it, as client libraries do, and at its own pace: what they see is to
//! show what happens, not how fast they can be.

use std::{sync::Arc, time::Duration};

use tonic::transport::Channel;

use super::{
    measure::{Caller, Gaps, Pace, Schedule, Trouble},
    run::Maker,
    target::timed,
};
use crate::wire::v1::{
    self, leases_client::LeasesClient, register_request::Hold, registry_client::RegistryClient, renew_result::Outcome,
};

/// Records that a writer changes by turns.
const RECORDS: u64 = 100;

/// The way to the nodes, of which one is in use.
#[derive(Clone, Debug)]
pub(super) struct Ways {
    channels: Arc<[Channel]>,
    at: usize,
}

impl Ways {
    /// Begins with the node of that number.
    pub(super) fn beginning_at(channels: Arc<[Channel]>, number: usize) -> Self {
        Self { channels, at: number }
    }

    fn channel(&self) -> Channel {
        self.channels[self.at % self.channels.len()].clone()
    }

    /// To the next node, after an error.
    fn go_on(&mut self) {
        self.at += 1;
    }
}

/// What all of them need.
#[derive(Clone, Debug)]
pub(super) struct Other {
    pub(super) ways: Ways,
    pub(super) pace: Pace,
    /// How long a call may take before the next node is asked.
    pub(super) limit: Duration,
    pub(super) lease_id: i64,
    pub(super) gaps: Arc<Gaps>,
}

/// One who renews its lease.
#[derive(Debug)]
pub(super) struct Renewer(pub(super) Other);

impl Caller for Renewer {
    async fn prepare(&mut self, schedule: &Schedule) -> Result<(), Trouble> {
        self.0.pace.turn(schedule).await;
        Ok(())
    }

    async fn call(&mut self) -> Result<u64, Trouble> {
        let request = v1::RenewRequest {
            seq: 0,
            lease_ids: vec![self.0.lease_id],
        };
        let mut client = LeasesClient::new(self.0.ways.channel());
        let answer = client.renew(timed(request, self.0.limit)).await;
        let outcome = answer.map(|answer| answer.get_ref().results.first().map(v1::RenewResult::outcome));
        let trouble = match outcome {
            Ok(Some(Outcome::Renewed)) => {
                self.0.gaps.acknowledged();
                return Ok(1);
            }
            Ok(Some(Outcome::NotFound)) => Trouble::new("LEASE_NOT_FOUND", "the lease was gone"),
            Ok(_) => Trouble::new("UNCONFIRMED", "a renewal was not committed in time"),
            Err(status) => status.into(),
        };
        self.0.ways.go_on();
        Err(trouble)
    }
}

/// One who writes.
#[derive(Debug)]
pub(super) struct Writer {
    pub(super) other: Other,
    pub(super) maker: Maker,
    pub(super) service: String,
    pub(super) number: usize,
    pub(super) sent: u64,
}

impl Caller for Writer {
    async fn prepare(&mut self, schedule: &Schedule) -> Result<(), Trouble> {
        self.other.pace.turn(schedule).await;
        Ok(())
    }

    async fn call(&mut self) -> Result<u64, Trouble> {
        let id = format!("{}-{}", self.number, self.sent % RECORDS);
        self.sent += 1;
        let request = v1::RegisterRequest {
            instance: Some(v1::Instance {
                version: self.sent.to_string(),
                ..self.maker.instance(&self.service, id)
            }),
            hold: Some(Hold::LeaseId(self.other.lease_id)),
            ..Default::default()
        };
        let mut client = RegistryClient::new(self.other.ways.channel());
        match client.register(timed(request, self.other.limit)).await {
            Ok(_) => {
                self.other.gaps.acknowledged();
                Ok(1)
            }
            Err(status) => {
                self.other.ways.go_on();
                Err(status.into())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn after_an_error_the_next_node_is_asked() {
        let channel = || tonic::transport::Endpoint::from_static("http://127.0.0.1:1").connect_lazy();
        let mut ways = Ways::beginning_at([channel(), channel()].into(), 1);
        assert_eq!(ways.at % 2, 1);
        ways.go_on();
        assert_eq!(ways.at % 2, 0);
        drop(ways.channel());
    }
}
