//! Requests of clients: one total function for each, from the message to values that need no more checking, or to
//! everything that is wrong with it.
//!
//! Every limit of [`crate::model::limits`] that a request can break is enforced here and nowhere later; what only the
//! state can tell (does the lease exist, is the cluster full) is the registry's.

mod leases;
mod reads;
mod watches;
mod writes;

pub use leases::{
    GetLease, ListLeases, MAX_LEASE_ID, Renew, get_lease, get_state_hash, grant_lease, list_leases, renew, revoke_lease,
};
pub use reads::{
    Consistency, Get, List, ListNamespaces, ListServices, Page, ReadOptions, get, list, list_namespaces, list_services,
};
pub use watches::{
    MAX_AGE_DEFAULT, MAX_AGE_MIN, PROGRESS_DEFAULT, PROGRESS_MAX, PROGRESS_MIN, Watch, WatchMany, WatchStart, watch,
    watch_many,
};
pub use writes::{BatchRegisterWithIds, batch_register, deregister, register, update};

#[cfg(test)]
mod tests;
