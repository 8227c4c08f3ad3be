//! `roster services` and `roster namespaces`.

use clap::Args;

use super::{
    failure::Failure,
    select::{ReadArgs, tell_age},
    session::Session,
    table::Table,
};
use crate::wire::v1;

/// Lists the services and how many instances provide them
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  roster services
  roster services -A                             in all namespaces
  roster services -o json | jq -r '.services[] | select(.up == 0) | .service'")]
pub(super) struct ServicesArgs {
    /// In all namespaces
    #[arg(long, short = 'A')]
    all_namespaces: bool,
    #[command(flatten)]
    read: ReadArgs,
}

impl ServicesArgs {
    pub(super) async fn run(self, session: &mut Session) -> Result<(), Failure> {
        let request = v1::ListServicesRequest {
            namespace: session.namespace(),
            all_namespaces: self.all_namespaces,
            read: Some(self.read.options()?),
            ..Default::default()
        };
        let response = session.client.list_all_services(request).await?;
        if session.output.is_json() {
            return session.output.message("ListServicesResponse", &response);
        }
        let wide = session.output.is_wide();
        let mut headings = Vec::new();
        if self.all_namespaces {
            headings.push("NAMESPACE");
        }
        headings.extend(["SERVICE", "UP", "STARTING", "DRAINING", "DOWN"]);
        if wide {
            headings.push("REVISION");
        }
        let mut table = Table::new(headings);
        for service in &response.services {
            let mut cells = Vec::new();
            if self.all_namespaces {
                cells.push(service.namespace.clone());
            }
            cells.push(service.service.clone());
            cells.extend([service.up, service.starting, service.draining, service.down].map(|n| n.to_string()));
            if wide {
                cells.push(service.mod_revision.to_string());
            }
            table.row(cells);
        }
        session.output.table(&table)?;
        tell_age(&mut session.output, response.header.as_ref());
        Ok(())
    }
}

/// Lists the namespaces that hold anything
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  roster namespaces")]
pub(super) struct NamespacesArgs {
    #[command(flatten)]
    read: ReadArgs,
}

impl NamespacesArgs {
    pub(super) async fn run(self, session: &mut Session) -> Result<(), Failure> {
        let request = v1::ListNamespacesRequest {
            read: Some(self.read.options()?),
            ..Default::default()
        };
        let response = session.client.list_all_namespaces(request).await?;
        if session.output.is_json() {
            return session.output.message("ListNamespacesResponse", &response);
        }
        let mut table = Table::new(["NAMESPACE", "SERVICES", "INSTANCES"]);
        for namespace in &response.namespaces {
            table.row([
                namespace.namespace.clone(),
                namespace.services.to_string(),
                namespace.instances.to_string(),
            ]);
        }
        session.output.table(&table)?;
        tell_age(&mut session.output, response.header.as_ref());
        Ok(())
    }
}
