//! The folder of snapshots. The one that covers most of the log counts; older ones are removed after it is durable.
//!
//! ```text
//! snapshots/00000000000000004711-ID.snapshot      complete: renamed to this after its sync
//! snapshots/00000000000000004711-ID.3.partial     being written, or left by a crash: removed at opening
//! ```

use std::{
    fs::{self, DirBuilder, File},
    io::{self, BufWriter, Write},
    os::unix::fs::{DirBuilderExt, FileExt},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use super::{
    data_dir::DataDir,
    durable::{self, PARTIAL},
    error::{Corruption, OpenError, StorageError},
    snapshot_file::{FOOTER_BYTES, Footer, SnapshotFile},
};

const DIRECTORY: &str = "snapshots";
const COMPLETE: &str = "snapshot";
/// Decimal digits of the log index in a name, so that names sort as indexes do.
const INDEX_DIGITS: usize = 20;
const ID_MAX_BYTES: usize = 100;
/// Written at once.
const WRITE_BYTES: usize = 256 << 10;
/// Of a removed file so much is given back at once, and then there is a rest.
const GIVEN_BACK_BYTES: u64 = 4 << 20;
const GIVEN_BACK_REST: Duration = Duration::from_millis(5);

/// The snapshots of one data directory. Clones are handles of the same store. All of it blocks for the disk.
#[derive(Clone, Debug)]
pub struct SnapshotStore {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    directory: PathBuf,
    latest: Mutex<Option<SnapshotFile>>,
    /// Tells partial files of one id apart.
    partials: AtomicU64,
    /// Keeps the directory this process's own.
    _data_dir: DataDir,
}

impl SnapshotStore {
    /// Opens the folder, or makes an empty one; removes half-written files and, if the latest has its footer, older
    /// ones.
    ///
    /// # Errors
    /// [`OpenError::Corrupt`] when the latest complete file has no footer that fits its length. Its checksum is
    /// verified when it is read.
    pub fn open(data_dir: &DataDir) -> Result<Self, OpenError> {
        let directory = data_dir.path().join(DIRECTORY);
        if !directory
            .try_exists()
            .map_err(|error| OpenError::io(&directory, "look at", error))?
        {
            let made = DirBuilder::new().mode(0o700).create(&directory);
            made.map_err(|error| OpenError::io(&directory, "create", error))?;
            durable::sync_directory(data_dir.path()).map_err(|error| OpenError::io(data_dir.path(), "sync", error))?;
        }
        let mut complete = Vec::new();
        for entry in fs::read_dir(&directory).map_err(|error| OpenError::io(&directory, "list", error))? {
            let path = entry.map_err(|error| OpenError::io(&directory, "list", error))?.path();
            if path.extension().is_some_and(|extension| extension == PARTIAL) {
                durable::remove_if_there(&path).map_err(|error| OpenError::io(&path, "remove", error))?;
            } else if let Some((index, id)) = parse_name(&path) {
                complete.push((index, id, path));
            }
        }
        complete.sort();
        let latest = complete
            .pop()
            .map(|(index, id, path)| open_file(index, id, path))
            .transpose()?;
        for (_, _, path) in complete {
            durable::remove_if_there(&path).map_err(|error| OpenError::io(&path, "remove", error))?;
        }
        Ok(Self {
            inner: Arc::new(Inner {
                directory,
                latest: Mutex::new(latest),
                partials: AtomicU64::new(0),
                _data_dir: data_dir.clone(),
            }),
        })
    }

    /// Where the files are.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.inner.directory
    }

    /// The complete snapshot that covers most of the log.
    #[must_use]
    pub fn latest(&self) -> Option<SnapshotFile> {
        self.inner.latest.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Begins a snapshot of the state at log index `index`. The id names it among all snapshots: 1 to 100 letters,
    /// digits, `-`, `_`, `.`, not beginning with a dot.
    ///
    /// # Errors
    /// [`StorageError::Misused`] for another id; [`StorageError::Failed`] when no file can be made.
    pub fn create(&self, id: &str, index: u64) -> Result<SnapshotWriter, StorageError> {
        Ok(SnapshotWriter {
            partial: self.partial(id, index)?,
            body_bytes: 0,
            checksum: 0,
        })
    }

    /// Begins to receive the file of another node's snapshot, of `size_bytes` with its footer.
    ///
    /// # Errors
    /// As [`SnapshotStore::create`], and [`StorageError::Received`] when it is too short to be one.
    pub fn receive(&self, id: &str, index: u64, size_bytes: u64) -> Result<ReceivedSnapshot, StorageError> {
        let Some(body_bytes) = size_bytes.checked_sub(FOOTER_BYTES as u64) else {
            return Err(damaged(id, "it is shorter than a footer".to_owned()));
        };
        Ok(ReceivedSnapshot {
            partial: self.partial(id, index)?,
            body_bytes,
            received: 0,
            checksum: 0,
            footer: Vec::with_capacity(FOOTER_BYTES),
        })
    }

    fn partial(&self, id: &str, index: u64) -> Result<Partial, StorageError> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        if id.is_empty() || id.len() > ID_MAX_BYTES || id.starts_with('.') || !id.bytes().all(allowed) {
            return Err(StorageError::Misused("the snapshot's id is no file name"));
        }
        let number = self.inner.partials.fetch_add(1, Ordering::Relaxed);
        let path = self
            .inner
            .directory
            .join(format!("{index:0INDEX_DIGITS$}-{id}.{number}.{PARTIAL}"));
        let file = durable::create_private(&path).map_err(|error| StorageError::io(&path, "create", error))?;
        Ok(Partial {
            store: self.clone(),
            id: id.to_owned(),
            index,
            path,
            file: Some(BufWriter::with_capacity(WRITE_BYTES, file)),
        })
    }
}

/// A file under its temporary name; removed when it is given up.
#[derive(Debug)]
struct Partial {
    store: SnapshotStore,
    id: String,
    index: u64,
    path: PathBuf,
    /// `None` once it has its own name.
    file: Option<BufWriter<File>>,
}

impl Partial {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.as_mut().map_or(Ok(0), |file| file.write(bytes))
    }

    /// Syncs the file, gives it its name, syncs the folder, and only then removes the older ones. When a newer
    /// snapshot came first, that one stays, and this file is readable through its handle alone.
    fn commit(mut self, footer: Footer) -> Result<SnapshotFile, StorageError> {
        let failed = |action, path: &Path, error| StorageError::io(path, action, error);
        let writer = self
            .file
            .take()
            .ok_or(StorageError::Misused("a snapshot was committed twice"))?;
        let written = writer.into_inner().map_err(io::IntoInnerError::into_error);
        fail::fail_point!("crash-before-snapshot-sync");
        // Plant: the log is purged behind a snapshot that a power cut takes away.
        let sync = |file: &File| planted!("snapshot-not-synced", Ok(()), file.sync_all());
        let synced = written.and_then(|file| sync(&file).map(|()| file));
        let file = match synced {
            Ok(file) => file,
            Err(error) => {
                self.discard();
                return Err(failed("write", &self.path, error));
            }
        };
        let directory = self.store.directory();
        let snapshot = SnapshotFile {
            id: self.id.clone(),
            index: self.index,
            path: directory.join(format!("{:0INDEX_DIGITS$}-{}.{COMPLETE}", self.index, self.id)),
            size_bytes: footer.body_bytes + FOOTER_BYTES as u64,
            footer,
            file: Arc::new(file),
        };

        let mut latest = self.store.inner.latest.lock().unwrap_or_else(PoisonError::into_inner);
        if latest.as_ref().is_some_and(|latest| latest.index > snapshot.index) {
            drop(latest);
            self.discard();
            return Ok(snapshot);
        }
        fail::fail_point!("crash-before-snapshot-rename");
        fs::rename(&self.path, &snapshot.path).map_err(|error| failed("rename", &self.path, error))?;
        fail::fail_point!("crash-after-snapshot-rename");
        durable::sync_directory(directory).map_err(|error| failed("sync", directory, error))?;
        fail::fail_point!("crash-before-older-snapshot-removed");
        let older = latest
            .replace(snapshot.clone())
            .filter(|older| older.path != snapshot.path);
        drop(latest);
        if let Some(older) = older {
            let to_shorten = File::options().write(true).open(&older.path);
            durable::remove_if_there(&older.path).map_err(|error| failed("remove", &older.path, error))?;
            // Where it can't be opened, its space is given back at once.
            if let Ok(to_shorten) = to_shorten {
                give_back(older, to_shorten);
            }
        }
        Ok(snapshot)
    }

    /// Removes the file; if that fails too, the next opening does it.
    fn discard(&self) {
        if let Err(error) = durable::remove_if_there(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "a half-written snapshot could not be removed");
        }
    }
}

/// Gives the space of a removed file back piece by piece: while a file system gives a hundred megabytes back at once, the
/// log's syncs wait for twenty milliseconds and more. A file that somebody still reads stays as it is until then.
fn give_back(removed: SnapshotFile, to_shorten: File) {
    let SnapshotFile { file, size_bytes, .. } = removed;
    let shortening = move || {
        if Arc::into_inner(file).is_none() {
            return;
        }
        let mut left = size_bytes;
        while left > 0 {
            left = left.saturating_sub(GIVEN_BACK_BYTES);
            if let Err(error) = to_shorten.set_len(left) {
                tracing::debug!(%error, "the space of a removed snapshot is given back at once");
                return;
            }
            thread::sleep(GIVEN_BACK_REST);
        }
    };
    // Nobody waits for it. Without a thread both files are closed here, and the space is given back at once.
    if let Err(error) = thread::Builder::new().name("snapshot-end".into()).spawn(shortening) {
        tracing::debug!(%error, "the space of a removed snapshot is given back at once");
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if self.file.is_some() {
            self.discard();
        }
    }
}

/// Writes the body of a snapshot. Dropped without [`SnapshotWriter::commit`], it leaves nothing.
#[derive(Debug)]
pub struct SnapshotWriter {
    partial: Partial,
    body_bytes: u64,
    checksum: u32,
}

impl SnapshotWriter {
    /// Hands what was written so far to the disk and waits until it is there: many small waits in the place of a large one
    /// in the end, which would hold up the log's.
    ///
    /// # Errors
    /// It can't be written. What a failed sync left on the disk is unknown: the snapshot must be given up.
    pub fn sync_so_far(&mut self) -> io::Result<()> {
        let Some(file) = self.partial.file.as_mut() else {
            return Ok(());
        };
        file.flush()?;
        file.get_ref().sync_data()
    }

    /// Makes it durable and, unless a newer one came first, the latest; then the older ones are removed.
    ///
    /// # Errors
    /// [`StorageError::Failed`] when it can't be written: the former one is still there. After a failed sync of the
    /// folder it is unknown which of them a restart finds.
    pub fn commit(mut self) -> Result<SnapshotFile, StorageError> {
        let footer = Footer::new(self.body_bytes, self.checksum);
        let mut bytes = &footer.to_bytes()[..];
        while !bytes.is_empty() {
            match self.partial.write(bytes) {
                Ok(written) => bytes = &bytes[written..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(StorageError::io(&self.partial.path, "write", error)),
            }
        }
        self.partial.commit(footer)
    }
}

impl Write for SnapshotWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.partial.write(bytes)?;
        self.checksum = crc32c::crc32c_append(self.checksum, &bytes[..written]);
        self.body_bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.partial.file.as_mut().map_or(Ok(()), Write::flush)
    }
}

/// Writes the file of another node's snapshot as it arrives. Dropped without [`ReceivedSnapshot::commit`], it leaves
/// nothing.
#[derive(Debug)]
pub struct ReceivedSnapshot {
    partial: Partial,
    body_bytes: u64,
    received: u64,
    checksum: u32,
    footer: Vec<u8>,
}

impl ReceivedSnapshot {
    /// Verifies that all of it came, and gives it to be read before it is committed; reading verifies the checksum.
    /// Nothing of it is durable yet.
    ///
    /// # Errors
    /// [`StorageError::Received`] when it is not whole; [`StorageError::Failed`] when it can't be written.
    pub fn verified(&mut self) -> Result<SnapshotFile, StorageError> {
        let footer = self.whole_footer()?;
        let partial = &mut self.partial;
        let writer = partial
            .file
            .as_mut()
            .ok_or(StorageError::Misused("a snapshot was committed twice"))?;
        let flushed = writer.flush().and_then(|()| writer.get_ref().try_clone());
        let file = flushed.map_err(|error| StorageError::io(&partial.path, "write", error))?;
        Ok(SnapshotFile {
            id: partial.id.clone(),
            index: partial.index,
            path: partial.path.clone(),
            size_bytes: footer.body_bytes + FOOTER_BYTES as u64,
            footer,
            file: Arc::new(file),
        })
    }

    /// The footer, if it came whole and fits what came before it.
    fn whole_footer(&self) -> Result<Footer, StorageError> {
        let expected = self.body_bytes + FOOTER_BYTES as u64;
        let id = &self.partial.id;
        let Ok(footer) = <[u8; FOOTER_BYTES]>::try_from(&self.footer[..]) else {
            return Err(damaged(id, format!("{} of {expected} bytes came", self.received)));
        };
        let footer = Footer::from_bytes(&footer, expected).map_err(|problem| damaged(id, problem))?;
        if footer.fits(self.checksum) {
            Ok(footer)
        } else {
            Err(damaged(id, "its checksum is wrong".to_owned()))
        }
    }

    /// Verifies length, footer and checksum, and then does what [`SnapshotWriter::commit`] does.
    ///
    /// # Errors
    /// [`StorageError::Received`] when it is not whole: nothing changed, and it may be asked for again.
    pub fn commit(self) -> Result<SnapshotFile, StorageError> {
        let footer = self.whole_footer()?;
        self.partial.commit(footer)
    }
}

impl Write for ReceivedSnapshot {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let left = self.body_bytes + FOOTER_BYTES as u64 - self.received;
        if bytes.len() as u64 > left {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "more bytes came than the snapshot was said to have",
            ));
        }
        let written = self.partial.write(bytes)?;
        let of_body = self.body_bytes.saturating_sub(self.received);
        let of_body = usize::try_from(of_body).map_or(written, |of_body| of_body.min(written));
        self.checksum = crc32c::crc32c_append(self.checksum, &bytes[..of_body]);
        self.footer.extend_from_slice(&bytes[of_body..written]);
        self.received += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.partial.file.as_mut().map_or(Ok(()), Write::flush)
    }
}

fn damaged(id: &str, problem: String) -> StorageError {
    StorageError::Received {
        id: id.to_owned(),
        problem,
    }
}

/// Index and id from a complete snapshot's name.
fn parse_name(path: &Path) -> Option<(u64, String)> {
    let name = path.file_name()?.to_str()?.strip_suffix(COMPLETE)?.strip_suffix('.')?;
    let (index, id) = name.split_at_checked(INDEX_DIGITS)?;
    Some((index.parse().ok()?, id.strip_prefix('-')?.to_owned()))
}

fn open_file(index: u64, id: String, path: PathBuf) -> Result<SnapshotFile, OpenError> {
    let read = File::open(&path).and_then(|file| {
        let size_bytes = file.metadata()?.len();
        let mut footer = [0; FOOTER_BYTES];
        match size_bytes.checked_sub(FOOTER_BYTES as u64) {
            Some(position) => file.read_exact_at(&mut footer, position)?,
            None => footer.fill(0),
        }
        Ok((file, size_bytes, footer))
    });
    let (file, size_bytes, footer) = read.map_err(|error| OpenError::io(&path, "read", error))?;
    let corrupt = |problem| OpenError::Corrupt(Corruption::new(path.display().to_string(), problem));
    let footer = Footer::from_bytes(&footer, size_bytes).map_err(corrupt)?;
    Ok(SnapshotFile {
        id,
        index,
        path,
        size_bytes,
        footer,
        file: Arc::new(file),
    })
}
