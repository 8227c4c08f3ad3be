//! Snapshots: a state at one log index, with what openraft must know of it, in one file.
//!
//! ```text
//! body = length, SnapshotMeta, then items as wire::snapshot frames them     (protobuf; storage adds the checksum)
//! ```

use std::{
    fmt,
    io::{self, BufReader, Read, Write as _},
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

use openraft::RaftSnapshotBuilder;
use prost::Message as _;

use super::{
    codec::{self, Malformed},
    log::Log,
    progress::Progress,
    types::{LogId, Snapshot, SnapshotMeta, StoredMembership, TypeConfig},
};
use crate::{
    blocking,
    registry::{SnapshotItem, State},
    storage::{ReceivedSnapshot, SnapshotBytes, SnapshotFile, SnapshotStore},
    wire::{
        DecodeError, internal,
        snapshot::{ItemReader, write_item},
    },
};

/// What is said before the items can't be longer, in bytes.
const META_MAX_BYTES: usize = 1 << 20;
/// So much is written and synced, then there is a rest.
const PIECE_BYTES: usize = 512 << 10;
/// How long the rest is, in times of what the piece took, and at the most. A snapshot is in no hurry, and the calls that
/// come meanwhile are: written in one go, one of 100 MB made their p99 ten times as long.
const REST_PIECES: u32 = 4;
const REST_MAX: Duration = Duration::from_millis(50);
/// While a snapshot is read: so many decoded items are handed over at once, and so many handfuls wait to be taken.
const HANDFUL_ITEMS: usize = 256;
const HANDFULS_WAITING_MAX: usize = 4;

/// A whole snapshot, on its way to be sent or installed.
pub(crate) enum SnapshotData {
    /// One that is durable here, or in another store of this process.
    Stored(SnapshotFile),
    /// One that another node sent: read and verified, and not durable yet.
    Received(Box<Received>),
}

/// A snapshot that another node sent.
pub(crate) struct Received {
    pub(super) file: ReceivedSnapshot,
    pub(super) state: State,
}

impl fmt::Debug for SnapshotData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stored(file) => write!(f, "stored as {}", file.path.display()),
            Self::Received(_) => f.write_str("received"),
        }
    }
}

impl SnapshotData {
    /// The id under which it is sent.
    pub(super) fn id(&self) -> &str {
        match self {
            Self::Stored(file) => &file.id,
            Self::Received(_) => "received",
        }
    }

    /// Its file's bytes and their number, for sending.
    pub(super) fn bytes(&self) -> io::Result<(SnapshotBytes, u64)> {
        match self {
            Self::Stored(file) => Ok((file.bytes(), file.size_bytes)),
            Self::Received(_) => Err(io::Error::other("a snapshot can't be sent before it is installed")),
        }
    }

    /// Makes it durable in `store`, and the latest there unless a newer one is; returns its state. Blocks.
    pub(super) fn settle(self, store: &SnapshotStore) -> io::Result<(SnapshotFile, State)> {
        match self {
            Self::Received(received) => {
                let Received { file, state } = *received;
                Ok((file.commit().map_err(io::Error::other)?, state))
            }
            Self::Stored(file) if file.path.parent() == Some(store.directory()) => {
                let state = read(&file)?.1;
                Ok((file, state))
            }
            Self::Stored(file) => {
                let state = read(&file)?.1;
                let mut copy = store
                    .receive(&file.id, file.index, file.size_bytes)
                    .map_err(io::Error::other)?;
                io::copy(&mut file.bytes(), &mut copy)?;
                Ok((copy.commit().map_err(io::Error::other)?, state))
            }
        }
    }
}

/// Reads a whole snapshot. Blocks, and takes as long as its size asks.
pub(super) fn read(file: &SnapshotFile) -> Result<(SnapshotMeta, State), Malformed> {
    let mut body = BufReader::new(file.read());
    let meta = read_meta_from(&mut body)?;
    // Decoding the items takes about as long as building the state of them: each has a thread.
    let state = thread::scope(|scope| {
        let (handfuls, decoded) = mpsc::sync_channel(HANDFULS_WAITING_MAX);
        let decoding = thread::Builder::new().name("snapshot-decode".into());
        decoding.spawn_scoped(scope, move || decode(body, &handfuls))?;
        State::from_items::<DecodeError>(decoded.into_iter().flatten())
    })?;
    Ok((meta, state))
}

/// Decodes the items, until their end or until nobody takes them any more.
fn decode(body: impl Read, handfuls: &mpsc::SyncSender<Vec<Result<SnapshotItem, DecodeError>>>) {
    let mut items = ItemReader::new(body);
    loop {
        let handful: Vec<_> = items.by_ref().take(HANDFUL_ITEMS).collect();
        if handful.is_empty() || handfuls.send(handful).is_err() {
            return;
        }
    }
}

/// Reads only what is said before the items; the checksum is not verified.
pub(super) fn read_meta(file: &SnapshotFile) -> Result<SnapshotMeta, Malformed> {
    read_meta_from(&mut BufReader::new(file.read()))
}

fn read_meta_from(body: &mut impl Read) -> Result<SnapshotMeta, Malformed> {
    let mut length = [0; 4];
    body.read_exact(&mut length).map_err(DecodeError::from)?;
    let length = u32::from_le_bytes(length);
    let fits = usize::try_from(length).ok().filter(|&length| length <= META_MAX_BYTES);
    let Some(length) = fits else {
        let (claimed, limit) = (u64::from(length), META_MAX_BYTES);
        return Err(DecodeError::TooLong { claimed, limit }.into());
    };
    let mut meta = vec![0; length];
    body.read_exact(&mut meta).map_err(DecodeError::from)?;
    codec::meta_from_proto(internal::SnapshotMeta::decode(meta.as_slice())?)
}

/// Writes a state and makes it durable. Blocks, and takes as long as its size asks.
fn write(store: &SnapshotStore, meta: &SnapshotMeta, state: &State) -> io::Result<SnapshotFile> {
    let (term, index) = meta
        .last_log_id
        .map_or((0, 0), |last| (last.committed_leader_id().term, last.index()));
    let id = format!("term-{term}");
    let mut file = store.create(&id, index).map_err(io::Error::other)?;
    let meta = codec::meta_to_proto(meta, &id).encode_to_vec();
    let length = u32::try_from(meta.len()).map_err(io::Error::other)?;
    file.write_all(&length.to_le_bytes())?;
    file.write_all(&meta)?;
    let mut begun = Instant::now();
    let mut piece = Vec::with_capacity(PIECE_BYTES);
    for item in state.items() {
        write_item(&mut piece, &item)?;
        if piece.len() >= PIECE_BYTES {
            file.write_all(&piece)?;
            piece.clear();
            file.sync_so_far()?;
            thread::sleep((begun.elapsed() * REST_PIECES).min(REST_MAX));
            begun = Instant::now();
        }
    }
    file.write_all(&piece)?;
    file.commit().map_err(io::Error::other)
}

/// Builds one snapshot from a state that no longer changes, beside apply.
pub(crate) struct Builder {
    pub(super) log: Log,
    pub(super) store: SnapshotStore,
    /// `None` once it is built.
    pub(super) state: Option<State>,
    pub(super) applied: Option<LogId>,
    pub(super) membership: StoredMembership,
    pub(super) progress: Arc<Progress>,
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(&mut self) -> io::Result<Snapshot> {
        let meta = SnapshotMeta {
            last_log_id: self.applied,
            last_membership: self.membership.clone(),
        };
        // What is committed is applied, whether or not this node's own disk has it yet, and whether or not the end that it
        // replaces is gone from there: a crash must not leave a snapshot beside a log that contradicts it.
        self.log.sync().await?;
        // What of the state is this snapshot's alone by now is freed there, too: it can be much.
        let state = self.state.take();
        let state = state.ok_or_else(|| io::Error::other("a builder builds one snapshot"))?;
        let (store, written) = (self.store.clone(), meta.clone());
        let writing = blocking::run(move || write(&store, &written, &state));
        let file = writing.await.map_err(io::Error::other)??;
        tracing::info!(index = file.index, bytes = file.size_bytes, "snapshot written");
        self.progress.snapshot_built(file.size_bytes);
        Ok(Snapshot {
            meta,
            snapshot: SnapshotData::Stored(file),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::{
            Hold, Incarnation, InstanceId, InstanceKey, InstanceSpec, LeaseTime, Metadata, Namespace, ServiceName,
            Status, Tags,
        },
        registry::{Command, Entry, Register, Registry},
        storage::DataDir,
    };

    fn register(number: usize) -> Command {
        let (service, id) = ("api".parse::<ServiceName>(), format!("i{number}").parse::<InstanceId>());
        Command::Register(Register {
            instance: InstanceSpec {
                key: InstanceKey::new(Namespace::default(), service.unwrap(), id.unwrap()),
                address: "10.0.0.1".into(),
                ports: Box::default(),
                weight: 1,
                region: Default::default(),
                zone: Default::default(),
                version: Default::default(),
                tags: Tags::new(),
                metadata: Metadata::from([("filler", "x".repeat(1_000))]),
                status: Status::Up,
                incarnation: Incarnation(0),
            },
            hold: Hold::Permanent,
            expected_mod_revision: None,
        })
    }

    #[test]
    fn a_snapshot_of_several_pieces_reads_back_as_the_state_that_it_was() {
        let mut registry = Registry::new();
        registry.apply(&Entry {
            stamp: LeaseTime(1),
            wall_ms: 1,
            renewals: Vec::new(),
            commands: (0..3 * PIECE_BYTES / 1_000).map(register).collect(),
        });
        let directory = tempfile::tempdir().unwrap();
        let store = SnapshotStore::open(&DataDir::open(directory.path()).unwrap()).unwrap();
        let written = write(&store, &SnapshotMeta::default(), registry.state()).unwrap();
        assert!(written.size_bytes > 3 * PIECE_BYTES as u64);
        let (_, state) = read(&written).unwrap();
        assert_eq!(
            format!("{:?}", state.items().collect::<Vec<_>>()),
            format!("{:?}", registry.state().items().collect::<Vec<_>>())
        );
    }

    #[test]
    fn what_is_wrong_far_behind_the_beginning_is_an_error() {
        let mut registry = Registry::new();
        registry.apply(&Entry {
            stamp: LeaseTime(1),
            wall_ms: 1,
            renewals: Vec::new(),
            commands: (0..3 * HANDFUL_ITEMS * HANDFULS_WAITING_MAX).map(register).collect(),
        });
        let directory = tempfile::tempdir().unwrap();
        let store = SnapshotStore::open(&DataDir::open(directory.path()).unwrap()).unwrap();
        for (index, ending) in [(1, &[1, 0xff][..]), (2, &[200][..])] {
            let mut file = store.create("damaged", index).unwrap();
            file.write_all(&0_u32.to_le_bytes()).unwrap();
            let mut body = Vec::new();
            for item in registry.state().items() {
                write_item(&mut body, &item).unwrap();
            }
            file.write_all(&body).unwrap();
            file.write_all(ending).unwrap();
            let file = file.commit().unwrap();
            assert!(read(&file).is_err(), "it ends with {ending:?}");
        }
        // One that is taken for whole and contradicts itself is given up in the middle.
        let mut file = store.create("twice", 3).unwrap();
        file.write_all(&0_u32.to_le_bytes()).unwrap();
        let state = registry.state().items().next().unwrap();
        for item in [state.clone(), state].into_iter().chain(registry.state().items()) {
            let mut bytes = Vec::new();
            write_item(&mut bytes, &item).unwrap();
            file.write_all(&bytes).unwrap();
        }
        let error = read(&file.commit().unwrap()).unwrap_err();
        assert!(error.to_string().contains("two states"), "{error}");
    }
}
