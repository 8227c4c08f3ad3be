//! A record's tags: a small set, kept sorted in one block of memory.
//!
//! There are many records, and most have few tags or none: a tree's node has room for eleven, and is paid for each.

use std::{collections::BTreeSet, fmt, slice, vec};

use super::Text;

/// Different texts in their order.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Tags(Box<[Text]>);

impl Tags {
    /// None.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether this is one of them.
    #[must_use]
    pub fn contains(&self, tag: &str) -> bool {
        self.find(tag).is_ok()
    }

    /// In their order.
    pub fn iter(&self) -> slice::Iter<'_, Text> {
        self.0.iter()
    }

    /// Adds one; says whether it is new.
    pub fn insert(&mut self, tag: impl Into<Text>) -> bool {
        let tag = tag.into();
        let Err(at) = self.find(&tag) else { return false };
        self.change(|tags| tags.insert(at, tag));
        true
    }

    /// Removes one; says whether it was there.
    pub fn remove(&mut self, tag: &str) -> bool {
        let Ok(at) = self.find(tag) else { return false };
        self.change(|tags| drop(tags.remove(at)));
        true
    }

    /// Keeps those for which `keep` holds.
    pub fn retain(&mut self, keep: impl FnMut(&Text) -> bool) {
        self.change(|tags| tags.retain(keep));
    }

    fn find(&self, tag: &str) -> Result<usize, usize> {
        self.0.binary_search_by(|held| held.as_str().cmp(tag))
    }

    fn change(&mut self, change: impl FnOnce(&mut Vec<Text>)) {
        let mut tags = std::mem::take(&mut self.0).into_vec();
        change(&mut tags);
        self.0 = tags.into_boxed_slice();
    }
}

impl<T: Into<Text>> Extend<T> for Tags {
    fn extend<I: IntoIterator<Item = T>>(&mut self, tags: I) {
        self.change(|held| {
            held.extend(tags.into_iter().map(T::into));
            held.sort_unstable();
            held.dedup();
        });
    }
}

impl<T: Into<Text>> FromIterator<T> for Tags {
    fn from_iter<I: IntoIterator<Item = T>>(tags: I) -> Self {
        let mut set = Self::new();
        set.extend(tags);
        set
    }
}

impl<T: Into<Text>, const N: usize> From<[T; N]> for Tags {
    fn from(tags: [T; N]) -> Self {
        tags.into_iter().collect()
    }
}

impl From<BTreeSet<String>> for Tags {
    fn from(tags: BTreeSet<String>) -> Self {
        tags.into_iter().collect()
    }
}

impl IntoIterator for Tags {
    type Item = Text;
    type IntoIter = vec::IntoIter<Text>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_vec().into_iter()
    }
}

impl<'a> IntoIterator for &'a Tags {
    type Item = &'a Text;
    type IntoIter = slice::Iter<'a, Text>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Debug for Tags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self).finish()
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection, prelude::*};

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Insert(Text),
        Remove(Text),
        Extend(Vec<Text>),
        KeepBelow(Text),
    }

    fn tag() -> impl Strategy<Value = Text> {
        "[a-dä]{0,2}".prop_map(Text::from)
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            tag().prop_map(Step::Insert),
            tag().prop_map(Step::Remove),
            collection::vec(tag(), 0..6).prop_map(Step::Extend),
            tag().prop_map(Step::KeepBelow),
        ]
    }

    proptest! {
        /// Whatever is done to it, it is what a tree would be.
        #[test]
        fn tags_are_a_sorted_set(steps in collection::vec(step(), 0..20), asked in tag()) {
            let (mut tags, mut set) = (Tags::new(), BTreeSet::new());
            for step in steps {
                match step {
                    Step::Insert(tag) => prop_assert_eq!(tags.insert(tag.clone()), set.insert(tag)),
                    Step::Remove(tag) => prop_assert_eq!(tags.remove(&tag), set.remove(&tag)),
                    Step::Extend(more) => {
                        tags.extend(more.clone());
                        set.extend(more);
                    }
                    Step::KeepBelow(limit) => {
                        tags.retain(|tag| *tag < limit);
                        set.retain(|tag| *tag < limit);
                    }
                }
                prop_assert!(tags.iter().eq(&set));
                prop_assert_eq!((tags.len(), tags.is_empty()), (set.len(), set.is_empty()));
                prop_assert_eq!(tags.contains(&asked), set.contains(&asked));
                prop_assert_eq!(&tags, &set.iter().map(Text::to_string).collect::<BTreeSet<_>>().into());
            }
            prop_assert!(tags.into_iter().eq(set));
        }
    }
}
