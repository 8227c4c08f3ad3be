//! A node's disk: an ext4 file system of its own in a file, or, where there is no root or no loop device, a folder.
//!
//! The file system commits its journal every 300 s only, so that what was not synced is on no disk: a copy of the file,
//! taken after kill -9, is what a power cut would have left. Mounting the copy replays the journal, as after a real one.

use std::{
    fs, io,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use super::shell;

/// A node refuses registrations below 96 MiB of free space, so there must be clearly more. The file is sparse.
const IMAGE_BYTES: u64 = 512 << 20;
const BALLAST: &str = "ballast";
const FILL_TRIES: u32 = 20;
const UNMOUNT_TRIES: u32 = 40;
const UNMOUNT_EVERY: Duration = Duration::from_millis(50);

/// Whether disks of their own can be had here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Disks {
    /// Yes.
    Images,
    /// No, and why.
    Folders(String),
}

impl Disks {
    /// Tries it out in a folder.
    pub(crate) fn find_out(folder: &Path) -> Self {
        let needed = ["mkfs.ext4", "mount", "umount", "fsfreeze", "fallocate"];
        if let Some(missing) = needed.iter().find(|program| !shell::is_there(program)) {
            return Self::Folders(format!("no {missing}"));
        }
        if !rustix::process::geteuid().is_root() {
            return Self::Folders("not root".to_owned());
        }
        let probed = Disk::image(folder, "probe").and_then(|mut disk| {
            let honest = loses_what_was_not_synced(&mut disk);
            disk.close();
            fs::remove_file(&disk.needs_image()?.file)?;
            fs::remove_dir(&disk.mountpoint)?;
            honest
        });
        match probed {
            Ok(true) => Self::Images,
            Ok(false) => Self::Folders("a power cut loses nothing here".to_owned()),
            Err(error) => Self::Folders(error.to_string()),
        }
    }

    /// A new, empty disk.
    ///
    /// # Errors
    /// What the file system, `mkfs` or `mount` answered.
    pub(crate) fn make(&self, folder: &Path, name: &str) -> io::Result<Disk> {
        match self {
            Self::Images => Disk::image(folder, name),
            Self::Folders(_) => Disk::folder(folder, name),
        }
    }
}

/// Whether a cut does what it says: a test that can't lose data proves nothing.
fn loses_what_was_not_synced(disk: &mut Disk) -> io::Result<bool> {
    let (synced, unsynced) = (disk.mountpoint.join("synced"), disk.mountpoint.join("unsynced"));
    let file = fs::File::create(&synced)?;
    file.sync_all()?;
    fs::File::open(&disk.mountpoint)?.sync_all()?;
    fs::write(&unsynced, "lost")?;
    disk.cut_power()?;
    Ok(synced.exists() && !unsynced.exists())
}

/// One node's disk. Dropping it thaws and unmounts; the files stay.
#[derive(Debug)]
pub(crate) struct Disk {
    mountpoint: PathBuf,
    image: Option<Image>,
}

#[derive(Debug)]
struct Image {
    file: PathBuf,
    mounted: bool,
    frozen: bool,
    cuts: u32,
}

impl Disk {
    fn folder(folder: &Path, name: &str) -> io::Result<Self> {
        let mountpoint = folder.join(format!("{name}-disk"));
        fs::create_dir_all(&mountpoint)?;
        Ok(Self {
            mountpoint,
            image: None,
        })
    }

    fn image(folder: &Path, name: &str) -> io::Result<Self> {
        let file = folder.join(format!("{name}.img"));
        fs::File::create(&file)?.set_len(IMAGE_BYTES)?;
        let quick = "lazy_itable_init=0,lazy_journal_init=0,nodiscard";
        // No blocks are kept back for root, as which the nodes run: a full disk is full for them, too.
        shell::run("mkfs.ext4", &["-q", "-m", "0", "-E", quick, text(&file)?])?;
        let mut disk = Self::folder(folder, name)?;
        disk.image = Some(Image {
            file,
            mounted: false,
            frozen: false,
            cuts: 0,
        });
        disk.mount()?;
        Ok(disk)
    }

    /// Where the node keeps its data.
    pub(crate) fn data(&self) -> PathBuf {
        self.mountpoint.join("data")
    }

    /// Whether it is a file system of its own.
    pub(crate) fn is_image(&self) -> bool {
        self.image.is_some()
    }

    /// Whether writes stand still.
    pub(crate) fn is_frozen(&self) -> bool {
        self.image.as_ref().is_some_and(|image| image.frozen)
    }

    /// Stops all writes until [`Disk::thaw`].
    ///
    /// # Errors
    /// It is only a folder, or `fsfreeze` failed.
    pub(crate) fn freeze(&mut self) -> io::Result<()> {
        let mountpoint = self.mountpoint.clone();
        let image = self.needs_image()?;
        shell::run("fsfreeze", &["-f", text(&mountpoint)?])?;
        image.frozen = true;
        Ok(())
    }

    /// Lets writes go on.
    ///
    /// # Errors
    /// `fsfreeze` failed.
    pub(crate) fn thaw(&mut self) -> io::Result<()> {
        let mountpoint = self.mountpoint.clone();
        if let Some(image) = &mut self.image
            && std::mem::take(&mut image.frozen)
        {
            shell::run("fsfreeze", &["-u", text(&mountpoint)?])?;
        }
        Ok(())
    }

    /// The power goes: what was not synced is lost. The node must have been killed before; for a cut of several nodes
    /// at once, all of them.
    ///
    /// # Errors
    /// It is only a folder, or copying or mounting failed.
    pub(crate) fn cut_power(&mut self) -> io::Result<()> {
        let image = self.needs_image()?;
        image.cuts += 1;
        let (old, new) = (
            image.file.clone(),
            image.file.with_extension(format!("cut{}", image.cuts)),
        );
        shell::run("cp", &["--sparse=always", text(&old)?, text(&new)?])?;
        self.unmount()?;
        fs::remove_file(&old)?;
        self.needs_image()?.file = new;
        self.mount()
    }

    /// Fills the disk until only so many bytes are free for the node.
    ///
    /// # Errors
    /// It is only a folder, or `fallocate` failed.
    pub(crate) fn fill(&mut self, leave_bytes: u64) -> io::Result<()> {
        self.needs_image()?;
        let ballast = self.mountpoint.join(BALLAST);
        let mut filled = Ok(());
        // The node writes meanwhile: what was free when it was looked at may be taken by now.
        for _ in 0..FILL_TRIES {
            let stat = rustix::fs::statvfs(&self.mountpoint)?;
            let free = stat.f_bavail.saturating_mul(stat.f_frsize);
            if free <= leave_bytes {
                return Ok(());
            }
            let present = fs::metadata(&ballast).map_or(0, |found| found.len());
            let length = free + present - leave_bytes;
            filled = shell::run("fallocate", &["-l", &length.to_string(), text(&ballast)?]).map(drop);
            if filled.is_ok() {
                break;
            }
        }
        filled
    }

    /// There is room again.
    ///
    /// # Errors
    /// The file system's answer.
    pub(crate) fn empty(&self) -> io::Result<()> {
        match fs::remove_file(self.mountpoint.join(BALLAST)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Thaws and unmounts, as well as it can.
    pub(crate) fn close(&mut self) {
        // There is nobody left to tell but the one who finds the mount; the next run's start says so.
        let _thawed = self.thaw();
        let _unmounted = self.unmount();
    }

    fn mount(&mut self) -> io::Result<()> {
        let mountpoint = self.mountpoint.clone();
        let image = self.needs_image()?;
        // The loop device goes with the mount.
        shell::run(
            "mount",
            &["-o", "loop,commit=300", text(&image.file)?, text(&mountpoint)?],
        )?;
        image.mounted = true;
        Ok(())
    }

    fn unmount(&mut self) -> io::Result<()> {
        let mountpoint = self.mountpoint.clone();
        let Some(image) = self.image.as_mut().filter(|image| image.mounted) else {
            return Ok(());
        };
        let path = text(&mountpoint)?;
        // A process that was just killed may hold it for a moment longer.
        let mut unmounted = shell::run("umount", &[path]);
        for _ in 0..UNMOUNT_TRIES {
            if unmounted.is_ok() {
                break;
            }
            thread::sleep(UNMOUNT_EVERY);
            unmounted = shell::run("umount", &[path]);
        }
        if unmounted.is_err() {
            shell::run("umount", &["-l", path])?;
        }
        image.mounted = false;
        Ok(())
    }

    fn needs_image(&mut self) -> io::Result<&mut Image> {
        let none = || io::Error::new(io::ErrorKind::Unsupported, "not a file system of its own");
        self.image.as_mut().ok_or_else(none)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.close();
    }
}

fn text(path: &Path) -> io::Result<&str> {
    path.to_str()
        .ok_or_else(|| io::Error::other(format!("{}: not UTF-8", path.display())))
}
