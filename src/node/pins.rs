//! Versions of the registry that unfinished lists hold.
//!
//! A page token names a version by number; the list's later pages are read from it, so that all pages show one
//! revision. Pins are few and short-lived: the oldest gives way.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use crate::registry::State;

/// Versions held at once.
const PINS_MAX: usize = 64;
/// How long a version is held after its last page was read.
const HELD_FOR: Duration = Duration::from_secs(60);
/// What all of them may keep alive together: records that were replaced or removed since.
const PINNED_MAX_BYTES: u64 = 256 << 20;
/// What one revision behind the present is taken to cost: a large record and its share of the maps.
const REVISION_COST_BYTES: u64 = 2_048;

#[derive(Debug)]
struct Pin {
    number: u64,
    state: State,
    until: Instant,
}

/// The pinned versions, oldest first.
#[derive(Debug, Default)]
pub(super) struct Pins {
    pins: Mutex<(u64, VecDeque<Pin>)>,
}

impl Pins {
    /// Holds a version and returns its number.
    pub(super) fn pin(&self, state: State) -> u64 {
        let now = Instant::now();
        let present = state.revision().0;
        let mut guard = self.pins.lock().unwrap_or_else(PoisonError::into_inner);
        let (last, pins) = &mut *guard;
        pins.retain(|pin| pin.until > now);
        *last += 1;
        let number = *last;
        pins.push_back(Pin {
            number,
            state,
            until: now + HELD_FOR,
        });
        let cost = |pin: &Pin| {
            present
                .saturating_sub(pin.state.revision().0)
                .saturating_mul(REVISION_COST_BYTES)
        };
        while pins.len() > PINS_MAX || pins.iter().map(cost).sum::<u64>() > PINNED_MAX_BYTES {
            pins.pop_front();
        }
        number
    }

    /// The version of that number, if it is still held; its time begins anew.
    pub(super) fn pinned(&self, number: u64) -> Option<State> {
        let now = Instant::now();
        let mut guard = self.pins.lock().unwrap_or_else(PoisonError::into_inner);
        let pin = guard.1.iter_mut().find(|pin| pin.number == number && pin.until > now)?;
        pin.until = now + HELD_FOR;
        Some(pin.state.clone())
    }

    /// Lets a version go: its list is finished.
    pub(super) fn unpin(&self, number: u64) {
        let mut guard = self.pins.lock().unwrap_or_else(PoisonError::into_inner);
        guard.1.retain(|pin| pin.number != number);
    }
}
