//! One snapshot's file: how it is written, and read with its checksum.
//!
//! ```text
//! ┌────────┬──────────┬──────────┬────────┬──────────┐
//! │ body … │ length   │ checksum │ format │ magic    │
//! │        │ of body  │          │        │          │
//! └────────┴──────────┴──────────┴────────┴──────────┘
//!            8          4          4        8 bytes      numbers little-endian
//! ```
//!
//! The checksum is CRC-32C over body, length and format. A file without its whole footer is no snapshot.

use std::{
    fs::File,
    io::{self, Read},
    os::unix::fs::FileExt,
    path::PathBuf,
    sync::Arc,
};

use super::error::Corruption;

/// Length, checksum, format, magic.
pub(super) const FOOTER_BYTES: usize = 24;
const MAGIC: [u8; 8] = *b"RosterSn";
const FORMAT: u32 = 1;
/// Read at once.
const READ_BYTES: usize = 64 << 10;

/// The end of a snapshot's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Footer {
    pub(super) body_bytes: u64,
    pub(super) checksum: u32,
}

impl Footer {
    /// The footer of a body with this length and running checksum.
    pub(super) fn new(body_bytes: u64, body_checksum: u32) -> Self {
        Self {
            body_bytes,
            checksum: finish(body_bytes, body_checksum),
        }
    }

    pub(super) fn to_bytes(self) -> [u8; FOOTER_BYTES] {
        let mut bytes = [0; FOOTER_BYTES];
        bytes[..8].copy_from_slice(&self.body_bytes.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.checksum.to_le_bytes());
        bytes[12..16].copy_from_slice(&FORMAT.to_le_bytes());
        bytes[16..].copy_from_slice(&MAGIC);
        bytes
    }

    /// Reads the footer of a file of `file_bytes`.
    pub(super) fn from_bytes(bytes: &[u8; FOOTER_BYTES], file_bytes: u64) -> Result<Self, String> {
        let (body_bytes, rest) = bytes.split_first_chunk().expect("8 of 24 bytes");
        let (checksum, rest) = rest.split_first_chunk().expect("4 of 16 bytes");
        let (format, magic) = rest.split_first_chunk().expect("4 of 12 bytes");
        let footer = Self {
            body_bytes: u64::from_le_bytes(*body_bytes),
            checksum: u32::from_le_bytes(*checksum),
        };
        let format = u32::from_le_bytes(*format);
        if magic != MAGIC {
            return Err("it has no footer".to_owned());
        }
        if format != FORMAT {
            return Err(format!("it has format {format}, and this release knows {FORMAT}"));
        }
        if footer.body_bytes.checked_add(FOOTER_BYTES as u64) != Some(file_bytes) {
            return Err(format!(
                "its footer speaks of {} bytes before it, but the file has {file_bytes} in all",
                footer.body_bytes
            ));
        }
        Ok(footer)
    }

    /// Whether a body with this running checksum is the one that the footer was written for.
    pub(super) fn fits(self, body_checksum: u32) -> bool {
        self.checksum == finish(self.body_bytes, body_checksum)
    }
}

fn finish(body_bytes: u64, body_checksum: u32) -> u32 {
    let checksum = crc32c::crc32c_append(body_checksum, &body_bytes.to_le_bytes());
    crc32c::crc32c_append(checksum, &FORMAT.to_le_bytes())
}

/// A complete snapshot. It holds its file open: it stays readable when a newer one has replaced it.
#[derive(Clone, Debug)]
pub struct SnapshotFile {
    /// The name that it was given.
    pub id: String,
    /// The last log index that it covers.
    pub index: u64,
    /// Where it is, or was.
    pub path: PathBuf,
    /// Size of the whole file, footer included.
    pub size_bytes: u64,
    pub(super) footer: Footer,
    pub(super) file: Arc<File>,
}

impl SnapshotFile {
    /// Reads what was written. Blocks.
    #[must_use]
    pub fn read(&self) -> SnapshotReader {
        SnapshotReader {
            snapshot: self.clone(),
            position: 0,
            checksum: 0,
            buffer: Vec::new(),
            taken: 0,
        }
    }

    /// Reads the file as it is, footer included, for sending it to another node, which verifies it. Blocks.
    #[must_use]
    pub fn bytes(&self) -> SnapshotBytes {
        SnapshotBytes {
            snapshot: self.clone(),
            position: 0,
        }
    }
}

/// Streams a snapshot's body. The checksum is verified before the last piece is handed out; whoever meets an error
/// must throw away what it read before.
#[derive(Debug)]
pub struct SnapshotReader {
    snapshot: SnapshotFile,
    position: u64,
    checksum: u32,
    buffer: Vec<u8>,
    taken: usize,
}

impl SnapshotReader {
    fn fill(&mut self) -> io::Result<()> {
        let footer = self.snapshot.footer;
        let left = footer.body_bytes - self.position;
        let bytes = usize::try_from(left).map_or(READ_BYTES, |left| left.min(READ_BYTES));
        self.taken = 0;
        // A failed read must leave nothing that looks like data.
        self.buffer.clear();
        let mut piece = vec![0; bytes];
        self.snapshot.file.read_exact_at(&mut piece, self.position)?;
        let checksum = crc32c::crc32c_append(self.checksum, &piece);
        let position = self.position + bytes as u64;
        if position == footer.body_bytes && !footer.fits(checksum) {
            let place = self.snapshot.path.display().to_string();
            let corruption = Corruption::new(place, "the snapshot's checksum is wrong");
            return Err(io::Error::new(io::ErrorKind::InvalidData, corruption));
        }
        self.checksum = checksum;
        self.position = position;
        self.buffer = piece;
        Ok(())
    }
}

impl Read for SnapshotReader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let is_new = self.position == 0;
        if self.taken == self.buffer.len() && (is_new || self.position < self.snapshot.footer.body_bytes) {
            self.fill()?;
        }
        let ready = &self.buffer[self.taken..];
        let bytes = ready.len().min(into.len());
        into[..bytes].copy_from_slice(&ready[..bytes]);
        self.taken += bytes;
        Ok(bytes)
    }
}

/// Streams a snapshot's file, unverified.
#[derive(Debug)]
pub struct SnapshotBytes {
    snapshot: SnapshotFile,
    position: u64,
}

impl Read for SnapshotBytes {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let bytes = self.snapshot.file.read_at(into, self.position)?;
        self.position += bytes as u64;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_footer_fits_its_own_body_and_file_only() {
        let body = b"the state at one log index";
        let footer = Footer::new(body.len() as u64, crc32c::crc32c(body));
        let file_bytes = (body.len() + FOOTER_BYTES) as u64;
        assert_eq!(Footer::from_bytes(&footer.to_bytes(), file_bytes), Ok(footer));
        assert!(footer.fits(crc32c::crc32c(body)));
        assert!(!footer.fits(crc32c::crc32c(b"another state at that index")));
        assert!(Footer::from_bytes(&footer.to_bytes(), file_bytes + 1).is_err());
        for bit in 0..FOOTER_BYTES * 8 {
            let mut damaged = footer.to_bytes();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let read = Footer::from_bytes(&damaged, file_bytes);
            assert!(
                read.is_err() || read.is_ok_and(|read| !read.fits(crc32c::crc32c(body))),
                "bit {bit}"
            );
        }
    }
}
