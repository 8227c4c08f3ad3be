//! The history of every lease.

use std::collections::BTreeMap;

use super::Position;

/// Why a lease ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseEnd {
    /// For want of renewal.
    Expired,
    /// At someone's request.
    Revoked,
    /// An own lease whose instance went, or went to another holder.
    Released,
}

/// One lease.
#[derive(Clone, Debug)]
pub struct Lease {
    /// Made with an instance, and ends with it.
    pub own: bool,
    /// Its beginning and every renewal of it: where, and for how many milliseconds from there.
    pub renewals: Vec<(Position, u64)>,
    /// Where and why it ended.
    pub end: Option<(Position, LeaseEnd)>,
}

/// Every lease by its id.
#[derive(Debug, Default)]
pub struct Leases {
    known: BTreeMap<i64, Lease>,
    /// Leases that had ended when a caller's Grant, sent again, made another one of the same id.
    former: Vec<(i64, Lease)>,
    /// Renewals that came before there was such a lease, or after.
    refused: BTreeMap<i64, Vec<Position>>,
}

impl Leases {
    pub(super) fn begin(&mut self, id: i64, own: bool, at: Position, ttl_ms: u64) {
        let lease = Lease {
            own,
            renewals: vec![(at, ttl_ms)],
            end: None,
        };
        let former = self.known.insert(id, lease);
        self.former.extend(former.map(|former| (id, former)));
    }

    pub(super) fn renewed(&mut self, id: i64, at: Position, ttl_ms: u64) {
        if let Some(lease) = self.known.get_mut(&id) {
            lease.renewals.push((at, ttl_ms));
        }
    }

    pub(super) fn refused(&mut self, id: i64, at: Position) {
        self.refused.entry(id).or_default().push(at);
    }

    pub(super) fn ended(&mut self, id: i64, at: Position, why: LeaseEnd) {
        if let Some(lease) = self.known.get_mut(&id) {
            lease.end = Some((at, why));
        }
    }

    /// Where renewals of a lease found none.
    #[must_use]
    pub fn refusals(&self, id: i64) -> &[Position] {
        self.refused.get(&id).map_or(&[], Vec::as_slice)
    }

    /// One lease, the last one of that id; `None` = it never was.
    #[must_use]
    pub fn get(&self, id: i64) -> Option<&Lease> {
        self.known.get(&id)
    }

    /// All that lived at a revision, by id. `had` says whether an event had happened by then.
    #[must_use]
    pub fn live(&self, had: impl Fn(Position) -> bool) -> BTreeMap<i64, &Lease> {
        let former = self.former.iter().map(|(id, lease)| (*id, lease));
        let live = |(_, lease): &(i64, &Lease)| {
            let began = lease.renewals.first().is_some_and(|(place, _)| had(*place));
            began && !lease.end.is_some_and(|(place, _)| had(place))
        };
        former.chain(self.iter()).filter(live).collect()
    }

    /// The last one of each id, by id.
    pub fn iter(&self) -> impl Iterator<Item = (i64, &Lease)> {
        self.known.iter().map(|(id, lease)| (*id, lease))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_and_its_successor_of_the_same_id_live_each_in_its_time() {
        let mut leases = Leases::default();
        leases.begin(7, false, 2, 1_000);
        leases.ended(7, 4, LeaseEnd::Expired);
        leases.begin(7, false, 6, 2_000);
        let ttl_at = |now: Position| {
            let live = leases.live(|place| place <= now);
            live.get(&7).map(|lease| lease.renewals[0].1)
        };
        assert_eq!([1, 2, 3].map(ttl_at), [None, Some(1_000), Some(1_000)]);
        assert_eq!([4, 5].map(ttl_at), [None, None]);
        assert_eq!([6, 9].map(ttl_at), [Some(2_000), Some(2_000)]);
    }
}
