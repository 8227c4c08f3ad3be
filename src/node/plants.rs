//! What the plants of this room do when they are switched on: in test builds only.

use tokio::time::Instant;

use super::{Node, Renewed};
use crate::{
    model::{LeaseId, Revision},
    registry::Renewal,
};

impl Node {
    /// Whether this node would name itself if asked who leads.
    pub(super) fn takes_itself_for_leader(&self) -> bool {
        self.0.route.leader_id() == Some(self.0.node_id)
    }

    /// Answers renewals from the state as it is, and lets them go their way meanwhile.
    pub(super) fn renewed_rashly(&self, ids: Vec<LeaseId>, until: Instant) -> (Revision, Vec<Renewed>) {
        let state = self.state();
        let answer = |id: &LeaseId| match state.lease(*id) {
            Some(lease) => Renewal::Renewed {
                ttl: lease.ttl,
                instances: lease.instances,
            },
            None => Renewal::NotFound,
        };
        let answers = ids.iter().map(answer).map(Renewed::Known).collect();
        let node = self.clone();
        self.0
            .tasks
            .spawn(async move { drop(node.0.renewals.renew(ids, until).await) });
        (state.revision(), answers)
    }
}
