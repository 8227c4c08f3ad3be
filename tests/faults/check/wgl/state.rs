//! What the search thinks the registry is: which records there are, of which life, and who wrote them last.

use std::hash::{DefaultHasher, Hash, Hasher};

use imbl::OrdMap;

/// A record: its life, and the number of its mark.
pub(super) type Life = (i64, u32);

/// The records by the numbers of their keys; cheap to copy, and known by a hash that changes along.
#[derive(Clone, Debug, Default)]
pub(super) struct State {
    records: OrdMap<u32, Life>,
    hash: u128,
}

/// What a call does, or needs to find.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Register: these stand so from here on. No later life may stand there.
    Put(Vec<(u32, Life)>),
    /// Update: this stands, of a life that is not later than `asker` (0 = any), and is marked from here on.
    Mark { key: u32, asker: i64, mark: u32 },
    /// Deregister: likewise, and is gone from here on.
    Remove { key: u32, asker: i64 },
    /// The end of a lease: exactly these stand, and are gone from here on.
    Gone(Vec<(u32, Life)>),
    /// This does not stand.
    Absent(u32),
    /// A later life than this stands, or stood.
    Fenced { key: u32, asker: i64 },
    /// A read of what lies within these numbers of keys: exactly these stand, or at least these.
    Shows {
        ranges: Vec<(u32, u32)>,
        records: Vec<(u32, Life)>,
        exactly: bool,
    },
}

impl Step {
    /// Whether it changes nothing.
    pub(super) fn is_read(&self) -> bool {
        matches!(self, Self::Absent(_) | Self::Fenced { .. } | Self::Shows { .. })
    }
}

impl State {
    pub(super) fn hash(&self) -> u128 {
        self.hash
    }

    /// A state with these records.
    pub(super) fn of(records: impl IntoIterator<Item = (u32, Life)>) -> Self {
        let mut state = Self::default();
        for (key, life) in records {
            state.put(key, life);
        }
        state
    }

    fn put(&mut self, key: u32, life: Life) {
        self.remove(key);
        self.hash ^= scatter(&(key, life));
        self.records.insert(key, life);
    }

    fn remove(&mut self, key: u32) {
        if let Some(life) = self.records.remove(&key) {
            self.hash ^= scatter(&(key, life));
        }
    }

    fn stands(&self, key: u32, asker: i64) -> Option<Life> {
        let life = *self.records.get(&key)?;
        (asker == 0 || life.0 <= asker).then_some(life)
    }

    /// The state after a step; `None` = it can't be taken here.
    pub(super) fn after(&self, step: &Step) -> Option<Self> {
        let mut next = self.clone();
        match step {
            Step::Put(records) => {
                for (key, life) in records {
                    if self.records.get(key).is_some_and(|stands| stands.0 > life.0) {
                        return None;
                    }
                    next.put(*key, *life);
                }
            }
            Step::Mark { key, asker, mark } => {
                let life = self.stands(*key, *asker)?;
                next.put(*key, (life.0, *mark));
            }
            Step::Remove { key, asker } => {
                self.stands(*key, *asker)?;
                next.remove(*key);
            }
            Step::Gone(records) => {
                for (key, life) in records {
                    if self.records.get(key) != Some(life) {
                        return None;
                    }
                    next.remove(*key);
                }
            }
            Step::Absent(key) => {
                if self.records.contains_key(key) {
                    return None;
                }
            }
            Step::Fenced { key, asker } => {
                if self.records.get(key).is_some_and(|stands| stands.0 <= *asker) {
                    return None;
                }
            }
            Step::Shows {
                ranges,
                records,
                exactly,
            } => {
                if !self.shows(ranges, records, *exactly) {
                    return None;
                }
            }
        }
        Some(next)
    }

    fn shows(&self, ranges: &[(u32, u32)], records: &[(u32, Life)], exactly: bool) -> bool {
        if records.iter().any(|(key, life)| self.records.get(key) != Some(life)) {
            return false;
        }
        let there = ranges.iter().map(|(from, to)| self.records.range(*from..*to).count());
        !exactly || there.sum::<usize>() == records.len()
    }
}

/// A hash so wide that two things with the same one are the same.
pub(super) fn scatter(thing: &impl Hash) -> u128 {
    let half = |salt: u64| {
        let mut hasher = DefaultHasher::new();
        salt.hash(&mut hasher);
        thing.hash(&mut hasher);
        u128::from(hasher.finish())
    };
    half(1) << 64 | half(2)
}
