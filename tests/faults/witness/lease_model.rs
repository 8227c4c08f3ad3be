//! An account of leases alone, from the rules in words: what is held by which, until when. It says which leases an
//! entry must end, and in which order, and it knows nothing of how the registry finds them.

use std::collections::{BTreeMap, BTreeSet};

use roster::registry::REMOVALS_PER_ENTRY;

use crate::history::Key;

#[derive(Debug)]
struct Live {
    own: bool,
    ttl_ms: u64,
    deadline_ns: u64,
    keys: BTreeSet<Key>,
}

/// The live leases.
#[derive(Debug, Default)]
pub(super) struct LeaseModel {
    clock_ns: u64,
    live: BTreeMap<u64, Live>,
    due: BTreeSet<(u64, u64)>,
}

impl LeaseModel {
    /// Lease time goes on; it never goes back.
    pub(super) fn advance(&mut self, stamp_ns: u64) -> u64 {
        self.clock_ns = self.clock_ns.max(stamp_ns);
        self.clock_ns
    }

    pub(super) fn is_live(&self, id: u64) -> bool {
        self.live.contains_key(&id)
    }

    pub(super) fn is_own(&self, id: u64) -> bool {
        self.live.get(&id).is_some_and(|lease| lease.own)
    }

    /// What a lease holds.
    pub(super) fn held(&self, id: u64) -> usize {
        self.live.get(&id).map_or(0, |lease| lease.keys.len())
    }

    /// Makes a lease, or renews it, for so long from now on (`None` = for as long as before). Says for how long, if
    /// there is one.
    pub(super) fn renew(&mut self, id: u64, ttl_ms: Option<u64>) -> Option<u64> {
        let clock = self.clock_ns;
        let lease = self.live.get_mut(&id)?;
        self.due.remove(&(lease.deadline_ns, id));
        lease.ttl_ms = ttl_ms.unwrap_or(lease.ttl_ms);
        lease.deadline_ns = clock.saturating_add(lease.ttl_ms.saturating_mul(1_000_000));
        self.due.insert((lease.deadline_ns, id));
        Some(lease.ttl_ms)
    }

    /// Makes a lease.
    pub(super) fn grant(&mut self, id: u64, own: bool, ttl_ms: u64) {
        let deadline_ns = self.clock_ns.saturating_add(ttl_ms.saturating_mul(1_000_000));
        let lease = Live {
            own,
            ttl_ms,
            deadline_ns,
            keys: BTreeSet::new(),
        };
        self.live.insert(id, lease);
        self.due.insert((deadline_ns, id));
    }

    /// It holds this too, from now on.
    pub(super) fn attach(&mut self, id: u64, key: &Key) {
        if let Some(lease) = self.live.get_mut(&id) {
            lease.keys.insert(key.clone());
        }
    }

    /// It does not hold this any more. Whether that was its end.
    pub(super) fn detach(&mut self, id: u64, key: &Key) -> bool {
        let Some(lease) = self.live.get_mut(&id) else {
            return false;
        };
        lease.keys.remove(key);
        let ends = lease.own;
        if ends {
            self.end(id);
        }
        ends
    }

    /// Ends it: what it held, if there was such a lease.
    pub(super) fn end(&mut self, id: u64) -> Option<BTreeSet<Key>> {
        let lease = self.live.remove(&id)?;
        self.due.remove(&(lease.deadline_ns, id));
        Some(lease.keys)
    }

    /// The leases that an entry must end now, in order.
    pub(super) fn due(&self) -> Vec<u64> {
        let (mut left, mut ends) = (REMOVALS_PER_ENTRY as usize, Vec::new());
        for (deadline, id) in &self.due {
            let removals = self.held(*id).max(1);
            if *deadline >= self.clock_ns || (removals > left && !ends.is_empty()) {
                break;
            }
            ends.push(*id);
            left = left.saturating_sub(removals);
        }
        ends
    }
}
