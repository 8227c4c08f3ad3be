//! What each lease holds, by its id.
//!
//! Ids that the state machine gave come in sequence, and a map that is filled in sequence is left half empty. So they
//! are paged, as the deadline table is: fifteen holdings with their counts fill a block of 256 bytes. Ids that callers
//! chose lie anywhere and stand in a sparse map.

use std::{ops::Bound, sync::Arc};

use imbl::{OrdMap, OrdSet};

use crate::model::{InstanceKey, LeaseId};

/// Holdings of a page.
const PAGE_HOLDINGS: usize = 15;

/// What a lease holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Holding {
    /// An own lease: its instance.
    Own(InstanceKey),
    /// A shared lease: its instances. Of many leases few are shared, so that what these need takes no room in all.
    Shared(Arc<OrdSet<InstanceKey>>),
}

impl Holding {
    /// How many.
    pub(super) fn len(&self) -> u32 {
        match self {
            Self::Own(_) => 1,
            Self::Shared(keys) => u32::try_from(keys.len()).unwrap_or(u32::MAX),
        }
    }

    /// In order.
    pub(super) fn keys(&self) -> Vec<InstanceKey> {
        match self {
            Self::Own(key) => vec![key.clone()],
            Self::Shared(keys) => keys.iter().cloned().collect(),
        }
    }
}

type Page = [Option<Holding>; PAGE_HOLDINGS];

/// All leases' holdings.
#[derive(Clone, Debug, Default)]
pub(super) struct Holdings {
    pages: OrdMap<u64, Arc<Page>>,
    callers: OrdMap<LeaseId, Holding>,
    count: usize,
}

/// Which page, and which slot of it.
fn split(id: LeaseId) -> (u64, usize) {
    let holdings = PAGE_HOLDINGS as u64;
    let slot = usize::try_from(id.0 % holdings).expect("a remainder by 15 is below 15");
    (id.0 / holdings, slot)
}

impl Holdings {
    /// Of how many leases.
    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// What a lease holds, if there is such a lease.
    pub(super) fn get(&self, id: LeaseId) -> Option<&Holding> {
        if id >= LeaseId::FIRST_OF_CALLERS {
            return self.callers.get(&id);
        }
        let (number, slot) = split(id);
        self.pages.get(&number)?[slot].as_ref()
    }

    /// What a lease holds, to be changed.
    pub(super) fn get_mut(&mut self, id: LeaseId) -> Option<&mut Holding> {
        if id >= LeaseId::FIRST_OF_CALLERS {
            return self.callers.get_mut(&id);
        }
        let (number, slot) = split(id);
        // A page is copied only for a lease that it has.
        let page = self.pages.get_mut(&number).filter(|page| page[slot].is_some())?;
        Arc::make_mut(page)[slot].as_mut()
    }

    /// A new lease.
    pub(super) fn insert(&mut self, id: LeaseId, holding: Holding) {
        let before = if id >= LeaseId::FIRST_OF_CALLERS {
            self.callers.insert(id, holding)
        } else {
            let (number, slot) = split(id);
            let page = self.pages.entry(number).or_default();
            Arc::make_mut(page)[slot].replace(holding)
        };
        self.count += usize::from(before.is_none());
    }

    /// A lease has ended: what it held, if it was there.
    pub(super) fn remove(&mut self, id: LeaseId) -> Option<Holding> {
        let held = if id >= LeaseId::FIRST_OF_CALLERS {
            self.callers.remove(&id)?
        } else {
            let (number, slot) = split(id);
            let page = self.pages.get_mut(&number).filter(|page| page[slot].is_some())?;
            let page = Arc::make_mut(page);
            let held = page[slot].take()?;
            if page.iter().all(Option::is_none) {
                self.pages.remove(&number);
            }
            held
        };
        self.count -= 1;
        Some(held)
    }

    /// All after one, by id.
    pub(super) fn after(&self, after: Option<LeaseId>) -> impl Iterator<Item = (LeaseId, &Holding)> {
        let first = after.map_or(0, |id| split(id).0);
        let paged = self.pages.range(first..).flat_map(|(number, page)| {
            let ids = (number * PAGE_HOLDINGS as u64..).map(LeaseId);
            ids.zip(page.iter()).filter_map(|(id, held)| Some((id, held.as_ref()?)))
        });
        let lower = after.map_or(Bound::Unbounded, Bound::Excluded);
        let callers = self.callers.range((lower, Bound::Unbounded));
        paged
            .skip_while(move |(id, _)| after.is_some_and(|after| *id <= after))
            .chain(callers.map(|(id, held)| (*id, held)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{InstanceId, Namespace, ServiceName};

    const CALLERS: LeaseId = LeaseId(LeaseId::FIRST_OF_CALLERS.0 + 12_345);

    fn own(id: LeaseId) -> Holding {
        Holding::Own(InstanceKey::new(
            Namespace::default(),
            ServiceName::parse("api").unwrap(),
            InstanceId::parse(&id.0.to_string()).unwrap(),
        ))
    }

    fn of(ids: &[u64]) -> Holdings {
        let mut holdings = Holdings::default();
        for id in ids.iter().copied().map(LeaseId) {
            holdings.insert(id, own(id));
        }
        holdings
    }

    fn ids(holdings: &Holdings, after: Option<u64>) -> Vec<u64> {
        holdings.after(after.map(LeaseId)).map(|(id, _)| id.0).collect()
    }

    #[test]
    fn a_page_fills_its_block() {
        // With the two counts of an Arc.
        assert_eq!(size_of::<Page>() + 16, 256);
    }

    #[test]
    fn holdings_stand_where_they_were_put() {
        let all = [1, 14, 15, 16, 1_000, CALLERS.0];
        let mut holdings = of(&all);
        assert_eq!(holdings.len(), 6);
        for id in all.map(LeaseId) {
            assert_eq!(holdings.get(id), Some(&own(id)));
            assert_eq!(holdings.get_mut(id), Some(&mut own(id)));
        }
        for id in [0, 2, 17, 70_000, CALLERS.0 - 1, CALLERS.0 + 1].map(LeaseId) {
            assert_eq!(holdings.get(id), None);
            assert_eq!(holdings.get_mut(id), None);
            assert_eq!(holdings.remove(id), None);
        }
        holdings.insert(LeaseId(15), own(LeaseId(14)));
        assert_eq!(holdings.len(), 6, "it stood there already");
        assert_eq!(holdings.remove(LeaseId(15)), Some(own(LeaseId(14))));
        assert_eq!(holdings.remove(CALLERS), Some(own(CALLERS)));
        assert_eq!(holdings.len(), 4);
    }

    #[test]
    fn all_after_one_come_in_the_order_of_their_ids() {
        let all = [1, 14, 15, 16, 45, 1_000, CALLERS.0, CALLERS.0 + 1];
        let holdings = of(&all);
        assert_eq!(ids(&holdings, None), all);
        for after in [0, 1, 2, 14, 15, 29, 45, 999, 1_000, 5_000, CALLERS.0, CALLERS.0 + 9] {
            let expected: Vec<u64> = all.into_iter().filter(|id| *id > after).collect();
            assert_eq!(ids(&holdings, Some(after)), expected, "after {after}");
        }
    }

    #[test]
    fn a_page_without_leases_is_freed() {
        let mut holdings = of(&(1..=100).collect::<Vec<_>>());
        assert_eq!(holdings.pages.len(), 7);
        for id in (1..=100).filter(|id| *id != 50).map(LeaseId) {
            holdings.remove(id);
        }
        assert_eq!((holdings.pages.len(), holdings.len()), (1, 1));
        holdings.remove(LeaseId(50));
        assert_eq!((holdings.pages.len(), holdings.len()), (0, 0));
    }

    #[test]
    fn a_change_leaves_older_versions_as_they_are() {
        let mut holdings = of(&[1, 2, CALLERS.0]);
        let older = holdings.clone();
        holdings.remove(LeaseId(1));
        *holdings.get_mut(LeaseId(2)).unwrap() = own(LeaseId(9));
        holdings.insert(LeaseId(3), own(LeaseId(3)));
        assert_eq!(ids(&older, None), [1, 2, CALLERS.0]);
        assert_eq!(older.get(LeaseId(2)), Some(&own(LeaseId(2))));
    }
}
