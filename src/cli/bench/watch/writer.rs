//! The writers whose writes are watched: each has a ring of records, and writes one after another.

use std::time::{Duration, Instant};

use tonic::transport::Channel;

use super::super::{
    measure::{Caller, Mark, Pace, Schedule, Trouble, micros},
    run::Maker,
    target::timed,
};
use crate::wire::{
    unread::registry_client::RegistryClient,
    v1::{self, register_request::Hold},
};

/// One writer.
#[derive(Debug)]
pub(super) struct Writer {
    pub(super) client: RegistryClient<Channel>,
    pub(super) maker: Maker,
    pub(super) service: String,
    pub(super) lease_id: i64,
    pub(super) number: usize,
    /// How many records it has.
    pub(super) ring: u64,
    /// What times are counted from.
    pub(super) epoch: Instant,
    pub(super) pace: Pace,
    pub(super) limit: Duration,
    /// Acknowledged writes.
    pub(super) written: u64,
    /// A write that failed, to be sent again as it is until it is acknowledged: so no number is left out.
    pub(super) unacknowledged: Option<v1::RegisterRequest>,
}

impl Writer {
    fn next_write(&self) -> v1::RegisterRequest {
        let mark = Mark {
            writer: self.number,
            number: self.written,
            sent_us: micros(self.epoch.elapsed()),
        };
        let id = format!("{}-{}", self.number, self.written % self.ring);
        v1::RegisterRequest {
            instance: Some(v1::Instance {
                version: mark.text(),
                ..self.maker.instance(&self.service, id)
            }),
            hold: Some(Hold::LeaseId(self.lease_id)),
            ..Default::default()
        }
    }
}

impl Caller for Writer {
    async fn prepare(&mut self, schedule: &Schedule) -> Result<(), Trouble> {
        self.pace.turn(schedule).await;
        Ok(())
    }

    async fn call(&mut self) -> Result<u64, Trouble> {
        let request = self.unacknowledged.take().unwrap_or_else(|| self.next_write());
        match self.client.register(timed(request.clone(), self.limit)).await {
            Ok(_) => {
                self.written += 1;
                Ok(1)
            }
            Err(status) => {
                self.unacknowledged = Some(request);
                Err(status.into())
            }
        }
    }
}
