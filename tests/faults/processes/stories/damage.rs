//! A torn tail and a flipped byte in each kind of file.

use std::{
    collections::BTreeSet,
    fs,
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use super::{BREATH, copy, followers, kill, restore, saw, start_and_see};
use crate::processes::{
    findings::HARNESS,
    harm::Shaped,
    network::{End, Flow, Pass},
    stage::Stage,
};

/// RocksDB's log: blocks of 32 KiB, records with a header of checksum (4), length (2), type (1).
const BLOCK_BYTES: u64 = 32 << 10;
const HEADER_BYTES: u64 = 7;
/// Snapshots are tuned to come often; traffic must have brought one by then.
const SNAPSHOT_MAX: Duration = Duration::from_secs(60);

/// What a flipped byte in a file must do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Must {
    /// The node refuses to start, and names the place.
    Refuse,
    /// Nothing rests on it: whatever comes of it, the state is right.
    NotMatter,
}

/// Every kind of file of a data directory. Each must have been flipped once in a run, with something in it.
const KINDS: [&str; 9] = [
    "identity",
    "log-format",
    "write-ahead log",
    "CURRENT",
    "MANIFEST",
    "sst",
    "OPTIONS",
    "IDENTITY",
    "snapshot",
];

/// A file of a data directory, relative to it.
struct Victim {
    kind: &'static str,
    file: PathBuf,
    must: Must,
}

/// A torn tail is recovered; a flipped byte in any file is refused, with the place, or does not matter.
pub(crate) async fn torn_and_flipped(stage: &mut Stage) -> io::Result<()> {
    let (_, node, _) = followers(stage).await;
    let data = stage.cluster.servers[node].disk.data();

    let fault = kill(stage, "damage_torn", &[node]).await;
    let log = newest_log(&data)?;
    tear(&log)?;
    restore(stage, &[node], fault).await?;
    saw(&format!("{}: torn and recovered", log.display()));
    stage.wait(BREATH).await;

    let mut flipped = BTreeSet::new();
    // After a kill there is a log that is not flushed; after an end in order, tables.
    for killed in [true, false] {
        if !killed {
            wait_snapshot(stage, &data).await;
        }
        let from = stage.recorder.now();
        let fault = if killed {
            kill(stage, "damage_flipped", &[node]).await
        } else {
            stage.cluster.stop(node);
            stage.fault("damage_flipped", &[node], false, from, "damage_flipped".to_owned())
        };
        // A start changes files: each flip is done to the data as they were.
        let kept = data.with_extension("kept");
        fs::rename(&data, &kept)?;
        // Nor may the node acknowledge anything that its restored disk does not hold.
        let alone = stage.hold_ways(cut_off(stage, node));
        for Victim { kind, file, must } in files(&kept)? {
            copy(&kept, &data)?;
            let file = data.join(file);
            let place = fs::metadata(&file)?.len() / 2;
            flip(&file, place)?;
            flipped.insert(kind);
            let ended = start_and_see(stage, node, &data).await?;
            check(stage, node, (&file, place), must, ended.as_deref());
            stage.cluster.kill(&[node]);
            fs::remove_dir_all(&data)?;
        }
        fs::rename(&kept, &data)?;
        stage.free_ways(alone);
        restore(stage, &[node], fault).await?;
        stage.wait(BREATH).await;
    }
    let spared: Vec<_> = KINDS.into_iter().filter(|kind| !flipped.contains(kind)).collect();
    if !spared.is_empty() {
        let story = format!("there was nothing to flip in any {}", spared.join(", "));
        stage.findings.violation(HARNESS, story);
    }
    Ok(())
}

/// Waits for a snapshot, so that there is one to be flipped. That none came is told in the end.
async fn wait_snapshot(stage: &mut Stage, data: &Path) {
    let deadline = Instant::now() + SNAPSHOT_MAX;
    while newest_snapshot(data).is_none() && Instant::now() < deadline {
        stage.wait(BREATH / 4).await;
    }
}

/// All ways between a node and the others, cut.
fn cut_off(stage: &Stage, node: usize) -> Vec<Shaped> {
    let cut = Flow {
        pass: Pass::Cut,
        ..Flow::default()
    };
    let others = stage.cluster.all().into_iter().filter(|other| *other != node);
    let ways = others.flat_map(|other| [(End::Node(node), End::Node(other)), (End::Node(other), End::Node(node))]);
    ways.map(|way| (way, cut.clone())).collect()
}

fn check(stage: &mut Stage, node: usize, (file, place): (&Path, u64), must: Must, ended: Option<&str>) {
    let name = file
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default();
    match (must, ended) {
        (Must::Refuse, None) => {
            let server = &stage.cluster.servers[node];
            let story = format!(
                "{} starts with a flipped byte at {place} of {}",
                server.name,
                file.display()
            );
            stage.findings.violation("flipped-byte-is-refused", story);
        }
        (_, Some(said)) => {
            let last = said
                .lines()
                .rev()
                .find(|line| !line.trim().is_empty())
                .unwrap_or_default();
            // RocksDB names some files by their number alone.
            let stem = file
                .file_stem()
                .map(|stem| stem.to_string_lossy().into_owned())
                .unwrap_or_default();
            let named =
                said.contains(&name) || said.contains(&stem) || said.contains("log: ") || said.contains("/log ");
            if !named {
                let story = format!(
                    "a flipped byte in {} is refused without its place: {last}",
                    file.display()
                );
                stage.findings.violation("flipped-byte-is-named", story);
            }
            saw(&format!("{name}, byte {place}: {last}"));
        }
        (Must::NotMatter, None) => saw(&format!("{name}, byte {place}: it starts")),
    }
}

/// One file of each kind that there is; empty ones left out.
fn files(data: &Path) -> io::Result<Vec<Victim>> {
    let mut found = vec![
        ("identity", data.join("identity"), Must::Refuse),
        ("log-format", data.join("log-format"), Must::Refuse),
        ("write-ahead log", newest_log(data)?, Must::Refuse),
    ];
    for entry in fs::read_dir(data.join("log"))? {
        let path = entry?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
        let (kind, must) = match name.unwrap_or_default().as_str() {
            "CURRENT" => ("CURRENT", Must::Refuse),
            name if name.starts_with("MANIFEST") => ("MANIFEST", Must::Refuse),
            name if name.ends_with(".sst") => ("sst", Must::Refuse),
            name if name.starts_with("OPTIONS") => ("OPTIONS", Must::NotMatter),
            "IDENTITY" => ("IDENTITY", Must::NotMatter),
            _ => continue,
        };
        found.push((kind, path, must));
    }
    found.extend(newest_snapshot(data).map(|newest| ("snapshot", newest, Must::Refuse)));
    let mut victims: Vec<Victim> = Vec::new();
    for (kind, path, must) in found {
        let empty = fs::metadata(&path)?.len() == 0;
        if empty || victims.iter().any(|victim| victim.kind == kind) {
            continue;
        }
        let file = path.strip_prefix(data).map_err(io::Error::other)?.to_owned();
        victims.push(Victim { kind, file, must });
    }
    Ok(victims)
}

/// The newest snapshot that is whole.
fn newest_snapshot(data: &Path) -> Option<PathBuf> {
    let all = fs::read_dir(data.join("snapshots")).ok()?.flatten();
    all.map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "snapshot"))
        .max()
}

/// The newest write-ahead log.
fn newest_log(data: &Path) -> io::Result<PathBuf> {
    let mut logs: Vec<PathBuf> = fs::read_dir(data.join("log"))?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "log"))
        .collect();
    logs.sort();
    logs.pop()
        .ok_or_else(|| io::Error::other(format!("no log below {}", data.display())))
}

fn flip(path: &Path, place: u64) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().read(true).write(true).open(path)?;
    let mut byte = [0];
    file.seek(SeekFrom::Start(place))?;
    file.read_exact(&mut byte)?;
    file.seek(SeekFrom::Start(place))?;
    file.write_all(&[byte[0] ^ 0xff])?;
    file.sync_all()
}

/// Appends the beginning of a record, as a crash in the middle of a write leaves it.
fn tear(log: &Path) -> io::Result<()> {
    let room = BLOCK_BYTES - fs::metadata(log)?.len() % BLOCK_BYTES;
    let mut torn = Vec::new();
    if room < HEADER_BYTES {
        // What can't hold a header is filled with zeros.
        torn.resize(usize::try_from(room).unwrap_or_default(), 0);
    }
    torn.extend([0x12, 0x34, 0x56, 0x78]);
    torn.extend(1_000_u16.to_le_bytes());
    torn.push(1);
    torn.extend([b't'; 50]);
    let mut file = fs::OpenOptions::new().append(true).open(log)?;
    file.write_all(&torn)?;
    file.sync_all()
}
