//! Deregister: removing a record at someone's request.

use super::{
    Deregister, Outcome, Rejection, RemoveReason,
    work::{Removal, Work, check_revision},
};

impl Work<'_> {
    /// Removes a record, and its own lease with it. A missing one, or one that another lease holds, is no error.
    pub(super) fn deregister(&mut self, command: &Deregister) -> Result<Outcome, Rejection> {
        let key = &command.key;
        let Some(record) = self.state.instance(key).cloned() else {
            self.end_life(command);
            return Ok(Outcome::Deregistered { existed: false });
        };
        if command.incarnation.0 > 0 {
            self.state.check_fence(Some(&record), key, command.incarnation)?;
        }
        if command.lease_id.is_some() && command.lease_id != record.lease_id() {
            return Ok(Outcome::Deregistered { existed: false });
        }
        check_revision(Some(&record), key, command.expected_mod_revision)?;
        let revision = self.next_revision();
        self.state.revision = revision;
        if let Some(lease_id) = record.lease_id() {
            self.state.leases.detach(lease_id, key);
        }
        let removal = Removal {
            reason: RemoveReason::Deregistered,
            ended_life: Some(command.incarnation),
        };
        self.remove(revision, key, removal);
        Ok(Outcome::Deregistered { existed: true })
    }

    /// The record is gone already, because its lease ended; now its owner says that this life is over, too. Then it
    /// must not come back by a Register that was sent before and arrives after. Only a fence that stands is raised:
    /// a Deregister of what never was leaves nothing behind.
    fn end_life(&mut self, command: &Deregister) {
        let clock = self.state.clock;
        let standing = self.state.fences.at(&command.key, clock);
        if standing.is_some_and(|refused| refused < command.incarnation) && command.lease_id.is_none() {
            let limit = self.state.settings.max_fences;
            self.state.fences.raise(&command.key, command.incarnation, clock, limit);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::{LeaseId, Revision},
        registry::{
            Command, Registered,
            fixture::{Desk, deregister, key, life, own, shared, spec},
        },
    };

    fn run(desk: &mut Desk, command: Deregister) -> Result<bool, Rejection> {
        match desk.run(Command::Deregister(command))? {
            Outcome::Deregistered { existed } => Ok(existed),
            other => panic!("a Deregister answered {other:?}"),
        }
    }

    #[test]
    fn a_record_goes_and_its_own_lease_with_it_in_one_revision() {
        let mut desk = Desk::default();
        desk.register(spec("api/a"), own(5)).unwrap();
        assert_eq!(run(&mut desk, deregister("api/a", 0)), Ok(true));
        assert_eq!(desk.revision(), Revision(2));
        assert_eq!(desk.registry.state().lease_count(), 0);
        assert_eq!(desk.changes[0].reason, Some(RemoveReason::Deregistered));
        assert_eq!(run(&mut desk, deregister("api/a", 0)), Ok(false));
        assert_eq!(desk.revision(), Revision(2));
    }

    #[test]
    fn a_shared_lease_stays_when_its_instance_goes() {
        let mut desk = Desk::default();
        let lease = desk.grant(5);
        desk.register(spec("api/a"), shared(lease)).unwrap();
        assert_eq!(run(&mut desk, deregister("api/a", 0)), Ok(true));
        assert_eq!(desk.registry.state().lease(lease).unwrap().instances, 0);
    }

    #[test]
    fn a_late_deregister_cannot_touch_the_successor() {
        let mut desk = Desk::default();
        desk.register(life("api/a", 8), own(5)).unwrap();
        assert!(matches!(
            run(&mut desk, deregister("api/a", 7)),
            Err(Rejection::Fenced { .. })
        ));
        assert!(desk.instance("api/a").is_some());
    }

    #[test]
    fn only_the_lease_that_holds_it_may_be_named() {
        let mut desk = Desk::default();
        desk.register(spec("api/a"), own(5)).unwrap();
        let by = |lease| Deregister {
            lease_id: Some(LeaseId(lease)),
            ..deregister("api/a", 0)
        };
        assert_eq!(run(&mut desk, by(9)), Ok(false));
        assert_eq!(run(&mut desk, by(1)), Ok(true));
    }

    #[test]
    fn another_revision_than_the_expected_is_refused() {
        let mut desk = Desk::default();
        desk.register(spec("api/a"), own(5)).unwrap();
        let at = |revision| Deregister {
            expected_mod_revision: Some(Revision(revision)),
            ..deregister("api/a", 0)
        };
        assert_eq!(
            run(&mut desk, at(9)),
            Err(Rejection::RevisionMismatch {
                key: key("api/a"),
                current: Revision(1)
            })
        );
        assert_eq!(run(&mut desk, at(1)), Ok(true));
    }

    #[test]
    fn a_deregister_after_the_expiry_still_ends_its_life() {
        let mut desk = Desk::default();
        desk.register(life("api/a", 7), own(5)).unwrap();
        assert_eq!(desk.pass(5_001), [key("api/a")]);
        assert_eq!(run(&mut desk, deregister("api/a", 7)), Ok(false));
        assert!(matches!(
            desk.register(life("api/a", 7), own(5)),
            Err(Rejection::Fenced { .. })
        ));
        assert_eq!(desk.register(life("api/a", 8), own(5)), Ok(Registered::Created));
    }

    #[test]
    fn a_deregister_of_what_never_was_leaves_nothing_behind() {
        let mut desk = Desk::default();
        assert_eq!(run(&mut desk, deregister("api/a", 7)), Ok(false));
        assert_eq!(desk.register(life("api/a", 7), own(5)), Ok(Registered::Created));
    }
}
