//! Damaged files: a torn tail is recovered, everything else is refused with its place.

use std::{fs, path::Path};

use bytes::Bytes;
use rocksdb::{DB, Options};
use roster::storage::{DataDir, LogLimits, LogStore, Marker, OpenError, Record, SnapshotStore, verify_whole};

use crate::support::*;

const RECORDS: u64 = 400;

/// A log of single synced records, as a crash leaves it: all in the write-ahead log.
fn crashed_log() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let log = open(directory.path());
    mark(&log, Marker::Vote, b"a vote").unwrap();
    for index in 0..RECORDS {
        append(&log, vec![record(index, 1)]).unwrap();
    }
    crash(directory.path())
}

fn write_ahead_log(directory: &Path) -> std::path::PathBuf {
    files(&directory.join("log"), "log")
        .pop()
        .expect("there is one that holds something")
}

/// Opening is refused for damage, and the message names what must be named.
fn refused(directory: &Path, names: &[&str]) -> String {
    let opened = try_open(directory, LogLimits::default());
    let error = opened.expect_err("damage is refused");
    assert!(matches!(error, OpenError::Corrupt(_)), "{error:?}");
    let message = error.to_string();
    for name in names {
        assert!(message.contains(name), "{message:?} should name {name:?}");
    }
    assert!(
        message.contains("remove the member") && message.contains("add a new member"),
        "{message}"
    );
    message
}

#[test]
fn a_torn_tail_is_recovered_and_loses_nothing_before_it() {
    let template = crashed_log();
    let length = fs::metadata(write_ahead_log(template.path())).unwrap().len();
    for cut in 1..=200 {
        let copy = crash(template.path());
        let wal = write_ahead_log(copy.path());
        fs::OpenOptions::new()
            .write(true)
            .open(&wal)
            .unwrap()
            .set_len(length - cut)
            .unwrap();
        let log = open(copy.path());
        let (_, last) = log.bounds();
        let last = last.expect("most records are there");
        // A record takes 60 bytes or more.
        assert!(
            RECORDS - 1 - last <= cut / 60 + 1,
            "{cut} bytes took {} records",
            RECORDS - 1 - last
        );
        assert!(last < RECORDS - 1);
        assert_eq!(read_all(&log), records(0..last + 1, 1));
        assert_eq!(log.marker(Marker::Vote), Some(Bytes::from_static(b"a vote")));
        append(&log, records(last + 1..RECORDS + 5, 2)).unwrap();
        log.flush_and_close().unwrap();
        drop(log);
        assert_eq!(open(copy.path()).bounds(), (Some(0), Some(RECORDS + 4)));
    }
}

#[test]
fn a_flipped_bit_in_the_middle_of_the_write_ahead_log_is_refused_with_its_place() {
    let template = crashed_log();
    let wal = write_ahead_log(template.path());
    let name = wal.file_name().unwrap().to_str().unwrap();
    let length = usize::try_from(fs::metadata(&wal).unwrap().len()).unwrap();
    let mut places = 0;
    for position in (0..length - 300).step_by(97) {
        flip(&wal, position);
        refused(template.path(), &[name, "offset"]);
        flip(&wal, position);
        places += 1;
    }
    println!("{places} places");
    assert_eq!(open(template.path()).bounds(), (Some(0), Some(RECORDS - 1)));
}

#[test]
fn a_flipped_bit_in_the_last_confirmed_record_is_refused() {
    let template = crashed_log();
    let wal = write_ahead_log(template.path());
    let name = wal.file_name().unwrap().to_str().unwrap();
    let length = usize::try_from(fs::metadata(&wal).unwrap().len()).unwrap();
    flip(&wal, length - 10);
    refused(template.path(), &[name, "offset"]);
}

/// Where the physical records of a write-ahead log begin: blocks of 32 KiB, headers of 7 bytes.
fn record_starts(wal: &[u8]) -> Vec<usize> {
    let mut starts = Vec::new();
    let mut position = 0;
    while position + 7 <= wal.len() {
        let left_in_block = 32_768 - position % 32_768;
        if left_in_block < 7 {
            position += left_in_block;
            continue;
        }
        starts.push(position);
        position += 7 + usize::from(u16::from_le_bytes([wal[position + 4], wal[position + 5]]));
    }
    starts
}

#[test]
fn damage_that_rocksdb_takes_for_the_end_of_the_log_is_refused() {
    let zeros = |record: &mut [u8]| record[..7].fill(0);
    let length = |record: &mut [u8]| record[5] |= 0x40;
    for damage in [&zeros as &dyn Fn(&mut [u8]), &length] {
        let copy = crashed_log();
        let wal = write_ahead_log(copy.path());
        let mut bytes = fs::read(&wal).unwrap();
        let starts = record_starts(&bytes);
        let fifth_last = starts[starts.len() - 5];
        damage(&mut bytes[fifth_last..]);
        fs::write(&wal, bytes).unwrap();
        refused(copy.path(), &[&format!("offset {fifth_last}")]);

        // Why storage looks for itself: RocksDB opens it and drops confirmed records in silence.
        let mut options = Options::default();
        options.set_wal_recovery_mode(rocksdb::DBRecoveryMode::TolerateCorruptedTailRecords);
        let db = DB::open_cf(&options, copy.path().join("log"), ["default", "log"]).unwrap();
        let left = db
            .iterator_cf(db.cf_handle("log").unwrap(), rocksdb::IteratorMode::Start)
            .count();
        assert_eq!(u64::try_from(left).unwrap(), RECORDS - 5, "RocksDB finds it by now");
    }
}

/// A closed log with most records in table files.
fn tabled_log() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let log = open_with(directory.path(), SMALL);
    for start in (0..10_000).step_by(100) {
        append(&log, records(start..start + 100, 1)).unwrap();
    }
    wait_until("there are tables", || {
        files(&directory.path().join("log"), "sst").len() >= 2
    });
    log.flush_and_close().unwrap();
    directory
}

#[test]
fn a_flipped_bit_in_a_table_file_is_refused_with_its_name() {
    let template = tabled_log();
    let tables = files(&template.path().join("log"), "sst");
    assert!(!tables.is_empty());
    for table in tables {
        let length = usize::try_from(fs::metadata(&table).unwrap().len()).unwrap();
        for position in [10, length / 4, length / 2] {
            let copy = crash(template.path());
            let name = table.file_name().unwrap().to_str().unwrap();
            flip(&copy.path().join("log").join(name), position);
            refused(copy.path(), &[name]);
        }
    }
}

#[test]
fn a_missing_file_is_refused() {
    let template = tabled_log();
    let log = template.path().join("log");
    let table = files(&log, "sst").swap_remove(0);
    for (what, names) in [
        (table.as_path(), table.file_name().unwrap().to_str().unwrap()),
        (&log.join("CURRENT"), "the log is gone"),
    ] {
        let copy = crash(template.path());
        fs::remove_file(copy.path().join("log").join(what.file_name().unwrap())).unwrap();
        refused(copy.path(), &[names]);
    }

    let copy = crash(template.path());
    for wal in fs::read_dir(copy.path().join("log")).unwrap() {
        let wal = wal.unwrap().path();
        if wal.extension().is_some_and(|extension| extension == "log") {
            fs::remove_file(wal).unwrap();
        }
    }
    refused(copy.path(), &["the write-ahead log is gone"]);

    let copy = crash(template.path());
    fs::remove_dir_all(copy.path().join("log")).unwrap();
    refused(copy.path(), &["the log is gone"]);
}

/// Changes the database behind the store's back.
fn tamper(directory: &Path, change: impl FnOnce(&DB, &rocksdb::ColumnFamily)) {
    let options = Options::default();
    let db = DB::open_cf(&options, directory.join("log"), ["default", "log"]).unwrap();
    let log = db.cf_handle("log").unwrap();
    change(&db, log);
}

#[test]
fn a_missing_record_is_refused_with_its_index() {
    for (missing, next) in [(0_u64..3, 3), (117..118, 118), (117..300, 300)] {
        let copy = crashed_log();
        tamper(copy.path(), |db, log| {
            db.delete_range_cf(log, missing.start.to_be_bytes(), missing.end.to_be_bytes())
                .unwrap();
        });
        let next = format!("the next one there is {next}");
        refused(copy.path(), &[&format!("log index {}", missing.start), &next]);
    }
}

#[test]
fn a_record_whose_own_checksum_is_wrong_is_refused_with_its_index() {
    let copy = crashed_log();
    tamper(copy.path(), |db, log| {
        let mut value = db.get_cf(log, 117_u64.to_be_bytes()).unwrap().unwrap();
        *value.last_mut().unwrap() ^= 1;
        db.put_cf(log, 117_u64.to_be_bytes(), value).unwrap();
    });
    refused(copy.path(), &["log index 117", "checksum"]);

    let copy = crashed_log();
    tamper(copy.path(), |db, log| {
        let another = db.get_cf(log, 118_u64.to_be_bytes()).unwrap().unwrap();
        db.put_cf(log, 117_u64.to_be_bytes(), another).unwrap();
    });
    refused(copy.path(), &["log index 117", "checksum"]);
}

#[test]
fn a_damaged_vote_is_refused() {
    let copy = crashed_log();
    tamper(copy.path(), |db, _| db.put(b"v", b"\x01\0\0\0\0another vote").unwrap());
    refused(copy.path(), &["marker 'v'", "checksum"]);
}

#[test]
fn damage_found_by_a_read_stops_the_store() {
    let template = tabled_log();
    let data_dir = DataDir::open(template.path()).unwrap();
    let (fatal, on_fatal) = fatal_counter();
    let log = LogStore::open_with(&data_dir, SMALL, on_fatal).unwrap();
    // Opening read every block; what the disk gives back later may still differ.
    for table in files(&template.path().join("log"), "sst") {
        let length = fs::metadata(&table).unwrap().len();
        let file = fs::OpenOptions::new().write(true).open(&table).unwrap();
        let garbage = vec![0xa5; usize::try_from(length / 2).unwrap()];
        std::os::unix::fs::FileExt::write_all_at(&file, &garbage, 100).unwrap();
    }
    let error = log.read(0..9_000, usize::MAX).expect_err("damage is found");
    assert!(error.to_string().contains("log index"), "{error}");
    assert_eq!(fatal.load(std::sync::atomic::Ordering::SeqCst), 1);
    let refused = append(&log, records(10_000..10_001, 1));
    assert!(
        refused
            .expect_err("nothing is written any more")
            .to_string()
            .contains("earlier failure")
    );
}

#[test]
fn a_purged_log_without_its_snapshot_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let data_dir = DataDir::open(directory.path()).unwrap();
    let log = LogStore::open(&data_dir, |error| panic!("{error}")).unwrap();
    let snapshots = SnapshotStore::open(&data_dir).unwrap();
    verify_whole(&log, &snapshots).unwrap();
    append(
        &log,
        (0..10)
            .map(|index| Record {
                index,
                bytes: Bytes::new(),
            })
            .collect(),
    )
    .unwrap();
    log.purge_through(5, Bytes::new()).unwrap();
    let error = verify_whole(&log, &snapshots).expect_err("the first six records are nowhere");
    assert!(error.to_string().contains("there is no snapshot"), "{error}");
    snapshots.create("short", 4).unwrap().commit().unwrap();
    let error = verify_whole(&log, &snapshots).expect_err("record 5 is nowhere");
    assert!(error.to_string().contains("ends at index 4"), "{error}");
    snapshots.create("long", 7).unwrap().commit().unwrap();
    verify_whole(&log, &snapshots).unwrap();
}

#[test]
fn a_newer_format_and_a_damaged_format_file_are_refused_before_anything_is_touched() {
    let directory = tempfile::tempdir().unwrap();
    drop(open(directory.path()));
    let file = directory.path().join("log-format");
    let original = fs::read_to_string(&file).unwrap();
    fs::write(&file, original.replace("log 1", "log 2")).unwrap();
    refused(directory.path(), &["log-format", "checksum"]);

    let body = "roster log 2\n";
    fs::write(&file, format!("{body}crc32c {:08x}\n", crc32c::crc32c(body.as_bytes()))).unwrap();
    let error = try_open(directory.path(), LogLimits::default()).expect_err("a newer one wrote it");
    assert!(
        matches!(error, OpenError::Newer { found: 2, known: 1, .. }),
        "{error:?}"
    );
}
