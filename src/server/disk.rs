//! Watches the disk under the data directory.
//!
//! A log that can't be written ends the node, so writes that would make the state larger are refused while there is
//! still room for removals, renewals and the log's own upkeep. And a disk that takes writes but never finishes them
//! must not keep a leader in office: a node whose disk hangs ends, and the others elect another.

use std::{io, time::Duration};

use tokio::{task::JoinHandle, time::Instant};

use super::fatal::Fatal;
use crate::{
    node::Node,
    storage::{DataDir, LogStore},
};

/// How often it looks.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Below this the disk counts as full.
const FULL_BELOW_BYTES: u64 = 96 << 20;
/// Above this it counts as having room again.
const ROOM_ABOVE_BYTES: u64 = 128 << 20;
/// A write that waits this long is worth a warning.
const SLOW_AFTER: Duration = Duration::from_secs(2);
/// A write that waits this long never ends, as far as the cluster is concerned.
const HUNG_AFTER: Duration = Duration::from_secs(10);

/// A look that comes so long after the one before it says that this process stood still, not the disk.
const LATE_AFTER: Duration = Duration::from_secs(3);

/// For how long this process has been watching without standing still.
///
/// A process that was stopped for 15 s, or whose machine was, finds a write that began 15 s ago; the disk had no time
/// to finish it. Were it taken for hung, all nodes of a cluster that was suspended would end when it is resumed.
struct Vigil {
    since: Instant,
    last: Instant,
}

impl Vigil {
    fn begin(now: Instant) -> Self {
        Self { since: now, last: now }
    }

    /// How long it lasts. To be called at each look.
    fn look(&mut self, now: Instant) -> Duration {
        if now.duration_since(self.last) > LATE_AFTER {
            self.since = now;
        }
        self.last = now;
        now.duration_since(self.since)
    }
}

/// Runs until the node stops.
pub(super) async fn watch(node: Node, data: DataDir, log: LogStore, fatal: Fatal) {
    let stop = node.stopping();
    let (mut full, mut slow) = (false, false);
    let mut looking: Option<JoinHandle<io::Result<u64>>> = None;
    let mut vigil = Vigil::begin(Instant::now());
    loop {
        let watched = vigil.look(Instant::now());
        slow = note_pressure(&fatal, slow, log.pressure().oldest.min(watched));
        // A disk that hangs may hold this up for ever; the look at what waits to be written must go on.
        let mut look = looking.take().unwrap_or_else(|| {
            let looked = data.clone();
            tokio::task::spawn_blocking(move || looked.free_bytes())
        });
        match tokio::time::timeout(LOOK_EVERY, &mut look).await {
            Ok(Ok(Ok(free))) => full = note_space(full, free),
            Ok(Ok(Err(error))) => tracing::debug!(%error, "could not read the free space"),
            Ok(Err(_runtime_stops)) => return,
            Err(_elapsed) => looking = Some(look),
        }
        node.set_disk_full(full);
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}

fn note_space(was_full: bool, free: u64) -> bool {
    let full = free < if was_full { ROOM_ABOVE_BYTES } else { FULL_BELOW_BYTES };
    match (was_full, full) {
        (false, true) => tracing::error!(
            free,
            "the disk is nearly full: registrations are refused until there is room"
        ),
        (true, false) => tracing::info!(free, "the disk has room again: registrations are taken"),
        _ => {}
    }
    full
}

fn note_pressure(fatal: &Fatal, was_slow: bool, oldest: Duration) -> bool {
    if oldest > HUNG_AFTER {
        fatal.set(format!("the disk has not finished a write for {} s", oldest.as_secs()));
    }
    let slow = oldest > SLOW_AFTER;
    if slow && !was_slow {
        tracing::warn!(
            oldest_ms = oldest.as_millis(),
            "the disk is slow: a write has been waiting"
        );
    }
    slow
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_full_until_there_is_clearly_room_again() {
        let mib = |n: u64| n << 20;
        for (was_full, free, full) in [
            (false, mib(200), false),
            (false, mib(97), false),
            (false, mib(95), true),
            (true, mib(97), true),
            (true, mib(127), true),
            (true, mib(129), false),
        ] {
            assert_eq!(note_space(was_full, free), full, "{was_full}, {free}");
        }
    }

    #[test]
    fn a_process_that_stood_still_blames_no_disk() {
        let began = Instant::now();
        let at = |ms| began + Duration::from_millis(ms);
        let mut vigil = Vigil::begin(began);
        assert_eq!(vigil.look(at(1_000)), Duration::from_secs(1));
        assert_eq!(vigil.look(at(2_500)), Duration::from_millis(2_500));
        assert_eq!(vigil.look(at(17_500)), Duration::ZERO, "stopped for 15 s");
        assert_eq!(vigil.look(at(18_500)), Duration::from_secs(1));
    }

    #[test]
    fn only_a_write_that_hangs_ends_the_node() {
        let fatal = Fatal::default();
        assert!(!note_pressure(&fatal, false, Duration::from_millis(500)));
        assert!(note_pressure(&fatal, false, Duration::from_secs(3)));
        assert_eq!(fatal.reason(), None);
        assert!(note_pressure(&fatal, true, Duration::from_secs(11)));
        assert!(fatal.reason().is_some_and(|reason| reason.contains("11 s")));
    }
}
