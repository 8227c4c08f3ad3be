//! The log: what is confirmed comes back, in order and unchanged.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
};

use bytes::Bytes;
use rand::{Rng, SeedableRng, rngs::StdRng};
use roster::storage::{LogLimits, LogStore, Marker, Record, StorageError};

use crate::support::*;

#[test]
fn a_new_log_is_empty() {
    let directory = tempfile::tempdir().unwrap();
    let log = open(directory.path());
    assert_eq!(log.bounds(), (None, None));
    assert_eq!(log.durable_last_index(), None);
    assert_eq!(log.purged_through(), None);
    assert!(
        [Marker::Vote, Marker::Committed, Marker::Purged, Marker::Acknowledged]
            .iter()
            .all(|&marker| log.marker(marker).is_none())
    );
    assert!(read_all(&log).is_empty());
}

#[test]
fn every_step_survives_closing_and_kill_9() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let check = |log: &LogStore, expected: &[Record]| {
        assert_eq!(read_all(log), expected);
        assert_eq!(log.durable_last_index(), expected.last().map(|record| record.index));
    };
    let survive = |log: LogStore, expected: &[Record]| {
        check(&log, expected);
        let copy = crash(path);
        check(&open(copy.path()), expected);
        log.flush_and_close().unwrap();
        drop(log);
        let log = open(path);
        check(&log, expected);
        log
    };

    let log = survive(open(path), &[]);
    mark(&log, Marker::Vote, b"term 1").unwrap();
    let log = survive(log, &[]);
    assert_eq!(log.marker(Marker::Vote), Some(Bytes::from_static(b"term 1")));

    append(&log, records(0..10, 1)).unwrap();
    let log = survive(log, &records(0..10, 1));
    log.truncate_from(6).unwrap();
    append(&log, records(6..8, 2)).unwrap();
    let expected = [records(0..6, 1), records(6..8, 2)].concat();
    let log = survive(log, &expected);
    log.truncate_from(0).unwrap();
    append(&log, records(0..20, 3)).unwrap();
    let log = survive(log, &records(0..20, 3));

    log.purge_through(4, Bytes::from_static(b"purged 4")).unwrap();
    mark(&log, Marker::Acknowledged, b"19").unwrap();
    let log = survive(log, &records(5..20, 3));
    assert_eq!(log.marker(Marker::Purged), Some(Bytes::from_static(b"purged 4")));
    assert_eq!(log.marker(Marker::Acknowledged), Some(Bytes::from_static(b"19")));
    assert_eq!((log.bounds(), log.purged_through()), ((Some(5), Some(19)), Some(4)));

    // As after the installation of a snapshot.
    log.purge_through(99, Bytes::from_static(b"purged 99")).unwrap();
    mark(&log, Marker::Vote, b"term 2").unwrap();
    let log = survive(log, &[]);
    assert_eq!((log.bounds(), log.purged_through()), ((None, None), Some(99)));
    append(&log, records(100..103, 4)).unwrap();
    let log = survive(log, &records(100..103, 4));
    assert_eq!(log.marker(Marker::Vote), Some(Bytes::from_static(b"term 2")));
}

#[test]
fn a_marker_without_a_sync_is_there_after_closing() {
    let directory = tempfile::tempdir().unwrap();
    let log = open(directory.path());
    append(&log, records(0..1, 1)).unwrap();
    let syncs = log.sync_count();
    for committed in 0..1_000_u64 {
        log.set_marker(
            Marker::Committed,
            Bytes::copy_from_slice(&committed.to_le_bytes()),
            None,
        );
    }
    assert_eq!(log.sync_count(), syncs);
    assert_eq!(log.pressure().operations, 1);
    log.flush_and_close().unwrap();
    drop(log);
    let log = open(directory.path());
    assert_eq!(
        log.marker(Marker::Committed),
        Some(Bytes::copy_from_slice(&999_u64.to_le_bytes()))
    );
}

#[test]
fn records_are_readable_before_they_are_durable() {
    let directory = tempfile::tempdir().unwrap();
    let log = open_with(directory.path(), SMALL);
    let (release, held) = hold_writer(&log, 0);
    log.append(records(1..500, 1), Box::new(|outcome| outcome.unwrap()));
    assert_eq!(log.bounds(), (Some(0), Some(499)));
    assert_eq!(log.durable_last_index(), Some(0));
    assert_eq!(log.read(100..300, usize::MAX).unwrap(), records(100..300, 1));
    assert_eq!(log.read_recent(1..500, usize::MAX).unwrap(), Some(records(1..500, 1)));
    release.send(()).unwrap();
    held.recv().unwrap();
    wait_until("all is durable", || log.durable_last_index() == Some(499));
    // Now the tail is small again, and the rest comes from the disk.
    assert_eq!(log.read_recent(1..500, usize::MAX).unwrap(), None);
    assert_eq!(log.read(1..500, usize::MAX).unwrap(), records(1..500, 1));
}

/// Appends one record, and holds the writer in its callback until told. The second channel reports the end.
fn hold_writer(log: &LogStore, index: u64) -> (mpsc::Sender<()>, mpsc::Receiver<()>) {
    let (entered, is_in) = mpsc::channel();
    let (release, released) = mpsc::channel();
    let (ended, has_ended) = mpsc::channel();
    let done = move |outcome: Result<(), StorageError>| {
        outcome.unwrap();
        entered.send(()).unwrap();
        released.recv().unwrap();
        ended.send(()).unwrap();
    };
    log.append(records(index..index + 1, 1), Box::new(done));
    is_in.recv_timeout(DEADLINE).unwrap();
    (release, has_ended)
}

#[test]
fn one_sync_confirms_all_that_waited_in_the_order_of_the_calls() {
    let directory = tempfile::tempdir().unwrap();
    let log = open(directory.path());
    let (release, _held) = hold_writer(&log, 0);
    let before = log.sync_count();
    assert!(before >= 1);
    let confirmed = Arc::new(Mutex::new(Vec::new()));
    for index in 1..=1_000 {
        let sink = Arc::clone(&confirmed);
        log.append(records(index..index + 1, 1), {
            Box::new(move |outcome| {
                outcome.unwrap();
                sink.lock().unwrap().push(format!("record {index}"));
            })
        });
        if index % 100 == 0 {
            let sink = Arc::clone(&confirmed);
            let done = Box::new(move |outcome: Result<(), StorageError>| {
                outcome.unwrap();
                sink.lock().unwrap().push(format!("vote {index}"));
            });
            log.set_marker(Marker::Vote, Bytes::from(index.to_string()), Some(done));
        }
    }
    assert!(confirmed.lock().unwrap().is_empty());
    release.send(()).unwrap();
    wait_until("all are confirmed", || confirmed.lock().unwrap().len() == 1_010);
    assert_eq!(log.sync_count(), before + 1);
    let expected = (1..=1_000_u64).flat_map(|index| {
        let vote = (index % 100 == 0).then(|| format!("vote {index}"));
        [Some(format!("record {index}")), vote].into_iter().flatten()
    });
    assert_eq!(*confirmed.lock().unwrap(), expected.collect::<Vec<_>>());
}

#[test]
fn a_vote_is_confirmed_after_a_sync_and_not_before() {
    let directory = tempfile::tempdir().unwrap();
    let log = Arc::new(open(directory.path()));
    for _ in 0..20 {
        let before = log.sync_count();
        let (sender, receiver) = mpsc::channel();
        let handle = Arc::clone(&log);
        let done = Box::new(move |outcome: Result<(), StorageError>| {
            outcome.unwrap();
            sender.send(handle.sync_count()).unwrap();
        });
        log.set_marker(Marker::Vote, Bytes::from_static(b"vote"), Some(done));
        assert!(receiver.recv_timeout(DEADLINE).unwrap() > before);
        // A store whose last handle is dropped in a callback ends by itself, and nobody waits until it has: this process
        // could end in the midst of that, and RocksDB would abort it.
        wait_until("the callback has let go", || Arc::strong_count(&log) == 1);
    }
}

#[test]
fn an_append_of_nothing_tells_when_everything_before_is_on_the_disk() {
    let directory = tempfile::tempdir().unwrap();
    let log = open(directory.path());
    append(&log, records(0..10, 1)).unwrap();
    // By itself it waits for the next write that somebody waits for.
    log.truncate_from(6).unwrap();
    append(&log, Vec::new()).unwrap();
    assert_eq!(read_all(&open(crash(directory.path()).path())), records(0..6, 1));
}

#[test]
fn a_full_queue_makes_the_appender_wait_and_shows_as_pressure() {
    let directory = tempfile::tempdir().unwrap();
    let log = open(directory.path());
    let (release, _held) = hold_writer(&log, 0);
    let appender = thread::spawn({
        let log = log.clone();
        move || {
            for index in 1..=70_000 {
                log.append(records(index..index + 1, 1), Box::new(|outcome| outcome.unwrap()));
            }
        }
    });
    wait_until("the queue is full", || log.pressure().operations == 65_536);
    wait_until("the disk's hanging shows", || log.pressure().oldest.as_millis() >= 50);
    assert_eq!(log.bounds().1, Some(65_536));
    release.send(()).unwrap();
    appender.join().unwrap();
    wait_until("all is durable", || log.durable_last_index() == Some(70_000));
    assert_eq!(log.pressure().operations, 0);
}

#[test]
fn reads_are_cut_at_their_limit_but_hold_at_least_one_record() {
    let directory = tempfile::tempdir().unwrap();
    let log = open_with(directory.path(), SMALL);
    append(&log, records(0..1_000, 1)).unwrap();
    for start in [0, 500, 995, 999] {
        assert_eq!(log.read(start..1_000, 0).unwrap(), records(start..start + 1, 1));
    }
    let some = log.read(900..1_000, 3_000).unwrap();
    let bytes: usize = some.iter().map(|record| record.bytes.len()).sum();
    assert!((2_900..=3_000).contains(&bytes), "{bytes}");
    assert_eq!(some, records(900..900 + some.len() as u64, 1));
    assert!(log.read(1_000..2_000, 3_000).unwrap().is_empty());
    assert!(log.read(7..7, 3_000).unwrap().is_empty());
}

#[test]
fn records_out_of_sequence_are_refused_and_change_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let log = open(directory.path());
    append(&log, records(0..3, 1)).unwrap();
    for wrong in [2..4, 4..5] {
        let refused = append(&log, records(wrong, 2));
        assert!(
            matches!(refused, Err(StorageError::Order { expected: 3, .. })),
            "{refused:?}"
        );
    }
    assert!(matches!(
        mark(&log, Marker::Purged, b"no"),
        Err(StorageError::Misused(_))
    ));
    append(&log, records(3..4, 1)).unwrap();
    assert_eq!(read_all(&log), records(0..4, 1));
}

#[test]
fn a_log_that_nothing_was_purged_from_may_begin_anywhere() {
    let directory = tempfile::tempdir().unwrap();
    let log = open(directory.path());
    append(&log, records(2..6, 1)).unwrap();
    log.flush_and_close().unwrap();
    drop(log);
    let log = open(directory.path());
    assert_eq!(read_all(&log), records(2..6, 1));
    log.purge_through(1, Bytes::from_static(b"1")).unwrap();
    log.truncate_from(2).unwrap();
    log.flush_and_close().unwrap();
    drop(log);
    let log = open(directory.path());
    assert_eq!((log.bounds(), log.purged_through()), ((None, None), Some(1)));
    assert!(matches!(
        append(&log, records(3..4, 1)),
        Err(StorageError::Order { .. })
    ));
    append(&log, records(2..3, 2)).unwrap();
    assert_eq!(read_all(&log), records(2..3, 2));
}

#[test]
fn a_closed_log_refuses_everything() {
    let directory = tempfile::tempdir().unwrap();
    let log = open(directory.path());
    append(&log, records(0..3, 1)).unwrap();
    log.flush_and_close().unwrap();
    assert!(matches!(append(&log, records(3..4, 1)), Err(StorageError::Closed)));
    assert!(matches!(mark(&log, Marker::Vote, b"late"), Err(StorageError::Closed)));
    assert!(matches!(log.read(0..3, 1), Err(StorageError::Closed)));
    assert!(matches!(log.truncate_from(0), Err(StorageError::Closed)));
    assert!(matches!(log.purge_through(0, Bytes::new()), Err(StorageError::Closed)));
    assert!(log.sync_count() > 0);
    log.flush_and_close().unwrap();
}

#[test]
fn readers_see_whole_ranges_while_the_log_is_purged_and_truncated() {
    const RECORDS: u64 = 60_000;
    let directory = tempfile::tempdir().unwrap();
    let log = open_with(directory.path(), SMALL);
    append(&log, records(0..RECORDS, 1)).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..3_u64)
        .map(|seed| {
            let (log, stop) = (log.clone(), Arc::clone(&stop));
            thread::spawn(move || {
                let mut random = StdRng::seed_from_u64(seed);
                let mut reads = 0_u64;
                while !stop.load(Ordering::Relaxed) || reads < 50 {
                    let start = random.random_range(0..RECORDS);
                    let found = log.read(start..start + 500, usize::MAX).unwrap();
                    let Some(first) = found.first().map(|record| record.index) else {
                        continue;
                    };
                    assert!(first >= start);
                    for (index, found) in (first..).zip(&found) {
                        let generation = *found.bytes.last().unwrap();
                        assert_eq!(*found, record(index, generation));
                    }
                    reads += 1;
                }
            })
        })
        .collect();
    for round in 1..=20_u64 {
        log.purge_through(round * 2_500, Bytes::from(round.to_string()))
            .unwrap();
        log.truncate_from(RECORDS - 2_000).unwrap();
        let generation = u8::try_from(round).unwrap() + 1;
        append(&log, records(RECORDS - 2_000..RECORDS, generation)).unwrap();
    }
    stop.store(true, Ordering::Relaxed);
    readers.into_iter().for_each(|reader| reader.join().unwrap());
    assert_eq!(log.bounds(), (Some(50_001), Some(RECORDS - 1)));
}

#[test]
fn purged_records_give_their_space_back() {
    let directory = tempfile::tempdir().unwrap();
    let limits = LogLimits {
        tail_max_bytes: 1 << 20,
        write_buffer_bytes: 1 << 20,
    };
    let log = open_with(directory.path(), limits);
    let large = |index| Record {
        index,
        bytes: vec![u8::try_from(index % 251).unwrap(); 4_000].into(),
    };
    for batch in 0..100_u64 {
        append(&log, (batch * 100..batch * 100 + 100).map(large).collect()).unwrap();
    }
    let size = || -> u64 {
        let tables = files(&directory.path().join("log"), "sst");
        tables
            .iter()
            .filter_map(|path| std::fs::metadata(path).ok())
            .map(|found| found.len())
            .sum()
    };
    wait_until("tables are written", || size() > 20 << 20);
    assert_eq!(log.bytes_since(8_999), 1_000 * 4_000);
    log.purge_through(9_899, Bytes::from_static(b"9899")).unwrap();
    assert_eq!(log.bytes_since(0), 100 * 4_000);
    // The next flush and compactions take the rest along.
    for batch in 100..110_u64 {
        append(&log, (batch * 100..batch * 100 + 100).map(large).collect()).unwrap();
    }
    wait_until("the space is given back", || size() < 10 << 20);
    assert_eq!(log.read(0..u64::MAX, usize::MAX).unwrap().len(), 1_100);
}

#[test]
fn any_sequence_of_writes_reads_like_a_map() {
    for seed in 0..8 {
        println!("seed {seed}");
        random_walk(seed);
    }
}

/// Random writes, compared with a map after each of them, with closings and crashes in between.
fn random_walk(seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let mut directory = tempfile::tempdir().unwrap();
    let mut log = open_with(directory.path(), SMALL);
    let mut model: BTreeMap<u64, Record> = BTreeMap::new();
    let mut next = 0;
    let mut purged = None;
    for step in 0..300_u16 {
        let generation = u8::try_from(step % 250).unwrap();
        match random.random_range(0..100) {
            0..60 => {
                let new = records(next..next + random.random_range(1..40), generation);
                next += new.len() as u64;
                model.extend(new.iter().map(|record| (record.index, record.clone())));
                log.append(new, Box::new(|outcome| outcome.unwrap()));
            }
            60..75 => {
                let from = next
                    .saturating_sub(random.random_range(0..60))
                    .max(purged.map_or(0, |purged| purged + 1));
                log.truncate_from(from).unwrap();
                model.split_off(&from);
                next = next.min(from);
            }
            75..85 => {
                let through = next.saturating_sub(random.random_range(0..200)) + random.random_range(0..3);
                log.purge_through(through, Bytes::from(through.to_string())).unwrap();
                model = model.split_off(&(through + 1));
                purged = purged.max(Some(through));
                next = next.max(through + 1);
            }
            85..93 => {
                mark(&log, Marker::Vote, b"a vote").unwrap();
                let copy = crash(directory.path());
                drop(log);
                directory = copy;
                log = open_with(directory.path(), SMALL);
            }
            _ => {
                log.flush_and_close().unwrap();
                drop(log);
                log = open_with(directory.path(), SMALL);
            }
        }
        let expected: Vec<_> = model.values().cloned().collect();
        assert_eq!(read_all(&log), expected, "step {step}");
        let start = random.random_range(0..next + 2);
        let expected: Vec<_> = model
            .range(start..start + 50)
            .map(|(_, record)| record.clone())
            .collect();
        assert_eq!(
            log.read(start..start + 50, usize::MAX).unwrap(),
            expected,
            "step {step}"
        );
        assert_eq!(log.purged_through(), purged, "step {step}");
    }
}
