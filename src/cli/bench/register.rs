//! `roster bench register`: a new instance with a lease of its own, each time.

use std::{sync::Arc, time::Duration};

use clap::Args;
use tonic::transport::Channel;

use super::{
    super::{failure::Failure, session::Session, spans},
    closed_loop::closed_loop,
    measure::{Caller, Measure, Report, Trouble},
    options::{LoadArgs, between, ttl},
    run::{Bench, Maker, let_go},
    target::timed,
};
use crate::wire::{
    span::span_to_proto,
    unread::registry_client::RegistryClient,
    v1::{self, register_request::Hold},
};

/// Registers new instances, each with a lease of its own
///
/// What a service does when it starts. Nobody renews them: unless --ttl says otherwise, they live until a minute after
/// the measured span.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  roster bench register --clients 128
  roster bench register --clients 1 --to leader --seconds 30 -o json
  roster bench register --server-pids $(pgrep -d, -f 'roster server')")]
pub(in super::super) struct RegisterBench {
    /// Over how many services the instances are spread
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = |text: &str| between(text, 1, 10_000))]
    services: usize,
    /// How long the instances live [default: a minute longer than the run]
    #[arg(long, value_name = "SPAN", value_parser = ttl)]
    ttl: Option<Duration>,
    #[command(flatten)]
    load: LoadArgs,
}

impl RegisterBench {
    pub(super) async fn run(self, session: &mut Session) -> Result<(), Failure> {
        let mut bench = Bench::begin(session, &self.load.common, self.load.connections()).await?;
        let found = self.measure(&mut bench).await;
        bench.finish(found).await
    }

    async fn measure(&self, bench: &mut Bench<'_>) -> Result<Report, Failure> {
        let ttl = self.ttl.unwrap_or_else(|| self.load.span.outliving());
        let services: Arc<[String]> = (0..self.services).map(|number| bench.service(number)).collect();
        let callers = (0..self.load.clients)
            .map(|number| Registering {
                client: RegistryClient::new(bench.target.channel(number)),
                maker: bench.maker(),
                services: services.clone(),
                number,
                sent: 0,
                registered: 0,
                ttl,
                limit: bench.limit,
            })
            .collect();
        let looped = closed_loop(bench, "register", self.load.span, callers).await?;
        let registered = looped.callers.iter().map(|caller| caller.registered).sum();
        let mut parameters = self.load.parameters();
        parameters.insert("services".into(), self.services.into());
        parameters.insert("ttl".into(), spans::json(ttl).into());
        let main = Measure {
            name: "register",
            tally: looped.tally,
            over: looped.around.over,
        };
        let mut report = bench.report("register", parameters, looped.around, main);
        report.facts.push(let_go(registered, ttl));
        Ok(report)
    }
}

struct Registering {
    client: RegistryClient<Channel>,
    maker: Maker,
    services: Arc<[String]>,
    number: usize,
    /// Whatever came of it.
    sent: usize,
    /// Also those in the warm-up.
    registered: u64,
    ttl: Duration,
    limit: Duration,
}

impl Caller for Registering {
    async fn call(&mut self) -> Result<u64, Trouble> {
        // Clients begin at different services.
        let service = &self.services[(self.number + self.sent) % self.services.len()];
        let id = format!("{}-{}", self.number, self.sent);
        self.sent += 1;
        let request = v1::RegisterRequest {
            instance: Some(self.maker.instance(service, id)),
            hold: Some(Hold::OwnLease(v1::OwnLease {
                ttl: Some(span_to_proto(self.ttl)),
            })),
            ..Default::default()
        };
        self.client.register(timed(request, self.limit)).await?;
        self.registered += 1;
        Ok(1)
    }
}
