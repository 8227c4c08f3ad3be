//! `roster bench batch-register`: many new instances in a call.

use clap::Args;

use super::{
    super::{failure::Failure, session::Session},
    closed_loop::{Looped, closed_loop},
    measure::{Caller, Fact, Measure, Report, Schedule, Trouble, per_second, rate},
    options::{LoadArgs, between},
    run::Bench,
    shared_lease::{Registering, clients},
    target::timed,
};
use crate::{
    model::limits::BATCH_MAX,
    wire::v1::{self, batch_register_request::Hold},
};

/// Registers new instances under a shared lease, many in a call
///
/// All instances of a call are put in one revision. Each client has a lease, and takes a new one when the next batch
/// finds no room in it. All are revoked in the end.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  roster bench batch-register --batch 100
  roster bench batch-register --batch 1000 --clients 4")]
pub(in super::super) struct BatchRegisterBench {
    /// How many instances are put in a call
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = |text: &str| between(text, 1, BATCH_MAX))]
    batch: usize,
    #[command(flatten)]
    load: LoadArgs,
}

impl BatchRegisterBench {
    pub(super) async fn run(self, session: &mut Session) -> Result<(), Failure> {
        let mut bench = Bench::begin(session, &self.load.common, self.load.connections()).await?;
        let found = self.measure(&mut bench).await;
        bench.finish(found).await
    }

    async fn measure(&self, bench: &mut Bench<'_>) -> Result<Report, Failure> {
        let callers = clients(bench, &self.load)
            .map(|client| Many {
                client,
                batch: self.batch,
            })
            .collect();
        let Looped { tally, around, .. } = closed_loop(bench, "batch-register", self.load.span, callers).await?;
        let instances = tally.operations * self.batch as u64;
        let speed = per_second(instances, around.over);
        let mut parameters = self.load.parameters();
        parameters.insert("batch".into(), self.batch.into());
        let main = Measure {
            name: "batch-register",
            tally,
            over: around.over,
        };
        let mut report = bench.report("batch-register", parameters, around, main);
        report.facts.push(Fact::new("instances", instances, ""));
        let line = format!("{instances} instances, {}/s", rate(speed));
        report.facts.push(Fact::new("instances_per_second", speed, line));
        Ok(report)
    }
}

/// Many instances in a call.
struct Many {
    client: Registering,
    batch: usize,
}

impl Caller for Many {
    async fn prepare(&mut self, _: &Schedule) -> Result<(), Trouble> {
        self.client.lease.make_room(self.batch as u64).await
    }

    async fn call(&mut self) -> Result<u64, Trouble> {
        let instances = (0..self.batch).map(|_| self.client.next_instance()).collect();
        let request = v1::BatchRegisterRequest {
            instances,
            hold: Some(Hold::LeaseId(self.client.lease.lease_id())),
        };
        let answer = self
            .client
            .client
            .batch_register(timed(request, self.client.limit))
            .await;
        self.client.judge(answer)
    }
}
