//! The data directory: whose it is, one process at a time, and errors that say what to do.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
};

use roster::{
    model::{ClusterId, NodeId, NodeName},
    storage::{DataDir, Identity, LogLimits, LogStore, OpenError, SnapshotStore, StorageError},
};

use crate::support::*;

fn identity(node_id: u64) -> Identity {
    Identity {
        cluster_id: ClusterId::new(0xc0ffee).unwrap(),
        node_id: NodeId(node_id),
        name: NodeName::parse(&format!("n{node_id}")).unwrap(),
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn a_directory_is_made_for_its_owner_only() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a/b/data");
    let data_dir = DataDir::open(&path).unwrap();
    assert_eq!(data_dir.path(), path);
    assert_eq!(mode(&path), 0o700);
    assert!(data_dir.identity().is_none());
    assert!(data_dir.free_bytes().unwrap() > 0);
    data_dir.save_identity(&identity(1)).unwrap();
    assert_eq!(mode(&path.join("identity")), 0o600);
}

#[test]
fn a_directory_that_others_may_read_is_closed_to_them_unless_it_holds_other_things() {
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    drop(DataDir::open(directory.path()).unwrap());
    assert_eq!(mode(directory.path()), 0o700);

    fs::write(directory.path().join("homework.txt"), "mine").unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    drop(DataDir::open(directory.path()).unwrap());
    assert_eq!(mode(directory.path()), 0o755);
}

#[test]
fn an_identity_is_kept_and_never_changed() {
    let directory = tempfile::tempdir().unwrap();
    let data_dir = DataDir::open(directory.path()).unwrap();
    data_dir.save_identity(&identity(1)).unwrap();
    data_dir.save_identity(&identity(1)).unwrap();
    assert!(matches!(
        data_dir.save_identity(&identity(2)),
        Err(StorageError::Misused(_))
    ));
    drop(data_dir);
    let data_dir = DataDir::open(directory.path()).unwrap();
    assert_eq!(data_dir.identity(), Some(&identity(1)));
}

#[test]
fn a_half_written_identity_is_none_and_a_damaged_one_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let partial = directory.path().join("identity.partial");
    fs::write(&partial, "roster identity 1\nclus").unwrap();
    let data_dir = DataDir::open(directory.path()).unwrap();
    assert!(data_dir.identity().is_none());
    assert!(!partial.exists());
    data_dir.save_identity(&identity(1)).unwrap();
    drop(data_dir);

    flip(&directory.path().join("identity"), 30);
    let error = DataDir::open(directory.path()).expect_err("it is damaged");
    assert!(matches!(error, OpenError::Corrupt(_)), "{error:?}");
    assert!(error.to_string().contains("identity is corrupt"), "{error}");
}

#[test]
fn a_second_opening_is_refused_until_every_store_is_gone() {
    let directory = tempfile::tempdir().unwrap();
    let in_use = || {
        let error = DataDir::open(directory.path()).expect_err("it is in use");
        assert!(matches!(error, OpenError::InUse { .. }), "{error:?}");
        let message = error.to_string();
        assert!(
            message.contains(&format!("process {}", std::process::id())),
            "{message}"
        );
        assert!(message.contains(directory.path().to_str().unwrap()), "{message}");
    };
    let data_dir = DataDir::open(directory.path()).unwrap();
    in_use();
    let log = LogStore::open(&data_dir, |error| panic!("{error}")).unwrap();
    let snapshots = SnapshotStore::open(&data_dir).unwrap();
    drop(data_dir);
    in_use();
    log.flush_and_close().unwrap();
    drop(log);
    in_use();
    drop(snapshots);
    DataDir::open(directory.path()).unwrap();
}

#[test]
fn another_process_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let _data_dir = DataDir::open(directory.path()).unwrap();
    let output = run_child("open", directory.path(), r#"exec "$@""#);
    assert!(
        output.contains(&format!("is in use by process {}", std::process::id())),
        "{output}"
    );
    assert!(output.contains("stop that one or name another directory"), "{output}");
}

#[test]
fn two_logs_in_one_directory_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let data_dir = DataDir::open(directory.path()).unwrap();
    let _log = LogStore::open(&data_dir, |error| panic!("{error}")).unwrap();
    let second = LogStore::open_with(&data_dir, LogLimits::default(), |error| panic!("{error}"));
    let error = second.expect_err("the log is in use");
    assert!(matches!(error, OpenError::InUse { .. }), "{error:?}");
}

#[test]
fn what_is_no_directory_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    fs::write(&file, "").unwrap();
    let dangling = directory.path().join("dangling");
    symlink("/nowhere", &dangling).unwrap();
    for path in [&file, &file.join("below")] {
        let error = DataDir::open(path).expect_err("it is a file");
        assert!(matches!(error, OpenError::NotADirectory { .. }), "{error:?}");
        assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    }
    let error = DataDir::open(&dangling).expect_err("it leads nowhere");
    assert!(error.to_string().contains("dangling"), "{error}");
}

#[test]
fn a_directory_without_permission_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let closed = directory.path().join("closed");
    fs::create_dir(&closed).unwrap();
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o500)).unwrap();
    let output = if !is_root() {
        let error = DataDir::open(&closed).expect_err("it can't be written");
        error.to_string()
    } else if has("setpriv") {
        // Root may do anything: somebody else tries. The program itself must be reachable for them.
        let program = directory.path().join("program");
        fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::set_permissions(&closed, fs::Permissions::from_mode(0o555)).unwrap();
        let wrapper = format!(
            r#"cd /; shift; exec setpriv --reuid=65534 --regid=65534 --clear-groups {} "$@""#,
            program.display()
        );
        run_child("open", &closed, &wrapper)
    } else {
        println!("skipped 1: there is no setpriv");
        return;
    };
    assert!(output.contains("no permission to"), "{output}");
    assert!(
        output.contains("closed") && output.contains("name another data directory"),
        "{output}"
    );
}

#[test]
fn a_read_only_file_system_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let wrapper = r#"unshare -m sh -c 'mount -t tmpfs -o ro none "$STORAGE_TEST_DIRECTORY" && echo mounted && exec "$@"' sh "$@""#;
    let output = run_child("open", directory.path(), wrapper);
    if !output.contains("mounted") {
        println!("skipped 1: no file system can be mounted here");
        return;
    }
    assert!(
        output.contains("is on a read-only file system: mount it for writing"),
        "{output}"
    );
}
