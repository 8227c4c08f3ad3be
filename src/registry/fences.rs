//! Fences: which incarnations may no longer register at a key that has no record.
//!
//! A record guards itself, by its own incarnation. When it goes, a fence stays behind for [`KEPT`] of lease time, so
//! that a zombie, or a message of it that comes late, does not bring it back. Records and fences never stand at the
//! same key.

use std::time::Duration;

use imbl::{OrdMap, OrdSet};

use crate::model::{Incarnation, InstanceKey, LeaseTime};

/// How long a fence outlives its record, in lease time.
pub(super) const KEPT: Duration = Duration::from_secs(24 * 60 * 60);

/// Most fences that one entry drops because their time is over.
const DROPPED_PER_ENTRY: usize = 1_000;

/// One fence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fence {
    /// Every incarnation through this one is refused.
    pub(super) incarnation: Incarnation,
    /// It holds through this instant.
    pub(super) until: LeaseTime,
}

/// All fences.
#[derive(Clone, Debug, Default)]
pub(super) struct Fences {
    by_key: OrdMap<InstanceKey, Fence>,
    by_age: OrdSet<(LeaseTime, InstanceKey)>,
}

impl Fences {
    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.by_key.len()
    }

    /// The fence at a key that holds at `clock`.
    pub(super) fn at(&self, key: &InstanceKey, clock: LeaseTime) -> Option<Incarnation> {
        let fence = self.by_key.get(key)?;
        (fence.until >= clock).then_some(fence.incarnation)
    }

    /// Refuses every incarnation through this one, for [`KEPT`] from `clock`. A fence that refuses more already is
    /// kept, and holds as long. Beyond `limit` the oldest are dropped.
    pub(super) fn raise(&mut self, key: &InstanceKey, incarnation: Incarnation, clock: LeaseTime, limit: u64) {
        let incarnation = self
            .at(key, clock)
            .map_or(incarnation, |standing| standing.max(incarnation));
        let until = clock.after(KEPT);
        self.insert(key.clone(), Fence { incarnation, until });
        while u64::try_from(self.len()).is_ok_and(|len| len > limit) {
            let Some((_, oldest)) = self.by_age.get_min().cloned() else {
                return;
            };
            self.remove(&oldest);
        }
    }

    /// Puts a fence as it is.
    pub(super) fn insert(&mut self, key: InstanceKey, fence: Fence) {
        if let Some(before) = self.by_key.insert(key.clone(), fence) {
            self.by_age.remove(&(before.until, key.clone()));
        }
        self.by_age.insert((fence.until, key));
    }

    /// A record stands there again and guards itself.
    pub(super) fn remove(&mut self, key: &InstanceKey) {
        if let Some(fence) = self.by_key.remove(key) {
            self.by_age.remove(&(fence.until, key.clone()));
        }
    }

    /// Drops some of those whose time is over. They refuse nobody any more, whether dropped or not.
    pub(super) fn drop_old(&mut self, clock: LeaseTime) {
        for _ in 0..DROPPED_PER_ENTRY {
            match self.by_age.get_min() {
                Some((until, key)) if *until < clock => {
                    let key = key.clone();
                    self.remove(&key);
                }
                Some(_) | None => return,
            }
        }
    }

    /// All, by key.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&InstanceKey, &Fence)> {
        self.by_key.iter()
    }

    /// Whether both orders name the same fences.
    pub(super) fn check(&self) -> Result<(), String> {
        if self.by_key.len() != self.by_age.len() {
            return Err(format!(
                "{} fences, {} in order of age",
                self.by_key.len(),
                self.by_age.len()
            ));
        }
        for (key, fence) in &self.by_key {
            if !self.by_age.contains(&(fence.until, key.clone())) {
                return Err(format!("the fence at {key} is missing in the order of age"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{InstanceId, Namespace, ServiceName};

    fn key(n: u64) -> InstanceKey {
        InstanceKey::new(
            Namespace::default(),
            ServiceName::parse("api").unwrap(),
            InstanceId::parse(&format!("i{n}")).unwrap(),
        )
    }

    #[test]
    fn a_fence_holds_for_a_day_and_not_longer() {
        let mut fences = Fences::default();
        fences.raise(&key(1), Incarnation(7), LeaseTime(100), 10);
        let end = LeaseTime(100).after(KEPT);
        assert_eq!(fences.at(&key(1), end), Some(Incarnation(7)));
        assert_eq!(fences.at(&key(1), LeaseTime(end.0 + 1)), None);
        fences.drop_old(end);
        assert_eq!(fences.len(), 1);
        fences.drop_old(LeaseTime(end.0 + 1));
        assert_eq!(fences.len(), 0);
        assert_eq!(fences.check(), Ok(()));
    }

    #[test]
    fn a_fence_is_raised_and_never_lowered() {
        let mut fences = Fences::default();
        fences.raise(&key(1), Incarnation(7), LeaseTime(0), 10);
        fences.raise(&key(1), Incarnation(5), LeaseTime(1), 10);
        assert_eq!(fences.at(&key(1), LeaseTime(1)), Some(Incarnation(7)));
        fences.raise(&key(1), Incarnation(9), LeaseTime(2), 10);
        assert_eq!(fences.at(&key(1), LeaseTime(2)), Some(Incarnation(9)));
        assert_eq!(fences.len(), 1);
        assert_eq!(fences.check(), Ok(()));
    }

    #[test]
    fn beyond_the_limit_the_oldest_goes() {
        let mut fences = Fences::default();
        for n in 0..5 {
            fences.raise(&key(n), Incarnation(1), LeaseTime(n), 3);
        }
        let left: Vec<_> = fences.iter().map(|(key, _)| key.clone()).collect();
        assert_eq!(left, [key(2), key(3), key(4)]);
        assert_eq!(fences.check(), Ok(()));
    }

    #[test]
    fn many_old_fences_are_dropped_over_several_entries() {
        let mut fences = Fences::default();
        for n in 0..1_500 {
            fences.raise(&key(n), Incarnation(1), LeaseTime(0), 10_000);
        }
        let late = LeaseTime(1).after(KEPT);
        fences.drop_old(late);
        assert_eq!(fences.len(), 500);
        fences.drop_old(late);
        assert_eq!(fences.len(), 0);
    }
}
