//! The leases: who they are, what each of them holds, when they end.
//!
//! An *own lease* was made with one instance and lives as long as it holds it. A *shared lease* was granted by
//! itself, holds any number, and lives on when it holds none.

use std::sync::Arc;

use super::{
    Renewal,
    deadlines::{Deadlines, Row},
    holdings::{Holding, Holdings},
};
use crate::model::{InstanceKey, LeaseId, LeaseTime, Ttl};

/// All leases.
#[derive(Clone, Debug)]
pub(super) struct Leases {
    next_id: LeaseId,
    holdings: Holdings,
    deadlines: Deadlines,
}

impl Default for Leases {
    fn default() -> Self {
        Self::beginning_with(LeaseId(1))
    }
}

impl Leases {
    /// No leases yet; the next one in sequence gets this id.
    pub(super) fn beginning_with(next_id: LeaseId) -> Self {
        Self {
            next_id,
            holdings: Holdings::default(),
            deadlines: Deadlines::default(),
        }
    }

    /// The id of the next lease in sequence.
    pub(super) fn next_id(&self) -> LeaseId {
        self.next_id
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.holdings.len()
    }

    /// What a lease holds, if there is such a lease.
    pub(super) fn holding(&self, id: LeaseId) -> Option<&Holding> {
        self.holdings.get(id)
    }

    /// Its row in the deadline table.
    pub(super) fn row(&self, id: LeaseId) -> Option<&Row> {
        self.deadlines.row(id)
    }

    /// All after one, by id.
    pub(super) fn after(&self, after: Option<LeaseId>) -> impl Iterator<Item = (LeaseId, &Holding, &Row)> {
        let from = self.holdings.after(after);
        from.filter_map(|(id, holding)| Some((id, holding, self.deadlines.row(id)?)))
    }

    /// Every lease's deadline, by id.
    pub(super) fn deadlines(&self) -> impl Iterator<Item = (LeaseId, LeaseTime)> {
        self.deadlines.iter().map(|(id, row)| (id, row.deadline))
    }

    /// Takes the next id of the sequence.
    pub(super) fn take_next_id(&mut self) -> LeaseId {
        let id = self.next_id;
        self.next_id = LeaseId(id.0 + 1);
        id
    }

    /// A new lease. The id is free.
    pub(super) fn insert(&mut self, id: LeaseId, holding: Holding, ttl: Ttl, deadline: LeaseTime) {
        let instances = holding.len();
        self.holdings.insert(id, holding);
        self.deadlines.insert(
            id,
            Row {
                deadline,
                ttl,
                instances,
            },
        );
    }

    /// Ends a lease: what it held, and whether it was there.
    pub(super) fn remove(&mut self, id: LeaseId) -> Option<Holding> {
        self.deadlines.remove(id);
        self.holdings.remove(id)
    }

    /// Renews many; one answer for each.
    pub(super) fn renew(&mut self, ids: &[LeaseId], clock: LeaseTime) -> Vec<Renewal> {
        self.deadlines.renew(ids, clock)
    }

    /// Renews one, with a TTL that may differ from the one before. Returns the new deadline if it is earlier than
    /// the old one, which only a shorter TTL makes.
    pub(super) fn renew_with(&mut self, id: LeaseId, ttl: Ttl, clock: LeaseTime) -> Option<LeaseTime> {
        let row = self.deadlines.row_mut(id)?;
        let before = row.deadline;
        row.ttl = ttl;
        row.deadline = clock.after(ttl.as_duration());
        (row.deadline < before).then_some(row.deadline)
    }

    /// A shared lease holds one more.
    pub(super) fn attach(&mut self, id: LeaseId, key: InstanceKey) {
        if let Some(Holding::Shared(keys)) = self.holdings.get_mut(id) {
            Arc::make_mut(keys).insert(key);
            self.recount(id);
        }
    }

    /// A lease no longer holds this instance; an own lease ends with that.
    pub(super) fn detach(&mut self, id: LeaseId, key: &InstanceKey) {
        match self.holdings.get_mut(id) {
            Some(Holding::Own(own)) if own == key => {
                self.remove(id);
            }
            Some(Holding::Shared(keys)) => {
                Arc::make_mut(keys).remove(key);
                self.recount(id);
            }
            Some(Holding::Own(_)) | None => {}
        }
    }

    fn recount(&mut self, id: LeaseId) {
        let instances = self.holdings.get(id).map_or(0, Holding::len);
        if let Some(row) = self.deadlines.row_mut(id) {
            row.instances = instances;
        }
    }

    /// Whether holdings and deadline table name the same leases and counts.
    pub(super) fn check(&self) -> Result<(), String> {
        let mut rows = self.deadlines.iter();
        for (id, holding) in self.holdings.after(None) {
            match rows.next() {
                Some((row_id, row)) if row_id == id && row.instances == holding.len() => {}
                other => return Err(format!("lease {id} holds {}, its row is {other:?}", holding.len())),
            }
            if id >= self.next_id && id < LeaseId::FIRST_OF_CALLERS {
                return Err(format!("lease {id} was never given: the next is {}", self.next_id));
            }
        }
        rows.next()
            .map_or(Ok(()), |(id, _)| Err(format!("row {id} has no lease")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{InstanceId, Namespace, ServiceName};

    fn key(id: &str) -> InstanceKey {
        InstanceKey::new(
            Namespace::default(),
            ServiceName::parse("api").unwrap(),
            InstanceId::parse(id).unwrap(),
        )
    }

    fn ttl(ms: u64) -> Ttl {
        Ttl::from_ms(ms).unwrap()
    }

    #[test]
    fn an_own_lease_ends_with_its_instance() {
        let mut leases = Leases::default();
        let id = leases.take_next_id();
        leases.insert(id, Holding::Own(key("a")), ttl(1_000), LeaseTime(9));
        leases.detach(id, &key("b"));
        assert_eq!(leases.len(), 1, "it never held b");
        leases.detach(id, &key("a"));
        assert_eq!(leases.len(), 0);
        assert_eq!(leases.row(id), None);
        assert_eq!(leases.check(), Ok(()));
    }

    #[test]
    fn a_shared_lease_lives_on_with_nothing_to_hold() {
        let mut leases = Leases::default();
        let id = leases.take_next_id();
        leases.insert(id, Holding::Shared(Arc::default()), ttl(1_000), LeaseTime(9));
        leases.attach(id, key("b"));
        leases.attach(id, key("a"));
        leases.attach(id, key("a"));
        assert_eq!(leases.holding(id).map(Holding::keys), Some(vec![key("a"), key("b")]));
        assert_eq!(leases.row(id).map(|row| row.instances), Some(2));
        leases.detach(id, &key("a"));
        leases.detach(id, &key("b"));
        assert_eq!(leases.row(id).map(|row| row.instances), Some(0));
        assert_eq!(leases.check(), Ok(()));
    }

    #[test]
    fn a_renewal_with_a_shorter_ttl_tells_that_the_deadline_is_earlier() {
        let mut leases = Leases::default();
        let id = leases.take_next_id();
        leases.insert(id, Holding::Own(key("a")), ttl(5_000), LeaseTime(5_000_000_000));
        assert_eq!(leases.renew_with(id, ttl(5_000), LeaseTime(1)), None);
        let earlier = leases.renew_with(id, ttl(1_000), LeaseTime(2));
        assert_eq!(earlier, Some(LeaseTime(1_000_000_002)));
        assert_eq!(leases.renew_with(LeaseId(77), ttl(1_000), LeaseTime(2)), None);
    }

    #[test]
    fn ids_are_given_in_sequence() {
        let mut leases = Leases::default();
        assert_eq!(leases.take_next_id(), LeaseId(1));
        assert_eq!(leases.take_next_id(), LeaseId(2));
        assert_eq!(leases.next_id(), LeaseId(3));
    }
}
