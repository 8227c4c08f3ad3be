//! The key of an instance.

use std::{cmp::Ordering, fmt, ops::Deref, sync::Arc};

use super::{InstanceId, Namespace, ServiceName};

/// Where an instance stands: namespace, service, id. The order of keys is the order of every list.
///
/// Keys stand in several maps, whose nodes are copied with every version of the registry: a copy is one count more.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct InstanceKey(Arc<Names>);

/// What a key is made of.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Names {
    /// The namespace.
    pub namespace: Namespace,
    /// The service that the instance provides.
    pub service: ServiceName,
    /// Its name within the service.
    pub id: InstanceId,
}

impl InstanceKey {
    /// The key of these names.
    #[must_use]
    pub fn new(namespace: Namespace, service: ServiceName, id: InstanceId) -> Self {
        Self(Arc::new(Names { namespace, service, id }))
    }
}

impl Deref for InstanceKey {
    type Target = Names;

    fn deref(&self) -> &Names {
        &self.0
    }
}

impl PartialOrd for InstanceKey {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for InstanceKey {
    fn cmp(&self, other: &Self) -> Ordering {
        if Arc::ptr_eq(&self.0, &other.0) {
            return Ordering::Equal;
        }
        self.0.cmp(&other.0)
    }
}

impl fmt::Debug for InstanceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for InstanceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.namespace, self.service, self.id)
    }
}
