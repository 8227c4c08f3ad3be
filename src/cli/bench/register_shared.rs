//! `roster bench register-shared`: new instances under a lease that they share.

use clap::Args;

use super::{
    super::{failure::Failure, session::Session},
    closed_loop::{Looped, closed_loop},
    measure::{Caller, Measure, Report, Schedule, Trouble},
    options::LoadArgs,
    run::Bench,
    shared_lease::{Registering, clients},
    target::timed,
};
use crate::wire::v1::{self, register_request::Hold};

/// Registers new instances under a shared lease
///
/// What a host's agent does. Each client has a lease, and takes a new one when it holds 10,000 instances, which is as
/// many as it may. All are revoked in the end.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  roster bench register-shared --clients 128
  roster bench register-shared --clients 16 --to follower")]
pub(in super::super) struct RegisterSharedBench {
    #[command(flatten)]
    load: LoadArgs,
}

impl RegisterSharedBench {
    pub(super) async fn run(self, session: &mut Session) -> Result<(), Failure> {
        let mut bench = Bench::begin(session, &self.load.common, self.load.connections()).await?;
        let found = self.measure(&mut bench).await;
        bench.finish(found).await
    }

    async fn measure(&self, bench: &mut Bench<'_>) -> Result<Report, Failure> {
        let callers = clients(bench, &self.load).map(One).collect();
        let Looped { tally, around, .. } = closed_loop(bench, "register-shared", self.load.span, callers).await?;
        let main = Measure {
            name: "register",
            tally,
            over: around.over,
        };
        Ok(bench.report("register-shared", self.load.parameters(), around, main))
    }
}

/// One instance in a call.
struct One(Registering);

impl Caller for One {
    async fn prepare(&mut self, _: &Schedule) -> Result<(), Trouble> {
        self.0.lease.make_room(1).await
    }

    async fn call(&mut self) -> Result<u64, Trouble> {
        let request = v1::RegisterRequest {
            instance: Some(self.0.next_instance()),
            hold: Some(Hold::LeaseId(self.0.lease.lease_id())),
            ..Default::default()
        };
        let answer = self.0.client.register(timed(request, self.0.limit)).await;
        self.0.judge(answer)
    }
}
