//! Registrations: a grant and a put under it; and puts under a lease that is shared.

use clap::Args;
use etcd_client::{Client, PutOptions};
use roster::cli::bench::measure::{Caller, Report, Schedule, Trouble};

use super::{
    keys,
    run::{LIMIT, Run, parameters},
    target::in_time,
};
use crate::problem::Problem;

/// Services over which the instances are spread.
const SERVICES: usize = 100;
/// Keys under one lease, as many as a lease of Roster's may hold.
const KEYS_PER_LEASE: u64 = 10_000;

#[derive(Args, Debug)]
pub(super) struct Register {
    #[arg(long, default_value_t = 16)]
    pub(super) clients: usize,
}

impl Register {
    pub(super) async fn measure(&self, run: &Run) -> Result<Report, Problem> {
        let callers = (0..self.clients)
            .map(|number| Own {
                client: run.target.connection(number).client,
                number,
                sent: 0,
                ttl_s: run.outliving_s(),
            })
            .collect();
        let parameters = parameters([("clients", self.clients.into())]);
        run.closed_loop("register", "register", parameters, callers).await
    }
}

/// Registers with a lease of its own each time.
struct Own {
    client: Client,
    number: usize,
    sent: usize,
    ttl_s: i64,
}

impl Caller for Own {
    async fn call(&mut self) -> Result<u64, Trouble> {
        let service = keys::service((self.number + self.sent) % SERVICES);
        let key = keys::instance(&service, format_args!("{}-{}", self.number, self.sent));
        self.sent += 1;
        let granted = in_time(LIMIT, self.client.lease_grant(self.ttl_s, None)).await?;
        let options = PutOptions::new().with_lease(granted.id());
        in_time(LIMIT, self.client.put(key, keys::value("1.2.3"), Some(options))).await?;
        Ok(1)
    }
}

#[derive(Args, Debug)]
pub(super) struct RegisterShared {
    #[arg(long, default_value_t = 16)]
    pub(super) clients: usize,
}

impl RegisterShared {
    pub(super) async fn measure(&self, run: &Run) -> Result<Report, Problem> {
        let callers = (0..self.clients)
            .map(|number| Shared {
                client: run.target.connection(number).client,
                service: keys::service(number),
                sent: 0,
                lease_id: 0,
                ttl_s: run.outliving_s(),
            })
            .collect();
        let parameters = parameters([("clients", self.clients.into())]);
        run.closed_loop("register-shared", "register", parameters, callers)
            .await
    }
}

/// Registers under a lease that holds many.
struct Shared {
    client: Client,
    service: String,
    sent: u64,
    lease_id: i64,
    ttl_s: i64,
}

impl Caller for Shared {
    async fn prepare(&mut self, _: &Schedule) -> Result<(), Trouble> {
        if self.sent.is_multiple_of(KEYS_PER_LEASE) {
            let granted = in_time(LIMIT, self.client.lease_grant(self.ttl_s, None)).await?;
            self.lease_id = granted.id();
        }
        Ok(())
    }

    async fn call(&mut self) -> Result<u64, Trouble> {
        let key = keys::instance(&self.service, self.sent);
        self.sent += 1;
        let options = PutOptions::new().with_lease(self.lease_id);
        in_time(LIMIT, self.client.put(key, keys::value("1.2.3"), Some(options))).await?;
        Ok(1)
    }
}
