//! What the plants of this room do when they are switched on: in test builds only.

use std::sync::Arc;

use super::record::Record;

/// The changes that a resumed watch missed, as a hub hands them out that loses the first or turns them around.
pub(super) fn resumed<'a>(missed: impl Iterator<Item = &'a Arc<Record>>) -> impl Iterator<Item = &'a Arc<Record>> {
    let mut missed: Vec<_> = missed.collect();
    planted!("resume-loses-a-change" => { missed.drain(..missed.len().min(1)); });
    planted!("resume-changes-the-order" => { missed.reverse(); });
    missed.into_iter()
}
