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
        self.known.insert(id, lease);
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

    /// One lease; `None` = it never was.
    #[must_use]
    pub fn get(&self, id: i64) -> Option<&Lease> {
        self.known.get(&id)
    }

    /// All of them, by id.
    pub fn iter(&self) -> impl Iterator<Item = (i64, &Lease)> {
        self.known.iter().map(|(id, lease)| (*id, lease))
    }
}
