//! Scenarios that no list of harms tells.
pub(crate) async fn wiped(_stage: &mut super::stage::Stage) -> std::io::Result<()> { Ok(()) }
pub(crate) async fn swapped(_stage: &mut super::stage::Stage) -> std::io::Result<()> { Ok(()) }
pub(crate) async fn shared_directory(_stage: &mut super::stage::Stage) -> std::io::Result<()> { Ok(()) }
pub(crate) async fn rolled_back(_stage: &mut super::stage::Stage) -> std::io::Result<()> { Ok(()) }
pub(crate) async fn torn_and_flipped(_stage: &mut super::stage::Stage) -> std::io::Result<()> { Ok(()) }
pub(crate) async fn expiry_storm(_stage: &mut super::stage::Stage) -> std::io::Result<()> { Ok(()) }
pub(crate) async fn snapshots(_stage: &mut super::stage::Stage) -> std::io::Result<()> { Ok(()) }
pub(crate) async fn slow_watchers(_stage: &mut super::stage::Stage) -> std::io::Result<()> { Ok(()) }
