//! Applying an entry: lease time and renewals, then the leases that are due, then the commands.

use super::{Applied, Entry, RemoveReason, State, due::DueHeap, work::Work};
use crate::model::LeaseTime;

/// Most instances that one entry removes because their leases are due; at least one lease ends, whatever it holds.
/// A lease without instances counts as one. The rest waits for the next entry, so that a mass expiry neither holds
/// up what comes behind it nor makes an entry's changes many: with a thousand, a renewal behind such an entry took three
/// times as long as otherwise. All nodes must have the same number: it decides what the state is.
pub const REMOVALS_PER_ENTRY: u32 = 250;

/// How much longer the plant lets leases live.
#[cfg(feature = "failpoints")]
const OVERTIME: std::time::Duration = std::time::Duration::from_secs(5);

/// The state machine: the current [`State`], and which lease is due next.
#[derive(Debug, Default)]
pub struct Registry {
    state: State,
    due: DueHeap,
}

impl Registry {
    /// An empty registry.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Goes on from a restored state.
    #[must_use]
    pub fn from_state(state: State) -> Self {
        let due = DueHeap::of(&state.leases);
        Self { state, due }
    }

    /// Applies one entry. Deterministic; cannot fail for a reason outside its input.
    ///
    /// 1. The clock becomes the larger of itself and the stamp, and the renewals are renewed from it: from the
    ///    clock, not from the stamp, which a new leader may have taken lower.
    /// 2. Leases whose deadline lies before the clock end, by (deadline, id), within [`REMOVALS_PER_ENTRY`]. One
    ///    that waits its turn is alive: listed, renewable.
    /// 3. The commands run.
    pub fn apply(&mut self, entry: &Entry) -> Applied {
        let state = &mut self.state;
        state.clock = state.clock.max(entry.stamp);
        let renewals = state.leases.renew(&entry.renewals, state.clock);
        state.fences.drop_old(state.clock);
        let mut work = Work {
            state,
            due: &mut self.due,
            wall_ms: entry.wall_ms,
            changes: Vec::new(),
        };
        work.end_due_leases();
        let replies = entry.commands.iter().map(|command| work.run(command)).collect();
        let changes = work.changes;
        self.due.trim(&self.state.leases);
        Applied {
            renewals,
            replies,
            changes,
            revision: self.state.revision,
        }
    }

    /// One consistent version; cheap to clone.
    #[must_use]
    pub fn state(&self) -> &State {
        &self.state
    }

    /// The earliest deadline of any lease, if there are leases.
    pub fn next_deadline(&mut self) -> Option<LeaseTime> {
        self.due.earliest(&self.state.leases).map(|(deadline, _)| deadline)
    }
}

impl Work<'_> {
    fn end_due_leases(&mut self) {
        let mut left = REMOVALS_PER_ENTRY;
        while let Some((deadline, id)) = self.due.earliest(&self.state.leases) {
            let removals = self.state.leases.row(id).map_or(0, |row| row.instances).max(1);
            // Plant: leases live longer than they may.
            planted!("lease-outlives-its-deadline", let deadline = deadline.after(OVERTIME));
            let is_first = left == REMOVALS_PER_ENTRY;
            if deadline >= self.state.clock || (removals > left && !is_first) {
                return;
            }
            self.end_lease(id, RemoveReason::Expired);
            left = left.saturating_sub(removals);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::{Hold, LeaseId, Revision},
        registry::{
            Command, Register, Renewal,
            fixture::{Desk, key, own, shared, spec, ttl},
        },
    };

    #[test]
    fn a_lease_lives_through_its_deadline_and_ends_after_it() {
        let mut desk = Desk::default();
        desk.register(spec("api/a"), own(5)).unwrap();
        assert_eq!(desk.registry.next_deadline(), Some(LeaseTime(5_000_000_000)));
        assert!(desk.pass(5_000).is_empty());
        assert_eq!(desk.pass(5_001), [key("api/a")]);
        assert_eq!(desk.registry.next_deadline(), None);
    }

    #[test]
    fn a_renewal_in_the_entry_that_would_end_the_lease_saves_it() {
        let mut desk = Desk::default();
        desk.register(spec("api/a"), own(5)).unwrap();
        desk.now_ms = 7_000;
        let renewed = Renewal::Renewed {
            ttl: ttl(5),
            instances: 1,
        };
        assert_eq!(desk.renew(LeaseId(1)), renewed);
        assert_eq!(desk.pass(12_001), [key("api/a")], "from the clock of that entry");
        assert_eq!(desk.renew(LeaseId(1)), Renewal::NotFound);
    }

    #[test]
    fn a_lower_stamp_neither_moves_the_clock_back_nor_shortens_a_renewal() {
        let mut desk = Desk::default();
        desk.register(spec("api/a"), own(5)).unwrap();
        desk.pass(4_000);
        desk.now_ms = 1_000;
        desk.renew(LeaseId(1));
        assert_eq!(desk.registry.state().clock(), LeaseTime(4_000_000_000));
        assert!(desk.pass(9_000).is_empty());
        assert_eq!(desk.pass(9_001), [key("api/a")]);
    }

    #[test]
    fn leases_due_at_once_end_by_deadline_then_id_each_in_its_revision() {
        let mut desk = Desk::default();
        desk.register(spec("api/c"), own(3)).unwrap();
        desk.register(spec("api/b"), own(2)).unwrap();
        desk.register(spec("api/a"), own(3)).unwrap();
        assert_eq!(desk.pass(9_000), [key("api/b"), key("api/c"), key("api/a")]);
        let revisions: Vec<u64> = desk.changes.iter().map(|change| change.revision.0).collect();
        assert_eq!(revisions, [4, 5, 6]);
    }

    #[test]
    fn an_entry_ends_so_many_and_those_that_wait_are_alive() {
        let mut desk = Desk::default();
        let many = u64::from(REMOVALS_PER_ENTRY) + 1;
        let register = |n: u64| {
            Command::Register(Register {
                instance: spec(&format!("api/i{n:05}")),
                hold: own(2),
                expected_mod_revision: None,
            })
        };
        desk.apply(&[], (0..many).map(register).collect());
        assert_eq!(desk.pass(3_000).len(), REMOVALS_PER_ENTRY as usize);
        let last = LeaseId(many);
        assert!(
            desk.registry
                .next_deadline()
                .is_some_and(|next| next < LeaseTime(3_000_000_000))
        );
        assert!(
            matches!(desk.renew(last), Renewal::Renewed { .. }),
            "it waited, and was renewed"
        );
        assert!(desk.pass(5_000).is_empty());
        assert_eq!(desk.pass(5_001).len(), 1);
    }

    #[test]
    fn a_lease_that_holds_more_than_an_entry_removes_still_ends_whole() {
        let mut desk = Desk::default();
        let lease = desk.grant(2);
        let many = REMOVALS_PER_ENTRY as usize + 500;
        let register = |n: usize| {
            Command::Register(Register {
                instance: spec(&format!("api/i{n:05}")),
                hold: shared(lease),
                expected_mod_revision: None,
            })
        };
        desk.apply(&[], (0..many).map(register).collect());
        desk.register(spec("web/a"), own(2)).unwrap();
        assert_eq!(desk.pass(3_000).len(), many);
        assert!(
            desk.changes
                .iter()
                .all(|change| change.revision == desk.changes[0].revision)
        );
        assert_eq!(desk.pass(3_000), [key("web/a")]);
    }

    #[test]
    fn leases_without_instances_end_within_the_same_limit() {
        let mut desk = Desk::default();
        let grant = Command::GrantLease {
            lease_id: None,
            ttl: ttl(2),
        };
        let (limit, left) = (REMOVALS_PER_ENTRY as usize, 100);
        desk.apply(&[], vec![grant; limit + left]);
        assert!(desk.pass(3_000).is_empty());
        assert_eq!(desk.registry.state().lease_count(), left);
        // One for each grant, and for each end.
        let changes = 2 * limit + left;
        assert_eq!(desk.revision(), Revision(changes as u64));
    }

    #[test]
    fn commands_see_what_those_before_them_did() {
        let mut desk = Desk::default();
        let register = |hold| {
            Command::Register(Register {
                instance: spec("api/a"),
                hold,
                expected_mod_revision: None,
            })
        };
        let applied = desk.apply(
            &[LeaseId(1)],
            vec![
                register(own(5)),
                Command::RevokeLease { lease_id: LeaseId(1) },
                register(Hold::Permanent),
            ],
        );
        assert_eq!(applied.renewals, [Renewal::NotFound], "renewals come before commands");
        let revisions: Vec<u64> = applied.replies.iter().map(|reply| reply.revision.0).collect();
        assert_eq!(revisions, [1, 2, 3]);
        assert_eq!(applied.changes.len(), 3);
    }

    #[test]
    fn a_restored_registry_goes_on_where_the_other_stands() {
        let mut desk = Desk::default();
        desk.register(spec("api/a"), own(5)).unwrap();
        desk.now_ms = 3_000;
        desk.renew(LeaseId(1));
        let mut restored = Desk {
            registry: Registry::from_state(desk.registry.state().clone()),
            ..Desk::default()
        };
        assert!(restored.pass(8_000).is_empty());
        assert_eq!(restored.pass(8_001), [key("api/a")]);
    }
}
