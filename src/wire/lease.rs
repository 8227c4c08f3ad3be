//! Leases: `roster.v1.Lease` and the results of renewals.

use super::{span::span_to_proto, v1};
use crate::{
    model::{LeaseId, LeaseInfo},
    registry::Renewal,
};

/// A lease as the API carries it.
#[must_use]
pub fn lease_to_proto(lease: &LeaseInfo) -> v1::Lease {
    v1::Lease {
        lease_id: lease.lease_id.as_i64(),
        ttl: Some(span_to_proto(lease.ttl.as_duration())),
        remaining: Some(span_to_proto(lease.remaining)),
        instances: count_to_proto(lease.instances),
        own: lease.own,
    }
}

/// What became of one renewal; `None` = it was not committed in time.
#[must_use]
pub fn renewal_to_proto(lease_id: LeaseId, renewal: Option<Renewal>) -> v1::RenewResult {
    use v1::renew_result::Outcome;
    let (outcome, ttl, instances) = match renewal {
        Some(Renewal::Renewed { ttl, instances }) => (Outcome::Renewed, Some(ttl), instances),
        Some(Renewal::NotFound) => (Outcome::NotFound, None, 0),
        None => (Outcome::Unconfirmed, None, 0),
    };
    v1::RenewResult {
        lease_id: lease_id.as_i64(),
        outcome: outcome.into(),
        ttl: ttl.map(|ttl| span_to_proto(ttl.as_duration())),
        instances: count_to_proto(instances),
    }
}

/// A count as the API carries it, whose counts are `int32`. No limit lets one grow beyond.
#[must_use]
pub fn count_to_proto(count: u32) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}
