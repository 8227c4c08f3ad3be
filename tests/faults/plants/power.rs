//! A power cut that is one: a disk in a file, on which a process writes and says what is durable; at that moment the file
//! is copied, and what the copy holds is what a disk would hold.
//!
//! It needs root, a loop device and ext4. Where one of them is missing the test says so and is counted as not run.

use std::{fs, io::Write as _, path::Path, time::Duration};

use roster::storage::{DataDir, SnapshotStore};
use rustix::process::Signal;

use super::{directed::Found, lone::Failure, verdict::say};
use crate::simulate::child::{self, SWITCH};

/// Where the disk is mounted, within the folder.
const DISK: &str = "disk";
/// What was on it when the power went.
const KEPT: &str = "kept";
/// Bytes of the snapshot: too many to be written as a whole by chance.
const SNAPSHOT_BYTES: usize = 3_000_000;
/// Its log index.
const INDEX: u64 = 42;
/// All of it, on a busy machine.
const ALL_MAX: Duration = Duration::from_secs(120);
/// So much of what the shell said is told.
const STORY_LINES: usize = 14;

/// Makes the disk, lets the child write, copies the image when it has, and copies out what the image holds. The loop
/// devices are `mount`'s own, so the kernel lets them go with their mounts, and the mounts go with the shell's namespace.
const ON_A_DISK: &str = r#"
cd "$1" && mkdir disk cut || exit 1
truncate -s 64M disk.img && mkfs.ext4 -q disk.img || exit 1
trap 'exit 130' INT TERM HUP
trap 'umount disk' EXIT
mount -o loop,commit=300 disk.img disk && echo mounted || exit 1
"$2" plants --child power --folder "$1" || exit 1
cp --sparse=always disk.img cut.img
mount -o loop cut.img cut && cp -a cut kept && umount cut && echo cut
"#;

/// FAULTS rows 27 and 29: a snapshot that the store calls durable, behind which the log is purged, is whole after it.
pub(super) fn a_snapshot_survives_a_power_cut(folder: &Path) -> Found {
    let mut command = child::command(Path::new("unshare"), Signal::TERM);
    command
        .args(["-m", "sh", "-c", ON_A_DISK, "sh"])
        .arg(folder)
        .arg(std::env::current_exe()?)
        .env_remove(SWITCH)
        .envs(planted().map(|names| (SWITCH, names)));
    let said = child::finish(&mut command, folder, ALL_MAX)?;
    if !said.output.contains("mounted") || !said.output.lines().any(|line| line == "cut") {
        return Err(format!("no disk of its own could be made here: {}", said.end(STORY_LINES)).into());
    }
    let kept = folder.join(KEPT);
    if kept.join("unsynced").exists() {
        return Err("the cut is none: what was never synced is there".into());
    }
    let found = read_back(&kept.join("data"));
    Ok(match found {
        Ok(bytes) if bytes == SNAPSHOT_BYTES as u64 => Ok(format!(
            "{bytes} bytes of snapshot, committed, cut off, read back whole"
        )),
        Ok(bytes) => Err(format!(
            "the snapshot was committed; after the power cut it has {bytes} of {SNAPSHOT_BYTES} bytes"
        )),
        Err(problem) => Err(format!(
            "the snapshot was committed, so the log behind it may be purged; after the power cut: {problem}"
        )),
    })
}

/// What is switched on in this process, for the child.
fn planted() -> Option<String> {
    let names: Vec<String> = fail::list()
        .into_iter()
        .map(|(name, actions)| format!("{name}={actions}"))
        .collect();
    (!names.is_empty()).then(|| names.join(";"))
}

fn read_back(data: &Path) -> Result<u64, Failure> {
    let data_dir = DataDir::open(data)?;
    let snapshots = SnapshotStore::open(&data_dir)?;
    let latest = snapshots
        .latest()
        .filter(|latest| latest.index == INDEX)
        .ok_or("there is no snapshot")?;
    Ok(std::io::copy(&mut latest.read(), &mut std::io::sink())?)
}

/// The child's part: writes a snapshot on the disk, and ends the moment it is committed.
pub(super) fn write_on_the_disk(folder: &Path) -> Result<(), Failure> {
    let disk = folder.join(DISK);
    let data_dir = DataDir::open(&disk.join("data"))?;
    data_dir.save_identity(&super::lone::identity()?)?;
    let snapshots = SnapshotStore::open(&data_dir)?;
    let mut writer = snapshots.create("cut", INDEX)?;
    writer.write_all(&vec![7; SNAPSHOT_BYTES])?;
    writer.commit()?;
    fs::write(disk.join("unsynced"), "never told the disk")?;
    say("committed");
    Ok(())
}
