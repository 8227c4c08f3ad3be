//! GrantLease and RevokeLease, and the steps by which other commands make and renew leases.

use std::sync::Arc;

use super::{
    Outcome, Rejection, RemoveReason, holdings::Holding, register::exceeds, snapshot::is_callers_own, work::Work,
};
use crate::model::{LeaseId, LeaseInfo, Ttl};

impl Work<'_> {
    /// Makes a shared lease, or renews the one of that id if its TTL is the same.
    pub(super) fn grant_lease(&mut self, lease_id: Option<LeaseId>, ttl: Ttl) -> Result<LeaseInfo, Rejection> {
        if let Some(lease_id) = lease_id {
            if !is_callers_own(lease_id) {
                return Err(Rejection::InvalidField {
                    path: "lease_id".into(),
                    problem: format!(
                        "must be {} to {}, or 0 for the next",
                        LeaseId::FIRST_OF_CALLERS,
                        i64::MAX
                    ),
                });
            }
            if let Some(row) = self.state.leases.row(lease_id) {
                if row.ttl != ttl {
                    let ttl = row.ttl;
                    return Err(Rejection::LeaseExists { lease_id, ttl });
                }
                let instances = row.instances;
                self.renew_with(lease_id, ttl);
                return Ok(granted(lease_id, ttl, instances));
            }
        }
        let limit = self.state.settings.max_leases;
        if exceeds(self.state.lease_count() + 1, limit) {
            return Err(Rejection::TooManyLeases { limit });
        }
        self.state.revision = self.next_revision();
        let lease_id = lease_id.unwrap_or_else(|| self.state.leases.take_next_id());
        self.insert_lease(lease_id, Holding::Shared(Arc::default()), ttl);
        Ok(granted(lease_id, ttl, 0))
    }

    /// Ends a lease, and what it holds with it. A missing one is no error.
    pub(super) fn revoke_lease(&mut self, lease_id: LeaseId) -> Outcome {
        let removed = self.end_lease(lease_id, RemoveReason::Revoked);
        Outcome::Revoked {
            existed: removed.is_some(),
            removed: removed.unwrap_or(0),
        }
    }

    /// A new lease, which lives for one TTL from now.
    pub(super) fn insert_lease(&mut self, id: LeaseId, holding: Holding, ttl: Ttl) {
        let deadline = self.state.clock.after(ttl.as_duration());
        self.state.leases.insert(id, holding, ttl, deadline);
        self.due.push(deadline, id);
    }

    /// Renews a lease, with a TTL that may differ from the one before.
    pub(super) fn renew_with(&mut self, id: LeaseId, ttl: Ttl) {
        if let Some(earlier) = self.state.leases.renew_with(id, ttl, self.state.clock) {
            self.due.push(earlier, id);
        }
    }
}

fn granted(lease_id: LeaseId, ttl: Ttl, instances: u32) -> LeaseInfo {
    LeaseInfo {
        lease_id,
        ttl,
        remaining: ttl.as_duration(),
        instances,
        own: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::Revision,
        registry::{
            Command, Renewal,
            fixture::{Desk, key, own, shared, spec, ttl},
        },
    };

    const MINE: LeaseId = LeaseId(LeaseId::FIRST_OF_CALLERS.0 + 5);

    fn grant(desk: &mut Desk, lease_id: LeaseId, seconds: u64) -> Result<Outcome, Rejection> {
        desk.run(Command::GrantLease {
            lease_id: Some(lease_id),
            ttl: ttl(seconds),
        })
    }

    fn revoke(desk: &mut Desk, lease_id: LeaseId) -> (bool, u32) {
        match desk.run(Command::RevokeLease { lease_id }) {
            Ok(Outcome::Revoked { existed, removed }) => (existed, removed),
            other => panic!("a RevokeLease answered {other:?}"),
        }
    }

    #[test]
    fn the_same_grant_again_renews_and_moves_no_revision() {
        let mut desk = Desk::default();
        grant(&mut desk, MINE, 5).unwrap();
        assert_eq!(desk.revision(), Revision(1));
        desk.now_ms = 4_000;
        let Ok(Outcome::Granted(lease)) = grant(&mut desk, MINE, 5) else {
            panic!("it is granted again");
        };
        assert_eq!(lease.remaining, ttl(5).as_duration());
        assert_eq!(desk.revision(), Revision(1));
        desk.pass(9_000);
        assert!(desk.registry.state().lease(MINE).is_some());
        desk.pass(9_001);
        assert_eq!(desk.registry.state().lease(MINE), None);
        assert_eq!(desk.revision(), Revision(2), "the end of a lease is a revision");
        assert!(grant(&mut desk, MINE, 7).is_ok(), "a caller's id is free again");
    }

    #[test]
    fn another_ttl_is_refused() {
        let mut desk = Desk::default();
        grant(&mut desk, MINE, 5).unwrap();
        let refused = Rejection::LeaseExists {
            lease_id: MINE,
            ttl: ttl(5),
        };
        assert_eq!(grant(&mut desk, MINE, 6), Err(refused));
    }

    #[test]
    fn ids_of_the_sequence_cannot_be_chosen() {
        let mut desk = Desk::default();
        desk.register(spec("api/a"), own(5)).unwrap();
        for id in [0, 1, 2, LeaseId::FIRST_OF_CALLERS.0 - 1, 1 << 63, u64::MAX] {
            let refused = grant(&mut desk, LeaseId(id), 5);
            assert!(matches!(refused, Err(Rejection::InvalidField { path, .. }) if path == "lease_id"));
        }
    }

    #[test]
    fn ids_are_never_given_twice() {
        let mut desk = Desk::default();
        let first = desk.grant(5);
        assert_eq!(revoke(&mut desk, first), (true, 0));
        assert_eq!(desk.grant(5), LeaseId(first.0 + 1));
    }

    #[test]
    fn a_revoke_removes_what_the_lease_holds_in_one_revision() {
        let mut desk = Desk::default();
        let lease = desk.grant(5);
        for name in ["web/b", "api/z", "web/a"] {
            desk.register(spec(name), shared(lease)).unwrap();
        }
        assert_eq!(revoke(&mut desk, lease), (true, 3));
        assert_eq!(desk.revision(), Revision(5));
        let keys: Vec<_> = desk.changes.iter().map(|change| change.key().clone()).collect();
        assert_eq!(keys, [key("api/z"), key("web/a"), key("web/b")]);
        assert!(
            desk.changes
                .iter()
                .all(|change| change.reason == Some(RemoveReason::Revoked))
        );
        assert_eq!(revoke(&mut desk, lease), (false, 0));
        assert_eq!(desk.revision(), Revision(5));
        assert_eq!(desk.renew(lease), Renewal::NotFound);
    }
}
