//! The data directory: whose it is, and that one process at a time uses it.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use rustix::fs::{Access, FlockOperation};

use super::{
    durable,
    error::{Corruption, OpenError, StorageError},
    identity::{self, Identity, Unreadable},
};

const LOCK: &str = "lock";
const IDENTITY: &str = "identity";
/// Longest process id that is read from the lock file, in bytes.
const HOLDER_MAX_BYTES: u64 = 20;

/// A data directory that this process holds alone until this value and every store opened in it are gone.
#[derive(Clone, Debug)]
pub struct DataDir {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    identity: OnceLock<Identity>,
    /// Dropping it gives the directory free.
    _lock: File,
}

impl DataDir {
    /// Opens the directory, creates it (mode 0700) where there is none, locks it, and reads whose it is.
    ///
    /// # Errors
    /// No permission, no directory, a read-only or full file system, another process that uses it, a damaged
    /// identity: each names the path and what to do.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let path = std::path::absolute(path).map_err(|error| OpenError::io(path, "resolve", error))?;
        create(&path)?;
        let lock = lock(&path)?;
        let writable = rustix::fs::access(&path, Access::WRITE_OK | Access::EXEC_OK | Access::READ_OK);
        writable.map_err(|error| OpenError::io(&path, "write to", error.into()))?;
        let partial = path.join(format!("{IDENTITY}.{}", durable::PARTIAL));
        durable::remove_if_there(&partial).map_err(|error| OpenError::io(&partial, "remove", error))?;
        tighten(&path)?;

        let identity = OnceLock::new();
        if let Some(found) = read_identity(&path.join(IDENTITY))? {
            identity.set(found).expect("the cell was made empty just above");
        }
        Ok(Self {
            inner: Arc::new(Inner {
                path,
                identity,
                _lock: lock,
            }),
        })
    }

    /// Where it is, absolute.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// Whose it is; `None` until [`DataDir::save_identity`].
    #[must_use]
    pub fn identity(&self) -> Option<&Identity> {
        self.inner.identity.get()
    }

    /// Makes the directory this node's for ever; durable when it returns. Saving the same identity again does
    /// nothing. Blocks for a few syncs.
    ///
    /// # Errors
    /// [`StorageError::Misused`] when it belongs to another node or cluster; [`StorageError::Failed`] when it can't
    /// be written.
    pub fn save_identity(&self, identity: &Identity) -> Result<(), StorageError> {
        match self.identity() {
            Some(present) if present == identity => return Ok(()),
            Some(_) => return Err(StorageError::Misused("the data directory has another identity already")),
            None => {}
        }
        durable::write_whole(&self.inner.path, IDENTITY, identity.to_text().as_bytes())
            .map_err(|error| StorageError::io(&self.inner.path.join(IDENTITY), "write", error))?;
        if self.inner.identity.get_or_init(|| identity.clone()) == identity {
            Ok(())
        } else {
            Err(StorageError::Misused("two identities were saved at the same time"))
        }
    }

    /// Bytes that the file system still has for this process.
    ///
    /// # Errors
    /// What the file system answered.
    pub fn free_bytes(&self) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(&self.inner.path)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

fn create(path: &Path) -> Result<(), OpenError> {
    match fs::metadata(path) {
        Ok(found) if found.is_dir() => return Ok(()),
        Ok(_) => return Err(OpenError::NotADirectory { path: path.to_owned() }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(OpenError::io(path, "look at", error)),
    }
    let created = DirBuilder::new().recursive(true).mode(0o700).create(path);
    created.map_err(|error| OpenError::io(path, "create", error))?;
    // The new name is durable only when the directory that holds it is.
    match path.parent() {
        Some(parent) => durable::sync_directory(parent).map_err(|error| OpenError::io(parent, "sync", error)),
        None => Ok(()),
    }
}

fn lock(path: &Path) -> Result<File, OpenError> {
    let file = path.join(LOCK);
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let mut lock = options
        .open(&file)
        .map_err(|error| OpenError::io(&file, "write to", error))?;
    match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => {
            return Err(OpenError::InUse {
                path: path.to_owned(),
                holder: holder(&lock),
            });
        }
        Err(error) => return Err(OpenError::io(&file, "lock", error.into())),
    }
    let named = lock.set_len(0).and_then(|()| write!(lock, "{}", std::process::id()));
    named.map_err(|error| OpenError::io(&file, "write to", error))?;
    Ok(lock)
}

/// The process that wrote itself into the lock file. It is a help in a message only: nothing rests on it.
fn holder(lock: &File) -> Option<u32> {
    let mut text = String::new();
    lock.take(HOLDER_MAX_BYTES).read_to_string(&mut text).ok()?;
    text.parse().ok()
}

/// Takes away what others may do in it. Called once the lock file is in it, so that it surely is a data directory;
/// one that holds anything unknown is left as it is: it may be somebody's home.
fn tighten(path: &Path) -> Result<(), OpenError> {
    let mode = fs::metadata(path)
        .map_err(|error| OpenError::io(path, "look at", error))?
        .permissions()
        .mode();
    if mode & 0o077 == 0 {
        return Ok(());
    }
    for entry in fs::read_dir(path).map_err(|error| OpenError::io(path, "list", error))? {
        let name = entry.map_err(|error| OpenError::io(path, "list", error))?.file_name();
        let ours = [LOCK, IDENTITY, "log-format", "log", "snapshots"];
        if !ours.iter().any(|known| name == *known) {
            tracing::warn!(path = %path.display(), "the data directory is open to other users and holds other files; its mode was not changed");
            return Ok(());
        }
    }
    match fs::set_permissions(path, Permissions::from_mode(0o700)) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            tracing::warn!(path = %path.display(), "the data directory is open to other users and belongs to another one");
            Ok(())
        }
        result => result.map_err(|error| OpenError::io(path, "change the mode of", error)),
    }
}

fn read_identity(path: &Path) -> Result<Option<Identity>, OpenError> {
    let text = match fs::read(path) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(OpenError::io(path, "read", error)),
    };
    match Identity::from_text(&text) {
        Ok(identity) => Ok(Some(identity)),
        Err(Unreadable::Newer(found)) => Err(OpenError::Newer {
            path: path.to_owned(),
            found,
            known: identity::FORMAT,
        }),
        Err(Unreadable::Damaged(problem)) => {
            Err(OpenError::Corrupt(Corruption::new(path.display().to_string(), problem)))
        }
    }
}
