//! The leader's lease clock: from `now`, the last step and the last quorum acknowledgement to the next stamp.
//!
//! **Owns** the rule by which lease time moves while a node leads, and the rule by which a stamp is proposed when
//! nothing else is. **Promises** that lease time never goes back, never runs faster than the leader's monotonic
//! clock, never moves by more than [`LeaseClock::CAP`] in one step, and never counts time later than the cap after
//! the last acknowledgement of a quorum. **Never** reads a clock: `now` is an argument.
//!
//! Why the last step becomes `now` whatever was credited: if what a step did not credit could be made up for later,
//! the clock could stand still over a renewal's stamp, then leap, and end the renewed lease early. What is not
//! credited is gone; leases live that much longer.

use std::time::Duration;

use crate::model::LeaseTime;

/// Monotonic local time since some fixed instant of the process, handed in by the caller.
pub type Now = Duration;

/// One term's lease clock.
#[derive(Debug)]
pub struct LeaseClock {
    reading: LeaseTime,
    last: Now,
}

impl LeaseClock {
    /// Most time that one step may credit, and that may pass beyond the last quorum acknowledgement.
    pub const CAP: Duration = Duration::from_millis(500);
    /// How often the owner must step it.
    pub const STEP_EVERY: Duration = Duration::from_millis(100);
    /// How often a bare stamp is due while there are leases and nothing else is written.
    pub const BARE_EVERY: Duration = Duration::from_millis(200);

    /// Begins with a term: `base` is the state machine's clock when the term's blank entry was applied.
    #[must_use]
    pub fn begin(base: LeaseTime, now: Now) -> Self {
        Self {
            reading: base,
            last: now,
        }
    }

    /// Steps it and returns where it stands: the stamp of an entry that is closed now.
    ///
    /// To be called after the entry's last renewal and command was drained: a stamp that is older than what it
    /// stamps ends leases early.
    pub fn step(&mut self, now: Now, last_quorum_ack: Now) -> LeaseTime {
        let countable = now.min(last_quorum_ack.saturating_add(Self::CAP));
        let credit = countable.saturating_sub(self.last).min(Self::CAP);
        // Plant: lease time passes too slowly, so leases end too late.
        planted!("lease-clock-too-slow", let credit = credit / 4);
        self.reading = self.reading.after(credit);
        // A `now` from before the last step, which two racing callers can bring about, must not make the time
        // between them count twice.
        // Plant: what was not credited in a pause is made up for later, so the clock leaps over fresh renewals.
        self.last = planted!("stamp-leaps-after-pause", self.last + credit, self.last.max(now));
        self.reading
    }

    /// Where it stands.
    #[must_use]
    pub fn reading(&self) -> LeaseTime {
        self.reading
    }

    /// Whether it moves: a quorum acknowledged within the cap.
    #[must_use]
    pub fn is_running(&self, now: Now, last_quorum_ack: Now) -> bool {
        now <= last_quorum_ack.saturating_add(Self::CAP)
    }
}

/// When a bare stamp (an entry with neither renewals nor commands) is due.
#[derive(Debug, Default)]
pub struct BareStamp {
    /// When the last entry was proposed, and its stamp.
    last: Option<(Now, LeaseTime)>,
}

impl BareStamp {
    /// Nothing was stamped yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// An entry was proposed with this stamp at `now`; bare or not.
    pub fn stamped(&mut self, now: Now, stamp: LeaseTime) {
        self.last = Some((now, stamp));
    }

    /// Whether one should be proposed now: `next_deadline` is the earliest of the state machine, `reading` the clock,
    /// `in_flight` whether a stamp is proposed and not yet applied.
    ///
    /// While a lease is due, a stamp that ends it is in flight: one that is still under way but was taken before the
    /// deadline does not end it, so another follows at once. Else the clock is made known every
    /// [`LeaseClock::BARE_EVERY`], so that a new leader goes on from nearly where the old one stood.
    #[must_use]
    pub fn is_due(&self, now: Now, reading: LeaseTime, next_deadline: Option<LeaseTime>, in_flight: bool) -> bool {
        let Some(deadline) = next_deadline else {
            return false;
        };
        let Some((at, stamp)) = self.last else {
            return true;
        };
        if deadline < reading {
            return !in_flight || stamp <= deadline;
        }
        !in_flight && now.saturating_sub(at) >= LeaseClock::BARE_EVERY
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn at_ms(ms: u64) -> LeaseTime {
        LeaseTime(ms * 1_000_000)
    }

    #[test]
    fn it_begins_where_the_state_stands_and_counts_from_there() {
        let mut clock = LeaseClock::begin(at_ms(70), ms(1_000));
        assert_eq!(clock.reading(), at_ms(70));
        assert_eq!(clock.step(ms(1_100), ms(1_090)), at_ms(170));
        assert_eq!(clock.step(ms(1_100), ms(1_090)), at_ms(170));
    }

    #[test]
    fn a_pause_is_credited_up_to_the_cap_and_the_rest_is_gone() {
        let mut clock = LeaseClock::begin(at_ms(0), ms(0));
        assert_eq!(clock.step(ms(60_000), ms(60_000)), at_ms(500));
        assert_eq!(clock.step(ms(60_100), ms(60_100)), at_ms(600));
    }

    #[test]
    fn without_a_quorum_it_stands_still_however_small_the_steps() {
        let mut clock = LeaseClock::begin(at_ms(0), ms(0));
        for now in 1..=10_000 {
            clock.step(ms(now), ms(0));
        }
        assert_eq!(clock.reading(), at_ms(500));
        assert!(!clock.is_running(ms(10_000), ms(0)));
        assert!(clock.is_running(ms(500), ms(0)));
    }

    #[test]
    fn what_was_not_credited_is_not_made_up_for_when_a_quorum_answers_again() {
        let mut clock = LeaseClock::begin(at_ms(0), ms(0));
        let renewal = clock.step(ms(2_000), ms(0));
        assert_eq!(renewal, at_ms(500));
        let next = clock.step(ms(2_001), ms(2_001));
        assert_eq!(next, at_ms(501), "a leap would end the renewed lease early");
    }

    #[test]
    fn a_now_from_before_the_last_step_counts_nothing_twice() {
        let mut clock = LeaseClock::begin(at_ms(0), ms(0));
        clock.step(ms(300), ms(300));
        clock.step(ms(100), ms(300));
        assert_eq!(clock.step(ms(310), ms(300)), at_ms(310));
    }

    proptest! {
        /// Steps of any length, with acknowledgements that come, stop and come again.
        #[test]
        fn it_is_monotone_and_never_faster_than_now(
            steps in prop::collection::vec((0_u64..3_000, 0_u64..4_000), 1..200),
        ) {
            let begin = ms(5_000);
            let mut clock = LeaseClock::begin(at_ms(9), begin);
            let (mut now, mut ack) = (begin, begin);
            let mut stamps = vec![(now, clock.reading())];
            for (passed, behind) in steps {
                now += ms(passed);
                ack = ack.max(now.saturating_sub(ms(behind)));
                let (last, before) = *stamps.last().unwrap();
                let stamp = clock.step(now, ack);
                prop_assert!(stamp >= before);
                let credit = stamp.since(before);
                prop_assert!(credit <= LeaseClock::CAP);
                prop_assert!(credit <= (ack + LeaseClock::CAP).saturating_sub(last), "time beyond the last ack");
                stamps.push((now, stamp));
            }
            for (n, (earlier, before)) in stamps.iter().enumerate() {
                for (later, after) in &stamps[n..] {
                    prop_assert!(after.since(*before) <= *later - *earlier);
                }
            }
        }

        /// While a quorum acknowledges and the owner steps it in time, it loses nothing.
        #[test]
        fn it_is_as_fast_as_now_while_all_is_well(
            steps in prop::collection::vec((1_u64..400, 0_u64..100), 1..200),
        ) {
            let mut clock = LeaseClock::begin(at_ms(0), ms(0));
            let mut now = Duration::ZERO;
            for (passed, behind) in steps {
                now += ms(passed);
                clock.step(now, now.saturating_sub(ms(behind)));
            }
            prop_assert_eq!(clock.reading().since(at_ms(0)), now);
        }
    }

    #[test]
    fn without_leases_no_bare_stamp_is_due() {
        assert!(!BareStamp::new().is_due(ms(9_000), at_ms(9_000), None, false));
    }

    #[test]
    fn the_clock_is_made_known_from_time_to_time() {
        let mut bare = BareStamp::new();
        let far = Some(at_ms(90_000));
        assert!(bare.is_due(ms(1_000), at_ms(0), far, false), "first of its term");
        bare.stamped(ms(1_000), at_ms(0));
        assert!(!bare.is_due(ms(1_199), at_ms(199), far, false));
        assert!(bare.is_due(ms(1_200), at_ms(200), far, false));
        assert!(!bare.is_due(ms(1_200), at_ms(200), far, true), "one is under way");
    }

    #[test]
    fn a_due_lease_has_a_stamp_in_flight_that_ends_it() {
        let mut bare = BareStamp::new();
        let deadline = Some(at_ms(1_000));
        bare.stamped(ms(990), at_ms(990));
        assert!(
            !bare.is_due(ms(1_000), at_ms(1_000), deadline, false),
            "it lives through its deadline"
        );
        assert!(bare.is_due(ms(1_001), at_ms(1_001), deadline, false));
        assert!(
            bare.is_due(ms(1_001), at_ms(1_001), deadline, true),
            "what is under way was stamped before the deadline"
        );
        bare.stamped(ms(1_001), at_ms(1_001));
        assert!(!bare.is_due(ms(1_002), at_ms(1_002), deadline, true));
        assert!(
            bare.is_due(ms(1_002), at_ms(1_002), deadline, false),
            "applied, and a lease is still due: more were due than one entry ends"
        );
    }
}
