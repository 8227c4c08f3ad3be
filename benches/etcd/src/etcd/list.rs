//! Lists: a range over a service's prefix.

use std::time::Duration;

use clap::{Args, ValueEnum};
use etcd_client::{Client, GetOptions, PutOptions};
use roster::cli::bench::measure::{Caller, Report, Trouble};

use super::{
    keys,
    run::{LIMIT, Run, parameters},
    target::in_time,
};
use crate::problem::{Problem, While as _};

/// How long the nodes may take to have what is listed.
const ALL_WITHIN: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Consistency {
    Linearizable,
    Serializable,
}

#[derive(Args, Debug)]
pub(super) struct List {
    #[arg(long, default_value_t = 16)]
    pub(super) clients: usize,
    /// How many keys the prefix has
    #[arg(long, default_value_t = 100)]
    instances: usize,
    #[arg(long, value_enum, default_value = "linearizable")]
    consistency: Consistency,
}

impl List {
    pub(super) async fn measure(&self, run: &Run) -> Result<Report, Problem> {
        let lease_id = run.grant(1, run.outliving_s()).await?[0];
        let service = keys::service(0);
        let mut client = run.target.connection(0).client;
        for number in 0..self.instances {
            let options = PutOptions::new().with_lease(lease_id);
            client
                .put(keys::instance(&service, number), keys::value("1.2.3"), Some(options))
                .await
                .when("put")?;
        }
        let options = GetOptions::new().with_prefix();
        let options = match self.consistency {
            Consistency::Linearizable => options,
            Consistency::Serializable => options.with_serializable(),
        };
        let callers: Vec<Listing> = (0..self.clients)
            .map(|number| Listing {
                client: run.target.connection(number).client,
                service: service.clone(),
                options: options.clone(),
                instances: self.instances,
            })
            .collect();
        self.wait_for_all(run, &service, &options).await?;
        let consistency = format!("{:?}", self.consistency).to_lowercase();
        let parameters = parameters([
            ("clients", self.clients.into()),
            ("instances", self.instances.into()),
            ("consistency", consistency.into()),
        ]);
        run.closed_loop("list", "list", parameters, callers).await
    }

    /// Each connection's node has all: a serializable list may rightly be shorter until then.
    async fn wait_for_all(&self, run: &Run, service: &str, options: &GetOptions) -> Result<(), Problem> {
        for number in 0..run.target.connections() {
            let mut listing = Listing {
                client: run.target.connection(number).client,
                service: service.to_owned(),
                options: options.clone(),
                instances: self.instances,
            };
            let waiting = async { while listing.call().await.is_err() {} };
            tokio::time::timeout(ALL_WITHIN, waiting)
                .await
                .when("a node does not have what was put")?;
        }
        Ok(())
    }
}

struct Listing {
    client: Client,
    service: String,
    options: GetOptions,
    instances: usize,
}

impl Caller for Listing {
    async fn call(&mut self) -> Result<u64, Trouble> {
        let get = self.client.get(self.service.as_str(), Some(self.options.clone()));
        let answer = in_time(LIMIT, get).await?;
        if answer.kvs().len() == self.instances {
            Ok(1)
        } else {
            let message = format!("{} keys instead of {}", answer.kvs().len(), self.instances);
            Err(Trouble::new("INCOMPLETE", message))
        }
    }
}
