//! Files that are there whole or not at all, and the syncs that make a name durable.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

/// The ending of names that nobody reads: what a crash left half-written.
pub(super) const PARTIAL: &str = "partial";

/// Makes the names in a directory durable: created, renamed and removed ones.
pub(super) fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// Opens a new file of its own for writing, readable by its owner only.
pub(super) fn create_private(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .write(true)
        .read(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
}

/// Writes a whole small file: under another name first, synced, renamed, and the directory synced. A crash at any
/// step leaves the former file or the new one.
pub(super) fn write_whole(directory: &Path, name: &str, content: &[u8]) -> io::Result<()> {
    let partial = directory.join(format!("{name}.{PARTIAL}"));
    remove_if_there(&partial)?;
    let mut file = create_private(&partial)?;
    file.write_all(content)?;
    file.sync_all()?;
    drop(file);
    fs::rename(&partial, directory.join(name))?;
    sync_directory(directory)
}

/// Removes a file that may not be there.
pub(super) fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// Adds the last line of a small text file: the checksum of all lines before it.
pub(super) fn with_checksum(mut text: String) -> String {
    let checksum = crc32c::crc32c(text.as_bytes());
    text.push_str(&format!("crc32c {checksum:08x}\n"));
    text
}

/// Takes that line off again; `None` when it is missing or wrong.
pub(super) fn without_checksum(text: &str) -> Option<&str> {
    let body_bytes = text.strip_suffix('\n')?.rfind('\n')? + 1;
    let (body, last) = text.split_at_checked(body_bytes)?;
    let stored = u32::from_str_radix(last.strip_prefix("crc32c ")?.trim_end_matches('\n'), 16).ok()?;
    (stored == crc32c::crc32c(body.as_bytes())).then_some(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flipped_bit_anywhere_in_a_text_is_found() {
        let text = with_checksum("roster identity 1\nnode 1\n".to_owned());
        assert_eq!(without_checksum(&text), Some("roster identity 1\nnode 1\n"));
        for position in 0..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[position] ^= 1;
            let damaged = String::from_utf8(bytes).expect("still ASCII");
            assert_eq!(without_checksum(&damaged), None, "{damaged:?}");
        }
        for cut in 0..text.len() {
            assert_eq!(without_checksum(&text[..cut]), None);
        }
    }
}
