//! The deadline table: when each lease ends, how long a renewal extends it, and how many instances it holds.
//!
//! Renewals are by far the most frequent writes, so their table is built for them. Ids that the state machine gave
//! come in sequence: the table is paged by them, 64 rows a page, and a page is copied when it is written while an
//! older version of the state still shares it. A million renewals in ascending order touch each page once. Pages
//! that hold no lease any more are freed. Ids that callers chose lie anywhere and stand in a sparse map.

use std::sync::Arc;

use imbl::OrdMap;

use super::Renewal;
use crate::model::{LeaseId, LeaseTime, Ttl};

/// Rows of a page: as many as its bitmap has bits.
const PAGE_ROWS: usize = 64;

/// One lease's row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Row {
    /// The last instant at which it is certainly alive.
    pub(super) deadline: LeaseTime,
    /// What a renewal gives it.
    pub(super) ttl: Ttl,
    /// How many instances it holds.
    pub(super) instances: u32,
}

impl Row {
    /// What stands where no lease is; never read.
    const VACANT: Self = Self {
        deadline: LeaseTime(0),
        ttl: Ttl::DEFAULT,
        instances: 0,
    };

    fn renew(&mut self, clock: LeaseTime) -> Renewal {
        self.deadline = clock.after(self.ttl.as_duration());
        Renewal::Renewed {
            ttl: self.ttl,
            instances: self.instances,
        }
    }
}

#[derive(Clone, Debug)]
struct Page {
    /// Bit n: row n is a lease.
    live: u64,
    rows: [Row; PAGE_ROWS],
}

impl Page {
    const EMPTY: Self = Self {
        live: 0,
        rows: [Row::VACANT; PAGE_ROWS],
    };

    fn row(&self, slot: usize) -> Option<&Row> {
        (self.live & (1 << slot) != 0).then(|| &self.rows[slot])
    }

    fn row_mut(&mut self, slot: usize) -> Option<&mut Row> {
        (self.live & (1 << slot) != 0).then(|| &mut self.rows[slot])
    }
}

/// Which page, and which row of it.
fn split(id: LeaseId) -> (u64, usize) {
    let rows = PAGE_ROWS as u64;
    let slot = usize::try_from(id.0 % rows).expect("a remainder by 64 is below 64");
    (id.0 / rows, slot)
}

fn is_callers(id: LeaseId) -> bool {
    id >= LeaseId::FIRST_OF_CALLERS
}

/// All leases' rows.
#[derive(Clone, Debug, Default)]
pub(super) struct Deadlines {
    pages: OrdMap<u64, Arc<Page>>,
    callers: OrdMap<LeaseId, Row>,
}

impl Deadlines {
    /// The row of a lease, if there is such a lease.
    pub(super) fn row(&self, id: LeaseId) -> Option<&Row> {
        if is_callers(id) {
            return self.callers.get(&id);
        }
        let (page, slot) = split(id);
        self.pages.get(&page)?.row(slot)
    }

    /// The row of a lease, to be written.
    pub(super) fn row_mut(&mut self, id: LeaseId) -> Option<&mut Row> {
        if is_callers(id) {
            return self.callers.get_mut(&id);
        }
        let (page, slot) = split(id);
        Arc::make_mut(self.pages.get_mut(&page)?).row_mut(slot)
    }

    /// A new lease's row.
    pub(super) fn insert(&mut self, id: LeaseId, row: Row) {
        if is_callers(id) {
            self.callers.insert(id, row);
            return;
        }
        let (number, slot) = split(id);
        let page = self.pages.entry(number).or_insert_with(|| Arc::new(Page::EMPTY));
        let page = Arc::make_mut(page);
        page.live |= 1 << slot;
        page.rows[slot] = row;
    }

    /// A lease has ended.
    pub(super) fn remove(&mut self, id: LeaseId) {
        if is_callers(id) {
            self.callers.remove(&id);
            return;
        }
        let (number, slot) = split(id);
        let Some(page) = self.pages.get_mut(&number) else {
            return;
        };
        let bit = 1 << slot;
        if page.live & !bit == 0 {
            self.pages.remove(&number);
        } else {
            Arc::make_mut(page).live &= !bit;
        }
    }

    /// Renews leases, best in ascending order; one answer for each.
    pub(super) fn renew(&mut self, ids: &[LeaseId], clock: LeaseTime) -> Vec<Renewal> {
        // Plant: the renewal of a lease that has ended is confirmed.
        planted!("ended-lease-renewed" => { return self.renew_rashly(ids, clock); });
        let mut renewals = Vec::with_capacity(ids.len());
        let mut rest = ids;
        while let Some(&first) = rest.first() {
            if is_callers(first) {
                let row = self.callers.get_mut(&first);
                renewals.push(row.map_or(Renewal::NotFound, |row| row.renew(clock)));
                rest = &rest[1..];
                continue;
            }
            let (number, _) = split(first);
            let (of_page, others) = rest.split_at(rest.iter().take_while(|id| split(**id).0 == number).count());
            if let Some(page) = self.pages.get_mut(&number) {
                let page = Arc::make_mut(page);
                renewals.extend(of_page.iter().map(|id| {
                    let row = page.row_mut(split(*id).1);
                    row.map_or(Renewal::NotFound, |row| row.renew(clock))
                }));
            } else {
                renewals.extend(of_page.iter().map(|_| Renewal::NotFound));
            }
            rest = others;
        }
        renewals
    }

    /// Renews leases, and says of those that are not there that they were renewed, too.
    #[cfg(feature = "failpoints")]
    fn renew_rashly(&mut self, ids: &[LeaseId], clock: LeaseTime) -> Vec<Renewal> {
        let mut vacant = Row::VACANT;
        let mut renew = |id: &LeaseId| self.row_mut(*id).unwrap_or(&mut vacant).renew(clock);
        ids.iter().map(&mut renew).collect()
    }

    /// Every lease and its deadline, by id.
    pub(super) fn iter(&self) -> impl Iterator<Item = (LeaseId, &Row)> {
        let paged = self.pages.iter().flat_map(|(number, page)| {
            let first = number * PAGE_ROWS as u64;
            let rows = (first..).zip(0..PAGE_ROWS);
            rows.filter_map(|(id, slot)| Some((LeaseId(id), page.row(slot)?)))
        });
        paged.chain(self.callers.iter().map(|(id, row)| (*id, row)))
    }

    /// How many pages there are.
    #[cfg(test)]
    fn pages(&self) -> usize {
        self.pages.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(deadline: u64) -> Row {
        Row {
            deadline: LeaseTime(deadline),
            ttl: Ttl::from_ms(1_000).unwrap(),
            instances: 2,
        }
    }

    const CALLERS: LeaseId = LeaseId(LeaseId::FIRST_OF_CALLERS.0 + 12_345);

    #[test]
    fn rows_stand_where_they_were_put() {
        let mut table = Deadlines::default();
        for id in [1, 63, 64, 1_000, CALLERS.0] {
            table.insert(LeaseId(id), row(id));
        }
        assert_eq!(table.row(LeaseId(64)), Some(&row(64)));
        assert_eq!(table.row(CALLERS), Some(&row(CALLERS.0)));
        assert_eq!(table.row(LeaseId(2)), None);
        assert_eq!(table.row(LeaseId(70_000)), None);
        let ids: Vec<u64> = table.iter().map(|(id, _)| id.0).collect();
        assert_eq!(ids, [1, 63, 64, 1_000, CALLERS.0]);
    }

    #[test]
    fn a_page_without_leases_is_freed() {
        let mut table = Deadlines::default();
        for id in 1..=200 {
            table.insert(LeaseId(id), row(id));
        }
        assert_eq!(table.pages(), 4);
        for id in (1..=200).filter(|id| *id != 100) {
            table.remove(LeaseId(id));
        }
        assert_eq!(table.pages(), 1);
        table.remove(LeaseId(100));
        table.remove(LeaseId(100));
        assert_eq!(table.pages(), 0);
        assert_eq!(table.iter().count(), 0);
    }

    #[test]
    fn a_renewal_answers_for_each_id_and_counts_from_the_clock() {
        let mut table = Deadlines::default();
        for id in [1, 2, 300, CALLERS.0] {
            table.insert(LeaseId(id), row(5));
        }
        let ids = [1, 2, 3, 128, 300, CALLERS.0, CALLERS.0 + 1].map(LeaseId);
        let answers = table.renew(&ids, LeaseTime(7));
        let renewed = Renewal::Renewed {
            ttl: Ttl::from_ms(1_000).unwrap(),
            instances: 2,
        };
        let none = Renewal::NotFound;
        assert_eq!(answers, [renewed, renewed, none, none, renewed, renewed, none]);
        assert!(
            table
                .iter()
                .all(|(_, row)| row.deadline == LeaseTime(7).after(row.ttl.as_duration()))
        );
    }

    #[test]
    fn a_renewal_leaves_older_versions_as_they_are() {
        let mut table = Deadlines::default();
        table.insert(LeaseId(1), row(5));
        table.insert(CALLERS, row(5));
        let older = table.clone();
        table.renew(&[LeaseId(1), CALLERS], LeaseTime(9));
        table.remove(LeaseId(1));
        assert_eq!(older.row(LeaseId(1)), Some(&row(5)));
        assert_eq!(older.row(CALLERS), Some(&row(5)));
    }
}
