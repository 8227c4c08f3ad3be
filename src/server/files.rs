//! How many files and connections the process may have open, and who may have how many of them.
//!
//! A database that can't open its next file ends the node. So clients, of whom there may be any number, never get the
//! last descriptors: those are kept for the log, the snapshots and the other nodes.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors that are never a client's: 128 connections of other nodes, a few dozen to them, the database's files.
const KEPT: u64 = 384;
/// What a node should have at the least.
const WANTED: u64 = 1_024;

/// Raises the limit as far as this process may. Many systems begin with 1,024, for the sake of programs that wait with
/// `select`.
pub(super) fn raise_limit() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let raised = Rlimit {
            current: limit.maximum,
            ..limit
        };
        if let Err(error) = setrlimit(Resource::Nofile, raised) {
            tracing::warn!(%error, "could not raise the limit of open files");
        }
    }
    if let Some(files) = getrlimit(Resource::Nofile).current
        && files < WANTED
    {
        tracing::warn!(files, "few files may be open at once: few clients can connect");
    }
}

/// How many clients may be connected at once: as many as are `wanted`, if the limit of open files leaves room.
pub(super) fn clients(wanted: usize) -> usize {
    share(getrlimit(Resource::Nofile).current, wanted)
}

fn share(files: Option<u64>, wanted: usize) -> usize {
    let Some(files) = files else {
        return wanted;
    };
    // Where there is little, clients get a part of it, and the node as much as there is.
    let left = files.saturating_sub(KEPT).max(files / 8);
    usize::try_from(left).map_or(wanted, |left| left.min(wanted))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_get_what_the_node_does_not_need() {
        assert_eq!(share(None, 20_000), 20_000);
        assert_eq!(share(Some(1 << 20), 20_000), 20_000);
        assert_eq!(share(Some(1_024), 20_000), 640);
        assert_eq!(share(Some(400), 20_000), 50);
        assert_eq!(share(Some(64), 20_000), 8);
    }
}
