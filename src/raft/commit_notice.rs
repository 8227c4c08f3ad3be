//! A commit is told along with the records that follow it, where some follow soon.
//!
//! openraft tells each follower of each commit at once, in an append without records if none wait to be sent: a notice.
//! Where a caller writes one thing after the other, every second message is a notice, and the records that come within a
//! millisecond say the same again. So a notice waits for them; but only if the last few would not have waited in vain. In
//! a quiet cluster a follower's watchers learn of a change at once, and so does who writes at one node and then reads at
//! another.

use std::time::Duration;

use futures_util::{
    Stream, StreamExt as _,
    stream::{self, Fuse},
};
use openraft::raft::AppendEntriesRequest;
use tokio::time::Instant;

use super::types::TypeConfig;

/// How long a notice waits for records. The timer's steps may make it twice as long.
const COMPANY_WAIT: Duration = Duration::from_millis(1);
/// After how many notices in a row that records followed soon the next one waits for them.
const IN_COMPANY: u32 = 8;

type Append = AppendEntriesRequest<TypeConfig>;

/// The appends of one leadership on their way to one follower.
struct Appends<S> {
    input: Fuse<S>,
    /// The first one, records or not, asks whether the logs agree, and never waits.
    begun: bool,
    /// When the first notice since the last records came.
    noticed: Option<Instant>,
    /// The latest notice, if it waits.
    held: Option<Append>,
    /// How many notices in a row records followed soon enough.
    in_company: u32,
}

/// The same appends, without notices of what the next one says too.
pub(super) fn with_records<S>(input: S) -> impl Stream<Item = Append> + Send + Unpin + 'static
where
    S: Stream<Item = Append> + Send + Unpin + 'static,
{
    let appends = Appends {
        input: input.fuse(),
        begun: false,
        noticed: None,
        held: None,
        in_company: 0,
    };
    let next = async |mut appends: Appends<S>| Some((appends.next().await?, appends));
    stream::unfold(appends, next).boxed()
}

impl<S: Stream<Item = Append> + Unpin> Appends<S> {
    async fn next(&mut self) -> Option<Append> {
        loop {
            let input = self.input.next();
            let append = match self.noticed.filter(|_| self.held.is_some()) {
                None => input.await,
                Some(noticed) => match tokio::time::timeout_at(noticed + COMPANY_WAIT, input).await {
                    Ok(append) => append,
                    Err(_elapsed) => {
                        self.in_company = 0;
                        return self.held.take();
                    }
                },
            };
            let Some(append) = append else { return self.held.take() };
            let first = !std::mem::replace(&mut self.begun, true);
            if first || !append.entries.is_empty() {
                if let Some(noticed) = self.noticed.take() {
                    let soon = noticed.elapsed() <= COMPANY_WAIT;
                    self.in_company = if soon { self.in_company.saturating_add(1) } else { 0 };
                }
                // A later append knows of every commit that an earlier one knew of.
                self.held = None;
                return Some(append);
            }
            self.noticed.get_or_insert_with(Instant::now);
            if self.in_company < IN_COMPANY {
                return Some(append);
            }
            self.held = Some(append);
        }
    }
}

#[cfg(test)]
mod tests {
    use openraft::{EntryPayload, entry::RaftEntry as _};
    use tokio::sync::mpsc;

    use super::{
        super::types::{Record, Vote, log_id},
        *,
    };

    const SOON: Duration = Duration::from_micros(400);
    const LATE: Duration = Duration::from_millis(20);

    /// An append that tells of `committed`, with the record after `last` if there is to be one.
    fn append(last: u64, with_record: bool, committed: u64) -> Append {
        let record = Record::new(log_id(1, last + 1), EntryPayload::Blank);
        AppendEntriesRequest {
            vote: Vote::new_committed(1, 1),
            prev_log_id: Some(log_id(1, last)),
            entries: with_record.then_some(record).into_iter().collect(),
            leader_commit: Some(log_id(1, committed)),
        }
    }

    fn records(last: u64, committed: u64) -> Append {
        append(last, true, committed)
    }

    fn notice(committed: u64) -> Append {
        append(committed, false, committed)
    }

    struct Line {
        input: mpsc::UnboundedSender<Append>,
        output: mpsc::UnboundedReceiver<Append>,
    }

    impl Line {
        /// With its first append sent.
        async fn begun() -> Self {
            let (input, appends) = mpsc::unbounded_channel();
            let (sender, output) = mpsc::unbounded_channel();
            // Like openraft's, it must not be asked again once it has ended.
            let appends = stream::unfold(appends, async |mut appends: mpsc::UnboundedReceiver<_>| {
                Some((appends.recv().await?, appends))
            });
            let mut merged = with_records(appends.boxed());
            tokio::spawn(async move {
                while let Some(append) = merged.next().await {
                    sender.send(append).expect("the test takes what is sent");
                }
            });
            let mut line = Self { input, output };
            line.put(notice(0));
            assert_eq!(line.sent().await, [(0, 0)], "the first one never waits");
            line
        }

        /// The same, and records have followed the last few notices soon: everything through the record returned is
        /// committed, and it has been told.
        async fn in_company() -> (Self, u64) {
            let mut line = Self::begun().await;
            let last = u64::from(IN_COMPANY);
            for index in 1..=last {
                line.put(notice(index));
                assert_eq!(line.sent().await, [(0, index)], "not enough is known of company yet");
                tokio::time::advance(SOON).await;
                line.put(records(index, index));
                assert_eq!(line.sent().await, [(1, index)]);
            }
            (line, last)
        }

        fn put(&self, append: Append) {
            self.input.send(append).expect("the line is open");
        }

        /// What was sent on without time passing: how many records, and the commit.
        async fn sent(&mut self) -> Vec<(usize, u64)> {
            // The line's task does what it can meanwhile; the clock stands.
            for _ in 0..10 {
                tokio::task::yield_now().await;
            }
            let mut sent = Vec::new();
            while let Ok(append) = self.output.try_recv() {
                let committed = append.leader_commit.expect("each append here tells one").index();
                sent.push((append.entries.len(), committed));
            }
            sent
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_commit_in_a_quiet_time_is_told_at_once() {
        let mut line = Line::begun().await;
        for index in 1..20 {
            line.put(records(index - 1, index - 1));
            assert_eq!(line.sent().await, [(1, index - 1)]);
            line.put(notice(index));
            assert_eq!(line.sent().await, [(0, index)]);
            tokio::time::advance(LATE).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn commits_that_records_follow_soon_are_told_with_them() {
        let (mut line, last) = Line::in_company().await;
        for index in last + 1..last + 9 {
            line.put(notice(index));
            assert_eq!(line.sent().await, [], "it waits");
            tokio::time::advance(SOON).await;
            line.put(records(index, index));
            assert_eq!(line.sent().await, [(1, index)]);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_waited_in_vain_is_told_and_the_next_does_not_wait() {
        let (mut line, last) = Line::in_company().await;
        line.put(notice(last + 1));
        assert_eq!(line.sent().await, []);
        tokio::time::advance(SOON).await;
        line.put(notice(last + 2));
        assert_eq!(line.sent().await, [], "the later one stands for both");
        tokio::time::advance(2 * COMPANY_WAIT - SOON).await;
        assert_eq!(line.sent().await, [(0, last + 2)], "counted from the earlier one");

        line.put(records(last + 2, last + 2));
        line.put(notice(last + 3));
        assert_eq!(line.sent().await, [(1, last + 2), (0, last + 3)]);
        tokio::time::advance(SOON).await;
        line.put(records(last + 3, last + 3));
        line.put(notice(last + 4));
        assert_eq!(
            line.sent().await,
            [(1, last + 3), (0, last + 4)],
            "one in company is not enough"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_waits_is_told_when_the_line_ends() {
        let (mut line, last) = Line::in_company().await;
        line.put(notice(last + 1));
        assert_eq!(line.sent().await, []);
        let Line { input, mut output } = line;
        drop(input);
        let told = output.recv().await.expect("the one that waited");
        assert_eq!(told.leader_commit, Some(log_id(1, last + 1)));
        assert!(output.recv().await.is_none());
    }
}
