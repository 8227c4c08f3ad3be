//! Snapshots: whole or not at all, at every step of writing, receiving and replacing them.

use std::{
    fs,
    io::{self, Read, Write},
    path::Path,
};

use roster::storage::{DataDir, OpenError, SnapshotFile, SnapshotStore, StorageError};

use crate::support::*;

fn open_snapshots(directory: &Path) -> SnapshotStore {
    SnapshotStore::open(&DataDir::open(directory).unwrap()).unwrap()
}

/// Some bytes that follow from the index, more than a reader's buffer holds.
fn body(index: u64) -> Vec<u8> {
    (0..200_000_u64)
        .map(|position| u8::try_from((position * 7 + index) % 251).unwrap())
        .collect()
}

fn write(snapshots: &SnapshotStore, index: u64) -> SnapshotFile {
    let mut writer = snapshots.create(&format!("id-{index}"), index).unwrap();
    for piece in body(index).chunks(4_321) {
        writer.write_all(piece).unwrap();
    }
    writer.commit().unwrap()
}

fn read(snapshot: &SnapshotFile) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    snapshot.read().read_to_end(&mut bytes).map(|_| bytes)
}

fn names(snapshots: &SnapshotStore) -> Vec<String> {
    let entries = fs::read_dir(snapshots.directory()).unwrap();
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn what_was_synced_so_far_is_on_the_disk_and_no_snapshot_yet() {
    let directory = tempfile::tempdir().unwrap();
    let snapshots = open_snapshots(directory.path());
    let mut writer = snapshots.create("id-5", 5).unwrap();
    for piece in body(5).chunks(43_210) {
        writer.write_all(piece).unwrap();
        writer.sync_so_far().unwrap();
    }
    let [partial] = names(&snapshots).try_into().expect("one file");
    assert!(partial.ends_with(".partial"), "{partial}");
    assert_eq!(fs::read(snapshots.directory().join(&partial)).unwrap(), body(5));
    assert!(snapshots.latest().is_none());
    assert_eq!(read(&writer.commit().unwrap()).unwrap(), body(5));
}

#[test]
fn a_snapshot_reads_back_as_written_also_after_opening_again() {
    let directory = tempfile::tempdir().unwrap();
    let snapshots = open_snapshots(directory.path());
    assert!(snapshots.latest().is_none());
    let written = write(&snapshots, 5);
    assert_eq!(read(&written).unwrap(), body(5));
    drop((snapshots, written));
    let latest = open_snapshots(directory.path()).latest().unwrap();
    assert_eq!((latest.id.as_str(), latest.index), ("id-5", 5));
    assert_eq!(latest.size_bytes, fs::metadata(&latest.path).unwrap().len());
    assert_eq!(read(&latest).unwrap(), body(5));
}

#[test]
fn an_empty_snapshot_is_a_snapshot() {
    let directory = tempfile::tempdir().unwrap();
    let snapshots = open_snapshots(directory.path());
    let empty = snapshots.create("empty", 0).unwrap().commit().unwrap();
    assert_eq!(read(&empty).unwrap(), b"");
    assert_eq!(read(&snapshots.latest().unwrap()).unwrap(), b"");
}

#[test]
fn a_newer_snapshot_replaces_the_older_which_stays_readable_for_its_readers() {
    let directory = tempfile::tempdir().unwrap();
    let snapshots = open_snapshots(directory.path());
    let first = write(&snapshots, 1);
    let mut reader = first.read();
    let mut bytes = vec![0; 1_000];
    reader.read_exact(&mut bytes).unwrap();
    let second = write(&snapshots, 2);
    assert!(!first.path.exists());
    reader.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes, body(1));
    assert_eq!(names(&snapshots), [second.path.file_name().unwrap().to_str().unwrap()]);
}

#[test]
fn an_older_snapshot_never_replaces_a_newer_one() {
    let directory = tempfile::tempdir().unwrap();
    let snapshots = open_snapshots(directory.path());
    let mut late = snapshots.create("late", 1).unwrap();
    late.write_all(b"overtaken").unwrap();
    write(&snapshots, 2);
    let late = late.commit().unwrap();
    assert_eq!(read(&late).unwrap(), b"overtaken");
    assert_eq!(snapshots.latest().unwrap().index, 2);
    assert_eq!(names(&snapshots).len(), 1);
}

#[test]
fn a_snapshot_given_up_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let snapshots = open_snapshots(directory.path());
    let mut writer = snapshots.create("given-up", 1).unwrap();
    writer.write_all(&body(1)).unwrap();
    assert_eq!(names(&snapshots).len(), 1);
    drop(writer);
    assert!(names(&snapshots).is_empty());
}

#[test]
fn a_crash_at_any_step_leaves_the_former_snapshot_or_the_new_one() {
    let directory = tempfile::tempdir().unwrap();
    let snapshots = open_snapshots(directory.path());
    write(&snapshots, 1);
    let former = fs::read(snapshots.latest().unwrap().path).unwrap();
    let former_name = names(&snapshots).remove(0);
    write(&snapshots, 2);
    let complete = fs::read(snapshots.latest().unwrap().path).unwrap();
    let complete_name = names(&snapshots).remove(0);
    drop(snapshots);

    // While it is written, and before it is renamed.
    for length in [
        0,
        1,
        100_000,
        complete.len() - 25,
        complete.len() - 24,
        complete.len() - 1,
        complete.len(),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let folder = directory.path().join("snapshots");
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join(&former_name), &former).unwrap();
        fs::write(folder.join("00000000000000000002-id-2.0.partial"), &complete[..length]).unwrap();
        let snapshots = open_snapshots(directory.path());
        assert_eq!(snapshots.latest().unwrap().index, 1);
        assert_eq!(read(&snapshots.latest().unwrap()).unwrap(), body(1));
        assert_eq!(names(&snapshots), std::slice::from_ref(&former_name));
    }

    // After it was renamed, and before the former one is removed.
    let directory = tempfile::tempdir().unwrap();
    let folder = directory.path().join("snapshots");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join(&former_name), &former).unwrap();
    fs::write(folder.join(&complete_name), &complete).unwrap();
    let snapshots = open_snapshots(directory.path());
    assert_eq!(read(&snapshots.latest().unwrap()).unwrap(), body(2));
    assert_eq!(names(&snapshots), [complete_name]);
}

#[test]
fn a_flipped_bit_is_found_before_the_end_is_read_and_the_file_named() {
    let directory = tempfile::tempdir().unwrap();
    let path = write(&open_snapshots(directory.path()), 1).path;
    for position in [0, 1_000, 100_000, 199_999] {
        flip(&path, position);
        let error = read(&open_snapshots(directory.path()).latest().unwrap()).expect_err("it is damaged");
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
        flip(&path, position);
    }
    assert_eq!(
        read(&open_snapshots(directory.path()).latest().unwrap()).unwrap(),
        body(1)
    );
}

#[test]
fn a_complete_snapshot_without_its_footer_is_refused_at_opening() {
    let directory = tempfile::tempdir().unwrap();
    let path = write(&open_snapshots(directory.path()), 1).path;
    let whole = fs::read(&path).unwrap();
    for length in [0, 10, 1_000, whole.len() - 1] {
        fs::write(&path, &whole[..length]).unwrap();
        let opened = SnapshotStore::open(&DataDir::open(directory.path()).unwrap());
        let error = opened.expect_err("its footer is gone");
        assert!(matches!(error, OpenError::Corrupt(_)), "{error:?}");
        assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    }
}

/// Sends a file as a peer does.
fn receive(snapshots: &SnapshotStore, bytes: &[u8], size_bytes: u64) -> Result<SnapshotFile, StorageError> {
    let mut receiver = snapshots.receive("received", 9, size_bytes)?;
    for piece in bytes.chunks(10_001) {
        receiver
            .write_all(piece)
            .map_err(|_| StorageError::Misused("refused while it came"))?;
    }
    receiver.commit()
}

#[test]
fn a_snapshot_from_a_peer_is_taken_whole_or_not_at_all() {
    let from = tempfile::tempdir().unwrap();
    let sent = write(&open_snapshots(from.path()), 9);
    let mut file = Vec::new();
    sent.bytes().read_to_end(&mut file).unwrap();
    assert_eq!(file.len() as u64, sent.size_bytes);

    let to = tempfile::tempdir().unwrap();
    let snapshots = open_snapshots(to.path());
    write(&snapshots, 1);
    let damaged = |position: usize| {
        let mut damaged = file.clone();
        damaged[position] ^= 1;
        damaged
    };
    for position in [0, 12_345, 199_999, 200_000, 200_008, 200_012, file.len() - 1] {
        let error = receive(&snapshots, &damaged(position), sent.size_bytes).expect_err("a bit was flipped");
        assert!(matches!(error, StorageError::Received { .. }), "{position}: {error:?}");
    }
    for length in [0, 100, file.len() - 1] {
        let error = receive(&snapshots, &file[..length], sent.size_bytes).expect_err("the end is missing");
        assert!(matches!(error, StorageError::Received { .. }), "{length}: {error:?}");
        let error = receive(&snapshots, &file[..length], length as u64).expect_err("the end is missing");
        assert!(matches!(error, StorageError::Received { .. }), "{length}: {error:?}");
    }
    let error = receive(&snapshots, &[&file[..], b"more"].concat(), sent.size_bytes).expect_err("too much came");
    assert!(matches!(error, StorageError::Misused(_)), "{error:?}");
    assert_eq!(names(&snapshots).len(), 1);
    assert_eq!(snapshots.latest().unwrap().index, 1);

    let received = receive(&snapshots, &file, sent.size_bytes).unwrap();
    assert_eq!(read(&received).unwrap(), body(9));
    drop((snapshots, received));
    assert_eq!(read(&open_snapshots(to.path()).latest().unwrap()).unwrap(), body(9));
}

#[test]
fn an_id_that_is_no_file_name_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let snapshots = open_snapshots(directory.path());
    for id in ["", ".hidden", "../up", "a/b", "a b", "ä", &"x".repeat(101)] {
        assert!(
            matches!(snapshots.create(id, 1), Err(StorageError::Misused(_))),
            "{id:?}"
        );
        assert!(
            matches!(snapshots.receive(id, 1, 100), Err(StorageError::Misused(_))),
            "{id:?}"
        );
    }
}
