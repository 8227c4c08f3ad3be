//! Leases: how long they last, and what holds an instance.

use std::time::Duration;

use super::{
    LeaseId,
    limits::{TTL_MAX_MS, TTL_MIN_MS},
};

/// An instant of replicated lease time: nanoseconds of the state machine's own clock, which only entries of the
/// log move. It has no relation to any node's wall clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseTime(pub u64);

impl LeaseTime {
    /// This instant and a span; stays at the end of time instead of wrapping.
    #[must_use]
    pub fn after(self, span: Duration) -> Self {
        Self(
            self.0
                .saturating_add(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)),
        )
    }

    /// The span from `earlier` to this instant; zero when `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// How long a lease lives without renewal: 1 s to 24 h, in whole milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ttl(u32);

/// The span is no TTL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be 1 s to 24 h, in whole milliseconds")]
pub struct TtlError;

impl Ttl {
    /// What an own lease lasts when its owner asks for nothing else.
    pub const DEFAULT: Self = Self(15_000);

    /// A TTL of so many milliseconds.
    ///
    /// # Errors
    /// Outside 1 s to 24 h.
    pub fn from_ms(ms: u64) -> Result<Self, TtlError> {
        if (TTL_MIN_MS..=TTL_MAX_MS).contains(&ms) {
            u32::try_from(ms).map(Self).map_err(|_| TtlError)
        } else {
            Err(TtlError)
        }
    }

    /// Its length in milliseconds.
    #[must_use]
    pub fn as_ms(self) -> u64 {
        u64::from(self.0)
    }

    /// Its length.
    #[must_use]
    pub fn as_duration(self) -> Duration {
        Duration::from_millis(self.as_ms())
    }

    /// When its owner should renew: after a third, so that two sendings may be lost.
    #[must_use]
    pub fn renew_after(self) -> Duration {
        self.as_duration() / 3
    }
}

/// What holds an instance in the registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// A lease of its own, made with it and ended with it.
    Own {
        /// How long it lives without renewal.
        ttl: Ttl,
    },
    /// A lease granted before, which may hold other instances too.
    Shared {
        /// Which.
        lease_id: LeaseId,
    },
    /// Nothing: it stays until it is deregistered.
    Permanent,
}

/// What a lease looks like to a reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseInfo {
    /// Which lease.
    pub lease_id: LeaseId,
    /// How long it lives without renewal.
    pub ttl: Ttl,
    /// What is left of it, by lease time; zero when it is due but not yet ended.
    pub remaining: Duration,
    /// How many instances it holds.
    pub instances: u32,
    /// Whether it was made with an instance, and ends with it.
    pub own: bool,
}
