//! What one watcher was shown, and whether that is all of it, once.
//!
//! Each writer numbers its writes, and writes one after another to a ring of records: number N to record N mod `ring`.
//! A watcher that keeps up sees each writer's numbers without a gap. One that does not may be shown several revisions
//! in one step, of each record the latest; so what is missing before the last number of a step is *coalesced* if its
//! record was written again by then, and *lost* if not. A snapshot after a reset must show the last write of each
//! record. A number that was passed already is *doubled*.

/// What a record says of the write that made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Who wrote it, from 0.
    pub writer: usize,
    /// Its number among the writer's, from 0.
    pub number: u64,
    /// When it was sent first, in microseconds since the run began.
    pub sent_us: u64,
}

impl Mark {
    /// As the record holds it.
    pub fn text(self) -> String {
        format!("{}-{}-{}", self.writer, self.number, self.sent_us)
    }

    /// As it was written; `None` for what no writer wrote.
    pub fn read(text: &[u8]) -> Option<Self> {
        // Once for each delivered change: by hand, a byte at a time.
        let mut parts = [None; 3];
        let mut at = 0;
        for &byte in text {
            match byte {
                b'-' => at += 1,
                b'0'..=b'9' => {
                    let part: &mut Option<u64> = parts.get_mut(at)?;
                    let tens = part.unwrap_or(0).checked_mul(10)?;
                    *part = Some(tens.checked_add(u64::from(byte - b'0'))?);
                }
                _ => return None,
            }
        }
        let [writer, number, sent_us] = parts;
        let mark = Self {
            writer: usize::try_from(writer?).ok()?,
            number: number?,
            sent_us: sent_us?,
        };
        (at == 2).then_some(mark)
    }
}

/// How deliveries went wrong, or were more than asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Changes that should have been shown, and never were.
    pub lost: u64,
    /// Changes that were shown again, or after later ones.
    pub doubled: u64,
    /// Changes that were rightly left out: later ones of the same record were shown with them.
    pub coalesced: u64,
    /// Snapshots in the middle: the watcher was too slow.
    pub resets: u64,
}

impl Faults {
    /// Another watcher's, too.
    pub fn add(&mut self, other: Self) {
        self.lost += other.lost;
        self.doubled += other.doubled;
        self.coalesced += other.coalesced;
        self.resets += other.resets;
    }
}

/// Numbers of one writer that a step passed over.
#[derive(Clone, Copy, Debug)]
struct Gap {
    writer: usize,
    from: u64,
    to: u64,
}

/// What one watcher was shown.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Records of each writer.
    ring: u64,
    /// The next number of each writer.
    next: Vec<u64>,
    /// What the present step has passed over.
    gaps: Vec<Gap>,
    /// The numbers of each writer in the present snapshot.
    snapshot: Option<Vec<Vec<u64>>>,
    /// What was wrong with it so far.
    pub faults: Faults,
}

impl Seen {
    /// Nothing yet, of so many writers with so many records each.
    pub fn nothing(writers: usize, ring: u64) -> Self {
        Self {
            ring,
            next: vec![0; writers],
            gaps: Vec::new(),
            snapshot: None,
            faults: Faults::default(),
        }
    }

    /// Part of a snapshot comes.
    pub fn snapshot(&mut self) {
        if self.snapshot.is_none() {
            self.snapshot = Some(vec![Vec::new(); self.next.len()]);
        }
    }

    /// A record comes. Whether it is news.
    pub fn put(&mut self, mark: Mark) -> bool {
        let Some(next) = self.next.get_mut(mark.writer) else {
            self.faults.doubled += 1;
            return false;
        };
        if let Some(snapshot) = &mut self.snapshot {
            snapshot[mark.writer].push(mark.number);
            return mark.number >= *next;
        }
        if mark.number < *next {
            self.faults.doubled += 1;
            return false;
        }
        if mark.number > *next {
            self.gaps.push(Gap {
                writer: mark.writer,
                from: *next,
                to: mark.number,
            });
        }
        *next = mark.number + 1;
        true
    }

    /// The step is whole: now nothing may be missing.
    pub fn step_over(&mut self) {
        for gap in self.gaps.drain(..) {
            // These were the last writes of their records: nothing later stands for them.
            let last_writes = self.next[gap.writer].saturating_sub(self.ring);
            let lost = gap.to - last_writes.clamp(gap.from, gap.to);
            self.faults.lost += lost;
            self.faults.coalesced += gap.to - gap.from - lost;
        }
        if let Some(snapshot) = self.snapshot.take() {
            self.faults.resets += 1;
            for (writer, numbers) in snapshot.into_iter().enumerate() {
                self.replace(writer, numbers);
            }
        }
    }

    /// A snapshot has these numbers of a writer.
    fn replace(&mut self, writer: usize, mut numbers: Vec<u64>) {
        let shown = numbers.len() as u64;
        numbers.sort_unstable();
        numbers.dedup();
        self.faults.doubled += shown - numbers.len() as u64;
        let next = self.next[writer];
        let end = numbers.last().map_or(0, |last| last + 1);
        if end < next {
            // It shows a past that was passed.
            self.faults.doubled += next - end;
            return;
        }
        let last_writes = end.saturating_sub(self.ring);
        let of_them = numbers.iter().filter(|&&number| number >= last_writes).count() as u64;
        self.faults.lost += end - last_writes - of_them;
        // Its record was written again, and yet it is there.
        self.faults.doubled += numbers.len() as u64 - of_them;
        let news = numbers.iter().filter(|&&number| number >= next).count() as u64;
        self.faults.coalesced += (end - next).saturating_sub(news);
        self.next[writer] = end;
    }

    /// How many of the writers' writes it was not shown yet, when they have written so many each.
    pub fn behind(&self, written: &[u64]) -> u64 {
        let each = written.iter().zip(&self.next);
        each.map(|(written, next)| written.saturating_sub(*next)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(seen: &mut Seen, numbers: impl IntoIterator<Item = u64>) {
        for number in numbers {
            seen.put(Mark {
                writer: 0,
                number,
                sent_us: 0,
            });
        }
        seen.step_over();
    }

    fn faults(lost: u64, doubled: u64, coalesced: u64, resets: u64) -> Faults {
        Faults {
            lost,
            doubled,
            coalesced,
            resets,
        }
    }

    #[test]
    fn a_mark_reads_back() {
        let mark = Mark {
            writer: 3,
            number: 41,
            sent_us: 1_234,
        };
        assert_eq!(Mark::read(mark.text().as_bytes()), Some(mark));
        for text in [
            "",
            "1.2.3",
            "1-2",
            "1-2-3-4",
            "a-2-3",
            "1--3",
            "1-2-3-",
            "1-2-99999999999999999999",
        ] {
            assert_eq!(Mark::read(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn a_watcher_that_keeps_up_has_no_faults() {
        let mut seen = Seen::nothing(2, 10);
        for number in 0..100 {
            put(&mut seen, [number]);
        }
        assert_eq!(seen.faults, Faults::default());
        assert_eq!(seen.behind(&[100, 0]), 0);
        assert_eq!(seen.behind(&[103, 2]), 5);
    }

    #[test]
    fn what_is_skipped_is_lost_and_what_comes_twice_is_doubled() {
        let mut seen = Seen::nothing(1, 10);
        put(&mut seen, [0, 1, 3]);
        assert_eq!(seen.faults, faults(1, 0, 0, 0));
        put(&mut seen, [3]);
        put(&mut seen, [2]);
        assert_eq!(seen.faults, faults(1, 2, 0, 0));
    }

    #[test]
    fn what_a_later_write_of_the_same_record_stands_for_is_coalesced() {
        let mut seen = Seen::nothing(1, 10);
        // 0 to 14 in one step: 0 to 4 were written again.
        put(&mut seen, 5..15);
        assert_eq!(seen.faults, faults(0, 0, 5, 0));
        // 15 to 39: of the last ten, 35 is missing.
        put(&mut seen, (30..40).filter(|&number| number != 35));
        assert_eq!(seen.faults, faults(1, 0, 20, 0));
    }

    #[test]
    fn the_end_of_a_step_decides_not_its_messages() {
        let mut seen = Seen::nothing(1, 4);
        seen.put(Mark {
            writer: 0,
            number: 2,
            sent_us: 0,
        });
        assert_eq!(seen.faults, Faults::default());
        put(&mut seen, 3..6);
        assert_eq!(seen.faults, faults(0, 0, 2, 0));
    }

    #[test]
    fn a_snapshot_has_the_last_write_of_each_record() {
        let mut seen = Seen::nothing(1, 4);
        put(&mut seen, 0..3);
        seen.snapshot();
        // In the order of keys: 8, 9, 6, 7.
        put(&mut seen, [8, 9, 6, 7]);
        assert_eq!(seen.faults, faults(0, 0, 3, 1));
        assert_eq!(seen.behind(&[10]), 0);
        seen.snapshot();
        put(&mut seen, [8, 10, 11]);
        assert_eq!(seen.faults, faults(1, 0, 3, 2), "9 is missing");
        seen.snapshot();
        put(&mut seen, [8, 9, 10]);
        assert_eq!(seen.faults.doubled, 1, "11 was shown before");
    }

    #[test]
    fn what_no_writer_wrote_is_no_news() {
        let mut seen = Seen::nothing(1, 4);
        let foreign = Mark {
            writer: 1,
            number: 0,
            sent_us: 0,
        };
        assert!(!seen.put(foreign));
        assert_eq!(seen.faults.doubled, 1);
    }
}
