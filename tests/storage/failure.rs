//! A disk that fails: the store stops at once, confirms nothing more, retries nothing; and what it confirmed is there.

use std::{
    io::{BufRead, BufReader, Read, Write},
    path::Path,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
};

use bytes::Bytes;
use roster::{
    model::{ClusterId, NodeId, NodeName},
    storage::{DataDir, Identity, LogStore, Marker, Record, SnapshotStore, StorageError, verify_whole},
};

use crate::support::*;

const RECORD_BYTES: usize = 16 << 10;

fn large(index: u64) -> Record {
    Record {
        index,
        bytes: vec![u8::try_from(index % 251).unwrap(); RECORD_BYTES].into(),
    }
}

/// Not a test of its own: other tests run it as a process.
#[test]
#[ignore = "run by other tests as a process of its own"]
fn child() {
    let Some((role, directory)) = child_role() else { return };
    match role.as_str() {
        "open" => match DataDir::open(&directory) {
            Ok(_) => say("opened"),
            Err(error) => say(&error.to_string()),
        },
        "write until it fails" => write_until_it_fails(&directory),
        "lose power" => lose_power(&directory),
        "write until killed" => write_until_killed(&directory),
        other => panic!("there is no role {other:?}"),
    }
}

fn say(text: &str) {
    writeln!(std::io::stdout(), "{text}").unwrap();
}

/// Appends records one by one until one is not confirmed, and says what it saw from then on.
fn write_until_it_fails(directory: &Path) {
    let data_dir = DataDir::open(directory).unwrap();
    let fatal = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&fatal);
    let log = LogStore::open(&data_dir, move |error| {
        counted.fetch_add(1, Ordering::SeqCst);
        say(&format!("fatal: {error}"));
    })
    .unwrap();
    let first_failed = (0..10_000).find(|&index| append(&log, vec![large(index)]).is_err());
    let first_failed = first_failed.expect("the disk fails at some time");
    say(&format!("confirmed {first_failed}."));

    let syncs = log.sync_count();
    for attempt in 0..3 {
        assert!(matches!(
            append(&log, vec![large(first_failed + attempt)]),
            Err(StorageError::Stopped(_))
        ));
        assert!(matches!(
            mark(&log, Marker::Vote, b"late"),
            Err(StorageError::Stopped(_))
        ));
    }
    assert!(matches!(log.read(0..1, 1), Err(StorageError::Stopped(_))));
    assert!(matches!(log.truncate_from(0), Err(StorageError::Stopped(_))));
    assert!(matches!(
        log.purge_through(0, Bytes::new()),
        Err(StorageError::Stopped(_))
    ));
    assert!(log.flush_and_close().is_err());
    assert_eq!(log.sync_count(), syncs);
    assert_eq!(fatal.load(Ordering::SeqCst), 1);
    say("stopped for good");
}

/// Appends, truncates, votes and purges for ever, and says what is confirmed.
fn write_until_killed(directory: &Path) {
    let log = open_with(directory, SMALL);
    let mut next = log.bounds().1.map_or(0, |last| last + 1);
    loop {
        append(&log, records(next..next + 20, 1)).unwrap();
        log.truncate_from(next + 15).unwrap();
        next += 15;
        mark(&log, Marker::Vote, b"a vote").unwrap();
        if next > 3_000 {
            log.purge_through(next - 3_000, Bytes::from((next - 3_000).to_string()))
                .unwrap();
        }
        say(&format!("confirmed {next}."));
    }
}

#[test]
fn kill_9_loses_nothing_that_was_confirmed() {
    let directory = tempfile::tempdir().unwrap();
    for round in 0..15 {
        let mut command = child_command("write until killed", directory.path(), r#"exec "$@""#);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap())
            .lines()
            .map(|line| line.unwrap());
        let mut said = lines.filter_map(|line| {
            Some(
                line.strip_prefix("confirmed ")?
                    .trim_end_matches('.')
                    .parse::<u64>()
                    .unwrap(),
            )
        });
        let mut confirmed = said.by_ref().take(20 + round * 17).last().expect("it writes");
        child.kill().unwrap();
        confirmed = said.last().unwrap_or(confirmed);
        child.wait().unwrap();

        let log = open_with(directory.path(), SMALL);
        let (first, last) = log.bounds();
        let (first, last) = (first.unwrap(), last.unwrap());
        assert!(
            last + 1 >= confirmed,
            "round {round}: {confirmed} were confirmed, the last is {last}"
        );
        assert_eq!(read_all(&log), records(first..last + 1, 1), "round {round}");
        assert_eq!(log.marker(Marker::Vote), Some(Bytes::from_static(b"a vote")));
        let purged = log.purged_through().map(|purged| Bytes::from(purged.to_string()));
        assert_eq!(log.marker(Marker::Purged), purged, "round {round}");
    }
}

/// Checks what that child said, and that all that it was told is confirmed is there.
fn check_failed(output: &str, cause: &str, directory: &Path) {
    assert!(output.contains("stopped for good"), "{output}");
    assert!(
        output.contains("fatal: can't write to") && output.contains(cause),
        "{output}"
    );
    let (_, confirmed) = output.split_once("confirmed ").expect("it says how many");
    let confirmed: u64 = confirmed.split_once('.').unwrap().0.parse().unwrap();
    assert!(confirmed > 0, "{output}");
    let found = read_all(&open(directory));
    assert!(
        found.len() as u64 >= confirmed,
        "{} of {confirmed} are there",
        found.len()
    );
    assert!((0..).zip(&found).all(|(index, found)| *found == large(index)));
}

fn check_failing(wrapper: &str, cause: &str) {
    let directory = tempfile::tempdir().unwrap();
    let output = run_child("write until it fails", directory.path(), wrapper);
    check_failed(&output, cause, directory.path());
}

#[test]
fn a_failed_write_stops_the_store_for_good() {
    // A write beyond the limit fails; the signal that would come with it is ignored.
    check_failing(r#"trap '' XFSZ; ulimit -f 2048; exec "$@""#, "File too large");
}

#[test]
fn a_failed_sync_stops_the_store_for_good() {
    if !has("strace") {
        println!("skipped 1: there is no strace");
        return;
    }
    let wrapper = r#"exec strace -f -qq -o /dev/null -e trace=fdatasync -e inject=fdatasync:error=EIO:when=30+ "$@""#;
    check_failing(wrapper, "Input/output error");
}

#[test]
fn a_full_disk_stops_the_store_and_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    std::fs::create_dir(&data).unwrap();
    // The small file system is gone with the process: what it held is copied out first.
    let wrapper = r#"unshare -m sh -c 'mount -t tmpfs -o size=4m none "$STORAGE_TEST_DIRECTORY" && echo mounted && "$@";
        mkdir "$STORAGE_TEST_DIRECTORY/../kept" && cp -a "$STORAGE_TEST_DIRECTORY/." "$STORAGE_TEST_DIRECTORY/../kept/"' sh "$@""#;
    let output = run_child("write until it fails", &data, wrapper);
    if !output.contains("mounted") {
        println!("skipped 1: no file system can be mounted here");
        return;
    }
    check_failed(&output, "No space left on device", &directory.path().join("kept"));
}

#[test]
fn every_waiting_operation_is_told_when_a_write_before_it_fails() {
    let directory = tempfile::tempdir().unwrap();
    let data_dir = DataDir::open(directory.path()).unwrap();
    let (fatal, on_fatal) = fatal_counter();
    let log = LogStore::open(&data_dir, on_fatal).unwrap();
    // The first callback panics: the writer is lost, as after a failed write.
    let (entered, is_in) = mpsc::channel();
    let (release, released) = mpsc::channel::<()>();
    let lost = move |_| {
        entered.send(()).unwrap();
        released.recv().unwrap();
        panic!("a planted panic");
    };
    log.append(records(0..1, 1), Box::new(lost));
    is_in.recv_timeout(DEADLINE).unwrap();
    let (told, outcomes) = mpsc::channel();
    for index in 1..=10 {
        let told = told.clone();
        log.append(
            records(index..index + 1, 1),
            Box::new(move |outcome| told.send(outcome).unwrap()),
        );
    }
    release.send(()).unwrap();
    for _ in 0..10 {
        let outcome = outcomes.recv_timeout(DEADLINE).unwrap();
        assert!(matches!(outcome, Err(StorageError::Stopped(_))), "{outcome:?}");
    }
    assert_eq!(fatal.load(Ordering::SeqCst), 1);
    assert!(log.flush_and_close().is_err());
}

const POWER_CUTS: u64 = 5;

/// Makes a disk in a file, runs the child on it, and copies out what each image that the child took holds.
const ON_A_DISK: &str = r#"unshare -m sh -c '
    cd "$STORAGE_TEST_DIRECTORY" && mkdir disk cut || exit 1
    truncate -s 64M disk.img && mkfs.ext4 -q disk.img || exit 1
    device=$(losetup -f --show --direct-io=on disk.img) || exit 1
    trap "umount disk; losetup -d $device" EXIT
    mount -o commit=300 $device disk && echo mounted || exit 1
    "$@"
    for image in cut-*.img; do
        mount -o loop $image cut && cp -a cut kept-${image%.img} && umount cut || exit 1
    done' sh "$@""#;

/// Writes, and takes an image of the disk right after each confirmation: what the disk was never told is not in it.
fn lose_power(directory: &Path) {
    let data_dir = DataDir::open(&directory.join("disk/data")).unwrap();
    let log = LogStore::open(&data_dir, |error| panic!("{error}")).unwrap();
    let snapshots = SnapshotStore::open(&data_dir).unwrap();
    data_dir.save_identity(&identity()).unwrap();
    for round in 0..POWER_CUTS {
        append(&log, records(round * 10..round * 10 + 10, 1)).unwrap();
        let mut writer = snapshots.create("snapshot", round).unwrap();
        writer.write_all(&[7; 100_000]).unwrap();
        writer.commit().unwrap();
        if round > 2 {
            log.purge_through(round, Bytes::from(round.to_string())).unwrap();
        }
        mark(&log, Marker::Vote, b"a vote").unwrap();
        // More is under way when the power goes.
        std::fs::write(directory.join(format!("disk/unsynced-{round}")), "never told the disk").unwrap();
        log.set_marker(Marker::Committed, Bytes::from_static(b"a hint"), None);
        let image = directory.join(format!("cut-{round}.img"));
        let copied = Command::new("cp")
            .arg("--sparse=always")
            .arg(directory.join("disk.img"))
            .arg(image)
            .status();
        assert!(copied.unwrap().success());
    }
    say("lost power");
}

fn identity() -> Identity {
    Identity {
        cluster_id: ClusterId::new(0xc0ffee).unwrap(),
        node_id: NodeId(1),
        name: NodeName::parse("n1").unwrap(),
    }
}

#[test]
fn what_was_confirmed_is_there_after_a_power_cut() {
    let directory = tempfile::tempdir().unwrap();
    let output = run_child("lose power", directory.path(), ON_A_DISK);
    if !output.contains("mounted") {
        println!("skipped 1: no file system can be mounted here");
        return;
    }
    assert!(output.contains("lost power"), "{output}");
    for round in 0..POWER_CUTS {
        let disk = directory.path().join(format!("kept-cut-{round}"));
        assert!(
            !disk.join(format!("unsynced-{round}")).exists(),
            "the cut is none: what was never synced is there"
        );
        let data_dir = DataDir::open(&disk.join("data")).unwrap();
        assert_eq!(data_dir.identity(), Some(&identity()));
        let log = LogStore::open(&data_dir, |error| panic!("{error}")).unwrap();
        let snapshots = SnapshotStore::open(&data_dir).unwrap();
        assert_eq!(log.marker(Marker::Vote), Some(Bytes::from_static(b"a vote")));
        let first = if round > 2 { round + 1 } else { 0 };
        assert_eq!(read_all(&log), records(first..round * 10 + 10, 1));
        let snapshot = snapshots.latest().unwrap();
        assert_eq!(snapshot.index, round);
        let mut body = Vec::new();
        snapshot.read().read_to_end(&mut body).unwrap();
        assert_eq!(body, [7; 100_000]);
        verify_whole(&log, &snapshots).unwrap();
    }
}

#[test]
fn a_snapshot_that_can_not_be_written_leaves_the_former_one() {
    let directory = tempfile::tempdir().unwrap();
    let data_dir = DataDir::open(directory.path()).unwrap();
    let snapshots = SnapshotStore::open(&data_dir).unwrap();
    let mut writer = snapshots.create("first", 1).unwrap();
    writer.write_all(b"the first").unwrap();
    let first = writer.commit().unwrap();
    let mut writer = snapshots.create("second", 2).unwrap();
    writer.write_all(b"the second").unwrap();
    // The folder goes away below it: neither the rename nor anything after can succeed.
    let away = directory.path().join("away");
    std::fs::rename(snapshots.directory(), &away).unwrap();
    let error = writer.commit().expect_err("there is no such folder");
    assert!(
        matches!(error, StorageError::Failed { action: "rename", .. }),
        "{error:?}"
    );
    std::fs::rename(&away, snapshots.directory()).unwrap();
    assert_eq!(snapshots.latest().unwrap().id, first.id);
    drop((snapshots, data_dir));
    let data_dir = DataDir::open(directory.path()).unwrap();
    let snapshots = SnapshotStore::open(&data_dir).unwrap();
    assert_eq!(snapshots.latest().unwrap().id, "first");
    assert!(files(snapshots.directory(), "partial").is_empty());
}
