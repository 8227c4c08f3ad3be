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
    /// Renewals that came too late.
    pub too_late: Vec<Position>,
    /// Where and why it ended.
    pub end: Option<(Position, LeaseEnd)>,
}

/// Every lease by its id.
#[derive(Debug, Default)]
pub struct Leases(BTreeMap<i64, Lease>);

impl Leases {
    pub(super) fn begin(&mut self, id: i64, own: bool, at: Position, ttl_ms: u64) {
        let lease = Lease {
            own,
            renewals: vec![(at, ttl_ms)],
            too_late: Vec::new(),
            end: None,
        };
        self.0.insert(id, lease);
    }

    pub(super) fn renewed(&mut self, id: i64, at: Position, ttl_ms: u64) {
        if let Some(lease) = self.0.get_mut(&id) {
            lease.renewals.push((at, ttl_ms));
        }
    }

    pub(super) fn renewed_too_late(&mut self, id: i64, at: Position) {
        if let Some(lease) = self.0.get_mut(&id) {
            lease.too_late.push(at);
        }
    }

    pub(super) fn ended(&mut self, id: i64, at: Position, why: LeaseEnd) {
        if let Some(lease) = self.0.get_mut(&id) {
            lease.end = Some((at, why));
        }
    }

    /// One lease; `None` = it never was.
    #[must_use]
    pub fn get(&self, id: i64) -> Option<&Lease> {
        self.0.get(&id)
    }

    /// All of them, by id.
    pub fn iter(&self) -> impl Iterator<Item = (i64, &Lease)> {
        self.0.iter().map(|(id, lease)| (*id, lease))
    }
}
