//! Searching the ordered maps by texts that need not be names.
//!
//! The maps are ordered by (namespace, service, id). A search for "all of this namespace" or "all services that
//! begin so" starts at a place that no instance can have, such as an empty id; a [`Place`] is compared with the
//! keys without being one.

use std::{borrow::Borrow, cmp::Ordering};

use crate::model::{InstanceKey, Namespace, ServiceName};

/// Where something stands in the order of keys.
pub(super) trait Place {
    /// Namespace, service, id.
    fn place(&self) -> (&str, &str, &str);
}

impl Place for InstanceKey {
    fn place(&self) -> (&str, &str, &str) {
        (self.namespace.as_str(), self.service.as_str(), self.id.as_str())
    }
}

impl Place for (Namespace, ServiceName) {
    fn place(&self) -> (&str, &str, &str) {
        (self.0.as_str(), self.1.as_str(), "")
    }
}

impl Place for (&str, &str, &str) {
    fn place(&self) -> (&str, &str, &str) {
        *self
    }
}

impl PartialEq for dyn Place + '_ {
    fn eq(&self, other: &Self) -> bool {
        self.place() == other.place()
    }
}

impl Eq for dyn Place + '_ {}

impl PartialOrd for dyn Place + '_ {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for dyn Place + '_ {
    fn cmp(&self, other: &Self) -> Ordering {
        self.place().cmp(&other.place())
    }
}

impl<'a> Borrow<dyn Place + 'a> for InstanceKey {
    fn borrow(&self) -> &(dyn Place + 'a) {
        self
    }
}

impl<'a> Borrow<dyn Place + 'a> for (Namespace, ServiceName) {
    fn borrow(&self) -> &(dyn Place + 'a) {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::InstanceId;

    fn key(namespace: &str, service: &str, id: &str) -> InstanceKey {
        InstanceKey::new(
            Namespace::parse(namespace).unwrap(),
            ServiceName::parse(service).unwrap(),
            InstanceId::parse(id).unwrap(),
        )
    }

    #[test]
    fn places_stand_in_the_order_of_keys() {
        let mut keys = vec![
            key("b", "a", "a"),
            key("a", "b-c", "1"),
            key("a", "b", "z"),
            key("a", "b.c", "0"),
            key("a", "b0", "0"),
        ];
        let mut places = keys.clone();
        keys.sort();
        places.sort_by(|a, b| (a as &dyn Place).cmp(b as &dyn Place));
        assert_eq!(keys, places);
    }

    #[test]
    fn an_empty_id_stands_before_every_instance_of_its_service() {
        let first = key("a", "b", "0");
        let edge = ("a", "b", "");
        assert!((&edge as &dyn Place) < (&first as &dyn Place));
        assert!((&edge as &dyn Place) > (&key("a", "a", "zz") as &dyn Place));
    }
}
