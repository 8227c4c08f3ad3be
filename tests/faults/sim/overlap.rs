//! Faults of one kind at one place that overlap: the one that began last holds, and all is well when the last has ended.

/// What is under way, in the order in which it began.
#[derive(Clone, Debug)]
pub(super) struct Overlap<T> {
    begun: u64,
    under_way: Vec<(u64, T)>,
}

impl<T> Default for Overlap<T> {
    fn default() -> Self {
        Self {
            begun: 0,
            under_way: Vec::new(),
        }
    }
}

impl<T> Overlap<T> {
    /// One more begins; by its number it ends.
    pub(super) fn begin(&mut self, what: T) -> u64 {
        self.begun += 1;
        self.under_way.push((self.begun, what));
        self.begun
    }

    /// That one is over.
    pub(super) fn end(&mut self, number: u64) {
        self.under_way.retain(|(known, _)| *known != number);
    }

    /// What holds now.
    pub(super) fn now(&self) -> Option<&T> {
        self.under_way.last().map(|(_, what)| what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_one_is_not_the_end_of_another() {
        let mut overlap = Overlap::default();
        let (one, two) = (overlap.begin("one"), overlap.begin("two"));
        assert_eq!(overlap.now(), Some(&"two"));
        overlap.end(two);
        assert_eq!(overlap.now(), Some(&"one"));
        let three = overlap.begin("three");
        overlap.end(one);
        assert_eq!(overlap.now(), Some(&"three"));
        overlap.end(three);
        assert_eq!(overlap.now(), None);
    }
}
