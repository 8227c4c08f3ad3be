//! The targets as a library, so that libFuzzer's programs build them once.

mod targets;

use std::{fs, io, path::Path};

// The mounted files find their house here.
use roster::{model, registry, wire};
use targets::raft;

/// Feeds a target; panics when a promise is broken.
pub fn run(target: &str, bytes: &[u8]) {
    targets::named(target).run(bytes);
}

/// Writes a target's seeds into a folder.
///
/// # Errors
/// Those of the file system.
pub fn write_seeds(target: &str, folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    for (number, seed) in targets::named(target).seeds().iter().enumerate() {
        fs::write(folder.join(format!("seed-{number}")), seed)?;
    }
    Ok(())
}
