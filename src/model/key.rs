//! The key of an instance.

use std::fmt;

use super::{InstanceId, Namespace, ServiceName};

/// Where an instance stands: namespace, service, id. The order of keys is the order of every list.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InstanceKey {
    /// The namespace.
    pub namespace: Namespace,
    /// The service that the instance provides.
    pub service: ServiceName,
    /// Its name within the service.
    pub id: InstanceId,
}

impl fmt::Display for InstanceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.namespace, self.service, self.id)
    }
}
