//! A record's metadata: a small map, kept sorted by key in one block of memory, as [`Tags`](super::Tags) are.

use std::{collections::BTreeMap, fmt, vec};

use super::Text;

/// Texts under different keys, in the keys' order.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Metadata(Box<[(Text, Text)]>);

impl Metadata {
    /// No entry.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// How many entries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What stands under a key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Text> {
        self.find(key)
            .ok()
            .and_then(|at| self.0.get(at))
            .map(|(_, value)| value)
    }

    /// Keys and values, in the keys' order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&Text, &Text)> {
        self.0.iter().map(|(key, value)| (key, value))
    }

    /// Puts a value under a key; returns what stood there.
    pub fn insert(&mut self, key: impl Into<Text>, value: impl Into<Text>) -> Option<Text> {
        let (key, value) = (key.into(), value.into());
        match self.find(&key) {
            Ok(at) => self.0.get_mut(at).map(|entry| std::mem::replace(&mut entry.1, value)),
            Err(at) => {
                self.change(|entries| entries.insert(at, (key, value)));
                None
            }
        }
    }

    /// Removes an entry; returns what stood there.
    pub fn remove(&mut self, key: &str) -> Option<Text> {
        let at = self.find(key).ok()?;
        let mut removed = None;
        self.change(|entries| removed = Some(entries.remove(at).1));
        removed
    }

    /// Keeps the entries for which `keep` holds.
    pub fn retain(&mut self, mut keep: impl FnMut(&Text, &Text) -> bool) {
        self.change(|entries| entries.retain(|(key, value)| keep(key, value)));
    }

    fn find(&self, key: &str) -> Result<usize, usize> {
        self.0.binary_search_by(|(held, _)| held.as_str().cmp(key))
    }

    fn change(&mut self, change: impl FnOnce(&mut Vec<(Text, Text)>)) {
        let mut entries = std::mem::take(&mut self.0).into_vec();
        change(&mut entries);
        self.0 = entries.into_boxed_slice();
    }
}

impl<K: Into<Text>, V: Into<Text>> Extend<(K, V)> for Metadata {
    /// Of several values for one key the last counts, and all count more than what stood there.
    fn extend<I: IntoIterator<Item = (K, V)>>(&mut self, entries: I) {
        self.change(|held| {
            held.extend(entries.into_iter().map(|(key, value)| (key.into(), value.into())));
            // Stable, so that of equal keys the latest comes last; and that one is kept.
            held.sort_by(|(one, _), (other, _)| one.cmp(other));
            held.dedup_by(|later, kept| {
                let same = later.0 == kept.0;
                if same {
                    std::mem::swap(later, kept);
                }
                same
            });
        });
    }
}

impl<K: Into<Text>, V: Into<Text>> FromIterator<(K, V)> for Metadata {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Self {
        let mut map = Self::new();
        map.extend(entries);
        map
    }
}

impl<K: Into<Text>, V: Into<Text>, const N: usize> From<[(K, V); N]> for Metadata {
    fn from(entries: [(K, V); N]) -> Self {
        entries.into_iter().collect()
    }
}

impl From<BTreeMap<String, String>> for Metadata {
    fn from(entries: BTreeMap<String, String>) -> Self {
        entries.into_iter().collect()
    }
}

impl From<&Metadata> for BTreeMap<String, String> {
    fn from(metadata: &Metadata) -> Self {
        let owned = |(key, value): (&Text, &Text)| (key.to_string(), value.to_string());
        metadata.iter().map(owned).collect()
    }
}

impl IntoIterator for Metadata {
    type Item = (Text, Text);
    type IntoIter = vec::IntoIter<(Text, Text)>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_vec().into_iter()
    }
}

impl<'a> IntoIterator for &'a Metadata {
    type Item = (&'a Text, &'a Text);
    type IntoIter = std::iter::Map<std::slice::Iter<'a, (Text, Text)>, fn(&'a (Text, Text)) -> Self::Item>;

    fn into_iter(self) -> Self::IntoIter {
        let both: fn(&'a (Text, Text)) -> Self::Item = |(key, value)| (key, value);
        self.0.iter().map(both)
    }
}

impl fmt::Debug for Metadata {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self).finish()
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection, prelude::*};

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Insert(Text, Text),
        Remove(Text),
        Extend(Vec<(Text, Text)>),
        KeepBelow(Text),
    }

    fn text() -> impl Strategy<Value = Text> {
        "[a-dä]{0,2}".prop_map(Text::from)
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (text(), text()).prop_map(|(key, value)| Step::Insert(key, value)),
            text().prop_map(Step::Remove),
            collection::vec((text(), text()), 0..6).prop_map(Step::Extend),
            text().prop_map(Step::KeepBelow),
        ]
    }

    proptest! {
        /// Whatever is done to it, it is what a tree would be.
        #[test]
        fn metadata_is_a_sorted_map(steps in collection::vec(step(), 0..20), asked in text()) {
            let (mut metadata, mut map) = (Metadata::new(), BTreeMap::new());
            for step in steps {
                match step {
                    Step::Insert(key, value) => {
                        prop_assert_eq!(metadata.insert(key.clone(), value.clone()), map.insert(key, value));
                    }
                    Step::Remove(key) => prop_assert_eq!(metadata.remove(&key), map.remove(&key)),
                    Step::Extend(more) => {
                        metadata.extend(more.clone());
                        map.extend(more);
                    }
                    Step::KeepBelow(limit) => {
                        metadata.retain(|key, value| *key < limit && *value < limit);
                        map.retain(|key, value| *key < limit && *value < limit);
                    }
                }
                prop_assert!(metadata.iter().eq(&map));
                prop_assert_eq!((metadata.len(), metadata.is_empty()), (map.len(), map.is_empty()));
                prop_assert_eq!(metadata.get(&asked), map.get(&asked));
                let strings: BTreeMap<String, String> =
                    map.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
                prop_assert_eq!(&metadata, &Metadata::from(strings.clone()));
                prop_assert_eq!(BTreeMap::from(&metadata), strings);
            }
            prop_assert!(metadata.into_iter().eq(map));
        }
    }
}
