//! `roster bench list`: lists of one service.

use std::time::Duration;

use clap::{Args, ValueEnum};
use tonic::transport::Channel;

use super::{
    super::{failure::Failure, session::Session},
    closed_loop::{Looped, closed_loop},
    measure::{Caller, Measure, Report, Trouble},
    options::{LoadArgs, between},
    run::Bench,
    target::timed,
};
use crate::{
    model::limits::{BATCH_MAX, PAGE_MAX},
    wire::{
        unread::registry_client::RegistryClient,
        v1::{self, batch_register_request::Hold, read_options::Consistency as Read},
    },
};

/// How fresh the lists are to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Consistency {
    /// What is acknowledged is seen: a quorum is asked.
    Linearizable,
    /// What the node has.
    Stale,
}

/// Lists the instances of a service
///
/// Registers them first, under a lease that is revoked in the end. A list without all of them is an error (INCOMPLETE).
/// The records are counted and not taken apart: what is measured is the nodes, and not this client.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  roster bench list --clients 16
  roster bench list --consistency stale --to follower
  roster bench list --instances 5000")]
pub(in super::super) struct ListBench {
    /// How many instances the service has, all on one page
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = |text: &str| between(text, 1, PAGE_MAX))]
    instances: usize,
    /// How fresh the lists are to be
    #[arg(long, value_enum, value_name = "HOW", default_value = "linearizable")]
    consistency: Consistency,
    #[command(flatten)]
    load: LoadArgs,
}

impl ListBench {
    pub(super) async fn run(self, session: &mut Session) -> Result<(), Failure> {
        let mut bench = Bench::begin(session, &self.load.common, self.load.connections()).await?;
        let found = self.measure(&mut bench).await;
        bench.finish(found).await
    }

    async fn measure(&self, bench: &mut Bench<'_>) -> Result<Report, Failure> {
        let revision = self.register(bench).await?;
        let consistency = match self.consistency {
            Consistency::Linearizable => Read::Linearizable,
            Consistency::Stale => Read::Stale,
        };
        let request = v1::ListRequest {
            selector: Some(bench.maker().selector(&bench.service(0))),
            read: Some(v1::ReadOptions {
                consistency: consistency.into(),
                ..Default::default()
            }),
            page_size: i32::try_from(self.instances).unwrap_or(i32::MAX),
            ..Default::default()
        };
        self.wait_for_all(bench, &request, revision).await?;
        let callers = (0..self.load.clients)
            .map(|number| Listing {
                client: RegistryClient::new(bench.target.channel(number)),
                request: request.clone(),
                instances: self.instances,
                limit: bench.limit,
            })
            .collect();
        let Looped { tally, around, .. } = closed_loop(bench, "list", self.load.span, callers).await?;
        let mut parameters = self.load.parameters();
        parameters.insert("instances".into(), self.instances.into());
        let consistency = consistency.as_str_name().to_ascii_lowercase();
        parameters.insert("consistency".into(), consistency.into());
        let main = Measure {
            name: "list",
            tally,
            over: around.over,
        };
        Ok(bench.report("list", parameters, around, main))
    }

    /// Registers what is listed; answers the revision that has it all.
    async fn register(&self, bench: &mut Bench<'_>) -> Result<i64, Failure> {
        let lease_id = bench.grant(1, self.load.span.outliving()).await?.remove(0);
        let (client, maker, service) = (bench.client(), bench.maker(), bench.service(0));
        let numbers: Vec<usize> = (0..self.instances).collect();
        let work = async move {
            let mut revision = 0;
            for batch in numbers.chunks(BATCH_MAX) {
                let instances = batch.iter().map(|number| maker.instance(&service, number.to_string()));
                let request = v1::BatchRegisterRequest {
                    instances: instances.collect(),
                    hold: Some(Hold::LeaseId(lease_id)),
                };
                let answer = client.batch_register(request).await?;
                revision = answer.header.unwrap_or_default().revision;
            }
            Ok(revision)
        };
        bench.set_up("registering what is listed", work).await
    }

    /// Each connection's node has what is listed: else a stale list would rightly be shorter.
    async fn wait_for_all(
        &self,
        bench: &mut Bench<'_>,
        request: &v1::ListRequest,
        revision: i64,
    ) -> Result<(), Failure> {
        let mut request = request.clone();
        request.read.get_or_insert_default().min_revision = revision;
        let (target, limit) = (bench.target.clone(), bench.limit);
        let work = async move {
            for number in 0..target.connections() {
                let mut client = RegistryClient::new(target.channel(number));
                let answer = client.list(timed(request.clone(), limit)).await;
                answer.map_err(|status| Trouble::from(status).failure("list"))?;
            }
            Ok(())
        };
        bench.set_up("waiting for the nodes", work).await
    }
}

struct Listing {
    client: RegistryClient<Channel>,
    request: v1::ListRequest,
    instances: usize,
    limit: Duration,
}

impl Caller for Listing {
    async fn call(&mut self) -> Result<u64, Trouble> {
        let answer = self
            .client
            .list(timed(self.request.clone(), self.limit))
            .await?
            .into_inner();
        if answer.instances.len() == self.instances && answer.next_page_token.is_empty() {
            Ok(1)
        } else {
            let message = format!("{} instances instead of {}", answer.instances.len(), self.instances);
            Err(Trouble::new("INCOMPLETE", message))
        }
    }
}
