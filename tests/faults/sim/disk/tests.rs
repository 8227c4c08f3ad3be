//! The simulated disk by itself.

use roster::wire::internal::{LogRecord, PeerLog};
use tokio::sync::oneshot;

use super::*;

fn record(index: u64) -> Record {
    Record {
        index,
        bytes: Bytes::from(format!("record {index}")),
    }
}

/// Appends one record; says how it ended.
fn append(log: &SimulatedLog, index: u64) -> oneshot::Receiver<Result<(), StorageError>> {
    let (done, outcome) = oneshot::channel();
    let done: Done = Box::new(move |result| drop(done.send(result)));
    log.append(vec![record(index)], done);
    outcome
}

#[tokio::test(start_paused = true)]
async fn what_was_confirmed_survives_a_crash_and_what_was_not_may() {
    let mut survived = 0;
    for seed in 0..40 {
        let disk = Disk::new(seed);
        let log = disk.open();
        append(&log, 1).await.unwrap().unwrap();
        let _never_confirmed = append(&log, 2);
        assert_eq!(log.bounds(), (Some(1), Some(2)), "it is readable at once");
        disk.crash();
        let log = disk.open();
        assert_eq!(log.read(1..2, 100).unwrap(), [record(1)], "seed {seed}");
        survived += u32::from(log.bounds().1 == Some(2));
    }
    assert!((1..40).contains(&survived), "{survived} of 40");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_confirmed_after_a_failed_sync_until_it_is_opened_again() {
    let disk = Disk::new(1);
    let log = disk.open();
    append(&log, 1).await.unwrap().unwrap();
    disk.fail_next_sync();
    disk.mend();
    append(&log, 2).await.unwrap().unwrap();
    disk.fail_next_sync();
    append(&log, 3).await.unwrap().unwrap_err();
    append(&log, 4).await.unwrap().unwrap_err();
    log.truncate_from(1).unwrap_err();
    disk.wait_failed().await;
    disk.crash();
    let log = disk.open();
    let next = log.bounds().1.unwrap() + 1;
    append(&log, next).await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_frozen_disk_confirms_when_it_thaws() {
    let disk = Disk::new(1);
    let log = disk.open();
    let (one, two) = (disk.freeze(), disk.freeze());
    let mut outcome = append(&log, 1);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(outcome.try_recv().is_err());
    assert_eq!(disk.holding(1), Holding::Nothing);
    disk.thaw(one);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(outcome.try_recv().is_err(), "another fault still holds it");
    disk.thaw(two);
    outcome.await.unwrap().unwrap();
    assert_eq!(disk.holding(1), Holding::Record(record(1).bytes));
}

#[tokio::test(start_paused = true)]
async fn records_that_a_snapshot_replaced_are_no_witness() {
    let marker = |term: u64, index: u64| {
        let log_id = roster::wire::internal::LogId {
            term,
            leader_id: 1,
            index,
        };
        let marked = PeerLog {
            node_id: 0,
            log_id: Some(log_id),
        };
        Bytes::from(marked.encode_to_vec())
    };
    let of_term = |term: u64, index: u64| Record {
        index,
        bytes: LogRecord {
            term,
            index,
            ..LogRecord::default()
        }
        .encode_to_vec()
        .into(),
    };
    for (purged_term, kept) in [(1, vec![1, 2, 3]), (2, vec![1])] {
        let disk = Disk::new(1);
        let log = disk.open();
        log.set_marker(Marker::Committed, marker(1, 1), None);
        let (done, outcome) = oneshot::channel();
        let done: Done = Box::new(move |result| drop(done.send(result)));
        log.append((1..=3).map(|index| of_term(1, index)).collect(), done);
        outcome.await.unwrap().unwrap();
        log.purge_through(3, marker(purged_term, 3)).unwrap();
        append(&log, 4).await.unwrap().unwrap();
        let archived: Vec<u64> = disk.archive(3).into_keys().collect();
        assert_eq!(archived, kept);
    }
}
