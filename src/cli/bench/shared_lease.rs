//! Shared leases, and clients that register under them: each has one, and a new one whenever it is full.

use std::time::Duration;

use tonic::transport::Channel;

use super::{
    measure::Trouble,
    options::LoadArgs,
    run::{Bench, Maker, Owned},
    target::timed,
};
use crate::{
    model::limits::INSTANCES_PER_LEASE_MAX,
    wire::{
        span::span_to_proto,
        unread::registry_client::RegistryClient,
        v1::{self, leases_client::LeasesClient},
    },
};

/// One client's lease.
#[derive(Debug)]
pub(super) struct SharedLease {
    client: LeasesClient<Channel>,
    ttl: Duration,
    limit: Duration,
    owned: Owned,
    lease_id: i64,
    /// How many instances it may yet take; 0 as long as there is none.
    room: u64,
}

impl SharedLease {
    /// None yet: the first is granted when it is needed.
    pub(super) fn new(channel: Channel, ttl: Duration, limit: Duration, owned: Owned) -> Self {
        Self {
            client: LeasesClient::new(channel),
            ttl,
            limit,
            owned,
            lease_id: 0,
            room: 0,
        }
    }

    /// The lease under which the next instances are registered.
    pub(super) fn lease_id(&self) -> i64 {
        self.lease_id
    }

    /// Makes sure that so many more instances find room in it.
    pub(super) async fn make_room(&mut self, wanted: u64) -> Result<(), Trouble> {
        if self.room < wanted {
            let request = v1::GrantLeaseRequest {
                lease_id: 0,
                ttl: Some(span_to_proto(self.ttl)),
            };
            let granted = self.client.grant_lease(timed(request, self.limit)).await?.into_inner();
            self.lease_id = granted.lease.unwrap_or_default().lease_id;
            self.room = INSTANCES_PER_LEASE_MAX;
            self.owned.add(self.lease_id);
        }
        Ok(())
    }

    /// So many were put into it.
    pub(super) fn take_room(&mut self, taken: u64) {
        self.room = self.room.saturating_sub(taken);
    }

    /// It is not what it was thought to be: the next instances take a new one.
    pub(super) fn give_up(&mut self) {
        self.room = 0;
    }
}

/// Clients that register new instances, each with a service and a lease of its own.
pub(super) fn clients(bench: &Bench<'_>, load: &LoadArgs) -> impl Iterator<Item = Registering> {
    (0..load.clients).map(|number| {
        let channel = bench.target.channel(number);
        Registering {
            client: RegistryClient::new(channel.clone()),
            lease: SharedLease::new(channel, load.span.outliving(), bench.limit, bench.owned.clone()),
            maker: bench.maker(),
            service: bench.service(number),
            sent: 0,
            limit: bench.limit,
        }
    })
}

/// One of them.
#[derive(Debug)]
pub(super) struct Registering {
    pub(super) client: RegistryClient<Channel>,
    pub(super) lease: SharedLease,
    maker: Maker,
    service: String,
    /// How many instances were sent, whatever came of them.
    sent: u64,
    pub(super) limit: Duration,
}

impl Registering {
    /// The next instance, which takes room in the lease.
    pub(super) fn next_instance(&mut self) -> v1::Instance {
        self.sent += 1;
        self.lease.take_room(1);
        self.maker.instance(&self.service, self.sent.to_string())
    }

    /// A failure may be the lease's.
    pub(super) fn judge<T>(&mut self, answer: Result<T, tonic::Status>) -> Result<u64, Trouble> {
        match answer {
            Ok(_) => Ok(1),
            Err(status) => {
                self.lease.give_up();
                Err(status.into())
            }
        }
    }
}
