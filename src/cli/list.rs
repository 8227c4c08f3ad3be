//! `roster list`.

use std::time::SystemTime;

use clap::Args;

use super::{
    failure::Failure,
    instance,
    select::{SelectArgs, tell_age},
    session::Session,
};
use crate::wire::v1;

/// Lists instances
///
/// All of one revision, however many there are. A service that nobody provides is an empty list, not an error.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  roster list                                    everything in the namespace
  roster list web --serving --zone a             who takes traffic in zone a
  roster list --prefix pay. -o wide
  roster list web --stale --max-age 5s           what this node has, also without a quorum
  roster list web -o json | jq -r '.instances[].address'")]
pub(super) struct ListArgs {
    #[command(flatten)]
    select: SelectArgs,
}

impl ListArgs {
    pub(super) async fn run(self, session: &mut Session) -> Result<(), Failure> {
        let mut read = self.select.read.options()?;
        if let Some(after) = &self.select.after {
            read.min_revision = after.revision;
        }
        let request = v1::ListRequest {
            selector: Some(self.select.selector(session)?),
            read: Some(read),
            ..Default::default()
        };
        let response = session.client.list_all(request).await?;
        if session.output.is_json() {
            return session.output.message("ListResponse", &response);
        }
        let table = instance::table(
            response.instances.iter(),
            self.select.all_namespaces,
            session.output.is_wide(),
            SystemTime::now(),
        );
        session.output.table(&table)?;
        tell_age(&mut session.output, response.header.as_ref());
        Ok(())
    }
}
