//! What a harness knows of its run, and what it demands.

use std::time::Duration;

use roster::wire::request::PROGRESS_DEFAULT;

use super::coverage::Demands;

/// How a history is to be checked. The defaults fit real processes on a machine that is busy.
#[derive(Clone, Debug)]
pub struct CheckOptions {
    /// How far the rates of two clocks may differ: 0.001 is what is promised for.
    pub drift: f64,
    /// L1: by how much a lease may be seen to end early. Both instants are taken on the safe side, so little is needed.
    pub lease_slack: Duration,
    /// L1: what a jump of a leader's clock may credit; added for each `clock_…` fault meanwhile.
    pub clock_jump_credit: Duration,
    /// L2: how long after its TTL a lease may live on. DESIGN.md promises 1 s; the rest is the machine's.
    pub expiry_max: Duration,
    /// L2: what a leader change may cost beyond the time in which nothing was answered.
    pub leader_change: Duration,
    /// L2: a pause of all answers is one without a leader if it is this long.
    pub silence_min: Duration,
    /// L2: leases that end together go so fast, a second.
    pub expiries_per_s: u64,
    /// W11: how soon a watcher on a calm cluster has a change after it was acknowledged: 5 s is the hard limit of
    /// FAULTS.md.
    pub watch_delay_max: Duration,
    /// W11: how late a node may be that ends a watch whose age has passed its `max_age`.
    pub watch_end_max: Duration,
    /// W11: what a watch without a `max_age` of its own has.
    pub watch_max_age: Duration,
    /// How long after the last fault everything is as if there had been none.
    pub calm_after: Duration,
    /// A1, W11: how long it may take until those whom a fault did not hit go on as before, or those whom it hit notice.
    pub fault_margin: Duration,
    /// A2: how long it takes until a fault, or its end, has reached all whom it hits.
    pub fault_edge: Duration,
    /// A1: what part of the calls to nodes that no fault hit must succeed while a majority is left, if it is demanded.
    pub success_min: Option<f64>,
    /// A2: how long a call to a node that can answer may take: DESIGN.md promises 5 s; the rest is the machine's.
    pub call_max: Duration,
    /// A2: how long after min(2 s, TTL / 4) a renewal may be answered by a node that can answer.
    pub renewal_slack: Duration,
    /// A3: how long after the last fault a write must have succeeded.
    pub recovery_max: Duration,
    /// I5: how long all of it may take.
    pub wgl_time_max: Duration,
    /// I5: how many calls a window over the whole state holds; fewer where more than eight clients are at work.
    pub wgl_window: usize,
    /// What the run must have seen for its silence to prove anything.
    pub coverage: Demands,
}

impl Default for CheckOptions {
    fn default() -> Self {
        Self {
            drift: 0.001,
            lease_slack: Duration::from_millis(10),
            clock_jump_credit: Duration::from_millis(500),
            expiry_max: Duration::from_millis(1_250),
            leader_change: Duration::from_millis(250),
            silence_min: Duration::from_millis(200),
            expiries_per_s: 20_000,
            watch_delay_max: Duration::from_secs(5),
            watch_end_max: Duration::from_millis(1_500),
            watch_max_age: Duration::from_secs(10),
            calm_after: Duration::from_secs(3),
            fault_margin: Duration::from_secs(2),
            fault_edge: Duration::from_millis(500),
            success_min: Some(0.999),
            call_max: Duration::from_millis(5_750),
            renewal_slack: Duration::from_millis(750),
            recovery_max: Duration::from_secs(10),
            wgl_time_max: Duration::from_secs(60),
            wgl_window: 2_000,
            coverage: Demands::default(),
        }
    }
}

impl CheckOptions {
    /// For a machine on which others took the time that the cluster needed: what comes late there proves nothing. What
    /// is wrong is wrong on it, too.
    #[must_use]
    pub fn on_a_busy_machine(self) -> Self {
        Self {
            expiry_max: Duration::from_millis(2_500),
            watch_delay_max: Duration::from_secs(20),
            watch_end_max: Duration::from_secs(8),
            calm_after: Duration::from_secs(10),
            fault_margin: Duration::from_secs(3),
            success_min: None,
            call_max: Duration::from_secs(9),
            renewal_slack: Duration::from_secs(4),
            recovery_max: Duration::from_secs(30),
            ..self
        }
    }

    /// For simulated time, in which nothing is late by chance.
    #[must_use]
    pub fn in_simulated_time() -> Self {
        Self {
            expiry_max: Duration::from_secs(1),
            // A watch that nothing happens to is told its position so often, and then it is on its way.
            watch_delay_max: PROGRESS_DEFAULT + Duration::from_millis(250),
            watch_end_max: Duration::from_secs(1),
            calm_after: Duration::from_secs(2),
            call_max: Duration::from_millis(5_250),
            renewal_slack: Duration::from_millis(250),
            recovery_max: Duration::from_secs(5),
            ..Self::default()
        }
    }
}

/// Nanoseconds of a span.
pub(super) fn ns(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}
