//! Which lease ends next.
//!
//! A heap of deadlines that is corrected only when an entry comes to its top: a renewal, which always moves a
//! deadline later, does not touch it. It keeps one rule: every lease has an entry at its deadline or before it. An
//! entry at the top whose lease was renewed moves to the deadline that now holds; one whose lease has ended is
//! dropped. What the heap answers depends on the leases alone, not on its own history, so it is no part of the
//! state and is built anew after a restart.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, binary_heap::PeekMut},
};

use super::leases::Leases;
use crate::model::{LeaseId, LeaseTime};

/// Entries beyond twice the live leases that a small heap may hold before it is rebuilt.
const SLACK: usize = 64;

/// The heap.
#[derive(Debug, Default)]
pub(super) struct DueHeap {
    heap: BinaryHeap<Reverse<(LeaseTime, LeaseId)>>,
}

impl DueHeap {
    /// One entry for each lease.
    pub(super) fn of(leases: &Leases) -> Self {
        let heap = leases
            .deadlines()
            .map(|(id, deadline)| Reverse((deadline, id)))
            .collect();
        Self { heap }
    }

    /// A lease is new, or ends earlier than before.
    pub(super) fn push(&mut self, deadline: LeaseTime, id: LeaseId) {
        self.heap.push(Reverse((deadline, id)));
    }

    /// The least (deadline, id) of all leases.
    pub(super) fn earliest(&mut self, leases: &Leases) -> Option<(LeaseTime, LeaseId)> {
        loop {
            let mut top = self.heap.peek_mut()?;
            let Reverse((deadline, id)) = *top;
            match leases.row(id).map(|row| row.deadline) {
                Some(actual) if actual == deadline => return Some((deadline, id)),
                Some(actual) => *top = Reverse((actual, id)),
                None => {
                    PeekMut::pop(top);
                }
            }
        }
    }

    /// Rebuilds the heap when more than half of it is out of date.
    pub(super) fn trim(&mut self, leases: &Leases) {
        if self.heap.len() > 2 * leases.len() + SLACK {
            *self = Self::of(leases);
        }
    }

    /// How many entries it holds.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.heap.len()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{model::Ttl, registry::holdings::Holding};

    fn grant(leases: &mut Leases, due: &mut DueHeap, deadline: u64) -> LeaseId {
        let id = leases.take_next_id();
        let ttl = Ttl::from_ms(1_000).unwrap();
        leases.insert(id, Holding::Shared(Arc::default()), ttl, LeaseTime(deadline));
        due.push(LeaseTime(deadline), id);
        id
    }

    #[test]
    fn the_earliest_deadline_comes_first_and_the_smaller_id_of_two() {
        let (mut leases, mut due) = (Leases::default(), DueHeap::default());
        grant(&mut leases, &mut due, 9);
        let second = grant(&mut leases, &mut due, 5);
        grant(&mut leases, &mut due, 5);
        assert_eq!(due.earliest(&leases), Some((LeaseTime(5), second)));
    }

    #[test]
    fn a_renewed_lease_moves_back_when_it_comes_to_the_top() {
        let (mut leases, mut due) = (Leases::default(), DueHeap::default());
        let first = grant(&mut leases, &mut due, 1);
        let second = grant(&mut leases, &mut due, 2);
        leases.renew(&[first], LeaseTime(1));
        assert_eq!(due.earliest(&leases), Some((LeaseTime(2), second)));
        leases.remove(second);
        assert_eq!(due.earliest(&leases), Some((LeaseTime(1_000_000_001), first)));
        leases.remove(first);
        assert_eq!(due.earliest(&leases), None);
    }

    #[test]
    fn ended_leases_do_not_pile_up() {
        let (mut leases, mut due) = (Leases::default(), DueHeap::default());
        grant(&mut leases, &mut due, 0);
        for n in 1..10_000 {
            let id = grant(&mut leases, &mut due, n);
            leases.remove(id);
            due.trim(&leases);
            assert!(due.len() <= 2 * leases.len() + SLACK);
        }
    }
}
