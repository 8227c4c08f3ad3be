//! A node's data directory, as it is found at the start.

use std::sync::Arc;

use super::{ServerError, fatal::Fatal, introducer::Store};
use crate::{
    config::Config,
    model::NodeName,
    node::bootstrap::Founded,
    storage::{DataDir, Identity, LogStore, SnapshotStore, verify_whole},
};

/// A data directory, opened and checked.
pub(super) struct Opened {
    pub(super) data: DataDir,
    pub(super) log: LogStore,
    pub(super) snapshots: SnapshotStore,
    pub(super) identity: Option<Identity>,
    pub(super) fatal: Fatal,
    /// Whether the log has begun: else the node is new, whatever it was told.
    pub(super) began: bool,
}

impl Opened {
    /// Opens it; what it holds must be whole, and this node's.
    pub(super) fn open(config: &Config) -> Result<Self, ServerError> {
        let data = DataDir::open(&config.data_dir)?;
        let fatal = Fatal::default();
        let log = {
            let fatal = fatal.clone();
            LogStore::open(&data, move |error| fatal.set(error.to_string()))?
        };
        let snapshots = SnapshotStore::open(&data)?;
        verify_whole(&log, &snapshots)?;
        let identity = own_identity(&data, config)?;
        let began = log.bounds().1.is_some() || snapshots.latest().is_some();
        Ok(Self {
            data,
            log,
            snapshots,
            identity,
            fatal,
            began,
        })
    }

    /// Makes durable to which cluster the node belongs.
    pub(super) fn store(&self, name: &NodeName) -> Arc<Store> {
        let (data, name) = (self.data.clone(), name.clone());
        Arc::new(move |found: &Founded| {
            let identity = Identity {
                cluster_id: found.cluster_id,
                node_id: found.node_id,
                name: name.clone(),
            };
            data.save_identity(&identity).map_err(|error| error.to_string())
        })
    }
}

/// The identity that the data directory holds, if it is this node's.
fn own_identity(data: &DataDir, config: &Config) -> Result<Option<Identity>, ServerError> {
    let Some(identity) = data.identity() else {
        return Ok(None);
    };
    if identity.name == config.name {
        return Ok(Some(identity.clone()));
    }
    Err(ServerError::Identity(format!(
        "--data-dir {}: it belongs to node {} of cluster {}, but this node is {}: start {} with it, \
         or give {} a directory of its own",
        config.data_dir.display(),
        identity.name,
        identity.cluster_id,
        config.name,
        identity.name,
        config.name
    )))
}
