//! GrantLease, RevokeLease, GetLease, ListLeases, Renew; and GetStateHash, the one request of `Cluster` with a field.

use super::reads::{Page, ReadOptions};
use crate::{
    model::{LeaseId, LogIndex, limits::RENEWAL_IDS_MAX},
    registry::Command,
    wire::{
        FieldErrors,
        field::{Fields, Path},
        page_token::{After, request_hash},
        v1,
    },
};

/// The greatest id that a caller may choose.
pub const MAX_LEASE_ID: u64 = i64::MAX.unsigned_abs();

/// Reads a GrantLease.
///
/// # Errors
/// Everything that is wrong with it.
pub fn grant_lease(request: v1::GrantLeaseRequest) -> Result<Command, FieldErrors> {
    Fields::check(|fields| {
        let root = Path::Root;
        let path = root.field("lease_id");
        let first = LeaseId::FIRST_OF_CALLERS;
        let lease_id = match fields.number(&path, request.lease_id) {
            Some(0) => Some(None),
            Some(id) if id >= first.0 => Some(Some(LeaseId(id))),
            Some(_) => fields.refuse(
                &path,
                format_args!("must be 0 (one is given), or {first} (2^62) or more"),
            ),
            None => None,
        };
        let path = root.field("ttl");
        let ttl = fields
            .required(&path, request.ttl)
            .and_then(|ttl| fields.ttl(&path, ttl));
        Some(Command::GrantLease {
            lease_id: lease_id?,
            ttl: ttl?,
        })
    })
}

/// Reads a RevokeLease.
///
/// # Errors
/// It names no lease.
pub fn revoke_lease(request: &v1::RevokeLeaseRequest) -> Result<Command, FieldErrors> {
    Fields::check(|fields| {
        let lease_id = fields.lease_id(&Path::Root.field("lease_id"), request.lease_id)?;
        Some(Command::RevokeLease { lease_id })
    })
}

/// One lease and a page of what it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GetLease {
    /// Which.
    pub lease_id: LeaseId,
    /// How.
    pub read: ReadOptions,
    /// Which page; its token's `after` is an [`After::Held`].
    pub page: Page,
}

/// Reads a GetLease.
///
/// # Errors
/// Everything that is wrong with it.
pub fn get_lease(request: &v1::GetLeaseRequest) -> Result<GetLease, FieldErrors> {
    Fields::check(|fields| {
        let lease_id = fields.lease_id(&Path::Root.field("lease_id"), request.lease_id);
        let read = fields.read_options(request.read);
        let request_hash = request_hash("lease", &request.lease_id.to_be_bytes());
        let page = fields.page(request.page_size, &request.page_token, request_hash, |after| {
            matches!(after, After::Held(_))
        });
        Some(GetLease {
            lease_id: lease_id?,
            read: read?,
            page: page?,
        })
    })
}

/// Leases.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListLeases {
    /// How.
    pub read: ReadOptions,
    /// Which page; its token's `after` is an [`After::Lease`].
    pub page: Page,
}

/// Reads a ListLeases.
///
/// # Errors
/// Everything that is wrong with it.
pub fn list_leases(request: &v1::ListLeasesRequest) -> Result<ListLeases, FieldErrors> {
    Fields::check(|fields| {
        let read = fields.read_options(request.read);
        let request_hash = request_hash("leases", &[]);
        let page = fields.page(request.page_size, &request.page_token, request_hash, |after| {
            matches!(after, After::Lease(_))
        });
        Some(ListLeases {
            read: read?,
            page: page?,
        })
    })
}

/// Leases to renew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Renew {
    /// Echoed: which sending this is.
    pub seq: i64,
    /// Which, in the order asked; one may come twice. `None` where the number is no lease's: it is answered NOT_FOUND,
    /// for one lease's trouble is not the others'.
    pub lease_ids: Vec<Option<LeaseId>>,
    /// The numbers as they were sent, to be sent back.
    pub asked: Vec<i64>,
}

/// Reads a Renew.
///
/// # Errors
/// Too many ids.
pub fn renew(request: v1::RenewRequest) -> Result<Renew, FieldErrors> {
    Fields::check(|fields| {
        fields.at_most(&Path::Root.field("lease_ids"), request.lease_ids.len(), RENEWAL_IDS_MAX)?;
        let lease_id = |id: &i64| u64::try_from(*id).ok().filter(|&id| id > 0).map(LeaseId);
        Some(Renew {
            seq: request.seq,
            lease_ids: request.lease_ids.iter().map(lease_id).collect(),
            asked: request.lease_ids,
        })
    })
}

/// Reads a GetStateHash: the applied index that is asked for; `None` = the present one.
///
/// # Errors
/// A negative index.
pub fn get_state_hash(request: &v1::GetStateHashRequest) -> Result<Option<LogIndex>, FieldErrors> {
    Fields::check(|fields| {
        let index = fields.number(&Path::Root.field("at_index"), request.at_index)?;
        Some((index > 0).then_some(LogIndex(index)))
    })
}

impl Fields {
    /// The id of a lease that is meant to exist.
    pub(super) fn lease_id(&mut self, path: &Path<'_>, id: i64) -> Option<LeaseId> {
        match u64::try_from(id) {
            Ok(id) if id > 0 => Some(LeaseId(id)),
            _ => self.refuse(path, format_args!("is {id}; the id of a lease is 1 or more")),
        }
    }
}
