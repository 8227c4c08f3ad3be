//! openraft's own tests of a storage, on ours: RocksDB and snapshot files in a directory of their own for each.

use std::sync::Arc;

use openraft::{
    StorageError,
    testing::log::{StoreBuilder, Suite},
};
use tempfile::TempDir;

use super::{log::Log, machine::Machine, progress::Progress, types::TypeConfig};
use crate::{
    storage::{DataDir, LogStore, SnapshotStore},
    watch::{Hub, HubLimits},
};

struct OnDisk;

impl StoreBuilder<TypeConfig, Log, Machine, TempDir> for OnDisk {
    async fn build(&self) -> Result<(TempDir, Log, Machine), StorageError<TypeConfig>> {
        let folder = tempfile::tempdir().unwrap();
        let data_dir = DataDir::open(folder.path()).unwrap();
        let log = LogStore::open(&data_dir, |error| panic!("the log failed: {error}")).unwrap();
        let snapshots = SnapshotStore::open(&data_dir).unwrap();
        let log = Log::new(Arc::new(log));
        let hub = Hub::new(HubLimits::default());
        let machine = Machine::new(
            hub,
            snapshots,
            log.clone(),
            Arc::new(Progress::new(super::SNAPSHOT_AFTER_BYTES)),
        );
        Ok((folder, log, machine))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn log_and_state_machine_pass_openrafts_own_suite() {
    Suite::test_all(OnDisk).await.unwrap();
}
