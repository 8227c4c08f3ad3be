//! The search: which order of calls respects real time and explains every answer.
//!
//! At each point a call may come next if no other call that has not come yet had ended before it was sent. A state that
//! was reached before with the same calls behind it leads nowhere new.

use std::{collections::HashSet, time::Instant};

use super::{
    calls::Timed,
    state::{State, scatter},
};

/// How often the clock is looked at.
const STEPS_PER_LOOK: u32 = 256;

/// What came of a search.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// There is such an order.
    Linearizable,
    /// There is none. The longest that there is places so many calls; then these could come next, and none fits.
    NotLinearizable { placed: usize, stuck: Vec<usize> },
    /// It took too long.
    GaveUp { placed: usize },
}

/// One call that was placed, and what else could have been.
struct Frame {
    before: State,
    next: Vec<usize>,
    tried: usize,
}

/// Calls that have not come yet, in the order in which they were sent, and in the order in which they ended.
struct Waiting {
    by_sent: Chain,
    by_ended: Chain,
}

/// A doubly linked list over numbers, from which any may be taken out and put back in the reverse order.
struct Chain {
    next: Vec<usize>,
    previous: Vec<usize>,
}

impl Chain {
    /// In this order. The last number of `next` is the list's head.
    fn of(order: &[usize]) -> Self {
        let head = order.len();
        let mut chain = Self {
            next: vec![head; head + 1],
            previous: vec![head; head + 1],
        };
        let mut last = head;
        for &number in order {
            chain.next[last] = number;
            chain.previous[number] = last;
            last = number;
        }
        chain.next[last] = head;
        chain.previous[head] = last;
        chain
    }

    fn head(&self) -> usize {
        self.next.len() - 1
    }

    fn first(&self) -> Option<usize> {
        Some(self.next[self.head()]).filter(|first| *first != self.head())
    }

    fn after(&self, number: usize) -> Option<usize> {
        Some(self.next[number]).filter(|next| *next != self.head())
    }

    fn take(&mut self, number: usize) {
        let (before, after) = (self.previous[number], self.next[number]);
        self.next[before] = after;
        self.previous[after] = before;
    }

    fn put_back(&mut self, number: usize) {
        let (before, after) = (self.previous[number], self.next[number]);
        self.next[before] = number;
        self.previous[after] = number;
    }
}

impl Waiting {
    fn of(calls: &[Timed]) -> Self {
        let mut order: Vec<usize> = (0..calls.len()).collect();
        order.sort_by_key(|at| calls[*at].sent);
        let by_sent = Chain::of(&order);
        order.sort_by_key(|at| calls[*at].ended);
        let by_ended = Chain::of(&order);
        Self { by_sent, by_ended }
    }

    /// The calls that may come next; those first that came first in the log.
    fn may_come(&self, calls: &[Timed]) -> Vec<usize> {
        let Some(first) = self.by_ended.first() else {
            return Vec::new();
        };
        let by = calls[first].ended;
        let mut next = Vec::new();
        let mut at = self.by_sent.first();
        while let Some(number) = at.filter(|number| calls[*number].sent <= by) {
            next.push(number);
            at = self.by_sent.after(number);
        }
        next.sort_by_key(|number| (calls[*number].hint, *number));
        next
    }

    fn take(&mut self, number: usize) {
        self.by_sent.take(number);
        self.by_ended.take(number);
    }

    fn put_back(&mut self, number: usize) {
        self.by_ended.put_back(number);
        self.by_sent.put_back(number);
    }
}

/// Searches for an order of all calls that begins at `start`.
pub(super) fn search(start: &State, calls: &[Timed], until: Instant) -> Verdict {
    let mut waiting = Waiting::of(calls);
    let mut been: HashSet<u128> = HashSet::new();
    let mut placed_hash = 0_u128;
    let mut frames = vec![Frame {
        before: start.clone(),
        next: waiting.may_come(calls),
        tried: 0,
    }];
    let (mut longest, mut stuck) = (0, frames[0].next.clone());
    let mut steps = 0_u32;
    loop {
        let placed = frames.len() - 1;
        if placed == calls.len() {
            return Verdict::Linearizable;
        }
        steps += 1;
        if steps.is_multiple_of(STEPS_PER_LOOK) && Instant::now() >= until {
            return Verdict::GaveUp { placed: longest };
        }
        let Some(frame) = frames.last_mut() else {
            return Verdict::NotLinearizable { placed: longest, stuck };
        };
        let mut reached = None;
        while let Some(&number) = frame.next.get(frame.tried) {
            frame.tried += 1;
            if let Some(state) = frame.before.after(&calls[number].step) {
                let hash = placed_hash ^ scatter(&number);
                if been.insert(hash.rotate_left(64) ^ state.hash().wrapping_mul(ODD)) {
                    reached = Some((number, state, hash));
                    break;
                }
            }
        }
        if let Some((number, state, hash)) = reached {
            waiting.take(number);
            placed_hash = hash;
            let next = waiting.may_come(calls);
            if placed + 1 > longest {
                (longest, stuck) = (placed + 1, next.clone());
            }
            frames.push(Frame {
                before: state,
                next,
                tried: 0,
            });
            continue;
        }
        frames.pop();
        let Some(last) = frames.last() else {
            return Verdict::NotLinearizable { placed: longest, stuck };
        };
        let undone = last.next[last.tried - 1];
        waiting.put_back(undone);
        placed_hash ^= scatter(&undone);
    }
}

/// Keeps the hash of the state apart from that of the calls.
const ODD: u128 = 0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835;

#[cfg(test)]
mod tests {
    use super::{super::state::Step, *};

    fn call(sent: u64, ended: u64, step: Step) -> Timed {
        Timed {
            sent,
            ended,
            hint: 0,
            call: None,
            step,
        }
    }

    fn put(sent: u64, ended: u64, mark: u32) -> Timed {
        call(sent, ended, Step::Put(vec![(0, (1, mark))]))
    }

    fn get(sent: u64, ended: u64, mark: u32) -> Timed {
        let records = vec![(0, (1, mark))];
        let ranges = vec![(0, 1)];
        call(
            sent,
            ended,
            Step::Shows {
                ranges,
                records,
                exactly: true,
            },
        )
    }

    fn verdict(calls: &[Timed]) -> Verdict {
        search(
            &State::default(),
            calls,
            Instant::now() + std::time::Duration::from_secs(10),
        )
    }

    #[test]
    fn reads_between_concurrent_writes_may_see_either_but_not_go_back() {
        let (first, second) = (put(0, 10, 1), put(0, 10, 2));
        assert_eq!(
            verdict(&[first.clone(), second.clone(), get(11, 12, 1), get(13, 14, 1)]),
            Verdict::Linearizable
        );
        assert_eq!(
            verdict(&[first.clone(), second.clone(), get(1, 2, 2), get(3, 4, 1)]),
            Verdict::Linearizable
        );
        let back = verdict(&[first, second, get(11, 12, 2), get(13, 14, 1)]);
        assert!(matches!(back, Verdict::NotLinearizable { placed: 3, .. }), "{back:?}");
    }

    #[test]
    fn a_write_of_unknown_outcome_may_take_effect_at_any_time_after_it_was_sent() {
        let late = put(0, u64::MAX, 2);
        let calls = [put(0, 1, 1), late.clone(), get(5, 6, 1), get(7, 8, 2)];
        assert_eq!(verdict(&calls), Verdict::Linearizable);
        let calls = [put(0, 1, 1), put(9, u64::MAX, 2), get(5, 6, 2)];
        assert!(matches!(verdict(&calls), Verdict::NotLinearizable { .. }));
    }

    #[test]
    fn too_long_a_search_is_no_pass() {
        let mut calls: Vec<Timed> = (1..200).map(|mark| put(0, u64::MAX - 1, mark)).collect();
        calls.push(get(0, u64::MAX - 1, 1_000));
        let verdict = search(&State::default(), &calls, Instant::now());
        assert!(matches!(verdict, Verdict::GaveUp { .. }), "{verdict:?}");
    }
}
