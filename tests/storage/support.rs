//! What the tests of storage share: records, waiting for writes, crashes, and tests that run as processes of their
//! own.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use roster::storage::{DataDir, LogLimits, LogStore, Marker, OpenError, Record, StorageError};

/// Longest wait for anything.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);
/// Names the role of a test that runs as a process of its own.
const ROLE: &str = "STORAGE_TEST_ROLE";
/// Names its directory.
const DIRECTORY: &str = "STORAGE_TEST_DIRECTORY";

/// Little memory, so that reads reach the disk and writes reach tables.
pub(crate) const SMALL: LogLimits = LogLimits {
    tail_max_bytes: 4 << 10,
    write_buffer_bytes: 64 << 10,
};

/// Some bytes that follow from the index and a generation alone.
pub(crate) fn record(index: u64, generation: u8) -> Record {
    let length = 20 + usize::try_from(index % 90).expect("small");
    let mut bytes = vec![generation; length];
    bytes[..8].copy_from_slice(&index.to_le_bytes());
    Record {
        index,
        bytes: bytes.into(),
    }
}

pub(crate) fn records(range: std::ops::Range<u64>, generation: u8) -> Vec<Record> {
    range.map(|index| record(index, generation)).collect()
}

/// Opens a log in which nothing may fail.
pub(crate) fn open(path: &Path) -> LogStore {
    open_with(path, LogLimits::default())
}

pub(crate) fn open_with(path: &Path, limits: LogLimits) -> LogStore {
    try_open(path, limits).expect("the log opens")
}

pub(crate) fn try_open(path: &Path, limits: LogLimits) -> Result<LogStore, OpenError> {
    let data_dir = DataDir::open(path)?;
    LogStore::open_with(&data_dir, limits, |error| panic!("storage failed: {error}"))
}

/// Appends and waits for the sync.
pub(crate) fn append(log: &LogStore, records: Vec<Record>) -> Result<(), StorageError> {
    let (sender, receiver) = mpsc::channel();
    log.append(
        records,
        Box::new(move |outcome| sender.send(outcome).expect("the test waits")),
    );
    receiver.recv_timeout(DEADLINE).expect("done is called")
}

/// Writes a marker and waits for the sync.
pub(crate) fn mark(log: &LogStore, marker: Marker, bytes: &'static [u8]) -> Result<(), StorageError> {
    let (sender, receiver) = mpsc::channel();
    let done = Box::new(move |outcome| sender.send(outcome).expect("the test waits"));
    log.set_marker(marker, Bytes::from_static(bytes), Some(done));
    receiver.recv_timeout(DEADLINE).expect("done is called")
}

pub(crate) fn read_all(log: &LogStore) -> Vec<Record> {
    log.read(0..u64::MAX, usize::MAX).expect("the log is readable")
}

/// Polls until it holds.
pub(crate) fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < DEADLINE, "waited too long until {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// What a `kill -9` at this instant would leave: a copy of all files as they are at one moment. RocksDB moves files
/// about in the background, so a copy during which anything changed is thrown away.
pub(crate) fn crash(path: &Path) -> tempfile::TempDir {
    let started = Instant::now();
    loop {
        let copy = tempfile::tempdir().expect("a temporary directory");
        let before = stamps(path);
        copy_tree(path, copy.path());
        if before == stamps(path) {
            return copy;
        }
        assert!(started.elapsed() < DEADLINE, "{} never stands still", path.display());
    }
}

/// Name, size and time of change of all files below a directory.
fn stamps(path: &Path) -> Vec<(PathBuf, u64, SystemTime)> {
    let mut stamps = Vec::new();
    let mut directories = vec![path.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).expect("a directory") {
            let path = entry.expect("an entry").path();
            match fs::metadata(&path) {
                Ok(found) if found.is_dir() => directories.push(path),
                Ok(found) => stamps.push((path, found.len(), found.modified().expect("a time"))),
                Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "{error}"),
            }
        }
    }
    stamps.sort();
    stamps
}

fn copy_tree(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).expect("a directory") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("a type").is_dir() {
            fs::create_dir_all(&target).expect("a new directory");
            copy_tree(&entry.path(), &target);
        } else {
            // RocksDB may remove a file it no longer needs in the meantime.
            match fs::copy(entry.path(), target) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                result => drop(result.expect("a copy")),
            }
        }
    }
}

/// Files below a directory with this ending, sorted, and not empty.
pub(crate) fn files(directory: &Path, extension: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory)
        .expect("a directory")
        .map(|entry| entry.expect("an entry").path());
    let mut files: Vec<_> = entries
        .filter(|path| path.extension().is_some_and(|found| found == extension))
        .collect();
    files.retain(|path| fs::metadata(path).expect("metadata").len() > 0);
    files.sort();
    files
}

pub(crate) fn flip(path: &Path, position: usize) {
    let mut bytes = fs::read(path).expect("the file is readable");
    bytes[position] ^= 0x10;
    fs::write(path, bytes).expect("the file is writable");
}

/// Counts the calls of `on_fatal`.
pub(crate) fn fatal_counter() -> (Arc<AtomicUsize>, impl Fn(StorageError) + Send + Sync + 'static) {
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    (count, move |_| {
        counted.fetch_add(1, Ordering::SeqCst);
    })
}

/// Runs the ignored test `child` of this test program as a process of its own, through a wrapper that ends in `"$@"`.
/// Returns its output, both streams.
pub(crate) fn run_child(role: &str, directory: &Path, wrapper: &str) -> String {
    let output = child_command(role, directory, wrapper).output().expect("a shell");
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    text
}

/// That process, not yet started.
pub(crate) fn child_command(role: &str, directory: &Path, wrapper: &str) -> Command {
    let mut command = Command::new("sh");
    command
        .args(["-c", wrapper, "sh"])
        .arg(std::env::current_exe().expect("this program"))
        .args(["--exact", "failure::child", "--ignored", "--nocapture"])
        .env(ROLE, role)
        .env(DIRECTORY, directory);
    command
}

/// Role and directory of this process, if it is such a child.
pub(crate) fn child_role() -> Option<(String, PathBuf)> {
    Some((std::env::var(ROLE).ok()?, std::env::var_os(DIRECTORY)?.into()))
}

/// Whether a program can be run here.
pub(crate) fn has(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok()
}

pub(crate) fn is_root() -> bool {
    rustix::process::getuid().is_root()
}
